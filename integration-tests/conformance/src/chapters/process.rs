//! `process`, and the fields of the root object that a process sees.

use anyhow::{Context, Result, ensure};
use croze_integration_tests::spec;
use serde_json::{Value, json};

use crate::case::Case;
use crate::console::Receiver;
use crate::host::Need;
use crate::stage::Stage;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = root_object();
    cases.extend(command());
    cases.extend(identity());
    cases.extend(rlimits());
    cases.extend(capabilities());
    cases.extend(scheduling());
    cases.extend(terminals());
    cases
}

fn root_object() -> Vec<Case> {
    let version = |text: &str| Case::new(format!("ociVersion {text}")).set("/ociVersion", json!(text));
    let mut cases: Vec<Case> = ["1.0.0", "1.0.2", "1.1.0", "1.2.0", "1.2.1", "1.3.0"]
        .into_iter()
        .map(|text| version(text).reports("/pid", json!(1)))
        .collect();
    cases.extend([
        Case::new("hostname")
            .set("/hostname", json!("elsewhere"))
            .reports("/hostname", json!("elsewhere")),
        Case::new("hostname without a uts namespace")
            .set(
                "/linux/namespaces",
                json!([{ "type": "mount" }, { "type": "pid" }]),
            )
            .refused(&["hostname"]),
        Case::new("domainname")
            .set("/domainname", json!("example.org"))
            .reports("/domainname", json!("example.org")),
        Case::new("root.readonly true")
            .set("/root/readonly", json!(true))
            .args(&["/probe", "attempt", "write:/"])
            .prints(r#"{"write:/":"EROFS"}"#),
        Case::new("root.readonly false")
            .args(&["/probe", "attempt", "write:/"])
            .prints(r#"{"write:/":"ok"}"#),
        Case::script("root.path absolute", |stage| {
            let bundle = stage.bundle(&spec::docker_like(&["/bin/true"]))?;
            let mut config = spec::docker_like(&["/probe"]);
            config["root"]["path"] = json!(bundle.rootfs("/"));
            let report = stage.run(&config)?.success()?.json()?;
            ensure!(report["hostname"] == "inside", "{report}");
            Ok(())
        }),
        Case::new("root.path missing")
            .set("/root/path", json!("nowhere"))
            .refused(&["nowhere"]),
        Case::script("null is what is not there", |stage| {
            let mut config = spec::docker_like(&["/probe"]);
            // As programs in Go write what is not set, and read it.
            for field in ["rlimits", "apparmorProfile", "oomScoreAdj", "terminal"] {
                config["process"][field] = Value::Null;
            }
            config["process"]["user"]["additionalGids"] = Value::Null;
            config["process"]["user"]["umask"] = Value::Null;
            for field in ["sysctl", "seccomp", "devices", "rootfsPropagation", "intelRdt"] {
                config["linux"][field] = Value::Null;
            }
            config["linux"]["resources"]["pids"] = Value::Null;
            config["process"]["user"]["gid"] = Value::Null;
            config["hooks"] = Value::Null;
            let report = stage.run(&config)?.success()?.json()?;
            ensure!(report["gid"]["real"] == 0, "{report}");
            Ok(())
        }),
        Case::script("annotations", |stage| {
            let mut config = spec::docker_like(&["/probe", "wait"]);
            config["annotations"] = json!({ "org.example.key": "value" });
            let id = stage.start(&config)?;
            let state = stage.runtime.state(&id)?;
            ensure!(state["annotations"]["org.example.key"] == "value", "{state}");
            stage.runtime.delete_by_force(&id)
        }),
    ]);
    cases
}

fn command() -> Vec<Case> {
    vec![
        Case::new("process.args")
            .args(&["/probe", "report", "--", "a b", "", "ünïcode"])
            .reports("/argv", json!(["/probe", "report", "--", "a b", "", "ünïcode"])),
        Case::new("process.args empty")
            .set("/process/args", json!([]))
            .refused(&["args"]),
        Case::new("process.args looked up in PATH")
            .args(&["echo", "found"])
            .set("/process/env", json!(["PATH=/x:/bin"]))
            .prints("found"),
        Case::new("process.args not found")
            .args(&["/no/such/command"])
            .refused(&["no such file or directory"]),
        Case::new("process.args not executable")
            .args(&["/etc/passwd"])
            .refused(&["permission denied"]),
        Case::new("process.env")
            .set(
                "/process/env",
                json!(["PATH=/bin", "HOME=/x", "EMPTY=", "TWO=two words=2"]),
            )
            .reports(
                "/environment",
                json!({ "PATH": "/bin", "HOME": "/x", "EMPTY": "", "TWO": "two words=2" }),
            ),
        Case::new("process.env HOME is set from passwd")
            .set("/process/env", json!(["PATH=/bin"]))
            .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
            .reports("/environment/HOME", json!("/home/app")),
        Case::new("process.env of the caller is not inherited").reports("/environment/CARGO", Value::Null),
        Case::new("process.env without a value")
            .set("/process/env", json!(["PATH=/bin", "NAME"]))
            .refused(&["process.env", "NAME=value"]),
        Case::new("process.env without a name")
            .set("/process/env", json!(["PATH=/bin", "=value"]))
            .refused(&["process.env", "NAME=value"]),
    ]
}

fn identity() -> Vec<Case> {
    let ids = |id: u32| json!({ "real": id, "effective": id, "saved": id });
    vec![
        Case::new("process.cwd")
            .set("/process/cwd", json!("/tmp"))
            .reports("/cwd", json!("/tmp")),
        Case::new("process.cwd is made where it is missing")
            .set("/process/cwd", json!("/made/here"))
            .reports("/cwd", json!("/made/here")),
        Case::new("process.cwd relative")
            .set("/process/cwd", json!("tmp"))
            .refused(&["cwd"]),
        Case::new("process.user.uid")
            .set("/process/user", json!({ "uid": 1234, "gid": 0 }))
            .reports("/uid", ids(1234)),
        Case::new("process.user.gid")
            .set("/process/user", json!({ "uid": 0, "gid": 4321 }))
            .reports("/gid", ids(4321)),
        Case::new("process.user.umask")
            .set("/process/user", json!({ "uid": 0, "gid": 0, "umask": 0o027 }))
            .reports("/umask", json!("0027")),
        Case::new("process.user.umask default").reports("/umask", json!("0022")),
        Case::script("process.user.additionalGids", |stage| {
            let mut config = spec::docker_like(&["/probe"]);
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [5, 2000] });
            let report = stage.run(&config)?.success()?.json()?;
            let groups: Vec<u64> = report["groups"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_u64)
                .collect();
            let added: Vec<u64> = groups.iter().copied().filter(|group| *group != 1000).collect();
            ensure!(added == [5, 2000], "{groups:?}");
            Ok(())
        }),
        Case::new("process.user no groups of the caller").reports("/groups", json!([])),
        Case::new("process.noNewPrivileges true")
            .set("/process/noNewPrivileges", json!(true))
            .reports("/no_new_privs", json!(true)),
        Case::new("process.noNewPrivileges false")
            .set("/process/noNewPrivileges", json!(false))
            .reports("/no_new_privs", json!(false)),
        Case::new("process.oomScoreAdj")
            .set("/process/oomScoreAdj", json!(321))
            .reports("/oom_score_adj", json!("321")),
        Case::new("process.oomScoreAdj out of range")
            .set("/process/oomScoreAdj", json!(4000))
            .refused(&["oom"]),
        Case::new("process leads a session").reports("/session", json!(1)),
        Case::new("process has three descriptors")
            .shell("ls /proc/self/fd | wc -l")
            // The fourth is the listing's own.
            .prints("4"),
        Case::new("process.apparmorProfile")
            .needs(Need::AppArmor)
            .set("/process/apparmorProfile", json!("unconfined"))
            .shell("cat /proc/self/attr/current")
            .prints("unconfined"),
        Case::new("process.apparmorProfile unknown")
            .needs(Need::AppArmor)
            .set("/process/apparmorProfile", json!("croze-no-such-profile"))
            .refused(&["apparmor"]),
        Case::new("process.selinuxLabel without SELinux")
            .needs(Need::NoSeLinux)
            .set("/process/selinuxLabel", json!("system_u:system_r:container_t:s0"))
            .refused(&["selinux"]),
    ]
}

