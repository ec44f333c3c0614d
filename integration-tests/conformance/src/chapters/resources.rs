//! `linux.resources` and `linux.cgroupsPath`, as the kernel's files show them from outside.

use anyhow::{Context, Result, ensure};
use croze_integration_tests::spec;
use serde_json::{Value, json};

use crate::case::Case;
use crate::cgroups::directory_of;
use crate::host::{Host, Need};
use crate::stage::Stage;

pub(super) fn cases(host: &Host) -> Vec<Case> {
    let mut cases = memory();
    cases.extend(cpu());
    cases.extend(other());
    cases.extend(block_io(host));
    cases.extend(unified());
    cases.extend(paths());
    cases
}

fn with(name: &str, field: &str, value: Value) -> Case {
    Case::new(format!("linux.resources.{name}")).set(&format!("/linux/resources/{field}"), value)
}

fn memory() -> Vec<Case> {
    const LIMIT: u64 = 64 << 20;
    vec![
        with("memory.limit", "memory", json!({ "limit": LIMIT })).cgroup(
            "memory",
            "memory.limit_in_bytes=67108864",
            "memory.max=67108864",
        ),
        with("memory.limit -1", "memory", json!({ "limit": -1 })).cgroup(
            "memory",
            "memory.limit_in_bytes=9223372036854771712",
            "memory.max=max",
        ),
        with("memory.reservation", "memory", json!({ "reservation": LIMIT })).cgroup(
            "memory",
            "memory.soft_limit_in_bytes=67108864",
            "memory.low=67108864",
        ),
        with(
            "memory.swap",
            "memory",
            json!({ "limit": LIMIT, "swap": LIMIT * 2 }),
        )
        .cgroup(
            "memory",
            "memory.memsw.limit_in_bytes=134217728",
            "memory.swap.max=67108864",
        ),
        with(
            "memory.swap as large as the limit",
            "memory",
            json!({ "limit": LIMIT, "swap": LIMIT }),
        )
        .cgroup(
            "memory",
            "memory.memsw.limit_in_bytes=67108864",
            "memory.swap.max=0",
        ),
        with("memory.swap -1", "memory", json!({ "limit": LIMIT, "swap": -1 })).cgroup(
            "memory",
            "memory.memsw.limit_in_bytes=9223372036854771712",
            "memory.swap.max=max",
        ),
        with(
            "memory.swap below the limit",
            "memory",
            json!({ "limit": LIMIT, "swap": LIMIT / 2 }),
        )
        .refused(&["swap"]),
        with("memory.swappiness", "memory", json!({ "swappiness": 7 })).cgroup(
            "memory",
            "memory.swappiness=7",
            "",
        ),
        with(
            "memory.disableOOMKiller",
            "memory",
            json!({ "limit": LIMIT, "disableOOMKiller": true }),
        )
        .cgroup(
            "memory",
            "memory.oom_control=oom_kill_disable 1; under_oom 0; oom_kill 0",
            "",
        ),
        with("memory.kernelTCP", "memory", json!({ "kernelTCP": LIMIT })).cgroup(
            "memory",
            "memory.kmem.tcp.limit_in_bytes=67108864",
            "",
        ),
        with("memory.kernel is obsolete", "memory", json!({ "kernel": LIMIT })).reports("/pid", json!(1)),
        with("memory.useHierarchy", "memory", json!({ "useHierarchy": true })).reports("/pid", json!(1)),
        with(
            "memory.checkBeforeUpdate",
            "memory",
            json!({ "limit": LIMIT, "checkBeforeUpdate": true }),
        )
        .reports("/pid", json!(1)),
        with(
            "memory.limit holds",
            "memory",
            json!({ "limit": LIMIT, "swap": LIMIT }),
        )
        .args(&["/probe", "alloc", "128m"])
        .ends(137),
        with("memory.limit too large", "memory", json!({ "limit": "much" })).refused(&["much"]),
    ]
}

