//! Terminals: one that the runtime relays, one that it hands over.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, Terminal, spec};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

fn with_terminal(arguments: &[&str]) -> Value {
    let mut config = spec::docker_like(arguments);
    config["process"]["terminal"] = json!(true);
    config["process"]["consoleSize"] = json!({ "height": 33, "width": 77 });
    config
}

#[test]
fn a_foreground_run_relays_the_terminal() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "relayed", &with_terminal(&["/bin/sh"]))?;
        let line = format!(
            "{} --root {} run --bundle {} {}",
            runtime.program().display(),
            runtime.root().display(),
            bundle.directory().display(),
            scene.id("relayed"),
        );
        let terminal = Terminal::open(scene, &line)?;
        terminal.type_line("echo $((40 + 2)) $(hostname)")?;
        terminal.wait_for_line("42 inside")?;
        terminal.type_line("stty size")?;
        terminal.wait_for_line("30 100")?;
        terminal.resize(90, 25)?;
        terminal.type_line("stty size")?;
        terminal.wait_for_line("25 90")?;
        // Ctrl-C reaches the process in front, not the runtime.
        // Once this is shown the shell has left the terminal to its child.
        terminal.type_line("echo begun; sleep 1000; echo interrupted: $?")?;
        terminal.wait_for_line("begun")?;
        terminal.press("C-c")?;
        terminal.type_line("echo still here")?;
        terminal.wait_for_line("still here")?;
        terminal.type_line("exit 5")?;
        terminal.wait_for_line("[ended 5]")
    })
}

/// Receives the one descriptor that comes over a connection.
fn receive_descriptor(stream: &UnixStream) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0_u8; 4096];
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(descriptor);
        }
    }
    bail!("no descriptor came over the console socket")
}

#[test]
fn a_console_socket_gets_the_master() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(
            scene,
            "console",
            &with_terminal(&["/bin/sh", "-c", "read word; /probe tty; echo got $word"]),
        )?;
        let socket = scene.path("console.sock");
        let listener = UnixListener::bind(&socket)?;
        let id = scene.id("console");
        let mut command = runtime.open_command("create", &bundle);
        command.arg("--console-socket").arg(&socket).arg(&id);
        let process = scene.start(command)?;
        let (stream, _) = listener.accept()?;
        let mut master = File::from(receive_descriptor(&stream)?);
        process.wait(Duration::from_secs(20))?.success()?;
        runtime.call(&["start", &id])?.success()?;
        master.write_all(b"hello\n")?;
        let mut text = String::new();
        let mut bytes = [0_u8; 4096];
        // After the last slave is closed the master gives EIO.
        while let Ok(count @ 1..) = master.read(&mut bytes) {
            text.push_str(&String::from_utf8_lossy(bytes.get(..count).context("a part")?));
        }
        let line = text
            .lines()
            .find(|line| line.starts_with('{'))
            .with_context(|| text.clone())?;
        let answer: Value = serde_json::from_str(line)?;
        let expected =
            json!({ "stdin": true, "stdout": true, "stderr": true, "size": { "rows": 33, "columns": 77 } });
        assert_eq!(answer, expected);
        ensure!(text.contains("got hello"), "{text}");
        runtime.wait_for_status(&id, "stopped")?;
        runtime.call(&["delete", &id])?.success().map(drop)
    })
}

#[test]
fn a_terminal_without_a_receiver_is_refused() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "nobody", &with_terminal(&["/bin/sh"]))?;
        let mut command = runtime.open_command("create", &bundle);
        command.arg(scene.id("nobody"));
        let words = ["cannot allocate tty if runc will detach without setting console socket"];
        scene.run(command)?.failure(&words).map(drop)
    })
}

#[test]
fn the_console_is_there_as_a_device() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "device", &with_terminal(&["/bin/sh"]))?;
        let line = format!(
            "{} --root {} run --bundle {} {}",
            runtime.program().display(),
            runtime.root().display(),
            bundle.directory().display(),
            scene.id("device"),
        );
        let terminal = Terminal::open(scene, &line)?;
        terminal.type_line("echo to the console > /dev/console; stat -c %F /dev/console; test -t 0 && readlink /proc/self/fd/0")?;
        terminal.wait_for_line("to the console")?;
        terminal.wait_for_line("character special file")?;
        terminal.wait_for_line("/dev/pts/0")?;
        terminal.type_line("exit")?;
        terminal.wait_for_line("[ended 0]")
    })
}
