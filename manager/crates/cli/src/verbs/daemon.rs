//! `croze daemon`: becomes crozed.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::args::DaemonArgs;
use crate::failure::Failure;

/// Replaces this program by crozed with the given arguments.
pub(super) fn exec(args: &DaemonArgs) -> Result<u8, Failure> {
    let program = beside_this_program().unwrap_or_else(|| PathBuf::from("crozed"));
    let source = Command::new(&program).args(&args.args).exec();
    Err(Failure::io(format!("execute {}", program.display()), source))
}

/// The crozed that was installed with this program; without one, PATH decides.
fn beside_this_program() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name("crozed");
    path.is_file().then_some(path)
}
