//! The same command lines to docker and to croze: what a process finds around it must be the same.
//!
//! ```text
//!   case ──▶ docker run FLAGS same SCRIPT ─┐
//!        └─▶ croze  run FLAGS same SCRIPT ─┴─▶ facts, one line each ──▶ difference ──▶ must be in ACCEPTED, with its reason
//! ```
//!
//! Both call the runtime under test, so that what differs is what they ask of it; other tests compare runtimes. Facts that name a container (its id, its directories) are left out. A difference that is
//! accepted must show: an entry that no longer does fails the test, so that the list stays true.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Dockerd, ImageLayout, Output, Registry, Scene};
use serde_json::Value;

/// What a container prints of itself; the parts are separated by a line of their own.
const SCRIPT: &str = "/probe report kernel.domainname net.ipv4.ip_unprivileged_port_start net.ipv4.ping_group_range \
    net.core.somaxconn kernel.msgmax
    for f in /etc/hosts /etc/resolv.conf; do echo \"--- $f\"; cat $f; done
    echo '--- attempts'
    /probe attempt mount mount:proc unshare:user unshare:mount unshare:net sethostname mknod mknod:disk chroot \
    clock_settime reboot delete_module setuid:0 open:/dev/mem open:/dev/kmsg mkdir write:/proc/sys write:/";

/// The flags of one run; `--rm` is added. What begins with `@` is a file or directory of both engines.
const CASES: &[&[&str]] = &[
    &["--network", "none"],
    &["--network", "host"],
    &["--network", "none", "-t"],
    &["--network", "none", "-u", "app"],
    &[
        "--network",
        "none",
        "-u",
        "4711:4712",
        "--group-add",
        "extra",
        "--group-add",
        "77",
    ],
    &["--network", "none", "--privileged"],
    &["--network", "none", "--privileged", "-u", "app"],
    &["--network", "none", "--read-only"],
    &["--network", "none", "--init"],
    &[
        "--network",
        "none",
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/root:size=1m,exec,mode=700",
    ],
    &[
        "--network",
        "none",
        "--mount",
        "type=tmpfs,target=/new/place,tmpfs-size=64k,tmpfs-mode=1770",
    ],
    &["--network", "none", "--shm-size", "1m"],
    &["--network", "none", "--cap-drop", "ALL"],
    &[
        "--network",
        "none",
        "--cap-drop",
        "ALL",
        "--cap-add",
        "SYS_ADMIN",
        "--cap-add",
        "NET_ADMIN",
    ],
    &["--network", "none", "--cap-add", "ALL", "--cap-drop", "MKNOD"],
    &["--network", "none", "--security-opt", "no-new-privileges"],
    &["--network", "none", "--security-opt", "seccomp=unconfined"],
    &["--network", "none", "--security-opt", "systempaths=unconfined"],
    &[
        "--network",
        "none",
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
    ],
    &["--network", "none", "--device", "/dev/kmsg:/dev/mine:r"],
    &["--network", "none", "--oom-score-adj", "500"],
    &["--network", "none", "--ipc", "host"],
    &["--network", "none", "--ipc", "none"],
    &["--network", "none", "--pid", "host"],
    &["--network", "none", "--uts", "host"],
    &[
        "--network",
        "none",
        "--hostname",
        "named",
        "--domainname",
        "domain",
    ],
    &[
        "--network",
        "none",
        "--sysctl",
        "net.core.somaxconn=99",
        "--sysctl",
        "kernel.msgmax=9000",
    ],
    &[
        "--network",
        "none",
        "--add-host",
        "db:10.0.0.9",
        "--add-host",
        "six:fd00::1",
    ],
    &[
        "--network",
        "none",
        "--dns",
        "10.9.8.7",
        "--dns-search",
        "example.org",
        "--dns-option",
        "ndots:3",
    ],
    &[
        "--network",
        "none",
        "-w",
        "/new/dir",
        "-e",
        "A=b",
        "-e",
        "FROM_IMAGE=",
    ],
    // Erased, if it is set nowhere.
    &["--network", "none", "-e", "FROM_IMAGE", "-e", "B=1", "-e", "B=2"],
    &["--network", "none", "--env-file", "@env"],
    &["--network", "none", "-v", "@shared:/data"],
    &["--network", "none", "-v", "@shared:/data:ro"],
    &["--network", "none", "-v", "@shared/file:/etc/file:ro"],
    &[
        "--network",
        "none",
        "--mount",
        "type=bind,source=@shared,target=/a,readonly",
    ],
];

