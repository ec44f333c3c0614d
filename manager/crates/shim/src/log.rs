//! The container's log: docker's json-file format, one JSON object per line ([`entry`](crate::entry)).
//!
//! ```text
//!   bytes of a stream ──▶ Splitter (one per stream) ──▶ entries ──▶ one write(2) per batch ──▶ file
//!                                                          └─ bytes that JSON cannot hold ──▶ file.replaced, while somebody is attached
//! ```
//!
//! - An entry is a line with its newline, or 16 KiB of a longer line without one; a line is held back until it ends, is that long, or the
//!   stream ends. Docker cuts at 16 KiB even within a character, which then is lost; here the character goes to the next part.
//! - Lossless: what was read is written before more is read. Only a disk that refuses (full, quota, I/O error) loses entries: they are counted,
//!   the file is cut back to its last whole entry, and when writing works again, an entry says how many are missing.
//! - A [`Position`] is a moment of the output. From the file alone, everything between two of them can be read again, byte for byte: clients that
//!   are behind get it so. A byte of the file of replaced bytes is written before the entry that needs it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use croze_proto::shim::Position;

use crate::entry::{Speaker, encode};
use crate::error::ShimError;
use crate::time;

/// Longest text of one entry before escaping: docker's.
const ENTRY_MAX: usize = 16 * 1024;

/// Where bytes were written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// Standard output or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl StreamKind {
    /// Its name in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts one stream into entries.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    held: Vec<u8>,
}

impl Splitter {
    /// Calls `entry` for each complete entry in what was held back and `bytes`.
    fn push(&mut self, mut bytes: &[u8], mut entry: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = ENTRY_MAX - self.held.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(newline) = window.iter().position(|b| *b == b'\n') {
                let (line, rest) = bytes.split_at(newline + 1);
                if self.held.is_empty() {
                    entry(line);
                } else {
                    self.held.extend_from_slice(line);
                    entry(&self.held);
                    self.held.clear();
                }
                bytes = rest;
                continue;
            }
            self.held.extend_from_slice(window);
            bytes = &bytes[window.len()..];
            if self.held.len() == ENTRY_MAX {
                let cut = char_boundary(&self.held);
                entry(&self.held[..cut]);
                self.held.drain(..cut);
            }
        }
    }

    /// Calls `entry` for what is still held back.
    fn finish(&mut self, mut entry: impl FnMut(&[u8])) {
        if !self.held.is_empty() {
            entry(&self.held);
            self.held.clear();
        }
    }
}

/// The last position at which no UTF-8 sequence is cut: at most three bytes before the end.
fn char_boundary(bytes: &[u8]) -> usize {
    for back in 1..=3.min(bytes.len()) {
        let at = bytes.len() - back;
        let length = match bytes[at] {
            0b1100_0000..=0b1101_1111 => 2,
            0b1110_0000..=0b1110_1111 => 3,
            0b1111_0000..=0b1111_0111 => 4,
            0b1000_0000..=0b1011_1111 => continue,
            _ => 1,
        };
        return if length > back { at } else { bytes.len() };
    }
    bytes.len()
}

/// Encoded entries that are to be written at once.
#[derive(Debug, Default)]
struct Batch {
    lines: Vec<u8>,
    replaced: Vec<u8>,
    /// Behind each entry: the lengths of `lines` and of `replaced`.
    ends: Vec<(usize, usize)>,
}

impl Batch {
    fn add(&mut self, text: &[u8], stream: StreamKind, time: &str) {
        encode(
            &mut self.lines,
            &mut self.replaced,
            text,
            Speaker::Container(stream),
            time,
        );
        self.ends.push((self.lines.len(), self.replaced.len()));
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.replaced.clear();
        self.ends.clear();
    }
}

/// A file that only grows, and how much of it is good.
#[derive(Debug)]
struct Grown {
    file: File,
    good_len: u64,
}

impl Grown {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.good_len += bytes.len() as u64;
        Ok(())
    }

    /// Takes back what a failed write left. Cutting needs no space; if even this fails, readers skip the one damaged line.
    fn cut_back(&self) {
        let _uncut = self.file.set_len(self.good_len);
    }
}

/// The log file of one container.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    lines: Grown,
    /// Only while somebody is attached.
    replaced: Option<Grown>,
    stdout: Splitter,
    stderr: Splitter,
    batch: Batch,
    /// Entries lost in all, and those not yet told about in the log.
    dropped: u64,
    untold: u64,
    reason: Option<io::Error>,
}

