//! One file of credentials: docker's `config.json`, podman's `auth.json`.
//!
//! ```json
//! { "auths": { "registry.example:5000": { "auth": "base64(user:password)", "identitytoken": "…" } },
//!   "credHelpers": { "gcr.example": "gcloud" },
//!   "credsStore": "pass" }
//! ```

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use croze_client::Reference;
use croze_client::v1::RegistryCredentials;
use rustix::fs::{CWD, OFlags};
use serde_json::{Map, Value, json};

use crate::credentials::directory::{self, Owner, Place};
use crate::credentials::key;
use crate::output;

/// The largest file that is read.
const MAX_FILE: u64 = 8 << 20;

/// Why a file of credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthFileError {
    #[error("cannot {call} {}: {source}", path.display())]
    File {
        call: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file is written, and the directory's entry for it may not last.
    #[error("{} is written, but may be lost if the power fails now: {source}", path.display())]
    NotDurable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The parser's words are left out: they might show a part of the file.
    #[error("{} is no file of credentials: line {line} is not JSON as it should be", path.display())]
    Json { path: PathBuf, line: usize },
}

/// A file as it was read; what it holds besides credentials is kept.
#[derive(Debug, Default)]
pub(crate) struct AuthFile {
    path: PathBuf,
    root: Map<String, Value>,
}

impl AuthFile {
    /// Reads a file; one that is not there, or empty, holds nothing. Nor does the null device, to which some link the file in order to keep
    /// nothing.
    pub(crate) fn read(path: &Path) -> Result<Self, AuthFileError> {
        let failed = |source| AuthFileError::File {
            call: "read",
            path: path.to_owned(),
            source,
        };
        let file = match directory::open_file(CWD, path, OFlags::empty()) {
            Err(_) if is_null_device(path) => None,
            result => result.map_err(failed)?,
        };
        Self::parse(path, file.as_ref())
    }

    fn parse(path: &Path, file: Option<&File>) -> Result<Self, AuthFileError> {
        let text = file
            .map_or(Ok(String::new()), whole)
            .map_err(|source| AuthFileError::File {
                call: "read",
                path: path.to_owned(),
                source,
            })?;
        let root = if text.trim().is_empty() {
            Map::new()
        } else {
            serde_json::from_str(&text).map_err(|error| AuthFileError::Json {
                path: path.to_owned(),
                line: error.line(),
            })?
        };
        Ok(Self {
            path: path.to_owned(),
            root,
        })
    }

