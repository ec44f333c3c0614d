//! docker's flags that Croze does not have: whoever writes one is told what is not there, and what to do instead. None is taken and then not
//! heeded; those whose wish is met as things are (`--no-healthcheck`, `rm -v`) are real flags of their verbs.

/// What `run` and `create` share with docker's, but for these: the flag, what Croze cannot do for want of it, and what to do instead.
const OF_CONTAINERS: [(&str, &str, &str); 46] = [
    ("--attach", "connect single streams", STREAMS),
    ("-a", "connect single streams", STREAMS),
    ("--blkio-weight", "limit the use of disks", DISKS),
    ("--blkio-weight-device", "limit the use of disks", DISKS),
    ("--device-read-bps", "limit the use of disks", DISKS),
    ("--device-read-iops", "limit the use of disks", DISKS),
    ("--device-write-bps", "limit the use of disks", DISKS),
    ("--device-write-iops", "limit the use of disks", DISKS),
    (
        "--cgroup-parent",
        "put containers below a cgroup of your choice",
        "leave it out; each container has a cgroup of its own, with the limits that its flags name",
    ),
    ("--cpu-count", "run Windows containers", WINDOWS),
    ("--cpu-percent", "run Windows containers", WINDOWS),
    ("--io-maxbandwidth", "run Windows containers", WINDOWS),
    ("--io-maxiops", "run Windows containers", WINDOWS),
    ("--isolation", "run Windows containers", WINDOWS),
    ("--cpu-rt-period", "hand out real-time CPU time", REAL_TIME),
    ("--cpu-rt-runtime", "hand out real-time CPU time", REAL_TIME),
    (
        "--device-cgroup-rule",
        "allow devices by rule",
        "name each of them: --device /dev/HOST; --privileged allows all",
    ),
    ("--disable-content-trust", "check docker's signatures", TRUST),
    (
        "--gpus",
        "hand over graphics processors by number",
        "hand over their device files: --device /dev/dri, --device /dev/nvidia0 and so on",
    ),
    ("--health-cmd", "check the health of containers", HEALTH),
    ("--health-interval", "check the health of containers", HEALTH),
    ("--health-on-failure", "check the health of containers", HEALTH),
    ("--health-retries", "check the health of containers", HEALTH),
    (
        "--health-start-interval",
        "check the health of containers",
        HEALTH,
    ),
    ("--health-start-period", "check the health of containers", HEALTH),
    ("--health-timeout", "check the health of containers", HEALTH),
    (
        "--kernel-memory",
        "limit the kernel's memory apart from the rest",
        "leave it out: -m counts the kernel's memory too",
    ),
    ("--link", "give containers names for each other", NAMES),
    ("--network-alias", "give containers names for each other", NAMES),
    ("--net-alias", "give containers names for each other", NAMES),
    (
        "--link-local-ip",
        "choose link-local addresses",
        "--ip and --ip6 ask for addresses of the bridge network",
    ),
    ("--log-driver", "hand what containers print to a log driver", LOGS),
    ("--log-opt", "hand what containers print to a log driver", LOGS),
    (
        "--memory-swappiness",
        "set how readily a container swaps",
        "--memory-swap limits its swap; --memory-swap with the value of -m leaves it none",
    ),
    ("--pod", "group containers into pods", POD),
    ("--pod-id-file", "group containers into pods", POD),
    (
        "--replace",
        "replace the container that has the name",
        "remove that one first: croze rm -f NAME",
    ),
    (
        "--requires",
        "start containers in an order",
        "start those first that others need",
    ),
    (
        "--rootfs",
        "run a directory instead of an image",
        "croze-rt runs a bundle: a directory with a config.json (`croze-rt spec` writes one)",
    ),
    (
        "--secret",
        "keep secrets",
        "bind a file that only its owner can read: -v /HOST/FILE:/run/secrets/NAME:ro",
    ),
    (
        "--subnet",
        "make further networks",
        "containers share the network bridge; croze.toml says which subnet it has",
    ),
    (
        "--systemd",
        "prepare a container for systemd",
        "hand over what it asks for: --tmpfs /run --tmpfs /tmp --stop-signal RTMIN+3",
    ),
    (
        "--use-api-socket",
        "hand over the daemon's socket",
        "bind it: -v /run/croze/croze.sock:/run/croze/croze.sock; whoever has it is as powerful as root",
    ),
    (
        "--volume-driver",
        "keep volumes",
        "share a directory of the host: -v /HOST:/CONTAINER",
    ),
    (
        "--volumes-rw",
        "keep volumes",
        "share a directory of the host: -v /HOST:/CONTAINER",
    ),
    (
        "--variant",
        "choose a variant by itself",
        "--platform names it: linux/arm/v7",
    ),
];

