//! Whole specs from small requests.

use std::path::PathBuf;

use super::*;
use crate::record::State;
use crate::request::{BindMount, CreateRequest, ImageFacts, IoConfig, Propagation, ReadOnlyBelow};

fn host() -> HostFacts {
    HostFacts {
        hostname: "thehost".into(),
        unified_cgroup: false,
        swap_limit: true,
        cpus: 2,
        online_cpus: "0-1".into(),
        online_mems: "0".into(),
        capabilities: croze_sys::caps::NAMES.to_vec(),
        apparmor: false,
        kernel: (6, 1),
        may_reset_oom_score: true,
        arch: "X86_64",
    }
}

fn container(request: CreateRequest) -> Container {
    Container {
        id: "ab".repeat(32).parse().unwrap(),
        name: "web".parse().unwrap(),
        created_at: "2026-01-01T00:00:00Z".into(),
        request,
        image: ImageFacts {
            cmd: vec!["sh".into()],
            env: vec!["A=1".into()],
            ..ImageFacts::default()
        },
        state: State::Created,
        started_at: None,
        error: None,
    }
}

fn spec_on(container: &Container, host: &HostFacts) -> Value {
    let accounts = Accounts {
        passwd: "root:x:0:0::/root:/bin/sh\n".into(),
        group: String::new(),
    };
    let facts = Facts {
        host,
        accounts: &accounts,
        rootfs: Path::new("/r"),
        etc_dir: Path::new("/e"),
        init: Some(Path::new("/opt/croze-init")),
        devices: &[],
        pid_namespace: None,
        read_only_depth: ReadOnlyDepth::Whole,
        network_namespace: None,
    };
    generate(container, &facts).unwrap()
}

fn bind(source: &str, target: &str) -> BindMount {
    BindMount {
        source: PathBuf::from(source),
        target: target.into(),
        read_only: true,
        propagation: Propagation::Rprivate,
        recursive: true,
        read_only_below: ReadOnlyBelow::default(),
        create_source: true,
    }
}

fn targets(spec: &Value) -> Vec<&str> {
    spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect()
}

#[test]
fn the_smallest_request_gets_the_defaults() {
    let spec = spec_on(&container(CreateRequest::default()), &host());
    assert_eq!(spec["process"]["args"], json!(["sh"]));
    assert_eq!(spec["hostname"], "abababababab");
    assert_eq!(
        spec["process"]["user"],
        json!({ "uid": 0, "gid": 0, "additionalGids": [0] })
    );
    let env = ["HOSTNAME=abababababab", "A=1", "HOME=/root"];
    assert_eq!(
        spec["process"]["env"].as_array().unwrap()[1..],
        env.map(Value::from)
    );
    assert_eq!(
        spec["linux"]["cgroupsPath"],
        format!("/croze/{}", "ab".repeat(32))
    );
    let kinds: Vec<&str> = spec["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["mount", "uts", "ipc", "network", "pid"]);
    assert_eq!(spec["process"]["oomScoreAdj"], 0);
    assert_eq!(
        targets(&spec),
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/mqueue",
            "/dev/shm",
            "/etc/resolv.conf",
            "/etc/hostname",
            "/etc/hosts"
        ]
    );
}

#[test]
fn host_network_keeps_the_hosts_name_and_makes_no_network_namespace() {
    let request = CreateRequest {
        network: Network::Host,
        ..CreateRequest::default()
    };
    let spec = spec_on(
        &container(request),
        &HostFacts {
            unified_cgroup: true,
            ..host()
        },
    );
    assert_eq!(spec["hostname"], "thehost");
    let namespaces = spec["linux"]["namespaces"].to_string();
    assert!(
        !namespaces.contains("network") && namespaces.contains("cgroup"),
        "{namespaces}"
    );
}

#[test]
fn requested_mounts_replace_defaults_and_come_parents_first() {
    let mounts = vec![
        bind("/x", "/data/deep/er"),
        bind("/y", "/data/"),
        bind("/z", "/dev/shm"),
        bind("/h", "/etc/hosts"),
        bind("/e", "/etc"),
    ];
    let request = CreateRequest {
        mounts,
        ..CreateRequest::default()
    };
    let spec = spec_on(&container(request), &host());
    let targets = targets(&spec);
    assert_eq!(targets.iter().filter(|t| **t == "/dev/shm").count(), 1);
    let at = |target: &str| targets.iter().position(|t| *t == target).unwrap();
    assert!(at("/data") < at("/data/deep/er"));
    let data = &spec["mounts"][at("/data")];
    assert_eq!(data["options"], json!(["rbind", "ro", "rro", "rprivate"]));
    assert_eq!(data["source"], "/y");
    assert_eq!(spec["mounts"][at("/etc/hosts")]["source"], "/h");
    for generated in ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"] {
        assert!(at("/etc") < at(generated), "{generated} lies on top");
    }
}

#[test]
fn requests_that_cannot_be_are_refused_before_anything_is_made() {
    let table = [
        CreateRequest {
            mounts: vec![bind("/x", "/")],
            ..CreateRequest::default()
        },
        CreateRequest {
            mounts: vec![bind("/x", "/proc/self")],
            ..CreateRequest::default()
        },
        CreateRequest {
            mounts: vec![bind("/x", "/a"), bind("/y", "/b/../a")],
            ..CreateRequest::default()
        },
        CreateRequest {
            mounts: vec![bind("x", "/a")],
            ..CreateRequest::default()
        },
        CreateRequest {
            hostname: Some("a b".into()),
            ..CreateRequest::default()
        },
        CreateRequest {
            stop_signal: Some("SIGNOPE".into()),
            ..CreateRequest::default()
        },
        CreateRequest {
            working_dir: Some("rel".into()),
            ..CreateRequest::default()
        },
        CreateRequest {
            user: Some("a:".into()),
            ..CreateRequest::default()
        },
        CreateRequest {
            entrypoint: Some(Vec::new()),
            ..CreateRequest::default()
        },
    ];
    for request in table {
        let container = container(request);
        assert!(validate(&container, &host()).is_err(), "{:?}", container.request);
    }
    assert_eq!(
        validate(&container(CreateRequest::default()), &host()),
        Ok(Vec::new())
    );
}

#[test]
fn an_exec_has_the_containers_settings_but_for_its_own() {
    let io = IoConfig {
        tty: true,
        ..IoConfig::default()
    };
    let base = container(CreateRequest {
        env: vec!["B=2".into()],
        io,
        ..CreateRequest::default()
    });
    let request = ExecRequest {
        command: vec!["id".into()],
        env: vec!["A=9".into()],
        user: Some("7:8".into()),
        working_dir: Some("/tmp".into()),
        ..ExecRequest::default()
    };
    let process = exec_process(&base, &request, &host(), &Accounts::default()).unwrap();
    assert_eq!(process["terminal"], false);
    assert_eq!(process["cwd"], "/tmp");
    assert_eq!(
        process["user"],
        json!({ "uid": 7, "gid": 8, "additionalGids": [8] })
    );
    assert_eq!(process["capabilities"]["effective"], json!([]));
    let env = process["env"].to_string();
    assert!(
        env.contains("A=9") && env.contains("B=2") && !env.contains("A=1") && !env.contains("TERM="),
        "{env}"
    );
}
