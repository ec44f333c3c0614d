//! What an old kernel lacks, or a filter in front of a new one: the calls answer `ENOSYS` (`old_kernel.c`).
//!
//! A chosen part of this suite runs again, in a process of its own, with a runtime that meets such a kernel. `cgroup.kill` needs no
//! simulation: cgroups of version 1 do not have it.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use croze_integration_tests::{Ended, Runtime, Scene};

use crate::is_croze;

/// Calls that came after Linux 5.1, each with an older way to the same end. The `pidfd` family has none: Linux 5.10 has it.
const LACKS: &str =
    "openat2 clone3 close_range open_tree move_mount mount_setattr fsopen fsconfig fsmount faccessat2";

/// What runs again: paths inside a root that attacks, mounts of all kinds, users, exec, a terminal, limits, kills.
const AGAIN: &[&str] = &[
    "attacks::",
    "mounts::",
    "namespaces::",
    "exec::",
    "lifecycle::",
    "seccomp::",
    "terminal::a_detached",
];

#[test]
fn the_suite_passes_without_new_system_calls() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) || std::env::var_os("OLD_KERNEL_RUNS").is_some() {
            return Ok(());
        }
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runtime/old_kernel.c");
        let program = scene.compile(source, "croze-rt-on-an-old-kernel")?;
        refuses(scene, &program)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--test-threads", "1"]).args(AGAIN);
        // The simulation is a filter, which this one's process has no right to set.
        command.args(["--skip", "without_capabilities"]);
        command.env("RUNTIME", &program);
        command.env("OLD_KERNEL_RUNS", runtime.program());
        command.env("OLD_KERNEL_LACKS", LACKS);
        // nextest tells a test of itself by its environment.
        command.env_remove("NEXTEST_EXECUTION_MODE");
        let again = scene
            .start(command)?
            .wait(std::time::Duration::from_secs(170))?
            .success()?;
        let passed = again
            .stdout
            .lines()
            .filter(|line| line.ends_with("... ok"))
            .count();
        ensure!(passed > 40, "{passed} tests ran: {again}");
        Ok(())
    })
}

/// The simulation itself: a call that it lacks is not there.
fn refuses(scene: &Scene, program: &Path) -> Result<()> {
    let mut command = Command::new(program);
    command.arg("/");
    command
        .env("OLD_KERNEL_RUNS", "/bin/ls")
        .env("OLD_KERNEL_LACKS", "getdents64");
    let listed = scene.run(command)?;
    ensure!(
        listed.ended != Ended::Code(0) && listed.stderr.contains("not implemented"),
        "{listed}"
    );
    Ok(())
}
