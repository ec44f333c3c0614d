//! The verbs: from parsed arguments to calls of the daemon and printed results. One file per group.

mod cidfile;
mod completion;
mod containers;
mod create;
mod daemon;
mod events;
mod exec;
mod host;
mod images;
mod inspect;
mod layers;
mod login;
mod logs;
mod man;
mod networks;
mod operations;
mod options;
mod ps;
mod run;
mod system;

use std::future::Future;

use croze_client::{Client, Endpoint};

use crate::args::{Cli, ImageVerb, Verb};
use crate::failure::{Failure, PLAIN_EXIT_CODE, USAGE_EXIT_CODE};

/// docker's name for the way in which layers are stacked here.
const STORAGE_DRIVER: &str = "overlay2";

/// Does what the command line says. The value is the exit code of a verb that ran to its end.
pub(crate) async fn execute(cli: Cli) -> Result<u8, Failure> {
    let verb = match cli.verb.plain() {
        Verb::Daemon(args) => return daemon::exec(&args),
        Verb::ManPages(args) => return man::write(&args),
        Verb::Version(args) => return system::version(cli.host, &args).await,
        Verb::Completion(args) => return completion::print(args.shell),
        Verb::Logout(args) => return login::logout(&args).await,
        verb => verb,
    };
    // docker's rule: what keeps a command from running is 125, whatever else fails is 1.
    let otherwise = match verb {
        Verb::Run(_) | Verb::Create(_) => USAGE_EXIT_CODE,
        _ => PLAIN_EXIT_CODE,
    };
    let result = match connect(cli.host).await {
        Ok(client) => dispatch(&client, verb).await,
        Err(failure) => Err(failure),
    };
    result.map_err(|failure| failure.of_command(otherwise))
}

async fn dispatch(client: &Client, verb: Verb) -> Result<u8, Failure> {
    client.check_version().await?;
    match verb {
        Verb::Image {
            verb: ImageVerb::Tree(args),
        } => layers::tree(client, &args).await,
        // Done before there is a client, or said otherwise.
        Verb::Daemon(_)
        | Verb::ManPages(_)
        | Verb::Version(_)
        | Verb::Completion(_)
        | Verb::Logout(_)
        | Verb::Container { .. }
        | Verb::Image { .. }
        | Verb::System { .. } => Ok(0),
        Verb::Login(args) => login::login(client, &args).await,
        Verb::Pull(args) => images::pull(client, &args).await,
        Verb::Images(args) => images::list(client, &args).await,
        Verb::Rmi(args) => images::remove(client, &args).await,
        Verb::Run(args) => run::run(client, *args).await,
        Verb::Create(args) => create::create_only(client, args.container).await,
        Verb::Start(args) => run::start(client, &args).await,
        Verb::Attach(args) => run::attach(client, &args).await,
        Verb::Ps(args) => ps::list(client, &args).await,
        Verb::Logs(args) => logs::show(client, &args).await,
        Verb::Exec(args) => exec::exec(client, &args).await,
        Verb::Stop(args) => containers::stop(client, &args).await,
        Verb::Kill(args) => containers::kill(client, &args).await,
        Verb::Rm(args) => containers::remove(client, &args).await,
        Verb::Wait(args) => containers::wait(client, &args).await,
        Verb::Port(args) => networks::port(client, &args).await,
        Verb::Network(args) => networks::network(client, &args.verb).await,
        Verb::Operation(args) => operations::operation(client, &args.verb).await,
        Verb::Inspect(args) => inspect::inspect(client, &args).await,
        Verb::Tag(args) => images::tag(client, &args).await,
        Verb::History(args) => layers::history(client, &args).await,
        Verb::Events(args) => events::show(client, &args).await,
        Verb::Info(args) => system::info(client, &args).await,
    }
}

/// Connects to the daemon that the command line, the environment or the default names.
async fn connect(host: Option<String>) -> Result<Client, Failure> {
    let host = host.or_else(|| std::env::var("CROZE_HOST").ok().filter(|host| !host.is_empty()));
    let endpoint = Endpoint::parse(host.as_deref().unwrap_or(Endpoint::DEFAULT))?;
    Ok(Client::connect(&endpoint).await?)
}

/// Does one call per name and prints what it gives; a name that fails is reported, and the others go on.
async fn for_each_name<F, Fut>(names: &[String], call: F) -> Result<u8, Failure>
where
    F: Fn(String) -> Fut,
    Fut: Future<Output = Result<String, Failure>>,
{
    let mut failed = false;
    for name in names {
        match call(name.clone()).await {
            Ok(line) => crate::output::line(&line)?,
            Err(failure) => {
                failure.print();
                failed = true;
            }
        }
    }
    if failed { Err(Failure::reported()) } else { Ok(0) }
}
