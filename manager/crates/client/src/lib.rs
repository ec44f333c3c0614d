//! A typed client of Croze's gRPC API, `croze.v1`.
//!
//! ```text
//!   Endpoint::parse("unix:///run/croze/croze.sock") --Client::connect--> Client { images(), containers(), system() }
//!                                                          |
//!                                                          `-> Error::Connect: why there is no daemon, and what to do
//!   a failed call --> tonic::Status --Error::from--> Error::Daemon { kind, stage, what, causes, hint }
//! ```
//!
//! Purpose: programs that talk to the daemon see typed calls and errors that keep every cause the daemon named. The generated
//! messages are used as they are, under [`v1`].
//!
//! Invariant: every error says what to do where that is known ([`Error::hint`]). Not here: printing, retries, starting the daemon.
#![forbid(unsafe_code)]

mod connect;
mod error;

pub use connect::{Client, Endpoint};
pub use croze_model::{ExposedPorts, Publish, Reference, nearest, parse_decimal, parse_size};
pub use croze_proto::{API_VERSION, v1};
pub use error::{ConnectFailure, Error};
