//! `mounts`: types, options, maps; `linux.maskedPaths`, `readonlyPaths` and `rootfsPropagation`.

use std::fs;
use std::os::unix::fs::chown;

use anyhow::{Result, ensure};
use croze_integration_tests::spec;
use serde_json::{Value, json};

use crate::case::{Case, mounted};
use crate::stage::{MAPPED, Stage, with_user_namespace};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = options();
    cases.extend(binds());
    cases.extend(types());
    cases.extend(recursive());
    cases.extend(maps());
    cases.extend(paths());
    cases
}

/// An option, and the words that a tmpfs mounted with it has in its line.
const OPTIONS: [(&str, &[&str]); 33] = [
    ("async", &["!sync"]),
    ("atime", &["!noatime"]),
    ("defaults", &["rw", "!nosuid"]),
    ("dev", &["!nodev"]),
    ("diratime", &["!nodiratime"]),
    ("dirsync", &["dirsync"]),
    ("exec", &["!noexec"]),
    ("iversion", &["rw"]),
    ("lazytime", &["rw"]),
    ("loud", &["rw"]),
    ("mode=750", &["mode=750"]),
    ("noatime", &["noatime"]),
    ("nodev", &["nodev"]),
    ("nodiratime", &["nodiratime"]),
    ("noexec", &["noexec"]),
    ("noiversion", &["rw"]),
    ("nolazytime", &["rw"]),
    ("norelatime", &["rw"]),
    ("nostrictatime", &["relatime"]),
    ("nosuid", &["nosuid"]),
    ("nosymfollow", &["nosymfollow"]),
    ("private", &["!shared", "!master"]),
    ("relatime", &["relatime"]),
    ("ro", &["ro"]),
    ("rw", &["rw"]),
    ("shared", &["shared"]),
    ("silent", &["rw"]),
    ("size=1m", &["size=1024k"]),
    ("slave", &["!shared"]),
    ("strictatime", &["!relatime", "!noatime"]),
    ("suid", &["!nosuid"]),
    ("sync", &["sync"]),
    ("unbindable", &["unbindable"]),
];

fn options() -> Vec<Case> {
    let tmpfs = |options: Value| json!({ "destination": "/mnt/x", "type": "tmpfs", "source": "tmpfs", "options": options });
    let mut cases: Vec<Case> = OPTIONS
        .into_iter()
        .map(|(option, words)| {
            Case::new(format!("mounts.options {option}"))
                .append("/mounts", tmpfs(json!([option])))
                .mounted("/mnt/x", words)
        })
        .collect();
    cases.extend([
        Case::new("mounts.options several").append("/mounts", tmpfs(json!(["nosuid", "nodev", "noexec", "ro"]))).mounted("/mnt/x", &["nosuid", "nodev", "noexec", "ro"]),
        Case::new("mounts.options the last one counts").append("/mounts", tmpfs(json!(["ro", "rw"]))).mounted("/mnt/x", &["!ro"]),
        Case::script("mounts.options tmpcopyup", |stage| {
            let mount = json!({ "destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"] });
            let mut config = spec::docker_like(&["/bin/sh", "-c", "grep -c . /etc/passwd; stat -f -c %T /etc"]);
            spec::append(&mut config, "/mounts", mount)?;
            let output = stage.run(&config)?.success()?;
            ensure!(output.text() == "2\ntmpfs", "{output}");
            Ok(())
        }),
    ]);
    cases
}

