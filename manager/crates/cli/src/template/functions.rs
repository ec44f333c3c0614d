//! What templates may call: Go's own functions that make sense here, and docker's.

use std::cmp::Ordering;

use super::error::Problem;
use super::value::{self, Value, Zero};
use super::{MAX_OUTPUT, compare, printf};

/// Every function.
pub(super) const NAMES: [&str; 23] = [
    "and", "or", "not", "len", "index", "slice", "print", "printf", "println", "eq", "ne", "lt", "le", "gt",
    "ge", "json", "join", "split", "title", "lower", "upper", "truncate", "pad",
];

/// What the functions are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Functions {
    /// Values.
    Values,
    /// The titles of a table's columns, which those functions leave alone that change what a column shows, not how wide it is.
    Titles,
}

/// Calls a function. `and` and `or` are the evaluator's: they do not look at all of their arguments.
pub(super) fn call(
    name: &'static str,
    arguments: Vec<Value>,
    functions: Functions,
) -> Result<Value, Problem> {
    if functions == Functions::Titles
        && matches!(
            name,
            "json" | "split" | "join" | "title" | "lower" | "upper" | "truncate"
        )
    {
        return title(name, arguments);
    }
    match name {
        "not" => one(name, &arguments).map(|value| Value::Bool(!value.truth())),
        "len" => length(one(name, &arguments)?),
        "index" => index(arguments),
        "slice" => slice(&arguments),
        "print" => printf::print(&arguments).map(Value::Text),
        "println" => printf::println(&arguments).map(Value::Text),
        "printf" => formatted(&arguments),
        "eq" => compare::any_equal(name, &arguments).map(Value::Bool),
        "ne" if arguments.len() == 2 => compare::any_equal(name, &arguments).map(|equal| Value::Bool(!equal)),
        "ne" => Err(count(name, "2", &arguments)),
        "lt" => compare::order(name, &arguments).map(|order| Value::Bool(order == Ordering::Less)),
        "le" => compare::order(name, &arguments).map(|order| Value::Bool(order != Ordering::Greater)),
        "gt" => compare::order(name, &arguments).map(|order| Value::Bool(order == Ordering::Greater)),
        "ge" => compare::order(name, &arguments).map(|order| Value::Bool(order != Ordering::Less)),
        "json" => one(name, &arguments).map(|value| Value::Text(value.json().to_string())),
        "join" => join(&arguments),
        "split" => split(&arguments),
        "title" => text(name, one(name, &arguments)?).map(|text| Value::Text(titled(text))),
        "lower" => text(name, one(name, &arguments)?).map(|text| Value::Text(text.to_lowercase())),
        "upper" => text(name, one(name, &arguments)?).map(|text| Value::Text(text.to_uppercase())),
        "truncate" => truncate(&arguments),
        "pad" => pad(&arguments),
        // `and` and `or` without arguments.
        _ => Err(count(name, "at least 1", &arguments)),
    }
}

fn count(name: &'static str, want: &'static str, arguments: &[Value]) -> Problem {
    Problem::ArgumentCount {
        name,
        want,
        got: arguments.len(),
    }
}

fn wrong(name: &'static str, expected: &'static str, got: &Value) -> Problem {
    Problem::ArgumentKind {
        name,
        expected,
        got: got.kind(),
    }
}

fn refused(function: &'static str, reason: impl Into<String>) -> Problem {
    Problem::Function {
        function,
        reason: reason.into(),
    }
}

fn one<'a>(name: &'static str, arguments: &'a [Value]) -> Result<&'a Value, Problem> {
    match arguments {
        [value] => Ok(value),
        _ => Err(count(name, "1", arguments)),
    }
}

fn text<'a>(name: &'static str, value: &'a Value) -> Result<&'a str, Problem> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(wrong(name, "string", other)),
    }
}

fn integer(name: &'static str, value: &Value) -> Result<i64, Problem> {
    match value {
        Value::Integer(number) => Ok(*number),
        other => Err(wrong(name, "int", other)),
    }
}

/// The first argument as it is; the others only have to be as many as the function takes.
fn title(name: &'static str, mut arguments: Vec<Value>) -> Result<Value, Problem> {
    let (wanted, words) = match name {
        "split" | "join" | "truncate" => (2, "2"),
        _ => (1, "1"),
    };
    if arguments.len() != wanted {
        return Err(count(name, words, &arguments));
    }
    text(name, &arguments[0])?;
    Ok(arguments.swap_remove(0))
}

