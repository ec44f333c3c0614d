//! `update` and its flags, as the kernel's files show them.

use std::fs;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::spec;
use serde_json::json;

use crate::case::Case;
use crate::cgroups::{Place, directory_of};
use crate::host::Need;
use crate::stage::Stage;

/// Flags, the controller, and `file=value` in version 1 and in version 2; empty: no such thing there.
type Row = (
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static str,
    &'static str,
);

const ROWS: [Row; 16] = [
    (
        "--memory",
        &["--memory", "33554432", "--memory-swap", "67108864"],
        "memory",
        "memory.limit_in_bytes=33554432",
        "memory.max=33554432",
    ),
    (
        "--memory-swap",
        &["--memory", "33554432", "--memory-swap", "50331648"],
        "memory",
        "memory.memsw.limit_in_bytes=50331648",
        "memory.swap.max=16777216",
    ),
    (
        "--memory upwards",
        &["--memory", "134217728", "--memory-swap", "134217728"],
        "memory",
        "memory.limit_in_bytes=134217728",
        "memory.max=134217728",
    ),
    (
        "--memory-reservation",
        &["--memory-reservation", "16777216"],
        "memory",
        "memory.soft_limit_in_bytes=16777216",
        "memory.low=16777216",
    ),
    (
        "--cpu-period, --cpu-quota",
        &["--cpu-period", "50000", "--cpu-quota", "20000"],
        "cpu",
        "cpu.cfs_quota_us=20000",
        "cpu.max=20000 50000",
    ),
    (
        "--cpu-quota -1",
        &["--cpu-period", "50000", "--cpu-quota", "-1"],
        "cpu",
        "cpu.cfs_quota_us=-1",
        "cpu.max=max 50000",
    ),
    (
        "--cpu-burst",
        &[
            "--cpu-period",
            "50000",
            "--cpu-quota",
            "20000",
            "--cpu-burst",
            "10000",
        ],
        "cpu",
        "cpu.cfs_burst_us=10000",
        "cpu.max.burst=10000",
    ),
    (
        "--cpu-share",
        &["--cpu-share", "300"],
        "cpu",
        "cpu.shares=300",
        "",
    ),
    (
        "--cpu-idle",
        &["--cpu-idle", "1"],
        "cpu",
        "cpu.idle=1",
        "cpu.idle=1",
    ),
    (
        "--cpuset-cpus",
        &["--cpuset-cpus", "0"],
        "cpuset",
        "cpuset.cpus=0",
        "cpuset.cpus=0",
    ),
    (
        "--cpuset-mems",
        &["--cpuset-mems", "0"],
        "cpuset",
        "cpuset.mems=0",
        "cpuset.mems=0",
    ),
    (
        "--cpu-rt-period",
        &["--cpu-rt-period", "900000"],
        "cpu",
        "cpu.rt_period_us=900000",
        "",
    ),
    (
        "--blkio-weight",
        &["--blkio-weight", "300"],
        "blkio",
        "blkio.weight=300",
        "io.weight=default 300",
    ),
    (
        "--pids-limit",
        &["--pids-limit", "44"],
        "pids",
        "pids.max=44",
        "pids.max=44",
    ),
    (
        "--pids-limit -1",
        &["--pids-limit", "-1"],
        "pids",
        "pids.max=max",
        "pids.max=max",
    ),
    (
        "--kernel-memory is ignored",
        &["--kernel-memory", "1048576", "--pids-limit", "45"],
        "pids",
        "pids.max=45",
        "pids.max=45",
    ),
];

pub(super) fn cases() -> Vec<Case> {
    macro_rules! rows {
        ($($number:literal)+) => {
            vec![$(row($number, |stage| updated(stage, $number))),+]
        };
    }
    let mut cases = rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    cases.extend([
        Case::script("update --resources a file", |stage| {
            let file = stage.file("resources.json", r#"{ "pids": { "limit": 21 } }"#)?;
            resources(stage, &["--resources", &file], None)
        }),
        Case::script("update -r -", |stage| {
            let file = stage.file("resources.json", r#"{ "pids": { "limit": 21 } }"#)?;
            resources(stage, &["-r", "-"], Some(&file))
        }),
        Case::script("update -r of what is no object", |stage| {
            let id = stage.waiting()?;
            let file = stage.file("resources.json", "[]")?;
            stage.runtime.call(&["update", "-r", &file, &id])?.failure(&[])?;
            stage.runtime.delete_by_force(&id)
        }),
        Case::script("update of an unknown container", |stage| {
            stage
                .runtime
                .call(&["update", "--pids-limit", "5", "nobody"])?
                .failure(&["does not exist"])
                .map(drop)
        }),
        Case::script("update --memory that is no size", |stage| {
            let id = stage.waiting()?;
            stage
                .runtime
                .call(&["update", "--memory", "much", &id])?
                .failure(&["memory"])?;
            stage.runtime.delete_by_force(&id)
        }),
    ]);
    cases
}

fn half(text: &str) -> Option<(String, String)> {
    text.split_once('=')
        .map(|(file, value)| (file.to_owned(), value.to_owned()))
}

fn row(number: usize, script: fn(&Stage<'_>) -> Result<()>) -> Case {
    let Some((name, _, controller, v1, v2)) = ROWS.get(number).copied() else {
        return Case::script("update", script);
    };
    let file = |text: &str| half(text).map(|(file, _)| file);
    Case::script(format!("update {name}"), script).needs(Need::CgroupFile {
        controller,
        v1: file(v1),
        v2: file(v2),
    })
}

/// A container with a memory limit of 64 MiB, changed by the row's flags.
fn updated(stage: &Stage<'_>, number: usize) -> Result<()> {
    let (_, flags, controller, v1, v2) = ROWS.get(number).copied().context("a row")?;
    let mut config = spec::docker_like(&["/probe", "wait"]);
    config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20, "swap": 64 << 20 });
    let id = stage.start(&config)?;
    let mut words = vec!["update"];
    words.extend(flags);
    words.push(&id);
    stage.call(&words)?;
    let pid = stage.runtime.pid(&id)?;
    for (version, text) in [(1, v1), (2, v2)] {
        let Some((file, wanted)) = half(text) else {
            continue;
        };
        let place = Place {
            controller,
            version,
            file,
        };
        if let Some(found) = place.read(pid)? {
            ensure!(found == wanted, "{place}: {found:?} instead of {wanted:?}");
        }
    }
    stage.runtime.delete_by_force(&id)
}

/// Changes the limit of processes by a document, from a file or from standard input.
fn resources(stage: &Stage<'_>, flags: &[&str], input: Option<&str>) -> Result<()> {
    let id = stage.waiting()?;
    let mut command = stage.runtime.command(&["update"]);
    command.args(flags).arg(&id);
    if let Some(path) = input {
        command.stdin(fs::File::open(path)?);
    }
    stage.scene.run(command)?.success()?;
    let (_, directory) = directory_of(stage.runtime.pid(&id)?, "pids")?.context("a cgroup")?;
    let limit = fs::read_to_string(directory.join("pids.max"))?;
    ensure!(limit.trim() == "21", "{limit}");
    stage.runtime.delete_by_force(&id)
}