/// Each within hard limits that any host grants.
const RLIMITS: [(&str, u64, u64); 16] = [
    ("RLIMIT_AS", 1 << 40, 1 << 41),
    ("RLIMIT_CORE", 0, 0),
    ("RLIMIT_CPU", 1000, 2000),
    ("RLIMIT_DATA", 1 << 38, 1 << 39),
    ("RLIMIT_FSIZE", 1 << 30, 1 << 31),
    ("RLIMIT_LOCKS", 100, 200),
    ("RLIMIT_MEMLOCK", 32768, 65536),
    ("RLIMIT_MSGQUEUE", 4096, 8192),
    ("RLIMIT_NICE", 0, 0),
    ("RLIMIT_NOFILE", 512, 1024),
    ("RLIMIT_NPROC", 1000, 1000),
    ("RLIMIT_RSS", 1 << 30, 1 << 31),
    ("RLIMIT_RTPRIO", 0, 0),
    ("RLIMIT_RTTIME", 1_000_000, 2_000_000),
    ("RLIMIT_SIGPENDING", 100, 200),
    ("RLIMIT_STACK", 4 << 20, 8 << 20),
];

fn rlimits() -> Vec<Case> {
    let mut cases: Vec<Case> = RLIMITS
        .into_iter()
        .map(|(name, soft, hard)| {
            Case::new(format!("process.rlimits {name}"))
                .set(
                    "/process/rlimits",
                    json!([{ "type": name, "soft": soft, "hard": hard }]),
                )
                .reports(&format!("/rlimits/{name}"), json!([soft, hard]))
        })
        .collect();
    let one = json!({ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 });
    cases.extend([
        Case::new("process.rlimits unknown")
            .set(
                "/process/rlimits",
                json!([{ "type": "RLIMIT_NONE", "soft": 1, "hard": 1 }]),
            )
            .refused(&["RLIMIT_NONE"]),
        Case::new("process.rlimits several")
            .set(
                "/process/rlimits",
                json!([
                    { "type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024 },
                    { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
                    { "type": "RLIMIT_CPU", "soft": 1000, "hard": 2000 },
                ]),
            )
            .reports("/rlimits/RLIMIT_NOFILE", json!([512, 1024]))
            .reports("/rlimits/RLIMIT_CORE", json!([0, 0]))
            .reports("/rlimits/RLIMIT_CPU", json!([1000, 2000])),
        Case::new("process.rlimits twice")
            .set("/process/rlimits", json!([one, one]))
            .refused(&["RLIMIT_CORE"]),
        Case::new("process.rlimits soft above hard")
            .set(
                "/process/rlimits",
                json!([{ "type": "RLIMIT_NOFILE", "soft": 20, "hard": 10 }]),
            )
            .refused(&["RLIMIT_NOFILE"]),
    ]);
    cases
}

fn capabilities() -> Vec<Case> {
    let two = json!(["CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let none = json!([]);
    let all =
        json!({ "bounding": two, "permitted": two, "effective": two, "inheritable": two, "ambient": two });
    let sets = ["bounding", "permitted", "effective", "inheritable", "ambient"];
    let mut cases = Vec::new();
    for (user, uid) in [("root", 0), ("a user", 1000)] {
        for set in sets {
            cases.push(
                Case::new(format!("process.capabilities.{set} of {user}"))
                    .set("/process/user", json!({ "uid": uid, "gid": uid }))
                    .set("/process/capabilities", all.clone())
                    .reports(&format!("/capabilities/{set}"), two.clone()),
            );
        }
    }
    for set in sets {
        let mut given = json!({});
        given[set] = none.clone();
        cases.push(
            Case::new(format!("process.capabilities.{set} empty"))
                .set("/process/capabilities", given)
                .reports(&format!("/capabilities/{set}"), none.clone()),
        );
    }
    cases.extend([
        Case::new("process.capabilities missing")
            .set("/process/capabilities", Value::Null)
            .reports("/capabilities/inheritable", none.clone()),
        Case::new("process.capabilities without ambient are lost to a user")
            .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
            .set(
                "/process/capabilities",
                json!({ "bounding": two, "permitted": two, "effective": two, "inheritable": two }),
            )
            .reports("/capabilities/effective", none),
        Case::new("process.capabilities unknown is no error")
            .set(
                "/process/capabilities",
                json!({ "bounding": ["CAP_KILL", "CAP_TO_DREAM"] }),
            )
            .reports("/capabilities/bounding", json!(["CAP_KILL"])),
    ]);
    cases
}

fn scheduling() -> Vec<Case> {
    let fields = |case: Case| case.shell("cut -d' ' -f19,41 /proc/self/stat");
    let scheduler = |name: &str, value: Value| {
        fields(Case::new(format!("process.scheduler {name}"))).set("/process/scheduler", value)
    };
    let priority = |name: &str, class: &str, value: i32| {
        Case::new(format!("process.ioPriority {name}"))
            .set(
                "/process/ioPriority",
                json!({ "class": class, "priority": value }),
            )
            .args(&["/bin/busybox", "ionice"])
    };
    vec![
        // proc(5): the nice value is field 19, the policy field 41.
        scheduler("SCHED_OTHER nice", json!({ "policy": "SCHED_OTHER", "nice": 5 })).prints("5 0"),
        scheduler("SCHED_OTHER negative nice", json!({ "policy": "SCHED_OTHER", "nice": -3 })).prints("-3 0"),
        scheduler("SCHED_BATCH", json!({ "policy": "SCHED_BATCH", "nice": 7 })).prints("7 3"),
        scheduler("SCHED_IDLE", json!({ "policy": "SCHED_IDLE" })).prints("0 5"),
        scheduler("SCHED_FIFO", json!({ "policy": "SCHED_FIFO", "priority": 3 })).needs(Need::RealTime).prints("0 1"),
        scheduler("SCHED_RR", json!({ "policy": "SCHED_RR", "priority": 3 })).needs(Need::RealTime).prints("0 2"),
        scheduler("SCHED_DEADLINE", json!({ "policy": "SCHED_DEADLINE", "runtime": 10_000_000, "deadline": 100_000_000, "period": 100_000_000 }))
            .needs(Need::RealTime)
            // Such a process may not fork.
            .args(&["/bin/busybox", "cut", "-d ", "-f41", "/proc/self/stat"])
            .prints("6"),
        scheduler("flags RESET_ON_FORK", json!({ "policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"] })).prints("0 3"),
        scheduler("unknown policy", json!({ "policy": "SCHED_SOON" })).refused(&["process.scheduler.policy"]),
        scheduler("nice out of range", json!({ "policy": "SCHED_OTHER", "nice": 99 })).refused(&["process.scheduler.nice"]),
        priority("best effort", "IOPRIO_CLASS_BE", 6).prints("best-effort: prio 6"),
        priority("real time", "IOPRIO_CLASS_RT", 2).prints("realtime: prio 2"),
        priority("idle", "IOPRIO_CLASS_IDLE", 0).prints("idle"),
        priority("out of range", "IOPRIO_CLASS_BE", 9).refused(&["process.ioPriority.priority"]),
        priority("unknown class", "IOPRIO_CLASS_SOON", 1).refused(&["IOPRIO_CLASS_SOON"]),
    ]
}

fn terminals() -> Vec<Case> {
    vec![
        Case::new("process.terminal false").reports(
            "/tty",
            json!({ "stdin": false, "stdout": false, "stderr": false }),
        ),
        Case::script("process.terminal true", |stage| {
            let text = on_terminal(stage, "/probe tty", &Value::Null)?;
            let answer: Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
            for stream in ["stdin", "stdout", "stderr"] {
                ensure!(answer[stream] == true, "{stream}: {text}");
            }
            Ok(())
        }),
        Case::script("process.terminal is /dev/console", |stage| {
            let text = on_terminal(
                stage,
                "test -c /dev/console && echo to the console > /dev/console",
                &Value::Null,
            )?;
            ensure!(text.contains("to the console"), "{text}");
            Ok(())
        }),
        Case::script("process.consoleSize", |stage| {
            let text = on_terminal(stage, "stty size", &json!({ "height": 33, "width": 77 }))?;
            ensure!(text.trim() == "33 77", "{text}");
            Ok(())
        }),
    ]
}

/// What a line of shell writes to the terminal that the runtime made for it.
fn on_terminal(stage: &Stage<'_>, line: &str, size: &Value) -> Result<String> {
    // A program that ends before its terminal is read might take its last words with it.
    let line = format!("{line}; sleep 0.2");
    let mut config = spec::docker_like(&["/bin/sh", "-c", &line]);
    config["process"]["terminal"] = json!(true);
    if !size.is_null() {
        config["process"]["consoleSize"] = size.clone();
    }
    let bundle = stage.bundle(&config)?;
    let receiver = Receiver::new(stage, "console.sock")?;
    let id = stage.next_id();
    let mut command = stage.runtime.open_command("create", &bundle);
    command.args(["--console-socket", &receiver.path(), &id]);
    let creating = stage.scene.start(command)?;
    let (_, master) = receiver.receive()?;
    creating.wait(std::time::Duration::from_secs(20))?.success()?;
    stage.call(&["start", &id])?;
    let text = receiver.read_terminal(master)?;
    stage
        .runtime
        .wait_for_status(&id, "stopped")
        .context("the shell ends")?;
    stage.call(&["delete", &id])?;
    Ok(text)
}
