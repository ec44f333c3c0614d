//! Readiness: what a container tells its service manager arrives, once, with the pid that the host knows.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, spec};
use serde_json::json;

/// A service manager of the test's own.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(scene: &Scene) -> Result<Self> {
        let path = scene.path("manager.sock");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path })
    }

    fn waits_for(&self, mut command: Command) -> Command {
        command.env("NOTIFY_SOCKET", &self.path);
        command
    }

    /// What was told until now, without the line breaks that some runtimes add.
    fn told(&self) -> Result<Vec<String>> {
        let mut told = Vec::new();
        let mut buffer = [0; 256];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            told.push(std::str::from_utf8(&buffer[..length])?.trim_end().to_owned());
        }
        Ok(told)
    }
}

/// A bundle whose process says some things, that it is ready, and stays.
fn talkative(scene: &Scene, user_namespace: bool) -> Result<Bundle> {
    let script = "/probe notify STATUS=warm && /probe notify READY=1 && exec /probe wait";
    let mut config = spec::docker_like(&["/bin/sh", "-c", script]);
    config["root"]["readonly"] = json!(true);
    if user_namespace {
        let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        spec::append(&mut config, "/linux/namespaces", json!({ "type": "user" }))?;
    }
    Bundle::new(scene, "talkative", &config)
}

#[test]
fn start_returns_when_the_container_is_ready() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let manager = Manager::new(scene)?;
        let bundle = talkative(scene, false)?;
        let id = scene.id("ready");
        let mut create = manager.waits_for(runtime.open_command("create", &bundle));
        create.arg(&id);
        let created = scene.start(create)?;
        created.wait(std::time::Duration::from_secs(30))?.success()?;
        ensure!(manager.told()?.is_empty(), "nothing runs yet");
        scene
            .run(manager.waits_for(runtime.command(&["start", &id])))?
            .success()?;
        let pid = runtime.pid(&id)?;
        assert_eq!(manager.told()?, ["READY=1".to_owned(), format!("MAINPID={pid}")]);
        runtime.delete_by_force(&id)
    })
}

#[test]
fn run_tells_it_detached_and_in_the_foreground_and_in_a_user_namespace() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let manager = Manager::new(scene)?;
        let bundle = talkative(scene, true)?;
        let id = scene.id("detached");
        let mut run = manager.waits_for(runtime.open_command("run", &bundle));
        run.args(["--detach", &id]);
        let output = scene.start(run)?;
        output.wait(std::time::Duration::from_secs(30))?.success()?;
        let pid = runtime.pid(&id)?;
        assert_eq!(manager.told()?, ["READY=1".to_owned(), format!("MAINPID={pid}")]);
        runtime.delete_by_force(&id)?;

        let id = scene.id("foreground");
        let mut config = spec::docker_like(&["/probe", "notify", "READY=1"]);
        config["linux"]["cgroupsPath"] = json!(scene.cgroup("foreground"));
        let bundle = Bundle::new(scene, "foreground", &config)?;
        let mut run = manager.waits_for(runtime.open_command("run", &bundle));
        run.arg(&id);
        scene.run(run)?.success()?;
        let told = manager.told()?;
        assert_eq!(told.first().map(String::as_str), Some("READY=1"), "{told:?}");
        let pid = told.get(1).and_then(|line| line.strip_prefix("MAINPID="));
        pid.context("a pid")?.parse::<u32>()?;
        Ok(())
    })
}

/// A service manager that is gone is no reason for a container to fail, nor one that does not speak to sockets of files.
#[test]
fn nobody_has_to_listen() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "alone", &spec::docker_like(&["/probe", "exit", "7"]))?;
        for (number, socket) in ["/no/such/socket", "vsock:2:9999"].iter().enumerate() {
            if !crate::is_croze(&runtime) && !Path::new(socket).is_absolute() {
                continue;
            }
            let mut run = runtime.open_command("run", &bundle);
            run.env("NOTIFY_SOCKET", socket)
                .arg(scene.id(&format!("alone-{number}")));
            scene.run(run)?.code(7)?;
        }
        Ok(())
    })
}
