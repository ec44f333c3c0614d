//! The plan: everything that is going to be done, decided from the spec and from facts about the host before anything is touched.
//!
//! A plan is data. Making it reads nothing and changes nothing, so that a spec that cannot work is refused while there is still
//! nothing to undo, and so that the decisions can be tested by tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use croze_sys::caps::Set;
use croze_sys::clone::Namespaces;
use croze_sys::mount::{Depth, Propagation};
use oci_spec::runtime::{Hooks, Linux, LinuxNamespaceType, LinuxPersonalityDomain, Process, Spec};

use crate::error::Result;
use crate::intel_rdt::{self, RdtPlan};
use crate::limits::Limit;
use crate::mounts::devices::{self, DeviceNode};
use crate::mounts::{self, PlannedMount, options};
use crate::namespaces::{self, IdMaps, NamespacePlan};
use crate::net_devices::{self, NetDevice};
use crate::ops::{Keyring, RootSwitch};
use crate::process::listener::Listener;
use crate::scheduling::{self, SchedulingPlan};
use crate::security::{self, CapabilityPlan, LabelPlan, UserPlan};
use crate::spec::{self, SpecError, SysctlKind};

/// The umask of a process whose spec has none.
const DEFAULT_UMASK: u32 = 0o022;

/// What must be known of the host to make a plan.
#[derive(Debug)]
pub struct Facts {
    /// The cgroup trees.
    pub cgroups: croze_cgroups::Observed,
    /// systemd, if it is to make the cgroup.
    pub systemd: Option<croze_cgroups::systemd::Facts>,
    /// The root file system, absolute and free of links.
    pub rootfs: PathBuf,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The caller's own ids, each mapped to itself: what a user namespace gets whose spec has no maps.
    pub own_ids: Option<IdMaps>,
    /// Whether SELinux can label mounts here.
    pub labels_mounts: bool,
}

/// What the command line adds to the spec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choices {
    /// How the root is switched.
    pub root_switch: RootSwitch,
    /// Which session keyring the process gets.
    pub keyring: Keyring,
    /// How many descriptors from 3 on are passed on.
    pub preserve_fds: u32,
}

/// A container, decided.
#[derive(Debug)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// The spec's version.
    pub oci_version: String,
    /// The spec's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// Where its processes are counted and limited.
    pub cgroup: croze_cgroups::Plan,
    /// The scope that systemd makes for them, if it does.
    pub scope: Option<croze_cgroups::systemd::Scope>,
    /// Namespaces: new and joined.
    pub namespaces: NamespacePlan,
    /// Network devices of the host that become its own.
    pub net_devices: Vec<NetDevice>,
    /// Its share of the processor's cache.
    pub intel_rdt: Option<RdtPlan>,
    /// The root file system.
    pub root: RootPlan,
    /// Host name and domain name, in the container's uts namespace.
    pub names: Names,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: Vec<(String, String)>,
    /// The container's first process.
    pub process: ProcessPlan,
    /// Its session keyring.
    pub keyring: Keyring,
    /// The caller's programs.
    pub hooks: Option<Hooks>,
}

/// Names of the machine that the container believes to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The host name.
    pub host: Option<String>,
    /// The NIS domain name.
    pub domain: Option<String>,
}

/// The container's root file system, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPlan {
    /// Where it is on the host.
    pub path: PathBuf,
    /// Whether it is mounted read-only in the end.
    pub readonly: bool,
    /// Propagation that differs from the default (everything a slave of the host's).
    pub propagation: Option<(Propagation, Depth)>,
    /// What is mounted, in this order.
    pub mounts: Vec<PlannedMount>,
    /// Device files; empty if the host's `/dev` is bound in.
    pub devices: Vec<DeviceNode>,
    /// Whether the usual links in `/dev` are made.
    pub device_links: bool,
    /// What is hidden.
    pub masked: Vec<PathBuf>,
    /// What cannot be written.
    pub readonly_paths: Vec<PathBuf>,
    /// How it becomes `/`.
    pub switch: RootSwitch,
}

