//! The record of one container: `state.json`.

use super::id::Id;
use super::transition::State;
use crate::intel_rdt::Assigned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// The version this runtime writes; another one is refused with words rather than misread.
pub const RECORD_VERSION: u32 = 1;

/// Everything that later calls need to know of a container and cannot see for themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// The spec's `ociVersion`, repeated by `state`.
    pub oci_version: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// When it was made: RFC 3339 in UTC.
    pub created: String,
    /// The user who made it.
    pub owner: u32,
    /// The spec's annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The cgroup's directories, by controller (see `croze_cgroups::Paths`).
    #[serde(default)]
    pub cgroup: BTreeMap<String, PathBuf>,
    /// Its share of the processor's cache, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<Assigned>,
    /// The scope that systemd has made for it, if it has.
    #[serde(default)]
    pub scope: Option<ScopeRecord>,
    /// The session keyring that every process of it has; none if it is the caller's own (`--no-new-keyring`).
    #[serde(default)]
    pub keyring: Option<String>,
    /// Its mounts are the caller's: the spec has no mount namespace. `delete` takes them away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_mounts: bool,
    /// Where it stood when this was written.
    pub state: State,
}

/// A unit of systemd that holds a container's processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScopeRecord {
    /// Its name.
    pub unit: String,
    /// Whose it is.
    pub manager: ScopeManager,
}

/// Which of systemd's managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ScopeManager {
    /// The system's.
    System,
    /// The user's.
    User,
}

impl Record {
    /// A new container's record, in the state `creating`.
    #[must_use]
    pub fn new(id: &Id, oci_version: String, bundle: PathBuf, rootfs: PathBuf) -> Self {
        Self {
            version: RECORD_VERSION,
            id: id.as_str().to_owned(),
            oci_version,
            bundle,
            rootfs,
            created: rfc3339(SystemTime::now()),
            owner: rustix::process::getuid().as_raw(),
            annotations: BTreeMap::new(),
            cgroup: BTreeMap::new(),
            intel_rdt: None,
            scope: None,
            keyring: None,
            shares_mounts: false,
            state: State::Creating,
        }
    }
}

/// A moment as RFC 3339 in UTC with nanoseconds, as runc writes it (trailing zeros dropped).
#[must_use]
pub fn rfc3339(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let mut fraction = format!(".{:09}", since.subsec_nanos());
    fraction.truncate(fraction.trim_end_matches('0').trim_end_matches('.').len());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Days after 1970-01-01 as year, month, day. Counted in eras of 400 years that begin on 1 March, where a leap
/// day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Identity;
    use std::time::Duration;

    #[test]
    fn moments_are_written_as_rfc3339() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_735_689_599, 999_999_999, "2024-12-31T23:59:59.999999999Z"),
            (1_763_683_200, 120_000_000, "2025-11-21T00:00:00.12Z"),
            (4_107_542_400, 1, "2100-03-01T00:00:00.000000001Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::new(seconds, nanos)), text);
        }
    }

    #[test]
    fn a_record_survives_its_file() {
        let id = Id::parse("web").unwrap();
        let mut record = Record::new(&id, "1.2.0".into(), "/b".into(), "/b/rootfs".into());
        let init = Identity {
            boot_id: "x".into(),
            pid: 3,
            start_time: 4,
        };
        for state in [
            State::Creating,
            State::Created { init: init.clone() },
            State::Running { init: init.clone() },
            State::Paused { init, started: false },
            State::Stopped,
        ] {
            record.state = state;
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        }
    }
}
