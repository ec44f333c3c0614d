//! As much of D-Bus as it takes to talk to systemd: a connection, method calls, one kind of signal waited for.
//!
//! ```text
//! connect ─ "\0AUTH EXTERNAL" ─ "DATA" ─ "OK" ─ "BEGIN" ┬─ a bus: Hello, AddMatch ─┬─ call ─> reply
//!                                                       └─ systemd's own socket ───┘  └─> signals, kept until asked for
//! ```
//!
//! * [`value`]: the types, and how they lie in a message; [`message`]: header and body; [`connection`]: a socket.
//!
//! Invariants: nothing that arrives is believed (every length is bounded and checked against what is there); every wait has a
//! deadline. It does not export objects, pass descriptors, or speak the byte order of other machines.

pub mod connection;
pub mod message;
pub mod value;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use connection::{Connection, Peer};
pub use message::{Message, Method};
pub use value::Value;

/// A failure of talking to a D-Bus peer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens at the socket.
    #[error("cannot connect to the D-Bus socket {path:?}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The peer does not accept who we are.
    #[error("the D-Bus peer refused to authenticate this process: {answer:?}")]
    Refused {
        /// Its answer.
        answer: String,
    },
    /// The connection broke.
    #[error("cannot {action}")]
    Stream {
        /// What was being done.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// What arrived is no D-Bus message, or not one that this client reads.
    #[error("the D-Bus peer sent something that cannot be read: {what}")]
    Malformed {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The peer answered with an error.
    #[error("{method} failed: {message} ({name})")]
    Remote {
        /// The method that was called.
        method: &'static str,
        /// The error's name, `org.freedesktop.systemd1.UnitExists` for one.
        name: String,
        /// The peer's explanation.
        message: String,
    },
    /// No answer.
    #[error("{what} did not come within {} s", after.as_secs())]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
}
