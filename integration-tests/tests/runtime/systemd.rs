//! Containers whose cgroup systemd makes. Where systemd does not run there is one thing to see: that it is said.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Bundle, Output, Runtime, Scene, cgroups_are_unified, spec, wait_until};
use serde_json::{Value, json};

use crate::is_croze;

/// Whether systemd runs this host; says so where it does not.
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
fn has_systemd() -> bool {
    let runs = Path::new("/run/systemd/system").is_dir();
    if !runs {
        eprintln!("skipped: systemd does not run here");
    }
    runs
}

/// A container's scope, stopped at the end of a test, failed or not.
struct Scope<'scene> {
    scene: &'scene Scene,
    unit: String,
    id: String,
    slice: String,
}

impl<'scene> Scope<'scene> {
    fn new(scene: &'scene Scene, name: &str) -> Self {
        let id = scene.id(name);
        Self {
            scene,
            unit: format!("test-{id}.scope"),
            // One for each test, and not inside another: a hyphen would say so.
            slice: format!("{}.slice", id.replace('-', "")),
            id,
        }
    }

    /// A spec for it, with these limits.
    fn spec(&self, arguments: &[&str], resources: &Value) -> Value {
        let mut config = spec::docker_like(arguments);
        config["linux"]["cgroupsPath"] = json!(format!("{}:test:{}", self.slice, self.id));
        if let (Some(all), Some(new)) = (
            config["linux"]["resources"].as_object_mut(),
            resources.as_object(),
        ) {
            all.extend(new.clone());
        }
        config
    }

    /// A line of the runtime with this driver.
    fn call(&self, runtime: &Runtime<'_>, words: &[&str]) -> Result<Output> {
        runtime.call(&[&["--systemd-cgroup"], words].concat())
    }

    fn create_and_start(&self, runtime: &Runtime<'_>, bundle: &Bundle) -> Result<()> {
        let mut command = runtime.command(&["--systemd-cgroup", "create", "--bundle"]);
        command.arg(bundle.directory()).arg(&self.id);
        let process = self.scene.start(command)?;
        process.wait(Duration::from_secs(60))?.success()?;
        self.call(runtime, &["start", &self.id])?.success().map(drop)
    }

    /// A property of the unit, as `systemctl` shows it.
    fn property(&self, name: &str) -> Result<String> {
        let words = ["systemctl", "show", "--value", "-p", name, &self.unit];
        Ok(self.scene.call(&words)?.success()?.stdout.trim().to_owned())
    }

    /// A file of its cgroup.
    fn file(&self, name: &str) -> Result<String> {
        let group = self.property("ControlGroup")?;
        let path = format!("/sys/fs/cgroup{group}/{name}");
        Ok(fs::read_to_string(&path)
            .with_context(|| path.clone())?
            .trim()
            .to_owned())
    }

    fn is_gone(&self) -> Result<()> {
        wait_until("the scope is gone", Duration::from_secs(20), || {
            Ok((self.property("LoadState")? == "not-found").then_some(()))
        })
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        if Path::new("/run/systemd/system").is_dir() {
            // The slice is empty then; it would stay and be taken for a leftover.
            for words in [
                ["stop", &self.unit],
                ["reset-failed", &self.unit],
                ["stop", &self.slice],
            ] {
                self.scene.call(&[&["systemctl"], &words[..]].concat()).ok();
            }
        }
    }
}

#[test]
fn without_systemd_its_driver_is_refused_with_words() -> Result<()> {
    if Path::new("/run/systemd/system").is_dir() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let scope = Scope {
            scene,
            unit: String::new(),
            slice: "system.slice".to_owned(),
            id: scene.id("refused"),
        };
        let bundle = Bundle::new(scene, "refused", &scope.spec(&["/bin/true"], &json!({})))?;
        let directory = bundle.directory().display().to_string();
        scope
            .call(&runtime, &["run", "--bundle", &directory, &scope.id])?
            .failure(&["systemd does not run on this host", "leave out --systemd-cgroup"])?;
        runtime
            .call(&["state", &scope.id])?
            .failure(&["does not exist"])
            .map(drop)
    })
}

