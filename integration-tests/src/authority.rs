//! A certificate authority of a test's own, made by openssl: for registries that speak TLS, and for signed tokens.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::scene::Scene;

/// What every certificate here is asked for with. The host's configuration of openssl has no say.
const CONFIGURATION: &str = "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = croze test\n[authority]\n\
                             basicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign,digitalSignature\n\
                             [server]\nsubjectAltName = IP:127.0.0.1,DNS:localhost\n[client]\nextendedKeyUsage = clientAuth\n";

/// An authority: its certificate is what trusts, its key is what signs.
#[derive(Debug)]
pub struct Authority<'scene> {
    scene: &'scene Scene,
    directory: PathBuf,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl<'scene> Authority<'scene> {
    /// Makes one, in a directory of its own.
    ///
    /// # Errors
    /// openssl fails.
    pub fn new(scene: &'scene Scene, name: &str) -> Result<Self> {
        let directory = scene.new_directory(name)?;
        let authority = Self { scene, directory };
        fs::write(authority.path("openssl.cnf"), CONFIGURATION)?;
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-extensions",
            "authority",
            "-config",
            &authority.text("openssl.cnf"),
            "-keyout",
            &authority.text("ca.key"),
            "-out",
            &authority.text("ca.pem"),
        ])?;
        Ok(authority)
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Its certificate, DER.
    ///
    /// # Errors
    /// openssl fails.
    pub fn certificate_der(&self) -> Result<Vec<u8>> {
        let (from, to) = (self.text("ca.pem"), self.text("ca.der"));
        self.openssl(&["x509", "-in", &from, "-outform", "DER", "-out", &to])?;
        Ok(fs::read(to)?)
    }

    /// Its key in PKCS #8, DER.
    ///
    /// # Errors
    /// openssl fails.
    pub fn key_der(&self) -> Result<Vec<u8>> {
        let (from, to) = (self.text("ca.key"), self.text("ca-key.der"));
        self.openssl(&[
            "pkcs8", "-topk8", "-nocrypt", "-in", &from, "-outform", "DER", "-out", &to,
        ])?;
        Ok(fs::read(to)?)
    }

    /// A certificate for a server on this host (`server`), or for a client (`client`).
    ///
    /// # Errors
    /// openssl fails.
    pub fn issue(&self, kind: &str) -> Result<Certificate> {
        let name = |ending: &str| self.text(&format!("{kind}.{ending}"));
        let configuration = self.text("openssl.cnf");
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-config",
            &configuration,
            "-keyout",
            &name("key"),
            "-out",
            &name("csr"),
        ])?;
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &name("csr"),
            "-CA",
            &self.text("ca.pem"),
            "-CAkey",
            &self.text("ca.key"),
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &configuration,
            "-extensions",
            kind,
            "-out",
            &name("pem"),
        ])?;
        Ok(Certificate {
            certificate: name("pem").into(),
            key: name("key").into(),
        })
    }

    fn openssl(&self, words: &[&str]) -> Result<()> {
        self.scene
            .call(&[&["openssl"], words].concat())?
            .success()
            .map(drop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn text(&self, name: &str) -> String {
        Path::new(&self.path(name)).to_string_lossy().into_owned()
    }
}
