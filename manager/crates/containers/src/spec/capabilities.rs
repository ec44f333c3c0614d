//! Capabilities: docker's default set, and what a request adds and takes away.

use croze_sys::caps::NAMES as ALL;
use serde_json::{Value, json};

use super::SpecError;

/// What a container has unless told otherwise.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// The capabilities of a container, in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CapabilitySet {
    names: Vec<&'static str>,
}

impl CapabilitySet {
    /// The default set with `add` and without `drop`. `ALL` is every one; what is named in `drop` wins over `ALL` in `add`, and what is named in
    /// `add` over `ALL` in `drop`.
    pub(crate) fn resolve(add: &[String], drop: &[String]) -> Result<Self, SpecError> {
        let (add_all, add) = names(add)?;
        let (drop_all, drop) = names(drop)?;
        let kept = |name: &&'static str| {
            let base = (DEFAULT.contains(name) || add_all) && !drop_all;
            let named_wins = add.contains(name) && (drop_all || !drop.contains(name));
            (base && !drop.contains(name)) || named_wins
        };
        Ok(Self {
            names: ALL.iter().copied().filter(kept).collect(),
        })
    }

    /// Every one there is.
    pub(crate) fn all() -> Self {
        Self { names: ALL.to_vec() }
    }

    /// "All" as far as it goes: without those that the daemon itself does not hold, for nobody can give them. One that is named in `add` stays, so that
    /// who asks for it learns that it cannot be had.
    pub(crate) fn within(mut self, held: &[&'static str], add: &[String]) -> Self {
        let named = names(add).map(|(_, named)| named).unwrap_or_default();
        self.names
            .retain(|name| held.contains(name) || named.contains(name));
        self
    }

    /// Whether the container has this one.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    /// The OCI object for a process of this user. Users other than root get no effective ones, as execve(2) would have it, and nobody inheritable
    /// ones (CVE-2022-24769).
    pub(crate) fn to_json(&self, uid: u32) -> Value {
        let effective: &[&str] = if uid == 0 { &self.names } else { &[] };
        json!({ "bounding": self.names, "effective": effective, "permitted": effective })
    }
}

/// Whether `ALL` is among the texts, and the canonical names of the others.
fn names(texts: &[String]) -> Result<(bool, Vec<&'static str>), SpecError> {
    let mut all = false;
    let mut found = Vec::new();
    for text in texts {
        let upper = text.to_ascii_uppercase();
        if upper == "ALL" {
            all = true;
            continue;
        }
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let name = ALL.iter().copied().find(|name| &name[4..] == bare);
        found.push(name.ok_or_else(|| SpecError::Capability { name: text.clone() })?);
    }
    Ok((all, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Vec<&'static str> {
        let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        CapabilitySet::resolve(&own(add), &own(drop)).unwrap().names
    }

    #[test]
    fn default_added_and_dropped() {
        assert_eq!(set(&[], &[]), DEFAULT);
        assert_eq!(set(&[], &["all"]), [] as [&str; 0]);
        assert_eq!(set(&["ALL"], &[]).len(), 41);
        assert_eq!(set(&["ALL"], &["SYS_ADMIN"]).len(), 40);
        assert_eq!(set(&["net_admin"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert_eq!(set(&["CAP_NET_ADMIN"], &["CAP_NET_ADMIN"]), DEFAULT);
        assert!(!set(&[], &["MKNOD"]).contains(&"CAP_MKNOD"));
        let unknown = CapabilitySet::resolve(&["CAP_FLY".to_owned()], &[]);
        assert_eq!(
            unknown,
            Err(SpecError::Capability {
                name: "CAP_FLY".into()
            })
        );
    }

    #[test]
    fn all_is_what_can_be_given() {
        let held = ["CAP_CHOWN", "CAP_KILL"];
        let within = |add: &[&str]| {
            let add: Vec<String> = add.iter().map(|a| (*a).to_owned()).collect();
            CapabilitySet::all().within(&held, &add).names
        };
        assert_eq!(within(&["ALL"]), held);
        assert_eq!(
            within(&["ALL", "sys_time"]),
            ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_TIME"]
        );
    }

    #[test]
    fn only_root_has_effective_ones_and_nobody_inheritable_ones() {
        let set = CapabilitySet::resolve(&[], &[]).unwrap();
        assert_eq!(set.to_json(0)["effective"].as_array().unwrap().len(), 14);
        assert_eq!(set.to_json(7)["effective"], json!([]));
        assert_eq!(set.to_json(7)["bounding"].as_array().unwrap().len(), 14);
        assert!(set.to_json(0).get("inheritable").is_none());
    }
}