fn cpu() -> Vec<Case> {
    vec![
        with("cpu.shares", "cpu", json!({ "shares": 2048 })).cgroup("cpu", "cpu.shares=2048", ""),
        Case::script("linux.resources.cpu.shares as a weight", |stage| {
            let mut config = spec::docker_like(&["/probe", "wait"]);
            config["linux"]["resources"]["cpu"] = json!({ "shares": 10240 });
            let id = stage.start(&config)?;
            let (_, directory) = directory_of(stage.runtime.pid(&id)?, "cpu")?.context("a cgroup")?;
            // Runtimes convert in two ways; the share is above the usual one in both.
            let weight: u64 = std::fs::read_to_string(directory.join("cpu.weight"))?
                .trim()
                .parse()?;
            ensure!((200..=1000).contains(&weight), "{weight}");
            stage.runtime.delete_by_force(&id)
        })
        .needs(Need::Unified),
        with(
            "cpu.quota, cpu.period",
            "cpu",
            json!({ "quota": 20000, "period": 50000 }),
        )
        .cgroup("cpu", "cpu.cfs_quota_us=20000", "cpu.max=20000 50000"),
        with("cpu.period", "cpu", json!({ "period": 50000 })).cgroup(
            "cpu",
            "cpu.cfs_period_us=50000",
            "cpu.max=max 50000",
        ),
        with("cpu.quota -1", "cpu", json!({ "quota": -1, "period": 50000 })).cgroup(
            "cpu",
            "cpu.cfs_quota_us=-1",
            "cpu.max=max 50000",
        ),
        with(
            "cpu.burst",
            "cpu",
            json!({ "quota": 20000, "period": 50000, "burst": 10000 }),
        )
        .cgroup("cpu", "cpu.cfs_burst_us=10000", "cpu.max.burst=10000"),
        with("cpu.idle", "cpu", json!({ "idle": 1 })).cgroup("cpu", "cpu.idle=1", "cpu.idle=1"),
        with("cpu.cpus", "cpu", json!({ "cpus": "0" })).cgroup("cpuset", "cpuset.cpus=0", "cpuset.cpus=0"),
        with("cpu.mems", "cpu", json!({ "mems": "0" })).cgroup("cpuset", "cpuset.mems=0", "cpuset.mems=0"),
        with("cpu.cpus holds", "cpu", json!({ "cpus": "0" }))
            .shell("grep Cpus_allowed_list /proc/self/status | tr -d '\\t'")
            .set("/process/env", json!(["PATH=/bin"]))
            .args(&[
                "/bin/busybox",
                "sed",
                "-n",
                "s/^Cpus_allowed_list:.//p",
                "/proc/self/status",
            ])
            .prints("0"),
        with("cpu.cpus that are not there", "cpu", json!({ "cpus": "4096" })).refused(&["cpuset.cpus"]),
        with(
            "cpu.realtimePeriod, realtimeRuntime",
            "cpu",
            json!({ "realtimePeriod": 1_000_000, "realtimeRuntime": 0 }),
        )
        .cgroup("cpu", "cpu.rt_period_us=1000000", ""),
    ]
}

