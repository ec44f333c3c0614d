//! `print`, `printf` and `println` as Go's package `fmt` has them.
//!
//! A verb is `%[flags][width][.precision]letter`, flags being any of `-+# 0`, width and precision a number or `*`. A verb of a list, a map or a
//! structure goes to each of its items. What does not fit is not an error but said in the text, as in Go: `%!d(string=x)`, `%!d(MISSING)`,
//! `%!(EXTRA int=1)`, `%!(NOVERB)`. An error is what Go understands and this does not: `%T`, `%#v`, `%[1]d`, a hexadecimal or binary `float64`.

use std::fmt::Write as _;

use super::MAX_OUTPUT;
use super::error::Problem;
use super::value::{Value, Zero, said};

/// The largest width and precision, and the most spaces that `pad` adds.
pub(super) const MAX_WIDTH: usize = 1_000_000;

/// The values one after the other, with a space between two that are no texts.
pub(super) fn print(values: &[Value]) -> Result<String, Problem> {
    let mut made = String::new();
    let mut before_is_text = true;
    for value in values {
        let is_text = matches!(value, Value::Text(_));
        if !is_text && !before_is_text {
            made.push(' ');
        }
        add(&mut made, &value.plain())?;
        before_is_text = is_text;
    }
    Ok(made)
}

/// The values with spaces between them, and a line end.
pub(super) fn println(values: &[Value]) -> Result<String, Problem> {
    let mut made = String::new();
    for (index, value) in values.iter().enumerate() {
        add(&mut made, if index == 0 { "" } else { " " })?;
        add(&mut made, &value.plain())?;
    }
    add(&mut made, "\n")?;
    Ok(made)
}

/// The text with its verbs replaced by the values.
pub(super) fn printf(format: &str, values: &[Value]) -> Result<String, Problem> {
    let mut made = String::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        add(&mut made, &rest[..percent])?;
        rest = &rest[percent + 1..];
        let (verb, length) = Verb::read(rest, &mut values);
        rest = &rest[length..];
        match verb.letter {
            None => {
                made.push_str("%!(NOVERB)");
                break;
            }
            Some('%') => made.push('%'),
            Some('[') => return Err(unsupported("%[: the numbers of arguments")),
            Some(letter) => match values.next() {
                None => {
                    made.push_str("%!");
                    made.push(letter);
                    made.push_str("(MISSING)");
                }
                Some(value) => add(&mut made, &verb.apply(letter, value)?)?,
            },
        }
    }
    add(&mut made, rest)?;
    let mut extra = values.peekable();
    if extra.peek().is_some() {
        made.push_str("%!(EXTRA ");
        for (index, value) in extra.enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            add(
                &mut made,
                &format!("{comma}{}={}", type_name(value), value.plain()),
            )?;
        }
        made.push(')');
    }
    Ok(made)
}

/// Appends a text, unless that makes too much of it.
fn add(made: &mut String, text: &str) -> Result<(), Problem> {
    if made.len() + text.len() > MAX_OUTPUT {
        return Err(Problem::TooLong { limit: MAX_OUTPUT });
    }
    made.push_str(text);
    Ok(())
}

fn unsupported(what: &str) -> Problem {
    Problem::Function {
        function: "printf",
        reason: format!("{what} is not supported here; docs/cli.md lists what is"),
    }
}

/// What stands after a percent sign.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of fmt, one field each")]
struct Verb {
    left: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    letter: Option<char>,
}

