//! Fields of the specification that few callers use, each judged by what a process inside sees of it.
//!
//! What a runtime before version 1.2 of the specification cannot know is asked of croze-rt alone.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, spec, wait_until};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::{Value, json};

use crate::is_croze;

/// Runs a spec with these arguments and changes in a fresh bundle; its trimmed output.
fn output_of(scene: &Scene, name: &str, args: &[&str], changes: &[(&str, Value)]) -> Result<String> {
    let runtime = Runtime::new(scene)?;
    let bundle = Bundle::new(scene, name, &changed(args, changes)?)?;
    let output = runtime.run(&bundle, &scene.id(name))?.success()?;
    Ok(output.stdout.trim().to_owned())
}

/// A spec with these fields set, by their pointers.
fn changed(args: &[&str], changes: &[(&str, Value)]) -> Result<Value> {
    let mut config = spec::docker_like(args);
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').context("a pointer")?;
        config.pointer_mut(parent).context("it is there")?[key] = value.clone();
    }
    Ok(config)
}

#[test]
fn the_scheduler_is_as_asked() -> Result<()> {
    Scene::play(|scene| {
        if !is_croze(&Runtime::new(scene)?) {
            return Ok(());
        }
        for (name, scheduler, nice, policy) in [
            ("batch", json!({ "policy": "SCHED_BATCH", "nice": 7 }), "7", "3"),
            ("idle", json!({ "policy": "SCHED_IDLE" }), "0", "5"),
            ("other", json!({ "policy": "SCHED_OTHER", "nice": -3 }), "-3", "0"),
        ] {
            let stat = output_of(
                scene,
                name,
                &["/bin/cat", "/proc/self/stat"],
                &[("/process/scheduler", scheduler)],
            )?;
            // proc(5): the nice value is field 19, the policy field 41.
            let fields: Vec<&str> = stat.split(' ').collect();
            assert_eq!((fields[18], fields[40]), (nice, policy), "{name}: {stat}");
        }
        Ok(())
    })
}

#[test]
fn the_io_priority_is_as_asked() -> Result<()> {
    Scene::play(|scene| {
        if !is_croze(&Runtime::new(scene)?) {
            return Ok(());
        }
        for (name, class, priority, want) in [
            ("be", "IOPRIO_CLASS_BE", 6, "best-effort: prio 6"),
            ("idle", "IOPRIO_CLASS_IDLE", 0, "idle"),
        ] {
            let shown = output_of(
                scene,
                name,
                &["/bin/busybox", "ionice"],
                &[(
                    "/process/ioPriority",
                    json!({ "class": class, "priority": priority }),
                )],
            )?;
            assert_eq!(shown, want, "{name}");
        }
        Ok(())
    })
}

#[test]
fn senseless_scheduling_is_refused_by_its_field() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        for (number, (pointer, value, words)) in [
            (
                "/process/scheduler",
                json!({ "policy": "SCHED_OTHER", "nice": 99 }),
                "process.scheduler.nice",
            ),
            (
                "/process/scheduler",
                json!({ "policy": "SCHED_SOON" }),
                "process.scheduler.policy",
            ),
            (
                "/process/ioPriority",
                json!({ "class": "IOPRIO_CLASS_BE", "priority": 9 }),
                "process.ioPriority.priority",
            ),
            (
                "/linux/memoryPolicy",
                json!({ "mode": "MPOL_BIND", "nodes": "a-b" }),
                "linux.memoryPolicy.nodes",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let bundle = Bundle::new(
                scene,
                &format!("senseless-{number}"),
                &changed(&["/bin/true"], &[(pointer, value)])?,
            )?;
            runtime.run(&bundle, &scene.id("senseless"))?.failure(&[words])?;
        }
        Ok(())
    })
}

#[test]
fn memory_comes_from_the_nodes_that_were_asked_for() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let policy = json!({ "mode": "MPOL_BIND", "nodes": "0" });
        let config = changed(
            &["/bin/cat", "/proc/self/numa_maps"],
            &[("/linux/memoryPolicy", policy)],
        )?;
        let bundle = Bundle::new(scene, "nodes", &config)?;
        let output = runtime.run(&bundle, &scene.id("nodes"))?;
        if std::path::Path::new("/proc/self/numa_maps").exists() {
            ensure!(output.success()?.stdout.contains("bind:0"));
        } else {
            output.failure(&["linux.memoryPolicy", "lacks"])?;
        }
        Ok(())
    })
}

#[test]
fn an_added_process_runs_on_its_own_cpus() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let bundle = Bundle::new(scene, "cpus", &spec::docker_like(&["/probe", "wait"]))?;
        let id = scene.id("cpus");
        runtime.create_and_start(&bundle, &id)?;
        let file = scene.path("process.json");
        for affinity in [
            json!({ "initial": "0" }),
            json!({ "initial": "0-1", "final": "0" }),
        ] {
            let process = json!({
                "user": { "uid": 0, "gid": 0 }, "cwd": "/", "execCPUAffinity": affinity,
                "args": ["/bin/cat", "/proc/self/status"],
            });
            std::fs::write(&file, process.to_string())?;
            let name = file.display().to_string();
            let output = runtime.call(&["exec", "--process", &name, &id])?.success()?;
            let line = output
                .stdout
                .lines()
                .find(|line| line.starts_with("Cpus_allowed_list:"));
            assert_eq!(line, Some("Cpus_allowed_list:\t0"), "{affinity}");
        }
        runtime.delete_by_force(&id)
    })
}

