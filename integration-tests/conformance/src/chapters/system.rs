//! The rest of `linux`: devices, sysctl, personality, memoryPolicy, intelRdt, labels; LISTEN_FDS and NOTIFY_SOCKET.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::ensure;
use croze_integration_tests::spec;
use serde_json::{Value, json};

use crate::case::Case;
use crate::host::Need;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = devices();
    cases.extend(kernel());
    cases.extend(activation());
    cases
}

/// Name, type, numbers and mode of what every container has.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

fn devices() -> Vec<Case> {
    let node = |kind: &str, major: u32, minor: u32, mode: &str, uid: u32| json!({ "type": kind, "major": major, "minor": minor, "mode": mode, "uid": uid, "gid": 2 * uid });
    let mut cases: Vec<Case> = DEFAULT_DEVICES
        .into_iter()
        .map(|(name, major, minor)| {
            Case::new(format!("default device /dev/{name}"))
                .reports(&format!("/devices/{name}"), node("c", major, minor, "0666", 0))
        })
        .collect();
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        cases.push(
            Case::new(format!("default link /dev/{name}"))
                .reports(&format!("/devices/{name}/target"), json!(target)),
        );
    }
    let asked = |value: Value| json!([value]);
    cases.extend([
        Case::new("linux.devices c").set("/linux/devices", asked(json!({ "path": "/dev/mine", "type": "c", "major": 1, "minor": 3 }))).reports("/devices/mine/type", json!("c")),
        Case::new("linux.devices u").set("/linux/devices", asked(json!({ "path": "/dev/mine", "type": "u", "major": 1, "minor": 3 }))).reports("/devices/mine/type", json!("c")),
        Case::new("linux.devices b").set("/linux/devices", asked(json!({ "path": "/dev/mine", "type": "b", "major": 7, "minor": 0 }))).reports("/devices/mine/type", json!("b")),
        Case::new("linux.devices p").set("/linux/devices", asked(json!({ "path": "/dev/mine", "type": "p" }))).shell("test -p /dev/mine && echo fifo").prints("fifo"),
        Case::new("linux.devices fileMode, uid, gid")
            .set("/linux/devices", asked(json!({ "path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 14 })))
            .reports("/devices/mine", node("c", 1, 3, "0640", 7)),
        Case::new("linux.devices in a directory that is made")
            .set("/linux/devices", asked(json!({ "path": "/dev/sub/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600 })))
            .reports("/devices/sub~1mine", node("c", 1, 5, "0600", 0)),
        Case::new("linux.devices outside of /dev")
            .set("/linux/devices", asked(json!({ "path": "/srv/mine", "type": "c", "major": 1, "minor": 3 })))
            .shell("test -c /srv/mine && echo there").prints("there"),
        Case::new("linux.devices a default one again").set("/linux/devices", asked(json!({ "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 0, "gid": 0 }))).reports("/devices/null", node("c", 1, 3, "0666", 0)),
        Case::new("linux.devices unknown type").set("/linux/devices", asked(json!({ "path": "/dev/mine", "type": "z", "major": 1, "minor": 3 }))).refused(&["z"]),
        Case::new("linux.resources.devices none but the default ones").args(&["/probe", "attempt", "mknod", "mknod:disk"]).prints(r#"{"mknod":"ok","mknod:disk":"EPERM"}"#),
        Case::new("linux.resources.devices allow")
            .append("/linux/resources/devices", json!({ "allow": true, "type": "b", "major": 7, "minor": 0, "access": "rwm" }))
            // Whether a loop device has a file behind it does not matter: it may be opened.
            .shell("mknod /tmp/loop b 7 0 && (exec 3< /tmp/loop) 2>&1 | grep -c 'not permitted'").ends(1),
        Case::new("linux.resources.devices deny what is default")
            .append("/linux/resources/devices", json!({ "allow": false, "type": "c", "major": 1, "minor": 11, "access": "rwm" }))
            .shell("mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg 2>&1 | grep -c 'not permitted'").prints("1"),
    ]);
    cases
}

fn kernel() -> Vec<Case> {
    let sysctl = |name: &str, value: &str| {
        Case::new(format!("linux.sysctl {name}"))
            .set("/linux/sysctl", json!({ (name): value }))
            .args(&["/probe", "report", name])
            .reports(&format!("/sysctl/{name}"), json!(value))
    };
    let policy = |mode: &str, nodes: &str| json!({ "mode": mode, "nodes": nodes });
    let numa = Need::Path("/proc/self/numa_maps", "NUMA policies (CONFIG_NUMA)");
    vec![
        sysctl("net.ipv4.ip_forward", "1"),
        sysctl("net.ipv4.ping_group_range", "0\t0"),
        sysctl("kernel.msgmax", "12345"),
        sysctl("kernel.shm_rmid_forced", "1"),
        sysctl("fs.mqueue.msg_max", "20"),
        Case::new("linux.sysctl several")
            .set(
                "/linux/sysctl",
                json!({ "net.ipv4.ip_forward": "1", "kernel.msgmax": "12345", "fs.mqueue.msg_max": "20" }),
            )
            .args(&[
                "/probe",
                "report",
                "net.ipv4.ip_forward",
                "kernel.msgmax",
                "fs.mqueue.msg_max",
            ])
            .reports("/sysctl/net.ipv4.ip_forward", json!("1"))
            .reports("/sysctl/kernel.msgmax", json!("12345"))
            .reports("/sysctl/fs.mqueue.msg_max", json!("20")),
        Case::new("linux.sysctl written with slashes")
            .set("/linux/sysctl", json!({ "net/ipv4/ip_forward": "1" }))
            .args(&["/probe", "report", "net.ipv4.ip_forward"])
            .reports("/sysctl/net.ipv4.ip_forward", json!("1")),
        Case::new("linux.sysctl of the host")
            .set("/linux/sysctl", json!({ "vm.swappiness": "17" }))
            .refused(&["vm.swappiness"]),
        Case::new("linux.sysctl without its namespace")
            .set(
                "/linux/namespaces",
                json!([{ "type": "mount" }, { "type": "pid" }, { "type": "uts" }]),
            )
            .set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }))
            .refused(&["net.ipv4.ip_forward"]),
        Case::new("linux.personality LINUX32")
            .set("/linux/personality", json!({ "domain": "LINUX32" }))
            .args(&["/bin/busybox", "cat", "/proc/self/personality"])
            .prints("00000008"),
        Case::new("linux.personality LINUX")
            .set("/linux/personality", json!({ "domain": "LINUX" }))
            .args(&["/bin/busybox", "cat", "/proc/self/personality"])
            .prints("00000000"),
        Case::new("linux.personality unknown")
            .set("/linux/personality", json!({ "domain": "OS2" }))
            .refused(&["OS2"]),
        Case::new("linux.personality.flags")
            .set(
                "/linux/personality",
                json!({ "domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"] }),
            )
            .args(&["/bin/busybox", "cat", "/proc/self/personality"])
            .prints("00000000"),
        Case::new("linux.memoryPolicy MPOL_BIND")
            .needs(numa.clone())
            .set("/linux/memoryPolicy", policy("MPOL_BIND", "0"))
            .shell("grep -c bind:0 /proc/self/numa_maps > /dev/null && echo bound")
            .prints("bound"),
        Case::new("linux.memoryPolicy MPOL_INTERLEAVE")
            .needs(numa)
            .set("/linux/memoryPolicy", policy("MPOL_INTERLEAVE", "0"))
            .shell("grep -c interleave /proc/self/numa_maps > /dev/null && echo interleaved")
            .prints("interleaved"),
        Case::new("linux.memoryPolicy nodes that are no list")
            .set("/linux/memoryPolicy", policy("MPOL_BIND", "a-b"))
            .refused(&["linux.memoryPolicy.nodes"]),
        Case::new("linux.memoryPolicy unknown mode")
            .set("/linux/memoryPolicy", policy("MPOL_SOON", "0"))
            .refused(&["MPOL_SOON"]),
        Case::new("linux.intelRdt")
            .needs(Need::Path("/sys/fs/resctrl/schemata", "mounted resctrl"))
            .set("/linux/intelRdt", json!({ "closID": "croze-conformance" }))
            .reports("/pid", json!(1)),
        Case::new("linux.mountLabel without SELinux")
            .needs(Need::NoSeLinux)
            .set(
                "/linux/mountLabel",
                json!("system_u:object_r:container_file_t:s0"),
            )
            .reports("/pid", json!(1)),
        Case::new("linux.cgroupsPath in a cgroup namespace")
            .append("/linux/namespaces", json!({ "type": "cgroup" }))
            .shell("grep -vc ':/$' /proc/self/cgroup")
            .ends(1),
    ]
}

fn activation() -> Vec<Case> {
    vec![
        Case::script("LISTEN_FDS", |stage| {
            let bundle = stage.bundle(&spec::docker_like(&["/probe"]))?;
            let script = format!(
                "exec 3</etc/passwd; exec env LISTEN_FDS=1 {} --root {} run --bundle {} {}",
                stage.runtime.program().display(),
                stage.runtime.root().display(),
                bundle.directory().display(),
                stage.next_id(),
            );
            let report = stage.scene.call(&["sh", "-c", &script])?.success()?.json()?;
            let environment = &report["environment"];
            ensure!(
                environment["LISTEN_FDS"] == "1" && environment["LISTEN_PID"] == "1",
                "{environment}"
            );
            ensure!(report["fds"]["3"].is_string(), "{}", report["fds"]);
            Ok(())
        }),
        Case::script("NOTIFY_SOCKET", |stage| {
            let socket = stage.scene.path("notify.sock");
            let host = UnixDatagram::bind(&socket)?;
            host.set_read_timeout(Some(Duration::from_secs(20)))?;
            let bundle = stage.bundle(&spec::docker_like(&["/probe", "notify", "READY=1"]))?;
            let id = stage.next_id();
            let mut command = stage.runtime.open_command("run", &bundle);
            command.args(["--detach", &id]).env("NOTIFY_SOCKET", &socket);
            let process = stage.scene.start(command)?;
            let mut bytes = [0_u8; 256];
            let count = host.recv(&mut bytes)?;
            let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned();
            ensure!(text.lines().any(|line| line == "READY=1"), "{text:?}");
            process.wait(Duration::from_secs(20))?.success()?;
            stage.runtime.delete_by_force(&id)
        }),
    ]
}
