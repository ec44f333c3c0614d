//! What can go wrong with a cgroup. Each names the file, the value and the cause.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A failure of planning or of using a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host shows no cgroup file system.
    #[error("no cgroup file system is mounted here")]
    NoHierarchy,
    /// A limit is asked for whose controller this host does not have.
    #[error("{field} cannot be set: the cgroup controller {controller:?} is not available here")]
    MissingController {
        /// The controller.
        controller: String,
        /// The field of the spec that needs it.
        field: &'static str,
    },
    /// A value of the spec makes no sense.
    #[error("{field} is {value}: {why}")]
    Value {
        /// The field of the spec.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The path asked for is the root of a hierarchy.
    #[error("cgroupsPath {path:?} is the root cgroup; name a directory below it")]
    RootCgroup {
        /// The path as given.
        path: String,
    },
    /// The directory of a new container's cgroup is there already, and not empty.
    #[error(
        "the cgroup {path:?} is not empty: {processes} process(es) of somebody else are in it; choose another cgroupsPath"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// How many processes are in it and below it.
        processes: usize,
    },
    /// The directory of a new container's cgroup is there already, and frozen.
    #[error(
        "the cgroup {path:?} is there already and frozen: thaw or remove it, or choose another cgroupsPath"
    )]
    Frozen {
        /// The directory.
        path: PathBuf,
    },
    /// A directory could not be made.
    #[error("cannot make the cgroup {path:?}")]
    Make {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A directory could not be removed.
    #[error("cannot remove the cgroup {path:?}")]
    Remove {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {value:?} to {path:?}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// The cause.
        source: io::Error,
    },
    /// A memory limit is below what is in use.
    #[error("cannot set the memory limit to {value}: {usage} bytes are in use ({path:?})")]
    MemoryInUse {
        /// The limit's file.
        path: PathBuf,
        /// The limit.
        value: String,
        /// Bytes in use.
        usage: u64,
        /// The cause.
        source: io::Error,
    },
    /// A process could not be put into the cgroup.
    #[error("cannot put process {pid} into the cgroup {path:?}")]
    Attach {
        /// The process.
        pid: i32,
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A process could not move itself into the cgroup.
    #[error("cannot enter the cgroup {path:?}")]
    Enter {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The device program could not be loaded or attached.
    #[error("cannot {action} the device program of the cgroup {path:?}")]
    Program {
        /// Load or attach.
        action: &'static str,
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A process of the cgroup could not be signalled or waited for.
    #[error("cannot {action} process {pid} of the cgroup {path:?}")]
    Process {
        /// Signal or wait for.
        action: &'static str,
        /// The process.
        pid: i32,
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel did not do what was asked for in time.
    #[error("the cgroup {path:?} is not {state} after {} ms", after.as_millis())]
    Deadline {
        /// The directory.
        path: PathBuf,
        /// Frozen, thawed or empty.
        state: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// A property of systemd that an annotation asks for cannot be read.
    #[error("annotations: {annotation} is no value of a property: {source}")]
    Property {
        /// The annotation, as far as it is worth showing.
        annotation: String,
        /// What is wrong with it.
        source: crate::systemd::text::TextError,
    },
    /// systemd did not make the cgroup, or not change it.
    #[error(transparent)]
    Systemd(#[from] crate::systemd::Error),
    /// This cgroup has no freezer.
    #[error("the cgroup has no freezer: neither version 2 nor the freezer controller of version 1 is in use")]
    NoFreezer,
}

impl Error {
    /// The system's error below it, if there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Make { source, .. }
            | Self::Remove { source, .. }
            | Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::MemoryInUse { source, .. }
            | Self::Attach { source, .. }
            | Self::Enter { source, .. }
            | Self::Program { source, .. }
            | Self::Process { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