/// Flags of other verbs: the verb (none: before any verb), the flag, what is not there, and what to do instead.
const OF_VERBS: [(&str, &str, &str, &str); 19] = [
    ("pull", "--all-tags", "fetch all tags at once", ALL_TAGS),
    ("pull", "-a", "fetch all tags at once", ALL_TAGS),
    (
        "pull",
        "--disable-content-trust",
        "check docker's signatures",
        TRUST,
    ),
    ("rm", "--link", "give containers names for each other", LINKS),
    ("rm", "-l", "give containers names for each other", LINKS),
    ("rmi", "--no-prune", "keep what an image was built upon", PARENTS),
    ("rmi", "--platform", "remove one platform of an image", PLATFORMS),
    ("network ls", "--filter", "filter networks", NETWORKS),
    ("start", "--checkpoint", "freeze containers to disk", CHECKPOINT),
    (
        "start",
        "--checkpoint-dir",
        "freeze containers to disk",
        CHECKPOINT,
    ),
    ("", "--config", "read docker's client configuration", SETTINGS),
    ("", "--context", "switch between contexts", CONTEXT),
    ("", "-c", "switch between contexts", CONTEXT),
    ("", "--debug", "print debugging messages of the client", DEBUG),
    ("", "-D", "print debugging messages of the client", DEBUG),
    ("", "--log-level", "print debugging messages of the client", DEBUG),
    ("", "-l", "print debugging messages of the client", DEBUG),
    ("", "--tls", "talk to a daemon over TCP", REMOTE),
    ("", "--tlsverify", "talk to a daemon over TCP", REMOTE),
];

const STREAMS: &str = "output and errors are connected unless -d is given, input with -i; the shell can send one of them elsewhere: 2>/dev/null";
const DISKS: &str = "leave it out; memory, CPU time and processes can be limited: -m, --cpus, --pids-limit";
const WINDOWS: &str = "leave it out: it has no meaning on Linux";
const REAL_TIME: &str = "let the command ask the kernel for it (chrt): --cap-add SYS_NICE --ulimit rtprio=10";
const TRUST: &str =
    "leave it out; an image that is named by its digest (NAME@sha256:…) is what you asked for, or refused";
const HEALTH: &str =
    "ask from outside, now and then: croze exec CONTAINER COMMAND ends with the command's code";
const NAMES: &str = "--network container:NAME shares another container's network; --add-host NAME:ADDRESS names an address (`croze inspect` has it)";
const LOGS: &str =
    "leave it out: all of it is kept, `croze logs` prints it, and `croze logs -f` can be piped anywhere";
const POD: &str =
    "--network container:NAME, --pid container:NAME and --ipc container:NAME share what a pod shares";
const ALL_TAGS: &str = "fetch them one by one; `skopeo list-tags docker://NAME` prints which there are";
const LINKS: &str = "there are no links to remove: leave it out";
const PARENTS: &str = "leave it out: images of a build that have no name are not kept";
const PLATFORMS: &str = "leave it out: of each image only one platform is here";
const NETWORKS: &str = "there are few of them: leave it out";
const CHECKPOINT: &str = "leave it out: the container starts anew";
const SETTINGS: &str = "logins are read from $DOCKER_CONFIG (else ~/.docker) too; --host names the daemon";
const CONTEXT: &str = "choose a daemon with --host, or with CROZE_HOST in the environment";
const DEBUG: &str = "the daemon does: crozed --log-level debug";
const REMOTE: &str = "the daemon listens on a unix socket, which ssh can forward: ssh -L /tmp/croze.sock:/run/croze/croze.sock HOST";

