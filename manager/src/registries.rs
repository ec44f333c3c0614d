//! `[registries."host:port"]` in croze.toml: what is special about single registries.
//!
//! ```toml
//! [registries."registry.example:5000"]
//! plain-http = false
//! ca = "/etc/croze/registry-ca.pem"
//! client-cert = "/etc/croze/client.pem"
//! client-key = "/etc/croze/client.key"
//! insecure-skip-verify = false
//! mirrors = ["mirror.example:5000", "cache.example/hub"]
//! requests-per-second = 20
//! bytes-per-second = 50_000_000
//! ```

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use croze_engine::{ClientCertificate, Host, Hosts, Mirror, Rate};
use serde::Deserialize;
use toml::Spanned;

/// One registry as the file has it: every key may be missing, none may be unknown.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct File {
    plain_http: Option<bool>,
    ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    insecure_skip_verify: Option<bool>,
    #[serde(default)]
    mirrors: Vec<String>,
    requests_per_second: Option<NonZeroU32>,
    bytes_per_second: Option<NonZeroU64>,
}

/// The registries by name.
pub(crate) type Files = BTreeMap<Spanned<String>, File>;

/// What is wrong with a registry's part of the file, and where: the byte at which the part begins.
#[derive(Debug, thiserror::Error)]
#[error("[registries.{name:?}]: {reason}")]
pub(crate) struct Wrong {
    pub(crate) at: usize,
    name: String,
    reason: String,
}

/// Checks what the file says.
pub(crate) fn resolve(files: Files) -> Result<Hosts, Wrong> {
    files
        .into_iter()
        .map(|(name, file)| {
            let at = name.span().start;
            let name = name.into_inner();
            match host(&name, file) {
                Ok(host) => Ok((name, host)),
                Err(reason) => Err(Wrong { at, name, reason }),
            }
        })
        .collect()
}

fn host(name: &str, file: File) -> Result<Host, String> {
    let reference: Result<croze_model::Reference, _> = format!("{name}/a/b").parse();
    if !reference.is_ok_and(|reference| reference.domain() == name) {
        return Err("this is no registry's name: write \"host\" or \"host:port\"".to_owned());
    }
    for (key, path) in [
        ("ca", &file.ca),
        ("client-cert", &file.client_cert),
        ("client-key", &file.client_key),
    ] {
        if let Some(path) = path {
            readable(path).map_err(|reason| format!("{key} = {:?}: {reason}", path.display()))?;
        }
    }
    let client = match (file.client_cert, file.client_key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        (Some(_), None) => return Err("client-cert needs client-key beside it".to_owned()),
        (None, Some(_)) => return Err("client-key needs client-cert beside it".to_owned()),
    };
    let host = Host {
        plain_http: file.plain_http,
        ca: file.ca,
        client,
        insecure_skip_verify: file.insecure_skip_verify.unwrap_or_default(),
        mirrors: mirrors(name, &file.mirrors)?,
        rate: Rate {
            requests: file.requests_per_second,
            bytes: file.bytes_per_second,
        },
    };
    if host.plain_http == Some(true) && host.wants_tls() {
        return Err("plain-http = true leaves no use for certificates: take one of them away".to_owned());
    }
    Ok(host)
}

/// The mirrors of the registry of this name.
fn mirrors(name: &str, texts: &[String]) -> Result<Vec<Mirror>, String> {
    let mut mirrors = Vec::new();
    for text in texts {
        let mirror: Mirror = text.parse().map_err(|error| format!("mirrors: {error}"))?;
        if mirror.to_string() == name {
            return Err(format!("mirrors: {text:?} is the registry itself"));
        }
        if mirrors.contains(&mirror) {
            return Err(format!("mirrors: {text:?} is there twice"));
        }
        mirrors.push(mirror);
    }
    Ok(mirrors)
}

fn readable(path: &Path) -> Result<(), String> {
    if !path.is_absolute() {
        return Err("the path must be absolute".to_owned());
    }
    std::fs::File::open(path)
        .map(drop)
        .map_err(|error| format!("cannot read it: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Hosts, String> {
        let files: Files = toml::from_str(text).map_err(|error| error.to_string())?;
        resolve(files).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn mirrors_and_rates_are_read() {
        let text = "[\"docker.io\"]\nmirrors = [\"m.example:5000\", \"https://c.example/hub/\"]\nrequests-per-second = 20\n\
                    bytes-per-second = 50_000_000\n";
        let host = Host {
            mirrors: vec![
                "m.example:5000".parse().unwrap(),
                "c.example/hub".parse().unwrap(),
            ],
            rate: Rate {
                requests: NonZeroU32::new(20),
                bytes: NonZeroU64::new(50_000_000),
            },
            ..Host::default()
        };
        let expected: Hosts = [("docker.io".to_owned(), host)].into_iter().collect();
        assert_eq!(read(text).unwrap(), expected);
        for (line, words) in [
            ("mirrors = [\"plain\"]", "is no mirror"),
            ("mirrors = [\"http://m.example\"]", "plain-http = true"),
            ("mirrors = [\"r.example\"]", "the registry itself"),
            ("mirrors = [\"m.example\", \"https://m.example\"]", "twice"),
            ("mirrors = \"m.example\"", "invalid type"),
            ("requests-per-second = 0", "nonzero"),
            ("bytes-per-second = -1", "bytes-per-second"),
        ] {
            let error = read(&format!("[\"r.example\"]\n{line}\n")).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