impl Verb {
    /// The verb after a percent sign, and its length.
    fn read<'value>(text: &str, values: &mut impl Iterator<Item = &'value Value>) -> (Self, usize) {
        let mut verb = Self::default();
        let mut characters = text.char_indices().peekable();
        while let Some(&(_, character)) = characters.peek() {
            match character {
                '-' => verb.left = true,
                '+' => verb.plus = true,
                '#' => verb.sharp = true,
                ' ' => verb.space = true,
                '0' => verb.zero = true,
                _ => break,
            }
            characters.next();
        }
        let mut number = |characters: &mut std::iter::Peekable<std::str::CharIndices<'_>>| -> i64 {
            if characters.next_if(|&(_, c)| c == '*').is_some() {
                return match values.next() {
                    Some(Value::Integer(number)) => *number,
                    _ => 0,
                };
            }
            let mut number: i64 = 0;
            while let Some((_, digit)) = characters.next_if(|(_, c)| c.is_ascii_digit()) {
                let digit = digit.to_digit(10).unwrap_or(0);
                number = number.saturating_mul(10).saturating_add(digit.into());
            }
            number
        };
        let width = number(&mut characters);
        verb.left |= width < 0;
        verb.width = bounded(width.saturating_abs());
        if characters.next_if(|&(_, c)| c == '.').is_some() {
            verb.precision = Some(bounded(number(&mut characters)));
        }
        match characters.next() {
            Some((offset, letter)) => {
                verb.letter = Some(letter);
                (verb, offset + letter.len_utf8())
            }
            None => (verb, text.len()),
        }
    }

    fn apply(&self, letter: char, value: &Value) -> Result<String, Problem> {
        match (letter, value) {
            ('T' | 'p', _) => return Err(unsupported(&format!("%{letter}"))),
            ('v', _) if self.sharp => return Err(unsupported("%#v")),
            _ => {}
        }
        Ok(match (letter, value) {
            (_, Value::List(items)) => {
                let items = items.iter().map(|item| (None, item));
                self.each("[", letter, items, "]")?
            }
            (_, Value::Map { entries, .. }) => {
                let mut made = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let key = self.apply(letter, &Value::Text(key.clone()))?;
                    made.push(format!("{key}:{}", self.apply(letter, value)?));
                }
                format!("map[{}]", made.join(" "))
            }
            (_, Value::Struct(fields)) => {
                let named = letter == 'v' && self.plus;
                let fields = said(fields).map(|(name, value)| (named.then_some(name.as_str()), value));
                self.each("{", letter, fields, "}")?
            }
            (_, Value::Silent(value)) => self.apply(letter, value)?,
            (_, Value::Nil(Zero::List)) => "[]".to_owned(),
            (_, Value::Nil(Zero::Map)) => "map[]".to_owned(),
            ('v', Value::Integer(number)) => {
                // The plus of `%+v` is about the names of fields.
                let verb = Self {
                    plus: false,
                    ..self.clone()
                };
                verb.integer('d', *number)?
            }
            ('v', Value::Float(number)) => self.float('g', *number)?,
            ('v' | 's', Value::Text(text)) => self.padded(self.cut(text)),
            ('v', value) => self.padded(&value.plain()),
            ('q', Value::Text(text)) => self.padded(&quoted(self.cut(text))),
            ('q', Value::Integer(number)) => self.padded(&format!("'{}'", character(*number))),
            ('t', Value::Bool(value)) => self.padded(if *value { "true" } else { "false" }),
            ('x' | 'X', Value::Text(text)) => self.padded(&hexadecimal(text, letter == 'X')),
            (_, Value::Integer(number)) => self.integer(letter, *number)?,
            (_, Value::Float(number)) => self.float(letter, *number)?,
            _ => mismatch(letter, value),
        })
    }

    /// The items, each by this verb; with names, where they have some.
    fn each<'value>(
        &self,
        open: &str,
        letter: char,
        items: impl Iterator<Item = (Option<&'value str>, &'value Value)>,
        close: &str,
    ) -> Result<String, Problem> {
        let mut made = open.to_owned();
        for (index, (name, item)) in items.enumerate() {
            if index > 0 {
                made.push(' ');
            }
            if let Some(name) = name {
                made.push_str(name);
                made.push(':');
            }
            add(&mut made, &self.apply(letter, item)?)?;
        }
        made.push_str(close);
        Ok(made)
    }

    fn integer(&self, letter: char, number: i64) -> Result<String, Problem> {
        let magnitude = number.unsigned_abs();
        let prefix = |prefix: &'static str| if self.sharp { prefix } else { "" };
        let digits = match letter {
            'd' => magnitude.to_string(),
            'b' => format!("{}{magnitude:b}", prefix("0b")),
            'o' => format!("{}{magnitude:o}", prefix("0")),
            'O' => format!("0o{magnitude:o}"),
            'x' => format!("{}{magnitude:x}", prefix("0x")),
            'X' => format!("{}{magnitude:X}", prefix("0X")),
            'c' => return Ok(self.padded(&character(number).to_string())),
            'U' => return Ok(self.padded(&self.code_point(number))),
            _ => return Ok(mismatch(letter, &Value::Integer(number))),
        };
        let missing = self.precision.unwrap_or(0).saturating_sub(digits.len());
        Ok(self.number(&format!("{}{digits}", "0".repeat(missing)), number < 0))
    }

    /// `U+0041`, and with `#` the character itself.
    fn code_point(&self, number: i64) -> String {
        let digits = format!("{:X}", number.cast_unsigned());
        let least = self.precision.unwrap_or(0).max(4);
        let zeros = "0".repeat(least.saturating_sub(digits.len()));
        match u32::try_from(number).ok().and_then(char::from_u32) {
            Some(character) if self.sharp && !character.is_control() => {
                format!("U+{zeros}{digits} '{character}'")
            }
            _ => format!("U+{zeros}{digits}"),
        }
    }

    fn float(&self, letter: char, number: f64) -> Result<String, Problem> {
        let magnitude = number.abs();
        // More digits than a number has are zeros, and need not be computed.
        let precision = self.precision.map(|precision| precision.min(400));
        let digits = match letter {
            'f' | 'F' => format!("{magnitude:.*}", precision.unwrap_or(6)),
            'e' | 'E' => {
                let made = exponent(&format!("{magnitude:.*e}", precision.unwrap_or(6)));
                if letter == 'E' { made.to_uppercase() } else { made }
            }
            'g' | 'G' => match precision {
                None => shortest(magnitude),
                Some(precision) => significant(magnitude, precision.max(1)),
            },
            'b' | 'x' | 'X' => return Err(unsupported(&format!("%{letter} of a float64"))),
            _ => return Ok(mismatch(letter, &Value::Float(number))),
        };
        Ok(self.number(&digits, number.is_sign_negative()))
    }

    /// A number with its sign, filled up with zeros or spaces.
    fn number(&self, digits: &str, negative: bool) -> String {
        let sign = match (negative, self.plus, self.space) {
            (true, _, _) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        if self.zero && !self.left && self.precision.is_none() {
            // Not a width of `format!`, which must be below 65,536.
            let missing = self.width.saturating_sub(sign.len() + digits.len());
            return format!("{sign}{}{digits}", "0".repeat(missing));
        }
        self.padded(&format!("{sign}{digits}"))
    }

    fn cut<'text>(&self, text: &'text str) -> &'text str {
        match self
            .precision
            .and_then(|precision| text.char_indices().nth(precision))
        {
            Some((end, _)) => &text[..end],
            None => text,
        }
    }

    fn padded(&self, text: &str) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        match (self.left, self.zero) {
            (true, _) => format!("{text}{}", " ".repeat(missing)),
            (false, true) => format!("{}{text}", "0".repeat(missing)),
            (false, false) => format!("{}{text}", " ".repeat(missing)),
        }
    }
}

