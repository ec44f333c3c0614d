//! The options of a container, between the wire's message and the engine's type: what is read one way is written back the other.

use std::path::PathBuf;

use croze_engine::{
    CgroupView, DeviceMapping, Dns, ExtraHost, IpcMode, NamespaceModes, Options, PidMode, TmpfsMount, Ulimit,
};
use croze_proto::v1;
use tonic::Status;

use crate::decode::given;
use crate::status::invalid;

/// From the wire.
pub(crate) fn decode(message: v1::ContainerOptions) -> Result<Options, Status> {
    let namespaces = namespaces(&message)?;
    let address = |text: &String| {
        text.parse()
            .map_err(|_| invalid(format!("the name server {text:?} is no IP address")))
    };
    Ok(Options {
        tmpfs: message
            .tmpfs
            .into_iter()
            .map(|mount| TmpfsMount {
                target: mount.target,
                options: mount.options,
            })
            .collect(),
        privileged: message.privileged,
        init: message.init,
        runtime: given(message.runtime),
        devices: message
            .devices
            .into_iter()
            .map(|device| DeviceMapping {
                source: PathBuf::from(device.source),
                target: device.target,
                permissions: device.permissions,
            })
            .collect(),
        ulimits: message
            .ulimits
            .into_iter()
            .map(|ulimit| Ulimit {
                name: ulimit.name,
                soft: ulimit.soft,
                hard: ulimit.hard,
            })
            .collect(),
        shm_size_bytes: Some(message.shm_size_bytes).filter(|&bytes| bytes != 0),
        extra_hosts: message
            .extra_hosts
            .iter()
            .map(|text| extra_host(text))
            .collect::<Result<_, _>>()?,
        dns: Dns {
            servers: message
                .dns_servers
                .iter()
                .map(address)
                .collect::<Result<_, _>>()?,
            search: message.dns_search,
            options: message.dns_options,
        },
        group_add: message.group_add,
        security_opt: message.security_opt,
        sysctls: message.sysctls.into_iter().collect(),
        namespaces,
        oom_score_adj: message.oom_score_adj,
        domainname: given(message.domainname),
        annotations: message.annotations.into_iter().collect(),
        storage_opt: message.storage_opt.into_iter().collect(),
    })
}

fn namespaces(message: &v1::ContainerOptions) -> Result<NamespaceModes, Status> {
    let unknown = |what: &str, mode: &str, there_are: &str| {
        Err(invalid(format!(
            "unknown {what} mode {mode:?}: there are {there_are}"
        )))
    };
    let Some(pid) = PidMode::from_text(&message.pid_mode) else {
        return unknown("pid", &message.pid_mode, "private, host and container:NAME");
    };
    let Some(ipc) = IpcMode::from_name(&message.ipc_mode) else {
        return unknown("ipc", &message.ipc_mode, "private, shareable, none and host");
    };
    let host_uts = match message.uts_mode.as_str() {
        "" | "private" => false,
        "host" => true,
        other => return unknown("uts", other, "private and host"),
    };
    let cgroup = match message.cgroupns_mode.as_str() {
        "" => None,
        "private" => Some(CgroupView::Private),
        "host" => Some(CgroupView::Host),
        other => return unknown("cgroupns", other, "private and host"),
    };
    if !matches!(message.userns_mode.as_str(), "" | "host") {
        return unknown(
            "userns",
            &message.userns_mode,
            "host alone, which is what all have",
        );
    }
    Ok(NamespaceModes {
        pid,
        ipc,
        host_uts,
        cgroup,
    })
}

/// `NAME:ADDRESS`; an address of version 6 has colons of its own, and may stand in brackets.
fn extra_host(text: &str) -> Result<ExtraHost, Status> {
    let bad = || {
        invalid(format!(
            "the host {text:?} is malformed: write NAME:ADDRESS with an IP address or host-gateway"
        ))
    };
    let (name, address) = text.split_once(':').ok_or_else(bad)?;
    let bare = address
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(address);
    Ok(ExtraHost {
        name: name.to_owned(),
        address: bare.parse().map_err(|_| bad())?,
    })
}

