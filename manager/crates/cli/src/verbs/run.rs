//! `run`, `start` and `attach`: a container in the foreground.
//!
//! The streams are connected before the container starts, so that nothing it prints is missed; signals are forwarded from then on.

use croze_client::v1::{AttachStart, ExitStatus, InspectContainerRequest, StartContainerRequest};
use croze_client::{Client, Error};

use crate::args::{AttachArgs, AttachOptions, RunArgs, StartArgs};
use crate::failure::{Failure, SIGNAL_EXIT_BASE};
use crate::signals::SignalProxy;
use crate::streams::{self, End, Stdin};
use crate::{output, terminal, verbs};

/// `croze run`
pub(super) async fn run(client: &Client, args: RunArgs) -> Result<u8, Failure> {
    if !args.detach {
        check_terminal(args.container.tty, args.container.interactive)?;
    }
    let stdin = stdin_mode(args.container.interactive);
    let writers = if args.detach {
        verbs::create::Stdin::Later
    } else {
        verbs::create::Stdin::Attached
    };
    let created = verbs::create::create(client, args.container, writers, verbs::create::Next::Start).await?;
    if args.detach {
        start_one(client, &created.id).await?;
        output::line(&created.id)?;
        return Ok(0);
    }
    foreground(client, &created.id, stdin, &args.attach, Begin::Start).await
}

/// `croze start`
pub(super) async fn start(client: &Client, args: &StartArgs) -> Result<u8, Failure> {
    if !args.attach && !args.interactive {
        return verbs::for_each_name(&args.containers, |container| async move {
            start_one(client, &container).await?;
            Ok(container)
        })
        .await;
    }
    let [container] = args.containers.as_slice() else {
        return Err(Failure::usage(
            "you cannot start and attach multiple containers at once",
            None,
        ));
    };
    check_terminal(is_tty(client, container).await?, args.interactive)?;
    foreground(
        client,
        container,
        stdin_mode(args.interactive),
        &args.options,
        Begin::Start,
    )
    .await
}

/// `croze attach`
pub(super) async fn attach(client: &Client, args: &AttachArgs) -> Result<u8, Failure> {
    let request = InspectContainerRequest {
        container: args.container.clone(),
        ..InspectContainerRequest::default()
    };
    let container = client
        .containers()
        .inspect_container(request)
        .await
        .map_err(Error::from)?
        .into_inner();
    let stdin = stdin_mode(container.open_stdin && !args.no_stdin);
    check_terminal(container.tty, stdin == Stdin::Forward)?;
    foreground(client, &args.container, stdin, &args.options, Begin::Join).await
}

/// What a foreground begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// The container is started once its streams are connected.
    Start,
    /// The container runs.
    Join,
}

/// Attaches, starts the container if that is wanted, and stays until it ends.
async fn foreground(
    client: &Client,
    container: &str,
    stdin: Stdin,
    options: &AttachOptions,
    begin: Begin,
) -> Result<u8, Failure> {
    let request = AttachStart {
        container: container.to_owned(),
        stdin: stdin == Stdin::Forward,
        before_start: begin == Begin::Start,
        // Only used where the container has a terminal, which then has its size before the program looks.
        size: terminal::size(),
    };
    let session = streams::attach(client, request).await?;
    let proxy = (options.sig_proxy && !session.tty)
        .then(|| SignalProxy::start(client, &session.id))
        .transpose()?;
    if begin == Begin::Start {
        start_one(client, container).await?;
    }
    match session.run(stdin, &options.detach_keys, proxy).await? {
        End::Exited(status) => Ok(exit_code(&status)),
        End::Detached => {
            output::notice("read escape sequence");
            Ok(0)
        }
        End::Signalled(number) => Ok(SIGNAL_EXIT_BASE + number),
    }
}

async fn start_one(client: &Client, container: &str) -> Result<(), Failure> {
    let request = StartContainerRequest {
        container: container.to_owned(),
    };
    client
        .containers()
        .start_container(request)
        .await
        .map_err(Error::from)?;
    Ok(())
}

async fn is_tty(client: &Client, container: &str) -> Result<bool, Failure> {
    let request = InspectContainerRequest {
        container: container.to_owned(),
        ..InspectContainerRequest::default()
    };
    Ok(client
        .containers()
        .inspect_container(request)
        .await
        .map_err(Error::from)?
        .into_inner()
        .tty)
}

/// What is done with standard input.
pub(super) fn stdin_mode(interactive: bool) -> Stdin {
    if interactive {
        Stdin::Forward
    } else {
        Stdin::Ignore
    }
}

/// A terminal inside wants keys from a terminal outside.
pub(super) fn check_terminal(tty: bool, interactive: bool) -> Result<(), Failure> {
    if tty && interactive && !terminal::stdin_is_terminal() {
        return Err(Failure::usage(
            "the input device is not a TTY",
            Some("leave out -t when standard input is a file or a pipe"),
        ));
    }
    Ok(())
}

/// The exit code to end with; a process cannot end with more than 255.
pub(super) fn exit_code(status: &ExitStatus) -> u8 {
    u8::try_from(status.code).unwrap_or(u8::MAX)
}
