//! From text to tokens.
//!
//! ```text
//!   text {{- /* comment */ -}} text {{ .Field | join "," }} text
//!        └ trims the text before    └ Open            Close ┘
//! ```

use super::error::{Located, Problem, Span};

/// A token and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Span,
    /// White space stands before it: `.A .B` are two fields of which `.A.B` makes one.
    pub(super) spaced: bool,
}

/// The kinds of tokens.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Text outside of actions.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.Name`
    Field(String),
    /// `$name`, `$`
    Variable(String),
    /// A keyword or a function.
    Identifier(String),
    Dot,
    Integer(i64),
    Float(f64),
    Quoted(String),
    Pipe,
    ParenOpen,
    ParenClose,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    Comma,
    /// The end of the text.
    End,
}

const OPEN: &str = "{{";
const CLOSE: &str = "}}";
const COMMENT_OPEN: &str = "/*";
const COMMENT_CLOSE: &str = "*/";

/// Cuts a template into tokens; the last one is [`Kind::End`].
pub(super) fn lex(source: &str) -> Result<Vec<Token>, Located> {
    let mut lexer = Lexer {
        source,
        at: 0,
        tokens: Vec::new(),
    };
    let mut trim_next = false;
    loop {
        let rest = lexer.rest();
        let text_end = rest.find(OPEN).map_or(source.len(), |offset| lexer.at + offset);
        let trims_before = source[text_end..]
            .strip_prefix(OPEN)
            .is_some_and(begins_with_trim);
        let mut text = &source[lexer.at..text_end];
        if trim_next {
            text = text.trim_start_matches(is_space);
        }
        if trims_before {
            text = text.trim_end_matches(is_space);
        }
        if !text.is_empty() {
            let span = Span {
                start: lexer.at,
                end: text_end,
            };
            lexer.push(Kind::Text(text.to_owned()), span, false);
        }
        lexer.at = text_end;
        if lexer.rest().is_empty() {
            let span = Span {
                start: lexer.at,
                end: lexer.at,
            };
            lexer.push(Kind::End, span, true);
            return Ok(lexer.tokens);
        }
        trim_next = lexer.action(trims_before)?;
    }
}

/// `-` and a space after `{{`.
fn begins_with_trim(inside: &str) -> bool {
    let mut characters = inside.chars();
    characters.next() == Some('-') && characters.next().is_some_and(is_space)
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
}

