//! Where an image may come from: a registry's mirrors, in the order in which they are configured, and then the registry itself.
//!
//! ```text
//!   docker.io/library/debian:12      [registries."docker.io"] mirrors = ["mirror.example:5000", "cache.example/hub"]
//!      1. mirror.example:5000/library/debian:12
//!      2. cache.example/hub/library/debian:12
//!      3. registry-1.docker.io/library/debian:12
//! ```
//!
//! Invariants:
//! - A mirror is a registry of its own: how it is spoken to is what its own part of the configuration says, and what it is shown are the
//!   credentials for its own name, never those of the registry that it mirrors.
//! - Whatever is wrong with a source (no answer, no such image, no access, damaged content), the next one is asked. If all fail, the error has
//!   each one's reason; its kind and its advice are those of the last, the registry itself.
//! - What one source began to send another one may finish: blobs are named by their digests.
//! - As long as another source follows nothing is tried twice, but for a connection that breaks; and nobody waits for long: not for a mirror
//!   that says when to come back, and 15 seconds for one that is silent.
//! - A mirror that fails by itself, and not for one image only, is passed over for a while ([`crate::resting`]), so that not every layer waits
//!   for it again.

use std::str::FromStr;
use std::time::Duration;

use croze_model::{Error, Reference};

use crate::client::Registry;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;

/// The longest name of a mirror, in bytes; references have the same bound.
const LONGEST_MIRROR: usize = 255;

/// A mirror of a registry: another registry that has the same repositories, perhaps below a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// Its name, `host[:port]`, as references would name it.
    registry: String,
    /// What stands before the repositories' paths; may be empty.
    path: String,
}

/// A text that names no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// It is not of the form.
    #[error("{text:?} is no mirror: write \"host[:port]\" or \"host[:port]/path\"")]
    Form {
        /// As given.
        text: String,
    },
    /// Whether TLS is spoken is not said in the name.
    #[error(
        "{text:?} is no mirror: leave out \"http://\", and say plain-http = true in the mirror's own part, [registries.{registry:?}]"
    )]
    PlainScheme {
        /// As given.
        text: String,
        /// The mirror's registry.
        registry: String,
    },
}

impl FromStr for Mirror {
    type Err = MirrorError;

    /// `host[:port][/path]`, also with `https://` before it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || MirrorError::Form {
            text: text.to_owned(),
        };
        if let Some(rest) = text.strip_prefix("http://") {
            let registry = rest.split('/').next().unwrap_or_default().to_owned();
            return Err(MirrorError::PlainScheme {
                text: text.to_owned(),
                registry,
            });
        }
        let bare = text
            .strip_prefix("https://")
            .unwrap_or(text)
            .trim_end_matches('/');
        if bare.len() > LONGEST_MIRROR {
            return Err(form());
        }
        let (registry, path) = bare.split_once('/').unwrap_or((bare, ""));
        // What a repository there would be called must be a name.
        let probe = if path.is_empty() {
            format!("{registry}/a/b")
        } else {
            format!("{registry}/{path}/b")
        };
        let reference: Reference = probe.parse().map_err(|_| form())?;
        let plain = reference.domain() == registry && probe.ends_with(reference.path());
        let (registry, path) = (registry.to_owned(), path.to_owned());
        plain.then_some(Self { registry, path }).ok_or_else(form)
    }
}

impl std::fmt::Display for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.registry)?;
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        Ok(())
    }
}

impl Mirror {
    /// Its registry's name, `host[:port]`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// What a repository is called there.
    fn repository(&self, repository: &str) -> String {
        if self.path.is_empty() {
            repository.to_owned()
        } else {
            format!("{}/{repository}", self.path)
        }
    }
}

/// One place to ask.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// How it is called in messages.
    pub(crate) name: String,
    /// A client that asks with the credentials for this place.
    pub(crate) registry: Registry,
    pub(crate) endpoint: Endpoint,
}

/// All places to ask for one image.
#[derive(Debug)]
pub(crate) struct Sources {
    /// In order.
    pub(crate) mirrors: Vec<Source>,
    /// The registry itself, last.
    pub(crate) own: Source,
    /// The mirrors that are passed over, and why.
    pub(crate) tried: Tried,
}

