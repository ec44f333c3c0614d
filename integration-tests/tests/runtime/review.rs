//! What a hostile reading of the runtime found, so that it stays found: values and processes of the host that a spec could
//! reach, and services that other runtimes give their callers.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, Terminal, spec, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::is_croze;

/// A spec in a new user namespace, whose root is 100000 outside.
fn in_user_namespace(arguments: &[&str]) -> Result<Value> {
    let mut config = spec::docker_like(arguments);
    spec::append(&mut config, "/linux/namespaces", json!({ "type": "user" }))?;
    for map in ["uidMappings", "gidMappings"] {
        config["linux"][map] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    }
    Ok(config)
}

/// A bundle that the root of [`in_user_namespace`] owns.
fn owned_bundle(scene: &Scene, name: &str, config: &Value) -> Result<Bundle> {
    let bundle = Bundle::new(scene, name, config)?;
    for path in ["/", "dev", "proc", "sys"] {
        chown(bundle.rootfs(path), Some(100_000), Some(100_000))?;
    }
    Ok(bundle)
}

/// Names that start with a namespace's own and lead out of it, once the separators are exchanged.
#[test]
fn no_spelling_of_a_sysctl_reaches_the_hosts() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let file = Path::new("/proc/sys/kernel/printk_ratelimit_burst");
        let before = fs::read_to_string(file)?;
        for (number, name) in [
            "net.//.kernel.printk_ratelimit_burst",
            "net.ipv4.//.//.kernel.printk_ratelimit_burst",
            "net/../kernel/printk_ratelimit_burst",
            "fs.mqueue.//.//.kernel.printk_ratelimit_burst",
            "net..x",
        ]
        .into_iter()
        .enumerate()
        {
            let mut config = spec::docker_like(&["/probe"]);
            // What is there already, so that a failure of this test harms nobody.
            config["linux"]["sysctl"] = json!({ name: before.trim() });
            let bundle = Bundle::new(scene, &format!("sysctl{number}"), &config)?;
            let output = runtime.run(&bundle, &scene.id("sysctl"))?;
            output.failure(&["sysctl"])?;
        }
        assert_eq!(fs::read_to_string(file)?, before);
        Ok(())
    })
}

/// A namespace that is joined by path can be the host's own.
#[test]
fn nothing_is_set_in_a_joined_namespace_of_the_hosts() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mut config = spec::minimal(&["/probe"]);
        let network = json!({ "type": "network", "path": "/proc/self/ns/net" });
        spec::append(&mut config, "/linux/namespaces", network)?;
        let value = fs::read_to_string("/proc/sys/net/ipv4/tcp_fin_timeout")?;
        config["linux"]["sysctl"] = json!({ "net.ipv4.tcp_fin_timeout": value.trim() });
        let bundle = Bundle::new(scene, "joined", &config)?;
        runtime
            .run(&bundle, &scene.id("joined"))?
            .failure(&["net.ipv4.tcp_fin_timeout"])
            .map(drop)
    })
}

/// A container that comes to nothing must not take others with it that are in the cgroup it was told to use.
#[test]
fn a_cgroup_in_use_is_refused_and_its_processes_live() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mut config = spec::docker_like(&["/probe", "wait"]);
        config["linux"]["cgroupsPath"] = json!(scene.cgroup("shared"));
        let (first, second) = (scene.id("first"), scene.id("second"));
        runtime.create_and_start(&Bundle::new(scene, "first", &config)?, &first)?;
        for (name, command) in [("fails", "/no/such"), ("works", "/probe")] {
            config["process"]["args"] = json!([command]);
            let bundle = Bundle::new(scene, name, &config)?;
            runtime.run(&bundle, &second)?.failure(&["cgroup", "not empty"])?;
            ensure!(runtime.state(&first)?["status"] == "running", "it was killed");
        }
        runtime.delete_by_force(&first)
    })
}