#[test]
fn the_owners_of_a_mount_are_mapped() -> Result<()> {
    Scene::play(|scene| {
        if !is_croze(&Runtime::new(scene)?) {
            return Ok(());
        }
        let volume = scene.new_directory("volume")?;
        std::fs::write(volume.join("file"), "x")?;
        chown(volume.join("file"), Some(3), Some(4))?;
        let maps = |first: u32| json!([{ "containerID": 0, "hostID": first, "size": 1000 }]);
        let args = ["/bin/stat", "-c", "%u:%g", "/volume/file"];
        let mut mount = json!({
            "destination": "/volume", "type": "bind", "source": volume, "options": ["rbind", "idmap"],
            "uidMappings": maps(50_000), "gidMappings": maps(60_000),
        });
        let with = |mount: &Value| -> Result<Value> {
            let mut config = spec::docker_like(&args);
            spec::append(&mut config, "/mounts", mount.clone())?;
            Ok(config)
        };
        let runtime = Runtime::new(scene)?;
        let run = |name: &str, config: &Value| {
            let bundle = Bundle::new(scene, name, config)?;
            for path in ["/", "dev", "proc", "sys"] {
                chown(bundle.rootfs(path), Some(100_000), Some(200_000))?;
            }
            runtime.run(&bundle, &scene.id(name))
        };
        // Without a user namespace the ids on the right are seen.
        assert_eq!(run("plain", &with(&mount)?)?.success()?.text(), "50003:60004");
        // With one, those are mapped back by it.
        mount["uidMappings"] = maps(100_000);
        mount["gidMappings"] = maps(200_000);
        let in_user_namespace = |mount: &Value| -> Result<Value> {
            let mut config = with(mount)?;
            spec::append(&mut config, "/linux/namespaces", json!({ "type": "user" }))?;
            config["linux"]["uidMappings"] = maps(100_000);
            config["linux"]["gidMappings"] = maps(200_000);
            Ok(config)
        };
        assert_eq!(run("user", &in_user_namespace(&mount)?)?.success()?.text(), "3:4");
        // Without maps of its own a mount has those of the container.
        let own = json!({ "destination": "/volume", "source": volume, "options": ["rbind", "ridmap"] });
        assert_eq!(run("own", &in_user_namespace(&own)?)?.success()?.text(), "3:4");
        run("none", &with(&own)?)?.failure(&["idmap"])?;
        let tmpfs = json!({ "destination": "/t", "type": "tmpfs", "options": ["idmap"] });
        run("tmpfs", &with(&tmpfs)?)?.failure(&["id-mapped"])?;
        // The host's own view is as before.
        let owner = rustix::fs::stat(volume.join("file"))?;
        assert_eq!((owner.st_uid, owner.st_gid), (3, 4));
        Ok(())
    })
}

/// One message of a listening socket, with the descriptor that came with it.
fn message_with_descriptor(socket: &UnixStream) -> Result<(Value, OwnedFd)> {
    let mut text = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut text)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptor = ancillary
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .context("a descriptor came along")?;
    Ok((serde_json::from_slice(&text[..received.bytes])?, descriptor))
}

#[test]
fn a_listener_is_handed_over_with_the_containers_state() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let path = scene.path("listener");
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        for (name, no_new_privileges) in [("early", false), ("late", true)] {
            let mut config = spec::docker_like(&["/bin/mkdir", "/tmp/asked"]);
            config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "listenerPath": path,
                "listenerMetadata": "for the agent",
                "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
            });
            let bundle = Bundle::new(scene, name, &config)?;
            let id = scene.id(name);
            let running = runtime.start_run(&bundle, &id)?;
            let within = Duration::from_secs(20);
            let socket = wait_until("the runtime connected", within, || {
                Ok(listener.accept().ok().map(|(socket, _)| socket))
            })?;
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(within))?;
            let (message, descriptor) = message_with_descriptor(&socket)?;
            assert_eq!(message["fds"], json!(["seccompFd"]));
            assert_eq!(message["metadata"], "for the agent");
            assert_eq!(message["state"]["id"], json!(id));
            assert_eq!(message["state"]["status"], "creating");
            ensure!(message["pid"].as_i64().is_some_and(|pid| pid > 1), "{message}");
            assert_eq!(message["pid"], message["state"]["pid"]);
            // The call waits for the agent; one that goes away is an answer: there is no such call.
            ensure!(running.ended().is_none(), "the call waits");
            drop(descriptor);
            running.wait(within)?.failure(&["Function not implemented"])?;
        }
        Ok(())
    })
}

#[test]
fn a_listener_that_nobody_waits_for_is_an_error_that_names_its_path() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let path = scene.path("nobody");
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
            "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }],
        });
        let config = changed(&["/bin/true"], &[("/linux/seccomp", profile)])?;
        let bundle = Bundle::new(scene, "nobody-there", &config)?;
        let output = runtime.run(&bundle, &scene.id("nobody"))?;
        output.failure(&["nobody"]).map(drop)
    })
}
