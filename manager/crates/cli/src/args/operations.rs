//! `operation` and its verbs.

use clap::{Args, Subcommand};

/// `operation …`
#[derive(Debug, Args)]
pub(crate) struct OperationVerbArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: OperationVerb,
}

/// The verbs on operations.
#[derive(Debug, Subcommand)]
pub(crate) enum OperationVerb {
    /// Cancel operations, whoever began them
    Cancel(OperationsArgs),
    /// List what the daemon is doing for its clients
    #[command(visible_alias = "list")]
    Ls(OperationLsArgs),
    /// Show how far an operation is, until it ends
    Watch(OperationArgs),
}

/// `operation ls`
#[derive(Debug, Args)]
pub(crate) struct OperationLsArgs {
    /// What to print: table, json, or a template such as '{{.ID}} {{.Progress}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Print only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `operation watch`
#[derive(Debug, Args)]
pub(crate) struct OperationArgs {
    /// Id
    #[arg(value_name = "OPERATION")]
    pub(crate) operation: String,
}

/// `operation cancel`
#[derive(Debug, Args)]
pub(crate) struct OperationsArgs {
    /// Ids
    #[arg(required = true, value_name = "OPERATION")]
    pub(crate) operations: Vec<String>,
}