/// Runs the report with `/tree` bound at `/mnt/x`; below it is a tmpfs of its own, whose line is looked at too.
fn bound(stage: &Stage<'_>, options: &Value, top: &[&str], below: Option<&[&str]>) -> Result<()> {
    let tree = stage.directory("tree")?;
    let deep = tree.join("below");
    fs::create_dir(&deep)?;
    stage
        .scene
        .call(&["mount", "-t", "tmpfs", "tmpfs", &deep.to_string_lossy()])?
        .success()?;
    let mut config = spec::docker_like(&["/probe"]);
    spec::append(
        &mut config,
        "/mounts",
        json!({ "destination": "/mnt/x", "type": "bind", "source": tree, "options": options }),
    )?;
    let judged = stage.run(&config).and_then(|output| {
        let report = output.success()?.json()?;
        let words = |all: &[&str]| all.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        mounted(&report, "/mnt/x", &words(top))?;
        let is_below = mounted(&report, "/mnt/x/below", &[]);
        match below {
            Some(all) => mounted(&report, "/mnt/x/below", &words(all)),
            None => {
                ensure!(is_below.is_err(), "what is mounted below is not bound");
                Ok(())
            }
        }
    });
    stage
        .scene
        .call(&["umount", &deep.to_string_lossy()])?
        .success()?;
    judged
}

fn binds() -> Vec<Case> {
    vec![
        Case::script("mounts.options bind", |stage| bound(stage, &json!(["bind"]), &["rw"], None)),
        Case::script("mounts.options rbind", |stage| bound(stage, &json!(["rbind"]), &["rw"], Some(&["rw"]))),
        Case::script("mounts.options bind,ro", |stage| bound(stage, &json!(["bind", "ro"]), &["ro"], None)),
        Case::script("mounts.options rbind,ro", |stage| bound(stage, &json!(["rbind", "ro"]), &["ro"], Some(&["rw"]))),
        Case::script("mounts.options bind,nosuid,nodev,noexec", |stage| {
            bound(stage, &json!(["bind", "nosuid", "nodev", "noexec"]), &["nosuid", "nodev", "noexec"], None)
        }),
        Case::script("mounts.options bind,noatime", |stage| bound(stage, &json!(["bind", "noatime"]), &["noatime"], None)),
        Case::script("mounts.options rshared", |stage| bound(stage, &json!(["rbind", "rshared"]), &["shared"], Some(&["shared"]))),
        Case::script("mounts.options rslave", |stage| bound(stage, &json!(["rbind", "rslave"]), &["!shared"], Some(&["!shared"]))),
        Case::script("mounts.options rprivate", |stage| {
            bound(stage, &json!(["rbind", "rprivate"]), &["!shared", "!master"], Some(&["!shared", "!master"]))
        }),
        Case::script("mounts.options runbindable", |stage| {
            bound(stage, &json!(["rbind", "runbindable"]), &["unbindable"], Some(&["unbindable"]))
        }),
        Case::script("mounts.options bind,strictatime in a user namespace", |stage| {
            let source = stage.file("source", "content")?;
            let mut config = spec::docker_like(&["/probe"]);
            with_user_namespace(&mut config)?;
            let mount = json!({ "destination": "/place", "type": "bind", "source": source, "options": ["bind", "strictatime"] });
            spec::append(&mut config, "/mounts", mount)?;
            let report = stage.run(&config)?.success()?.json()?;
            mounted(&report, "/place", &["!relatime".to_owned(), "!noatime".to_owned()])
        }),
        Case::script("mounts.source a file", |stage| {
            let source = stage.file("source", "content")?;
            let text = stage.shell("cat /a/new/place", |config| {
                let mount = json!({ "destination": "/a/new/place", "type": "bind", "source": source, "options": ["bind", "ro"] });
                drop(spec::append(config, "/mounts", mount));
            })?;
            ensure!(text == "content", "{text}");
            Ok(())
        }),
        Case::script("mounts.source relative to the bundle", |stage| {
            let mut config = spec::docker_like(&["/bin/cat", "/place"]);
            let mount = json!({ "destination": "/place", "type": "bind", "source": "beside", "options": ["bind"] });
            spec::append(&mut config, "/mounts", mount)?;
            let bundle = stage.bundle(&config)?;
            fs::write(bundle.directory().join("beside"), "content")?;
            let output = stage.runtime.run(&bundle, &stage.next_id())?.success()?;
            ensure!(output.text() == "content", "{output}");
            Ok(())
        }),
        Case::new("mounts.source missing")
            .append("/mounts", json!({ "destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"] }))
            .refused(&["/no/such/source"]),
        Case::new("mounts.type none with bind")
            .append("/mounts", json!({ "destination": "/mnt/x", "type": "none", "source": "/etc", "options": ["bind", "ro"] }))
            .mounted("/mnt/x", &["ro"]),
        Case::new("mounts.type missing with bind")
            .append("/mounts", json!({ "destination": "/mnt/x", "source": "/etc", "options": ["bind", "ro"] }))
            .mounted("/mnt/x", &["ro"]),
    ]
}