fn other() -> Vec<Case> {
    vec![
        with("pids.limit", "pids", json!({ "limit": 33 })).cgroup("pids", "pids.max=33", "pids.max=33"),
        with("pids.limit -1", "pids", json!({ "limit": -1 })).cgroup("pids", "pids.max=max", "pids.max=max"),
        with("pids.limit holds", "pids", json!({ "limit": 8 }))
            .shell("/probe forkbomb 50 | grep -c 'refused Resource'")
            .prints("1"),
        with(
            "hugepageLimits",
            "hugepageLimits",
            json!([{ "pageSize": "2MB", "limit": 4_194_304 }]),
        )
        .cgroup(
            "hugetlb",
            "hugetlb.2MB.limit_in_bytes=4194304",
            "hugetlb.2MB.max=4194304",
        ),
        with(
            "hugepageLimits of a size that is not there",
            "hugepageLimits",
            json!([{ "pageSize": "3MB", "limit": 4_194_304 }]),
        )
        .refused(&["3MB"]),
        with("network.classID", "network", json!({ "classID": 1_048_577 })).cgroup(
            "net_cls",
            "net_cls.classid=1048577",
            "",
        ),
        with(
            "network.priorities",
            "network",
            json!({ "priorities": [{ "name": "lo", "priority": 5 }] }),
        )
        .cgroup("net_prio", "net_prio.ifpriomap=lo 5", ""),
        with("rdma", "rdma", json!({ "mlx5_1": { "hcaHandles": 3 } }))
            .needs(Need::Path("/sys/class/infiniband", "RDMA device"))
            .cgroup(
                "rdma",
                "rdma.max=mlx5_1 hca_handle=3 hca_object=max",
                "rdma.max=mlx5_1 hca_handle=3 hca_object=max",
            ),
    ]
}

fn block_io(host: &Host) -> Vec<Case> {
    let disk = host.disk().unwrap_or("0:0").to_owned();
    let (major, minor) = disk.split_once(':').unwrap_or(("0", "0"));
    let (major, minor): (u64, u64) = (major.parse().unwrap_or(0), minor.parse().unwrap_or(0));
    let throttle = |field: &str, rate: u64, v1: &str, v2: &str| {
        with(
            &format!("blockIO.{field}"),
            "blockIO",
            json!({ (field): [{ "major": major, "minor": minor, "rate": rate }] }),
        )
        .needs(Need::Disk)
        .cgroup(
            "blkio",
            &format!("{v1}={disk} {rate}"),
            &format!("io.max={disk} {v2}"),
        )
    };
    vec![
        with("blockIO.weight", "blockIO", json!({ "weight": 300 })).cgroup(
            "blkio",
            "blkio.weight=300",
            "io.weight=default 300",
        ),
        with("blockIO.leafWeight", "blockIO", json!({ "leafWeight": 300 })).cgroup(
            "blkio",
            "blkio.leaf_weight=300",
            "",
        ),
        with(
            "blockIO.weightDevice",
            "blockIO",
            json!({ "weightDevice": [{ "major": major, "minor": minor, "weight": 400 }] }),
        )
        .needs(Need::Disk)
        .cgroup("blkio", &format!("blkio.weight_device={disk} 400"), ""),
        throttle(
            "throttleReadBpsDevice",
            1_048_576,
            "blkio.throttle.read_bps_device",
            "rbps=1048576 wbps=max riops=max wiops=max",
        ),
        throttle(
            "throttleWriteBpsDevice",
            1_048_576,
            "blkio.throttle.write_bps_device",
            "rbps=max wbps=1048576 riops=max wiops=max",
        ),
        throttle(
            "throttleReadIOPSDevice",
            100,
            "blkio.throttle.read_iops_device",
            "rbps=max wbps=max riops=100 wiops=max",
        ),
        throttle(
            "throttleWriteIOPSDevice",
            100,
            "blkio.throttle.write_iops_device",
            "rbps=max wbps=max riops=max wiops=100",
        ),
    ]
}

fn unified() -> Vec<Case> {
    vec![
        with("unified", "unified", json!({ "memory.high": "67108864" }))
            .needs(Need::Unified)
            .cgroup("memory", "", "memory.high=67108864"),
        with(
            "unified several",
            "unified",
            json!({ "pids.max": "77", "memory.min": "1048576" }),
        )
        .needs(Need::Unified)
        .cgroup("pids", "", "pids.max=77"),
        with(
            "unified of a controller that is not there",
            "unified",
            json!({ "dream.max": "1" }),
        )
        .needs(Need::Unified)
        .refused(&["dream"]),
        with("unified with a path", "unified", json!({ "../memory.max": "1" }))
            .needs(Need::Unified)
            .refused(&["unified"]),
    ]
}

