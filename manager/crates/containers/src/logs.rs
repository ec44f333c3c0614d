//! Reading a log: docker's json-file format, written by the shim; see there for the format.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::error::ContainersError;
use crate::log_line;
use crate::observe;
use crate::record::State;
use crate::service::{LogEntry, LogOptions, LogStream};

/// Bytes read at once.
pub(crate) const BATCH: usize = 256 * 1024;
/// No entry is as long as this: the shim cuts what a container writes into parts of 16 KiB.
const ENTRY_MAX: usize = 4 * BATCH;
/// Entries that wait for a slow reader.
const WAITING: usize = 1024;

/// Opens the log at `path`; `state` says how long there is something to follow. A log that does not exist yet is empty.
pub(crate) fn open(path: PathBuf, options: LogOptions, state: watch::Receiver<State>) -> LogStream {
    let (send, receive) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        if let Err(error) = pump(path, options, state, &send).await {
            // Nobody listens any more, or this is the last that they hear.
            let _nobody = send.send(Err(error)).await;
        }
    });
    futures_util::stream::unfold(receive, |mut receive| async move {
        let item = receive.recv().await?;
        Some((item, receive))
    })
    .boxed()
}

async fn pump(
    path: PathBuf,
    options: LogOptions,
    mut state: watch::Receiver<State>,
    send: &mpsc::Sender<Result<LogEntry, ContainersError>>,
) -> Result<(), ContainersError> {
    let failed = ContainersError::file("read log", path.clone());
    let (from, to) = (options.since, options.until);
    let ends = tokio::time::sleep(options.until.map_or(Duration::MAX, from_now));
    tokio::pin!(ends);
    let opened = blocking(move || Reader::open(&path, options.tail)).await;
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    let changes = if options.follow {
        Some(Changes::of(&reader.path).map_err(failed)?)
    } else {
        None
    };
    loop {
        // Looked at before reading: what was written before the end is then read for certain.
        let running = state.borrow_and_update().is_running();
        let (returned, entries) = blocking(move || reader.batch())
            .await
            .map_err(ContainersError::file("read log", ""))?;
        reader = returned;
        let at_end = entries.is_none();
        for entry in entries.into_iter().flatten() {
            match place(&entry, from, to) {
                Ordering::Less => continue,
                Ordering::Equal => {}
                Ordering::Greater => return Ok(()),
            }
            if send.send(Ok(entry)).await.is_err() {
                return Ok(());
            }
        }
        let Some(changes) = changes.as_ref().filter(|_| running) else {
            if at_end {
                return Ok(());
            }
            continue;
        };
        if at_end {
            tokio::select! {
                changed = changes.wait() => changed.map_err(ContainersError::file("watch log", ""))?,
                // A container that was removed has a closed channel: the next round sees it as ended.
                ended = state.changed() => if ended.is_err() { return Ok(()) },
                () = send.closed() => return Ok(()),
                () = &mut ends => return Ok(()),
            }
        }
    }
}

/// How long it is until a moment; zero when it is over.
fn from_now(until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
}

/// Whether an entry was written before, within or after the wanted time. One whose time cannot be read is within.
fn place(entry: &LogEntry, from: Option<Timestamp>, to: Option<Timestamp>) -> Ordering {
    if from.is_none() && to.is_none() {
        return Ordering::Equal;
    }
    let Ok(time) = entry.time.parse::<Timestamp>() else {
        return Ordering::Equal;
    };
    if from.is_some_and(|from| time < from) {
        Ordering::Less
    } else if to.is_some_and(|to| time > to) {
        Ordering::Greater
    } else {
        Ordering::Equal
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("interrupted")))
}

/// Tells when a file grows.
struct Changes {
    fd: AsyncFd<OwnedFd>,
}

impl Changes {
    fn of(path: &std::path::Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, path, inotify::WatchFlags::MODIFY)?;
        Ok(Self {
            fd: observe::watched(fd)?,
        })
    }

    async fn wait(&self) -> io::Result<()> {
        let mut ready = self.fd.readable().await?;
        let mut events = [0u8; 4096];
        // What the events say is known; they are only taken away.
        while rustix::io::read(self.fd.get_ref(), &mut events).is_ok_and(|n| n > 0) {}
        ready.clear_ready();
        Ok(())
    }
}

