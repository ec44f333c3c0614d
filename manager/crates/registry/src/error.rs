//! What can go wrong at a registry.

use croze_model::{Digest, DigestError, Error, ErrorKind, Platform};

/// A failure at a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The HTTP client could not be made.
    #[error("cannot set up the connection to registry {registry}")]
    Client {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No answer at all.
    #[error("cannot reach registry {registry} at {address}")]
    Unreachable {
        /// The registry.
        registry: String,
        /// The address that was tried.
        address: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The registry wants credentials, or refuses.
    #[error("registry {registry} refuses access to repository {repository}: {reason}")]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// What it said.
        reason: String,
    },
    /// The server that gives tokens does not work, which says nothing about the repository.
    #[error("the token server of registry {registry} answered {status} for {address}")]
    TokenServer {
        /// The registry.
        registry: String,
        /// The token server's address.
        address: String,
        /// The status code and its text.
        status: String,
    },
    /// No such repository, tag or manifest.
    #[error("registry {registry} has no image {repository} with {identifier}{said}")]
    UnknownImage {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// `tag x` or `digest sha256:…`.
        identifier: String,
        /// What it said, in brackets, or empty.
        said: String,
    },
    /// A manifest names a blob that is not there.
    #[error("registry {registry} has no blob {digest} in repository {repository}")]
    UnknownBlob {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// The blob.
        digest: Digest,
    },
    /// An answer that was not expected.
    #[error("registry {registry} answered {status} for {address}{said}")]
    Status {
        /// The registry.
        registry: String,
        /// The address.
        address: String,
        /// The status code and its text.
        status: String,
        /// What it said, in brackets, or empty.
        said: String,
    },
    /// A redirect that is not followed.
    #[error("registry {registry} redirects {address} {reason}")]
    Redirect {
        /// The registry.
        registry: String,
        /// The address.
        address: String,
        /// Why it is not followed.
        reason: &'static str,
    },
    /// Content with another digest.
    #[error("the manifest of {what} is damaged: its digest is {found}, but {by} says {expected}")]
    WrongDigest {
        /// What was asked for.
        what: String,
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
        /// Who promised.
        by: &'static str,
    },
    /// More bytes than allowed.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What.
        what: String,
        /// The bound.
        limit: u64,
    },
    /// The size differs from the descriptor's.
    #[error(
        "{what} has {found} bytes at registry {registry}, but its descriptor says {expected}: it is truncated or damaged"
    )]
    WrongSize {
        /// What.
        what: String,
        /// The registry.
        registry: String,
        /// By the descriptor.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// The connection broke too often.
    #[error("the download of blob {digest} from registry {registry} broke off at {received} of {size} bytes")]
    Broken {
        /// The registry.
        registry: String,
        /// The blob.
        digest: Digest,
        /// Bytes that came.
        received: u64,
        /// Bytes there should be.
        size: u64,
        /// Why, if the connection said.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// A manifest or index that cannot be read.
    #[error("the manifest of {what} is malformed: {reason}")]
    Malformed {
        /// What was asked for.
        what: String,
        /// Why.
        reason: String,
    },
    /// A digest of another algorithm, or none.
    #[error("the manifest of {what} names something by an unusable digest")]
    BadDigest {
        /// What was asked for.
        what: String,
        /// Why.
        #[source]
        source: DigestError,
    },
    /// A kind of document that is no image.
    #[error("{what} is not an image that can be run: its media type is {media_type:?}")]
    MediaType {
        /// What was asked for.
        what: String,
        /// The type.
        media_type: String,
    },
    /// An index without the platform.
    #[error("{what} has no image for {wanted}: it has {available}")]
    NoPlatform {
        /// What was asked for.
        what: String,
        /// What was wanted.
        wanted: Platform,
        /// What there is, as a list.
        available: String,
    },
}

impl From<RegistryError> for Error {
    fn from(error: RegistryError) -> Self {
        use RegistryError as R;
        let what = error.to_string();
        let new = |kind, stage| Error::new(kind, stage, what);
        match error {
            R::Client { source, .. } => new(ErrorKind::Internal, "connect")
                .because(source)
                .hint("are the system's CA certificates installed?"),
            R::Unreachable { source, .. } => {
                let advice = advice(&source);
                new(ErrorKind::Unavailable, "connect")
                    .because(source)
                    .hint(advice)
            }
            R::Unauthorized { .. } => new(ErrorKind::Unauthenticated, "resolve")
                .hint("the repository may not exist, or it is private: only anonymous access is supported"),
            R::UnknownImage { .. } => {
                new(ErrorKind::NotFound, "resolve").hint("check the spelling of the repository and the tag")
            }
            R::UnknownBlob { .. } => new(ErrorKind::Corrupt, "download")
                .hint("the registry's copy of the image is incomplete: push it there again"),
            R::TokenServer { .. } => new(ErrorKind::Unavailable, "resolve").hint("try again later"),
            R::Status { .. } | R::Redirect { .. } => new(ErrorKind::Unavailable, "download"),
            R::WrongDigest { .. } | R::WrongSize { .. } => new(ErrorKind::Corrupt, "verify")
                .hint("the registry, or a proxy before it, serves damaged content: nothing of it was kept"),
            R::TooLarge { .. } => new(ErrorKind::Corrupt, "verify"),
            R::Broken { source, .. } => {
                let error = new(ErrorKind::Unavailable, "download").hint("try again later");
                match source {
                    Some(source) => error.because(source),
                    None => error,
                }
            }
            R::Malformed { .. } => new(ErrorKind::Corrupt, "resolve"),
            R::BadDigest { source, .. } => new(ErrorKind::Unsupported, "resolve").because(source),
            R::MediaType { .. } => new(ErrorKind::Unsupported, "resolve"),
            R::NoPlatform { .. } => {
                new(ErrorKind::NotFound, "resolve").hint("choose one of these platforms, or another tag")
            }
        }
    }
}

/// What to do about a registry that gives no answer.
fn advice(source: &reqwest::Error) -> &'static str {
    let mut cause: Option<&dyn std::error::Error> = Some(source);
    while let Some(error) = cause {
        // The TLS library's errors are not reachable by type through the layers between.
        if error.to_string().contains("certificate") {
            return "its certificate is not trusted here: add the authority that issued it to the system's certificates";
        }
        cause = error.source();
    }
    "check the name and the port, and that the registry runs and this host may reach it"
}
