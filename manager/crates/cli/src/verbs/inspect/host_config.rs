//! `HostConfig`: what a container was asked to be, in docker's words.

use std::collections::BTreeMap;

use croze_client::v1::{ContainerOptions, InspectContainerResponse, Mount, Resources};
use serde_json::{Value as Json, json};

use super::container::{or_null, sorted};
use crate::verbs::networks;

/// Bytes of `/dev/shm` unless somebody asked for others.
const SHM_BYTES: u64 = 64 << 20;

/// The object.
pub(super) fn host_config(response: &InspectContainerResponse) -> Json {
    let wanted = response.network_options.clone().unwrap_or_default();
    let limits = response.resources.clone().unwrap_or_default();
    let options = response.options.clone().unwrap_or_default();
    let binds: Vec<String> = response.mounts.iter().map(bind).collect();
    let shm = Some(options.shm_size_bytes).filter(|&bytes| bytes != 0);
    let ipc = Some(options.ipc_mode.as_str()).filter(|mode| !mode.is_empty());
    let mut config = json!({
        "Binds": or_null(&binds),
        "ContainerIDFile": "",
        "LogConfig": {"Type": "json-file", "Config": {}},
        "NetworkMode": response.network,
        "PortBindings": networks::bindings(&wanted),
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": response.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": null,
        "CapAdd": or_null(&response.cap_add),
        "CapDrop": or_null(&response.cap_drop),
        "CgroupnsMode": options.cgroupns_mode,
        "Dns": options.dns_servers,
        "DnsOptions": options.dns_options,
        "DnsSearch": options.dns_search,
        "ExtraHosts": or_null(&options.extra_hosts),
        "GroupAdd": or_null(&options.group_add),
        "IpcMode": ipc.unwrap_or("private"),
        "Cgroup": "",
        "Links": null,
        "OomScoreAdj": options.oom_score_adj.unwrap_or(0),
        "PidMode": options.pid_mode,
        "Privileged": options.privileged,
        "PublishAllPorts": wanted.publish_all,
        "ReadonlyRootfs": response.read_only,
        "SecurityOpt": or_null(&options.security_opt),
        "UTSMode": options.uts_mode,
        "UsernsMode": options.userns_mode,
        "ShmSize": shm.unwrap_or(SHM_BYTES),
        "Runtime": response.runtime,
        "ConsoleSize": [0, 0],
        "Isolation": "",
    });
    if let (Json::Object(all), Json::Object(limits)) = (&mut config, resources(&limits, &options)) {
        all.extend(limits);
        all.extend(where_asked_for(&options));
    }
    config
}

/// What docker leaves out where nobody asked for it.
fn where_asked_for(options: &ContainerOptions) -> serde_json::Map<String, Json> {
    let mut some = serde_json::Map::new();
    if options.init {
        some.insert("Init".to_owned(), json!(true));
    }
    if !options.tmpfs.is_empty() {
        let mounts: BTreeMap<_, _> = options
            .tmpfs
            .iter()
            .map(|mount| (&mount.target, &mount.options))
            .collect();
        some.insert("Tmpfs".to_owned(), json!(mounts));
    }
    for (name, pairs) in [
        ("Sysctls", &options.sysctls),
        ("Annotations", &options.annotations),
        ("StorageOpt", &options.storage_opt),
    ] {
        if !pairs.is_empty() {
            some.insert(name.to_owned(), sorted(pairs));
        }
    }
    some
}

