//! `spec`: a `config.json` to start from.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use croze_container::spec::default_spec;
use serde_json::{Value, json};

/// Why no file was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    /// There is one.
    #[error("{} exists: remove it first", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Writes `config.json` into a directory.
pub(crate) fn write(bundle: &Path, rootless: bool) -> Result<(), SpecError> {
    let path = bundle.join("config.json");
    let mut spec = default_spec();
    if rootless {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        make_rootless(&mut spec, uid, gid);
    }
    match OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(mut file) => writeln!(file, "{spec:#}").map_err(|source| SpecError::Write { path, source }),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(SpecError::Exists { path }),
        Err(source) => Err(SpecError::Write { path, source }),
    }
}

/// What a user without privileges can have: the host's network, a user namespace with one user, the host's
/// `/sys`, no limits.
fn make_rootless(spec: &mut Value, uid: u32, gid: u32) {
    if let Some(namespaces) = spec
        .pointer_mut("/linux/namespaces")
        .and_then(Value::as_array_mut)
    {
        namespaces.retain(|n| n["type"] != "network" && n["type"] != "user");
        namespaces.push(json!({ "type": "user" }));
    }
    spec["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": uid, "size": 1 }]);
    spec["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": gid, "size": 1 }]);
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("resources");
    }
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        } else if let Some(options) = mount["options"].as_array_mut() {
            // Only one user and one group are mapped.
            options.retain(|o| {
                !o.as_str()
                    .is_some_and(|o| o.starts_with("uid=") || o.starts_with("gid="))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rootless_spec_asks_for_what_a_user_can_have() {
        let mut spec = default_spec();
        make_rootless(&mut spec, 1000, 100);
        let kinds: Vec<_> = spec["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| &n["type"])
            .collect();
        assert!(kinds.iter().any(|k| *k == "user") && kinds.iter().all(|k| *k != "network"));
        assert_eq!(
            spec["linux"]["uidMappings"],
            json!([{"containerID": 0, "hostID": 1000, "size": 1}])
        );
        assert!(spec["linux"].get("resources").is_none());
        assert!(!spec["mounts"].to_string().contains("gid="));
    }
}
