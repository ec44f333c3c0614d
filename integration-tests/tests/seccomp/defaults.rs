//! The profiles that engines give their containers, as they stand in a running container's config.json.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Containerd, Dockerd, Podman, Scene};
use croze_seccomp::arch::Arch;
use croze_seccomp::interpreter::{Call, run};
use croze_seccomp::{MOST_INSTRUCTIONS, compile_for};
use serde_json::Value;

use crate::numbers::ALL;
use crate::peer::Peer;
use crate::profile::Profile;
use crate::random::difference;

/// Arguments that the default profiles ask about: of `personality`, `clone` and `socket`.
const ARGUMENTS: [u64; 13] = [
    0,
    1,
    2,
    8,
    16,
    40,
    0x2_0000,
    0x2_0008,
    0x7e02_0000,
    0x1000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
];

/// Every number of every architecture, with every argument at every place.
fn verdicts_are_libseccomps(scene: &Scene, config: &Path) -> Result<()> {
    let text = fs::read(config).with_context(|| format!("reading {}", config.display()))?;
    let config: Value = serde_json::from_slice(&text)?;
    let json = &config["linux"]["seccomp"];
    ensure!(
        json["syscalls"].as_array().is_some_and(|rules| rules.len() > 1),
        "a profile with rules: {json}"
    );
    let peer = Peer::build(scene)?;
    let profile = Profile::new(json, Arch::X86_64, 1)?;
    let own = compile_for(&profile.parsed, profile.native)?;
    let theirs = peer.compile(&[&profile])?.remove(0);
    ensure!(
        own.filter.len() <= MOST_INSTRUCTIONS && own.filter.len() < theirs.len(),
        "one program, shorter than libseccomp's: {} instructions, {}",
        own.filter.len(),
        theirs.len()
    );
    let mut problems = Vec::new();
    for arch in ALL {
        let bit = if arch == Arch::X32 { 0x4000_0000 } else { 0 };
        for number in 0..700 {
            for argument in ARGUMENTS {
                for place in 0..3 {
                    let mut call = Call {
                        number: bit | number,
                        arch: arch.audit(),
                        args: [0; 6],
                    };
                    call.args[place] = argument;
                    let (ours, theirs) = (run(&own.filter, &call)?, run(&theirs, &call)?);
                    let reading = profile.arch_of(&call).map(|arch| profile.read(arch, &call));
                    if let Some(problem) = difference(&profile, false, &call, ours, theirs, reading.as_ref())
                    {
                        problems.push(format!("{problem}: {arch:?} {call:x?}: {ours:#x}, {theirs:#x}"));
                    }
                }
            }
        }
    }
    problems.truncate(20);
    assert_eq!(problems, Vec::<String>::new());
    Ok(())
}

#[test]
fn dockers_profile_means_the_same_to_libseccomp() -> Result<()> {
    Scene::play(|scene| {
        let docker = Dockerd::start(scene)?;
        let run = ["run", "-d", "--runtime", "croze", "--network", "none", "small"];
        let id = docker
            .docker(&[&run[..], &["/probe", "stubborn"]].concat())?
            .success()?;
        let bundles = scene.path("docker-exec/containerd/daemon/io.containerd.runtime.v2.task/moby");
        verdicts_are_libseccomps(scene, &bundles.join(id.text()).join("config.json"))?;
        docker.docker(&["rm", "-f", id.text()])?.success().map(drop)
    })
}

#[test]
fn podmans_profile_means_the_same_to_libseccomp() -> Result<()> {
    Scene::play(|scene| {
        let podman = Podman::new(scene)?;
        let [flag, parent] = podman.run_flags();
        let run = ["run", "-d", "--network", "none", &flag, &parent];
        let id = podman
            .call(&[&run[..], &["--name", "kept", "small", "/probe", "stubborn"]].concat())?
            .success()?;
        let shown = ["inspect", "--format", "{{.OCIConfigPath}}", id.text()];
        let config = podman.call(&shown)?.success()?;
        verdicts_are_libseccomps(scene, &PathBuf::from(config.text()))?;
        podman.call(&["rm", "-f", "-t", "0", "kept"])?.success().map(drop)
    })
}

#[test]
fn containerds_profile_means_the_same_to_libseccomp() -> Result<()> {
    Scene::play(|scene| {
        let engine = Containerd::start(scene)?;
        let words = engine.run_words("kept");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let flags = [
            "--detach",
            "--seccomp",
            "small:latest",
            "kept",
            "/probe",
            "stubborn",
        ];
        engine.ctr(&[&words[..], &flags].concat())?.success()?;
        verdicts_are_libseccomps(scene, &engine.bundle("kept").join("config.json"))?;
        engine
            .ctr(&["tasks", "kill", "--signal", "KILL", "kept"])?
            .success()
            .map(drop)
    })
}