fn types() -> Vec<Case> {
    let other = |kind: &str| json!({ "destination": "/mnt/x", "type": kind, "source": kind });
    let mut cases: Vec<Case> = ["tmpfs", "proc", "sysfs", "mqueue", "devpts"]
        .into_iter()
        .map(|kind| {
            Case::new(format!("mounts.type {kind}"))
                .append("/mounts", other(kind))
                .mounted("/mnt/x", &[kind])
        })
        .collect();
    cases.extend([
        Case::new("mounts.type cgroup")
            .shell("grep -c ' /sys/fs/cgroup' /proc/self/mountinfo >/dev/null && echo shown")
            .prints("shown"),
        Case::new("mounts.type cgroup is read-only")
            .shell("mkdir /sys/fs/cgroup/x /sys/fs/cgroup/*/x 2>/dev/null || echo refused")
            .prints("refused"),
        Case::new("mounts.type unknown")
            .append("/mounts", other("no-such-type"))
            .refused(&["no-such-type"]),
        Case::new("mounts.destination is made")
            .append(
                "/mounts",
                json!({ "destination": "/deep/er/still", "type": "tmpfs", "source": "tmpfs" }),
            )
            .mounted("/deep/er/still", &["tmpfs"]),
        Case::new("mounts in the order given")
            .append(
                "/mounts",
                json!({ "destination": "/a", "type": "tmpfs", "source": "first" }),
            )
            .append(
                "/mounts",
                json!({ "destination": "/a/b", "type": "tmpfs", "source": "second" }),
            )
            .mounted("/a/b", &["second"]),
        Case::new("mounts /dev/ptmx and pts")
            .shell("ls /dev/pts/ptmx && readlink /dev/ptmx")
            .prints("/dev/pts/ptmx\npts/ptmx"),
        Case::new("mounts /dev/shm").mounted("/dev/shm", &["tmpfs", "nosuid", "nodev", "noexec"]),
    ]);
    cases
}

/// Recursive attributes: they reach what is mounted below.
fn recursive() -> Vec<Case> {
    macro_rules! case {
        ($option:literal, $($word:literal),+) => {
            Case::script(concat!("mounts.options ", $option), |stage| {
                bound(stage, &json!(["rbind", $option]), &[$($word),+], Some(&[$($word),+]))
            })
        };
    }
    vec![
        case!("rro", "ro"),
        case!("rrw", "rw"),
        case!("rnosuid", "nosuid"),
        case!("rsuid", "!nosuid"),
        case!("rnodev", "nodev"),
        case!("rdev", "!nodev"),
        case!("rnoexec", "noexec"),
        case!("rexec", "!noexec"),
        case!("rnoatime", "noatime"),
        case!("rnodiratime", "nodiratime"),
        case!("rdiratime", "!nodiratime"),
        case!("rrelatime", "relatime"),
        case!("rnorelatime", "rw"),
        case!("rstrictatime", "!relatime", "!noatime"),
        case!("rnostrictatime", "rw"),
        case!("ratime", "!noatime"),
        case!("rnosymfollow", "nosymfollow"),
        case!("rsymfollow", "!nosymfollow"),
    ]
}

/// Runs `stat` of a file that belongs to 3:4 on the host, bound with these options and maps.
fn owner_of(stage: &Stage<'_>, mount: &Value, user_namespace: bool) -> Result<String> {
    let volume = stage.directory("volume")?;
    fs::write(volume.join("file"), "x")?;
    chown(volume.join("file"), Some(3), Some(4))?;
    let mut config = spec::docker_like(&["/bin/stat", "-c", "%u:%g", "/volume/file"]);
    if user_namespace {
        with_user_namespace(&mut config)?;
    }
    let mut mount = mount.clone();
    mount["destination"] = json!("/volume");
    mount["type"] = json!("bind");
    mount["source"] = json!(volume);
    spec::append(&mut config, "/mounts", mount)?;
    let output = stage.run(&config)?.success()?;
    let owner = rustix::fs::stat(volume.join("file"))?;
    ensure!(
        (owner.st_uid, owner.st_gid) == (3, 4),
        "the host's own view has changed"
    );
    Ok(output.text().to_owned())
}

