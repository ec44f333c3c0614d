//! The command line: raw arguments to requests, requests to operations, results to text.

pub(crate) mod args;
pub(crate) mod commands;
pub(crate) mod events;
pub(crate) mod features;
pub(crate) mod log;
pub(crate) mod output;
pub(crate) mod signals;
pub(crate) mod spec;
pub(crate) mod update;
mod words;