fn length(value: &Value) -> Result<Value, Problem> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Map { entries, .. } => entries.len(),
        Value::Struct(fields) => value::said(fields).count(),
        Value::Nil(Zero::List | Zero::Map) => 0,
        other => return Err(wrong("len", "string, list or map", other)),
    };
    Ok(Value::Integer(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn index(arguments: Vec<Value>) -> Result<Value, Problem> {
    let mut arguments = arguments.into_iter();
    let mut value = arguments.next().ok_or(Problem::ArgumentCount {
        name: "index",
        want: "at least 1",
        got: 0,
    })?;
    for key in arguments {
        value = entry(value, &key)?;
    }
    Ok(value)
}

fn entry(value: Value, key: &Value) -> Result<Value, Problem> {
    match value {
        Value::Map { mut entries, zero } => {
            let key = text("index", key)?;
            Ok(entries.remove(key).unwrap_or_else(|| zero.value()))
        }
        Value::Struct(_) => value.field(text("index", key)?).cloned(),
        Value::Nil(Zero::Map) => Ok(Value::Missing),
        Value::List(mut items) => {
            let at = position(key, items.len())?;
            Ok(items.swap_remove(at))
        }
        Value::Text(text) => {
            let at = position(key, text.len())?;
            Ok(Value::Integer(text.as_bytes()[at].into()))
        }
        Value::Nil(Zero::List) => position(key, 0).map(|_| Value::Missing),
        Value::Missing => Err(refused("index", "index of untyped nil")),
        Value::Nil(_) => Err(refused("index", "index of nil pointer")),
        other => Err(wrong("index", "list or map", &other)),
    }
}

/// A position below `length`.
fn position(key: &Value, length: usize) -> Result<usize, Problem> {
    let number = integer("index", key)?;
    usize::try_from(number)
        .ok()
        .filter(|&at| at < length)
        .ok_or_else(|| refused("index", format!("index out of range: {number}")))
}

/// `slice x from to`: a part of a text (in bytes) or of a list.
fn slice(arguments: &[Value]) -> Result<Value, Problem> {
    let (value, bounds) = arguments
        .split_first()
        .filter(|(_, bounds)| bounds.len() <= 2)
        .ok_or_else(|| count("slice", "1 to 3", arguments))?;
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Nil(Zero::List) => 0,
        other => return Err(wrong("slice", "string or list", other)),
    };
    let bound = |position: usize, default: usize| match bounds.get(position) {
        None => Ok(default),
        Some(key) => {
            let number = integer("slice", key)?;
            usize::try_from(number)
                .ok()
                .filter(|&at| at <= length)
                .ok_or_else(|| refused("slice", format!("index out of range: {number}")))
        }
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if from > to {
        return Err(refused("slice", format!("invalid slice index: {from} > {to}")));
    }
    Ok(match value {
        Value::Text(text) => Value::Text(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned()),
        Value::List(items) => Value::List(items[from..to].to_vec()),
        other => other.clone(),
    })
}

fn formatted(arguments: &[Value]) -> Result<Value, Problem> {
    let (format, values) = arguments
        .split_first()
        .ok_or_else(|| count("printf", "at least 1", arguments))?;
    printf::printf(text("printf", format)?, values).map(Value::Text)
}

fn join(arguments: &[Value]) -> Result<Value, Problem> {
    let [list, separator] = arguments else {
        return Err(count("join", "2", arguments));
    };
    let separator = text("join", separator)?;
    let items = match list {
        Value::List(items) => items.as_slice(),
        Value::Nil(Zero::List) => &[],
        other => return Err(wrong("join", "list of strings", other)),
    };
    let words = items
        .iter()
        .map(|item| text("join", item))
        .collect::<Result<Vec<_>, _>>()?;
    let made = words
        .iter()
        .map(|word| word.len() + separator.len())
        .sum::<usize>();
    if made > MAX_OUTPUT {
        return Err(Problem::TooLong { limit: MAX_OUTPUT });
    }
    Ok(Value::Text(words.join(separator)))
}

fn split(arguments: &[Value]) -> Result<Value, Problem> {
    let [whole, separator] = arguments else {
        return Err(count("split", "2", arguments));
    };
    let (whole, separator) = (text("split", whole)?, text("split", separator)?);
    let count = match separator {
        "" => whole.chars().count(),
        separator => whole.matches(separator).count() + 1,
    };
    if count.saturating_mul(size_of::<Value>()) > MAX_OUTPUT {
        return Err(Problem::TooLong { limit: MAX_OUTPUT });
    }
    let words: Vec<Value> = if separator.is_empty() {
        whole.chars().map(|c| Value::Text(c.to_string())).collect()
    } else {
        whole.split(separator).map(Value::from).collect()
    };
    Ok(Value::List(words))
}

/// The first letter of every word in upper case.
fn titled(text: &str) -> String {
    let mut within_word = false;
    let mut made = String::with_capacity(text.len());
    for character in text.chars() {
        if within_word {
            made.push(character);
        } else {
            made.extend(character.to_uppercase());
        }
        within_word = character.is_alphanumeric() || character == '_';
    }
    made
}

/// At most so many bytes; a character that does not fit is left out whole.
fn truncate(arguments: &[Value]) -> Result<Value, Problem> {
    let [whole, limit] = arguments else {
        return Err(count("truncate", "2", arguments));
    };
    let (whole, limit) = (text("truncate", whole)?, integer("truncate", limit)?);
    let limit = usize::try_from(limit)
        .map_err(|_| refused("truncate", format!("a length cannot be negative: {limit}")))?;
    let end = (0..=limit.min(whole.len()))
        .rev()
        .find(|&end| whole.is_char_boundary(end))
        .unwrap_or(0);
    Ok(Value::Text(whole[..end].to_owned()))
}

/// Spaces before and after; an empty text stays empty.
fn pad(arguments: &[Value]) -> Result<Value, Problem> {
    let [whole, before, after] = arguments else {
        return Err(count("pad", "3", arguments));
    };
    let whole = text("pad", whole)?;
    let spaces = |value: &Value| {
        let number = integer("pad", value)?;
        usize::try_from(number)
            .ok()
            .filter(|&spaces| spaces <= printf::MAX_WIDTH)
            .map(|spaces| " ".repeat(spaces))
            .ok_or_else(|| refused("pad", format!("cannot pad with {number} spaces")))
    };
    let (before, after) = (spaces(before)?, spaces(after)?);
    if whole.is_empty() {
        return Ok(Value::Text(String::new()));
    }
    Ok(Value::Text(format!("{before}{whole}{after}")))
}
