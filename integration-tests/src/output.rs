//! What a finished program left: how it ended, what it wrote.

use std::fmt;

use anyhow::{Result, ensure};
use serde_json::Value;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It called exit with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(out, "exit code {code}"),
            Self::Signal(number) => write!(out, "signal {number}"),
        }
    }
}

/// A finished program.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub what: String,
    /// How it ended.
    pub ended: Ended,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Output {
    /// The output, if the program ended with exit code 0.
    ///
    /// # Errors
    /// It ended otherwise; the message holds all it wrote.
    pub fn success(self) -> Result<Self> {
        self.code(0)
    }

    /// The output, if the program ended with this exit code.
    ///
    /// # Errors
    /// It ended otherwise; the message holds all it wrote.
    pub fn code(self, expected: i32) -> Result<Self> {
        ensure!(
            self.ended == Ended::Code(expected),
            "expected exit code {expected}: {self}"
        );
        Ok(self)
    }

    /// The output, if the program failed with an exit code and said something about `words` on stderr.
    ///
    /// # Errors
    /// It did not; the message holds all it wrote.
    pub fn failure(self, words: &[&str]) -> Result<Self> {
        ensure!(
            matches!(self.ended, Ended::Code(code) if code != 0),
            "expected a failure: {self}"
        );
        let said = self.stderr.to_lowercase();
        for word in words {
            ensure!(
                said.contains(&word.to_lowercase()),
                "expected {word:?} on stderr: {self}"
            );
        }
        ensure!(!said.contains("panicked"), "a panic: {self}");
        Ok(self)
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout)
            .map_err(|error| anyhow::anyhow!("expected JSON on stdout ({error}): {self}"))
    }

    /// Standard output without white space around it.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "`{}` ended with {}\n--- stdout\n{}\n--- stderr\n{}",
            self.what, self.ended, self.stdout, self.stderr
        )
    }
}