/// To the wire.
pub(crate) fn encode(options: &Options) -> v1::ContainerOptions {
    let modes = &options.namespaces;
    v1::ContainerOptions {
        tmpfs: options
            .tmpfs
            .iter()
            .map(|mount| v1::TmpfsMount {
                target: mount.target.clone(),
                options: mount.options.clone(),
            })
            .collect(),
        privileged: options.privileged,
        init: options.init,
        runtime: options.runtime.clone().unwrap_or_default(),
        devices: options
            .devices
            .iter()
            .map(|device| v1::Device {
                source: device.source.display().to_string(),
                target: device.target.clone(),
                permissions: device.permissions.clone(),
            })
            .collect(),
        ulimits: options
            .ulimits
            .iter()
            .map(|ulimit| v1::Ulimit {
                name: ulimit.name.clone(),
                soft: ulimit.soft,
                hard: ulimit.hard,
            })
            .collect(),
        shm_size_bytes: options.shm_size_bytes.unwrap_or(0),
        extra_hosts: options
            .extra_hosts
            .iter()
            .map(|host| format!("{}:{}", host.name, host.address))
            .collect(),
        dns_servers: options.dns.servers.iter().map(ToString::to_string).collect(),
        dns_search: options.dns.search.clone(),
        dns_options: options.dns.options.clone(),
        group_add: options.group_add.clone(),
        security_opt: options.security_opt.clone(),
        sysctls: options.sysctls.clone().into_iter().collect(),
        pid_mode: modes.pid.to_text(),
        ipc_mode: modes.ipc.as_str().to_owned(),
        uts_mode: if modes.host_uts { "host" } else { "" }.to_owned(),
        cgroupns_mode: modes
            .cgroup
            .map(|view| view.as_str().to_owned())
            .unwrap_or_default(),
        userns_mode: String::new(),
        oom_score_adj: options.oom_score_adj,
        domainname: options.domainname.clone().unwrap_or_default(),
        annotations: options.annotations.clone().into_iter().collect(),
        storage_opt: options.storage_opt.clone().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> v1::ContainerOptions {
        let text = str::to_owned;
        let pair = |key: &str, value: &str| [(text(key), text(value))].into_iter().collect();
        v1::ContainerOptions {
            tmpfs: vec![v1::TmpfsMount {
                target: text("/t"),
                options: text("size=1m"),
            }],
            privileged: true,
            init: true,
            runtime: text("runc"),
            devices: vec![v1::Device {
                source: text("/dev/fuse"),
                target: text("/dev/mine"),
                permissions: text("rw"),
            }],
            ulimits: vec![v1::Ulimit {
                name: text("nofile"),
                soft: 1,
                hard: -1,
            }],
            shm_size_bytes: 7,
            extra_hosts: vec![text("db:10.0.0.9"), text("six:fd00::1"), text("up:host-gateway")],
            dns_servers: vec![text("1.1.1.1")],
            dns_search: vec![text("lan")],
            dns_options: vec![text("ndots:2")],
            group_add: vec![text("audio")],
            security_opt: vec![text("no-new-privileges")],
            sysctls: pair("net.core.somaxconn", "9"),
            pid_mode: text("container:web"),
            ipc_mode: text("host"),
            uts_mode: text("host"),
            cgroupns_mode: text("private"),
            userns_mode: String::new(),
            oom_score_adj: Some(-7),
            domainname: text("d"),
            annotations: pair("a", "b"),
            storage_opt: pair("size", "10G"),
        }
    }

    #[test]
    fn everything_comes_back() {
        assert_eq!(encode(&decode(everything()).unwrap()), everything());
        let plain = decode(v1::ContainerOptions::default()).unwrap();
        assert_eq!(plain, Options::default());
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        type Change = fn(&mut v1::ContainerOptions);
        let table: [(&str, Change); 7] = [
            ("pid", |o| o.pid_mode = "container:".into()),
            ("ipc", |o| o.ipc_mode = "container:x".into()),
            ("uts", |o| o.uts_mode = "container:x".into()),
            ("cgroupns", |o| o.cgroupns_mode = "x".into()),
            ("userns", |o| o.userns_mode = "auto".into()),
            ("no IP address", |o| o.dns_servers = vec!["one".into()]),
            ("NAME:ADDRESS", |o| o.extra_hosts = vec!["a:gateway".into()]),
        ];
        for (words, change) in table {
            let mut message = everything();
            change(&mut message);
            let status = decode(message).unwrap_err();
            assert!(status.message().contains(words), "{status:?}");
        }
        let bracketed = extra_host("six:[fd00::1]").unwrap();
        assert_eq!(bracketed.address.to_string(), "fd00::1");
    }
}