/// A process in a container, decided: the first one or one that is added.
#[derive(Debug, Clone)]
pub struct ProcessPlan {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
    /// Its working directory, in the container.
    pub cwd: PathBuf,
    /// Who it is.
    pub user: UserPlan,
    /// What it may do.
    pub capabilities: CapabilityPlan,
    /// Whether it can never gain privileges.
    pub no_new_privileges: bool,
    /// Its limits.
    pub limits: Vec<Limit>,
    /// How willingly it is killed when memory runs out.
    pub oom_score_adj: Option<i32>,
    /// Its terminal, if it has one.
    pub terminal: Option<TerminalPlan>,
    /// Its labels.
    pub labels: LabelPlan,
    /// Its execution domain, if it is not the usual one.
    pub personality: Option<u64>,
    /// When and where it runs.
    pub scheduling: SchedulingPlan,
    /// Who is told of the system calls that the filter asks about.
    pub listener: Option<Listener>,
    /// Its system call filter.
    pub seccomp: Option<croze_seccomp::Program>,
    /// How many descriptors from 3 on it inherits.
    pub preserve_fds: u32,
}

/// A terminal, decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TerminalPlan {
    /// Rows and columns.
    pub size: Option<(u16, u16)>,
}

impl Plan {
    /// Decides everything about one container; pure.
    ///
    /// # Errors
    /// The spec asks for something that this host or this runtime cannot do.
    pub fn new(id: &str, spec: &Spec, choices: Choices, facts: &Facts) -> Result<Self> {
        let missing = |field, reason| SpecError::Missing { field, reason };
        let linux = spec
            .linux()
            .as_ref()
            .ok_or(missing("linux", "this runtime makes Linux containers only"))?;
        let process = spec
            .process()
            .as_ref()
            .ok_or(missing("process", "it says what to run"))?;
        let (cgroup, scope) = plan_cgroup(id, spec, linux, facts)?;
        Ok(Self {
            id: id.to_owned(),
            oci_version: spec.version().clone(),
            annotations: spec
                .annotations()
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            bundle: facts.bundle.clone(),
            cgroup,
            scope,
            namespaces: plan_namespaces(linux, facts),
            net_devices: net_devices::plan(linux.net_devices().iter().flatten()),
            intel_rdt: linux
                .intel_rdt()
                .as_ref()
                .map(|rdt| intel_rdt::plan(rdt, id))
                .transpose()?,
            root: RootPlan::new(spec, linux, choices.root_switch, facts)?,
            names: Names {
                host: named(spec.hostname()),
                domain: named(spec.domainname()),
            },
            sysctls: sorted(linux.sysctl().iter().flatten()),
            process: first_process(spec, process, linux, choices)?,
            keyring: choices.keyring,
            hooks: spec.hooks().clone(),
        })
    }
}

impl Plan {
    /// Checks that nothing is set in the namespaces of the kinds `shared`, which are joined by path and turned out to be the caller's
    /// own: it would be set for the host. Pure.
    ///
    /// # Errors
    /// The field that would.
    pub fn check_shared(&self, shared: Namespaces) -> Result<()> {
        let invalid = |field: &str, value: &str, reason| SpecError::Invalid {
            field: field.to_owned(),
            value: value.to_owned(),
            reason,
        };
        for (name, _) in &self.sysctls {
            if let SysctlKind::Of(kind) = spec::sysctl_kind(name)
                && shared.contains(namespaces::kind_of(kind))
            {
                let reason = "the namespace that it belongs to is joined by path, and is the host's own";
                return Err(invalid("linux.sysctl", name, reason).into());
            }
        }
        if let Some(device) = self.net_devices.first()
            && shared.contains(Namespaces::NETWORK)
        {
            let reason = "the network namespace is joined by path, and is the host's own";
            return Err(invalid("linux.netDevices", &device.host, reason).into());
        }
        if shared.contains(Namespaces::UTS) {
            let reason = "the uts namespace is joined by path, and is the host's own";
            for (field, name) in [("hostname", &self.names.host), ("domainname", &self.names.domain)] {
                if let Some(name) = name {
                    return Err(invalid(field, name, reason).into());
                }
            }
        }
        Ok(())
    }
}

fn plan_cgroup(
    id: &str,
    spec: &Spec,
    linux: &Linux,
    facts: &Facts,
) -> Result<(croze_cgroups::Plan, Option<croze_cgroups::systemd::Scope>)> {
    let path = linux.cgroups_path().as_deref().and_then(Path::to_str);
    let resources = linux.resources().as_ref();
    match &facts.systemd {
        None => Ok((
            croze_cgroups::Plan::new(&facts.cgroups, path, id, resources)?,
            None,
        )),
        Some(systemd) => {
            let annotations = spec.annotations().iter().flatten();
            let (plan, scope) = croze_cgroups::systemd::Scope::plan(
                &facts.cgroups,
                systemd,
                path,
                id,
                resources,
                annotations,
            )?;
            Ok((plan, Some(scope)))
        }
    }
}

