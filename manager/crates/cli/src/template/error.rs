//! What is wrong with a template, and where.

use thiserror::Error;

/// A part of the template's text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    /// From the start of this to the end of the other.
    pub(super) fn to(self, other: Self) -> Self {
        Self {
            start: self.start,
            end: other.end,
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Problem {
    #[error("{what} is not closed")]
    Unclosed { what: &'static str },
    #[error("unexpected {token}, {expected} is expected")]
    Unexpected { token: String, expected: &'static str },
    #[error("bad character {character:?}")]
    BadCharacter { character: char },
    #[error("malformed number")]
    BadNumber,
    #[error("malformed escape in a string or character")]
    BadEscape,
    #[error("{keyword:?} is not supported here; docs/cli.md lists what is")]
    Unsupported { keyword: String },
    #[error("function {name:?} not defined; docs/cli.md lists what is")]
    UnknownFunction { name: String },
    #[error("undefined variable {name:?}")]
    UnknownVariable { name: String },
    #[error("nested more than {limit} deep")]
    TooDeep { limit: usize },
    #[error("makes more than {limit} bytes")]
    TooLong { limit: usize },
    #[error("takes too long: more than {limit} bytes are worked on")]
    TooMuch { limit: usize },
    #[error("map has no entry for key {key:?}")]
    NoEntry { key: String },
    #[error("can't evaluate field {field} in a {kind}")]
    NoField { field: String, kind: &'static str },
    #[error("nil pointer evaluating {field}")]
    NilField { field: String },
    #[error("{name} cannot be called")]
    NotAFunction { name: String },
    #[error("wrong number of arguments for {name}: want {want}, got {got}")]
    ArgumentCount {
        name: &'static str,
        want: &'static str,
        got: usize,
    },
    #[error("wrong argument for {name}: expected {expected}, got a {got}")]
    ArgumentKind {
        name: &'static str,
        expected: &'static str,
        got: &'static str,
    },
    #[error("{function}: {reason}")]
    Function { function: &'static str, reason: String },
    #[error("range can't iterate over a {kind}")]
    Range { kind: &'static str },
}

/// A problem and its place, as parser and evaluator hand it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) problem: Problem,
    pub(super) span: Span,
}

impl Problem {
    pub(super) fn at(self, span: Span) -> Located {
        Located { problem: self, span }
    }
}

/// Characters of the token that an error shows.
const SHOWN: usize = 40;

impl Located {
    /// The error as users see it.
    pub(super) fn within(self, source: &str) -> TemplateError {
        let before = source.get(..self.span.start).unwrap_or(source);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let token = source.get(self.span.start..self.span.end).unwrap_or_default();
        let mut shown: String = token.chars().take(SHOWN).collect();
        if shown.len() < token.len() {
            shown.push('…');
        }
        TemplateError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            token: shown,
            problem: self.problem,
        }
    }
}

/// What is wrong with a template: which token, where, and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("template parsing error: line {line}, column {column}, at <{token}>: {problem}")]
pub(crate) struct TemplateError {
    /// Line of the token, from 1 on.
    pub(crate) line: usize,
    /// Column of the token in characters, from 1 on.
    pub(crate) column: usize,
    /// The token, cut where it is long.
    pub(crate) token: String,
    /// What is wrong with it.
    pub(crate) problem: Problem,
}