fn is_word(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

struct Lexer<'source> {
    source: &'source str,
    at: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: Kind, span: Span, spaced: bool) {
        self.tokens.push(Token { kind, span, spaced });
    }

    fn span_from(&self, start: usize) -> Span {
        Span { start, end: self.at }
    }

    /// One action from `{{` to `}}`; whether the text after it is to be trimmed.
    fn action(&mut self, trims_before: bool) -> Result<bool, Located> {
        let start = self.at;
        self.at += OPEN.len();
        let open = self.span_from(start);
        if trims_before {
            self.at += 1;
        }
        let words = self.rest().trim_start_matches(is_space);
        // As in Go, a comment must follow the opening at once, or after a trim marker.
        if words.starts_with(COMMENT_OPEN) && (trims_before || words.len() == self.rest().len()) {
            return self.comment(open);
        }
        self.push(Kind::Open, open, false);
        loop {
            let before = self.at;
            self.skip_space();
            let spaced = self.at > before;
            let start = self.at;
            let trims = spaced
                && self
                    .rest()
                    .strip_prefix('-')
                    .is_some_and(|rest| rest.starts_with(CLOSE));
            if trims {
                self.at += 1;
            }
            if self.rest().starts_with(CLOSE) {
                self.at += CLOSE.len();
                let span = self.span_from(start);
                self.push(Kind::Close, span, spaced);
                return Ok(trims);
            }
            let Some(character) = self.rest().chars().next() else {
                return Err(Problem::Unclosed { what: "an action" }.at(open));
            };
            let kind = self.token(character, start)?;
            let span = self.span_from(start);
            self.push(kind, span, spaced);
        }
    }

    fn comment(&mut self, open: Span) -> Result<bool, Located> {
        let unclosed = || Problem::Unclosed { what: "a comment" }.at(open);
        // `/*/` opens a comment and does not close it.
        self.skip_space();
        self.at += COMMENT_OPEN.len();
        let end = self.rest().find(COMMENT_CLOSE).ok_or_else(unclosed)?;
        self.at += end + COMMENT_CLOSE.len();
        let after = self.at;
        self.skip_space();
        if self.at > after && self.rest().starts_with("-}}") {
            self.at += 1 + CLOSE.len();
            return Ok(true);
        }
        if self.at == after && self.rest().starts_with(CLOSE) {
            self.at += CLOSE.len();
            return Ok(false);
        }
        Err(Problem::Unexpected {
            token: "text".to_owned(),
            expected: "the end of the action after a comment",
        }
        .at(Span {
            start: open.start,
            end: after,
        }))
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(is_space).len();
    }

    /// The token that begins with `first`.
    fn token(&mut self, first: char, start: usize) -> Result<Kind, Located> {
        let rest = self.rest();
        let second = rest[first.len_utf8()..].chars().next();
        let (kind, length) = match first {
            '|' => (Kind::Pipe, 1),
            '(' => (Kind::ParenOpen, 1),
            ')' => (Kind::ParenClose, 1),
            ',' => (Kind::Comma, 1),
            ':' if second == Some('=') => (Kind::Declare, 2),
            '=' => (Kind::Assign, 1),
            '"' => return self.quoted('"', start).map(Kind::Quoted),
            '`' => return self.raw(start),
            '\'' => return self.character(start),
            '.' if second.is_none_or(|c| !c.is_ascii_digit()) => {
                let name = leading_word(&rest[1..]);
                let length = name.len();
                let kind = if length == 0 {
                    Kind::Dot
                } else {
                    Kind::Field(name.to_owned())
                };
                (kind, 1 + length)
            }
            '$' => {
                let name = leading_word(&rest[1..]);
                (Kind::Variable(name.to_owned()), 1 + name.len())
            }
            '+' | '-' | '.' | '0'..='9' => return self.number(start),
            c if is_word(c) => {
                let name = leading_word(rest);
                (Kind::Identifier(name.to_owned()), name.len())
            }
            character => {
                self.at += character.len_utf8();
                return Err(Problem::BadCharacter { character }.at(self.span_from(start)));
            }
        };
        self.at += length;
        self.check_end_of_word(&kind, start)?;
        Ok(kind)
    }

    /// A name must not run into something else, such as `.A"b"`.
    fn check_end_of_word(&self, kind: &Kind, start: usize) -> Result<(), Located> {
        if !matches!(kind, Kind::Field(_) | Kind::Variable(_) | Kind::Identifier(_)) {
            return Ok(());
        }
        match self.rest().chars().next() {
            Some(character)
                if !is_space(character)
                    && !".,|:)(=".contains(character)
                    && !self.rest().starts_with(CLOSE) =>
            {
                Err(Problem::BadCharacter { character }.at(self.span_from(start)))
            }
            _ => Ok(()),
        }
    }

    fn number(&mut self, start: usize) -> Result<Kind, Located> {
        let rest = self.rest();
        let mut previous = ' ';
        let mut length = 0;
        for (offset, character) in rest.char_indices() {
            let sign = matches!(character, '+' | '-');
            let belongs = match character {
                _ if sign => offset == 0 || (matches!(previous, 'e' | 'E') && !is_hexadecimal(rest)),
                c => c == '.' || is_word(c),
            };
            if !belongs {
                break;
            }
            previous = character;
            length = offset + character.len_utf8();
        }
        let text = rest[..length].replace('_', "");
        self.at += length;
        parse_number(&text).ok_or_else(|| Problem::BadNumber.at(self.span_from(start)))
    }

    /// `'a'`: the number of the character.
    fn character(&mut self, start: usize) -> Result<Kind, Located> {
        let text = self.quoted('\'', start)?;
        let mut characters = text.chars();
        match (characters.next(), characters.next()) {
            (Some(character), None) => Ok(Kind::Integer(i64::from(u32::from(character)))),
            _ => Err(Problem::BadEscape.at(self.span_from(start))),
        }
    }

    fn raw(&mut self, start: usize) -> Result<Kind, Located> {
        let inside = &self.rest()[1..];
        let Some(length) = inside.find('`') else {
            self.at = self.source.len();
            return Err(Problem::Unclosed { what: "a raw string" }.at(self.span_from(start)));
        };
        let text = inside[..length].replace('\r', "");
        self.at += length + 2;
        Ok(Kind::Quoted(text))
    }

    /// What stands between two quotes, with its escapes resolved.
    fn quoted(&mut self, quote: char, start: usize) -> Result<String, Located> {
        self.at += 1;
        let mut bytes: Vec<u8> = Vec::new();
        loop {
            let Some(character) = self.rest().chars().next().filter(|&c| c != '\n') else {
                return Err(Problem::Unclosed { what: "a string" }.at(self.span_from(start)));
            };
            self.at += character.len_utf8();
            match character {
                c if c == quote => break,
                '\\' => {
                    let (value, length) = escape(self.rest(), quote)
                        .ok_or_else(|| Problem::BadEscape.at(self.span_from(start)))?;
                    self.at += length;
                    match value {
                        Escaped::Byte(byte) => bytes.push(byte),
                        Escaped::Character(c) => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
                    }
                }
                c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        // `\xff` makes bytes that are no text: they are shown as such.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn leading_word(text: &str) -> &str {
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    &text[..end]
}

fn is_hexadecimal(number: &str) -> bool {
    let digits = number.trim_start_matches(['+', '-']);
    digits.starts_with("0x") || digits.starts_with("0X")
}

/// Numbers as Go writes them.
fn parse_number(text: &str) -> Option<Kind> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.bytes().all(|b| b.is_ascii_digit()) && lower.starts_with('0') => {
            (8, &lower[1..])
        }
        _ => (10, lower.as_str()),
    };
    // A second sign would be taken by the parser of the language.
    if let Ok(number) = i128::from_str_radix(digits, radix)
        && digits.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        let number = if negative { -number } else { number };
        return i64::try_from(number).ok().map(Kind::Integer);
    }
    let plain = radix == 10
        && lower
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'+' | b'-'));
    if !plain {
        return None;
    }
    let number: f64 = lower.parse().ok()?;
    number
        .is_finite()
        .then_some(Kind::Float(if negative { -number } else { number }))
}

