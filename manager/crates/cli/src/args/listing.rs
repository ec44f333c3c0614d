//! `ps`, `images`, `inspect`: what lists and shows.

use clap::{Args, ValueEnum};

/// `ps`
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten anything
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// What to print: table, json, or a template such as '{{.Names}}: {{.Status}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

/// `images`
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Print only image ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Also show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// What to print: table, json, or a template such as '{{.Repository}}:{{.Tag}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

/// What a name that is inspected may mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectType {
    /// A container
    Container,
    /// An image
    Image,
}

/// `inspect`
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// What to print: json (on one line), or a template such as '{{.State.Status}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Only look for one kind of thing
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub(crate) kind: Option<ObjectType>,
    /// Names, ids or prefixes of ids
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}
