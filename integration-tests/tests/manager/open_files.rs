//! How many files may be open: as many as are allowed for the daemon, as many as it was started with for containers.

use anyhow::{Context, Result};
use croze_integration_tests::{Crozed, Scene};
use rustix::process::{Resource, getrlimit};

use crate::Stage;

#[test]
fn the_daemon_takes_what_is_allowed_and_its_containers_get_what_it_was_started_with() -> Result<()> {
    Scene::play(|scene| {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let daemon = Crozed::start_with_open_files(scene, 1000)?;
        let Stage { daemon, image, .. } = Stage::around(scene, daemon)?;
        let pid = daemon.daemon_pid().context("it runs")?;
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = limits.lines().find(|line| line.starts_with("Max open files"));
        let words: Vec<&str> = line.context("it is told")?.split_whitespace().collect();
        assert_eq!(words[3], words[4], "{words:?}");
        daemon.ok(&["run", "-d", "--name", "lives", &image, "/probe", "wait"])?;
        let ask = "ulimit -Sn; ulimit -Hn";
        let hard = maximum.map_or("unlimited".to_owned(), |hard| hard.to_string());
        for verb in [
            &["run", "--rm", &image][..],
            &["run", "--rm", "--init", &image],
            &["exec", "lives"],
        ] {
            let output = daemon.ok(&[verb, &["/bin/sh", "-c", ask]].concat())?;
            assert_eq!(output.stdout, format!("1000\n{hard}\n"), "{verb:?}");
        }
        let asked = daemon.ok(&[
            "run",
            "--rm",
            "--ulimit",
            "nofile=64",
            &image,
            "/bin/sh",
            "-c",
            ask,
        ])?;
        assert_eq!(asked.stdout, "64\n64\n");
        daemon.ok(&["rm", "-f", "lives"])?;
        daemon.finish()
    })
}
