//! Added processes: they share the container's isolation and have an identity of their own.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, process_ids_in_cgroup, spec, wait_until};
use serde_json::{Value, json};

use crate::{is_croze, namespace_of};

/// A container that waits, for processes to be added to.
fn host_container(
    scene: &Scene,
    runtime: &Runtime<'_>,
    edit: impl FnOnce(&mut Value),
) -> Result<(Bundle, String)> {
    let mut config = spec::docker_like(&["/probe", "wait"]);
    spec::append(&mut config, "/linux/namespaces", json!({ "type": "cgroup" }))?;
    edit(&mut config);
    let bundle = Bundle::new(scene, "container", &config)?;
    let id = scene.id("container");
    runtime.create_and_start(&bundle, &id)?;
    Ok((bundle, id))
}

#[test]
fn an_added_process_is_in_the_same_namespaces_and_cgroups() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let (_bundle, id) = host_container(scene, &runtime, |_| ())?;
        let pid = runtime.pid(&id)?;
        let report = runtime.call(&["exec", &id, "/probe"])?.success()?.json()?;
        for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
            let expected = namespace_of(&pid.to_string(), kind)?;
            assert_eq!(report["namespaces"][kind].as_u64(), Some(expected), "{kind}");
        }
        assert_eq!(report["hostname"], "inside");
        ensure!(report["pid"].as_u64() > Some(1), "{}", report["pid"]);
        for set in ["effective", "permitted", "bounding"] {
            let mut names: Vec<&str> = report["capabilities"][set]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            names.sort_unstable();
            assert_eq!(names, spec::DOCKER_CAPABILITIES, "{set}");
        }
        let numbers: Vec<&String> = report["fds"]
            .as_object()
            .into_iter()
            .flat_map(|map| map.keys())
            .collect();
        assert_eq!(numbers, ["0", "1", "2"], "{}", report["fds"]);
        runtime.delete_by_force(&id)
    })
}

#[test]
fn flags_give_it_an_identity_of_its_own() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let (_bundle, id) = host_container(scene, &runtime, |_| ())?;
        let words = [
            "exec",
            "--cwd",
            "/tmp",
            "--env",
            "ADDED=yes",
            "--user",
            "1000:1001",
            "--additional-gids",
            "2000",
            "--no-new-privs",
            &id,
            "/probe",
            "report",
            "--",
            "-x",
        ];
        let report = runtime.call(&words)?.success()?.json()?;
        assert_eq!(report["cwd"], "/tmp");
        assert_eq!(report["environment"]["ADDED"], "yes");
        assert_eq!(report["uid"]["effective"], 1000);
        assert_eq!(report["gid"]["effective"], 1001);
        ensure!(
            report["groups"]
                .as_array()
                .is_some_and(|groups| groups.contains(&json!(2000))),
            "{}",
            report["groups"]
        );
        assert_eq!(report["no_new_privs"], true);
        assert_eq!(report["argv"], json!(["/probe", "report", "--", "-x"]));
        runtime.delete_by_force(&id)
    })
}

#[test]
fn a_process_file_describes_it() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let (_bundle, id) = host_container(scene, &runtime, |_| ())?;
        let file = scene.path("process.json");
        let process = json!({
            "user": { "uid": 5, "gid": 6 },
            "args": ["/probe"],
            "env": ["ONLY=this"],
            "cwd": "/etc",
            "capabilities": { "bounding": ["CAP_KILL"], "effective": [], "permitted": [] },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 77 }],
        });
        fs::write(&file, process.to_string())?;
        let report = runtime
            .call(&["exec", "--process", &file.to_string_lossy(), &id])?
            .success()?
            .json()?;
        assert_eq!(report["uid"]["real"], 5);
        assert_eq!(report["gid"]["real"], 6);
        assert_eq!(report["environment"]["ONLY"], "this");
        assert_eq!(report["cwd"], "/etc");
        assert_eq!(report["capabilities"]["bounding"], json!(["CAP_KILL"]));
        assert_eq!(report["rlimits"]["RLIMIT_NOFILE"], json!([77, 77]));
        runtime.delete_by_force(&id)
    })
}

#[test]
fn its_exit_code_comes_back() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let (_bundle, id) = host_container(scene, &runtime, |_| ())?;
        for (arguments, code) in [
            (["/probe", "exit", "0"], 0),
            (["/probe", "exit", "9"], 9),
            (["/probe", "raise", "9"], 137),
        ] {
            let words: Vec<&str> = ["exec", &id].into_iter().chain(arguments).collect();
            runtime.call(&words)?.code(code)?;
        }
        let missing = runtime
            .call(&["exec", &id, "/no/such/command"])?
            .failure(&["no such file or directory"])?;
        if is_croze(&runtime) {
            missing.code(255)?;
        }
        runtime.delete_by_force(&id)
    })
}

#[test]
fn the_filter_holds_for_it_too() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let profile = spec::docker_seccomp()?;
        let (_bundle, id) = host_container(scene, &runtime, |config| config["linux"]["seccomp"] = profile)?;
        let answer = runtime
            .call(&["exec", &id, "/probe", "attempt", "unshare:user", "mkdir"])?
            .success()?
            .json()?;
        assert_eq!(answer, json!({ "unshare:user": "EPERM", "mkdir": "ok" }));
        runtime.delete_by_force(&id)
    })
}

#[test]
fn a_detached_one_writes_its_pid() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let (_bundle, id) = host_container(scene, &runtime, |_| ())?;
        let pid_file = scene.path("exec.pid");
        let words = [
            "exec",
            "--detach",
            "--pid-file",
            &pid_file.to_string_lossy(),
            &id,
            "/probe",
            "wait",
        ];
        runtime.call(&words)?.success()?;
        let pid: i32 = fs::read_to_string(&pid_file)?.parse()?;
        let members = process_ids_in_cgroup("pids", &format!("/{id}"))?;
        ensure!(members.contains(&pid), "{pid} in {members:?}");
        runtime.call(&["kill", &id, "KILL"])?.success()?;
        wait_until("it is gone with the container", Duration::from_secs(5), || {
            Ok((!croze_integration_tests::is_alive(pid)).then_some(()))
        })?;
        runtime.delete_by_force(&id)
    })
}

#[test]
fn it_joins_a_user_namespace() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mut config = spec::docker_like(&["/probe", "wait"]);
        spec::append(&mut config, "/linux/namespaces", json!({ "type": "user" }))?;
        config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        config["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        let bundle = Bundle::new(scene, "mapped", &config)?;
        for name in ["/", "dev", "proc", "sys"] {
            std::os::unix::fs::chown(bundle.rootfs(name), Some(100_000), Some(100_000))?;
        }
        let id = scene.id("mapped");
        runtime.create_and_start(&bundle, &id)?;
        let report = runtime.call(&["exec", &id, "/probe"])?.success()?.json()?;
        assert_eq!(report["uid"]["effective"], 0);
        let expected = namespace_of(&runtime.pid(&id)?.to_string(), "user")?;
        assert_eq!(report["namespaces"]["user"].as_u64(), Some(expected));
        runtime.delete_by_force(&id)
    })
}