/// The directory of a container's cgroup in the hierarchy of pids.
fn place_of(stage: &Stage<'_>, path: &Value, flags: &[&str]) -> Result<String> {
    let mut config = spec::docker_like(&["/probe", "wait"]);
    if !path.is_null() {
        config["linux"]["cgroupsPath"] = path.clone();
    }
    let bundle = stage.bundle(&config)?;
    let id = stage.next_id();
    let mut words = flags.to_vec();
    let directory = bundle.directory().display().to_string();
    words.extend(["run", "--detach", "--bundle", &directory, &id]);
    stage.call(&words)?;
    let (_, directory) = directory_of(stage.runtime.pid(&id)?, "pids")?.context("a cgroup")?;
    stage.runtime.delete_by_force(&id)?;
    ensure!(!directory.exists(), "{} is left", directory.display());
    Ok(directory.display().to_string())
}

fn paths() -> Vec<Case> {
    vec![
        Case::script("linux.cgroupsPath absolute", |stage| {
            let path = stage.scene.cgroup("absolute");
            let found = place_of(stage, &json!(path), &[])?;
            ensure!(found.ends_with(&path), "{found}");
            Ok(())
        }),
        Case::script("linux.cgroupsPath relative", |stage| {
            let path = stage.scene.id("relative");
            let found = place_of(stage, &json!(path), &[])?;
            ensure!(found.ends_with(&path), "{found}");
            Ok(())
        }),
        Case::script("linux.cgroupsPath with a parent that is made", |stage| {
            let path = format!("{}/child", stage.scene.cgroup("parent"));
            let found = place_of(stage, &json!(path), &[])?;
            ensure!(found.ends_with(&path), "{found}");
            let parent = found.trim_end_matches("/child");
            // Whether the parent goes too is the runtime's choice.
            for made in
                croze_integration_tests::cgroup_directories(|path| path.ends_with(stage.scene.id("parent")))
            {
                ensure!(
                    std::fs::read_dir(&made)?
                        .flatten()
                        .all(|entry| !entry.path().is_dir()),
                    "{parent}"
                );
                std::fs::remove_dir(&made)?;
            }
            Ok(())
        }),
        Case::script("linux.cgroupsPath missing", |stage| {
            let found = place_of(stage, &Value::Null, &[])?;
            ensure!(found.contains(&stage.scene.id("c")), "{found}");
            Ok(())
        }),
        Case::script("linux.cgroupsPath by systemd", |stage| {
            let name = stage.scene.id("unit");
            let found = place_of(
                stage,
                &json!(format!("system.slice:croze:{name}")),
                &["--systemd-cgroup"],
            )?;
            ensure!(
                found.contains(&format!("/system.slice/croze-{name}.scope")),
                "{found}"
            );
            Ok(())
        })
        .needs(Need::Systemd),
        Case::script("annotations org.systemd.property.*", |stage| {
            let name = stage.scene.id("property");
            let mut config = spec::docker_like(&["/probe", "wait"]);
            config["linux"]["cgroupsPath"] = json!(format!("system.slice:croze:{name}"));
            config["annotations"] = json!({ "org.systemd.property.Description": "'of the table'" });
            let bundle = stage.bundle(&config)?;
            let id = stage.next_id();
            let directory = bundle.directory().display().to_string();
            stage.call(&["--systemd-cgroup", "run", "--detach", "--bundle", &directory, &id])?;
            let shown = stage.scene.call(&[
                "systemctl",
                "show",
                "--property=Description",
                &format!("croze-{name}.scope"),
            ])?;
            ensure!(shown.text() == "Description=of the table", "{shown}");
            stage.runtime.delete_by_force(&id)
        })
        .needs(Need::Systemd),
    ]
}
