//! What the benchmark programs share: the report's document, and the arithmetic of its figures.
//!
//! ```text
//! docs/benchmarks.md
//!   # Benchmarks                    how to read it: written by whoever comes first
//!   ## Low-level runtimes           croze-bench
//!   ## Engines                      croze-bench-engines
//!   ## anything else                stays as it is
//! ```
//!
//! There are two programs because of what they measure with: `wait4` says of a child at least what its parent's memory was, so the one
//! that times the small runtimes is small itself.
#![forbid(unsafe_code)]

mod document;
mod figures;

pub use document::{machine, replace_section, save_section};
pub use figures::{median, table};
