//! HTTP clients: one for the world, one for this host, one for each registry whose TLS is configured.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Identity, Url, redirect};

use crate::endpoint::is_loopback;
use crate::error::RegistryError;
use crate::hosts::{Host, Hosts};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a registry may stay silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// The largest file of certificates or keys that is read.
const MAX_PEM: u64 = 4 << 20;

/// Which client an address is reached with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// For the world: HTTPS, through the system's proxy if there is one.
    Remote,
    /// For this host in HTTPS: no proxy.
    LocalTls,
    /// For this host: no proxy, and no certificates that would have to be read.
    Local,
    /// For a configured registry, by its name.
    Configured(String),
}

impl Key {
    /// Whether all its addresses are on this host, so that the system's proxy is not asked.
    fn is_local(&self) -> bool {
        match self {
            Self::Remote => false,
            Self::LocalTls | Self::Local => true,
            Self::Configured(name) => is_loopback(name),
        }
    }
}

/// The clients, each made when first needed: reading the system's certificates takes time, and may fail where no registry but a local one is
/// used.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    made: Mutex<HashMap<Key, Client>>,
}

impl Clients {
    /// The client for an address.
    pub(crate) async fn of(&self, hosts: &Hosts, registry: &str, url: &Url) -> Result<Client, RegistryError> {
        let (key, host) = choose(hosts, url);
        if let Some(client) = self.lock().get(&key) {
            return Ok(client.clone());
        }
        let name = registry.to_owned();
        let work = {
            let key = key.clone();
            move || build(&key, &host, &name)
        };
        let built = tokio::task::spawn_blocking(work).await;
        let client = built.map_err(|_| RegistryError::CutOff {
            registry: registry.to_owned(),
        })??;
        Ok(self.lock().entry(key).or_insert(client).clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Client>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which client reaches an address, and what is configured for it.
fn choose(hosts: &Hosts, url: &Url) -> (Key, Host) {
    let configured = hosts
        .at(url)
        .filter(|(_, host)| url.scheme() == "https" && host.wants_tls());
    match configured {
        Some((name, host)) => (Key::Configured(name.to_owned()), host.clone()),
        None if !is_loopback_url(url) => (Key::Remote, Host::default()),
        // Without a certificate nobody on this host could be spoken to in TLS; with the system's, some can.
        None if url.scheme() == "http" => (Key::Local, Host::default()),
        None => (Key::LocalTls, Host::default()),
    }
}

/// Whether an address is on the loopback interface by its text.
pub(crate) fn is_loopback_url(url: &Url) -> bool {
    url.host_str().is_some_and(is_loopback)
}

fn build(key: &Key, host: &Host, registry: &str) -> Result<Client, RegistryError> {
    let mut builder = Client::builder()
        .user_agent(concat!("croze/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(SILENCE)
        // Followed by hand, so that credentials stay here.
        .redirect(redirect::Policy::none());
    if key.is_local() {
        builder = builder.no_proxy();
    }
    builder = match key {
        Key::Remote | Key::LocalTls => builder,
        Key::Local => builder.tls_certs_only([]),
        Key::Configured(_) => tls(builder, host, registry)?,
    };
    builder.build().map_err(|source| RegistryError::Client {
        registry: registry.to_owned(),
        source,
    })
}

fn tls(mut builder: ClientBuilder, host: &Host, registry: &str) -> Result<ClientBuilder, RegistryError> {
    let unusable = |path: &Path, what| {
        let (registry, path) = (registry.to_owned(), path.to_owned());
        move |source| RegistryError::Pem {
            registry,
            path,
            what,
            source,
        }
    };
    if let Some(ca) = &host.ca {
        let what = "authority's certificates";
        let certificates = Certificate::from_pem_bundle(&read(ca, registry, what)?);
        let certificates = certificates.map_err(unusable(ca, what))?;
        if certificates.is_empty() {
            return Err(RegistryError::NoCertificate {
                registry: registry.to_owned(),
                path: ca.clone(),
            });
        }
        builder = builder.tls_certs_merge(certificates);
    }
    if let Some(client) = &host.client {
        let what = "client's certificate and key";
        let mut pem = read(&client.certificate, registry, "client's certificate")?;
        pem.push(b'\n');
        pem.extend(read(&client.key, registry, "client's key")?);
        builder = builder.identity(Identity::from_pem(&pem).map_err(unusable(&client.certificate, what))?);
    }
    Ok(builder.tls_danger_accept_invalid_certs(host.insecure_skip_verify))
}

fn read(path: &Path, registry: &str, what: &'static str) -> Result<Vec<u8>, RegistryError> {
    let failed = |source| RegistryError::ReadPem {
        registry: registry.to_owned(),
        path: path.to_owned(),
        what,
        source,
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > MAX_PEM {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_this_host_shares_no_client_with_the_world() {
        let host = |plain_http, insecure_skip_verify| Host {
            plain_http,
            insecure_skip_verify,
            ..Host::default()
        };
        let hosts: Hosts = [
            ("localhost:5000".to_owned(), host(Some(false), false)),
            ("127.0.0.1:5001".to_owned(), host(None, true)),
            ("r.example:5000".to_owned(), host(None, true)),
        ]
        .into_iter()
        .collect();
        for (address, expected, local) in [
            ("http://localhost:5005/v2/", Key::Local, true),
            ("https://localhost:5000/v2/", Key::LocalTls, true),
            (
                "https://127.0.0.1:5001/v2/",
                Key::Configured("127.0.0.1:5001".into()),
                true,
            ),
            (
                "https://r.example:5000/v2/",
                Key::Configured("r.example:5000".into()),
                false,
            ),
            ("https://registry-1.docker.io/v2/", Key::Remote, false),
            ("http://cdn.example/blob", Key::Remote, false),
        ] {
            let (key, _) = choose(&hosts, &address.parse().unwrap());
            assert_eq!(key.is_local(), local, "{address}");
            assert_eq!(key, expected, "{address}");
        }
    }
}
