//! kill -9 of the daemon at every single step: after each change of the file system that a request makes, and while the runtime is in the middle
//! of a call.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Ended, Scene, runtime_under_test, wait_until};
use nix::sys::signal::Signal;

use crate::check;
use crate::seed::Seed;
use crate::trap::Trap;
use crate::world::World;

/// Which steps the slice cuts that every test run has: every so many-th. All of them with `$CROZE_TORTURE_KILLS`.
const STRIDE: usize = 7;
/// No request makes as many changes.
const MOST: usize = 2000;

fn stride() -> usize {
    if std::env::var_os("CROZE_TORTURE_KILLS").is_some() {
        1
    } else {
        STRIDE
    }
}

/// One request, cut at each of its steps in turn.
struct Sweep<'a> {
    name: &'a str,
    /// What must be there before it, made anew each time.
    before: &'a dyn Fn() -> Result<()>,
    request: &'a [&'a str],
    /// Whether what is there afterwards is one of the two: as if nobody had asked, or as asked.
    after: &'a dyn Fn() -> Result<()>,
    /// Whether it is as asked: what was answered is in force, cut or not.
    asked: &'a dyn Fn() -> Result<()>,
}

impl Sweep<'_> {
    /// Returns a line for the report.
    fn play(&self, scene: &Scene, daemon: &Crozed<'_>) -> Result<String> {
        let mut cuts = 0;
        for n in (1..MOST).step_by(stride()) {
            (self.before)()?;
            let trap = Trap::arm(
                &[daemon.root(), daemon.run_root()],
                n,
                daemon.daemon_pid().context("crozed runs")?,
                Signal::SIGKILL,
            )?;
            let output = scene
                .start(daemon.command(self.request)?)?
                .wait(Duration::from_secs(30))?;
            let sprung = trap.disarm();
            if sprung {
                cuts += 1;
                daemon.kill()?;
                daemon.launch()?;
            }
            let answered = check::answered(&output)?;
            ensure!(answered || sprung, "nothing was cut: {output}");
            check::whole(daemon)
                .and_then(|()| (self.after)())
                .and_then(|()| if answered { (self.asked)() } else { Ok(()) })
                .with_context(|| format!("{}, cut at change {n}", self.name))?;
            if !sprung {
                ensure!(cuts > 0, "{} changed nothing", self.name);
                return Ok(format!(
                    "windows: {} was cut {cuts} times, at one of {} changes",
                    self.name,
                    stride()
                ));
            }
        }
        anyhow::bail!("{} made more than {MOST} changes", self.name)
    }
}

fn remove_all(daemon: &Crozed<'_>) -> Result<()> {
    for id in daemon.container_ids()? {
        daemon.ok(&["rm", "-f", &id])?;
    }
    Ok(())
}

/// The status of the container `box`, if there is one; then its name is used again if there is none.
fn status(world: &World<'_>) -> Result<String> {
    let daemon = &world.daemon;
    let known = check::containers(daemon)?;
    match known.values().next() {
        Some(facts) => Ok(facts["State"]["Status"].as_str().unwrap_or_default().to_owned()),
        None => {
            daemon
                .ok(&["create", "--name", "box", &world.small, "/bin/true"])
                .context("the name is free")?;
            daemon.ok(&["rm", "box"])?;
            Ok("absent".to_owned())
        }
    }
}

#[test]
fn every_step_of_create_start_stop_and_rm_is_cut() -> Result<()> {
    Scene::play(|scene| {
        let world = World::set(scene, &mut Seed::new(21))?;
        let daemon = &world.daemon;
        let image = world.small.as_str();
        let allowed = |states: &'static [&'static str]| {
            let world = &world;
            move || {
                let status = status(world)?;
                ensure!(states.contains(&status.as_str()), "it is {status}");
                Ok(())
            }
        };
        let created = || {
            remove_all(daemon)?;
            daemon
                .ok(&["create", "--name", "box", image, "/probe", "wait"])
                .map(drop)
        };
        let running = || {
            remove_all(daemon)?;
            daemon
                .ok(&["run", "-d", "--name", "box", image, "/probe", "wait"])
                .map(drop)
        };
        let sweeps = [
            Sweep {
                name: "create",
                before: &|| remove_all(daemon),
                request: &["create", "--name", "box", image, "/probe", "wait"],
                after: &allowed(&["absent", "created"]),
                asked: &allowed(&["created"]),
            },
            Sweep {
                name: "start",
                before: &created,
                request: &["start", "box"],
                after: &allowed(&["created", "running", "exited"]),
                asked: &allowed(&["running"]),
            },
            Sweep {
                name: "run -d --rm",
                before: &|| remove_all(daemon),
                request: &["run", "-d", "--rm", "--name", "box", image, "/probe", "wait"],
                after: &allowed(&["absent", "running"]),
                asked: &allowed(&["running"]),
            },
            Sweep {
                name: "stop",
                before: &running,
                request: &["stop", "box"],
                after: &allowed(&["running", "exited"]),
                asked: &allowed(&["exited"]),
            },
            Sweep {
                name: "rm",
                before: &created,
                request: &["rm", "box"],
                after: &allowed(&["created", "absent"]),
                asked: &allowed(&["absent"]),
            },
            Sweep {
                name: "rm -f",
                before: &running,
                request: &["rm", "-f", "box"],
                after: &allowed(&["running", "exited", "absent"]),
                asked: &allowed(&["absent"]),
            },
        ];
        for sweep in sweeps {
            eprintln!("{}", sweep.play(scene, daemon)?);
        }
        remove_all(daemon)?;
        daemon.finish()
    })
}

