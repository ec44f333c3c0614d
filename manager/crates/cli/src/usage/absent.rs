//! docker's verbs that Croze does not have: whoever types one is told so, and what to do meanwhile, instead of being offered a verb that is
//! spelled alike.

/// A verb of docker's that is not there, what Croze cannot do for want of it, and what to do instead. Two words are a verb below a noun.
const ABSENT: [(&str, &str, &str); 50] = [
    ("build", "build images", BUILD),
    ("buildx", "build images", BUILD),
    ("builder", "build images", BUILD),
    ("push", "push images", ELSEWHERE),
    ("save", "save images as archives", ELSEWHERE),
    ("load", "load images from archives", LOAD),
    ("import", "import file systems as images", LOAD),
    ("export", "export a container's file system", COPY),
    ("commit", "make an image of a container", BUILD),
    (
        "search",
        "search a registry",
        "look at the registry's own page, then `croze pull IMAGE`",
    ),
    ("manifest", "edit manifests", ELSEWHERE),
    (
        "trust",
        "sign images",
        "name an image by its digest (NAME@sha256:…) to be sure what you get",
    ),
    ("cp", "copy files into and out of containers", COPY),
    ("diff", "show what a container changed", COPY),
    (
        "top",
        "list a container's processes",
        "`croze exec CONTAINER ps` does, where the image has ps",
    ),
    (
        "stats",
        "show what containers use",
        "read the container's cgroup below /sys/fs/cgroup; `croze inspect` has its limits",
    ),
    (
        "rename",
        "rename containers",
        "remove it and make it again with another --name",
    ),
    (
        "restart",
        "restart in one step",
        "`croze stop CONTAINER && croze start CONTAINER` does the same",
    ),
    (
        "pause",
        "pause containers",
        "`croze stop` ends one, `croze start` starts it again",
    ),
    (
        "unpause",
        "pause containers",
        "`croze stop` ends one, `croze start` starts it again",
    ),
    (
        "update",
        "change the limits of a container",
        "remove it and make it again with other limits",
    ),
    ("volume", "keep volumes", VOLUME),
    ("volumes", "keep volumes", VOLUME),
    (
        "compose",
        "run compose files",
        "start the containers one by one with `croze run -d`",
    ),
    ("swarm", "run clusters", CLUSTER),
    ("stack", "run clusters", CLUSTER),
    ("service", "run clusters", CLUSTER),
    ("node", "run clusters", CLUSTER),
    ("secret", "run clusters", CLUSTER),
    ("config", "run clusters", CLUSTER),
    (
        "context",
        "switch between contexts",
        "choose a daemon with --host, or with CROZE_HOST in the environment",
    ),
    (
        "plugin",
        "load plugins",
        "Croze has no plugins; its registries, runtimes and networks are set in croze.toml",
    ),
    (
        "checkpoint",
        "freeze a container to disk",
        "`croze stop` ends one, `croze start` starts it anew",
    ),
    ("container prune", "remove all that is not used at once", PRUNE),
    ("image prune", "remove all that is not used at once", PRUNE),
    ("network prune", "remove all that is not used at once", PRUNE),
    ("system prune", "remove all that is not used at once", PRUNE),
    ("prune", "remove all that is not used at once", PRUNE),
    (
        "system df",
        "add up the space in use",
        "`croze info` shows the free space, `croze images` the size of each image",
    ),
    (
        "system dial-stdio",
        "reach a daemon through ssh",
        "forward its socket: ssh -L /tmp/croze.sock:/run/croze/croze.sock HOST",
    ),
    ("network create", "make further networks", NETWORK),
    ("network rm", "make further networks", NETWORK),
    ("network connect", "make further networks", NETWORK),
    ("network disconnect", "make further networks", NETWORK),
    ("image build", "build images", BUILD),
    ("image push", "push images", ELSEWHERE),
    ("image save", "save images as archives", ELSEWHERE),
    ("image load", "load images from archives", LOAD),
    ("scan", "scan images", "scan it where it is built"),
    ("sbom", "list what an image holds", "scan it where it is built"),
];

const BUILD: &str =
    "build elsewhere (buildah, docker) and push to a registry; `croze pull` takes it from there";
const ELSEWHERE: &str = "skopeo copies images between registries, archives and directories";
const LOAD: &str =
    "copy it to a registry (`skopeo copy docker-archive:FILE docker://HOST/NAME`), then `croze pull` it";
const COPY: &str = "`croze exec CONTAINER tar -c PATH >FILE` reads, `croze exec -i CONTAINER tar -x <FILE` writes; or share a directory with -v";
const VOLUME: &str = "share a directory of the host: croze run -v /HOST:/CONTAINER …";
const CLUSTER: &str = "Croze runs the containers of one machine";
const PRUNE: &str =
    "`croze rm $(croze ps -aq)` removes every container that does not run, `croze rmi IMAGE` an image";
const NETWORK: &str = "containers share the network bridge; --network container:NAME shares one container's";

/// What to say of an unknown verb below these nouns (none: at the top), if docker has it: what is missing, and what to do.
pub(super) fn absent(nouns: &[String], verb: &str) -> Option<(String, &'static str)> {
    let find = |name: &str| ABSENT.iter().find(|(absent, ..)| *absent == name);
    let whole = nouns
        .iter()
        .map(String::as_str)
        .chain([verb])
        .collect::<Vec<_>>()
        .join(" ");
    // What may be done with a container or an image may be written without the noun.
    let bare = matches!(nouns, [noun] if noun == "container" || noun == "image").then_some(verb);
    let (_, what, instead) = find(&whole).or_else(|| bare.and_then(find))?;
    Some((
        format!("there is no verb '{whole}': Croze cannot {what} yet"),
        instead,
    ))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn verbs_of_docker_are_known_to_be_missing() {
        for (nouns, verb, said) in [
            (
                &[][..],
                "build",
                Some("there is no verb 'build': Croze cannot build images yet"),
            ),
            (
                &["network"],
                "create",
                Some("there is no verb 'network create': Croze cannot make further networks yet"),
            ),
            (
                &["container"],
                "cp",
                Some(
                    "there is no verb 'container cp': Croze cannot copy files into and out of containers yet",
                ),
            ),
            (&["network"], "cp", None),
            (&[], "rnu", None),
        ] {
            let nouns: Vec<String> = nouns.iter().map(|noun: &&str| (*noun).to_owned()).collect();
            assert_eq!(
                absent(&nouns, verb).map(|(what, _)| what).as_deref(),
                said,
                "{nouns:?} {verb}"
            );
        }
    }

    #[test]
    fn no_verb_that_exists_is_said_to_be_missing() {
        for (name, ..) in ABSENT {
            let mut command = Some(Cli::command());
            for word in name.split(' ') {
                command = command.and_then(|command| command.find_subcommand(word).cloned());
            }
            assert!(command.is_none(), "{name}");
        }
    }
}
