//! `logs`.

use std::io::{self, Write};

use croze_client::v1::{LogEntry, LogsRequest, StdStream};
use croze_client::{Client, Error};

use crate::args::LogsArgs;
use crate::failure::Failure;
use crate::human;

/// `croze logs`
pub(super) async fn show(client: &Client, args: &LogsArgs) -> Result<u8, Failure> {
    let request = LogsRequest {
        container: args.container.clone(),
        follow: args.follow,
        tail: args.tail.0,
        since: args.since.clone().unwrap_or_default(),
        until: args.until.clone().unwrap_or_default(),
    };
    let mut entries = client
        .containers()
        .logs(request)
        .await
        .map_err(Error::from)?
        .into_inner();
    let (mut stdout, mut stderr) = (Writer::new(io::stdout(), args), Writer::new(io::stderr(), args));
    while let Some(entry) = entries.message().await.map_err(Error::from)? {
        let written = if entry.stream() == StdStream::Stderr {
            stderr.write(&entry)
        } else {
            stdout.write(&entry)
        };
        written.map_err(|source| Failure::io("write the log", source))?;
    }
    Ok(0)
}

/// Writes entries of one stream, with the time and the attributes before each line if wanted.
#[derive(Debug)]
struct Writer<W> {
    to: W,
    timestamps: bool,
    details: bool,
    at_line_start: bool,
}

impl<W: Write> Writer<W> {
    fn new(to: W, args: &LogsArgs) -> Self {
        Self {
            to,
            timestamps: args.timestamps,
            details: args.details,
            at_line_start: true,
        }
    }

    /// An entry may hold several lines, or a part of one.
    fn write(&mut self, entry: &LogEntry) -> io::Result<()> {
        for line in entry.data.split_inclusive(|&byte| byte == b'\n') {
            if self.timestamps && self.at_line_start {
                write!(self.to, "{} ", human::exact(&entry.time))?;
            }
            if self.details && self.at_line_start {
                // No attribute is kept with a line yet: docker leaves their place empty then.
                write!(self.to, " ")?;
            }
            self.to.write_all(line)?;
            self.at_line_start = line.ends_with(b"\n");
        }
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_at_line_starts_only() {
        let mut writer = Writer {
            to: Vec::new(),
            timestamps: true,
            details: true,
            at_line_start: true,
        };
        for (time, data) in [("T1", &b"a\nb"[..]), ("T2", b"c\n"), ("T3", b"d\n")] {
            let entry = LogEntry {
                stream: StdStream::Stdout.into(),
                time: time.to_owned(),
                data: data.to_vec().into(),
            };
            writer.write(&entry).unwrap();
        }
        assert_eq!(String::from_utf8(writer.to).unwrap(), "T1  a\nT1  bc\nT3  d\n");
    }
}