fn maps() -> Vec<Case> {
    vec![
        Case::script("mounts.uidMappings, gidMappings in a user namespace", |stage| {
            let map = json!([{ "containerID": 0, "hostID": MAPPED.0, "size": 1000 }]);
            let found = owner_of(stage, &json!({ "options": ["rbind"], "uidMappings": map, "gidMappings": map }), true)?;
            ensure!(found == "3:4", "{found}");
            Ok(())
        }),
        Case::script("mounts.options idmap", |stage| {
            let found = owner_of(stage, &json!({ "options": ["bind", "idmap"] }), true)?;
            ensure!(found == "3:4", "{found}");
            Ok(())
        }),
        Case::script("mounts.options ridmap", |stage| {
            let found = owner_of(stage, &json!({ "options": ["rbind", "ridmap"] }), true)?;
            ensure!(found == "3:4", "{found}");
            Ok(())
        }),
        Case::script("mounts.options idmap with maps, without a user namespace", |stage| {
            let map = |first: u32| json!([{ "containerID": 0, "hostID": first, "size": 1000 }]);
            let mount = json!({ "options": ["bind", "idmap"], "uidMappings": map(50_000), "gidMappings": map(60_000) });
            let found = owner_of(stage, &mount, false)?;
            ensure!(found == "50003:60004", "{found}");
            Ok(())
        }),
        Case::new("mounts.options idmap without any map")
            .append("/mounts", json!({ "destination": "/x", "type": "bind", "source": "/etc", "options": ["bind", "idmap"] }))
            .refused(&["idmap"]),
    ]
}

fn paths() -> Vec<Case> {
    let propagation = |kind: &str, words: &[&str]| {
        Case::new(format!("linux.rootfsPropagation {kind}"))
            .set("/linux/rootfsPropagation", json!(kind))
            .mounted("/", words)
    };
    vec![
        Case::new("linux.maskedPaths a file")
            .append("/linux/maskedPaths", json!("/etc/passwd"))
            .shell("wc -c < /etc/passwd")
            .prints("0"),
        Case::new("linux.maskedPaths a directory")
            .append("/linux/maskedPaths", json!("/etc"))
            .shell("ls /etc | wc -l; touch /etc/x 2>/dev/null || echo refused")
            .prints("0\nrefused"),
        Case::new("linux.maskedPaths missing is no error")
            .append("/linux/maskedPaths", json!("/not/there"))
            .reports("/pid", json!(1)),
        Case::new("linux.readonlyPaths")
            .append("/linux/readonlyPaths", json!("/etc"))
            .shell("touch /etc/x 2>/dev/null || echo refused; grep -c root /etc/passwd")
            .prints("refused\n1"),
        Case::new("linux.readonlyPaths missing is no error")
            .append("/linux/readonlyPaths", json!("/not/there"))
            .reports("/pid", json!(1)),
        Case::new("linux.readonlyPaths /proc/sys")
            .shell("echo x > /proc/sys/kernel/hostname 2>/dev/null || echo refused")
            .prints("refused"),
        propagation("private", &["!shared", "!master"]),
        propagation("slave", &["!shared"]),
        propagation("shared", &["shared"]),
        propagation("unbindable", &["unbindable"]),
        Case::new("linux.rootfsPropagation empty")
            .set("/linux/rootfsPropagation", json!(""))
            .reports("/pid", json!(1)),
        Case::new("linux.rootfsPropagation unknown")
            .set("/linux/rootfsPropagation", json!("sometimes"))
            .refused(&["rootfsPropagation"]),
    ]
}
