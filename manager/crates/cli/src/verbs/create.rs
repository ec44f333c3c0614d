//! `create`, and the half of it that `run` shares: arguments become the daemon's request, a missing image is fetched.

use std::collections::HashMap;

use croze_client::v1::{
    CreateContainerRequest, CreateContainerResponse, Entrypoint, ErrorKind, PullResult, ResolveImageRequest,
    Resources,
};
use croze_client::{Client, Error};

use crate::args::{ContainerArgs, PullPolicy};
use crate::failure::Failure;
use crate::progress::Shown;
use crate::verbs::cidfile::CidFile;
use crate::verbs::images::{self, Source};
use crate::verbs::{networks, options};
use crate::{output, values};

/// `croze create`
pub(super) async fn create_only(client: &Client, args: ContainerArgs) -> Result<u8, Failure> {
    let created = create(client, args, Stdin::Attached, Next::Nothing).await?;
    output::line(&created.id)?;
    Ok(0)
}

/// Who writes to the standard input of a container that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stdin {
    /// One client that is attached from the start: the input ends with it.
    Attached,
    /// Whoever attaches later, one after the other: the input never ends.
    Later,
}

/// What the caller does with the container that it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It leaves it as it is.
    Nothing,
    /// It starts it: should it not come to that, nobody wants a container that removes itself.
    Start,
}

/// Makes the container, after its image was fetched where the policy says so.
pub(super) async fn create(
    client: &Client,
    args: ContainerArgs,
    stdin: Stdin,
    next: Next,
) -> Result<CreateContainerResponse, Failure> {
    let (policy, creds, quiet) = (args.pull, args.creds.clone(), args.quiet);
    let cidfile = args.options.cidfile.clone();
    if let Some(path) = &cidfile {
        // Before an image is fetched for nothing.
        CidFile::check(path)?;
    }
    let mut request = request(args, stdin)?;
    request.start_follows = next == Next::Start;
    let source = Source {
        image: &request.image,
        platform: given(&request.platform),
        creds: creds.as_deref(),
    };
    ensure_image(client, &source, policy, quiet).await?;
    // Only now: whoever interrupts the pull finds no empty file, which would stand in the way of the next attempt.
    let cidfile = cidfile.as_deref().map(CidFile::reserve).transpose()?;
    let created = client
        .containers()
        .create_container(request)
        .await
        .map_err(Error::from)?
        .into_inner();
    for warning in &created.warnings {
        output::notice(&format!("warning: {warning}"));
    }
    if let Some(file) = cidfile {
        file.write(&created.id)?;
    }
    Ok(created)
}

fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

async fn ensure_image(
    client: &Client,
    source: &Source<'_>,
    policy: PullPolicy,
    quiet: bool,
) -> Result<(), Failure> {
    let image = source.image;
    match policy {
        PullPolicy::Never => return Ok(()),
        PullPolicy::Always => {}
        PullPolicy::Missing => match here(client, source).await? {
            Here::Fitting => return Ok(()),
            Here::Other => {}
            Here::Missing if quiet => {}
            Here::Missing => output::notice(&format!("Unable to find image '{image}' locally")),
        },
        PullPolicy::Newer => {
            if here(client, source).await? == Here::Fitting {
                return refresh(client, source, quiet).await;
            }
        }
    }
    let shown = if quiet { Shown::Nothing } else { Shown::Everything };
    let result = images::fetch(client, source, shown).await?;
    tell(&result, quiet);
    Ok(())
}

/// Which image of the name is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Here {
    /// One that will do.
    Fitting,
    /// One for another platform than the one that is asked for, which is as good as none.
    Other,
    /// None.
    Missing,
}

async fn here(client: &Client, source: &Source<'_>) -> Result<Here, Failure> {
    let request = ResolveImageRequest {
        image: source.image.to_owned(),
    };
    match client.images().resolve_image(request).await.map_err(Error::from) {
        Ok(resolved) => Ok(match source.platform {
            Some(wanted) if resolved.get_ref().platform != wanted => Here::Other,
            _ => Here::Fitting,
        }),
        Err(error) if error.kind() == Some(ErrorKind::NotFound) => Ok(Here::Missing),
        Err(error) => Err(error.into()),
    }
}

/// Fetches what the registry has by now. If it cannot be asked, or has no answer for us, what is here is used, and the user told; whatever else goes
/// wrong is an error: a full disk, damaged content, a pull that somebody cancelled.
async fn refresh(client: &Client, source: &Source<'_>, quiet: bool) -> Result<(), Failure> {
    let shown = if quiet { Shown::Nothing } else { Shown::Arrivals };
    match images::fetch(client, source, shown).await {
        Ok(result) if result.up_to_date => {}
        Ok(result) => tell(&result, quiet),
        // Where this program itself was interrupted, or cannot reach the daemon, there is no kind.
        Err(failure) if failure.kind().is_some_and(is_the_registrys) => {
            output::notice(&format!(
                "warning: cannot see whether there is a newer {}, going on with the one that is here: {}",
                source.image,
                failure.message()
            ));
        }
        Err(failure) => return Err(failure),
    }
    Ok(())
}

/// Whether a pull that fails with this found no registry that would say what it has.
fn is_the_registrys(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unavailable
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::NotFound
            | ErrorKind::DeadlineExceeded
    )
}

fn tell(result: &PullResult, quiet: bool) {
    if quiet {
        return;
    }
    output::notice(&format!(
        "{}: {}",
        result.reference,
        crate::progress::summary(result)
    ));
}