/// Reads entries from a position on.
///
/// The position is always behind a whole entry, and what follows it is read anew each time: on a full disk the shim cuts a half-written entry off
/// and later writes others in its place.
struct Reader {
    path: PathBuf,
    file: File,
    position: u64,
    buffer: Vec<u8>,
}

impl Reader {
    fn open(path: &std::path::Path, tail: Option<u64>) -> io::Result<Self> {
        let file = File::open(path)?;
        let position = match tail {
            Some(entries) => tail_start(&file, entries)?,
            None => 0,
        };
        Ok(Self {
            path: path.into(),
            file,
            position,
            buffer: vec![0; BATCH],
        })
    }

    /// The complete entries of the next batch; `None` when nothing new is there.
    fn batch(mut self) -> io::Result<(Self, Option<Vec<LogEntry>>)> {
        let Some(whole) = read_whole(&self.file, &mut self.buffer, self.position, u64::MAX)? else {
            return Ok((self, None));
        };
        self.position += whole as u64;
        let entries = self.buffer[..whole]
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .filter_map(parse)
            .collect();
        Ok((self, Some(entries)))
    }
}

/// Reads whole entries from `from` on and before `until`, as many as fit into `buffer`, which grows for an entry that does not; returns their length.
/// `None` when nothing new is there.
pub(crate) fn read_whole(
    file: &File,
    buffer: &mut Vec<u8>,
    from: u64,
    until: u64,
) -> io::Result<Option<usize>> {
    loop {
        let wanted = usize::try_from(until - from)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let n = file.read_at(&mut buffer[..wanted], from)?;
        let full = n == buffer.len();
        match buffer[..n].iter().rposition(|b| *b == b'\n') {
            Some(newline) => return Ok(Some(newline + 1)),
            None if full && n < ENTRY_MAX => buffer.resize(n * 2, 0),
            // Damage of which no entry can be made.
            None if full => return Ok(Some(n)),
            None => return Ok(None),
        }
    }
}

/// One line; a damaged one (a power cut) is left out.
fn parse(line: &[u8]) -> Option<LogEntry> {
    let line = log_line::decode(line, || None)?;
    Some(LogEntry {
        stderr: line.stderr,
        time: line.time.to_owned(),
        data: line.data,
    })
}

