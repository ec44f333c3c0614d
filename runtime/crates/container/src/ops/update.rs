//! `update`: new limits for a container that is there.

use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use super::Settings;
use super::scope;
use super::state::{find, status};
use crate::error::{Error, Result};
use crate::intel_rdt;
use crate::spec::{self, SpecError};
use crate::state::Status;

/// The longest text with resources that is read.
const LIMIT: u64 = 1 << 20;

/// Where new limits come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file with an OCI `resources` object.
    File(PathBuf),
    /// The same from standard input.
    Stdin,
    /// The same, put together from flags.
    Text(String),
}

/// Writes new limits, and new lines of its resctrl group's schemata. What is not given stays as it is.
///
/// # Errors
/// There is no such container, it has stopped, a limit cannot be had, or it has no resctrl group.
pub fn update(settings: &Settings, id: &str, source: &Source, schemata: &[String]) -> Result<()> {
    let resources = match source {
        Source::File(path) => parse(std::fs::File::open(path), path)?,
        Source::Stdin => parse(Ok(std::io::stdin().lock()), Path::new("standard input"))?,
        Source::Text(text) => parse(Ok(text.as_bytes()), Path::new("the flags"))?,
    };
    let locked = find(settings, id)?.lock()?;
    let not_running = || Error::State {
        verb: "update",
        id: id.to_owned(),
        reason: "container not running",
    };
    let record = locked.load()?.ok_or_else(not_running)?;
    match status(locked.entry(), &record)? {
        Status::Creating | Status::Stopped => Err(not_running()),
        Status::Created | Status::Running | Status::Paused => {
            match &record.intel_rdt {
                Some(rdt) => intel_rdt::write_schemata(&rdt.group, schemata)?,
                None if schemata.is_empty() => {}
                None => {
                    return Err(Error::State {
                        verb: "update the schemata of",
                        id: id.to_owned(),
                        reason: "it has no resctrl group: it was made without linux.intelRdt",
                    });
                }
            }
            scope::update(&record, &resources)
        }
    }
}

fn parse(opened: std::io::Result<impl Read>, path: &Path) -> Result<LinuxResources> {
    let failed = |source| SpecError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    let read = opened.and_then(|from| from.take(LIMIT).read_to_end(&mut text));
    read.map_err(failed)?;
    Ok(spec::parse_resources(&text, &path.display().to_string())?)
}
