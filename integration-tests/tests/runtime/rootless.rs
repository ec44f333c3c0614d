//! Containers of a user without rights: maps of its own ids and of ranges, no cgroups, processes added and listed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, Output, Runtime, Scene, spec};
use serde_json::{Value, json};

use crate::is_croze;

/// The user `nobody`, whom every Debian has.
const NOBODY: u32 = 65534;
/// Ranges that are lent to it for a test.
const RANGE: &str = "nobody:300000:1000\n";

/// A user with a runtime of its own: a copy of the program where it may read it, a state directory, a bundle.
struct User<'scene> {
    scene: &'scene Scene,
    program: PathBuf,
    home: PathBuf,
}

impl<'scene> User<'scene> {
    fn new(scene: &'scene Scene, runtime: &Runtime<'_>) -> Result<Self> {
        let home = scene.new_directory("home")?;
        // Every directory on the way has to let it through.
        let ours = home
            .ancestors()
            .take_while(|path| path.starts_with(scene.directory()));
        for path in ours {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        let program = home.join("runtime");
        fs::copy(runtime.program(), &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        chown(&home, Some(NOBODY), Some(NOBODY))?;
        Ok(Self { scene, program, home })
    }

    /// Calls the runtime as that user, in a mount namespace in which the ranges are its own.
    fn call(&self, words: &[&str]) -> Result<Output> {
        let range = self.scene.path("range");
        fs::write(&range, RANGE)?;
        let script =
            "mount --bind \"$1\" /etc/subuid && mount --bind \"$1\" /etc/subgid && shift && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "/bin/sh",
                "-c",
                script,
                "sh",
            ])
            .arg(&range)
            .args([
                "setpriv",
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
            ])
            .arg(&self.program)
            .args(words)
            .env("XDG_RUNTIME_DIR", &self.home)
            .current_dir(&self.home);
        self.scene.run(command)
    }

    fn bundle(&self, name: &str, config: &Value) -> Result<String> {
        let bundle = Bundle::new(self.scene, name, config)?;
        give(bundle.directory())?;
        Ok(bundle.directory().display().to_string())
    }
}

fn give(path: &Path) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path())?;
        }
    }
    Ok(())
}

/// What such a user can have.
fn config(arguments: &[&str], maps: &Value) -> Value {
    let mut config = spec::docker_like(arguments);
    config["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "user" }]);
    config["linux"]["uidMappings"] = maps.clone();
    config["linux"]["gidMappings"] = maps.clone();
    config["linux"]["resources"] = json!({});
    let keeps =
        |mount: &Value| mount["type"] != "sysfs" && mount["type"] != "cgroup" && mount["type"] != "devpts";
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(keeps);
    }
    config
}

#[test]
fn a_user_runs_containers_with_its_own_id_alone() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let user = User::new(scene, &runtime)?;
        let own = json!([{ "containerID": 0, "hostID": NOBODY, "size": 1 }]);
        let mut asked = config(&["/probe"], &own);
        // What docker asks for and only root could have: a list of devices, and to be spared.
        asked["linux"]["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
        asked["process"]["oomScoreAdj"] = json!(-500);
        let bundle = user.bundle("own", &asked)?;
        let id = scene.id("own");
        let report: Value = user.call(&["run", "-b", &bundle, &id])?.success()?.json()?;
        assert_eq!((&report["uid"]["real"], &report["pid"]), (&json!(0), &json!(1)));

        // Its records are its own, where such programs keep them.
        let root = user.home.join("croze-rt");
        let mode = fs::metadata(&root)?.permissions().mode();
        assert_eq!(mode & 0o7777, 0o1700, "{mode:o}");

        asked["linux"]["resources"] = json!({ "memory": { "limit": 1 << 25 } });
        let bundle = user.bundle("limited", &asked)?;
        user.call(&["run", "-b", &bundle, &id])?
            .failure(&["linux.resources", "may not make cgroups"])?;
        Ok(())
    })
}

#[test]
fn ranges_are_mapped_by_the_helpers_and_processes_are_added() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let user = User::new(scene, &runtime)?;
        let ranges = json!([
            { "containerID": 0, "hostID": NOBODY, "size": 1 }, { "containerID": 1, "hostID": 300_000, "size": 1000 },
        ]);
        let mut asked = config(&["/probe", "wait"], &ranges);
        asked["process"]["user"] = json!({ "uid": 7, "gid": 8, "additionalGids": [9] });
        let bundle = user.bundle("ranges", &asked)?;
        let id = scene.id("ranges");
        user.call(&["create", "-b", &bundle, &id])?.success()?;
        user.call(&["start", &id])?.success()?;
        let state: Value = user.call(&["state", &id])?.success()?.json()?;
        let pid = state["pid"].as_i64().context("a pid")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        ensure!(status.contains("Uid:\t300006\t300006"), "{status}");
        let added = user.call(&["exec", "-u", "3:4", "-g", "5", &id, "id"])?;
        assert_eq!(added.success()?.text(), "uid=3 gid=4 groups=5,9");
        let pids: Value = user.call(&["ps", "-f", "json", &id])?.success()?.json()?;
        assert_eq!(pids, json!([pid]));
        user.call(&["pause", &id])?.failure(&["freezer"])?;
        user.call(&["delete", "-f", &id])?.success()?;

        // Somebody else's ids are refused by those who know whose they are.
        let stolen = json!([{ "containerID": 0, "hostID": 400_000, "size": 1000 }]);
        let bundle = user.bundle("stolen", &config(&["/probe"], &stolen))?;
        user.call(&["run", "-b", &bundle, &id])?
            .failure(&["newuidmap", "/etc/subuid"])?;
        Ok(())
    })
}

