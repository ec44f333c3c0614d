//! What the process may, and what it gets of the host: capabilities, kernel parameters, descriptors. What each field alone does is in
//! the conformance table.

use anyhow::Result;
use croze_integration_tests::{Bundle, Runtime, Scene, spec};
use serde_json::{Value, json};

use crate::run_json;

fn names(value: &Value) -> Vec<String> {
    let mut names: Vec<String> = value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

#[test]
fn root_has_exactly_the_capabilities_given() -> Result<()> {
    Scene::play(|scene| {
        let report = run_json(scene, "caps", &spec::docker_like(&["/probe"]))?;
        for set in ["effective", "permitted", "bounding"] {
            assert_eq!(
                names(&report["capabilities"][set]),
                spec::DOCKER_CAPABILITIES,
                "{set}"
            );
        }
        for set in ["inheritable", "ambient"] {
            assert_eq!(names(&report["capabilities"][set]), Vec::<String>::new(), "{set}");
        }
        Ok(())
    })
}

#[test]
fn without_capabilities_there_are_none() -> Result<()> {
    Scene::play(|scene| {
        let mut config = spec::docker_like(&["/probe"]);
        config["process"]["capabilities"] = json!({ "bounding": [], "effective": [], "permitted": [] });
        let report = run_json(scene, "no-caps", &config)?;
        for set in ["effective", "permitted", "bounding", "inheritable", "ambient"] {
            assert_eq!(report["capabilities"][set], json!([]), "{set}");
        }
        Ok(())
    })
}

#[test]
fn a_sysctl_of_the_host_is_refused() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let before = std::fs::read_to_string("/proc/sys/vm/swappiness")?;
        let mut config = spec::docker_like(&["/bin/true"]);
        config["linux"]["sysctl"] = json!({ "vm.swappiness": "17" });
        let bundle = Bundle::new(scene, "host-sysctl", &config)?;
        runtime
            .run(&bundle, &scene.id("host-sysctl"))?
            .failure(&["vm.swappiness"])?;
        assert_eq!(std::fs::read_to_string("/proc/sys/vm/swappiness")?, before);
        Ok(())
    })
}

#[test]
fn no_descriptor_of_the_caller_is_inherited() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let bundle = Bundle::new(scene, "fds", &spec::docker_like(&["/probe"]))?;
        // A shell hands two open files to the runtime: one by accident, one that is to be passed on.
        for (flags, expected) in [
            ("", vec!["0", "1", "2"]),
            ("--preserve-fds 1", vec!["0", "1", "2", "3"]),
        ] {
            let script = format!(
                "exec 3</etc/passwd 9</etc/group; exec {} --root {} run {flags} --bundle {} {}",
                runtime.program().display(),
                runtime.root().display(),
                bundle.directory().display(),
                scene.id("fds"),
            );
            let report = scene.call(&["sh", "-c", &script])?.success()?.json()?;
            let numbers: Vec<&String> = report["fds"]
                .as_object()
                .into_iter()
                .flat_map(|map| map.keys())
                .collect();
            assert_eq!(numbers, expected, "{flags:?}: {}", report["fds"]);
        }
        Ok(())
    })
}