/// The sources that failed, and why each.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    reasons: Vec<String>,
}

impl Source {
    /// It had what it was asked for.
    pub(crate) fn did_well(&self) {
        self.registry
            .resting()
            .did_well(&self.registry.as_asked(&self.name));
    }
}

impl Tried {
    /// Notes that a mirror failed; the next source is to be asked.
    pub(crate) fn note(&mut self, mirror: &Source, error: RegistryError) {
        let rest = rest_after(&error);
        let line = Error::from(error).one_line();
        tracing::info!(
            mirror = mirror.name,
            error = line,
            "a mirror failed, the next source is asked"
        );
        if let Some(asked) = rest {
            let who = mirror.registry.as_asked(&mirror.name);
            mirror.registry.resting().note(who, asked, line.clone());
        }
        self.reasons.push(format!("{}: {line}", mirror.name));
    }

    /// The error of all sources, of which this was the last.
    pub(crate) fn all_failed(&self, last: &Source, error: RegistryError, what: &str) -> Error {
        let error = Error::from(error);
        if self.reasons.is_empty() {
            return error;
        }
        let all = format!(
            "none of the {} sources of {what} gave it ({}; {}: {})",
            self.reasons.len() + 1,
            self.reasons.join("; "),
            last.name,
            error.one_line()
        );
        let told = Error::new(error.kind(), error.stage(), all);
        match error.advice() {
            Some(advice) => told.hint(advice),
            None => told,
        }
    }
}

/// Whether a failure says that the mirror is better left alone for a while, and for how long it asked. What is wrong with one image, one
/// answer or one connection says nothing about the next; but a connection that broke before its answer was the second in a row.
fn rest_after(error: &RegistryError) -> Option<Duration> {
    use RegistryError as R;
    match error {
        R::TooBusy { wait, .. } => Some(*wait),
        R::Unreachable { source, .. } => {
            let began_well = (source.is_body() || source.is_decode()) && !source.is_timeout();
            (!began_well).then_some(Duration::ZERO)
        }
        R::Silent { .. } | R::Slow { .. } | R::TooSlow { .. } | R::TokenServer { .. } => Some(Duration::ZERO),
        // Each layer would show the wrong password again, until the account is locked. Other credentials are not concerned.
        R::WrongCredentials { .. } => Some(Duration::ZERO),
        R::Status { status, .. } => {
            let is_its_own = ["429", "502", "503", "504"]
                .iter()
                .any(|code| status.starts_with(code));
            is_its_own.then_some(Duration::ZERO)
        }
        _ => None,
    }
}

impl Registry {
    /// Who is asked for images of `registry`, in order: its mirrors (`host[:port][/path]`), and the registry itself last.
    #[must_use]
    pub fn sources_of(&self, registry: &str) -> Vec<String> {
        let mirrors = self.mirrors(registry).iter().map(Mirror::to_string);
        mirrors.chain([registry.to_owned()]).collect()
    }

    fn mirrors(&self, registry: &str) -> &[Mirror] {
        self.hosts().get(registry).map_or(&[], |host| &host.mirrors)
    }

    /// Where the reference's image may come from.
    pub(crate) fn sources(&self, reference: &Reference) -> Sources {
        let mut tried = Tried::default();
        let mut mirrors = Vec::new();
        for mirror in self.mirrors(reference.domain()) {
            let name = mirror.to_string();
            let credentials = self.for_mirrors().get(&name).cloned();
            let registry = self
                .asking_as(credentials.unwrap_or_default())
                .with_another_next();
            if let Some(reason) = self.resting().reason(&registry.as_asked(&name)) {
                tried
                    .reasons
                    .push(format!("{name}, passed over for now: {reason}"));
                continue;
            }
            let repository = mirror.repository(reference.path());
            mirrors.push(Source {
                name,
                registry,
                endpoint: Endpoint::new(mirror.registry(), &repository, self.hosts()),
            });
        }
        let own = Source {
            name: reference.domain().to_owned(),
            registry: self.clone(),
            endpoint: Endpoint::of(reference, self.hosts()),
        };
        Sources { mirrors, own, tried }
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