#[test]
fn every_step_of_pull_and_rmi_is_cut() -> Result<()> {
    Scene::play(|scene| {
        let world = World::set(scene, &mut Seed::new(22))?;
        world.proxy.rest(Duration::ZERO);
        let daemon = &world.daemon;
        let large = world.large[0].as_str();
        let absent = || {
            // It may be there or not.
            daemon.croze(&["rmi", large]).map(drop)
        };
        let present = || daemon.ok(&["pull", large]).map(drop);
        let is_listed = || -> Result<bool> {
            let images = daemon.ok(&["images"])?.stdout;
            ensure!(
                !images.contains("<none>"),
                "an image without a name, which nobody asked for:\n{images}"
            );
            Ok(images.contains("large-a"))
        };
        let works_if_listed = || {
            if is_listed()? {
                daemon.ok(&["run", "--rm", large, "/bin/true"])?;
            }
            Ok(())
        };
        let is_there = || {
            ensure!(is_listed()?, "it was pulled");
            Ok(())
        };
        let is_gone = || {
            ensure!(!is_listed()?, "it was removed");
            Ok(())
        };
        type Step<'a> = &'a dyn Fn() -> Result<()>;
        for (name, before, asked, verb) in [
            ("pull", &absent as Step<'_>, &is_there as Step<'_>, "pull"),
            ("rmi", &present, &is_gone, "rmi"),
        ] {
            let sweep = Sweep {
                name,
                before,
                request: &[verb, large],
                after: &works_if_listed,
                asked,
            };
            eprintln!("{}", sweep.play(scene, daemon)?);
        }
        daemon.finish()
    })
}

/// A runtime that stops before or after a call of one verb until the gate is opened.
struct Stalling {
    program: PathBuf,
    directory: PathBuf,
}

impl Stalling {
    fn new(scene: &Scene) -> Result<Self> {
        let directory = scene.new_directory("stall")?;
        let program = directory.join("runtime");
        let real = runtime_under_test()?;
        let script = format!(
            "#!/bin/sh\n\
             for word; do case $word in create|start|delete|exec|kill) verb=$word; break;; esac; done\n\
             stall() {{ [ -e {0}/$1-$verb ] || return 0; rm {0}/$1-$verb; : >{0}/reached; read -r go <{0}/gate; }}\n\
             stall before\n{1} \"$@\"\ncode=$?\nstall after\nexit $code\n",
            directory.display(),
            real.display()
        );
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        nix::unistd::mkfifo(&directory.join("gate"), nix::sys::stat::Mode::S_IRWXU)?;
        Ok(Self { program, directory })
    }

    /// The next call of `verb` stops there.
    fn stall(&self, moment: &str, verb: &str) -> Result<()> {
        fs::remove_file(self.directory.join("reached")).ok();
        Ok(fs::write(self.directory.join(format!("{moment}-{verb}")), "")?)
    }

    fn reached(&self) -> Result<()> {
        let mark = self.directory.join("reached");
        wait_until("the runtime stopped", Duration::from_secs(15), || {
            Ok(mark.exists().then_some(()))
        })
    }

    /// Lets it go on. For reading and writing, so that it waits for nobody: the runtime may have been killed.
    fn open(&self) -> Result<fs::File> {
        use std::io::Write;
        let mut gate = fs::File::options()
            .read(true)
            .write(true)
            .open(self.directory.join("gate"))?;
        gate.write_all(b"go\n")?;
        Ok(gate)
    }
}

