//! `exec` and its flags.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use croze_integration_tests::{is_alive, spec};
use serde_json::{Value, json};

use crate::case::Case;
use crate::console::Receiver;
use crate::host::Need;
use crate::stage::{Stage, namespace_of};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = identity();
    cases.extend(files());
    cases.extend(results());
    cases
}

/// What the probe reports as a process added with these flags, at one pointer.
fn reports(stage: &Stage<'_>, flags: &[&str], pointer: &str, wanted: &Value) -> Result<()> {
    let id = stage.waiting()?;
    let report = stage.exec_report(&id, flags)?;
    let found = report.pointer(pointer).unwrap_or(&Value::Null);
    ensure!(found == wanted, "{pointer}: {found} instead of {wanted}");
    stage.runtime.delete_by_force(&id)
}

fn identity() -> Vec<Case> {
    vec![
        Case::script("exec", |stage| {
            let id = stage.waiting()?;
            let pid = stage.runtime.pid(&id)?.to_string();
            let report = stage.exec_report(&id, &[])?;
            for kind in ["pid", "net", "ipc", "uts", "mnt"] {
                ensure!(
                    report["namespaces"][kind].as_u64() == Some(namespace_of(&pid, kind)?),
                    "{kind}: {}",
                    report["namespaces"]
                );
            }
            ensure!(
                report["cgroup"] == json!(fs::read_to_string(format!("/proc/{pid}/cgroup"))?.trim_end()),
                "{}",
                report["cgroup"]
            );
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("exec --cwd", |stage| {
            reports(stage, &["--cwd", "/tmp"], "/cwd", &json!("/tmp"))
        }),
        Case::script("exec --env", |stage| {
            reports(stage, &["--env", "A=b c"], "/environment/A", &json!("b c"))
        }),
        Case::script("exec -e", |stage| {
            reports(stage, &["-e", "A=b"], "/environment/A", &json!("b"))
        }),
        Case::script("exec --user uid", |stage| {
            reports(stage, &["--user", "1234"], "/uid/effective", &json!(1234))
        }),
        Case::script("exec --user uid:gid", |stage| {
            reports(stage, &["--user", "1:4321"], "/gid/effective", &json!(4321))
        }),
        Case::script("exec --additional-gids", |stage| {
            reports(
                stage,
                &["--additional-gids", "2000", "-g", "2001"],
                "/groups",
                &json!([2000, 2001]),
            )
        }),
        Case::script("exec --no-new-privs", |stage| {
            reports(stage, &["--no-new-privs"], "/no_new_privs", &json!(true))
        }),
        Case::script("exec --cap", |stage| {
            let id = stage.waiting()?;
            let report = stage.exec_report(&id, &["--cap", "CAP_SYS_NICE"])?;
            for set in ["bounding", "effective", "permitted"] {
                let all = report["capabilities"][set]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                ensure!(
                    all.contains(&json!("CAP_SYS_NICE")) && all.contains(&json!("CAP_KILL")),
                    "{set}: {all:?}"
                );
            }
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("exec --apparmor", |stage| {
            let id = stage.waiting()?;
            let output = stage.call(&[
                "exec",
                "--apparmor",
                "unconfined",
                &id,
                "/bin/cat",
                "/proc/self/attr/current",
            ])?;
            ensure!(output.text() == "unconfined", "{output}");
            stage.runtime.delete_by_force(&id)
        })
        .needs(Need::AppArmor),
        Case::script("exec --preserve-fds", |stage| {
            let id = stage.waiting()?;
            let script = format!(
                "exec 3</etc/passwd 9</etc/group; exec {} --root {} exec --preserve-fds 1 {id} /probe",
                stage.runtime.program().display(),
                stage.runtime.root().display(),
            );
            let report = stage.scene.call(&["sh", "-c", &script])?.success()?.json()?;
            let numbers: Vec<&String> = report["fds"]
                .as_object()
                .into_iter()
                .flat_map(|map| map.keys())
                .collect();
            ensure!(numbers == ["0", "1", "2", "3"], "{numbers:?}");
            stage.runtime.delete_by_force(&id)
        }),
    ]
}

fn files() -> Vec<Case> {
    vec![
        Case::script("exec --process", |stage| {
            let process = json!({
                "user": { "uid": 5, "gid": 6 }, "args": ["/probe"], "env": ["ONLY=this"], "cwd": "/etc",
                "capabilities": { "bounding": ["CAP_KILL"] },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 77 }],
            });
            let file = stage.file("process.json", &process.to_string())?;
            let id = stage.waiting()?;
            let report = stage.call(&["exec", "--process", &file, &id])?.json()?;
            ensure!(
                report["uid"]["real"] == 5 && report["gid"]["real"] == 6,
                "{report}"
            );
            ensure!(
                report["environment"]["ONLY"] == "this" && report["cwd"] == "/etc",
                "{report}"
            );
            ensure!(report["rlimits"]["RLIMIT_NOFILE"] == json!([77, 77]), "{report}");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("exec --process without capabilities", unnamed_capabilities),
        Case::script("process.execCPUAffinity initial", |stage| {
            affine(stage, &json!({ "initial": "0" }))
        }),
        Case::script("process.execCPUAffinity final", |stage| {
            affine(stage, &json!({ "initial": "0-1", "final": "0" }))
        }),
        Case::script("exec --detach, --pid-file", |stage| {
            let id = stage.waiting()?;
            let file = stage.scene.path("exec.pid");
            stage.call(&[
                "exec",
                "--detach",
                "--pid-file",
                &file.display().to_string(),
                &id,
                "/probe",
                "wait",
            ])?;
            let pid: i32 = fs::read_to_string(&file)?.trim().parse()?;
            ensure!(is_alive(pid), "it runs");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("exec --pidfd-socket", |stage| {
            let id = stage.waiting()?;
            let receiver = Receiver::new(stage, "pidfd.sock")?;
            stage.call(&[
                "exec",
                "--detach",
                "--pidfd-socket",
                &receiver.path(),
                &id,
                "/probe",
                "wait",
            ])?;
            let (_, descriptor) = receiver.receive()?;
            rustix::process::pidfd_send_signal(&descriptor, rustix::process::Signal::KILL)?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("exec --tty, --console-socket", |stage| {
            let id = stage.waiting()?;
            let receiver = Receiver::new(stage, "console.sock")?;
            let words = [
                "exec",
                "--tty",
                "--detach",
                "--console-socket",
                &receiver.path(),
                &id,
                "/bin/sh",
                "-c",
                "/probe tty; sleep 0.2",
            ];
            let running = stage.scene.start(stage.runtime.command(&words))?;
            let (_, master) = receiver.receive()?;
            let text = receiver.read_terminal(master)?;
            running.wait(Duration::from_secs(20))?.success()?;
            let answer: Value = serde_json::from_str(text.lines().next().unwrap_or_default())?;
            ensure!(answer["stdin"] == true && answer["stdout"] == true, "{text}");
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("exec --cgroup", |stage| {
            let mut config = spec::docker_like(&["/probe", "wait"]);
            config["linux"]["cgroupsPath"] = json!(stage.scene.cgroup("exec"));
            let id = stage.start(&config)?;
            let (_, directory) =
                crate::cgroups::directory_of(stage.runtime.pid(&id)?, "pids")?.unwrap_or_default();
            fs::create_dir(directory.join("below"))?;
            let version_1 = Need::Unified;
            let path = if stage.host.lacks(&version_1).is_some() {
                "pids:below"
            } else {
                "below"
            };
            let output = stage.call(&["exec", "--cgroup", path, &id, "/bin/cat", "/proc/self/cgroup"])?;
            ensure!(output.stdout.contains("/below"), "{output}");
            stage.runtime.delete_by_force(&id)
        }),
    ]
}

/// What a process file does not say of capabilities and the score is as in the container.
fn unnamed_capabilities(stage: &Stage<'_>) -> Result<()> {
    let process = json!({ "user": { "uid": 0, "gid": 0 }, "args": ["/probe"], "cwd": "/" });
    let file = stage.file("process.json", &process.to_string())?;
    let mut config = spec::docker_like(&["/probe", "wait"]);
    config["process"]["oomScoreAdj"] = json!(77);
    let id = stage.start(&config)?;
    let report = stage.call(&["exec", "--process", &file, &id])?.json()?;
    let bounding = report["capabilities"]["bounding"].as_array();
    ensure!(
        bounding.is_some_and(|all| all.contains(&json!("CAP_KILL"))),
        "capabilities: {report}"
    );
    ensure!(
        report["oom_score_adj"] == "77",
        "oomScoreAdj: {}",
        report["oom_score_adj"]
    );
    stage.runtime.delete_by_force(&id)
}

fn affine(stage: &Stage<'_>, affinity: &Value) -> Result<()> {
    let process = json!({
        "user": { "uid": 0, "gid": 0 }, "cwd": "/", "execCPUAffinity": affinity,
        "args": ["/bin/busybox", "sed", "-n", "s/^Cpus_allowed_list:.//p", "/proc/self/status"],
    });
    let file = stage.file("process.json", &process.to_string())?;
    let id = stage.waiting()?;
    let output = stage.call(&["exec", "--process", &file, &id])?;
    ensure!(output.text() == "0", "{output}");
    stage.runtime.delete_by_force(&id)
}

fn results() -> Vec<Case> {
    vec![
        Case::script("exec ends with the process' code", |stage| {
            let id = stage.waiting()?;
            stage
                .runtime
                .call(&["exec", &id, "/probe", "exit", "9"])?
                .code(9)?;
            stage
                .runtime
                .call(&["exec", &id, "/bin/sh", "-c", "/probe raise 15; exit $?"])?
                .code(143)?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("exec of a command that is not there", |stage| {
            let id = stage.waiting()?;
            stage
                .runtime
                .call(&["exec", &id, "/no/such/command"])?
                .failure(&["no such file or directory"])?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("exec in a stopped container", |stage| {
            let id = stage.waiting()?;
            stage.call(&["kill", &id, "KILL"])?;
            stage.runtime.wait_for_status(&id, "stopped")?;
            stage.runtime.call(&["exec", &id, "/bin/true"])?.failure(&[])?;
            stage.call(&["delete", &id]).map(drop)
        }),
        Case::script("exec in a paused container", |stage| {
            let id = stage.waiting()?;
            stage.call(&["pause", &id])?;
            stage
                .runtime
                .call(&["exec", &id, "/bin/true"])?
                .failure(&["paused"])?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("exec --ignore-paused", |stage| {
            let id = stage.waiting()?;
            stage.call(&["pause", &id])?;
            let running =
                stage.scene.start(
                    stage
                        .runtime
                        .command(&["exec", "--ignore-paused", &id, "/bin/true"]),
                )?;
            stage.call(&["resume", &id])?;
            running.wait(Duration::from_secs(20))?.success()?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("exec in an unknown container", |stage| {
            stage
                .runtime
                .call(&["exec", "nobody", "/bin/true"])?
                .failure(&["does not exist"])
                .map(drop)
        }),
    ]
}
