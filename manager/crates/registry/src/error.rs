//! What can go wrong at a registry.

use std::path::PathBuf;
use std::time::Duration;

use croze_model::{Digest, DigestError, Error, ErrorKind, Platform};

/// When a server said that it wants to be left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// In answer to this request.
    Now,
    /// To somebody else: this request was not sent.
    Before,
}

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
    /// No answer in the time that a source has after which others can be asked.
    #[error("registry {registry} does not answer at {address} within {time:?}")]
    Silent {
        /// The registry.
        registry: String,
        /// The address that was tried.
        address: String,
        /// The time.
        time: Duration,
    },
    /// A file of certificates cannot be read.
    #[error("cannot read the {what} for registry {registry} in {}", path.display())]
    ReadPem {
        /// The registry.
        registry: String,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file of certificates holds something else.
    #[error("cannot use the {what} for registry {registry} in {}", path.display())]
    Pem {
        /// The registry.
        registry: String,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A file of certificates holds none.
    #[error("there is no certificate (PEM) for registry {registry} in {}", path.display())]
    NoCertificate {
        /// The registry.
        registry: String,
        /// The file.
        path: PathBuf,
    },
    /// The thread that set the client up is gone: this program ends.
    #[error("the connection to registry {registry} was not set up: the daemon is ending")]
    CutOff {
        /// The registry.
        registry: String,
    },
    /// An address that none can be.
    #[error("registry {registry} has no usable address: {address}")]
    Address {
        /// The registry.
        registry: String,
        /// What it came to.
        address: String,
    },
    /// A name that no registry can have.
    #[error("{name:?} is no registry's name")]
    Name {
        /// As given.
        name: String,
    },
    /// Something else answers there.
    #[error("there is no registry at {registry}: {address} answered {status}")]
    NoRegistry {
        /// The registry.
        registry: String,
        /// The address that every registry answers.
        address: String,
        /// The status code and its text.
        status: String,
    },
    /// Who would be asked for credentials is another server.
    #[error("registry {registry} sends whoever logs in on to {server}, which asks for credentials itself")]
    LoginElsewhere {
        /// The registry.
        registry: String,
        /// Where it leads to.
        server: String,
    },
    /// The registry wants to know who asks.
    #[error("registry {registry} gives repository {repository} to no anonymous users: {reason}")]
    NoCredentials {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// What it said.
        reason: String,
    },
    /// The registry does not believe who asks.
    #[error("registry {registry} does not accept the password or token of {who}: {reason}")]
    WrongCredentials {
        /// The registry.
        registry: String,
        /// Who asked.
        who: String,
        /// What it said.
        reason: String,
    },
    /// The registry knows who asks, and refuses.
    #[error("registry {registry} denies {who} access to repository {repository}: {reason}")]
    Denied {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// Who asked.
        who: String,
        /// What it said.
        reason: String,
    },
    /// Plain HTTP is spoken to a registry that speaks HTTPS.
    #[error("registry {registry} speaks HTTPS, and was asked in plain HTTP: it answered {status}")]
    WantsTls {
        /// The registry.
        registry: String,
        /// The status code and its text.
        status: String,
    },
    /// There is no way to ask for access.
    #[error("cannot ask registry {registry} for access: {reason}")]
    NoToken {
        /// The registry.
        registry: String,
        /// Why.
        reason: &'static str,
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
    /// A document that does not come to its end.
    #[error("{what} did not come whole from {address} within {seconds} seconds")]
    Slow {
        /// What was asked for.
        what: String,
        /// The server.
        address: String,
        /// How long it was waited for.
        seconds: u64,
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
    /// A registry that wants to be left alone, for longer than anybody waits or too often.
    #[error(
        "registry {registry} answered {status} for {address} and wants to be asked again in {} seconds only{said}",
        whole_seconds(*wait)
    )]
    TooBusy {
        /// The registry.
        registry: String,
        /// The address.
        address: String,
        /// The status code and its text.
        status: String,
        /// After what time it wants to be asked again.
        wait: Duration,
        /// When it said so.
        told: Told,
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
    /// The registry sends too slowly.
    #[error(
        "registry {registry} sends blob {digest} at less than 64 KiB a minute: given up at {received} of {size} bytes"
    )]
    TooSlow {
        /// The registry.
        registry: String,
        /// The blob.
        digest: Digest,
        /// Bytes that came.
        received: u64,
        /// Bytes there should be.
        size: u64,
    },
    /// A manifest or index that cannot be read.
    #[error("the manifest of {what} is malformed: {reason}")]
    Malformed {
        /// What was asked for.
        what: String,
        /// Why.
        reason: String,
    },
    /// A manifest of the form that was used until 2016.
    #[error("the manifest of {what} has schema version 1, which is not supported")]
    SchemaOne {
        /// What was asked for.
        what: String,
    },
    /// Indexes that name more and more indexes.
    #[error("{what} consists of more than {limit} indexes: so many are looked at for one image")]
    TooManyIndexes {
        /// What was asked for.
        what: String,
        /// How many are looked at.
        limit: usize,
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
            R::Unreachable {
                registry, source, ..
            } => {
                let advice = advice(&source, &registry);
                new(ErrorKind::Unavailable, "connect")
                    .because(source)
                    .hint(advice)
            }
            R::ReadPem { source, .. } => new(ErrorKind::Internal, "connect")
                .because(source)
                .hint("the file is named in the daemon's croze.toml, in the part of this registry"),
            R::Pem { source, .. } => new(ErrorKind::Internal, "connect")
                .because(source)
                .hint("the file must hold PEM; it is named in the daemon's croze.toml, in the part of this registry"),
            R::NoCertificate { .. } => new(ErrorKind::Internal, "connect")
                .hint("the file is named in the daemon's croze.toml, in the part of this registry"),
            R::CutOff { .. } => new(ErrorKind::Cancelled, "connect"),
            R::Address { .. } => new(ErrorKind::Unavailable, "connect"),
            R::Name { .. } => new(ErrorKind::InvalidArgument, "login")
                .hint("write HOST[:PORT], such as registry.example or localhost:5000"),
            R::NoRegistry { .. } => new(ErrorKind::NotFound, "login").hint("check the name and the port"),
            R::LoginElsewhere { server, .. } => new(ErrorKind::Unavailable, "login").hint(format!(
                "nothing was sent there; if that is the registry that you mean, log in there with: croze login {}",
                server.trim_start_matches("https://").trim_start_matches("http://")
            )),
            R::NoCredentials { registry, .. } => new(ErrorKind::Unauthenticated, "resolve").hint(format!(
                "log in with: croze login {registry} (or the repository does not exist)"
            )),
            R::WrongCredentials { registry, .. } => new(ErrorKind::Unauthenticated, "resolve")
                .hint(format!("log in again with: croze login {registry}")),
            R::Denied { registry, .. } => new(ErrorKind::PermissionDenied, "resolve").hint(format!(
                "the repository may not exist; else ask its owner for access, or log in as somebody else with: croze login {registry}"
            )),
            R::WantsTls { registry, .. } => new(ErrorKind::Unavailable, "connect").hint(format!(
                "say so in the daemon's croze.toml: [registries.\"{registry}\"] plain-http = false (and ca = \"/path\")"
            )),
            R::NoToken { .. } => new(ErrorKind::Unavailable, "resolve"),
            R::UnknownImage { .. } => {
                new(ErrorKind::NotFound, "resolve").hint("check the spelling of the repository and the tag")
            }
            R::UnknownBlob { .. } => new(ErrorKind::Corrupt, "download")
                .hint("the registry's copy of the image is incomplete: push it there again"),
            R::TokenServer { .. } => new(ErrorKind::Unavailable, "resolve").hint("try again later"),
            R::Slow { .. } | R::Silent { .. } => new(ErrorKind::Unavailable, "resolve").hint("try again later"),
            R::TooSlow { .. } => new(ErrorKind::Unavailable, "download").hint("try again later"),
            R::TooBusy { .. } => new(ErrorKind::Unavailable, "download").hint(
                "try again then; a registry that limits anonymous users may let those in who are logged in, and a mirror spares it",
            ),
            R::Status { status, .. } if status.starts_with("429") => new(ErrorKind::Unavailable, "download").hint(
                "it was asked too often: try again later; a registry that limits anonymous users may let those in who are logged in",
            ),
            R::Status { status, .. } if status.starts_with('5') => {
                new(ErrorKind::Unavailable, "download").hint("the registry, or a proxy before it, is in trouble: try again later")
            }
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
            R::TooManyIndexes { .. } => new(ErrorKind::Unsupported, "resolve")
                .hint("pull the image for one platform by its manifest's digest: NAME@sha256:…"),
            R::SchemaOne { .. } => new(ErrorKind::Unsupported, "resolve").hint(
                "pull and push the image once with a tool that still reads it (skopeo, docker before 28): that converts it",
            ),
            R::BadDigest { source, .. } => new(ErrorKind::Unsupported, "resolve").because(source),
            R::MediaType { .. } => new(ErrorKind::Unsupported, "resolve"),
            R::NoPlatform { .. } => {
                new(ErrorKind::NotFound, "resolve").hint("choose one of these platforms, or another tag")
            }
        }
    }
}

/// A wait as it is told: who comes after so many seconds does not come too early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0))
}

/// What to do about a registry that gives no answer.
fn advice(source: &reqwest::Error, registry: &str) -> String {
    let mut cause: Option<&dyn std::error::Error> = Some(source);
    while let Some(error) = cause {
        // The TLS library's errors are not reachable by type through the layers between.
        let text = error.to_string();
        if text.contains("certificate") {
            return format!(
                "its certificate is not trusted here: name the authority that issued it in the daemon's croze.toml \
                 ([registries.\"{registry}\"] ca = \"/path\"), or add it to the system's certificates"
            );
        }
        if text.contains("InvalidContentType") || text.contains("corrupt message") {
            return format!(
                "it does not speak HTTPS. If it is meant to speak plain HTTP, say so in the daemon's croze.toml: \
                 [registries.\"{registry}\"] plain-http = true"
            );
        }
        cause = error.source();
    }
    "check the name and the port, and that the registry runs and this host may reach it".to_owned()
}
