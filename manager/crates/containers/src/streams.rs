//! The two directions of an attached process.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

use crate::error::ContainersError;
use crate::record::ExitStatus;
use crate::request::TerminalSize;

/// What a client sends to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// Standard input has ended.
    CloseStdin,
    /// The terminal has another size.
    Resize(TerminalSize),
}

/// What comes from a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Bytes of standard output, or of the terminal.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// Words for the user. As the last item: there is no knowing how the process ended.
    Notice(String),
    /// The process has ended; the last item.
    Exit(ExitStatus),
}

/// A connection to a process. Dropping `input` leaves its standard input open; send [`Input::CloseStdin`] to end it.
pub struct ProcessStream {
    /// Where input goes; a full channel means that the process does not read.
    pub input: mpsc::Sender<Input>,
    /// What comes out, all of it however slowly it is read. An exec waits for it; a container does not.
    pub output: BoxStream<'static, Result<Output, ContainersError>>,
}

impl std::fmt::Debug for ProcessStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessStream").finish_non_exhaustive()
    }
}
