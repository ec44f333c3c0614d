//! What goes wrong without malice: clear words, docker's codes, nothing left.

use anyhow::{Result, ensure};
use croze_integration_tests::{Crozed, Ended, Registry, Scene};

use crate::Stage;

#[test]
fn an_unknown_image_is_told_from_an_unreachable_registry() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let registry = Registry::start(scene)?;
        let unknown = registry.reference("no/such:image");
        daemon.croze(&["pull", &unknown])?.failure(&["no/such"])?;
        daemon
            .croze(&["run", "--rm", &unknown, "/bin/true"])?
            .code(125)?
            .failure(&["no/such"])?;
        drop(registry);
        // Now nobody listens on that port.
        let output = daemon.croze(&["pull", &unknown])?.failure(&["127.0.0.1"])?;
        ensure!(output.stderr.to_lowercase().contains("connect"), "{output}");
        daemon.croze(&["run", "--rm", &unknown, "/bin/true"])?.code(125)?;
        daemon.croze(&["pull", "UPPER CASE:?"])?.failure(&[])?;
        assert_eq!(daemon.ok(&["ps", "-aq"])?.text(), "");
        daemon.finish()
    })
}

#[test]
fn unknown_containers_are_named_by_every_verb() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        for words in [
            vec!["stop", "nobody"],
            vec!["kill", "nobody"],
            vec!["rm", "nobody"],
            vec!["logs", "nobody"],
            vec!["start", "nobody"],
            vec!["exec", "nobody", "true"],
            vec!["inspect", "nobody"],
            vec!["attach", "nobody"],
            vec!["wait", "nobody"],
        ] {
            let output = daemon.croze(&words)?.failure(&["nobody"])?;
            assert_eq!(output.ended, Ended::Code(1), "{output}");
        }
        daemon.finish()
    })
}

#[test]
fn wrong_flags_say_what_is_wrong() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        for (flags, word) in [
            (vec!["-m", "lots"], "lots"),
            (vec!["-m", "1k"], "memory"),
            (vec!["-v", "/nowhere/at/all:relative"], "relative"),
            (vec!["-w", "relative"], "relative"),
            (vec!["--name", "not a name"], "name"),
            (vec!["--cap-add", "NO_SUCH"], "NO_SUCH"),
        ] {
            stage.run(&flags, &["/bin/true"])?.code(125)?.failure(&[word])?;
        }
        assert_eq!(stage.daemon.ok(&["ps", "-aq"])?.text(), "");
        stage.daemon.finish()
    })
}

#[test]
fn without_a_daemon_the_client_says_where_it_looked() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        daemon.stop()?;
        let output = daemon.croze(&["ps"])?.code(1)?;
        ensure!(output.stderr.contains("croze.sock"), "{output}");
        daemon
            .croze(&["run", "--rm", "anything", "true"])?
            .code(125)
            .map(drop)
    })
}

#[test]
fn two_daemons_do_not_share_a_root() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let mut second = std::process::Command::new(croze_integration_tests::bin("crozed")?);
        second
            .arg("--root")
            .arg(daemon.root())
            .arg("--run-root")
            .arg(scene.path("run-2"));
        second.arg("--socket").arg(scene.path("second.sock"));
        scene.run(second)?.failure(&["root"])?;
        daemon.ok(&["ps"])?;
        daemon.finish()
    })
}

#[test]
fn a_stopped_daemon_leaves_no_socket() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let socket = scene.path("croze.sock");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket)?.permissions());
        assert_eq!(
            mode & 0o777,
            0o660,
            "the socket is as good as root: nobody else may use it"
        );
        daemon.stop()?;
        ensure!(!socket.exists(), "the socket stays");
        Ok(())
    })
}
