//! Log lines in the two formats of runc.
//!
//! ```text
//! time="2026-01-02T03:04:05Z" level=error msg="container does not exist"
//! {"level":"error","msg":"container does not exist","time":"2026-01-02T03:04:05Z"}
//! ```
//!
//! Without `--log`, warnings go to standard error. A line is one `write`, so that lines of several runtimes do
//! not mix in a shared file.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use croze_container::state::record::rfc3339;

use super::args::LogFormat;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Debug,
    Warning,
    Error,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The log file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log file {}", path.display())]
pub(crate) struct LogError {
    path: PathBuf,
    source: std::io::Error,
}

/// Where log lines go.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<File>,
    format: LogFormat,
    threshold: Level,
}

impl Log {
    /// Opens the log; without a path it is standard error.
    pub(crate) fn open(path: Option<&Path>, format: LogFormat, threshold: Level) -> Result<Self, LogError> {
        let file = match path.filter(|path| !path.as_os_str().is_empty()) {
            None => None,
            Some(path) => {
                let opened = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .mode(0o644)
                    .open(path);
                Some(opened.map_err(|source| LogError {
                    path: path.to_owned(),
                    source,
                })?)
            }
        };
        Ok(Self {
            file,
            format,
            threshold,
        })
    }

    /// The log that is named by the words before the verb of a line that could not be understood, if it can be opened: callers read
    /// there what was wrong with the line.
    pub(crate) fn named_by(line: &[OsString]) -> Option<Self> {
        let value = |flag: &str| {
            // The last one counts, as where the line is understood.
            line.iter().enumerate().rev().find_map(|(at, word)| {
                let rest = word.as_bytes().strip_prefix(flag.as_bytes())?;
                match rest {
                    [] => line.get(at + 1).map(OsString::as_os_str),
                    [b'=', value @ ..] => Some(OsStr::from_bytes(value)),
                    _ => None,
                }
            })
        };
        let format = match value("--log-format") {
            Some(format) if format == "json" => LogFormat::Json,
            _ => LogFormat::Text,
        };
        let path = value("--log").filter(|path| !path.is_empty())?;
        Self::open(Some(Path::new(path)), format, Level::Warning).ok()
    }

    /// Whether lines go to standard error, and as JSON.
    pub(crate) const fn is_standard_error_in_json(&self) -> bool {
        self.file.is_none() && matches!(self.format, LogFormat::Json)
    }

    /// Whether lines go to a file of their own.
    pub(crate) const fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Writes one line, if it matters enough. A log that cannot be written (its disk is full, its reader is
    /// gone) is no reason to fail.
    pub(crate) fn line(&self, level: Level, message: &str) {
        if level < self.threshold {
            return;
        }
        let time = format!("{}Z", &rfc3339(SystemTime::now())[..19]);
        let line = match self.format {
            LogFormat::Json => json(level, message, &time),
            LogFormat::Text => text(level, message, &time),
        };
        let written = match self.file.as_ref() {
            Some(mut file) => file.write_all(line.as_bytes()),
            None => std::io::stderr().lock().write_all(line.as_bytes()),
        };
        written.ok();
    }
}

fn json(level: Level, message: &str, time: &str) -> String {
    let message = serde_json::Value::from(message);
    format!(
        "{{\"level\":\"{}\",\"msg\":{message},\"time\":\"{time}\"}}\n",
        level.name()
    )
}

fn text(level: Level, message: &str, time: &str) -> String {
    // Quoted as in JSON: near enough to how runc quotes, and one line in any case.
    let message = serde_json::Value::from(message);
    format!("time=\"{time}\" level={} msg={message}\n", level.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_like_runcs() {
        let time = "2026-01-02T03:04:05Z";
        assert_eq!(
            json(Level::Error, "a \"b\"\nc", time),
            "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\\nc\",\"time\":\"2026-01-02T03:04:05Z\"}\n"
        );
        assert_eq!(
            text(Level::Warning, "x \"y\"", time),
            "time=\"2026-01-02T03:04:05Z\" level=warning msg=\"x \\\"y\\\"\"\n"
        );
    }
}
