//! `exec`.

use croze_client::Client;
use croze_client::v1::ExecStart;

use crate::args::ExecArgs;
use crate::failure::{Failure, SIGNAL_EXIT_BASE};
use crate::streams::{self, End};
use crate::terminal;
use crate::verbs::{create, run};

/// `croze exec`
pub(super) async fn exec(client: &Client, args: &ExecArgs) -> Result<u8, Failure> {
    if !args.detach {
        run::check_terminal(args.tty, args.interactive)?;
    }
    let session = streams::exec(client, request(args)?).await?;
    if args.detach {
        return Ok(0);
    }
    match session
        .run(run::stdin_mode(args.interactive), &args.detach_keys, None)
        .await?
    {
        End::Exited(status) => Ok(run::exit_code(&status)),
        End::Detached => Ok(0),
        End::Signalled(number) => Ok(SIGNAL_EXIT_BASE + number),
    }
}

fn request(args: &ExecArgs) -> Result<ExecStart, Failure> {
    let (container, command) = match args.words.split_first() {
        Some((container, command)) if !command.is_empty() => (container.clone(), command.to_vec()),
        _ => return Err(Failure::usage("a container and a command are needed", None)),
    };
    Ok(ExecStart {
        container,
        command,
        env: create::environment(&args.env, &args.env_file)?,
        working_dir: args.workdir.clone().unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
        privileged: args.privileged,
        tty: args.tty,
        stdin: args.interactive && !args.detach,
        detach: args.detach,
        size: if args.tty { terminal::size() } else { None },
    })
}