/// The annotation by which crun's callers (podman's `keep-groups`) keep the caller's own groups, which no spec can name.
const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

fn first_process(spec: &Spec, process: &Process, linux: &Linux, choices: Choices) -> Result<ProcessPlan> {
    let mut plan = ProcessPlan::new(process, Some(linux), choices.preserve_fds)?;
    let annotations = spec.annotations().as_ref();
    plan.user.keeps_groups = annotations
        .and_then(|all| all.get(KEEP_GROUPS))
        .is_some_and(|value| value == "1");
    Ok(plan)
}

fn plan_namespaces(linux: &Linux, facts: &Facts) -> NamespacePlan {
    let mut plan = namespaces::plan(
        linux.namespaces().as_deref().unwrap_or_default(),
        linux.uid_mappings().as_deref().unwrap_or_default(),
        linux.gid_mappings().as_deref().unwrap_or_default(),
        linux.time_offsets().as_ref(),
    );
    if let Some(maps) = plan.id_maps.as_mut().filter(|maps| maps.uids.is_empty())
        && let Some(own) = &facts.own_ids
    {
        maps.clone_from(own);
    }
    plan
}

fn named(name: &Option<String>) -> Option<String> {
    name.clone().filter(|name| !name.is_empty())
}

fn sorted<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = pairs.map(|(name, value)| (name.clone(), value.clone())).collect();
    pairs.sort_unstable();
    pairs
}

impl RootPlan {
    fn new(spec: &Spec, linux: &Linux, switch: RootSwitch, facts: &Facts) -> Result<Self> {
        let label = named(linux.mount_label()).filter(|_| facts.labels_mounts);
        let mounts = mounts::plan(
            spec.mounts().as_deref().unwrap_or_default(),
            &facts.bundle,
            label.as_deref(),
        )?;
        let has_mount_namespace = spec::has_namespace(linux, LinuxNamespaceType::Mount);
        let own_dev = !mounts.iter().any(PlannedMount::binds_dev);
        let paths = |list: &Option<Vec<String>>| {
            let named = list.iter().flatten().filter(|path| !path.is_empty());
            named.map(PathBuf::from).collect()
        };
        Ok(Self {
            path: facts.rootfs.clone(),
            readonly: spec
                .root()
                .as_ref()
                .and_then(oci_spec::runtime::Root::readonly)
                .unwrap_or(false),
            propagation: linux
                .rootfs_propagation()
                .as_deref()
                .and_then(options::propagation),
            mounts,
            devices: if own_dev {
                devices::plan(linux.devices().as_deref().unwrap_or_default())
            } else {
                Vec::new()
            },
            device_links: own_dev,
            masked: paths(linux.masked_paths()),
            readonly_paths: paths(linux.readonly_paths()),
            switch: if has_mount_namespace {
                switch
            } else {
                RootSwitch::Change
            },
        })
    }
}

impl ProcessPlan {
    /// Decides everything about one process; pure. `linux` is the container's.
    ///
    /// # Errors
    /// The seccomp profile cannot be compiled.
    pub fn new(process: &Process, linux: Option<&Linux>, preserve_fds: u32) -> Result<Self> {
        let user = process.user();
        let size = process
            .console_size()
            .map(|size| (clamp(size.height()), clamp(size.width())));
        Ok(Self {
            args: process.args().clone().unwrap_or_default(),
            env: process.env().clone().unwrap_or_default(),
            cwd: process.cwd().clone(),
            user: UserPlan {
                uid: user.uid(),
                gid: user.gid(),
                groups: user.additional_gids().clone().unwrap_or_default(),
                keeps_groups: false,
                umask: user.umask().unwrap_or(DEFAULT_UMASK) & 0o777,
            },
            capabilities: security::plan(process.capabilities().as_ref()),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            limits: process
                .rlimits()
                .iter()
                .flatten()
                .map(|limit| Limit {
                    kind: limit.typ(),
                    soft: limit.soft(),
                    hard: limit.hard(),
                })
                .collect(),
            oom_score_adj: process.oom_score_adj(),
            terminal: process.terminal().unwrap_or(false).then_some(TerminalPlan {
                size: size.filter(|(rows, columns)| *rows > 0 && *columns > 0),
            }),
            labels: LabelPlan {
                apparmor: named(process.apparmor_profile()),
                selinux: named(process.selinux_label()),
            },
            personality: linux
                .and_then(|linux| linux.personality().as_ref())
                .map(|personality| domain(personality.domain())),
            scheduling: scheduling::plan(process, linux.and_then(|linux| linux.memory_policy().as_ref()))?,
            listener: linux
                .and_then(|linux| linux.seccomp().as_ref())
                .and_then(Listener::of),
            seccomp: linux
                .and_then(|linux| linux.seccomp().as_ref())
                .map(croze_seccomp::compile)
                .transpose()?,
            preserve_fds,
        })
    }