impl Log {
    /// Opens the log for appending; a half entry at its end (a power cut) is cut off.
    pub(crate) fn open(path: &Path) -> Result<Self, ShimError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(ShimError::file("open log", path))?;
        let good_len = whole_length(&file).map_err(ShimError::file("read log", path))?;
        let length = file.metadata().map_err(ShimError::file("read log", path))?.len();
        if good_len < length {
            file.set_len(good_len).map_err(ShimError::file("cut log", path))?;
        }
        Ok(Self {
            path: path.into(),
            lines: Grown { file, good_len },
            replaced: None,
            stdout: Splitter::default(),
            stderr: Splitter::default(),
            batch: Batch::default(),
            dropped: 0,
            untold: 0,
            reason: None,
        })
    }

    fn replaced_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".replaced");
        path.into()
    }

    /// From now on the bytes that the log cannot hold are kept beside it.
    pub(crate) fn keep_replaced(&mut self) -> Result<(), ShimError> {
        if self.replaced.is_some() {
            return Ok(());
        }
        let path = self.replaced_path();
        // One of an earlier shim that was killed may still be read by somebody: it is not truncated.
        let _may_not_exist = fs::remove_file(&path);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(ShimError::file("create", &path))?;
        self.replaced = Some(Grown { file, good_len: 0 });
        Ok(())
    }

    /// Nobody needs them any more; who has the file open may read on.
    pub(crate) fn forget_replaced(&mut self) {
        if self.replaced.take().is_some() {
            let _gone = fs::remove_file(self.replaced_path());
        }
    }

    /// Where the output stands.
    pub(crate) fn position(&self) -> Position {
        let held = |splitter: &Splitter| u32::try_from(splitter.held.len()).unwrap_or(u32::MAX);
        Position {
            log_offset: self.lines.good_len,
            replaced_offset: self.replaced.as_ref().map_or(0, |r| r.good_len),
            stdout_held: held(&self.stdout),
            stderr_held: held(&self.stderr),
            lines_dropped: self.dropped,
        }
    }

    /// What is in no entry yet, of standard output and of standard error.
    pub(crate) fn held(&self) -> (&[u8], &[u8]) {
        (&self.stdout.held, &self.stderr.held)
    }

    /// Takes bytes of a stream; their complete entries are in the file when this returns.
    pub(crate) fn push(&mut self, stream: StreamKind, bytes: &[u8], now_nanos: i64) {
        let time = time::rfc3339(now_nanos);
        let splitter = match stream {
            StreamKind::Stdout => &mut self.stdout,
            StreamKind::Stderr => &mut self.stderr,
        };
        splitter.push(bytes, |text| self.batch.add(text, stream, &time));
        self.write_batch(now_nanos);
    }

    /// Writes what is held back. The position afterwards is that for a client that has had all of it live: what the disk refuses of it now does not
    /// count as lost.
    pub(crate) fn finish(&mut self, now_nanos: i64) -> Position {
        let lines_dropped = self.dropped;
        let time = time::rfc3339(now_nanos);
        let (stdout, stderr) = (StreamKind::Stdout, StreamKind::Stderr);
        self.stdout.finish(|text| self.batch.add(text, stdout, &time));
        self.stderr.finish(|text| self.batch.add(text, stderr, &time));
        self.write_batch(now_nanos);
        self.tell_drops(now_nanos);
        Position {
            lines_dropped,
            ..self.position()
        }
    }

    /// Makes the log durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.lines.file.sync_data()
    }

    /// Entries that could not be written so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn write_batch(&mut self, now_nanos: i64) {
        if self.batch.ends.is_empty() {
            return;
        }
        if self.tell_drops(now_nanos) {
            let replaced_len = self.replaced.as_ref().map_or(0, |r| r.good_len);
            if let Err(error) = self.write_entries() {
                self.drop_entries(error, replaced_len);
            }
        } else {
            self.dropped += self.batch.ends.len() as u64;
            self.untold += self.batch.ends.len() as u64;
        }
        self.batch.clear();
    }

    fn write_entries(&mut self) -> io::Result<()> {
        if let Some(replaced) = &mut self.replaced
            && !self.batch.replaced.is_empty()
        {
            // First, so that who sees an entry finds its bytes.
            replaced.append(&self.batch.replaced)?;
        }
        self.lines.append(&self.batch.lines)
    }

    /// Says how many entries are missing, if any; false if even that cannot be written.
    fn tell_drops(&mut self, now_nanos: i64) -> bool {
        let Some(reason) = &self.reason else { return true };
        let text = format!(
            "croze-shim: {} log lines were dropped here: {reason}\n",
            self.untold
        );
        let mut line = Vec::new();
        encode(
            &mut line,
            &mut Vec::new(),
            text.as_bytes(),
            Speaker::Shim,
            &time::rfc3339(now_nanos),
        );
        if self.lines.append(&line).is_err() {
            self.lines.cut_back();
            return false;
        }
        self.untold = 0;
        self.reason = None;
        true
    }

    /// Part of the batch may be in the file: its whole entries stay with their replaced bytes, which began at `replaced_len`; the rest is cut off and
    /// counted.
    fn drop_entries(&mut self, error: io::Error, replaced_len: u64) {
        let good_len = self.lines.good_len;
        let length = self.lines.file.metadata().map_or(good_len, |m| m.len());
        let written = usize::try_from(length.saturating_sub(good_len)).unwrap_or(usize::MAX);
        let kept = self.batch.ends.iter().take_while(|(end, _)| *end <= written);
        let (kept, (lines, bytes)) = kept.fold((0, (0, 0)), |(n, _), end| (n + 1, *end));
        self.lines.good_len += lines as u64;
        self.lines.cut_back();
        if let Some(replaced) = &mut self.replaced {
            replaced.good_len = replaced_len + bytes as u64;
            replaced.cut_back();
        }
        let lost = self.batch.ends.len() as u64 - kept;
        self.dropped += lost;
        self.untold += lost;
        self.reason = Some(error);
    }
}

/// The length up to and including the last newline, looking back through the file.
fn whole_length(file: &File) -> io::Result<u64> {
    use std::os::unix::fs::FileExt as _;
    let mut end = file.metadata()?.len();
    let mut buffer = [0u8; 4096];
    while end > 0 {
        let start = end.saturating_sub(buffer.len() as u64);
        let Some(window) = usize::try_from(end - start)
            .ok()
            .and_then(|n| buffer.get_mut(..n))
        else {
            return Ok(end);
        };
        file.read_exact_at(window, start)?;
        if let Some(at) = window.iter().rposition(|b| *b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