#[test]
fn a_scope_holds_the_container_and_its_limits() -> Result<()> {
    if !has_systemd() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let scope = Scope::new(scene, "limits");
        let resources = json!({
            "memory": { "limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20 },
            "cpu": { "shares": 1024, "quota": 33_333, "period": 100_000, "cpus": "0" },
            "pids": { "limit": 50 },
        });
        let bundle = Bundle::new(scene, "limits", &scope.spec(&["/probe", "wait"], &resources))?;
        scope.create_and_start(&runtime, &bundle)?;
        let pid = runtime.pid(&scope.id)?;
        let unit = &scope.unit;
        assert_eq!(
            fs::read_to_string(format!("/proc/{pid}/cgroup"))?.trim(),
            format!("0::/{}/{unit}", scope.slice)
        );
        for (name, value) in [
            ("Slice", scope.slice.as_str()),
            ("Delegate", "yes"),
            ("MemoryMax", "67108864"),
            ("MemoryLow", "33554432"),
            ("MemorySwapMax", "33554432"),
            ("CPUWeight", "100"),
            ("CPUQuotaPerSecUSec", "340ms"),
            ("TasksMax", "50"),
            ("AllowedCPUs", "0"),
            ("DevicePolicy", "strict"),
        ] {
            assert_eq!(scope.property(name)?, value, "{name}");
        }
        ensure!(scope.property("DeviceAllow")?.contains("/dev/char/1:3 rwm"));
        // The exact quota, though systemd counts in percents.
        let files = [
            ("cpu.max", "33333 100000"),
            ("memory.max", "67108864"),
            ("pids.max", "50"),
            ("cpuset.cpus", "0"),
        ];
        for (name, value) in files {
            assert_eq!(scope.file(name)?, value, "{name}");
        }

        // systemd writes anew what it knows: nothing of the limits may change by that.
        scene.call(&["systemctl", "daemon-reload"])?.success()?;
        for (name, value) in &files[1..] {
            assert_eq!(&scope.file(name)?, value, "{name} after daemon-reload");
        }
        scope
            .call(&runtime, &["delete", "--force", &scope.id])?
            .success()?;
        scope.is_gone()
    })
}

#[test]
fn new_limits_are_known_to_systemd_too() -> Result<()> {
    if !has_systemd() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let scope = Scope::new(scene, "update");
        let bundle = Bundle::new(scene, "update", &scope.spec(&["/probe", "wait"], &json!({})))?;
        scope.create_and_start(&runtime, &bundle)?;
        let flags = [
            "--memory",
            "48m",
            "--memory-swap",
            "48m",
            "--pids-limit",
            "21",
            "--cpu-share",
            "1024",
        ];
        let line = [&["update"], &flags[..], &[scope.id.as_str()]].concat();
        scope.call(&runtime, &line)?.success()?;
        for (property, value) in [
            ("MemoryMax", "50331648"),
            ("TasksMax", "21"),
            ("CPUWeight", "100"),
        ] {
            assert_eq!(scope.property(property)?, value, "{property}");
        }
        assert_eq!(scope.file("memory.max")?, "50331648");
        assert_eq!(scope.file("memory.swap.max")?, "0");
        scene.call(&["systemctl", "daemon-reload"])?.success()?;
        assert_eq!(scope.file("pids.max")?, "21");

        // Paused and resumed, with a process added.
        scope.call(&runtime, &["pause", &scope.id])?.success()?;
        assert_eq!(scope.file("cgroup.freeze")?, "1");
        scope.call(&runtime, &["resume", &scope.id])?.success()?;
        let inside = scope
            .call(&runtime, &["exec", &scope.id, "/probe"])?
            .success()?
            .json()?;
        let group = inside["cgroup"].as_str().context("text")?;
        ensure!(group.contains(&scope.unit), "{group}");

        scope.call(&runtime, &["kill", &scope.id, "KILL"])?.success()?;
        runtime.wait_for_status(&scope.id, "stopped")?;
        scope.call(&runtime, &["delete", &scope.id])?.success()?;
        scope.is_gone()
    })
}

