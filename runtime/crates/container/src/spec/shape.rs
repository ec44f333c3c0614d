//! From text to the types of `oci-spec`, for the two whose own way from text is too large for a small program.
//!
//! ```text
//! text ─ SpecShape ──────▶ Spec        without the parts about Solaris, Windows, z/OS and virtual machines
//!          └ ProcessShape ─▶ Process   without the regular expression that execCPUAffinity is checked with
//! ```
//!
//! The library checks `execCPUAffinity` by a regular expression, and this one field would bring in an engine for them: a quarter of
//! the whole program. What is in it is checked when it is planned, with an error that names the field. The other systems' parts are
//! skipped unread, as the specification wants it of what a runtime does not know.
//!
//! Everything below these two types is read by the library's own code: there is one model of the specification.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    Box as ConsoleSize, ExecCPUAffinity, Hooks, Linux, LinuxCapabilities, LinuxIOPriority, Mount,
    PosixRlimit, Process, Root, Scheduler, Spec, User,
};
use serde::Deserialize;

/// A spec as it is written, what is not for Linux left out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SpecShape {
    #[serde(default)]
    oci_version: String,
    root: Option<Root>,
    mounts: Option<Vec<Mount>>,
    process: Option<ProcessShape>,
    hostname: Option<String>,
    domainname: Option<String>,
    hooks: Option<Hooks>,
    annotations: Option<HashMap<String, String>>,
    linux: Option<Linux>,
}

/// A process as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProcessShape {
    terminal: Option<bool>,
    console_size: Option<ConsoleSize>,
    user: User,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    cwd: PathBuf,
    capabilities: Option<LinuxCapabilities>,
    rlimits: Option<Vec<PosixRlimit>>,
    no_new_privileges: Option<bool>,
    apparmor_profile: Option<String>,
    oom_score_adj: Option<i32>,
    selinux_label: Option<String>,
    io_priority: Option<LinuxIOPriority>,
    scheduler: Option<Scheduler>,
    #[serde(rename = "execCPUAffinity")]
    exec_cpu_affinity: Option<AffinityShape>,
}

#[derive(Deserialize)]
struct AffinityShape {
    initial: Option<String>,
    r#final: Option<String>,
}

impl From<SpecShape> for Spec {
    fn from(shape: SpecShape) -> Self {
        // The library's defaults are those of a container to try out: every one of them is replaced.
        let mut spec = Self::default();
        spec.set_version(shape.oci_version)
            .set_root(shape.root)
            .set_mounts(shape.mounts)
            .set_process(shape.process.map(Process::from))
            .set_hostname(shape.hostname)
            .set_domainname(shape.domainname)
            .set_hooks(shape.hooks)
            .set_annotations(shape.annotations)
            .set_linux(shape.linux);
        spec
    }
}

impl From<ProcessShape> for Process {
    fn from(shape: ProcessShape) -> Self {
        let mut process = Self::default();
        process
            .set_terminal(shape.terminal)
            .set_console_size(shape.console_size)
            .set_user(shape.user)
            .set_args(shape.args)
            .set_env(shape.env)
            .set_cwd(shape.cwd)
            .set_capabilities(shape.capabilities)
            .set_rlimits(shape.rlimits)
            .set_no_new_privileges(shape.no_new_privileges)
            .set_apparmor_profile(shape.apparmor_profile)
            .set_oom_score_adj(shape.oom_score_adj)
            .set_selinux_label(shape.selinux_label)
            .set_io_priority(shape.io_priority)
            .set_scheduler(shape.scheduler)
            .set_exec_cpu_affinity(shape.exec_cpu_affinity.map(ExecCPUAffinity::from));
        process
    }
}

impl From<AffinityShape> for ExecCPUAffinity {
    fn from(shape: AffinityShape) -> Self {
        let mut affinity = Self::default();
        affinity
            .set_initial(shape.initial)
            .set_cpu_affinity_final(shape.r#final);
        affinity
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A process with every field that there is on Linux.
    fn process() -> Value {
        json!({
            "terminal": true,
            "consoleSize": { "height": 24, "width": 80 },
            "user": { "uid": 1, "gid": 2, "umask": 18, "additionalGids": [3] },
            "args": ["a", "b"],
            "env": ["A=b"],
            "cwd": "/c",
            "capabilities": { "bounding": ["CAP_CHOWN"], "ambient": ["CAP_KILL"] },
            "rlimits": [{ "type": "RLIMIT_CORE", "hard": 2, "soft": 1 }],
            "noNewPrivileges": true,
            "apparmorProfile": "profile",
            "oomScoreAdj": 5,
            "selinuxLabel": "label",
            "ioPriority": { "class": "IOPRIO_CLASS_IDLE", "priority": 3 },
            "scheduler": { "policy": "SCHED_BATCH", "nice": 4 },
            "execCPUAffinity": { "initial": "0", "final": "0-1,3" },
        })
    }

    /// A spec with every field that there is on Linux.
    fn spec() -> Value {
        json!({
            "ociVersion": "1.3.0",
            "root": { "path": "rootfs", "readonly": true },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"] }],
            "process": process(),
            "hostname": "host",
            "domainname": "domain",
            "hooks": { "poststop": [{ "path": "/bin/true", "timeout": 3 }] },
            "annotations": { "key": "value" },
            "linux": { "cgroupsPath": "/here", "maskedPaths": ["/proc/kcore"] },
        })
    }

    /// What the library reads from the same text is the measure.
    #[test]
    fn what_is_read_is_what_the_library_reads() {
        let text = spec().to_string();
        let shape: SpecShape = serde_json::from_str(&text).expect("read");
        let library: Spec = serde_json::from_str(&text).expect("read by the library");
        assert_eq!(Spec::from(shape), library);
        let text = process().to_string();
        let shape: ProcessShape = serde_json::from_str(&text).expect("read");
        let library: Process = serde_json::from_str(&text).expect("read by the library");
        assert_eq!(Process::from(shape), library);
    }

    /// Nothing of the library's defaults is left where the text says nothing.
    #[test]
    fn what_is_not_there_stays_away() {
        for text in ["{}", r#"{"process":{"user":{},"cwd":"/"}}"#] {
            let shape: SpecShape = serde_json::from_str(text).expect("read");
            let library: Spec = serde_json::from_str(text).expect("read by the library");
            assert_eq!(Spec::from(shape), library);
        }
        assert!(
            serde_json::from_str::<ProcessShape>(r#"{"cwd":"/"}"#).is_err(),
            "user"
        );
        assert!(
            serde_json::from_str::<ProcessShape>(r#"{"user":{}}"#).is_err(),
            "cwd"
        );
    }

    #[test]
    fn other_systems_are_skipped() {
        let text = r#"{"windows":{"layerFolders":7},"solaris":"x","vm":[],"zos":1,"freebsd":null}"#;
        let shape: SpecShape = serde_json::from_str(text).expect("skipped");
        assert_eq!(
            Spec::from(shape),
            serde_json::from_str::<Spec>("{}").expect("read")
        );
    }
}
