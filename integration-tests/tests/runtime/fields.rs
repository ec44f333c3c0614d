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