/// The limits, which docker has among the host's settings.
fn resources(limits: &Resources, options: &ContainerOptions) -> Json {
    let pids_limit = Some(limits.pids_limit).filter(|&limit| limit != 0);
    let devices: Vec<Json> = options
        .devices
        .iter()
        .map(|device| {
            json!({
                "PathOnHost": device.source,
                "PathInContainer": device.target,
                "CgroupPermissions": device.permissions,
            })
        })
        .collect();
    let ulimits: Vec<Json> = options
        .ulimits
        .iter()
        .map(|ulimit| json!({"Name": ulimit.name, "Hard": ulimit.hard, "Soft": ulimit.soft}))
        .collect();
    json!({
        "CpuShares": limits.cpu_shares,
        "Memory": limits.memory_bytes,
        "NanoCpus": limits.nano_cpus,
        "CgroupParent": "",
        "BlkioWeight": 0,
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": null,
        "BlkioDeviceWriteBps": null,
        "BlkioDeviceReadIOps": null,
        "BlkioDeviceWriteIOps": null,
        "CpuPeriod": limits.cpu_period_micros,
        "CpuQuota": limits.cpu_quota_micros,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": limits.cpuset_mems,
        "Devices": devices,
        "DeviceCgroupRules": null,
        "DeviceRequests": null,
        "KernelMemory": 0,
        "KernelMemoryTCP": 0,
        "MemoryReservation": limits.memory_reservation_bytes,
        "MemorySwap": limits.memory_swap_bytes,
        "MemorySwappiness": null,
        "OomKillDisable": limits.oom_kill_disable,
        "PidsLimit": pids_limit,
        "Ulimits": if ulimits.is_empty() { Json::Null } else { json!(ulimits) },
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    })
}

/// A mount as `-v` takes it.
fn bind(mount: &Mount) -> String {
    let mut options = Vec::new();
    if mount.read_only {
        options.push("ro");
    }
    if !mount.propagation.is_empty() {
        options.push(&mount.propagation);
    }
    let mut text = format!("{}:{}", mount.source, mount.target);
    if !options.is_empty() {
        text.push(':');
        text.push_str(&options.join(","));
    }
    text
}

#[cfg(test)]
mod tests {
    use croze_client::v1::{Device, TmpfsMount, Ulimit};

    use super::*;

    #[test]
    fn what_was_asked_for_is_shown_in_dockers_words() {
        let text = str::to_owned;
        let value = host_config(&InspectContainerResponse {
            cap_add: vec![text("NET_ADMIN")],
            read_only: true,
            runtime: text("runc"),
            resources: Some(Resources {
                cpu_quota_micros: 5000,
                memory_reservation_bytes: 7,
                ..Resources::default()
            }),
            options: Some(ContainerOptions {
                privileged: true,
                init: true,
                tmpfs: vec![TmpfsMount {
                    target: text("/t"),
                    options: text("size=1m"),
                }],
                devices: vec![Device {
                    source: text("/dev/a"),
                    target: text("/dev/b"),
                    permissions: text("r"),
                }],
                ulimits: vec![Ulimit {
                    name: text("nofile"),
                    soft: 1,
                    hard: 2,
                }],
                pid_mode: text("host"),
                sysctls: [(text("net.core.somaxconn"), text("9"))].into_iter().collect(),
                storage_opt: [(text("size"), text("10G"))].into_iter().collect(),
                ..ContainerOptions::default()
            }),
            ..InspectContainerResponse::default()
        });
        for (name, expected) in [
            ("CapAdd", json!(["NET_ADMIN"])),
            ("CapDrop", Json::Null),
            ("ReadonlyRootfs", json!(true)),
            ("Privileged", json!(true)),
            ("Init", json!(true)),
            ("Runtime", json!("runc")),
            ("Tmpfs", json!({"/t": "size=1m"})),
            (
                "Devices",
                json!([{"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}]),
            ),
            ("Ulimits", json!([{"Name": "nofile", "Hard": 2, "Soft": 1}])),
            ("PidMode", json!("host")),
            ("IpcMode", json!("private")),
            ("ShmSize", json!(67_108_864)),
            ("Sysctls", json!({"net.core.somaxconn": "9"})),
            ("StorageOpt", json!({"size": "10G"})),
            ("CpuQuota", json!(5000)),
            ("MemoryReservation", json!(7)),
        ] {
            assert_eq!(value[name], expected, "{name}");
        }
        let plain = host_config(&InspectContainerResponse::default());
        for name in ["Init", "Tmpfs", "Sysctls", "Annotations", "StorageOpt"] {
            assert!(plain.get(name).is_none(), "{name}");
        }
        assert_eq!(plain["Ulimits"], Json::Null);
    }
}
