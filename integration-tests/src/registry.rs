//! A real registry on loopback: Debian's docker-registry.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::authority::Certificate;
use crate::output::Output;
use crate::reaper::{self, Process};
use crate::scene::Scene;
use crate::wait::wait_until;

/// Every kind of manifest that the tests look at.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json";

/// A running registry; it ends with this value.
#[derive(Debug)]
pub struct Registry<'scene> {
    scene: &'scene Scene,
    process: Process,
    port: u16,
    /// What skopeo is told besides when it pushes.
    push_flags: Vec<String>,
}

/// What a registry is besides plain.
#[derive(Debug, Default)]
pub struct RegistryOptions {
    /// Serves TLS with this certificate.
    pub tls: Option<Certificate>,
    /// Wants a client certificate of the authority in this file.
    pub clients: Option<PathBuf>,
    /// Its configuration's part `auth:`.
    pub auth: String,
    /// `USER:PASSWORD` that pushes.
    pub pusher: Option<String>,
}

/// The bcrypt hash of `secret`: `perl -e 'print crypt("secret", q($2y$05$abcdefghijklmnopqrstuu))'`.
const SECRET: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

impl<'scene> Registry<'scene> {
    /// Starts a registry with empty storage on a free port.
    ///
    /// # Errors
    /// It cannot be started or does not answer.
    pub fn start(scene: &'scene Scene) -> Result<Self> {
        Self::start_with(scene, "registry", &RegistryOptions::default())
    }

    /// Starts one that lets only `alice` in, with the password `secret`.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_with_password(scene: &'scene Scene) -> Result<Self> {
        let users = scene.path("htpasswd");
        fs::write(&users, format!("alice:{SECRET}\n"))?;
        let options = RegistryOptions {
            auth: format!(
                "auth:\n  htpasswd:\n    realm: croze-test\n    path: {}\n",
                users.display()
            ),
            pusher: Some("alice:secret".to_owned()),
            ..RegistryOptions::default()
        };
        Self::start_with(scene, "registry", &options)
    }

    /// Starts one with options and a name of its own.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_with(scene: &'scene Scene, name: &str, options: &RegistryOptions) -> Result<Self> {
        let storage = scene.new_directory(name)?;
        let port = free_port()?;
        let configuration = scene.path(&format!("{name}.yml"));
        let mut http = String::new();
        if let Some(tls) = &options.tls {
            let (certificate, key) = (tls.certificate.display(), tls.key.display());
            http = format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
        }
        if let Some(clients) = &options.clients {
            http.push_str(&format!("    clientcas:\n      - {}\n", clients.display()));
        }
        fs::write(
            &configuration,
            format!(
                "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    \
                 enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{http}{}",
                storage.display(),
                options.auth,
            ),
        )?;
        let mut command = reaper::command("docker-registry");
        command.arg("serve").arg(&configuration);
        let process = scene.start_daemon(command)?;
        let push_flags = options
            .pusher
            .iter()
            .flat_map(|who| ["--dest-creds".to_owned(), who.clone()]);
        let registry = Self {
            scene,
            process,
            port,
            push_flags: push_flags.collect(),
        };
        wait_until("the registry answered", Duration::from_secs(20), || {
            if let Some(ended) = registry.process.ended() {
                anyhow::bail!(
                    "docker-registry ended at once: {ended}: {}",
                    registry.process.stderr()
                );
            }
            Ok(registry
                .get("/v2/")
                .ok()
                // One that wants a password or TLS has no better word, but it is there.
                .filter(|answer| answer.starts_with("HTTP/1.")))
        })?;
        Ok(registry)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The reference of a repository and tag here.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// Lets skopeo push an image from an OCI layout.
    ///
    /// # Errors
    /// skopeo fails.
    pub fn push(&self, layout: &Path, tag: &str, name: &str) -> Result<Output> {
        self.push_with(layout, tag, name, &[])
    }

    /// The same with further flags of `skopeo copy`.
    ///
    /// # Errors
    /// skopeo fails.
    pub fn push_with(&self, layout: &Path, tag: &str, name: &str, flags: &[&str]) -> Result<Output> {
        let source = format!("oci:{}:{tag}", layout.display());
        let target = format!("docker://{}", self.reference(name));
        let mut words = vec!["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false"];
        words.extend(self.push_flags.iter().map(String::as_str));
        words.extend(flags);
        words.extend([source.as_str(), target.as_str()]);
        self.scene.call(&words)?.success()
    }

    /// The manifest that a tag names, as it is served.
    ///
    /// # Errors
    /// The connection fails.
    pub fn manifest(&self, name: &str, tag: &str) -> Result<String> {
        self.get(&format!("/v2/{name}/manifests/{tag}"))
    }

    /// The whole answer to a GET, head and body.
    ///
    /// # Errors
    /// The connection fails.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: {ACCEPTED}\r\nConnection: close\r\n\r\n",
            self.address()
        )?;
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .context("reading the registry's answer")?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        // A registry that has ended is no concern here; one that stays is found when the scene is struck.
        drop(self.process.signal(Signal::SIGKILL));
        drop(self.process.wait(Duration::from_secs(5)));
    }
}

/// A port that nobody listens on now. Another process could take it before it is used; then the start fails loudly.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
