//! Who reaches whom, and through which ports.

use anyhow::{Result, bail};
use croze_integration_tests::Scene;

use crate::Stage;

#[test]
fn published_ports_answer_from_everywhere() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let flags = ["-p", "8080:80", "-p", "8080:80/udp", "-p", "127.0.0.1:8081:81"];
        stage.serve("web", &flags, &["80", "81"])?;
        stage.serve("other", &[], &["80"])?;
        for protocol in ["tcp", "udp"] {
            // From the host itself: its own addresses, and the loopback ones, where the port proxy serves.
            for address in [
                "10.99.0.1:8080",
                "[fd99::1]:8080",
                "127.0.0.1:8080",
                "[::1]:8080",
                "172.30.0.1:8080",
            ] {
                let answer = stage.host.ask(protocol, address)?;
                assert!(
                    answer.is_some_and(|a| a.ends_with(" hello")),
                    "the host asks {protocol} {address}"
                );
            }
            // From outside, with the client's own address.
            for (address, client) in [("10.99.0.1:8080", "10.99.0.2"), ("[fd99::1]:8080", "fd99::2")] {
                assert_eq!(
                    stage.outside_asks(protocol, address)?,
                    format!("{client} hello"),
                    "{protocol}"
                );
            }
            // From another container, and from the same.
            for container in ["other", "web"] {
                for address in ["10.99.0.1:8080", "[fd99::1]:8080", "172.30.0.1:8080"] {
                    let answer = stage.ask_from(container, protocol, address)?;
                    assert!(answer.is_some(), "{container} asks {protocol} {address}");
                }
            }
        }
        // What is published on the loopback is there only.
        assert!(stage.host.ask("tcp", "127.0.0.1:8081")?.is_some());
        assert_eq!(stage.outside.ask("tcp", "10.99.0.1:8081")?, None);
        assert_eq!(stage.host.ask("tcp", "[::1]:8081")?, None);
        stage.daemon.ok(&["stop", "-t", "0", "web"])?;
        assert_eq!(stage.host.ask("tcp", "127.0.0.1:8080")?, None);
        // The ports are free as soon as stop returns, and the container's own again when it is started.
        stage.serve("next", &["-p", "8080:80"], &["80"])?;
        let refused = stage.daemon.croze(&["start", "web"])?;
        assert!(refused.stderr.contains("container next"), "{refused:?}");
        stage.daemon.ok(&["rm", "-f", "next"])?;
        stage.daemon.ok(&["start", "web"])?;
        Ok(())
    })
}

#[test]
fn containers_reach_each_other_the_host_and_the_outside() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.serve("one", &[], &["80"])?;
        stage.serve("two", &[], &["80"])?;
        let (a, b) = (stage.address("one")?, stage.address("two")?);
        let b6 = stage.network("two")?["GlobalIPv6Address"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert_eq!(
            stage.ask_from("one", "tcp", &format!("{b}:80"))?,
            Some(format!("{a} hello"))
        );
        assert!(stage.ask_from("one", "udp", &format!("[{b6}]:80"))?.is_some());
        // A server in the namespace of each: the probe, outside of any container.
        let probe = croze_integration_tests::bin("croze-probe")?;
        for (place, address, seen) in [
            (&stage.host, "172.30.0.1:7000", a.as_str()),
            (&stage.outside, "10.99.0.2:7000", "10.99.0.1"),
            (&stage.outside, "[fd99::2]:7000", "fd99::1"),
        ] {
            let mut command = place.command(&probe);
            command.args(["serve", "7000"]);
            let server = scene.start(command)?;
            croze_integration_tests::wait_until(
                "the server is ready",
                std::time::Duration::from_secs(5),
                || Ok(server.stdout().contains("ready").then_some(())),
            )?;
            for protocol in ["tcp", "udp"] {
                let answer = stage.ask_from("one", protocol, address)?;
                assert_eq!(answer, Some(format!("{seen} hello")), "{protocol} {address}");
            }
            server.signal(nix::sys::signal::Signal::SIGKILL)?;
            server.wait(std::time::Duration::from_secs(5))?;
        }
        Ok(())
    })
}

#[test]
fn a_taken_port_is_refused_with_the_name_of_its_holder() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.serve("web", &["-p", "8080:80"], &["80"])?;
        let refused = stage.daemon.croze(&[
            "run",
            "-d",
            "--name",
            "late",
            "-p",
            "127.0.0.1:8080:80",
            &stage.image,
            "/probe",
            "wait",
        ])?;
        assert_eq!(refused.ended, croze_integration_tests::Ended::Code(125));
        assert!(
            refused
                .stderr
                .contains("127.0.0.1:8080/tcp: it is already allocated to container web"),
            "{}",
            refused.stderr
        );
        let mut command = stage.host.command(croze_integration_tests::bin("croze-probe")?);
        command.args(["serve", "9090"]);
        let holder = scene.start(command)?;
        croze_integration_tests::wait_until("the port is held", std::time::Duration::from_secs(5), || {
            Ok(holder.stdout().contains("ready").then_some(()))
        })?;
        let refused =
            stage
                .daemon
                .croze(&["run", "-d", "-p", "9090:80/udp", &stage.image, "/probe", "wait"])?;
        let words = format!("croze-probe (pid {})", holder.pid());
        assert!(refused.stderr.contains(&words), "{}", refused.stderr);
        holder.signal(nix::sys::signal::Signal::SIGKILL)?;
        holder.wait(std::time::Duration::from_secs(5))?;
        Ok(())
    })
}

#[test]
fn a_hundred_ports_are_published_at_once_by_one_process() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.serve("many", &["-p", "9000-9099:80-179"], &["80", "137", "179"])?;
        for address in ["10.99.0.1:9000", "10.99.0.1:9057", "[fd99::1]:9099"] {
            stage.outside_asks("tcp", address)?;
        }
        for address in ["127.0.0.1:9057", "[::1]:9099"] {
            if stage.host.ask("tcp", address)?.is_none() {
                bail!("nobody answers at {address}");
            }
        }
        let shown = stage.daemon.ok(&["ps", "--format", "{{.Ports}}"])?.stdout;
        assert_eq!(
            shown.trim(),
            "0.0.0.0:9000-9099->80-179/tcp, :::9000-9099->80-179/tcp"
        );
        let proxies = scene.call(&["pgrep", "-f", "croze-shim port-proxy many"])?;
        assert_eq!(proxies.stdout.lines().count(), 1, "{}", proxies.stdout);
        Ok(())
    })
}