enum Escaped {
    Byte(u8),
    Character(char),
}

/// The escape after a backslash and its length.
fn escape(text: &str, quote: char) -> Option<(Escaped, usize)> {
    let first = text.chars().next()?;
    let simple = |c| Some((Escaped::Character(c), 1));
    let digits = |length: usize| {
        let digits = text.get(1..=length)?;
        digits
            .bytes()
            .all(|b| b.is_ascii_hexdigit())
            .then(|| u32::from_str_radix(digits, 16).ok())?
    };
    match first {
        'a' => simple('\x07'),
        'b' => simple('\x08'),
        'f' => simple('\x0c'),
        'n' => simple('\n'),
        'r' => simple('\r'),
        't' => simple('\t'),
        'v' => simple('\x0b'),
        '\\' => simple('\\'),
        c if c == quote => simple(c),
        'x' => Some((Escaped::Byte(u8::try_from(digits(2)?).ok()?), 3)),
        'u' => Some((Escaped::Character(char::from_u32(digits(4)?)?), 5)),
        'U' => Some((Escaped::Character(char::from_u32(digits(8)?)?), 9)),
        '0'..='7' => {
            let octal = text
                .get(..3)
                .filter(|o| o.bytes().all(|b| matches!(b, b'0'..=b'7')))?;
            Some((Escaped::Byte(u8::from_str_radix(octal, 8).ok()?), 3))
        }
        _ => None,
    }
}
