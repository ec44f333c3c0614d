//! Images that others made: docker, podman, buildah, umoci and skopeo, in each compression that they know. Each is pulled from a real registry, runs, and its root is what skopeo and
//! umoci make of the same image.
//!
//! All are made of one directory and of the same changes to it: a file removed, one replaced, one linked, a directory emptied.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use croze_integration_tests::{Crozed, Dockerd, Podman, Registry, RegistryOptions, Scene, busybox};

use crate::trees::{compare_running, on_stage};

/// What the runtime mounts things on, or makes to do so.
const MOUNTED_ON: [&str; 7] = [
    "dev",
    "proc",
    "sys",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    ".dockerenv",
];
/// What is done to the directory in a layer of its own.
const CHANGES: &str = "rm /data/gone && echo new >/data/replaced && ln /data/kept /data/linked && rm -r /data/emptied/* && chmod 2750 /data/mode";

/// The directory that every image is made of.
fn root(scene: &Scene) -> Result<PathBuf> {
    let root = scene.new_directory("original")?;
    for directory in ["bin", "dev", "proc", "sys", "etc", "tmp", "data/emptied/deep"] {
        fs::create_dir_all(root.join(directory))?;
    }
    for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        fs::write(root.join(file), "")?;
    }
    fs::copy(busybox()?, root.join("bin/busybox"))?;
    for applet in ["sh", "rm", "ln", "echo", "chmod", "sleep", "cat"] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    for file in [
        "gone",
        "replaced",
        "kept",
        "mode",
        "emptied/one",
        "emptied/deep/two",
    ] {
        fs::write(root.join("data").join(file), file)?;
    }
    fs::hard_link(root.join("data/kept"), root.join("data/also"))?;
    symlink("../etc/hosts", root.join("data/away"))?;
    fs::set_permissions(root.join("data/mode"), fs::Permissions::from_mode(0o4711))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    std::os::unix::fs::chown(root.join("data/mode"), Some(1000), Some(1001))?;
    Ok(root)
}

/// Where an image's Dockerfile is, beside the directory it is made of.
fn dockerfile(scene: &Scene) -> Result<PathBuf> {
    let context = scene.new_directory("context")?;
    fs::rename(root(scene)?, context.join("root"))?;
    fs::write(
        context.join("Dockerfile"),
        format!(
            "FROM scratch\nCOPY root/ /\nENV PATH=/bin MADE=here\nRUN {CHANGES}\nCMD [\"sleep\", \"1000\"]\n"
        ),
    )?;
    Ok(context)
}

/// Pulls an image that is in the registry, and compares it with what skopeo copies and umoci unpacks.
fn judge(
    scene: &Scene,
    registry: &Registry<'_>,
    daemon: &Crozed<'_>,
    repository: &str,
    tag: &str,
) -> Result<()> {
    let reference = registry.reference(&format!("{repository}:{tag}"));
    let name = format!("{repository}-{tag}");
    let layout = scene.path(&format!("{name}-copied"));
    copy(
        scene,
        &[
            "--src-tls-verify=false",
            "--dest-compress-format",
            "gzip",
            "--dest-compress",
        ],
        &format!("docker://{reference}"),
        &format!("oci:{}:latest", layout.display()),
    )?;
    daemon.ok(&["pull", &reference])?;
    compare_running(scene, daemon, &name, &reference, &layout, &MOUNTED_ON)?;
    let script = "cat /data/replaced && [ ! -e /data/gone ] && [ ! -e /data/emptied/one ] && echo $MADE";
    let output = daemon.ok(&["run", "--rm", &reference, "sh", "-c", script])?;
    assert_eq!(output.stdout, "new\nhere\n", "{name}");
    let history = daemon.ok(&["history", "--format", "{{.ID}} {{.Size}}", &reference])?;
    ensure!(history.stdout.lines().count() >= 2, "{history}");
    daemon.ok(&["rmi", &reference])?;
    Ok(())
}

fn copy(scene: &Scene, flags: &[&str], from: &str, to: &str) -> Result<()> {
    let mut words = vec!["skopeo", "--insecure-policy", "copy"];
    words.extend(flags);
    words.extend([from, to]);
    scene.call(&words)?.success()?;
    Ok(())
}