    /// Changes the file as it is by now, while nobody else who asks here does: two logins at once are both kept.
    pub(crate) fn change(path: &Path, change: impl FnOnce(&mut Self)) -> Result<(), AuthFileError> {
        let failed = |call| {
            let path = path.to_owned();
            move |source| AuthFileError::File { call, path, source }
        };
        // A file stays where symbolic links lead to.
        let place = Place::find(path).map_err(failed("find or make the directory of"))?;
        let (directory, name) = (&place.directory, place.name.as_os_str());
        // Until the end.
        directory
            .lock(|| {
                output::notice(&format!(
                    "waiting for another program that has locked the directory of {}",
                    path.display()
                ));
            })
            .map_err(failed("lock the directory of"))?;
        let old = directory.open(name).map_err(failed("read"))?;
        // Of the very file that was read: what is in it must not become somebody else's.
        let owner = old.as_ref().map_or_else(|| directory.owner(), Owner::of);
        let owner = owner.map_err(failed("read"))?;
        place.is_for(owner).map_err(failed("write"))?;
        let mut file = Self::parse(path, old.as_ref())?;
        change(&mut file);
        let text = format!("{:#}\n", Value::Object(file.root));
        // Readable by its owner only, and whole or not at all.
        directory.replace(name, owner, &text).map_err(failed("write"))?;
        directory.sync().map_err(|source| AuthFileError::NotDurable {
            path: path.to_owned(),
            source,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The helper that is named for this registry alone.
    pub(crate) fn own_helper(&self, registry: &str) -> Option<String> {
        let helpers = self.root.get("credHelpers")?.as_object()?;
        let name = helpers
            .iter()
            .find(|(name, _)| Reference::registry_of(name) == Some(registry))?
            .1
            .as_str()?;
        Some(name.to_owned()).filter(|name| !name.is_empty())
    }

    /// The helper for every registry that has none of its own.
    pub(crate) fn common_helper(&self) -> Option<String> {
        let name = self.root.get("credsStore")?.as_str()?;
        Some(name.to_owned()).filter(|name| !name.is_empty())
    }

    /// What `auths` has for a repository: under its own path (podman's way), a part of that, or its registry.
    pub(crate) fn get(&self, registry: &str, repository: &str) -> Option<RegistryCredentials> {
        let auths = self.root.get("auths")?.as_object()?;
        let mut path = format!("{registry}/{repository}");
        loop {
            if let Some(found) = auths.get(&path).and_then(entry) {
                return Some(found);
            }
            match path.rfind('/') {
                Some(slash) => path.truncate(slash),
                None => break,
            }
        }
        auths
            .iter()
            .filter(|(name, _)| is_for(name, registry))
            .find_map(|(_, value)| entry(value))
    }

    /// Whether `auths` has an entry for the registry, if only an empty one that says that a helper knows.
    pub(crate) fn has(&self, registry: &str) -> bool {
        let auths = self.root.get("auths").and_then(Value::as_object);
        auths.is_some_and(|auths| auths.keys().any(|name| is_for(name, registry)))
    }

    /// Keeps credentials in `auths`; `None` for an empty entry, which says that a helper knows.
    pub(crate) fn set(&mut self, registry: &str, credentials: Option<&RegistryCredentials>) {
        self.remove(registry);
        let value = credentials.map_or_else(
            || json!({}),
            |credentials| {
                let auth = STANDARD.encode(format!("{}:{}", credentials.username, credentials.password));
                if credentials.identity_token.is_empty() {
                    json!({ "auth": auth })
                } else {
                    json!({ "auth": auth, "identitytoken": credentials.identity_token })
                }
            },
        );
        let auths = self.root.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        auths[key(registry)] = value;
    }

    /// Takes the registry's entries away; says whether there was one.
    pub(crate) fn remove(&mut self, registry: &str) -> bool {
        let Some(auths) = self.root.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let before = auths.len();
        auths.retain(|name, _| !is_for(name, registry));
        auths.len() < before
    }
}

/// Whether a path leads to the null device (null(4): character device 1, 3).
fn is_null_device(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == rustix::fs::makedev(1, 3))
}

fn whole(file: &File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    // The error has none of the bytes.
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

/// Whether an entry's name means the whole registry.
fn is_for(name: &str, registry: &str) -> bool {
    let whole = !name.contains('/') || name.contains("://");
    whole && Reference::registry_of(name) == Some(registry)
}

/// An entry's credentials; `None` if it has none.
fn entry(value: &Value) -> Option<RegistryCredentials> {
    let text = |name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let auth = text("auth");
    let decoded = STANDARD
        .decode(auth.trim_end_matches('\0'))
        .or_else(|_| STANDARD_NO_PAD.decode(&auth))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = match decoded.as_deref().and_then(|auth| auth.split_once(':')) {
        Some((username, password)) => (username.to_owned(), password.trim_end_matches('\0').to_owned()),
        None => (text("username"), text("password")),
    };
    let credentials = RegistryCredentials {
        username,
        password,
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
    };
    (credentials != RegistryCredentials::default()).then_some(credentials)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn owner_of(path: &Path) -> io::Result<Owner> {
        Owner::of(&File::open(path)?)
    }

    fn file(text: &str) -> AuthFile {
        AuthFile {
            path: PathBuf::new(),
            root: serde_json::from_str(text).unwrap(),
        }
    }

    fn password(username: &str, password: &str) -> RegistryCredentials {
        RegistryCredentials {
            username: username.to_owned(),
            password: password.to_owned(),
            ..RegistryCredentials::default()
        }
    }

    #[test]
    fn entries_are_found_by_registry_and_by_path() {
        // alice:secret, bob:x:y
        let file = file(
            r#"{"auths":{
                "r.example:5000":{"auth":"YWxpY2U6c2VjcmV0"},
                "r.example:5000/team":{"auth":"Ym9iOng6eQ=="},
                "https://index.docker.io/v1/":{"auth":"YWxpY2U6c2VjcmV0","identitytoken":"id"},
                "https://old.example/v1/":{"username":"carol","password":"p"},
                "empty.example":{}
            }}"#,
        );
        let alice = password("alice", "secret");
        assert_eq!(file.get("r.example:5000", "a/b"), Some(alice.clone()));
        assert_eq!(file.get("r.example:5000", "team/b"), Some(password("bob", "x:y")));
        let hub = file.get("docker.io", "library/debian").unwrap();
        assert_eq!(
            (hub.username.as_str(), hub.identity_token.as_str()),
            ("alice", "id")
        );
        assert_eq!(file.get("old.example", "a"), Some(password("carol", "p")));
        for registry in ["r.example", "empty.example", "other"] {
            assert_eq!(file.get(registry, "a"), None, "{registry}");
        }
    }

    #[test]
    fn helpers_are_named_for_one_registry_or_for_all() {
        let file =
            file(r#"{"credHelpers":{"https://index.docker.io/v1/":"hub","a.b":""},"credsStore":"all"}"#);
        assert_eq!(file.own_helper("docker.io").as_deref(), Some("hub"));
        assert_eq!(file.own_helper("a.b"), None);
        assert_eq!(file.common_helper().as_deref(), Some("all"));
    }

    #[test]
    fn a_file_is_written_privately_with_what_else_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.json");
        AuthFile::change(&path, |file| {
            file.root.insert("psFormat".to_owned(), json!("table"));
            file.set("r.example", Some(&password("alice", "secret")));
            file.set("docker.io", Some(&password("bob", "b")));
        })
        .unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);

        let mut again = AuthFile::read(&path).unwrap();
        assert_eq!(again.root["psFormat"], "table");
        assert_eq!(again.root["auths"]["r.example"]["auth"], "YWxpY2U6c2VjcmV0");
        assert!(again.root["auths"].get("https://index.docker.io/v1/").is_some());
        assert!(again.has("docker.io") && again.remove("docker.io") && !again.remove("docker.io"));
        again.set("r.example", None);
        assert!(again.has("r.example") && again.get("r.example", "a").is_none());
    }

