//! What can go wrong with snapshots.

use std::io;
use std::path::{Path, PathBuf};

use croze_model::{Digest, Error, ErrorKind};
use croze_store::StoreError;

/// A failure inside this crate; it leaves it as an [`Error`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// A file-system call failed.
    #[error("cannot {call} {}", path.display())]
    File {
        /// What was tried, as a verb.
        call: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record could not be read or written.
    #[error("cannot {call} the record of {what}")]
    Record {
        /// `read` or `write`.
        call: &'static str,
        /// Whose record.
        what: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// A layer of a chain is not here.
    #[error("layer {diff_id} is not in the store")]
    MissingLayer {
        /// Its diff id.
        diff_id: Digest,
    },
    /// More layers than overlayfs can stack.
    #[error("the image has {count} layers: overlayfs stacks {limit} at most")]
    TooManyLayers {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The caller's id cannot be a file name.
    #[error(
        "snapshot id {id:?} is not usable: expected 1 to 128 of [A-Za-z0-9_.-], not beginning with a dot"
    )]
    BadId {
        /// The id as given.
        id: String,
    },
    /// The id is taken.
    #[error("snapshot {id} exists already")]
    Exists {
        /// The id.
        id: String,
    },
    /// There is no such snapshot.
    #[error("there is no snapshot {id}")]
    Missing {
        /// The id.
        id: String,
    },
    /// A layer is still named by a snapshot.
    #[error("layer {key} is used by snapshot {id}")]
    LayerInUse {
        /// The layer's key.
        key: Digest,
        /// The snapshot that uses it.
        id: String,
    },
    /// Nobody knows whether a layer is used.
    #[error("layer {key} may be used by the snapshot at {}, whose record cannot be read: {reason}", path.display())]
    UnknownUse {
        /// The layer's key.
        key: Digest,
        /// The snapshot's directory or record.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// The file system counts no projects.
    #[error("the size of a container cannot be limited on this file system ({place}): {lacks}")]
    NoQuota {
        /// What it is, and where.
        place: String,
        /// What is missing.
        lacks: String,
        /// How it gets it.
        advice: String,
    },
    /// The image's files alone take more than the copy may.
    #[error(
        "the limit of snapshot {id} is less than its copy of the image takes: {limit} {what} are allowed, {taken} are taken"
    )]
    TooLarge {
        /// The snapshot.
        id: String,
        /// What is counted: bytes or inodes.
        what: &'static str,
        /// How much the copy takes.
        taken: u64,
        /// How much it may take.
        limit: u64,
    },
    /// Every project id that was drawn is somebody's.
    #[error(
        "no project id is free for a limit: {count} were drawn at random, and files on the file system belong to each of them"
    )]
    NoProject {
        /// How many were drawn.
        count: u32,
    },
    /// A directory does not belong to the project that its limits are those of.
    #[error("the limits of snapshot {id} cannot be kept: {} does not belong to its project {project} any more", path.display())]
    LostProject {
        /// The snapshot.
        id: String,
        /// The directory.
        path: PathBuf,
        /// The project's id.
        project: u32,
    },
    /// overlayfs refused.
    #[error("cannot mount snapshot {id} at {}: {step}", target.display())]
    Mount {
        /// The snapshot.
        id: String,
        /// Where.
        target: PathBuf,
        /// Which step of mounting failed.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The mount could not be undone.
    #[error("cannot unmount {}", target.display())]
    Unmount {
        /// What.
        target: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SnapshotError {
    pub(crate) fn file<E: Into<io::Error>>(call: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            call,
            path,
            source: source.into(),
        }
    }

    pub(crate) fn record(call: &'static str, what: impl Into<String>) -> impl FnOnce(StoreError) -> Self {
        let what = what.into();
        move |source| Self::Record { call, what, source }
    }
}

impl From<SnapshotError> for Error {
    fn from(error: SnapshotError) -> Self {
        use SnapshotError as S;
        let (kind, hint) = match &error {
            S::File { source, .. } if croze_store::is_full(source) => (ErrorKind::ResourceExhausted, None),
            S::Record { source, .. } if source.is_full() => (ErrorKind::ResourceExhausted, None),
            S::File { .. } | S::Record { .. } | S::Unmount { .. } => (ErrorKind::Internal, None),
            S::MissingLayer { .. } => (ErrorKind::NotFound, Some("pull the image again")),
            S::TooManyLayers { .. } => (
                ErrorKind::Unsupported,
                Some("rebuild the image with fewer layers"),
            ),
            S::BadId { .. } => (ErrorKind::InvalidArgument, None),
            S::Exists { .. } => (ErrorKind::AlreadyExists, None),
            S::Missing { .. } => (ErrorKind::NotFound, None),
            S::NoQuota { .. } => (ErrorKind::Unsupported, None),
            S::TooLarge { .. } => (
                ErrorKind::InvalidArgument,
                Some(
                    "without overlayfs a container is a copy of its image, which its limit counts: allow it that, and what it shall write",
                ),
            ),
            S::NoProject { .. } => (
                ErrorKind::ResourceExhausted,
                Some(
                    "so many are not used by containers: a program has given files of its own to them. Look at what it made (find DIRECTORY -exec lsattr -pd {} +; \
                     reports of repquota -P or xfs_quota), and remove it with its container",
                ),
            ),
            S::LostProject { .. } => (ErrorKind::Conflict, None),
            S::LayerInUse { .. } => (ErrorKind::Conflict, None),
            S::UnknownUse { .. } => (
                ErrorKind::Conflict,
                Some("remove the container of that id, or restore the record"),
            ),
            S::Mount { .. } => (
                ErrorKind::Internal,
                Some(
                    "overlayfs must be in the kernel, and the daemon's root directory must be on a file system that can be its upper layer (not overlayfs itself)",
                ),
            ),
        };
        let told = match &error {
            S::NoQuota { advice, .. } => Some(advice.clone()),
            S::LostProject { path, project, .. } => Some(format!(
                "files that were copied from another file system lose their project; give it back, to every file: chattr -R -p {project} {path}; \
                 find {path} -type d -exec chattr +P {{}} + (chattr says of links and devices that it cannot, which does not matter)",
                path = path.display()
            )),
            S::File { path, .. } if kind == ErrorKind::ResourceExhausted => {
                Some(croze_store::full_disk_advice(path))
            }
            S::Record { source, .. } if source.is_full() => source.advice(),
            _ => None,
        };
        let model = Error::new(kind, "snapshot", error.to_string());
        let model = match std::error::Error::source(&error) {
            // The outer text is `what` already; what remains to be told is the source, which the enum owns.
            Some(_) => match error {
                S::File { source, .. } | S::Mount { source, .. } | S::Unmount { source, .. } => {
                    model.because(source)
                }
                S::Record { source, .. } => model.because(source),
                _ => model,
            },
            None => model,
        };
        match told.or(hint.map(str::to_owned)) {
            Some(hint) => model.hint(hint),
            None => model,
        }
    }
}
