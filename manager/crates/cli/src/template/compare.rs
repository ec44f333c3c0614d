//! `eq`, `ne`, `lt`, `le`, `gt`, `ge`.

use std::cmp::Ordering;

use super::error::Problem;
use super::value::{Value, Zero};

/// Whether the first is equal to any of the others.
pub(super) fn any_equal(name: &'static str, arguments: &[Value]) -> Result<bool, Problem> {
    let (first, others) = split(name, arguments)?;
    for other in others {
        if equal(name, first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The order of two numbers or texts.
pub(super) fn order(name: &'static str, arguments: &[Value]) -> Result<Ordering, Problem> {
    let [a, b] = arguments else {
        return Err(Problem::ArgumentCount {
            name,
            want: "2",
            got: arguments.len(),
        });
    };
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b).unwrap_or(Ordering::Greater)),
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        _ => Err(incompatible(name, a, b)),
    }
}

fn split<'a>(name: &'static str, arguments: &'a [Value]) -> Result<(&'a Value, &'a [Value]), Problem> {
    match arguments.split_first() {
        Some((first, others)) if !others.is_empty() => Ok((first, others)),
        _ => Err(Problem::Function {
            function: name,
            reason: "missing argument for comparison".to_owned(),
        }),
    }
}

fn equal(name: &'static str, a: &Value, b: &Value) -> Result<bool, Problem> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Integer(a), Value::Integer(b)) => Ok(a == b),
        (Value::Float(a), Value::Float(b)) => Ok(a.total_cmp(b).is_eq()),
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        // What is not there is equal to nothing but what is not there either.
        (Value::Missing | Value::Nil(Zero::Pointer), Value::Missing | Value::Nil(Zero::Pointer)) => Ok(true),
        (Value::Missing, Value::Nil(_)) | (Value::Nil(_), Value::Missing) => Ok(true),
        (Value::Missing, _) | (_, Value::Missing) => Ok(false),
        _ => Err(incompatible(name, a, b)),
    }
}

fn incompatible(name: &'static str, a: &Value, b: &Value) -> Problem {
    Problem::Function {
        function: name,
        reason: format!("incompatible types for comparison: {} and {}", a.kind(), b.kind()),
    }
}