    #[test]
    fn changes_at_once_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let registries: Vec<String> = (0..16).map(|n| format!("r{n}.example")).collect();
        std::thread::scope(|scope| {
            for registry in &registries {
                let set = || {
                    AuthFile::change(&path, |file| {
                        file.set(registry, Some(&password("alice", "secret")));
                    })
                };
                scope.spawn(move || set().unwrap());
            }
        });
        let file = AuthFile::read(&path).unwrap();
        assert!(registries.iter().all(|registry| file.has(registry)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_stays_where_a_link_leads_and_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        let (link, target) = (home.join(".docker/config.json"), home.join("kept.json"));
        fs::create_dir(home.join(".docker")).unwrap();
        std::os::unix::fs::symlink("../kept.json", &link).unwrap();
        let alice = if is_root() {
            4711
        } else {
            owner_of(&home).unwrap().uid
        };
        if is_root() {
            std::os::unix::fs::chown(&home, Some(alice), Some(alice)).unwrap();
        }
        let set = |path: &Path| {
            AuthFile::change(path, |file| {
                file.set("r.example", Some(&password("alice", "secret")));
            })
            .unwrap();
        };
        // The link leads to nothing yet, and then to a file.
        for _ in 0..2 {
            set(&link);
            assert!(link.is_symlink());
            assert_eq!(owner_of(&target).unwrap().uid, alice);
        }
        let new = home.join(".config/containers/auth.json");
        set(&new);
        for path in [&new, &home.join(".config")] {
            assert_eq!(owner_of(path).unwrap().uid, alice, "{}", path.display());
        }
    }

    #[test]
    fn a_file_that_is_none_is_told_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, "{\n\"auths\": \"secret\" !\n}").unwrap();
        let error = AuthFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
        fs::write(&path, " \n").unwrap();
        assert!(AuthFile::read(&path).unwrap().root.is_empty());
        fs::write(&path, b"{\"secret\": \"\xff\"}").unwrap();
        let error = AuthFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("utf-8") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn what_never_ends_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(CWD, at("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        std::os::unix::fs::symlink("pipe", at("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
        File::create(at("large")).unwrap().set_len(MAX_FILE + 1).unwrap();
        for (name, why) in [
            ("pipe", "no regular file"),
            ("link", "no regular file"),
            ("device", "no regular file"),
            ("large", "too large"),
        ] {
            let read = AuthFile::read(&at(name)).unwrap_err().to_string();
            let changed = AuthFile::change(&at(name), |_| panic!("{name} was read")).unwrap_err();
            assert!(read.contains(why), "{name}: {read}");
            assert!(matches!(changed, AuthFileError::File { .. }), "{name}: {changed}");
        }
        // What keeps nothing holds nothing, and is not replaced by a file.
        std::os::unix::fs::symlink("/dev/null", at("null")).unwrap();
        assert!(AuthFile::read(&at("null")).unwrap().root.is_empty());
        AuthFile::change(&at("null"), |_| panic!("the null device was read")).unwrap_err();
        // Of the size that is allowed at most, it is read.
        File::create(at("large")).unwrap().set_len(MAX_FILE).unwrap();
        let error = AuthFile::read(&at("large")).unwrap_err();
        assert!(matches!(error, AuthFileError::Json { .. }), "{error}");
    }
}