#[test]
fn mounts_do_not_travel_to_a_shared_mount_of_the_hosts() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        for propagation in ["private", "slave"] {
            let mut config = spec::docker_like(&["/probe"]);
            config["linux"]["rootfsPropagation"] = json!(propagation);
            let bundle = Bundle::new(scene, propagation, &config)?;
            let directory = bundle.directory();
            let none: Option<&str> = None;
            mount(Some(directory), directory, none, MsFlags::MS_BIND, none)?;
            mount(none, directory, none, MsFlags::MS_SHARED, none)?;
            let result = runtime.run(&bundle, &scene.id(propagation));
            let table = fs::read_to_string("/proc/self/mountinfo")?;
            let shown = directory.to_string_lossy();
            let there = table.lines().filter(|line| line.contains(&*shown)).count();
            umount2(directory, MntFlags::MNT_DETACH)?;
            result?.success()?;
            assert_eq!(there, 1, "{propagation}: mounts of the container are the host's");
        }
        Ok(())
    })
}

/// The old root is taken apart when the root is switched: what is shared of it must stay with the host.
#[test]
fn mounts_of_the_host_stay_when_the_root_is_switched() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let outer = scene.new_directory("outer")?;
        let none: Option<&str> = None;
        mount(Some("tmpfs"), &outer, Some("tmpfs"), MsFlags::empty(), none)?;
        mount(none, &outer, none, MsFlags::MS_SHARED, none)?;
        let inner = outer.join("inner");
        fs::create_dir(&inner)?;
        mount(Some("tmpfs"), &inner, Some("tmpfs"), MsFlags::empty(), none)?;
        let mut results = Vec::new();
        for propagation in ["rslave", "private", "slave", "shared", "rshared"] {
            let mut config = spec::docker_like(&["/probe"]);
            config["linux"]["rootfsPropagation"] = json!(propagation);
            let bundle = Bundle::new(scene, propagation, &config)?;
            let output = runtime.run(&bundle, &scene.id(propagation))?;
            let table = fs::read_to_string("/proc/self/mountinfo")?;
            results.push((propagation, output, table.contains(&*inner.to_string_lossy())));
        }
        umount2(&outer, MntFlags::MNT_DETACH)?;
        for (propagation, output, is_there) in results {
            ensure!(
                is_there,
                "{propagation}: a mount of the host went with the old root"
            );
            if is_croze(&runtime) {
                output.success()?;
            }
        }
        Ok(())
    })
}

/// Sources are the host's business: the container's root need not be able to walk to them.
#[test]
fn a_bind_source_may_be_out_of_reach_of_the_mapped_root() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let closed = scene.new_directory("closed")?;
        fs::create_dir(closed.join("volume"))?;
        fs::write(closed.join("volume/file"), "reached")?;
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700))?;
        let mut config = in_user_namespace(&["/bin/cat", "/volume/file"])?;
        let source = closed.join("volume").to_string_lossy().into_owned();
        let mount =
            json!({ "destination": "/volume", "type": "bind", "source": source, "options": ["rbind", "ro"] });
        spec::append(&mut config, "/mounts", mount)?;
        let bundle = owned_bundle(scene, "source", &config)?;
        let output = runtime.run(&bundle, &scene.id("source"))?.success()?;
        assert_eq!(output.text(), "reached");
        Ok(())
    })
}

#[test]
fn a_new_user_namespace_goes_with_joined_namespaces_of_the_host() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let holder = Bundle::new(scene, "holder", &spec::docker_like(&["/probe", "wait"]))?;
        let holder_id = scene.id("holder");
        runtime.create_and_start(&holder, &holder_id)?;
        let pid = runtime.pid(&holder_id)?;
        let mut config = in_user_namespace(&["/probe"])?;
        config["hostname"] = json!(null);
        let namespaces = config["linux"]["namespaces"]
            .as_array_mut()
            .context("a list of namespaces")?;
        for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            namespaces.retain(|namespace| namespace["type"] != kind);
            namespaces.push(json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") }));
        }
        if let Some(config) = config.as_object_mut() {
            config.remove("hostname");
        }
        if let Some(mounts) = config["mounts"].as_array_mut() {
            // A message queue's file system belongs to the ipc namespace, which is not the user namespace's.
            mounts.retain(|mount| mount["type"] != "mqueue");
        }
        let bundle = owned_bundle(scene, "joining", &config)?;
        let output = runtime.run(&bundle, &scene.id("joining"))?;
        let expected = crate::namespace_of(&pid.to_string(), "net")?;
        runtime.delete_by_force(&holder_id)?;
        let report = output.success()?.json()?;
        assert_eq!(report["namespaces"]["net"].as_u64(), Some(expected));
        Ok(())
    })
}