#[test]
fn the_daemon_is_killed_while_the_runtime_is_at_work() -> Result<()> {
    Scene::play(|scene| {
        let stalling = Stalling::new(scene)?;
        let daemon = Crozed::prepare(scene, &stalling.program, &scene.path("root"), &scene.path("run"));
        let world = World::around(scene, &mut Seed::new(23), daemon)?;
        world.proxy.rest(Duration::ZERO);
        let daemon = &world.daemon;
        daemon.launch()?;
        daemon.ok(&["pull", &world.small])?;
        for (moment, verb) in [
            ("before", "create"),
            ("after", "create"),
            ("before", "start"),
            ("after", "start"),
            ("before", "delete"),
            ("after", "delete"),
        ] {
            // The runtime goes on before the next daemon comes, or after it.
            for opened_first in [true, false] {
                let words = format!("{moment} {verb}, opened first: {opened_first}");
                cut_in(scene, &world, &stalling, moment, verb, opened_first).context(words)?;
            }
        }
        daemon.finish()
    })
}

fn cut_in(
    scene: &Scene,
    world: &World<'_>,
    stalling: &Stalling,
    moment: &str,
    verb: &str,
    opened_first: bool,
) -> Result<()> {
    let daemon = &world.daemon;
    stalling.stall(moment, verb)?;
    let command: &[&str] = match verb {
        "delete" => &["/bin/true"],
        _ => &["/probe", "wait"],
    };
    let words = [&["run", "-d", "--name", "box", &world.small], command].concat();
    let client = scene.start(daemon.command(&words)?)?;
    stalling.reached()?;
    daemon.kill()?;
    client.wait(Duration::from_secs(20))?;
    let gate = if opened_first {
        let gate = stalling.open()?;
        daemon.launch()?;
        gate
    } else {
        daemon.launch()?;
        daemon.ok(&["ps", "-a"])?;
        stalling.open()?
    };
    check::whole(daemon)?;
    let allowed: &[&str] = match verb {
        "delete" => &["exited"],
        "create" => &["created", "exited"],
        _ => &["created", "running", "exited"],
    };
    // A shim whose runtime goes on only now has its end still to tell.
    wait_until("the container's state", Duration::from_secs(15), || {
        Ok(allowed.contains(&status(world)?.as_str()).then_some(()))
    })?;
    daemon.ok(&["start", "box"])?;
    daemon.ok(&["rm", "-f", "box"])?;
    drop(gate);
    check::whole(daemon)
}

/// Where a directory's only entry is.
fn only_entry(directory: &Path) -> Result<String> {
    let names = check::names(directory)?;
    names
        .into_iter()
        .next()
        .with_context(|| format!("something in {}", directory.display()))
}

#[test]
fn the_runtime_is_killed_while_it_creates() -> Result<()> {
    Scene::play(|scene| {
        let stalling = Stalling::new(scene)?;
        let daemon = Crozed::prepare(scene, &stalling.program, &scene.path("root"), &scene.path("run"));
        let world = World::around(scene, &mut Seed::new(24), daemon)?;
        world.proxy.rest(Duration::ZERO);
        let daemon = &world.daemon;
        daemon.launch()?;
        daemon.ok(&["pull", &world.small])?;
        for (moment, verb) in [
            ("before", "create"),
            ("after", "create"),
            ("before", "start"),
            ("after", "start"),
        ] {
            stalling.stall(moment, verb)?;
            let client = scene.start(daemon.command(&[
                "run",
                "--name",
                "box",
                &world.small,
                "/probe",
                "print",
                "1",
            ])?)?;
            stalling.reached()?;
            let id = only_entry(&daemon.run_root().join("containers"))?;
            for pid in processes_with(&stalling.program, &id)? {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            let output = client.wait(Duration::from_secs(60))?;
            ensure!(output.ended != Ended::Code(0), "{moment} {verb}: {output}");
            ensure!(!output.stderr.trim().is_empty(), "{moment} {verb}: it says why");
            check::whole(daemon).with_context(|| format!("{moment} {verb}"))?;
            daemon
                .ok(&["start", "box"])
                .with_context(|| format!("{moment} {verb}: it can be started again"))?;
            daemon.ok(&["rm", "-f", "box"])?;
        }
        daemon.finish()
    })
}

/// Processes whose command line names both the program and the container.
fn processes_with(program: &Path, id: &str) -> Result<Vec<i32>> {
    let program = program.display().to_string();
    let mut found = Vec::new();
    for name in check::names(Path::new("/proc"))? {
        let Ok(pid) = name.parse::<i32>() else { continue };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains(&program) && line.contains(id) && !line.contains("croze-shim") {
            found.push(pid);
        }
    }
    ensure!(!found.is_empty(), "the runtime is at work");
    Ok(found)
}