/// What to say of an unknown flag of this verb, if docker (or podman) has it: what is missing, and what to do.
pub(super) fn absent(verbs: &[String], flag: &str) -> Option<(String, &'static str)> {
    let whole = verbs.join(" ");
    // What may be done with a container may be written with the noun, and without.
    let verb = whole.strip_prefix("container ").unwrap_or(&whole);
    let (what, instead) = if matches!(verb, "run" | "create") {
        OF_CONTAINERS
            .iter()
            .find(|(absent, ..)| *absent == flag)
            .map(|(_, what, instead)| (what, instead))
    } else {
        OF_VERBS
            .iter()
            .find(|(of, absent, ..)| (*of, *absent) == (verb, flag))
            .map(|(_, _, what, instead)| (what, instead))
    }?;
    let of = format!("croze {whole}");
    let of = of.trim_end();
    Some((format!("'{of}' has no {flag}: Croze cannot {what} yet"), instead))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::args::Cli;
    use crate::usage::{verbs, words};

    fn said(line: &str) -> (String, Option<&'static str>) {
        let line: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let error = Cli::try_parse_from([&["croze".to_owned()], &line[..]].concat()).unwrap_err();
        words(&error, &verbs(line.into_iter()))
    }

    #[test]
    fn flags_of_docker_are_known_to_be_missing() {
        for (line, what) in [
            (
                "run --health-cmd true img",
                "'croze run' has no --health-cmd: Croze cannot check the health of containers yet",
            ),
            (
                "create --log-driver=none img",
                "'croze create' has no --log-driver: Croze cannot hand what containers print to a log driver yet",
            ),
            (
                "run -a stdout img",
                "'croze run' has no -a: Croze cannot connect single streams yet",
            ),
            (
                "container run --gpus all img",
                "'croze container run' has no --gpus: Croze cannot hand over graphics processors by number yet",
            ),
            (
                "pull -a img",
                "'croze pull' has no -a: Croze cannot fetch all tags at once yet",
            ),
            (
                "--context x ps",
                "'croze' has no --context: Croze cannot switch between contexts yet",
            ),
        ] {
            let (said, hint) = said(line);
            assert_eq!(said, what, "{line}");
            assert!(hint.is_some(), "{line}");
        }
        assert_eq!(absent(&["ps".to_owned()], "--link"), None);
    }

    /// What `docker run` of version 28 has.
    const DOCKERS: &str = "\
        add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns cidfile cpu-count cpu-percent \
        cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus cpuset-mems detach detach-keys device \
        device-cgroup-rule device-read-bps device-read-iops device-write-bps device-write-iops disable-content-trust dns dns-option \
        dns-search domainname entrypoint env env-file expose gpus group-add health-cmd health-interval health-retries \
        health-start-interval health-start-period health-timeout help hostname init interactive io-maxbandwidth io-maxiops ip ip6 ipc \
        isolation kernel-memory label label-file link link-local-ip log-driver log-opt mac-address memory memory-reservation memory-swap \
        memory-swappiness mount name network network-alias no-healthcheck oom-kill-disable oom-score-adj pid pids-limit platform \
        privileged publish publish-all pull quiet read-only restart rm runtime security-opt shm-size sig-proxy stop-signal stop-timeout \
        storage-opt sysctl tmpfs tty ulimit use-api-socket user userns uts volume volume-driver volumes-from workdir";

    #[test]
    fn every_flag_of_dockers_run_is_there_or_said_to_be_missing() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for flag in DOCKERS.split_whitespace() {
            let has = run.get_arguments().any(|argument| {
                let names = argument.get_long_and_visible_aliases().unwrap_or_default();
                names.contains(&flag)
            });
            let told = absent(&["run".to_owned()], &format!("--{flag}")).is_some();
            assert!(has != told, "--{flag}: there {has}, told to be missing {told}");
        }
    }

    #[test]
    fn no_flag_that_exists_is_said_to_be_missing() {
        let command = Cli::command();
        let has = |verb: &str, flag: &str| {
            let command = verb
                .split_whitespace()
                .fold(&command, |command, word| command.find_subcommand(word).unwrap());
            command.get_arguments().any(|argument| {
                let long = argument.get_long_and_visible_aliases().unwrap_or_default();
                let short = argument.get_short().map(|short| format!("-{short}"));
                short.as_deref() == Some(flag)
                    || flag.strip_prefix("--").is_some_and(|name| long.contains(&name))
            })
        };
        for (flag, ..) in OF_CONTAINERS {
            assert!(!has("run", flag) && !has("create", flag), "{flag}");
        }
        for (verb, flag, ..) in OF_VERBS {
            assert!(!has(verb, flag), "{verb} {flag}");
        }
    }
}
