//! What can go wrong with a layer.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use croze_model::{Error, ErrorKind};

/// Why a layer could not be unpacked. Names of entries are as in the archive.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A name leads out of the layer.
    #[error("entry {entry:?} leads out of the layer: its name has a \"..\"")]
    Escape {
        /// The entry.
        entry: String,
    },
    /// A hard link's target leads out of the layer.
    #[error("entry {entry:?} is a hard link to {target:?}, which leads out of the layer")]
    LinkEscape {
        /// The entry.
        entry: String,
        /// The target as given.
        target: String,
    },
    /// A directory of the name is none: a file, or a symbolic link that leads in a circle.
    #[error("entry {entry:?} lies in {parent:?}, which is no directory in this layer")]
    BehindLink {
        /// The entry.
        entry: String,
        /// The directory part that is none.
        parent: String,
    },
    /// A hard link's target is nowhere.
    #[error("entry {entry:?} is a hard link to {target:?}, which neither this layer nor one below has")]
    NoLinkTarget {
        /// The entry.
        entry: String,
        /// The target as given.
        target: String,
    },
    /// A whiteout's name hides nothing sensible.
    #[error("entry {entry:?} is a malformed whiteout")]
    Whiteout {
        /// The entry.
        entry: String,
    },
    /// A name is empty, too long, or has a zero byte.
    #[error("entry {entry:?} has a name that no file can have")]
    Name {
        /// The entry.
        entry: String,
    },
    /// A header field is out of range.
    #[error("entry {entry:?} has an invalid {field}")]
    Field {
        /// The entry.
        entry: String,
        /// Which field.
        field: &'static str,
    },
    /// A kind of entry that we do not unpack.
    #[error("entry {entry:?} is {what}, which is not supported")]
    Unsupported {
        /// The entry.
        entry: String,
        /// What it is.
        what: String,
    },
    /// The archive ends in the middle.
    #[error("the archive is truncated")]
    Truncated,
    /// A header is damaged.
    #[error("the archive is damaged: {reason} at byte {offset}")]
    Damaged {
        /// What is wrong.
        reason: &'static str,
        /// Where, in the uncompressed archive.
        offset: u64,
    },
    /// A bound is reached.
    #[error("the layer is larger than the limit of {limit} {unit}")]
    TooLarge {
        /// The bound.
        limit: u64,
        /// `bytes`, `entries` or `bytes of names`.
        unit: &'static str,
    },
    /// The compressed bytes cannot be read or inflated.
    #[error("cannot decompress the layer")]
    Source {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file-system call failed.
    #[error("cannot {call} {entry:?}")]
    File {
        /// What was tried, as a verb.
        call: &'static str,
        /// The entry.
        entry: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Sink {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The target directory cannot be used.
    #[error("cannot open the layer's directory {}", path.display())]
    Target {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A name as it is shown in messages.
pub(crate) fn shown(path: &Path) -> String {
    let text = <Path as AsRef<OsStr>>::as_ref(path).to_string_lossy();
    if text.is_empty() {
        "/".to_owned()
    } else {
        text.into_owned()
    }
}

impl LayerError {
    pub(crate) fn file<E: Into<io::Error>>(call: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let entry = shown(path);
        move |source| Self::File {
            call,
            entry,
            source: source.into(),
        }
    }
}

impl LayerError {
    /// Whether this says something about the host, whatever the archive holds: its disk is full or failing, or it lacks memory or
    /// descriptors.
    #[must_use]
    pub fn is_the_hosts(&self) -> bool {
        use rustix::io::Errno as E;
        let (Self::File { source, .. } | Self::Target { source, .. } | Self::Sink { source }) = self else {
            return false;
        };
        let exhausted = [
            E::NOSPC,
            E::DQUOT,
            E::IO,
            E::ROFS,
            E::NOMEM,
            E::MFILE,
            E::NFILE,
            E::STALE,
        ];
        matches!(self, Self::Target { .. } | Self::Sink { .. })
            || E::from_io_error(source).is_some_and(|errno| exhausted.contains(&errno))
    }
}

/// Whether the file system refused a value that came from the archive: no other disk or retry would help.
fn refuses_value(source: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(source);
    use rustix::io::Errno as E;
    matches!(
        errno,
        Some(E::NAMETOOLONG | E::INVAL | E::RANGE | E::TOOBIG | E::ILSEQ | E::OVERFLOW | E::MLINK)
    )
}

impl From<LayerError> for Error {
    fn from(error: LayerError) -> Self {
        const DAMAGED: &str = "the image is built wrongly or made to do harm: nothing of this layer was kept";
        let what = error.to_string();
        match error {
            LayerError::File { source, .. } | LayerError::Target { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Error::new(ErrorKind::ResourceExhausted, "unpack", what)
                        .because(source)
                        .hint("free some space on the disk of the daemon's root directory")
                }
                _ if refuses_value(&source) => Error::new(ErrorKind::Unsupported, "unpack", what)
                    .because(source)
                    .hint("the entry has a name or an attribute that the file system of the daemon's root directory cannot store"),
                _ => Error::new(ErrorKind::Internal, "unpack", what).because(source),
            },
            LayerError::Source { source } if source.kind() == io::ErrorKind::Unsupported => {
                Error::new(ErrorKind::Unsupported, "unpack", what).because(source)
            }
            LayerError::Sink { source } if source.kind() == io::ErrorKind::StorageFull => {
                Error::new(ErrorKind::ResourceExhausted, "pack", what).because(source)
            }
            LayerError::Sink { source } => Error::new(ErrorKind::Internal, "pack", what).because(source),
            LayerError::Source { source } => Error::new(ErrorKind::Corrupt, "unpack", what).because(source),
            LayerError::TooLarge { .. } => Error::new(ErrorKind::ResourceExhausted, "unpack", what)
                .hint("the bounds are far above what real images need: nothing of this layer was kept"),
            LayerError::Unsupported { .. } => Error::new(ErrorKind::Unsupported, "unpack", what),
            _ => Error::new(ErrorKind::Corrupt, "unpack", what).hint(DAMAGED),
        }
    }
}
