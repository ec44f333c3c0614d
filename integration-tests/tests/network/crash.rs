//! Daemons that are killed, rules that are flushed, proxies that die.

use std::time::Duration;

use anyhow::{Context, Result};
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
fn rules_that_were_flushed_without_a_daemon_cost_no_port_and_are_written_at_its_start() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.serve("web", &["-p", "8080:80", "-p", "8080:80/udp"], &["80"])?;
        let before = stage.host.sh("nft list ruleset")?.stdout;
        stage.daemon.kill()?;
        stage.host.sh("nft flush ruleset")?;
        for protocol in ["tcp", "udp"] {
            // The port proxy serves now: what comes through it comes from the bridge.
            let answer = stage.outside_asks(protocol, "10.99.0.1:8080")?;
            assert_eq!(answer, "172.30.0.1 hello", "{protocol}");
        }
        stage.daemon.launch()?;
        assert_eq!(stage.host.sh("nft list ruleset")?.stdout, before);
        assert_eq!(stage.outside_asks("tcp", "10.99.0.1:8080")?, "10.99.0.2 hello");
        Ok(())
    })
}

/// The port proxy of this container; `None`: there is none.
fn proxy_of(scene: &Scene, name: &str) -> Result<Option<i32>> {
    let found = scene.call(&["pgrep", "-f", &format!("croze-shim port-proxy {name} ")])?;
    Ok(found.stdout.trim().parse().ok())
}

#[test]
fn a_proxy_that_was_killed_is_replaced_while_the_daemon_lives() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.serve("alive", &["-p", "8080:80", "-p", "8080:80/udp"], &["80"])?;
        let first = proxy_of(scene, "alive")?.context("a proxy")?;
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(first),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        let second = wait_until("another proxy serves", Duration::from_secs(10), || {
            // The loopback addresses are served by nothing else.
            let answered = stage.host.ask("tcp", "127.0.0.1:8080")?.is_some()
                && stage.host.ask("udp", "[::1]:8080")?.is_some();
            let now = proxy_of(scene, "alive")?.filter(|pid| *pid != first);
            Ok(now.filter(|_| answered))
        })?;
        // It holds the ports as the first one did, and ends with the container.
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
        assert!(refused.stderr.contains("container alive"), "{}", refused.stderr);
        stage.daemon.ok(&["rm", "-f", "alive"])?;
        assert!(!croze_integration_tests::is_alive(second));
        assert_eq!(stage.host.ask("tcp", "127.0.0.1:8080")?, None);
        Ok(())
    })
}

#[test]
fn a_proxy_has_a_cgroup_of_its_own_which_goes_with_it() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        for (name, killed) in [("ends", false), ("dies", true)] {
            stage.serve(name, &["-p", "8080:80", "-m", "64m"], &["80"])?;
            let proxy = proxy_of(scene, name)?.context("a proxy")?;
            let own = format!("croze-shim/ports-{proxy}");
            let memberships = std::fs::read_to_string(format!("/proc/{proxy}/cgroup"))?;
            let memory = memberships
                .lines()
                .find(|line| line.contains(":memory:"))
                .or_else(|| memberships.lines().find(|line| line.starts_with("0::")))
                .context("a cgroup that counts memory")?;
            // Neither the container's limit nor what holds the daemon counts it.
            assert!(memory.ends_with(&own), "{memberships}");
            if killed {
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(proxy),
                    nix::sys::signal::Signal::SIGKILL,
                )?;
                wait_until("another proxy is there", Duration::from_secs(10), || {
                    Ok(proxy_of(scene, name)?.filter(|pid| *pid != proxy))
                })?;
            }
            stage.daemon.ok(&["rm", "-f", name])?;
            let left: Vec<_> = std::fs::read_dir("/sys/fs/cgroup")?
                .map(|entry| Ok(entry?.path().join(&own)))
                .chain([Ok(std::path::Path::new("/sys/fs/cgroup").join(&own))])
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .filter(|cgroup| cgroup.exists())
                .collect();
            assert!(left.is_empty(), "{name}: {left:?}");
        }
        Ok(())
    })
}

#[test]
fn a_proxy_that_was_killed_is_replaced_at_the_daemons_start() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.serve("proxied", &["-p", "8080:80"], &["80"])?;
        let proxy = proxy_of(scene, "proxied")?.context("a proxy")?;
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
