//! Known ways out of a container, tried.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use anyhow::{Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, spec};
use rustix::fs::SealFlags;
use serde_json::json;

use crate::is_croze;

/// The runtime's file must not be reachable through `/proc/PID/exe` of what it starts (CVE-2019-5736).
#[test]
fn the_runtimes_own_file_cannot_be_reached() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "sealed", &spec::docker_like(&["/probe", "wait"]))?;
        let id = scene.id("sealed");
        runtime.create(&bundle, &id)?;
        let executable = format!("/proc/{}/exe", runtime.pid(&id)?);
        // Some kernels let a program that runs be opened (6.12): then its seals have to hold.
        if let Ok(program) = fs::OpenOptions::new().write(true).open(&executable) {
            // Nothing but a file in memory has seals.
            let seals = rustix::fs::fcntl_get_seals(&program).unwrap_or(SealFlags::empty());
            ensure!(
                seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::SEAL),
                "the waiting process's program can be written to: {seals:?}"
            );
        }
        if is_croze(&runtime) {
            let (inside, outside) = (fs::metadata(&executable)?, fs::metadata(runtime.program())?);
            ensure!(
                (inside.dev(), inside.ino()) != (outside.dev(), outside.ino()),
                "the waiting process runs the host's file itself"
            );
            let maps = fs::read_to_string(format!("/proc/{}/maps", runtime.pid(&id)?))?;
            ensure!(maps.contains("memfd:croze-rt"), "{maps}");
            let program = runtime.program().display().to_string();
            ensure!(
                !maps.contains(&program),
                "a part of the host's file is mapped:\n{maps}"
            );
        }
        runtime.delete_by_force(&id)
    })
}

/// Without the capability to exchange its file in place the runtime executes the copy, and comes as far.
#[test]
fn without_capabilities_the_sealed_copy_is_executed() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        // By the scene, whose reaper is the only one that may wait for children here.
        let mut command = Command::new("setpriv");
        command
            .args(["--bounding-set", "-sys_admin,-checkpoint_restore", "--"])
            .arg(runtime.program())
            .args(["create", "--bundle", "/nowhere", "copied"]);
        scene.run(command)?.failure(&["/nowhere"]).map(drop)
    })
}

/// A script whose interpreter is the runtime itself gets a copy of it, at most.
#[test]
fn a_script_that_runs_the_runtime_does_no_harm() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let before = fs::read(runtime.program())?;
        let bundle = Bundle::new(scene, "script", &spec::docker_like(&["/evil"]))?;
        fs::write(bundle.rootfs("evil"), "#!/proc/self/exe\n")?;
        fs::set_permissions(bundle.rootfs("evil"), fs::Permissions::from_mode(0o755))?;
        runtime.run(&bundle, &scene.id("script"))?;
        ensure!(
            before == fs::read(runtime.program())?,
            "the runtime's file has changed"
        );
        Ok(())
    })
}

/// A working directory through a descriptor that the runtime left open leads to the host (CVE-2024-21626).
#[test]
fn a_leaked_descriptor_is_no_working_directory() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let holder = Bundle::new(scene, "holder", &spec::docker_like(&["/probe", "wait"]))?;
        let holder_id = scene.id("holder");
        runtime.create_and_start(&holder, &holder_id)?;
        let bundle = Bundle::new(scene, "cwd", &json!({}))?;
        for number in 3..20 {
            let directory = format!("/proc/self/fd/{number}");
            let mut config =
                spec::docker_like(&["/bin/ls", "../../../../etc/hostname", "../../../../etc/shadow"]);
            config["process"]["cwd"] = json!(directory);
            bundle.write(&config.to_string())?;
            for output in [
                runtime.run(&bundle, &scene.id("cwd"))?,
                runtime.call(&[
                    "exec",
                    "--cwd",
                    &directory,
                    &holder_id,
                    "/bin/ls",
                    "../../../../etc/shadow",
                ])?,
            ] {
                ensure!(
                    !output.stdout.contains("etc/"),
                    "{directory} shows the host: {output}"
                );
            }
        }
        runtime.delete_by_force(&holder_id)
    })
}

/// `/dev` as a symlink made by the image must not put devices on the host.
#[test]
fn a_dev_that_is_a_symlink_stays_inside() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            // runc 1.1 makes them where the link leads.
            return Ok(());
        }
        let outside = scene.new_directory("outside")?;
        let mut config = spec::minimal(&["/bin/true"]);
        config["linux"]["devices"] = json!([{ "path": "/dev/made", "type": "c", "major": 1, "minor": 3 }]);
        let bundle = Bundle::new(scene, "dev-link", &config)?;
        fs::remove_dir(bundle.rootfs("dev"))?;
        symlink(&outside, bundle.rootfs("dev"))?;
        runtime.run(&bundle, &scene.id("dev-link"))?;
        assert_eq!(fs::read_dir(&outside)?.count(), 0, "a device was made outside");
        Ok(())
    })
}

/// A masked path that is a symlink must not be followed out of the root directory.
#[test]
fn a_mask_over_a_symlink_does_not_touch_the_host() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let outside = scene.path("precious");
        fs::write(&outside, "still here\n")?;
        let mut config = spec::docker_like(&["/bin/true"]);
        spec::append(&mut config, "/linux/maskedPaths", json!("/trap"))?;
        spec::append(&mut config, "/linux/readonlyPaths", json!("/trap"))?;
        let bundle = Bundle::new(scene, "mask-link", &config)?;
        symlink(&outside, bundle.rootfs("trap"))?;
        runtime.run(&bundle, &scene.id("mask-link"))?;
        fs::write(&outside, "can still be written\n")?;
        assert_eq!(fs::read_to_string(&outside)?, "can still be written\n");
        Ok(())
    })
}
