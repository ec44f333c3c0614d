//! `croze man-pages DIR`: `croze.1`, and `croze-VERB.1` for each verb that is shown, made from the same definitions as `--help`.

use clap::CommandFactory as _;

use crate::args::{Cli, ManPagesArgs};
use crate::failure::Failure;

/// Writes the pages.
pub(crate) fn write(args: &ManPagesArgs) -> Result<u8, Failure> {
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &args.dir)
        .map_err(|source| Failure::io(format!("write manual pages into {}", args.dir.display()), source))?;
    Ok(0)
}
