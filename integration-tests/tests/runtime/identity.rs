//! Who the process is and what it may: names, ids, capabilities, limits.

use anyhow::{Result, ensure};
use croze_integration_tests::{Bundle, Runtime, Scene, spec};
use serde_json::{Value, json};

use crate::{is_croze, run_json};

#[test]
fn hostname_arguments_environment_and_directory_are_as_asked() -> Result<()> {
    Scene::play(|scene| {
        let mut config = spec::docker_like(&["/probe", "report", "--", "an argument", "ünïcode"]);
        config["process"]["cwd"] = json!("/home/app");
        config["process"]["env"] = json!(["PATH=/bin", "ONE=1", "EMPTY=", "TWO=a b=c"]);
        let report = run_json(scene, "words", &config)?;
        assert_eq!(report["hostname"], "inside");
        assert_eq!(
            report["argv"],
            json!(["/probe", "report", "--", "an argument", "ünïcode"])
        );
        assert_eq!(report["cwd"], "/home/app");
        let mut environment = report["environment"].clone();
        // Runtimes add HOME where it is missing.
        environment.as_object_mut().map(|map| map.remove("HOME"));
        assert_eq!(
            environment,
            json!({ "PATH": "/bin", "ONE": "1", "EMPTY": "", "TWO": "a b=c" })
        );
        Ok(())
    })
}

#[test]
fn a_domain_name_is_set() -> Result<()> {
    Scene::play(|scene| {
        if !is_croze(&Runtime::new(scene)?) {
            return Ok(());
        }
        let mut config = spec::docker_like(&["/probe"]);
        config["domainname"] = json!("example.test");
        assert_eq!(run_json(scene, "domain", &config)?["domainname"], "example.test");
        Ok(())
    })
}

#[test]
fn ids_groups_and_umask_are_as_asked() -> Result<()> {
    Scene::play(|scene| {
        let mut config = spec::docker_like(&["/probe"]);
        config["process"]["user"] =
            json!({ "uid": 1000, "gid": 1001, "umask": 0o027, "additionalGids": [5, 2000] });
        let report = run_json(scene, "ids", &config)?;
        assert_eq!(
            report["uid"],
            json!({ "real": 1000, "effective": 1000, "saved": 1000 })
        );
        assert_eq!(
            report["gid"],
            json!({ "real": 1001, "effective": 1001, "saved": 1001 })
        );
        let mut groups: Vec<u64> = report["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .collect();
        groups.retain(|gid| *gid != 1001);
        assert_eq!(groups, [5, 2000]);
        assert_eq!(report["umask"], "0027");
        Ok(())
    })
}

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
fn a_user_keeps_only_ambient_capabilities() -> Result<()> {
    Scene::play(|scene| {
        let one = json!(["CAP_NET_BIND_SERVICE"]);
        for (ambient, expected) in [(json!([]), json!([])), (one.clone(), one.clone())] {
            let mut config = spec::docker_like(&["/probe"]);
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            config["process"]["capabilities"] = json!({ "bounding": one, "permitted": one, "effective": one, "inheritable": one, "ambient": ambient });
            let report = run_json(scene, &format!("ambient-{}", names(&ambient).len()), &config)?;
            assert_eq!(report["capabilities"]["effective"], expected);
            assert_eq!(report["capabilities"]["ambient"], expected);
            assert_eq!(report["capabilities"]["bounding"], one);
        }
        Ok(())
    })
}

#[test]
fn no_new_privileges_is_as_asked() -> Result<()> {
    Scene::play(|scene| {
        for wanted in [true, false] {
            let mut config = spec::docker_like(&["/probe"]);
            config["process"]["noNewPrivileges"] = json!(wanted);
            let report = run_json(scene, &format!("nnp-{wanted}"), &config)?;
            assert_eq!(report["no_new_privs"], wanted);
        }
        Ok(())
    })
}

#[test]
fn resource_limits_are_as_asked() -> Result<()> {
    Scene::play(|scene| {
        let mut config = spec::docker_like(&["/probe"]);
        // All within hard limits that any host grants.
        config["process"]["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            { "type": "RLIMIT_NPROC", "soft": 1000, "hard": 1000 },
            { "type": "RLIMIT_STACK", "soft": 4_194_304, "hard": 8_388_608 },
        ]);
        let report = run_json(scene, "rlimits", &config)?;
        assert_eq!(report["rlimits"]["RLIMIT_NOFILE"], json!([512, 1024]));
        assert_eq!(report["rlimits"]["RLIMIT_CORE"], json!([0, 0]));
        assert_eq!(report["rlimits"]["RLIMIT_NPROC"], json!([1000, 1000]));
        assert_eq!(report["rlimits"]["RLIMIT_STACK"], json!([4_194_304, 8_388_608]));
        Ok(())
    })
}

#[test]
fn the_oom_score_is_as_asked() -> Result<()> {
    Scene::play(|scene| {
        let mut config = spec::docker_like(&["/probe"]);
        config["process"]["oomScoreAdj"] = json!(321);
        assert_eq!(run_json(scene, "oom", &config)?["oom_score_adj"], "321");
        Ok(())
    })
}

#[test]
fn sysctls_of_the_containers_namespaces_are_set() -> Result<()> {
    Scene::play(|scene| {
        let mut config = spec::docker_like(&["/probe", "report", "net.ipv4.ip_forward", "kernel.msgmax"]);
        config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1", "kernel.msgmax": "12345" });
        let report = run_json(scene, "sysctl", &config)?;
        assert_eq!(
            report["sysctl"],
            json!({ "net.ipv4.ip_forward": "1", "kernel.msgmax": "12345" })
        );
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

#[test]
fn the_process_leads_a_session_of_its_own() -> Result<()> {
    Scene::play(|scene| {
        let report = run_json(scene, "session", &spec::docker_like(&["/probe"]))?;
        ensure!(
            report["session"] == report["pid"],
            "session {} of pid {}",
            report["session"],
            report["pid"]
        );
        Ok(())
    })
}
