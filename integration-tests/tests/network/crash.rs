//! Daemons that are killed, rules that are flushed, proxies that die.

use std::time::Duration;

use anyhow::Result;
use croze_integration_tests::{Scene, wait_until};

use crate::Stage;

#[test]
fn ports_go_on_working_without_the_daemon_and_after_it_came_back() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let before = stage.host.traces()?;
        let flags = ["-p", "8080:80", "-p", "8080:80/udp"];
        stage.serve("web", &flags, &["80"])?;
        stage.serve("gone", &["-p", "9090:80"], &["80"])?;
        let gone = stage.daemon.pid("gone")?;
        let answers = || -> Result<()> {
            for protocol in ["tcp", "udp"] {
                stage.outside_asks(protocol, "10.99.0.1:8080")?;
                stage.outside_asks(protocol, "[fd99::1]:8080")?;
                for address in ["127.0.0.1:8080", "[::1]:8080"] {
                    anyhow::ensure!(
                        stage.host.ask(protocol, address)?.is_some(),
                        "{protocol} {address}"
                    );
                }
            }
            Ok(())
        };
        answers()?;
        stage.daemon.kill()?;
        answers()?;
        // One ends meanwhile: its port is let go although nobody looks.
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(gone),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        wait_until("the port is let go", Duration::from_secs(10), || {
            Ok(stage.host.ask("tcp", "127.0.0.1:9090")?.is_none().then_some(()))
        })?;
        stage.daemon.launch()?;
        answers()?;
        wait_until(
            "its rules and its interface are gone",
            Duration::from_secs(10),
            || {
                let rules = stage.host.sh("nft list ruleset; ip -o link")?.stdout;
                Ok((!rules.contains("9090") && rules.matches("cz").count() == 1).then_some(()))
            },
        )?;
        // Its container and port are there as before.
        let refused = stage.daemon.croze(&[
            "run",
            "--rm",
            "-p",
            "8080:80",
            &stage.image,
            "/probe",
            "exit",
            "0",
        ])?;
        assert!(refused.stderr.contains("container web"), "{}", refused.stderr);
        stage.daemon.ok(&["rm", "-f", "web", "gone"])?;
        stage.daemon.stop()?;
        assert_eq!(stage.host.traces()?, before);
        stage.daemon.launch()?;
        Ok(())
    })
}

#[test]
fn flushed_rules_are_repaired_at_once() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.serve("web", &["-p", "8080:80"], &["80"])?;
        let before = stage.host.sh("nft list ruleset")?.stdout;
        stage.host.sh("nft flush ruleset")?;
        wait_until("the rules are there again", Duration::from_secs(5), || {
            Ok((stage.host.sh("nft list ruleset")?.stdout == before).then_some(()))
        })?;
        stage.outside_asks("tcp", "10.99.0.1:8080")?;
        Ok(())
    })
}

#[test]
fn a_proxy_that_was_killed_is_replaced_at_the_daemons_start() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.serve("proxied", &["-p", "8080:80"], &["80"])?;
        let proxy = scene
            .call(&["pgrep", "-f", "croze-shim port-proxy proxied"])?
            .stdout;
        let proxy: i32 = proxy.trim().parse()?;
        stage.daemon.kill()?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(proxy),
            nix::sys::signal::Signal::SIGTERM,
        )?;
        wait_until("the proxy has ended", Duration::from_secs(5), || {
            Ok((!croze_integration_tests::is_alive(proxy)).then_some(()))
        })?;
        stage.outside_asks("tcp", "10.99.0.1:8080")?;
        stage.daemon.launch()?;
        assert!(stage.host.ask("tcp", "127.0.0.1:8080")?.is_some());
        Ok(())
    })
}