/// The character of this number; U+FFFD where there is none.
fn character(number: i64) -> char {
    u32::try_from(number)
        .ok()
        .and_then(char::from_u32)
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn bounded(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0).min(MAX_WIDTH)
}

fn mismatch(letter: char, value: &Value) -> String {
    match value {
        Value::Missing | Value::Nil(_) => format!("%!{letter}(<nil>)"),
        value => format!("%!{letter}({}={})", type_name(value), value.plain()),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::List(items) if items.iter().all(|item| matches!(item, Value::Text(_))) => "[]string",
        Value::List(_) => "[]interface {}",
        Value::Map { .. } => "map[string]string",
        value => value.kind(),
    }
}

fn hexadecimal(text: &str, upper: bool) -> String {
    text.bytes().fold(String::new(), |mut made, byte| {
        let written = if upper {
            write!(made, "{byte:02X}")
        } else {
            write!(made, "{byte:02x}")
        };
        // Writing to a text does not fail.
        written.ok();
        made
    })
}

/// Go's exponents have a sign and two digits.
fn exponent(text: &str) -> String {
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text.to_owned();
    };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// `%g` with the fewest digits that tell the number from all others.
pub(super) fn shortest(number: f64) -> String {
    let scientific = format!("{number:e}");
    match power(&scientific) {
        Some(power) if !(-4..6).contains(&power) => exponent(&scientific),
        _ => number.to_string(),
    }
}

/// `%g` with so many digits, without zeros at the end.
fn significant(number: f64, digits: usize) -> String {
    let scientific = format!("{number:.*e}", digits - 1);
    let power = power(&scientific).unwrap_or(0);
    let trimmed = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    let digits = i32::try_from(digits).unwrap_or(i32::MAX);
    if (-4..digits).contains(&power) {
        let decimals = usize::try_from(digits - 1 - power).unwrap_or(0);
        return trimmed(&format!("{number:.decimals$}"));
    }
    match scientific.split_once('e') {
        Some((mantissa, exponent_digits)) => exponent(&format!("{}e{exponent_digits}", trimmed(mantissa))),
        None => scientific,
    }
}

fn power(scientific: &str) -> Option<i32> {
    scientific.split_once('e')?.1.parse().ok()
}

/// A text in double quotes as Go's `strconv.Quote` writes it: safe for a terminal.
pub(crate) fn quoted(text: &str) -> String {
    let mut made = String::with_capacity(text.len() + 2);
    made.push('"');
    for character in text.chars() {
        match character {
            '"' => made.push_str("\\\""),
            '\\' => made.push_str("\\\\"),
            '\x07' => made.push_str("\\a"),
            '\x08' => made.push_str("\\b"),
            '\x0c' => made.push_str("\\f"),
            '\n' => made.push_str("\\n"),
            '\r' => made.push_str("\\r"),
            '\t' => made.push_str("\\t"),
            '\x0b' => made.push_str("\\v"),
            c if c.is_ascii_control() => made.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                made.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => made.push(c),
        }
    }
    made.push('"');
    made
}
