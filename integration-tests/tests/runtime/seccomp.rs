//! The system call filter.

use anyhow::Result;
use croze_integration_tests::{Bundle, Runtime, Scene, spec};
use serde_json::json;

use crate::run_json;

#[test]
fn dockers_default_profile_loads_and_holds() -> Result<()> {
    Scene::play(|scene| {
        let mut config = spec::docker_like(&["/probe"]);
        config["linux"]["seccomp"] = spec::docker_seccomp()?;
        let report = run_json(scene, "report", &config)?;
        assert_eq!(report["seccomp"], "2", "a filter is installed");

        // Without the filter any user may make a user namespace: it is the filter that says no.
        config["process"]["args"] = json!(["/probe", "attempt", "unshare:user", "mkdir"]);
        let answer = run_json(scene, "denied", &config)?;
        assert_eq!(answer, json!({ "unshare:user": "EPERM", "mkdir": "ok" }));
        if let Some(linux) = config["linux"].as_object_mut() {
            linux.remove("seccomp");
        }
        let answer = run_json(scene, "allowed", &config)?;
        assert_eq!(answer, json!({ "unshare:user": "ok", "mkdir": "ok" }));
        Ok(())
    })
}

#[test]
fn a_rule_gives_the_errno_it_names() -> Result<()> {
    Scene::play(|scene| {
        let rule = |action: &str, errno: Option<u32>| {
            let mut rule = json!({ "names": ["mkdir", "mkdirat", "no_such_system_call"], "action": action });
            if let Some(errno) = errno {
                rule["errnoRet"] = json!(errno);
            }
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule] })
        };
        let table = [
            ("plain", rule("SCMP_ACT_ERRNO", None), "EPERM"),
            ("named", rule("SCMP_ACT_ERRNO", Some(28)), "ENOSPC"),
            ("allowed", rule("SCMP_ACT_ALLOW", None), "ok"),
        ];
        for (name, profile, expected) in table {
            let mut config = spec::docker_like(&["/probe", "attempt", "mkdir"]);
            config["linux"]["seccomp"] = profile;
            assert_eq!(run_json(scene, name, &config)?["mkdir"], expected, "{name}");
        }
        Ok(())
    })
}

#[test]
fn a_condition_on_an_argument_decides() -> Result<()> {
    Scene::play(|scene| {
        // unshare(CLONE_NEWUSER) is refused, unshare(CLONE_NEWNET) is not.
        let mut config = spec::docker_like(&["/probe", "attempt", "unshare:user", "unshare:net"]);
        let all = json!(["CAP_SYS_ADMIN"]);
        config["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{
                "names": ["unshare"],
                "action": "SCMP_ACT_ERRNO",
                "args": [{ "index": 0, "value": 0x1000_0000, "valueTwo": 0x1000_0000, "op": "SCMP_CMP_MASKED_EQ" }],
            }],
        });
        let answer = run_json(scene, "condition", &config)?;
        assert_eq!(answer, json!({ "unshare:user": "EPERM", "unshare:net": "ok" }));
        Ok(())
    })
}

#[test]
fn a_killing_rule_kills() -> Result<()> {
    Scene::play(|scene| {
        let runtime = Runtime::new(scene)?;
        let mut config = spec::docker_like(&["/probe", "attempt", "mkdir"]);
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }],
        });
        let bundle = Bundle::new(scene, "kill", &config)?;
        // 128 and SIGSYS.
        runtime.run(&bundle, &scene.id("kill"))?.code(128 + 31).map(drop)
    })
}