#[test]
fn a_scope_without_a_path_is_named_by_the_id() -> Result<()> {
    if !has_systemd() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        let mut scope = Scope::new(scene, "plain");
        scope.unit = format!("croze-{}.scope", scope.id);
        let mut config = scope.spec(&["/probe"], &json!({}));
        config["linux"]["cgroupsPath"] = Value::Null;
        let bundle = Bundle::new(scene, "plain", &config)?;
        let directory = bundle.directory().display().to_string();
        let output = scope.call(&runtime, &["run", "--bundle", &directory, &scope.id])?;
        let report = output.success()?.json()?;
        let group = report["cgroup"].as_str().context("text")?;
        let expected = format!("0::/system.slice/{}", scope.unit);
        ensure!(group.trim() == expected, "{group}");
        scope.is_gone()
    })
}

#[test]
fn annotations_set_what_they_may_and_nothing_else() -> Result<()> {
    if !has_systemd() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let scope = Scope::new(scene, "annotated");
        let mut config = scope.spec(&["/probe", "wait"], &json!({}));
        config["annotations"] = json!({
            "org.systemd.property.TimeoutStopSec": "7",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
        });
        let bundle = Bundle::new(scene, "annotated", &config)?;
        scope.create_and_start(&runtime, &bundle)?;
        assert_eq!(scope.property("TimeoutStopUSec")?, "7s");
        assert_eq!(scope.property("CollectMode")?, "inactive-or-failed");
        scope
            .call(&runtime, &["delete", "--force", &scope.id])?
            .success()?;
        if !is_croze(&runtime) {
            return Ok(());
        }
        config["annotations"] = json!({ "org.systemd.property.SuccessAction": "'poweroff-force'" });
        let bundle = Bundle::new(scene, "reaching", &config)?;
        let directory = bundle.directory().display().to_string();
        scope
            .call(&runtime, &["run", "--bundle", &directory, &scope.id])?
            .failure(&["SuccessAction", "may not be set"])?;
        scope.is_gone()
    })
}

#[test]
fn what_systemd_refuses_leaves_nothing() -> Result<()> {
    if !has_systemd() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let scope = Scope::new(scene, "refused");
        let mut config = scope.spec(&["/bin/true"], &json!({}));
        let run = |name: &str, config: &Value, words: &[&str]| -> Result<()> {
            let bundle = Bundle::new(scene, name, config)?;
            let directory = bundle.directory().display().to_string();
            let output = scope.call(&runtime, &["run", "--bundle", &directory, &scope.id])?;
            output.failure(if is_croze(&runtime) { words } else { &[] })?;
            runtime
                .call(&["state", &scope.id])?
                .failure(&["does not exist"])?;
            scope.is_gone()
        };
        // An argument that systemd itself does not take.
        config["annotations"] = json!({ "org.systemd.property.CollectMode": "'nonsense'" });
        run("argument", &config, &["systemd refused", "CollectMode"])?;
        // A limit that the kernel refuses, after the scope was made.
        let config = scope.spec(&["/bin/true"], &json!({ "unified": { "memory.max": "many" } }));
        run("limit", &config, &["memory.max"])?;
        let mut config = scope.spec(&["/bin/true"], &json!({}));
        config["linux"]["cgroupsPath"] = json!("/not/three/parts");
        run("path", &config, &["slice:prefix:name"])?;
        // A command that is not there, after all has been made.
        run(
            "command",
            &scope.spec(&["/not/there"], &json!({})),
            &["/not/there"],
        )
    })
}

#[test]
fn a_container_that_ran_out_of_memory_leaves_no_failed_unit() -> Result<()> {
    if !has_systemd() || !cgroups_are_unified() {
        return Ok(());
    }
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let scope = Scope::new(scene, "oom");
        let limit = json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } });
        let bundle = Bundle::new(scene, "oom", &scope.spec(&["/probe", "alloc", "96m"], &limit))?;
        let directory = bundle.directory().display().to_string();
        let output = scope.call(&runtime, &["run", "--bundle", &directory, &scope.id])?;
        output.code(137)?;
        scope.is_gone()?;
        // The name can be used again at once.
        let bundle = Bundle::new(scene, "again", &scope.spec(&["/bin/true"], &limit))?;
        let directory = bundle.directory().display().to_string();
        let output = scope.call(&runtime, &["run", "--bundle", &directory, &scope.id])?;
        output.success().map(drop)
    })
}