/// Whatever stands at `/etc/passwd` is the image's: nobody waits for it.
#[test]
fn a_pipe_for_a_list_of_users_holds_nobody_up() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mut config = spec::minimal(&["/bin/sh", "-c", "echo $HOME"]);
        config["process"]["env"] = json!(["PATH=/bin"]);
        let bundle = Bundle::new(scene, "pipe", &config)?;
        let list = bundle.rootfs("etc/passwd");
        fs::create_dir_all(bundle.rootfs("etc"))?;
        fs::remove_file(&list).ok();
        nix::unistd::mkfifo(&list, nix::sys::stat::Mode::S_IRUSR)?;
        let output = runtime.run(&bundle, &scene.id("pipe"))?.success()?;
        assert_eq!(output.text(), "/");
        Ok(())
    })
}

/// A hook that hangs keeps its container's lock.
#[test]
fn force_deletes_a_container_that_is_still_being_made() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let reached = scene.path("reached");
        let script = format!("echo > {}; exec sleep 3", reached.display());
        let mut config = spec::docker_like(&["/probe"]);
        config["hooks"] = json!({
            "createContainer": [{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }],
        });
        let shown = scene.directory().to_string_lossy();
        let mount = json!({ "destination": shown, "type": "bind", "source": shown, "options": ["bind"] });
        spec::append(&mut config, "/mounts", mount)?;
        let bundle = Bundle::new(scene, "hanging", &config)?;
        let id = scene.id("hanging");
        let creating = runtime.start_run(&bundle, &id)?;
        let limit = Duration::from_secs(10);
        wait_until("the hook ran", limit, || Ok(reached.exists().then_some(())))?;
        runtime.delete_by_force(&id)?;
        creating.wait(limit)?.failure(&[]).map(drop)
    })
}

#[test]
fn kill_all_ends_a_paused_container() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "paused", &spec::docker_like(&["/probe", "wait"]))?;
        let id = scene.id("paused");
        runtime.create_and_start(&bundle, &id)?;
        runtime.call(&["pause", &id])?.success()?;
        runtime.call(&["kill", "--all", &id, "KILL"])?.success()?;
        if is_croze(&runtime) {
            runtime.wait_for_status(&id, "stopped")?;
        }
        runtime.delete_by_force(&id)
    })
}

/// In a shared pid namespace orphans come to the runtime, the nearest subreaper.
#[test]
fn orphans_are_reaped_while_the_container_runs() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let directory = scene.new_directory("pids")?;
        let shown = directory.to_string_lossy();
        let script =
            format!("(sh -c 'echo $$ > {shown}/new; mv {shown}/new {shown}/pid' &); exec /probe wait");
        let mut config = spec::docker_like(&["/bin/sh", "-c", &script]);
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "pid");
        }
        let mount = json!({ "destination": shown, "type": "bind", "source": shown, "options": ["bind"] });
        spec::append(&mut config, "/mounts", mount)?;
        let bundle = Bundle::new(scene, "orphans", &config)?;
        let id = scene.id("orphans");
        let running = runtime.start_run(&bundle, &id)?;
        let limit = Duration::from_secs(10);
        let pid = wait_until("the orphan had run", limit, || {
            Ok(fs::read_to_string(directory.join("pid")).ok())
        })?;
        let orphan = Path::new("/proc").join(pid.trim());
        wait_until("the orphan was reaped", limit, || {
            Ok((!orphan.exists()).then_some(()))
        })?;
        ensure!(runtime.state(&id)?["status"] == "running", "it runs on");
        runtime.call(&["kill", &id, "KILL"])?.success()?;
        running.wait(limit)?.code(137).map(drop)
    })
}

