//! Confinement by AppArmor: a real profile, loaded for the test. On a host without AppArmor these tests say so and end.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, spec};
use serde_json::json;

use crate::is_croze;

/// A loaded profile, unloaded at the end of a test, failed or not.
struct Profile<'scene> {
    scene: &'scene Scene,
    name: String,
    file: String,
}

impl<'scene> Profile<'scene> {
    /// Loads a profile that allows everything but reading `/etc/denied`. `None` where that cannot be.
    #[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
    fn load(scene: &'scene Scene, name: &str) -> Result<Option<Self>> {
        if !Path::new("/sys/kernel/security/apparmor/profiles").exists()
            || !Path::new("/usr/sbin/apparmor_parser").exists()
        {
            eprintln!("skipped: AppArmor is not enabled here, or its parser not installed");
            return Ok(None);
        }
        let name = scene.id(name);
        let path = scene.path(&format!("{name}.profile"));
        let rules = "file, capability, network, mount, umount, pivot_root, signal, ptrace, unix, dbus, deny /**/denied rwklx,";
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{ {rules} deny /etc/denied rwklx, }}\n"
        );
        fs::write(&path, text)?;
        let file = path.display().to_string();
        scene
            .call(&["/usr/sbin/apparmor_parser", "--skip-cache", "--replace", &file])?
            .success()?;
        Ok(Some(Self { scene, name, file }))
    }
}

impl Drop for Profile<'_> {
    fn drop(&mut self) {
        self.scene
            .call(&["/usr/sbin/apparmor_parser", "--remove", &self.file])
            .ok();
    }
}

const SCRIPT: &str = "cat /proc/self/attr/apparmor/current; cat /etc/open; cat /etc/denied";

#[test]
fn a_profile_confines_the_container_and_what_is_added_to_it() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let Some(profile) = Profile::load(scene, "confined")? else {
            return Ok(());
        };
        let mut config = spec::docker_like(&["/bin/sh", "-c", SCRIPT]);
        config["process"]["apparmorProfile"] = json!(profile.name);
        let bundle = |name: &str| -> Result<Bundle> {
            let bundle = Bundle::new(scene, name, &config)?;
            fs::write(bundle.rootfs("/etc/open"), "open\n")?;
            fs::write(bundle.rootfs("/etc/denied"), "secret\n")?;
            Ok(bundle)
        };
        let output = runtime.run(&bundle("run")?, &scene.id("run"))?.code(1)?;
        let expected = format!("{} (enforce)\nopen\n", profile.name);
        assert_eq!(output.stdout, expected, "{output}");
        ensure!(output.stderr.contains("Permission denied"), "{output}");

        config["process"]["args"] = json!(["/probe", "wait"]);
        let bundle = Bundle::new(scene, "waiting", &config)?;
        fs::write(bundle.rootfs("/etc/open"), "open\n")?;
        fs::write(bundle.rootfs("/etc/denied"), "secret\n")?;
        let id = scene.id("waiting");
        runtime.create_and_start(&bundle, &id)?;
        let pid = runtime.pid(&id)?;
        let label = fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current"))?;
        assert_eq!(
            label.trim_end_matches(['\n', '\0']),
            format!("{} (enforce)", profile.name)
        );
        // An added process has the container's profile, or another one if that is asked for.
        let added = runtime.call(&["exec", &id, "/bin/sh", "-c", SCRIPT])?.code(1)?;
        assert_eq!(added.stdout, expected, "{added}");
        let words = ["exec", "--apparmor", "unconfined", &id, "/bin/sh", "-c", SCRIPT];
        let free = runtime.call(&words)?.success()?;
        ensure!(free.stdout.starts_with("unconfined\nopen\nsecret"), "{free}");
        runtime.delete_by_force(&id)
    })
}

#[test]
fn a_profile_that_is_not_loaded_is_named() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if Profile::load(scene, "probe")?.is_none() {
            return Ok(());
        }
        let mut config = spec::docker_like(&["/bin/true"]);
        config["process"]["apparmorProfile"] = json!("not-loaded");
        let bundle = Bundle::new(scene, "missing", &config)?;
        let words: &[&str] = if is_croze(&runtime) {
            &["not-loaded", "apparmor"]
        } else {
            &["apparmor"]
        };
        runtime
            .run(&bundle, &scene.id("missing"))?
            .failure(words)
            .map(drop)
    })
}
