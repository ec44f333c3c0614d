//! What a container gets where nothing is asked for: docker's isolation, no more rights than docker gives.

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Scene, spec};
use serde_json::{Value, json};

use crate::{Stage, strings};

#[test]
fn a_container_is_isolated_by_default() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let report = stage.report(&[])?;
        assert_eq!(report["pid"], 1);
        assert_eq!(report["uid"], json!({ "real": 0, "effective": 0, "saved": 0 }));
        for kind in ["pid", "mnt", "ipc", "uts", "net"] {
            let host = std::fs::read_link(format!("/proc/self/ns/{kind}"))?
                .to_string_lossy()
                .into_owned();
            let inside = report["namespaces"][kind].as_u64().context("an inode")?;
            ensure!(
                !host.contains(&inside.to_string()),
                "the {kind} namespace is the host's"
            );
        }
        let hostname = report["hostname"].as_str().context("a hostname")?;
        ensure!(
            hostname.len() == 12 && hostname.chars().all(|digit| digit.is_ascii_hexdigit()),
            "{hostname}"
        );

        for set in ["effective", "permitted", "bounding"] {
            assert_eq!(
                strings(&report["capabilities"][set])?,
                spec::DOCKER_CAPABILITIES,
                "{set}"
            );
        }
        for set in ["inheritable", "ambient"] {
            assert_eq!(report["capabilities"][set], json!([]), "{set}");
        }
        assert_eq!(report["seccomp"], "2", "a filter is installed");
        let descriptors: Vec<&String> = report["fds"]
            .as_object()
            .into_iter()
            .flat_map(|map| map.keys())
            .collect();
        assert_eq!(descriptors, ["0", "1", "2"], "{}", report["fds"]);
        stage.daemon.finish()
    })
}

#[test]
fn the_mounts_are_the_containers_own() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let report = stage.report(&[])?;
        let lines: Vec<&str> = report["mountinfo"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let point = |line: &&str| line.split(' ').nth(4).unwrap_or_default().to_owned();
        let root = lines.iter().find(|line| point(line) == "/").context("a root")?;
        ensure!(root.contains(" - overlay "), "{root}");
        for wanted in ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"] {
            ensure!(
                lines.iter().any(|line| point(line) == wanted),
                "{wanted} is not mounted: {lines:#?}"
            );
        }
        for line in &lines {
            let at = point(line);
            let known = at == "/"
                || ["/proc", "/dev", "/sys"].iter().any(|top| at.starts_with(top))
                || ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].contains(&at.as_str());
            ensure!(known, "a mount of the host: {line}");
        }
        let sys = lines
            .iter()
            .find(|line| point(line) == "/sys")
            .context("a /sys")?;
        ensure!(
            sys.split(' ')
                .nth(5)
                .is_some_and(|options| options.starts_with("ro")),
            "{sys}"
        );
        stage.daemon.finish()
    })
}

#[test]
fn dangerous_calls_and_files_are_refused() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let names = [
            "mount",
            "umount",
            "unshare:user",
            "unshare:mount",
            "sethostname",
            "clock_settime",
            "reboot",
            "delete_module",
            "mknod:disk",
            "open:/dev/mem",
            "write:/proc/sys",
            "write:/proc/sysrq-trigger",
            "mkdir",
        ];
        let answers = stage
            .run(&[], &[&["/probe", "attempt"], &names[..]].concat())?
            .success()?
            .json()?;
        for name in names {
            let answer = answers[name].as_str().context("an answer")?;
            let expected: &[&str] = match name {
                "mkdir" => &["ok"],
                "open:/dev/mem" => &["ENOENT"],
                "write:/proc/sysrq-trigger" if !std::path::Path::new("/proc/sysrq-trigger").exists() => {
                    &["ENOENT"]
                }
                "write:/proc/sys" | "write:/proc/sysrq-trigger" => &["EROFS"],
                _ => &["EPERM"],
            };
            ensure!(
                expected.contains(&answer),
                "{name} gave {answer}, expected {expected:?}"
            );
        }
        stage.daemon.finish()
    })
}

#[test]
fn the_images_configuration_is_used() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let report = stage.report(&[])?;
        assert_eq!(report["environment"]["FROM_IMAGE"], "yes");
        assert_eq!(report["environment"]["PATH"], "/bin");
        assert_eq!(report["environment"]["HOME"], "/root");
        assert_eq!(report["cwd"], "/");
        // The image's command is a shell; with nothing on its input it ends at once.
        stage.run(&[], &[])?.success()?;
        stage.daemon.finish()
    })
}

#[test]
fn the_network_is_none_or_the_hosts() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let names = |flags: &[&str]| -> Result<Vec<String>> {
            let output = stage.run(flags, &["/bin/cat", "/proc/net/dev"])?.success()?;
            Ok(output
                .stdout
                .lines()
                .skip(2)
                .filter_map(|line| Some(line.split(':').next()?.trim().to_owned()))
                .collect())
        };
        let inside = names(&[])?;
        ensure!(
            inside.contains(&"lo".to_owned()) && !inside.iter().any(|name| name.starts_with("eth")),
            "{inside:?}"
        );
        let report = stage.report(&["--network", "host"])?;
        let host = std::fs::read_link("/proc/self/ns/net")?
            .to_string_lossy()
            .into_owned();
        ensure!(
            host.contains(&report["namespaces"]["net"].to_string()),
            "{} is not {host}",
            report["namespaces"]["net"]
        );
        stage
            .run(&["--network", "imaginary"], &["/bin/true"])?
            .code(125)?
            .failure(&["imaginary"])?;
        stage.daemon.finish()
    })
}
