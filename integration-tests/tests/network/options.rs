//! The options about the network, and what is shown of it.

use anyhow::Result;
use croze_integration_tests::{Ended, Scene};
use serde_json::json;

use crate::Stage;

#[test]
fn ports_are_shown_as_docker_shows_them() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.serve(
            "web",
            &["-p", "8080:80", "-p", "127.0.0.1:5353:53/udp", "--expose", "90"],
            &["80"],
        )?;
        let daemon = &stage.daemon;
        assert_eq!(
            daemon.ok(&["port", "web"])?.stdout,
            "53/udp -> 127.0.0.1:5353\n80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n"
        );
        assert_eq!(
            daemon.ok(&["port", "web", "80"])?.stdout,
            "0.0.0.0:8080\n[::]:8080\n"
        );
        let none = daemon.croze(&["port", "web", "81/udp"])?;
        assert_eq!(
            (none.ended, none.stderr.trim()),
            (Ended::Code(1), "Error: No public port '81/udp' published for web")
        );
        let shown = daemon.ok(&["ps", "--format", "{{.Ports}}"])?.stdout;
        assert_eq!(
            shown.trim(),
            "127.0.0.1:5353->53/udp, 0.0.0.0:8080->80/tcp, :::8080->80/tcp, 90/tcp"
        );
        let facts = daemon.inspect("web")?;
        let network = &facts["NetworkSettings"];
        assert_eq!(network["IPAddress"], "172.30.0.2");
        assert_eq!(network["Gateway"], "172.30.0.1");
        assert_eq!(network["MacAddress"], "02:42:ac:1e:00:02");
        assert_eq!(network["IPPrefixLen"], 16);
        assert_eq!(network["Networks"]["bridge"]["IPAddress"], "172.30.0.2");
        assert_eq!(
            network["Ports"],
            json!({
                "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}],
                "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
                "90/tcp": null,
            })
        );
        assert_eq!(facts["HostConfig"]["NetworkMode"], "bridge");
        assert_eq!(
            facts["HostConfig"]["PortBindings"]["80/tcp"],
            json!([{"HostIp": "", "HostPort": "8080"}])
        );
        let listed = daemon.ok(&["network", "ls", "-q"])?.stdout;
        assert_eq!(listed, "bridge\nhost\nnone\n");
        let bridge = daemon.ok(&["network", "inspect", "bridge"])?.json()?;
        assert_eq!(
            bridge[0]["IPAM"]["Config"][0],
            json!({"Subnet": "172.30.0.0/16", "Gateway": "172.30.0.1"})
        );
        assert_eq!(
            bridge[0]["Containers"][facts["Id"].as_str().unwrap_or_default()]["IPv4Address"],
            "172.30.0.2/16"
        );
        let template = "{{.Driver}}:{{range .Containers}} {{.Name}} {{.IPv4Address}}{{end}}";
        let shown = daemon.ok(&["network", "inspect", "-f", template, "bridge"])?;
        assert_eq!(shown.stdout, "bridge: web 172.30.0.2/16\n");
        let unknown = daemon.croze(&["network", "inspect", "brigde"])?.code(1)?;
        assert!(unknown.stderr.contains("did you mean bridge?"), "{unknown}");
        daemon.ok(&["stop", "-t", "0", "web"])?;
        assert_eq!(daemon.ok(&["ps", "-a", "--format", "{{.Ports}}"])?.stdout, "\n");
        assert_eq!(daemon.inspect("web")?["NetworkSettings"]["IPAddress"], "");
        Ok(())
    })
}

#[test]
fn publish_all_takes_free_ports_for_what_is_exposed() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.serve(
            "web",
            &["-P", "--expose", "80", "--expose", "53/udp"],
            &["80", "53"],
        )?;
        for (port, protocol) in [("80", "tcp"), ("53/udp", "udp")] {
            let shown = stage.daemon.ok(&["port", "web", port])?.stdout;
            let address = shown.lines().next().unwrap_or_default();
            let number = address.rsplit(':').next().unwrap_or_default();
            assert!(
                stage
                    .outside
                    .ask(protocol, &format!("10.99.0.1:{number}"))?
                    .is_some(),
                "{shown}"
            );
        }
        Ok(())
    })
}

