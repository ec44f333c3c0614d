//! The harness is judged too: a test that leaves something behind has to fail, and what it builds has to be there.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use croze_integration_tests::{
    Debian, Hostile, ImageLayout, NetworkNamespace, Registry, Scene, Terminal, bin, is_alive, wait_until,
};

/// The message with which a scene fails.
fn failure_of(act: impl FnOnce(&Scene) -> Result<()>) -> Result<String> {
    match Scene::play(act) {
        Ok(()) => bail!("the scene was content"),
        Err(error) => Ok(format!("{error:?}")),
    }
}

#[test]
fn a_process_left_behind_is_found_and_ended() -> Result<()> {
    let mut pid = 0;
    let message = failure_of(|scene| {
        // Orphaned twice over, as a daemon would be.
        let output = scene.call(&["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"])?;
        pid = output.text().parse()?;
        Ok(())
    })?;
    ensure!(message.contains("sleep 1000"), "{message}");
    ensure!(!is_alive(pid), "{pid} still runs");
    Ok(())
}

#[test]
fn a_mount_left_behind_is_found_and_removed() -> Result<()> {
    let mut point = String::new();
    let message = failure_of(|scene| {
        point = scene.new_directory("mounted")?.to_string_lossy().into_owned();
        scene
            .call(&["mount", "-t", "tmpfs", "tmpfs", &point])?
            .success()
            .map(drop)
    })?;
    ensure!(message.contains(&format!("mount {point}")), "{message}");
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!table.contains(&point), "still mounted");
    Ok(())
}

#[test]
fn a_cgroup_left_behind_is_found_and_removed() -> Result<()> {
    let mut path = String::new();
    let message = failure_of(|scene| {
        let parent = croze_integration_tests::cgroup_directories(|path| path.ends_with("pids"));
        let parent = parent.first().context("a pids hierarchy")?;
        path = format!("{}{}", parent.display(), scene.cgroup("left"));
        Ok(std::fs::create_dir(&path)?)
    })?;
    ensure!(message.contains(&format!("cgroup {path}")), "{message}");
    ensure!(!std::path::Path::new(&path).exists(), "{path} is still there");
    Ok(())
}

#[test]
fn a_failure_keeps_its_reason_and_shows_the_logs() -> Result<()> {
    let message = failure_of(|scene| {
        let log = scene.path("some.log");
        std::fs::write(&log, "the daemon's last words\n")?;
        scene.show_on_failure(log);
        bail!("the reason")
    })?;
    ensure!(
        message.contains("the reason") && message.contains("the daemon's last words"),
        "{message}"
    );
    Ok(())
}

#[test]
fn a_program_that_does_not_end_is_killed() -> Result<()> {
    Scene::play(|scene| {
        let mut command = std::process::Command::new("sleep");
        command.arg("1000");
        let process = scene.start(command)?;
        let error = process
            .wait(Duration::from_millis(50))
            .err()
            .context("it does not end")?;
        ensure!(error.to_string().contains("sleep 1000"), "{error}");
        wait_until("it is gone", Duration::from_secs(5), || {
            Ok((!is_alive(process.pid())).then_some(()))
        })
    })
}

#[test]
fn a_registry_serves_what_skopeo_pushed() -> Result<()> {
    Scene::play(|scene| {
        let registry = Registry::start(scene)?;
        let layout = ImageLayout::small(scene)?.write(scene, "layout", "latest")?;
        registry.push(&layout, "latest", "some/image:1")?;
        let manifest = registry.manifest("some/image", "1")?;
        ensure!(
            manifest.contains("application/vnd.oci.image.config.v1+json"),
            "{manifest}"
        );
        Ok(())
    })
}