/// The runtime's own descriptors are not what a caller passes on.
#[test]
fn only_inherited_descriptors_are_passed_on() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let bundle = Bundle::new(scene, "passing", &spec::docker_like(&["/probe"]))?;
        let log = scene.path("log.txt");
        let output = scene.call(&[
            runtime.program().as_os_str(),
            "--root".as_ref(),
            runtime.root().as_os_str(),
            "--log".as_ref(),
            log.as_os_str(),
            "run".as_ref(),
            "--preserve-fds".as_ref(),
            "1".as_ref(),
            "--bundle".as_ref(),
            bundle.directory().as_os_str(),
            scene.id("passing").as_ref(),
        ])?;
        let report = output.success()?.json()?;
        let numbers: Vec<&String> = report["fds"]
            .as_object()
            .into_iter()
            .flat_map(|map| map.keys())
            .collect();
        assert_eq!(numbers, ["0", "1", "2"], "{}", report["fds"]);
        ensure!(fs::read_to_string(&log)?.contains("descriptor 3 is not open"));
        Ok(())
    })
}

#[test]
fn sockets_of_a_service_manager_are_passed_on() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let script = "echo $LISTEN_FDS $LISTEN_PID; read line <&3; echo $line";
        let bundle = Bundle::new(scene, "sockets", &spec::docker_like(&["/bin/sh", "-c", script]))?;
        let file = scene.path("socket");
        fs::write(&file, "through three\n")?;
        let line = format!(
            "export LISTEN_FDS=1 LISTEN_PID=$$; exec 3<{} {} --root {} run --bundle {} {}",
            file.display(),
            runtime.program().display(),
            runtime.root().display(),
            bundle.directory().display(),
            scene.id("sockets"),
        );
        let output = scene.call(&["/bin/sh", "-c", &line])?.success()?;
        assert_eq!(output.text(), "1 1\nthrough three");
        Ok(())
    })
}

/// What the first hooks have made is for the last ones to remove, also if nothing came of the container in between.
#[test]
fn poststop_hooks_run_after_a_failed_create() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let log = scene.path("hooks.log");
        let hook = |word: &str| {
            let script = format!("echo {word} >> {}", log.display());
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] }])
        };
        let mut config = spec::docker_like(&["/no/such"]);
        config["hooks"] = json!({ "createRuntime": hook("made"), "poststop": hook("removed") });
        let bundle = Bundle::new(scene, "failed", &config)?;
        runtime
            .run(&bundle, &scene.id("failed"))?
            .failure(&["/no/such"])?;
        assert_eq!(fs::read_to_string(&log)?, "made\nremoved\n");
        Ok(())
    })
}

#[test]
fn the_execution_domain_is_the_specs() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mut config = spec::docker_like(&["/bin/busybox", "uname", "-m"]);
        config["linux"]["personality"] = json!({ "domain": "LINUX32" });
        let bundle = Bundle::new(scene, "domain", &config)?;
        let output = runtime.run(&bundle, &scene.id("domain"))?.success()?;
        ensure!(
            matches!(output.text(), "i686" | "armv8l"),
            "a machine of 64 bits: {output}"
        );
        config["linux"]["personality"]["flags"] = json!(["ADDR_NO_RANDOMIZE"]);
        let bundle = Bundle::new(scene, "flags", &config)?;
        let output = runtime.run(&bundle, &scene.id("flags"))?.success()?;
        let is_told = output.stderr.contains("level=warning") && output.stderr.contains("ADDR_NO_RANDOMIZE");
        ensure!(is_told || !is_croze(&runtime), "{output}");
        Ok(())
    })
}

/// A value for `fsconfig` has 255 bytes, the layers of an overlay have more.
#[test]
fn an_overlay_has_long_lists_of_layers() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mut layers = Vec::new();
        for letter in ["a", "b"] {
            let layer = scene.new_directory(&letter.repeat(200))?;
            fs::write(layer.join(letter), letter)?;
            layers.push(layer.to_string_lossy().into_owned());
        }
        let mut config = spec::docker_like(&["/bin/cat", "/mnt/x/a", "/mnt/x/b"]);
        let mount = json!({
            "destination": "/mnt/x", "type": "overlay", "source": "overlay",
            "options": [format!("lowerdir={}", layers.join(":")), "ro"],
        });
        spec::append(&mut config, "/mounts", mount)?;
        let bundle = Bundle::new(scene, "overlay", &config)?;
        let output = runtime.run(&bundle, &scene.id("overlay"))?.success()?;
        assert_eq!(output.text(), "ab");
        Ok(())
    })
}