/// The daemon's request for these arguments.
fn request(args: ContainerArgs, stdin: Stdin) -> Result<CreateContainerRequest, Failure> {
    let env = environment(&args.env, &args.env_file)?;
    let mut labels = HashMap::new();
    for file in &args.options.label_file {
        labels.extend(options::label_file(file)?);
    }
    labels.extend(args.label);
    let limits = options::limits(
        &args.options,
        Resources {
            memory_bytes: args.memory.unwrap_or(0),
            memory_swap_bytes: args.memory_swap.unwrap_or(0),
            nano_cpus: args.cpus.unwrap_or(0),
            pids_limit: args.pids_limit.unwrap_or(0),
            cpu_shares: args.cpu_shares.unwrap_or(0),
            cpuset_cpus: args.cpuset_cpus.unwrap_or_default(),
            ..Resources::default()
        },
    );
    let (binds, options) = options::options(args.options)?;
    let mut words = args.words.into_iter();
    let image = words.next().unwrap_or_default();
    Ok(CreateContainerRequest {
        image,
        name: args.name.unwrap_or_default(),
        command: words.collect(),
        entrypoint: args.entrypoint.map(|text| Entrypoint {
            words: values::entrypoint(&text),
        }),
        env,
        working_dir: args.workdir.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        hostname: args.hostname.unwrap_or_default(),
        tty: args.tty,
        open_stdin: args.interactive,
        stdin_once: args.interactive && stdin == Stdin::Attached,
        mounts: args.volume.into_iter().chain(binds).collect(),
        network_options: Some(networks::options(&args.network)),
        network: args.network.network.unwrap_or_default(),
        resources: Some(limits),
        auto_remove: args.rm,
        labels,
        stop_signal: args.stop_signal.unwrap_or_default(),
        stop_timeout_seconds: args.stop_timeout,
        cap_add: args.cap_add,
        cap_drop: args.cap_drop,
        read_only: args.read_only,
        platform: args.platform.unwrap_or_default(),
        options: Some(options),
        start_follows: false,
    })
}

/// The variables of `--env-file` and `-e`, the latter last so that they win.
pub(super) fn environment(
    variables: &[String],
    files: &[std::path::PathBuf],
) -> Result<Vec<String>, Failure> {
    let lookup = |name: &str| std::env::var_os(name);
    let mut env = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file)
            .map_err(|source| Failure::io(format!("read {}", file.display()), source))?;
        let read = values::env_file(&text, lookup).map_err(|reason| {
            let said = format!("invalid env file ({}): {reason}", file.display());
            Failure::usage(
                said,
                Some("each line is NAME=value, NAME alone, or a comment after #"),
            )
        })?;
        env.extend(read);
    }
    for variable in variables {
        let value = values::env(variable, lookup)
            .map_err(|reason| Failure::usage(reason, Some("write NAME=value, or NAME")))?;
        env.push(value);
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use croze_client::v1::ContainerOptions;

    use croze_client::v1::NetworkOptions;

    use super::*;
    use crate::args::{Cli, Verb};

    fn parse(line: &[&str]) -> CreateContainerRequest {
        let Verb::Create(args) = Cli::try_parse_from(["croze", "create"].iter().chain(line))
            .unwrap()
            .verb
        else {
            panic!("not create");
        };
        request(args.container, Stdin::Attached).unwrap()
    }

    #[test]
    fn input_ends_with_its_first_client_only_if_that_is_there_from_the_start() {
        for (stdin, once) in [(Stdin::Attached, true), (Stdin::Later, false)] {
            let Verb::Create(args) = Cli::try_parse_from(["croze", "create", "-i", "img"])
                .unwrap()
                .verb
            else {
                panic!("not create");
            };
            let request = request(args.container, stdin).unwrap();
            assert_eq!((request.open_stdin, request.stdin_once), (true, once));
        }
    }

    #[test]
    fn arguments_become_the_request() {
        let request = parse(&[
            "-it",
            "--rm",
            "--name",
            "n",
            "-e",
            "A=1",
            "-w",
            "/w",
            "-u",
            "1",
            "-m",
            "64m",
            "--cpus",
            "0.5",
            "--pids-limit",
            "64",
            "--hostname",
            "h",
            "--entrypoint",
            "",
            "--network",
            "host",
            "img",
            "sh",
            "-c",
            "x",
        ]);
        let expected = CreateContainerRequest {
            image: "img".to_owned(),
            name: "n".to_owned(),
            command: vec!["sh".to_owned(), "-c".to_owned(), "x".to_owned()],
            entrypoint: Some(Entrypoint { words: Vec::new() }),
            env: vec!["A=1".to_owned()],
            working_dir: "/w".to_owned(),
            user: "1".to_owned(),
            hostname: "h".to_owned(),
            tty: true,
            open_stdin: true,
            stdin_once: true,
            network: "host".to_owned(),
            network_options: Some(NetworkOptions::default()),
            resources: Some(Resources {
                memory_bytes: 64 << 20,
                nano_cpus: 500_000_000,
                pids_limit: 64,
                ..Resources::default()
            }),
            auto_remove: true,
            options: Some(ContainerOptions::default()),
            ..CreateContainerRequest::default()
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn no_entrypoint_is_not_an_empty_one() {
        assert_eq!(parse(&["img"]).entrypoint, None);
        assert_eq!(
            parse(&["--entrypoint", "/x", "img"]).entrypoint,
            Some(Entrypoint {
                words: vec!["/x".to_owned()]
            })
        );
    }
}
