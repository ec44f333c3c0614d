//! The container's log: docker's json-file format, one JSON object per line.
//!
//! ```text
//!   bytes of a stream ──▶ Splitter (one per stream) ──▶ entries ──▶ one write(2) per batch ──▶ file
//!
//!   {"log":"hello\n","stream":"stdout","time":"2026-11-20T23:17:00.123456789Z"}
//! ```
//!
//! - An entry is a line with its newline, or 16 KiB of a longer line without one; a line is held back until it ends, is that long, or the
//!   stream ends. Bytes that are not UTF-8 become U+FFFD, as in docker's.
//! - Lossless: what was read is written before more is read. Only a disk that refuses (full, quota, I/O error) loses entries: they are counted,
//!   the file is cut back to its last whole entry, and when writing works again, an entry says how many are missing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

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
    fn name(self) -> &'static str {
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

/// The log file of one container.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    /// Length up to the end of the last whole entry.
    good_len: u64,
    stdout: Splitter,
    stderr: Splitter,
    /// Encoded entries of the present batch, and their number.
    batch: Vec<u8>,
    batch_entries: u64,
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
            file,
            good_len,
            stdout: Splitter::default(),
            stderr: Splitter::default(),
            batch: Vec::new(),
            batch_entries: 0,
            dropped: 0,
            untold: 0,
            reason: None,
        })
    }

    /// Takes bytes of a stream; their complete entries are in the file when this returns.
    pub(crate) fn push(&mut self, stream: StreamKind, bytes: &[u8], now_nanos: i64) {
        let time = time::rfc3339(now_nanos);
        let (batch, entries) = (&mut self.batch, &mut self.batch_entries);
        let splitter = match stream {
            StreamKind::Stdout => &mut self.stdout,
            StreamKind::Stderr => &mut self.stderr,
        };
        splitter.push(bytes, |text| {
            encode(batch, text, stream, &time);
            *entries += 1;
        });
        self.write_batch(now_nanos);
    }

    /// Writes what is held back and makes the log durable.
    pub(crate) fn finish(&mut self, now_nanos: i64) -> io::Result<()> {
        let time = time::rfc3339(now_nanos);
        for stream in [StreamKind::Stdout, StreamKind::Stderr] {
            let (batch, entries) = (&mut self.batch, &mut self.batch_entries);
            let splitter = match stream {
                StreamKind::Stdout => &mut self.stdout,
                StreamKind::Stderr => &mut self.stderr,
            };
            splitter.finish(|text| {
                encode(batch, text, stream, &time);
                *entries += 1;
            });
        }
        self.write_batch(now_nanos);
        self.tell_drops(now_nanos);
        self.file.sync_data()
    }

    /// Entries that could not be written so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn write_batch(&mut self, now_nanos: i64) {
        if self.batch_entries == 0 {
            return;
        }
        if self.tell_drops(now_nanos) {
            match self.file.write_all(&self.batch) {
                Ok(()) => self.good_len += self.batch.len() as u64,
                Err(error) => self.drop_entries(error),
            }
        } else {
            self.dropped += self.batch_entries;
            self.untold += self.batch_entries;
        }
        self.batch.clear();
        self.batch_entries = 0;
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
            text.as_bytes(),
            StreamKind::Stderr,
            &time::rfc3339(now_nanos),
        );
        if self.file.write_all(&line).is_err() {
            self.cut_back();
            return false;
        }
        self.good_len += line.len() as u64;
        self.untold = 0;
        self.reason = None;
        true
    }

    /// Part of the batch may be in the file: its whole entries stay, the rest is cut off and counted.
    fn drop_entries(&mut self, error: io::Error) {
        let length = self.file.metadata().map_or(self.good_len, |m| m.len());
        let written = usize::try_from(length.saturating_sub(self.good_len))
            .unwrap_or(0)
            .min(self.batch.len());
        let whole = self.batch[..written]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |i| i + 1);
        let kept = self.batch[..whole].iter().filter(|b| **b == b'\n').count() as u64;
        self.good_len += whole as u64;
        self.cut_back();
        let lost = self.batch_entries.saturating_sub(kept);
        self.dropped += lost;
        self.untold += lost;
        self.reason = Some(error);
    }

    fn cut_back(&self) {
        // Cutting needs no space; if even this fails, readers skip the one damaged line.
        let _uncut = self.file.set_len(self.good_len);
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

/// Appends one entry as a line of JSON.
fn encode(out: &mut Vec<u8>, text: &[u8], stream: StreamKind, time: &str) {
    out.extend_from_slice(b"{\"log\":\"");
    for chunk in text.utf8_chunks() {
        escape(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(b"\",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut plain = 0;
    for (i, byte) in text.iter().enumerate() {
        let short = match byte {
            b'"' | b'\\' => *byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..=0x1f => 0,
            _ => continue,
        };
        out.extend_from_slice(&text[plain..i]);
        plain = i + 1;
        if short == 0 {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        } else {
            out.extend_from_slice(&[b'\\', short]);
        }
    }
    out.extend_from_slice(&text[plain..]);
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