#[test]
fn a_hostile_registry_serves_what_it_is_told() -> Result<()> {
    Scene::play(|scene| {
        let image = ImageLayout::small(scene)?;
        let server = Hostile::serve("image", &image, |_| ())?;
        let source = format!("docker://{}/image:latest", server.address());
        let target = format!("dir:{}", scene.path("copy").display());
        let words = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--src-tls-verify=false",
            &source,
            &target,
        ];
        scene.call(&words)?.success()?;
        let spoilt = Hostile::serve("image", &image, |replies| {
            for reply in replies.values_mut() {
                reply.body.pop();
            }
        })?;
        let source = format!("docker://{}/image:latest", spoilt.address());
        let words = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--src-tls-verify=false",
            &source,
            &target,
        ];
        scene.call(&words)?.failure(&[]).map(drop)
    })
}

#[test]
fn a_terminal_is_typed_into_and_read() -> Result<()> {
    Scene::play(|scene| {
        let terminal = Terminal::open(scene, "sh -c 'read word; echo got $word; exit 4'")?;
        terminal.type_line("something")?;
        terminal.wait_for_line("got something")?;
        terminal.wait_for_line("[ended 4]")
    })
}

#[test]
fn the_debian_image_shares_its_layer_with_the_one_on_top() -> Result<()> {
    Scene::play(|scene| {
        let debian = Debian::prepare(scene)?;
        let inspect = |tag: &str| -> Result<Vec<String>> {
            let source = format!("oci:{}:{tag}", debian.layout().display());
            let facts = scene.call(&["skopeo", "inspect", &source])?.success()?.json()?;
            Ok(facts["Layers"]
                .as_array()
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect())
        };
        let (base, app) = (inspect("debian")?, inspect("app")?);
        assert_eq!((base.len(), app.len()), (1, 3));
        assert_eq!(base.first(), app.first());
        Ok(())
    })
}

#[test]
fn the_probe_measures_the_traffic_it_serves() -> Result<()> {
    Scene::play(|scene| {
        let (host, outside) = NetworkNamespace::pair(scene)?;
        let probe = bin("croze-probe")?;
        let mut server = host.command(&probe);
        server.args(["serve-traffic", "7000"]);
        let server = scene.start(server)?;
        wait_until("it serves", Duration::from_secs(5), || {
            Ok(server.stdout().contains("ready").then_some(()))
        })?;
        let ask = |verb: &str, address: &str, bound: &str| {
            let mut client = outside.command(&probe);
            client.args([verb, address, bound]);
            scene.run(client)
        };
        for (verb, bound) in [("throughput", "50"), ("round-trips", "20"), ("connections", "20")] {
            let figure: f64 = ask(verb, "10.99.0.1:7000", bound)?.success()?.text().parse()?;
            ensure!(figure > 0.0, "{verb}: {figure}");
        }
        for (verb, address, bound, words) in [
            ("throughput", "10.99.0.1:7000", "0", "between 1 ms and 60s"),
            ("throughput", "10.99.0.1:7000", "60001", "between 1 ms and 60s"),
            ("round-trips", "10.99.0.1:7000", "100001", "between 1 and 100000"),
            ("connections", "10.99.0.1:7000", "many", "invalid digit"),
            ("connections", "10.99.0.1:7001", "1", "connection refused"),
            ("round-trips", "nowhere", "1", "invalid socket address"),
        ] {
            ask(verb, address, bound)?.failure(&[verb, words])?;
        }
        server.signal(nix::sys::signal::Signal::SIGKILL)?;
        server.wait(Duration::from_secs(5))?;
        Ok(())
    })
}

#[test]
fn a_command_that_enters_a_namespace_keeps_its_words_and_variables() -> Result<()> {
    Scene::play(|scene| {
        let (_host, outside) = NetworkNamespace::pair(scene)?;
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "echo \"$SAID\"; ip -o -4 address show dev eth0"]);
        command.env("SAID", "two words");
        let shown = scene.run(outside.enter(&command))?.success()?.stdout;
        ensure!(shown.starts_with("two words\n"), "{shown}");
        ensure!(shown.contains("10.99.0.2/24"), "{shown}");
        Ok(())
    })
}