/// Where the last `entries` entries begin, looking back through the file.
fn tail_start(file: &File, entries: u64) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut newlines = 0;
    let mut buffer = vec![0u8; 64 * 1024];
    while end > 0 {
        let start = end.saturating_sub(buffer.len() as u64);
        let window = &mut buffer[..usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(window, start)?;
        for (i, _) in window.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            // The newline of the last entry ends it; the one before the wanted entries begins them.
            if newlines == entries {
                return Ok(start + i as u64 + 1);
            }
            newlines += 1;
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: usize) -> String {
        format!("{{\"log\":\"line {n}\\n\",\"stream\":\"stdout\",\"time\":\"t\"}}\n")
    }

    fn texts(path: &std::path::Path, tail: Option<u64>) -> Vec<String> {
        let mut reader = Reader::open(path, tail).unwrap();
        let mut texts = Vec::new();
        loop {
            let (next, entries) = reader.batch().unwrap();
            reader = next;
            let Some(entries) = entries else { return texts };
            texts.extend(
                entries
                    .iter()
                    .map(|e| String::from_utf8(e.data.to_vec()).unwrap()),
            );
        }
    }

    #[test]
    fn tails_of_every_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let count = 5000; // several windows of the backward scan
        std::fs::write(&path, (0..count).map(line).collect::<String>()).unwrap();
        for tail in [0, 1, 2, 1500, 4999, 5000, 9999] {
            let found = texts(&path, Some(tail));
            let expected = usize::try_from(tail).unwrap().min(count);
            assert_eq!(found.len(), expected, "{tail}");
            assert_eq!(
                found.last().map(String::as_str),
                (tail > 0).then_some("line 4999\n")
            );
        }
        assert_eq!(texts(&path, None).len(), count);
    }

    #[test]
    fn damaged_and_unfinished_lines_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(
            &path,
            format!("{}{{\"log\":\"ha\0\n{}{{\"log\":\"unfin", line(1), line(2)),
        )
        .unwrap();
        assert_eq!(texts(&path, None), ["line 1\n", "line 2\n"]);
    }

    #[test]
    fn what_is_cut_off_and_written_anew_is_read_once_and_whole() {
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let half = "{\"log\":\"half of an entry that the disk did not take";
        std::fs::write(&path, format!("{}{half}", line(1))).unwrap();
        let count = |entries: Option<Vec<LogEntry>>| entries.map(|e| e.len());
        let (reader, first) = Reader::open(&path, None).unwrap().batch().unwrap();
        assert_eq!(count(first), Some(1));
        let (reader, none) = reader.batch().unwrap();
        assert_eq!(count(none), None, "half an entry is nothing new");
        // Shorter than what was there, then longer.
        let mut file = File::options().append(true).open(&path).unwrap();
        file.set_len(line(1).len() as u64).unwrap();
        file.write_all(line(2).as_bytes()).unwrap();
        let (reader, second) = reader.batch().unwrap();
        assert_eq!(second.unwrap()[0].data, "line 2\n");
        file.write_all(line(3).as_bytes()).unwrap();
        let (_, third) = reader.batch().unwrap();
        assert_eq!(third.unwrap()[0].data, "line 3\n");
    }

    #[test]
    fn an_entry_longer_than_a_batch_is_read_and_damage_without_end_is_passed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let long = "x".repeat(BATCH + 10);
        let entry = format!("{{\"log\":\"{long}\",\"stream\":\"stdout\",\"time\":\"t\"}}\n");
        std::fs::write(&path, [entry, line(1)].concat()).unwrap();
        assert_eq!(texts(&path, None), [long, "line 1\n".to_owned()]);
        std::fs::write(&path, format!("{}\n{}", "\0".repeat(2 * ENTRY_MAX), line(2))).unwrap();
        assert_eq!(texts(&path, None), ["line 2\n"]);
    }

    #[tokio::test]
    async fn following_ends_with_the_container_and_misses_nothing() {
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = File::create(&path).unwrap();
        file.write_all(line(0).as_bytes()).unwrap();
        let running = State::Running {
            process: crate::record::ProcessIdentity {
                pid: 1,
                start_ticks: 1,
                boot_id: String::new(),
            },
        };
        let (ends, state) = watch::channel(running);
        let options = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let mut stream = open(path, options, state);
        for n in 0..100 {
            assert_eq!(stream.next().await.unwrap().unwrap().data, format!("line {n}\n"));
            file.write_all(line(n + 1).as_bytes()).unwrap();
        }
        ends.send(State::Dead {
            reason: String::new(),
        })
        .unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().data, "line 100\n");
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn only_what_was_written_within_the_wanted_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let at = |second: u8| format!("2026-01-01T00:00:0{second}.5Z");
        let entry = |second| {
            format!(
                "{{\"log\":\"{second}\",\"stream\":\"stdout\",\"time\":\"{}\"}}\n",
                at(second)
            )
        };
        std::fs::write(&path, (1..=5).map(entry).collect::<String>()).unwrap();
        let (_ends, state) = watch::channel(State::Created);
        let moment = |second: u8| at(second).parse::<Timestamp>().ok();
        for (since, until, tail, expected) in [
            (None, None, None, "12345"),
            (moment(3), None, None, "345"),
            (None, moment(3), None, "123"),
            (moment(2), moment(4), None, "234"),
            (moment(2), None, Some(2), "45"),
            (moment(6), None, None, ""),
        ] {
            let options = LogOptions {
                follow: false,
                tail,
                since,
                until,
            };
            let entries: Vec<_> = open(path.clone(), options, state.clone()).collect().await;
            let texts: Vec<_> = entries.into_iter().map(|entry| entry.unwrap().data).collect();
            assert_eq!(
                texts.concat(),
                expected.as_bytes(),
                "{since:?} {until:?} {tail:?}"
            );
        }
    }
}
