//! What can go wrong with images.

use std::fmt;

use croze_model::{Digest, Error, ErrorKind};
use croze_store::StoreError;

/// A failure inside this crate; it leaves it as an [`Error`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
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
    /// No such image.
    #[error("there is no image {name:?} here")]
    Unknown {
        /// As it was asked for.
        name: String,
        /// The names that are here and may have been meant.
        near: Vec<String>,
    },
    /// A prefix of several ids.
    #[error("{name:?} is ambiguous: it could be {candidates}")]
    Ambiguous {
        /// As it was asked for.
        name: String,
        /// The short ids.
        candidates: String,
    },
    /// A digest says itself which image it means.
    #[error("cannot give an image the name {name}: a name with a digest cannot be chosen")]
    TagWithDigest {
        /// The name.
        name: String,
    },
    /// The config is no image config.
    #[error("{reference} is not an image that can be run: its config has the media type {media_type:?}")]
    ConfigType {
        /// The image.
        reference: String,
        /// The type.
        media_type: String,
    },
    /// The config cannot be read.
    #[error("the config {config} is malformed")]
    Config {
        /// Which.
        config: Digest,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The config and the manifest do not fit.
    #[error("the image is inconsistent: its manifest has {layers} layers, its config {diff_ids} diff ids")]
    LayerCount {
        /// By the manifest.
        layers: usize,
        /// By the config.
        diff_ids: usize,
    },
    /// A digest that is not sha256.
    #[error("the config {config} names a layer by an unusable diff id {diff_id:?}")]
    DiffIdForm {
        /// Which config.
        config: Digest,
        /// The text.
        diff_id: String,
    },
    /// The layer is not what the config says.
    #[error("layer {blob} is damaged: it holds {found}, but the image's config says {expected}")]
    DiffId {
        /// The blob.
        blob: Digest,
        /// By the config.
        expected: Digest,
        /// By its content.
        found: Digest,
    },
    /// A blob could not be read.
    #[error("cannot read blob {blob}")]
    ReadBlob {
        /// Which.
        blob: Digest,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A stored blob is not what its name says.
    #[error("blob {blob} is damaged: its content has the digest {found}")]
    BlobDigest {
        /// Which.
        blob: Digest,
        /// By its content.
        found: Digest,
    },
    /// More layers than any image has.
    #[error("{reference} has {count} layers: {limit} are supported")]
    TooManyLayers {
        /// The image.
        reference: String,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A layer's blob is larger than an unpacked layer may be.
    #[error("layer {blob} of {reference} is said to have {size} bytes: {limit} are supported")]
    LayerSize {
        /// The image.
        reference: String,
        /// The blob.
        blob: Digest,
        /// By its descriptor.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// A layer that cannot be read without a key.
    #[error("layer {blob} of {reference} is encrypted, which is not supported")]
    Encrypted {
        /// The image.
        reference: String,
        /// The blob.
        blob: Digest,
    },
    /// Made for another platform.
    #[error("{reference} is made for {platform}, but {wanted} was asked for")]
    Platform {
        /// The image.
        reference: String,
        /// By the config.
        platform: String,
        /// Asked for.
        wanted: String,
    },
    /// A container uses it.
    #[error("image {image} is used by the {state} container {container}")]
    InUse {
        /// The image.
        image: String,
        /// The container.
        container: String,
        /// `running` or `stopped`.
        state: &'static str,
    },
    /// It has several names.
    #[error("image {image} has several names: {names}")]
    SeveralNames {
        /// The image.
        image: String,
        /// Its names.
        names: String,
    },
    /// A digest that is no name of its own.
    #[error("{name} is not a name of its own: it is what {tags} stands for")]
    DigestOfTag {
        /// As it was asked for.
        name: String,
        /// The names of the image.
        tags: String,
    },
    /// A task died.
    #[error("the work on {what} was cut off")]
    CutOff {
        /// What.
        what: String,
    },
    /// An embedded image cannot be made.
    #[error(
        "cannot make the embedded image: {path:?} is not a relative path of plain names, at most 100 bytes long"
    )]
    EmbeddedPath {
        /// The path.
        path: String,
    },
}

impl ImageError {
    pub(crate) fn record(call: &'static str, what: impl Into<String>) -> impl FnOnce(StoreError) -> Self {
        let what = what.into();
        move |source| Self::Record { call, what, source }
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        use ImageError as I;
        let what = error.to_string();
        let new = |kind, stage| Error::new(kind, stage, what);
        match error {
            I::Record { source, .. } => {
                let kind = match &source {
                    source if source.is_full() => ErrorKind::ResourceExhausted,
                    StoreError::TooNew { .. } => ErrorKind::Unsupported,
                    _ => ErrorKind::Internal,
                };
                let advice = source.advice();
                let error = new(kind, "record").because(source);
                match advice {
                    Some(advice) => error.hint(advice),
                    None => error,
                }
            }
            I::Unknown { name, near } => {
                let meant = match near.as_slice() {
                    [] => String::new(),
                    names => format!("did you mean {}? ", names.join(" or ")),
                };
                new(ErrorKind::NotFound, "resolve").hint(format!(
                    "{meant}`croze images` lists those that are here; to fetch it: croze pull {name}"
                ))
            }
            I::Ambiguous { .. } => {
                new(ErrorKind::InvalidArgument, "resolve").hint("give more digits of the id")
            }
            I::ConfigType { .. } => new(ErrorKind::Unsupported, "resolve"),
            I::Platform { .. } => new(ErrorKind::NotFound, "resolve")
                .hint("the image has this platform only: ask for it by name, if that is what you want"),
            I::Config { source, .. } => new(ErrorKind::Corrupt, "resolve").because(source),
            I::LayerCount { .. } | I::DiffIdForm { .. } => new(ErrorKind::Corrupt, "resolve"),
            I::ReadBlob { source, .. } => new(ErrorKind::Internal, "unpack").because(source),
            I::BlobDigest { .. } => new(ErrorKind::Corrupt, "verify").hint("pull the image again"),
            I::TooManyLayers { .. } => {
                new(ErrorKind::Unsupported, "resolve").hint("rebuild the image with fewer layers")
            }
            I::LayerSize { .. } | I::Encrypted { .. } => new(ErrorKind::Unsupported, "resolve"),
            I::DigestOfTag { .. } => new(ErrorKind::Conflict, "remove")
                .hint("remove that name, or the image by its id, or use force to remove all"),
            I::DiffId { .. } => new(ErrorKind::Corrupt, "verify")
                .hint("the image was built or copied wrongly: nothing of it was kept"),
            I::InUse { state: "running", .. } => {
                new(ErrorKind::Conflict, "remove").hint("stop and remove the container first")
            }
            I::InUse { .. } => {
                new(ErrorKind::Conflict, "remove").hint("remove the container first, or use force")
            }
            I::SeveralNames { .. } => new(ErrorKind::Conflict, "remove")
                .hint("remove it by its names, or use force to remove them all"),
            I::CutOff { .. } => new(ErrorKind::Cancelled, "pull"),
            I::TagWithDigest { .. } => new(ErrorKind::InvalidArgument, "tag"),
            I::EmbeddedPath { .. } => new(ErrorKind::InvalidArgument, "import"),
        }
    }
}

/// The same error once more, with the texts of its causes: one failed flight is told to everybody who waited for it.
pub(crate) fn copy(error: &Error) -> Error {
    let copied = Error::new(error.kind(), error.stage(), error.what());
    let cause = error
        .causes()
        .into_iter()
        .rev()
        .fold(None, |next: Option<Box<Cause>>, text| {
            Some(Box::new(Cause { text, next }))
        });
    let copied = match cause {
        Some(cause) => copied.because(*cause),
        None => copied,
    };
    match error.advice() {
        Some(advice) => copied.hint(advice),
        None => copied,
    }
}

#[derive(Debug)]
struct Cause {
    text: String,
    next: Option<Box<Cause>>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.next
            .as_deref()
            .map(|next| next as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_error_tells_the_same() {
        let deepest = std::io::Error::other("connection refused");
        let inner = Error::new(ErrorKind::Internal, "send", "sending failed").because(deepest);
        let error = Error::new(ErrorKind::Unavailable, "connect", "cannot reach it")
            .because(inner)
            .hint("try again");
        let copied = copy(&error);
        assert_eq!(
            copied.one_line(),
            "cannot reach it: sending failed: connection refused"
        );
        assert_eq!(copied.one_line(), error.one_line());
        assert_eq!(
            (copied.kind(), copied.stage(), copied.advice()),
            (error.kind(), error.stage(), error.advice())
        );
    }
}