/// Whoever is root in a user namespace only, as podman without root's rights calls a runtime, keeps its records in its run directory.
#[test]
fn root_of_a_user_namespace_has_a_run_directory() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let home = scene.new_directory("run")?;
        // A directory without a record is a container that is being made.
        fs::create_dir_all(home.join("croze-rt/here"))?;
        for (user, sees) in [(None, true), (Some("somebody"), true), (Some("root"), false)] {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user"]).arg(runtime.program());
            command.args(["list", "--quiet"]).env("XDG_RUNTIME_DIR", &home);
            match user {
                Some(user) => command.env("USER", user),
                None => command.env_remove("USER"),
            };
            let output = scene.run(command)?.success()?;
            ensure!(
                output.stdout.lines().any(|id| id == "here") == sees,
                "{user:?}: {output}"
            );
        }
        Ok(())
    })
}

/// It may enter the container's pid namespace, and not go back to its own, which is the host's.
#[test]
fn root_of_a_user_namespace_adds_processes() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let home = scene.new_directory("run")?;
        let mut asked = config(&["/probe", "wait"], &json!([]));
        // Podman's containers are in the user namespace that it is in itself.
        asked["linux"]["namespaces"] =
            json!([{ "type": "mount" }, { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }]);
        for maps in ["uidMappings", "gidMappings"] {
            asked["linux"][maps] = Value::Null;
        }
        let bundle = Bundle::new(scene, "inside", &asked)?;
        let id = scene.id("inside");
        let script = "set -e
            \"$0\" run --detach --bundle \"$1\" \"$2\" </dev/null >/dev/null 2>&1
            \"$0\" exec \"$2\" /bin/sh -c 'exit 7' || echo \"ended with $?\"
            \"$0\" delete --force \"$2\"";
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "/bin/sh", "-c", script])
            .arg(runtime.program())
            .arg(bundle.directory())
            .arg(&id)
            .env("XDG_RUNTIME_DIR", &home)
            .env_remove("USER");
        let output = scene.run(command)?.success()?;
        assert_eq!(output.text(), "ended with 7");
        Ok(())
    })
}

/// It is the same with a pid namespace that is joined: what runs on the host's behalf stays out of it, where its processes could not see it.
#[test]
fn hooks_stay_outside_of_a_pid_namespace_that_is_joined() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let home = scene.new_directory("run")?;
        let log = home.join("log");
        let mut asked = config(&["/probe", "wait"], &json!([]));
        let namespaces =
            |pid: &Value| json!([{ "type": "mount" }, pid, { "type": "ipc" }, { "type": "uts" }]);
        asked["linux"]["namespaces"] = namespaces(&json!({ "type": "pid" }));
        for maps in ["uidMappings", "gidMappings"] {
            asked["linux"][maps] = Value::Null;
        }
        let first = Bundle::new(scene, "first", &asked)?;
        let target = home.join("pid");
        asked["linux"]["namespaces"] = namespaces(&json!({ "type": "pid", "path": target }));
        let kinds = ["prestart", "createRuntime", "poststart", "poststop"];
        asked["hooks"] = json!({});
        for kind in kinds {
            let script = format!(
                "cat > /dev/null; echo {kind} $(readlink /proc/self/ns/pid) >> {}",
                log.display()
            );
            asked["hooks"][kind] =
                json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] }]);
        }
        let second = Bundle::new(scene, "second", &asked)?;
        let script = "set -e
            \"$0\" --root \"$5\" run --detach --pid-file \"$5/pid-of-first\" --bundle \"$1\" \"$3\" </dev/null >/dev/null 2>&1
            ln -s \"/proc/$(cat \"$5/pid-of-first\")/ns/pid\" \"$5/pid\"
            \"$0\" --root \"$5\" run --detach --pid-file \"$5/pid-of-second\" --bundle \"$2\" \"$4\" </dev/null >/dev/null
            echo \"second $(readlink \"/proc/$(cat \"$5/pid-of-second\")/ns/pid\")\"
            \"$0\" --root \"$5\" delete --force \"$4\"
            \"$0\" --root \"$5\" delete --force \"$3\"
            readlink /proc/self/ns/pid";
        for user in [&["--user", "--map-root-user"][..], &["--mount"]] {
            fs::write(&log, "")?;
            let mut command = Command::new("unshare");
            command
                .args(user)
                .args(["/bin/sh", "-c", script])
                .arg(runtime.program())
                .args([first.directory(), second.directory()])
                .args([scene.id("first"), scene.id("second")])
                .arg(&home)
                .env_remove("USER");
            let output = scene.run(command)?.success()?;
            let mut lines = output.stdout.lines();
            let (inside, outside) = (
                lines.next().context("the container's")?,
                lines.next().context("ours")?,
            );
            ensure!(
                inside.starts_with("second pid:[") && !inside.ends_with(outside),
                "{output}"
            );
            let expected: String = kinds.iter().map(|kind| format!("{kind} {outside}\n")).collect();
            assert_eq!(fs::read_to_string(&log)?, expected, "{user:?}");
            fs::remove_file(&target)?;
        }
        Ok(())
    })
}