/// Runs `script` with a terminal, in a terminal, and `input` before the runtime's command line.
fn in_terminal<'scene>(
    scene: &'scene Scene,
    name: &str,
    input: &str,
    script: &str,
) -> Result<Terminal<'scene>> {
    let runtime = Runtime::new(scene)?;
    let mut config = spec::docker_like(&["/bin/sh", "-c", script]);
    config["process"]["terminal"] = json!(true);
    let bundle = Bundle::new(scene, name, &config)?;
    let line = format!(
        "{input}{} --root {} run --bundle {} {}",
        runtime.program().display(),
        runtime.root().display(),
        bundle.directory().display(),
        scene.id(name),
    );
    Terminal::open(scene, &line)
}

/// That nobody has the terminal open is not its end.
#[test]
fn a_terminal_can_be_closed_and_opened_again() -> Result<()> {
    Scene::play(|scene| {
        let script = "exec 0<&- 1>&- 2>&-; sleep 1; echo back again > /dev/console; exit 4";
        let terminal = in_terminal(scene, "reopen", "", script)?;
        terminal.wait_for_line("back again")?;
        terminal.wait_for_line("[ended 4]")
    })
}

/// Input that the container does not read keeps nobody from seeing its end.
#[test]
fn unread_input_does_not_stop_a_terminal() -> Result<()> {
    Scene::play(|scene| {
        let terminal = in_terminal(
            scene,
            "unread",
            "yes | head -c 3000000 | ",
            "stty -echo; sleep 1; echo; exit 3",
        )?;
        terminal.wait_for_line("[ended 3]")
    })
}

/// Inside of it nothing else is to be trusted than the kernel's own files.
#[test]
fn a_procfs_is_bound_nowhere_but_at_proc() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mut config = spec::docker_like(&["/probe"]);
        let mount =
            json!({ "destination": "/link", "type": "bind", "source": "/proc/sys", "options": ["bind"] });
        spec::append(&mut config, "/mounts", mount)?;
        let bundle = Bundle::new(scene, "procfs", &config)?;
        symlink("/proc/sys", bundle.rootfs("link"))?;
        runtime
            .run(&bundle, &scene.id("procfs"))?
            .failure(&["/proc"])
            .map(drop)
    })
}

/// What nohup(1) and scripts ignore for what they start stays ignored through every execve(2), unless somebody ends it.
#[test]
fn no_signal_is_ignored_because_the_caller_ignores_it() -> Result<()> {
    /// SIGHUP, SIGINT, SIGQUIT, SIGUSR1 and SIGCHLD, a bit each. Of a child of whoever ignores the last one nobody learns how it ended.
    const ASKED: u64 = 0x1_0207;
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "signals", &spec::docker_like(&["/probe", "wait"]))?;
        let ignoring = ["env", "--ignore-signal=HUP,INT,QUIT,USR1,CHLD"];
        let status = ["/bin/cat", "/proc/self/status"];
        let outside = scene.call(&[&ignoring[..], &status].concat())?.success()?;
        ensure!(
            ignored(&outside.stdout)? & ASKED == ASKED,
            "the test itself: {outside}"
        );

        let id = scene.id("signals");
        let _process = runtime.create_and_start(&bundle, &id)?;
        let root = runtime.root().to_string_lossy().into_owned();
        let program = runtime.program().to_string_lossy().into_owned();
        let exec = [program.as_str(), "--root", &root, "exec", &id];
        let inside = scene.call(&[&ignoring[..], &exec, &status].concat())?.success()?;
        assert_eq!(ignored(&inside.stdout)? & ASKED, 0, "{inside}");
        runtime.call(&["delete", "--force", &id])?.success()?;

        let bundle = Bundle::new(scene, "first", &spec::docker_like(&status))?;
        let (path, id) = (
            bundle.directory().to_string_lossy().into_owned(),
            scene.id("first"),
        );
        let run = [program.as_str(), "--root", &root, "run", "--bundle", &path, &id];
        let inside = scene.call(&[&ignoring[..], &run].concat())?.success()?;
        assert_eq!(ignored(&inside.stdout)? & ASKED, 0, "{inside}");
        Ok(())
    })
}

/// The mask of ignored signals in a `/proc/PID/status`.
fn ignored(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    Ok(u64::from_str_radix(line.context("there is a mask")?.trim(), 16)?)
}