/// Pushes from where skopeo can read.
fn push(scene: &Scene, registry: &Registry<'_>, flags: &[&str], from: &str, name: &str) -> Result<()> {
    let to = format!("docker://{}", registry.reference(&format!("made:{name}")));
    let flags = [&["--dest-tls-verify=false"], flags].concat();
    copy(scene, &flags, from, &to)
}

#[test]
fn dockers_images_are_what_they_are_elsewhere() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let context = dockerfile(scene)?;
        let docker = Dockerd::start(scene)?;
        let mut build = docker.command(&["build", "-t", "made", &context.to_string_lossy()]);
        build.env("DOCKER_BUILDKIT", "0");
        scene.run(build)?.success()?;
        // The daemon has a network of its own, so what it would push goes through an archive; config and layers are its own.
        let archive = scene.path("docker.tar");
        docker
            .docker(&["save", "-o", &archive.to_string_lossy(), "made:latest"])?
            .success()?;
        push(
            scene,
            registry,
            &[],
            &format!("docker-archive:{}", archive.display()),
            "docker",
        )?;
        ensure!(
            registry
                .manifest("made", "docker")?
                .contains("vnd.docker.distribution.manifest.v2+json"),
            "it has docker's own form"
        );
        judge(scene, registry, daemon, "made", "docker")
    })
}

#[test]
fn podmans_images_are_what_they_are_elsewhere() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let context = dockerfile(scene)?;
        let podman = Podman::new(scene)?;
        let context = context.to_string_lossy().into_owned();
        for (name, form) in [("podman", "oci"), ("podman-docker", "docker")] {
            let build = [
                "build",
                "--isolation",
                "chroot",
                "--format",
                form,
                "-t",
                name,
                &context,
            ];
            podman.call(&build)?.success()?;
            let to = format!("docker://{}", registry.reference(&format!("made:{name}")));
            podman
                .call(&["push", "--tls-verify=false", name, &to])?
                .success()?;
            judge(scene, registry, daemon, "made", name)?;
        }
        Ok(())
    })
}

#[test]
fn buildahs_images_are_what_they_are_elsewhere() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let root = root(scene)?;
        let (storage, run) = (scene.path("buildah"), scene.path("buildah-run"));
        let buildah = |words: &[&str]| -> Result<String> {
            let (storage, run) = (storage.to_string_lossy(), run.to_string_lossy());
            let mut all = vec![
                "buildah",
                "--root",
                &storage,
                "--runroot",
                &run,
                "--storage-driver",
                "vfs",
            ];
            all.extend(words);
            Ok(scene.call(&all)?.success()?.stdout.trim().to_owned())
        };
        let base = buildah(&["from", "scratch"])?;
        buildah(&["copy", &base, &root.to_string_lossy(), "/"])?;
        buildah(&[
            "config",
            "--env",
            "PATH=/bin",
            "--env",
            "MADE=here",
            "--cmd",
            "sleep 1000",
            &base,
        ])?;
        let image = buildah(&["commit", "--rm", &base, "base"])?;
        // A second layer over the first.
        let changed = buildah(&["from", "--pull-never", &image])?;
        buildah(&["run", "--isolation", "chroot", &changed, "sh", "-c", CHANGES])?;
        buildah(&["commit", "--rm", &changed, "made"])?;
        let to = format!("docker://{}", registry.reference("made:buildah"));
        buildah(&["push", "--tls-verify=false", "made", &to])?;
        judge(scene, registry, daemon, "made", "buildah")
    })
}

