//! Go's template language, as users of docker write it after `--format`.
//!
//! ```text
//!   text ──lexer──▶ tokens ──parser──▶ nodes ──evaluator──▶ text
//!                                                 │
//!                             value: what the template is about (docker's fields)
//!                             functions, printf: what it may call
//! ```
//!
//! A subset, listed in `docs/cli.md`: whoever writes a template for docker finds it to mean the same here, or is told which token is not
//! understood and where it stands. Semantics, down to how values are printed (`<no value>`, `map[a:b]`, `[a b]`), are those of Go's packages
//! `text/template` and `fmt`; the functions are docker's.
//!
//! Invariants: everything here is pure; nothing panics on any text; nesting is bounded by [`MAX_DEPTH`], and so is the recursion of parser and
//! evaluator; what is printed is bounded by [`MAX_OUTPUT`], time and memory by [`MAX_WORK`].
//!
//! Deliberately absent: `define`, `block` and `template` (there is only one template), `call`, `html`, `js`, `urlquery`, complex numbers.

mod ast;
mod compare;
mod error;
mod evaluator;
mod functions;
mod lexer;
mod parser;
mod printf;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use error::TemplateError;
pub(crate) use functions::Functions;
pub(crate) use printf::quoted;
pub(crate) use value::{Method, Shape, Value, Zero};

/// Blocks, parentheses and `else if`s may be nested this deep.
const MAX_DEPTH: usize = 100;
/// Bytes that one execution may print, and that one function may make.
const MAX_OUTPUT: usize = 64 << 20;
/// Bytes that one execution may make and copy in all; every step counts [`STEP`] more.
const MAX_WORK: usize = 1 << 30;
/// What a step counts: with this, loops end after some seconds at the latest.
const STEP: usize = 64;

/// A template that has been understood.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    source: String,
    nodes: Vec<ast::Node>,
}

impl Template {
    /// Understands a template's text.
    pub(crate) fn parse(source: &str) -> Result<Self, TemplateError> {
        let nodes = lexer::lex(source)
            .and_then(parser::parse)
            .map_err(|located| located.within(source))?;
        Ok(Self {
            source: source.to_owned(),
            nodes,
        })
    }

    /// What the template says about `data`.
    pub(crate) fn execute(&self, data: &Value, functions: Functions) -> Result<String, TemplateError> {
        evaluator::execute(&self.nodes, data, functions).map_err(|located| located.within(&self.source))
    }

    /// Whether a field of this name is asked for anywhere: some cost the daemon work that it does only when asked.
    pub(crate) fn mentions(&self, field: &str) -> bool {
        ast::mentions(&self.nodes, field)
    }
}
