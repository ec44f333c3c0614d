//! Block devices.

use crate::cgroup::Cgroup;
use crate::observe::Kind;
use std::fs;
use std::path::Path;

/// What went to and from block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// Bytes.
    pub service_bytes: Vec<Transfer>,
    /// Requests.
    pub serviced: Vec<Transfer>,
    /// Requests that wait; from here on only with an I/O scheduler that counts (BFQ), on version 1.
    pub queued: Vec<Transfer>,
    /// Nanoseconds of work on requests.
    pub service_time: Vec<Transfer>,
    /// Nanoseconds of waiting.
    pub wait_time: Vec<Transfer>,
    /// Requests that became part of others.
    pub merged: Vec<Transfer>,
    /// Milliseconds of the device's time.
    pub time: Vec<Transfer>,
    /// Sectors.
    pub sectors: Vec<Transfer>,
}

/// A number for one device and kind of request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard` or `Total`; empty where the kernel does not tell them apart.
    pub operation: String,
    /// How much.
    pub value: u64,
}

pub(super) fn read(cgroup: &Cgroup) -> BlockIo {
    let v1 = cgroup
        .dirs()
        .iter()
        .find(|dir| dir.controllers.iter().any(|c| c == "blkio"));
    match v1.or_else(|| cgroup.unified()) {
        Some(dir) if dir.kind == Kind::V1 => read_v1(&dir.path),
        Some(dir) => read_v2(&fs::read_to_string(dir.path.join("io.stat")).unwrap_or_default()),
        None => BlockIo::default(),
    }
}

/// Each number is where the I/O scheduler in use has it; without one that counts there are those of the throttle.
fn read_v1(dir: &Path) -> BlockIo {
    let first = |name: &str, throttle: Option<&str>| {
        let files = [
            Some(format!("blkio.bfq.{name}_recursive")),
            Some(format!("blkio.{name}_recursive")),
            throttle.map(|name| format!("blkio.throttle.{name}_recursive")),
            throttle.map(|name| format!("blkio.throttle.{name}")),
        ];
        let texts = files
            .into_iter()
            .flatten()
            .filter_map(|file| fs::read_to_string(dir.join(file)).ok());
        texts
            .map(|text| text.lines().filter_map(line).collect::<Vec<_>>())
            .find(|lines| !lines.is_empty())
            .unwrap_or_default()
    };
    BlockIo {
        service_bytes: first("io_service_bytes", Some("io_service_bytes")),
        serviced: first("io_serviced", Some("io_serviced")),
        queued: first("io_queued", None),
        service_time: first("io_service_time", None),
        wait_time: first("io_wait_time", None),
        merged: first("io_merged", None),
        time: first("time", None),
        sectors: first("sectors", None),
    }
}

/// `MAJOR:MINOR [OPERATION] VALUE`; the sum of all devices has no number and is left out.
fn line(line: &str) -> Option<Transfer> {
    let mut words = line.split_whitespace();
    let (major, minor) = device(words.next()?)?;
    let (operation, value) = match (words.next()?, words.next()) {
        (operation, Some(value)) => (operation.to_owned(), value),
        (value, None) => (String::new(), value),
    };
    Some(Transfer {
        major,
        minor,
        operation,
        value: value.parse().ok()?,
    })
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn read_v2(text: &str) -> BlockIo {
    let mut io = BlockIo::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(device) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, operation) = match key {
                "rbytes" => (&mut io.service_bytes, "Read"),
                "wbytes" => (&mut io.service_bytes, "Write"),
                "dbytes" => (&mut io.service_bytes, "Discard"),
                "rios" => (&mut io.serviced, "Read"),
                "wios" => (&mut io.serviced, "Write"),
                "dios" => (&mut io.serviced, "Discard"),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                list.push(Transfer {
                    major,
                    minor,
                    operation: operation.to_owned(),
                    value,
                });
            }
        }
    }
    io
}