/// A difference that stays: in which case (empty: any), in which fact, and why.
struct Accepted {
    /// Words of the case.
    case: &'static str,
    /// How the fact begins.
    fact: &'static str,
    /// Why it is so.
    reason: &'static str,
}

const ACCEPTED: &[Accepted] = &[
    Accepted {
        case: "",
        fact: "mount /proc/interrupts: ",
        reason: "later dockers mask it too: it tells which keys the host's user presses, by their number",
    },
    Accepted {
        case: "--network host",
        fact: "namespace net: ",
        reason: "the test's dockerd lives in a network namespace of its own",
    },
    Accepted {
        case: "--init",
        fact: "mount /sbin/",
        reason: "the init is croze's own and called so",
    },
    Accepted {
        case: "--uts host",
        fact: "environment.HOSTNAME: ",
        reason: "HOSTNAME is what hostname(1) says, the host's; docker 20.10 has the id there",
    },
];

#[test]
fn docker_and_croze_make_the_same_containers() -> Result<()> {
    Scene::play(|scene| {
        let pair = Pair::start(scene)?;
        let mut unexpected = Vec::new();
        let mut shown = BTreeSet::new();
        for case in CASES {
            let line = case.join(" ");
            let (docker, croze) = (pair.docker(case)?, pair.croze(case)?);
            let differences = docker
                .difference(&croze)
                .map(|fact| format!("docker: {fact}"))
                .chain(croze.difference(&docker).map(|fact| format!("croze:  {fact}")));
            for difference in differences {
                let fact = difference
                    .split_once(": ")
                    .map_or("", |(_, fact)| fact.trim_start());
                let known = ACCEPTED
                    .iter()
                    .position(|entry| line.contains(entry.case) && fact.starts_with(entry.fact));
                match known {
                    Some(at) => drop(shown.insert(at)),
                    None => unexpected.push(format!("[{line}] {difference}")),
                }
            }
        }
        ensure!(
            unexpected.is_empty(),
            "docker and croze differ:\n{}",
            unexpected.join("\n")
        );
        for (at, entry) in ACCEPTED.iter().enumerate() {
            ensure!(
                shown.contains(&at),
                "no longer different: {} {:?} ({})",
                entry.case,
                entry.fact,
                entry.reason
            );
        }
        pair.croze.finish()
    })
}

/// Both engines with the same image.
struct Pair<'scene> {
    docker: Dockerd<'scene>,
    croze: Crozed<'scene>,
    image: String,
    /// What `@` in a case stands for.
    place: String,
}

impl<'scene> Pair<'scene> {
    fn start(scene: &'scene Scene) -> Result<Self> {
        let docker = Dockerd::start(scene)?;
        let tar = scene.path("import.tar");
        docker
            .docker(&[
                "import",
                "--change",
                "ENV PATH=/bin",
                "--change",
                "ENV FROM_IMAGE=yes",
                &tar.to_string_lossy(),
                "same",
            ])?
            .success()?;
        let registry = Registry::start(scene)?;
        let layout = ImageLayout::small(scene)?.write(scene, "same", "latest")?;
        registry.push(&layout, "latest", "same:latest")?;
        let image = registry.reference("same:latest");
        let croze = Crozed::start(scene)?;
        croze.ok(&["pull", &image])?;
        let place = scene.new_directory("place")?;
        std::fs::create_dir(place.join("shared"))?;
        std::fs::write(place.join("shared/file"), "x")?;
        std::fs::write(
            place.join("env"),
            "# a comment\nA=of the file\n\nFROM_IMAGE\nEMPTY=\n",
        )?;
        let place = format!("{}/", place.display());
        Ok(Self {
            docker,
            croze,
            image,
            place,
        })
    }

    fn flags(&self, case: &[&str]) -> Vec<String> {
        case.iter().map(|flag| flag.replace('@', &self.place)).collect()
    }

    fn docker(&self, case: &[&str]) -> Result<BTreeSet<String>> {
        let case = self.flags(case);
        let case: Vec<&str> = case.iter().map(String::as_str).collect();
        let tail = ["same", "/bin/sh", "-c", SCRIPT];
        facts(
            &self
                .docker
                .docker(&[&["run", "--rm", "--runtime", "croze"], &case[..], &tail].concat())?,
        )
    }