    /// Gives the process capabilities that the spec does not.
    pub fn add_capabilities(&mut self, extra: Set) {
        self.capabilities.add(extra);
    }
}

/// The kernel's `PER_LINUX` and `PER_LINUX32`.
const fn domain(domain: LinuxPersonalityDomain) -> u64 {
    match domain {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }
}

fn clamp(size: u64) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}

/// The namespaces that init is cloned into: the rest is unshared or joined by other means.
pub const fn cloned_namespaces(new: Namespaces) -> Namespaces {
    new.without(Namespaces::CGROUP).without(Namespaces::TIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{default_spec, parse};
    use serde_json::json;

    fn facts() -> Facts {
        let own = PathBuf::from("/sys/fs/cgroup");
        let tree = croze_cgroups::Tree {
            kind: croze_cgroups::Kind::V2,
            controllers: vec!["memory".to_owned(), "pids".to_owned()],
            mount: own.clone(),
            own,
        };
        Facts {
            cgroups: croze_cgroups::Observed { trees: vec![tree] },
            systemd: None,
            rootfs: PathBuf::from("/bundle/rootfs"),
            bundle: PathBuf::from("/bundle"),
            own_ids: None,
            labels_mounts: true,
        }
    }

    fn plan(change: impl FnOnce(&mut serde_json::Value)) -> Plan {
        let mut value = default_spec();
        change(&mut value);
        let (spec, _) = parse(&serde_json::to_vec(&value).expect("JSON"), "test").expect("parsed");
        Plan::new("c", &spec, Choices::default(), &facts()).expect("planned")
    }

    #[test]
    fn the_default_spec_becomes_a_plan() {
        let plan = plan(|_| {});
        assert_eq!(plan.names.host.as_deref(), Some("croze"));
        assert!(plan.root.readonly && plan.root.device_links);
        assert_eq!(plan.root.devices.len(), 6);
        assert_eq!(plan.process.user.umask, 0o022);
        assert_eq!(plan.process.terminal, Some(TerminalPlan { size: None }));
        assert!(plan.namespaces.new.contains(Namespaces::CGROUP));
        assert!(!cloned_namespaces(plan.namespaces.new).contains(Namespaces::CGROUP));
    }

    #[test]
    fn nothing_is_set_in_a_namespace_of_the_hosts() {
        let plan = plan(|spec| spec["linux"]["sysctl"] = json!({"net.ipv4.tcp_fin_timeout": "61"}));
        let refused = |shared| plan.check_shared(shared).map_err(|error| error.to_string());
        assert_eq!(refused(Namespaces::NONE), Ok(()));
        assert_eq!(refused(Namespaces::IPC), Ok(()));
        assert_eq!(
            refused(Namespaces::NETWORK),
            Err(
                r#"linux.sysctl: "net.ipv4.tcp_fin_timeout" is not valid: the namespace that it belongs to is joined by path, and is the host's own"#
                    .to_owned()
            )
        );
        assert_eq!(
            refused(Namespaces::UTS),
            Err(
                r#"hostname: "croze" is not valid: the uts namespace is joined by path, and is the host's own"#
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_bound_dev_gets_no_device_files() {
        let plan = plan(|spec| {
            spec["mounts"] =
                json!([{"destination": "/dev/", "type": "bind", "source": "/dev", "options": ["rbind"]}]);
        });
        assert!(plan.root.devices.is_empty() && !plan.root.device_links);
    }

    #[test]
    fn the_process_keeps_what_its_spec_says() {
        let plan = plan(|spec| {
            spec["process"]["user"] = json!({"uid": 7, "gid": 8, "umask": 63, "additionalGids": [9]});
            spec["process"]["consoleSize"] = json!({"height": 24, "width": 80});
        });
        let user = UserPlan {
            uid: 7,
            gid: 8,
            groups: vec![9],
            keeps_groups: false,
            umask: 63,
        };
        assert_eq!(plan.process.user, user);
        assert_eq!(plan.process.terminal, Some(TerminalPlan { size: Some((24, 80)) }));
    }
}
