//! The rarer options of `run` and `create`, as the daemon's message has them; files that they name are read here.

use std::fs;
use std::path::Path;

use croze_client::v1::{ContainerOptions, Mount, Resources};

use crate::args::OptionArgs;
use crate::failure::Failure;
use crate::values::{self, MountSpec};

/// The mounts of `--mount` that are bind mounts, and everything else that these arguments ask for.
pub(super) fn options(args: OptionArgs) -> Result<(Vec<Mount>, ContainerOptions), Failure> {
    check(&args)?;
    let mut binds = Vec::new();
    let mut tmpfs = args.tmpfs;
    for mount in args.mount {
        match mount {
            MountSpec::Bind(mount) => binds.push(mount),
            MountSpec::Tmpfs(mount) => tmpfs.push(mount),
        }
    }
    let options = ContainerOptions {
        tmpfs,
        privileged: args.privileged,
        init: args.init,
        runtime: args.runtime.unwrap_or_default(),
        devices: args.device,
        ulimits: args.ulimit,
        shm_size_bytes: args.shm_size.unwrap_or(0),
        extra_hosts: args.add_host,
        dns_servers: args.dns,
        dns_search: args.dns_search,
        dns_options: args.dns_option,
        group_add: args.group_add,
        security_opt: args
            .security_opt
            .into_iter()
            .map(security_option)
            .collect::<Result<_, _>>()?,
        sysctls: args.sysctl.into_iter().collect(),
        pid_mode: args.pid.unwrap_or_default(),
        ipc_mode: args.ipc.unwrap_or_default(),
        uts_mode: args.uts.unwrap_or_default(),
        cgroupns_mode: args.cgroupns.unwrap_or_default(),
        userns_mode: args.userns.unwrap_or_default(),
        oom_score_adj: args.oom_score_adj,
        domainname: args.domainname.unwrap_or_default(),
        annotations: args.annotation.into_iter().collect(),
        storage_opt: args.storage_opt.into_iter().collect(),
    };
    Ok((binds, options))
}

/// The limits among them, over the others.
pub(super) fn limits(args: &OptionArgs, others: Resources) -> Resources {
    Resources {
        memory_reservation_bytes: args.memory_reservation.unwrap_or(0),
        cpuset_mems: args.cpuset_mems.clone().unwrap_or_default(),
        cpu_quota_micros: args.cpu_quota.unwrap_or(0),
        cpu_period_micros: args.cpu_period.unwrap_or(0),
        oom_kill_disable: args.oom_kill_disable,
        ..others
    }
}

/// docker's options that have no meaning here yet: said in words, and not left out in silence.
fn check(args: &OptionArgs) -> Result<(), Failure> {
    if !args.volumes_from.is_empty() {
        return Err(Failure::usage(
            "--volumes-from is not there yet: containers have no volumes",
            Some("bind the same host directory into both with -v"),
        ));
    }
    match args.restart.as_deref() {
        None | Some("no") => Ok(()),
        Some(policy) => Err(Failure::usage(
            format!("--restart {policy} is not there yet: nothing restarts a container but its user"),
            Some("leave it out, or write --restart no"),
        )),
    }
}

/// A security option as the daemon takes it: the profile that a file holds instead of the file's name, which only this machine knows.
fn security_option(option: String) -> Result<String, Failure> {
    let Some(value) = option
        .strip_prefix("seccomp=")
        .or_else(|| option.strip_prefix("seccomp:"))
    else {
        return Ok(option);
    };
    if matches!(value, "unconfined" | "builtin") {
        return Ok(option);
    }
    let text = fs::read_to_string(value)
        .map_err(|source| Failure::io(format!("read the seccomp profile {value}"), source))?;
    Ok(format!("seccomp={text}"))
}

/// The labels of `--label-file`: one per line as for `--label`; see [`values::lines`].
pub(super) fn label_file(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    let text =
        fs::read_to_string(path).map_err(|source| Failure::io(format!("read {}", path.display()), source))?;
    values::lines(&text, values::label)
        .map_err(|reason| Failure::usage(format!("{}: {reason}", path.display()), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_yet_is_said() {
        for args in [
            OptionArgs {
                volumes_from: vec!["web".to_owned()],
                ..OptionArgs::default()
            },
            OptionArgs {
                restart: Some("always".to_owned()),
                ..OptionArgs::default()
            },
        ] {
            assert!(options(args).is_err());
        }
        let no = OptionArgs {
            restart: Some("no".to_owned()),
            ..OptionArgs::default()
        };
        assert_eq!(options(no).unwrap(), (Vec::new(), ContainerOptions::default()));
    }

    #[test]
    fn files_are_read_here() {
        let path = std::env::temp_dir().join(format!("croze-options-{}", std::process::id()));
        fs::write(&path, "\u{feff}# c\n\nA=1\n  B\n").unwrap();
        let labels = label_file(&path).unwrap();
        assert_eq!(
            labels,
            [("A".to_owned(), "1".to_owned()), ("B".to_owned(), String::new())]
        );
        fs::write(&path, "{}").unwrap();
        let named = format!("seccomp={}", path.display());
        assert_eq!(security_option(named.clone()).unwrap(), "seccomp={}");
        fs::write(&path, "A=1\n=2\n").unwrap();
        assert!(label_file(&path).is_err());
        fs::remove_file(&path).unwrap();
        assert!(security_option(named).is_err());
        for kept in ["seccomp=unconfined", "no-new-privileges"] {
            assert_eq!(security_option(kept.to_owned()).unwrap(), kept);
        }
    }
}