    fn croze(&self, case: &[&str]) -> Result<BTreeSet<String>> {
        let case = self.flags(case);
        let case: Vec<&str> = case.iter().map(String::as_str).collect();
        let tail = [self.image.as_str(), "/bin/sh", "-c", SCRIPT];
        facts(&self.croze.croze(&[&["run", "--rm"], &case[..], &tail].concat())?)
    }
}

/// One line for each fact.
fn facts(output: &Output) -> Result<BTreeSet<String>> {
    let text = output.stdout.replace('\r', "");
    let mut facts = BTreeSet::new();
    facts.insert(format!("ended: {}", output.ended));
    let Some((report, files)) = text.split_once("--- /etc/hosts") else {
        facts.insert(format!("no report: {output}"));
        return Ok(facts);
    };
    let report: Value = serde_json::from_str(report.trim())?;
    let parts = report.as_object().context("a report is an object")?;
    for (name, value) in parts {
        match name.as_str() {
            // Names of the container, of this moment, or of the machine.
            "cgroup" | "clock" | "argv" | "fds" | "pid" | "ppid" | "session" => {}
            "namespaces" => facts.extend(shared_namespaces(value)),
            "capabilities" => facts.extend(leaves(name, &known_to_docker(value))),
            "mountinfo" => facts.extend(mounts(value)),
            _ => facts.extend(leaves(name, value)),
        }
    }
    for line in files.lines().filter(|line| !line.is_empty()) {
        facts.insert(format!("file: {line}"));
    }
    Ok(facts)
}

/// docker 20.10 does not know these: who gets all capabilities lacks them there.
const LATER_CAPABILITIES: [&str; 3] = ["CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"];

/// The sets without what docker does not know.
fn known_to_docker(sets: &Value) -> Value {
    let mut sets = sets.clone();
    for set in sets
        .as_object_mut()
        .into_iter()
        .flat_map(|sets| sets.values_mut())
    {
        if let Some(names) = set.as_array_mut() {
            names.retain(|name| !LATER_CAPABILITIES.iter().any(|later| name == later));
        }
    }
    sets
}

/// Every value of a JSON document with its path; lists as a whole, in order.
fn leaves(path: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| leaves(&format!("{path}.{key}"), value))
            .collect(),
        Value::String(text) => vec![format!("{path}: {}", anonymous(text))],
        other => vec![format!("{path}: {other}")],
    }
}

/// A hostname that was made of an id.
fn anonymous(text: &str) -> &str {
    let made_up = text.len() == 12 && text.chars().all(|c| c.is_ascii_hexdigit());
    if made_up { "made of the id" } else { text }
}

/// Which namespaces are the host's.
fn shared_namespaces(value: &Value) -> Vec<String> {
    let host = |kind: &str| std::fs::read_link(Path::new("/proc/self/ns").join(kind)).unwrap_or_default();
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(kind, inode)| {
            let shared = host(kind).to_string_lossy().contains(&inode.to_string());
            format!(
                "namespace {kind}: {}",
                if shared { "the host's" } else { "its own" }
            )
        })
        .collect()
}

/// Mount point, options, type and the file system's own options; not where it comes from.
fn mounts(value: &Value) -> Vec<String> {
    let lines = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    lines
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let before: Vec<&str> = before.split(' ').collect();
            let after: Vec<&str> = after.split(' ').collect();
            let (point, mut options) = (*before.get(4)?, before.get(5)?.split(',').collect::<Vec<_>>());
            options.sort_unstable();
            let travels = before.get(6..).unwrap_or_default().iter();
            let mut travels: Vec<&str> = travels
                .map(|tag| tag.split(':').next().unwrap_or_default())
                .collect();
            if point == "/" {
                // dockerd makes the root's own propagation slave, which shows as soon as its own mounts are shared.
                travels.clear();
            }
            let kind = *after.first()?;
            // An overlay's options name its directories, and the disk below /etc's files is whatever the host has.
            let own = match kind {
                "overlay" => "",
                _ => after.get(2)?,
            };
            Some(format!(
                "mount {point}: {} {kind} {own} {}",
                options.join(","),
                travels.join(",")
            ))
        })
        .collect()
}
