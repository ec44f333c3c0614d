//! Devices: what is asked for is looked at on the host, and becomes nodes and rules.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{major, minor};
use serde_json::{Value, json};

use super::SpecError;
use super::process::absolute;
use crate::error::ContainersError;
use crate::options::{DeviceMapping, Options};

/// Character devices that every container may use: (major, minor).
const DEFAULT: [(i64, i64); 6] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)];
/// Below `/dev`, but the container's own, or nothing that is meant by "all devices of the host".
const NOT_THE_HOSTS: [&str; 8] = ["console", "core", "fd", "mqueue", "ptmx", "pts", "shm", ".udev"];
/// Directories of devices are not followed deeper than this.
const DEPTH_MAX: usize = 8;

/// A device that a container gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceNode {
    /// Where it appears.
    pub(crate) path: String,
    /// `c` or `b`.
    pub(crate) kind: &'static str,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Of `rwm`.
    pub(crate) access: String,
}

/// Refuses mappings that cannot be.
pub(crate) fn check(mappings: &[DeviceMapping]) -> Result<(), SpecError> {
    for mapping in mappings {
        let bad = |reason| SpecError::Device {
            device: mapping.source.display().to_string(),
            reason,
        };
        if !mapping.source.is_absolute() || !mapping.target.starts_with('/') {
            return Err(bad("both of its paths must be absolute"));
        }
        let letters = &mapping.permissions;
        let distinct = letters.chars().all(|c| letters.matches(c).count() == 1);
        if letters.is_empty() || !letters.bytes().all(|b| b"rwm".contains(&b)) || !distinct {
            return Err(bad("its permissions are one or more of r, w and m"));
        }
    }
    Ok(())
}

/// Looks at the devices that these options ask for: those named, and for a privileged container all there are.
pub(crate) fn observe(options: &Options) -> Result<Vec<DeviceNode>, ContainersError> {
    let mut nodes = Vec::new();
    if options.privileged {
        for entry in fs::read_dir("/dev")
            .map_err(ContainersError::file("read", "/dev"))?
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !NOT_THE_HOSTS.contains(&name.as_str()) {
                collect(&entry.path(), &format!("/dev/{name}"), "rwm", 0, &mut nodes);
            }
        }
    }
    for mapping in &options.devices {
        let source = fs::canonicalize(&mapping.source)
            .map_err(ContainersError::file("look at the device", &mapping.source))?;
        let target = absolute(&mapping.target)?;
        let before = nodes.len();
        collect(&source, &target, &mapping.permissions, 0, &mut nodes);
        if nodes.len() == before {
            return Err(ContainersError::Spec(SpecError::Device {
                device: mapping.source.display().to_string(),
                reason: "it is neither a device nor a directory of devices",
            }));
        }
    }
    // One path, one node: what is named wins over what is there anyway.
    let mut seen = std::collections::BTreeSet::new();
    nodes.reverse();
    nodes.retain(|node| seen.insert(node.path.clone()));
    nodes.reverse();
    Ok(nodes)
}

/// Adds a device, or every device below a directory. What goes away meanwhile, or is a link, is none.
fn collect(source: &Path, target: &str, access: &str, depth: usize, nodes: &mut Vec<DeviceNode>) {
    let Ok(metadata) = fs::symlink_metadata(source) else {
        return;
    };
    let kind = metadata.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        nodes.push(DeviceNode {
            path: target.to_owned(),
            kind: if kind.is_char_device() { "c" } else { "b" },
            major: major(metadata.rdev()),
            minor: minor(metadata.rdev()),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            access: access.to_owned(),
        });
    } else if kind.is_dir() && depth < DEPTH_MAX {
        for entry in fs::read_dir(source).into_iter().flatten().flatten() {
            let below = format!("{target}/{}", entry.file_name().to_string_lossy());
            collect(&entry.path(), &below, access, depth + 1, nodes);
        }
    }
}

/// The nodes as the OCI spec has them.
pub(crate) fn nodes(nodes: &[DeviceNode]) -> Value {
    nodes
        .iter()
        .map(|node| {
            json!({
                "path": node.path,
                "type": node.kind,
                "major": node.major,
                "minor": node.minor,
                "fileMode": node.mode,
                "uid": node.uid,
                "gid": node.gid,
            })
        })
        .collect()
}

/// The rules: deny everything; then nodes may be made (not opened), and the usual ones and those asked for used. A privileged container may
/// use everything.
pub(crate) fn rules(options: &Options, nodes: &[DeviceNode]) -> Value {
    if options.privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let mut rules = vec![
        json!({ "allow": false, "access": "rwm" }),
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    rules.extend(DEFAULT.iter().map(|(major, minor)| {
        json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" })
    }));
    rules.extend(nodes.iter().map(|node| {
        json!({
            "allow": true,
            "type": node.kind,
            "major": node.major,
            "minor": node.minor,
            "access": node.access,
        })
    }));
    Value::Array(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(source: &str, target: &str, permissions: &str) -> DeviceMapping {
        DeviceMapping {
            source: source.into(),
            target: target.into(),
            permissions: permissions.into(),
        }
    }

    #[test]
    fn mappings_that_cannot_be() {
        assert_eq!(check(&[mapping("/dev/null", "/dev/x", "rwm")]), Ok(()));
        for (source, target, permissions) in [
            ("null", "/dev/x", "r"),
            ("/dev/null", "x", "r"),
            ("/dev/null", "/x", ""),
            ("/dev/null", "/x", "rr"),
            ("/dev/null", "/x", "rx"),
        ] {
            let wrong = [mapping(source, target, permissions)];
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_device_is_looked_at_and_one_that_is_none_is_refused() {
        let options = |source: &str| Options {
            devices: vec![mapping(source, "/dev/mine", "rw")],
            ..Options::default()
        };
        let found = observe(&options("/dev/null")).unwrap();
        assert_eq!(found.len(), 1);
        let node = &found[0];
        assert_eq!((node.path.as_str(), node.kind), ("/dev/mine", "c"));
        assert_eq!((node.major, node.minor, node.access.as_str()), (1, 3, "rw"));
        let rules = rules(&options("/dev/null"), &found);
        assert_eq!(rules[0], json!({ "allow": false, "access": "rwm" }));
        let last = rules.as_array().unwrap().last().unwrap();
        assert_eq!(
            last,
            &json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" })
        );
        for bad in ["/etc/passwd", "/dev/no-such-device"] {
            assert!(observe(&options(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_privileged_container_has_the_hosts_devices_but_not_its_terminals() {
        let options = Options {
            privileged: true,
            ..Options::default()
        };
        let found = observe(&options).unwrap();
        let paths: Vec<&str> = found.iter().map(|node| node.path.as_str()).collect();
        assert!(paths.contains(&"/dev/null"), "{paths:?}");
        assert!(
            !paths
                .iter()
                .any(|p| p.starts_with("/dev/pts") || *p == "/dev/ptmx" || *p == "/dev/console")
        );
        assert_eq!(
            rules(&options, &found),
            json!([{ "allow": true, "access": "rwm" }])
        );
    }
}
