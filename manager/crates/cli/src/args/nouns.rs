//! docker's other way to say the same: `croze container ls` for `croze ps`, `croze image rm` for `croze rmi`.

use clap::Subcommand;

use super::{
    AttachArgs, CreateArgs, EventsArgs, ExecArgs, FormatArgs, HistoryArgs, ImagesArgs, InspectArgs, KillArgs,
    LogsArgs, NamesArgs, ObjectType, PortArgs, PsArgs, PullArgs, RmArgs, RmiArgs, RunArgs, StartArgs,
    StopArgs, TagArgs, TreeArgs, Verb,
};

/// `container …`
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerVerb {
    /// Connect to a running container's streams
    Attach(AttachArgs),
    /// Create a container without starting it
    #[command(disable_help_flag = true)]
    Create(Box<CreateArgs>),
    /// Run a further command in a running container
    Exec(ExecArgs),
    /// Show everything about containers
    Inspect(InspectArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Show what a container printed
    Logs(LogsArgs),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(PsArgs),
    /// List a container's published ports
    Port(PortArgs),
    /// Remove containers
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Create a container from an image and start it
    #[command(disable_help_flag = true)]
    Run(Box<RunArgs>),
    /// Start created or stopped containers
    Start(StartArgs),
    /// Stop containers
    Stop(StopArgs),
    /// Wait until containers have ended, and print their exit codes
    Wait(NamesArgs),
}

/// `image …`
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Show how an image was made, step by step
    History(HistoryArgs),
    /// Show everything about images
    Inspect(InspectArgs),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Fetch an image from a registry
    Pull(PullArgs),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(RmiArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Show the layers of images, their sizes, and which images share them
    Tree(TreeArgs),
}

/// `system …`
#[derive(Debug, Subcommand)]
pub(crate) enum SystemVerb {
    /// Show what happens
    Events(EventsArgs),
    /// Show what the daemon runs on and how much it holds
    Info(FormatArgs),
}

impl Verb {
    /// The verb that a noun's verb is.
    pub(crate) fn plain(self) -> Self {
        match self {
            Self::Container { verb } => verb.into(),
            Self::Image { verb } => verb.into(),
            Self::System { verb } => match verb {
                SystemVerb::Events(args) => Self::Events(args),
                SystemVerb::Info(args) => Self::Info(args),
            },
            verb => verb,
        }
    }
}

impl From<ContainerVerb> for Verb {
    fn from(verb: ContainerVerb) -> Self {
        match verb {
            ContainerVerb::Attach(args) => Self::Attach(args),
            ContainerVerb::Create(args) => Self::Create(args),
            ContainerVerb::Exec(args) => Self::Exec(args),
            ContainerVerb::Inspect(args) => Self::Inspect(InspectArgs {
                kind: Some(ObjectType::Container),
                ..args
            }),
            ContainerVerb::Kill(args) => Self::Kill(args),
            ContainerVerb::Logs(args) => Self::Logs(args),
            ContainerVerb::Ls(args) => Self::Ps(args),
            ContainerVerb::Port(args) => Self::Port(args),
            ContainerVerb::Rm(args) => Self::Rm(args),
            ContainerVerb::Run(args) => Self::Run(args),
            ContainerVerb::Start(args) => Self::Start(args),
            ContainerVerb::Stop(args) => Self::Stop(args),
            ContainerVerb::Wait(args) => Self::Wait(args),
        }
    }
}

impl From<ImageVerb> for Verb {
    fn from(verb: ImageVerb) -> Self {
        match verb {
            ImageVerb::History(args) => Self::History(args),
            ImageVerb::Inspect(args) => Self::Inspect(InspectArgs {
                kind: Some(ObjectType::Image),
                ..args
            }),
            ImageVerb::Ls(args) => Self::Images(args),
            ImageVerb::Pull(args) => Self::Pull(args),
            ImageVerb::Rm(args) => Self::Rmi(args),
            ImageVerb::Tag(args) => Self::Tag(args),
            // There is no shorter word for it.
            ImageVerb::Tree(args) => Self::Image {
                verb: ImageVerb::Tree(args),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn plain(line: &str) -> Verb {
        let words = line.split(' ');
        Cli::try_parse_from(words).unwrap().verb.plain()
    }

    #[test]
    fn nouns_mean_the_plain_verbs() {
        assert!(matches!(
            plain("croze container ls -a"),
            Verb::Ps(PsArgs { all: true, .. })
        ));
        assert!(matches!(plain("croze container list"), Verb::Ps(_)));
        assert!(matches!(
            plain("croze container run --rm i sh -c x"),
            Verb::Run(_)
        ));
        assert!(matches!(plain("croze image rm i"), Verb::Rmi(_)));
        assert!(matches!(plain("croze image tag a b"), Verb::Tag(_)));
        assert!(matches!(plain("croze system info"), Verb::Info(_)));
        for (line, kind) in [
            ("croze container inspect x", Some(ObjectType::Container)),
            ("croze image inspect x", Some(ObjectType::Image)),
            ("croze inspect x", None),
        ] {
            assert!(
                matches!(plain(line), Verb::Inspect(args) if args.kind == kind),
                "{line}"
            );
        }
    }
}
