//! What an attached client has missed, read from the log.
//!
//! ```text
//!   shim ──Output, Output, Gap, Output, Exit──▶ relay ──────────────────────▶ client
//!                           │                     ▲
//!                           └── where it stands ──┴── Backlog: log, replaced bytes
//! ```
//!
//! The shim waits for no client. It leaves output out and says where in the log its stream stands, before and after ([`Position`]); what is in between is
//! read here, from the files, which are opened while the shim is attached to: they may be removed before a slow client has come to the end. What a
//! position counts as held back was sent, and comes first in its stream's next entry.
//!
//! No byte comes twice and none is missing, with two exceptions. Entries that the log's disk refused while the client was behind are nowhere: the
//! client is told how many; what it had of their lines it may get a second time. And where the shim could not keep the bytes that a log cannot hold,
//! each of them is a U+FFFD.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use croze_proto::shim::Position;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::ContainersError;
use crate::log_line;
use crate::logs;
use crate::record::{ExitStatus, State};
use crate::streams::Output;

/// Bytes of output that are sent on at once.
const PIECE: usize = 32 * 1024;

/// The files of a container's log, and how the container ended, for one attached client.
#[derive(Debug)]
pub(crate) struct Backlog {
    log: Arc<File>,
    /// Not there where the shim could not make it.
    replaced: Option<Arc<File>>,
    /// What the client has had.
    position: Position,
    end: watch::Receiver<Option<ExitStatus>>,
    watcher: JoinHandle<()>,
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// The next entries of a backlog.
struct Chunk {
    pieces: Vec<Output>,
    position: Position,
}

impl Backlog {
    /// Opens the files of the log at `path`; blocking. The client's stream begins at `position`; `state` must have been subscribed to before the client was
    /// attached.
    pub(crate) fn open(path: &Path, position: Position, state: watch::Receiver<State>) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".replaced");
        let (told, end) = watch::channel(None);
        Ok(Self {
            log: Arc::new(File::open(path)?),
            replaced: open_replaced(Path::new(&beside)),
            position,
            end,
            watcher: tokio::spawn(watch_end(state, told)),
        })
    }

    /// The client has had everything up to here.
    pub(crate) fn advance(&mut self, position: Position) {
        self.position = position;
    }

    /// Reads the next part of what is missing up to `target` and takes it for sent; `None` when there is no more.
    pub(crate) async fn read(&mut self, target: &Position) -> Option<Result<Vec<Output>, ContainersError>> {
        if self.position.log_offset >= target.log_offset {
            return None;
        }
        let (log, replaced) = (Arc::clone(&self.log), self.replaced.clone());
        let (from, to) = (self.position, *target);
        let read =
            tokio::task::spawn_blocking(move || read_chunk(&log, replaced.as_deref(), from, &to)).await;
        match read {
            Ok(Ok(Some(chunk))) => {
                self.position = chunk.position;
                Some(Ok(chunk.pieces))
            }
            Ok(Ok(None)) => {
                self.position.log_offset = target.log_offset;
                if self.log.metadata().is_ok_and(|m| m.len() >= target.log_offset) {
                    // Half an entry, which a shim that was killed has left.
                    return None;
                }
                let words = "output is missing: the container's log was cut off";
                Some(Ok(vec![Output::Notice(words.into())]))
            }
            Ok(Err(error)) => Some(Err(ContainersError::file("read log", "")(error))),
            Err(_) => Some(Err(ContainersError::Interrupted)),
        }
    }

    /// What `target` holds back and the client has not had, and how many entries are nowhere.
    pub(crate) fn close(&mut self, target: Position, stdout: Vec<u8>, stderr: Vec<u8>) -> Vec<Output> {
        let rest = |bytes: Vec<u8>, had: u32| {
            let had = bytes.len().min(had as usize);
            Bytes::from(bytes).slice(had..)
        };
        let stdout = rest(stdout, self.position.stdout_held);
        let stderr = rest(stderr, self.position.stderr_held);
        let mut pieces = Vec::new();
        if !stdout.is_empty() {
            pieces.push(Output::Stdout(stdout));
        }
        if !stderr.is_empty() {
            pieces.push(Output::Stderr(stderr));
        }
        self.position = target;
        pieces
    }

    /// Entries that the disk refused between what the client has had and `target`: words for it, once. From then on nothing counts as had, since it cannot be
    /// known of which lines.
    pub(crate) fn refused(&mut self, target: &Position) -> Option<Output> {
        let lost = target.lines_dropped.saturating_sub(self.position.lines_dropped);
        self.position.lines_dropped = target.lines_dropped;
        (lost > 0).then(|| {
            (self.position.stdout_held, self.position.stderr_held) = (0, 0);
            Output::Notice(format!(
                "{lost} lines of output are missing: the disk of the container's log refused them, and this client had not read them yet"
            ))
        })
    }

    /// How the container ended, for a client that did not learn it from the shim; `None` if it has not within `patience`.
    pub(crate) async fn end(&mut self, patience: std::time::Duration) -> Option<ExitStatus> {
        let known = tokio::time::timeout(patience, self.end.wait_for(Option::is_some)).await;
        known.ok()?.ok()?.clone()
    }

    /// Where the output ends, according to how the container ended.
    pub(crate) fn end_position(&self, status: Option<&ExitStatus>) -> Position {
        let length = || self.log.metadata().map_or(0, |m| m.len());
        Position {
            log_offset: status.and_then(|s| s.log_end).unwrap_or_else(length),
            lines_dropped: status
                .map_or(0, |s| s.log_lines_dropped)
                .max(self.position.lines_dropped),
            ..Position::default()
        }
    }
}