#[test]
fn wanted_addresses_and_other_networks() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let daemon = &stage.daemon;
        stage.serve(
            "web",
            &["--ip", "172.30.7.7", "--mac-address", "02:00:00:00:00:07"],
            &["80"],
        )?;
        let network = stage.network("web")?;
        assert_eq!(
            (&network["IPAddress"], &network["MacAddress"]),
            (&json!("172.30.7.7"), &json!("02:00:00:00:00:07"))
        );
        // Another container's network: the same addresses, and the same loopback.
        let joined = daemon.ok(&[
            "run",
            "--rm",
            "--network",
            "container:web",
            &stage.image,
            "/probe",
            "ask",
            "tcp",
            "127.0.0.1:80",
        ])?;
        assert_eq!(joined.stdout, "127.0.0.1 hello\n");
        for (flags, words) in [
            (vec!["--ip", "172.30.7.7"], "already in use"),
            (
                vec!["--ip", "10.1.2.3"],
                "not in the network's subnet 172.30.0.0/16",
            ),
            (vec!["--network", "container:nobody"], "no such container: nobody"),
            (
                vec!["--network", "container:web", "-p", "80"],
                "port publishing and the container type network mode",
            ),
            (vec!["--network", "nowhere"], "network nowhere not found"),
            (vec!["-p", "80:80:80:80"], "invalid IP address"),
            (vec!["-p", "x"], "invalid containerPort: x"),
            (vec!["-p", "192.0.2.7:80:80"], "192.0.2.7:80/tcp"),
        ] {
            let words_of = [
                vec!["run", "--rm"],
                flags.clone(),
                vec![&stage.image, "/probe", "report"],
            ]
            .concat();
            let refused = daemon.croze(&words_of)?;
            assert_eq!(refused.ended, Ended::Code(125), "{flags:?}: {}", refused.stderr);
            assert!(refused.stderr.contains(words), "{flags:?}: {}", refused.stderr);
        }
        let discarded = daemon.croze(&[
            "run",
            "--rm",
            "--network",
            "host",
            "-p",
            "80",
            &stage.image,
            "/probe",
            "exit",
            "0",
        ])?;
        assert!(
            discarded
                .stderr
                .contains("published ports are discarded when using host network mode"),
            "{}",
            discarded.stderr
        );
        daemon.ok(&["stop", "-t", "0", "web"])?;
        let late = daemon.croze(&[
            "run",
            "--rm",
            "--network",
            "container:web",
            &stage.image,
            "/probe",
            "exit",
            "0",
        ])?;
        assert!(
            late.stderr
                .contains("cannot join network of a non running container"),
            "{}",
            late.stderr
        );
        Ok(())
    })
}

#[test]
fn a_foreign_firewall_is_told() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.host.sh("nft add table ip filter
             nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'")?;
        let words = "the packet filter chain FORWARD of table ip filter drops";
        let create = || -> Result<String> {
            let created = stage.daemon.ok(&["create", &stage.image, "/probe", "wait"])?;
            Ok(created.stderr)
        };
        let first = create()?;
        assert!(first.contains(words), "{first}");
        // Once is enough, until the daemon is another one.
        assert_eq!(create()?, "");
        stage.daemon.stop()?;
        stage.daemon.launch()?;
        let first = create()?;
        assert!(first.contains(words), "{first}");
        assert_eq!(create()?, "");
        let info = stage.daemon.ok(&["info"])?;
        assert!(
            format!("{}{}", info.stdout, info.stderr).contains(words),
            "{}",
            info.stdout
        );
        // Who wants no network is not bothered.
        let other = stage
            .daemon
            .ok(&["create", "--network", "none", &stage.image, "/probe", "wait"])?;
        assert!(!other.stderr.contains(words), "{}", other.stderr);
        Ok(())
    })
}

#[test]
fn the_hosts_address_has_a_name_where_it_is_asked_for() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let shown = stage.daemon.ok(&[
            "run",
            "--rm",
            "--add-host",
            "up:host-gateway",
            &stage.image,
            "/bin/sh",
            "-c",
            "cat /etc/hosts",
        ])?;
        assert!(shown.stdout.contains("172.30.0.1\tup\n"), "{shown}");
        Ok(())
    })
}