#[test]
fn umocis_and_skopeos_images_are_what_they_are_elsewhere() -> Result<()> {
    on_stage(|scene, registry, daemon| {
        let root = root(scene)?;
        let layout = scene.path("layout").to_string_lossy().into_owned();
        let image = format!("{layout}:latest");
        let bundle = scene.path("made");
        let umoci = |words: &[&str]| scene.call(&[&["umoci"], words].concat())?.success();
        umoci(&["init", "--layout", &layout])?;
        umoci(&["new", "--image", &image])?;
        umoci(&["unpack", "--image", &image, &bundle.to_string_lossy()])?;
        fs::remove_dir(bundle.join("rootfs"))?;
        fs::rename(&root, bundle.join("rootfs"))?;
        umoci(&[
            "repack",
            "--refresh-bundle",
            "--image",
            &image,
            &bundle.to_string_lossy(),
        ])?;
        change(&bundle.join("rootfs"))?;
        umoci(&["repack", "--image", &image, &bundle.to_string_lossy()])?;
        umoci(&[
            "config",
            "--image",
            &image,
            "--config.env",
            "PATH=/bin",
            "--config.env",
            "MADE=here",
            "--config.cmd",
            "sleep",
            "--config.cmd",
            "1000",
        ])?;
        let from = format!("oci:{image}");
        for (name, flags) in [("umoci", &[][..]), ("skopeo-docker", &["--format", "v2s2"][..])] {
            push(scene, registry, flags, &from, name)?;
            judge(scene, registry, daemon, "made", name)?;
        }
        Ok(())
    })
}

/// One image, pushed in every compression that its makers know: a frame of zstd for each layer; many of them, with others between them that a reader
/// must skip (`zstd:chunked`); and gzip. What is unpacked is the same, layer by layer.
#[test]
fn layers_in_zstd_are_what_they_are_in_gzip() -> Result<()> {
    Scene::play(|scene| {
        let daemon = Crozed::start(scene)?;
        let context = dockerfile(scene)?;
        let podman = Podman::new(scene)?;
        let context = context.to_string_lossy().into_owned();
        let isolated = ["--isolation", "chroot", "--format", "oci"];
        podman
            .call(&[&["build"], &isolated[..], &["-t", "made", &context]].concat())?
            .success()?;
        let archive = format!("oci-archive:{}", scene.path("made.tar").display());
        podman.call(&["push", "made", &archive])?.success()?;
        let mut images = Vec::new();
        for (name, format) in [
            ("podman-zstd", "zstd"),
            ("podman-chunked", "zstd:chunked"),
            ("podman-gzip", "gzip"),
            ("skopeo-zstd", "zstd"),
            ("skopeo-chunked", "zstd:chunked"),
        ] {
            // One of its own: both programs remember what a registry has, and push no layer again that is there in another compression.
            let registry = Registry::start_with(scene, &format!("has-{name}"), &RegistryOptions::default())?;
            let to = format!("docker://{}", registry.reference(&format!("{name}:1")));
            if name.starts_with("podman") {
                let words = ["push", "--tls-verify=false", "--compression-format", format];
                podman.call(&[&words[..], &["made", &to]].concat())?.success()?;
            } else {
                let words = ["--dest-tls-verify=false", "--dest-compress-format", format];
                copy(scene, &words, &archive, &to)?;
            }
            let manifest = registry.manifest(name, "1")?;
            let word = format!("tar+{}", format.trim_end_matches(":chunked"));
            ensure!(manifest.matches(&word).count() == 2, "{name}: {manifest}");
            ensure!(
                manifest.contains("zstd-chunked") == format.ends_with("chunked"),
                "{name}: {manifest}"
            );
            judge(scene, &registry, &daemon, name, "1")?;
            let reference = registry.reference(&format!("{name}:1"));
            daemon.ok(&["pull", &reference])?;
            images.push(daemon.inspect(&reference)?);
            daemon.ok(&["rmi", &reference])?;
        }
        let layers: Vec<_> = images.iter().map(|image| &image["RootFS"]).collect();
        ensure!(
            layers
                .iter()
                .all(|of| *of == layers[0] && of["Layers"][1].is_string()),
            "{layers:?}"
        );
        daemon.finish()
    })
}

/// [`CHANGES`] without a shell in the tree.
fn change(root: &Path) -> Result<()> {
    let data = root.join("data");
    fs::remove_file(data.join("gone"))?;
    fs::write(data.join("replaced"), "new\n")?;
    fs::hard_link(data.join("kept"), data.join("linked"))?;
    fs::remove_dir_all(data.join("emptied"))?;
    fs::create_dir(data.join("emptied"))?;
    fs::set_permissions(data.join("mode"), fs::Permissions::from_mode(0o2750))?;
    ensure!(fs::metadata(data.join("kept"))?.nlink() == 3, "three names");
    Ok(())
}