/// The file of replaced bytes; the log can be read without it.
fn open_replaced(path: &Path) -> Option<Arc<File>> {
    match File::open(path) {
        Ok(file) => Some(Arc::new(file)),
        // The shim could not make it, and has said so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "an attached client may get replacements for bytes that are not UTF-8");
            None
        }
    }
}

/// Waits for the first end of the container from now on: a later run is not this client's.
async fn watch_end(mut state: watch::Receiver<State>, told: watch::Sender<Option<ExitStatus>>) {
    while state.changed().await.is_ok() {
        if let State::Exited { status } = &*state.borrow_and_update() {
            told.send_replace(Some(status.clone()));
            return;
        }
    }
}

/// Reads and decodes some entries behind `from`; `None` if there are none before `to`.
fn read_chunk(
    log: &File,
    replaced: Option<&File>,
    from: Position,
    to: &Position,
) -> io::Result<Option<Chunk>> {
    let mut buffer = vec![0; logs::BATCH];
    let Some(whole) = logs::read_whole(log, &mut buffer, from.log_offset, to.log_offset)? else {
        return Ok(None);
    };
    let lines = &buffer[..whole];
    let mut position = from;
    position.log_offset += whole as u64;
    let mut bytes = ReplacedBytes::read(replaced, from.replaced_offset, lines)?;
    let mut pieces = Pieces::default();
    for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let Some(line) = log_line::decode(line, || bytes.next()) else {
            pieces.finish();
            let words = "output is missing: the container's log is damaged";
            pieces.done.push(Output::Notice(words.into()));
            continue;
        };
        if line.by_shim {
            continue;
        }
        let held = if line.stderr {
            &mut position.stderr_held
        } else {
            &mut position.stdout_held
        };
        let had = line.printed().min(*held as usize);
        *held -= u32::try_from(had).unwrap_or(*held);
        pieces.push(line.stderr, line.behind(had));
    }
    position.replaced_offset += bytes.used;
    pieces.finish();
    Ok(Some(Chunk {
        pieces: pieces.done,
        position,
    }))
}

/// The bytes that some lines cannot hold.
struct ReplacedBytes {
    bytes: Vec<u8>,
    used: u64,
}

impl ReplacedBytes {
    /// Reads as many as the lines can need at most.
    fn read(file: Option<&File>, offset: u64, lines: &[u8]) -> io::Result<Self> {
        let wanted = lines.windows(6).filter(|w| w == b"\\ufffd").count();
        let mut bytes = vec![0; wanted];
        let mut filled = 0;
        while let Some(file) = file.filter(|_| filled < wanted) {
            match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        bytes.truncate(filled);
        Ok(Self { bytes, used: 0 })
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.bytes.get(usize::try_from(self.used).ok()?).copied();
        self.used += 1;
        byte
    }
}

/// Joins entries of one stream, so that a client does not get every line by itself.
#[derive(Default)]
struct Pieces {
    done: Vec<Output>,
    open: BytesMut,
    stderr: bool,
}

impl Pieces {
    fn push(&mut self, stderr: bool, bytes: &[u8]) {
        if stderr != self.stderr || self.open.len() + bytes.len() > PIECE {
            self.finish();
        }
        self.stderr = stderr;
        self.open.extend_from_slice(bytes);
    }

    fn finish(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let bytes = self.open.split().freeze();
        self.done.push(if self.stderr {
            Output::Stderr(bytes)
        } else {
            Output::Stdout(bytes)
        });
    }
}

#[cfg(test)]
#[path = "backlog_tests.rs"]
mod tests;
