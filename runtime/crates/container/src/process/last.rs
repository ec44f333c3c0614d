//! What every process of a container does last, be it the first or an added one.
//!
//! ```text
//! session keyring is set, mounts are done, the root is the container's
//!   ├ HOME                  looked up in the container if the environment has none
//!   ├ descriptors           all but those that are passed on become close-on-exec
//!   ├ labels                written, take effect with execve
//!   ├ limits                now that nothing is opened any more: one for few descriptors would hit the above
//!   ├ filter (a)            if the process may gain privileges: loading needs CAP_SYS_ADMIN, which goes next
//!   ├ identity              groups, ids, capabilities
//!   ├ working directory     entered as that user, and checked to be inside
//!   ├ command               looked up as that user
//!   └ filter (b)            otherwise: as late as possible, so that it need not allow any of the above
//! ```

use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::path::Path;

use croze_sys::{Errno, fd, process, seccomp, signal};
use rustix::fs::{FileType, Mode, OFlags};

use crate::error::{Error, Result, While};
use crate::limits::Limit;
use crate::plan::ProcessPlan;
use crate::process::command::{self, Command};
use crate::process::protocol::{ChildEnd, ToParent};
use crate::security;
use crate::spec::SpecError;

/// The file that says where users are at home, and how much of it is read.
const PASSWD: &str = "/etc/passwd";
const PASSWD_LIMIT: u64 = 1 << 20;

/// Takes on everything that the plan says; returns the command, ready to be executed.
///
/// # Errors
/// What could not be taken on, and why; or that the command is not there.
pub fn prepare(plan: &ProcessPlan, proc: &OwnedFd, parent: &ChildEnd) -> Result<Command, LastError> {
    signal::reset_for_exec().while_doing(|| "reset the signals".to_owned())?;
    let env = environment(plan);
    rustix::process::umask(Mode::from_raw_mode(plan.user.umask));
    pass_descriptors(plan.preserve_fds, proc)?;
    security::set_exec_labels(proc.as_fd(), &plan.labels)?;
    plan.limits.iter().try_for_each(Limit::take)?;
    plan.scheduling.take()?;
    if let Some(personality) = plan.personality {
        process::set_personality(personality).while_doing(|| "set linux.personality".to_owned())?;
    }
    // A directory that only root may enter is entered now, one that only the user may enter afterwards. It is looked at before there is a
    // filter, which may forbid to ask for its name.
    let entered = rustix::process::chdir(&plan.cwd);
    if entered.is_ok() {
        check_inside(&plan.cwd)?;
    }
    if plan.no_new_privileges {
        process::set_no_new_privileges().while_doing(|| "set process.noNewPrivileges".to_owned())?;
    } else {
        load_filter(plan, parent)?;
    }
    security::give_stdio(plan.user.uid);
    security::take_identity(&plan.user, &plan.capabilities)?;
    // A change of ids makes a process as traceable as the host's fs.suid_dumpable says.
    process::set_dumpable(false).while_doing(|| "stay untraceable".to_owned())?;
    if entered.is_err() {
        rustix::process::chdir(&plan.cwd).map_err(|errno| Error::File {
            action: "enter process.cwd",
            path: plan.cwd.clone(),
            source: errno.into(),
        })?;
        check_inside(&plan.cwd)?;
    }
    let command = command::find(&plan.args, &env)?;
    if plan.no_new_privileges {
        load_filter(plan, parent)?;
    }
    Ok(command)
}

/// Why a process could not get ready.
#[derive(Debug, thiserror::Error)]
pub enum LastError {
    /// A step before the command.
    #[error(transparent)]
    Step(#[from] Error),
    /// The command.
    #[error(transparent)]
    Command(#[from] command::CommandError),
}

/// The spec's environment, each variable once, with a `HOME` if it has none.
fn environment(plan: &ProcessPlan) -> Vec<String> {
    let mut env = without_repeats(&plan.env);
    if command::variable(&env, "HOME").is_none_or(str::is_empty) {
        env.retain(|pair| !pair.starts_with("HOME="));
        env.push(format!("HOME={}", home_of(plan.user.uid)));
    }
    env
}

/// The last value of each variable: a program would find the first one, and callers append what they want to replace.
fn without_repeats(env: &[String]) -> Vec<String> {
    fn name(pair: &str) -> &str {
        pair.split_once('=').map_or(pair, |(name, _)| name)
    }
    let mut kept: Vec<String> = Vec::with_capacity(env.len() + 1);
    for pair in env {
        match kept.iter_mut().find(|old| name(old) == name(pair)) {
            Some(old) => pair.clone_into(old),
            None => kept.push(pair.clone()),
        }
    }
    kept
}

/// The home of a user by the container's own list. The list is the image's: what it says of a user concerns that user alone, and it
/// is read only so far.
fn home_of(uid: u32) -> String {
    read_list(Path::new(PASSWD))
        .and_then(|text| home_in(&text, uid).map(str::to_owned))
        .unwrap_or_else(|| "/".to_owned())
}

/// Reads a regular file of the image; anything else that may stand there (a pipe that nobody writes to, a device) is neither waited for
/// nor read. It is looked at before it is opened, because opening a device can do something, and again afterwards.
fn read_list(path: &Path) -> Option<String> {
    use std::io::Read;
    let is_regular = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    rustix::fs::stat(path).ok().filter(|stat| is_regular(*stat))?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    rustix::fs::fstat(&file).ok().filter(|stat| is_regular(*stat))?;
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(PASSWD_LIMIT)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn home_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let found: u32 = fields.next()?.parse().ok()?;
        let home = fields.nth(2)?;
        (found == uid && home.starts_with('/')).then_some(home)
    })
}

/// Lets exactly the descriptors that were asked for survive `execve`: an inherited one could be a way out of the
/// container (CVE-2024-21626). Those below are open to `execve` if they were inherited, and closed by it if they are our own.
fn pass_descriptors(count: u32, proc: &OwnedFd) -> Result<()> {
    let first_closed = i32::try_from(count).unwrap_or(i32::MAX).saturating_add(3);
    fd::close_on_exec_from(first_closed, proc).while_doing(|| "close inherited descriptors".to_owned())
}

/// The kernel names a directory outside of the root without a leading slash, or not at all.
fn check_inside(cwd: &Path) -> Result<()> {
    let inside = rustix::process::getcwd(Vec::new()).is_ok_and(|path| path.as_bytes().starts_with(b"/"));
    if inside {
        return Ok(());
    }
    Err(SpecError::Invalid {
        field: "process.cwd".to_owned(),
        value: cwd.display().to_string(),
        reason: "it leads out of the container's root: a directory of the host was left open",
    }
    .into())
}

/// Loads the filter. A listener's descriptor is named to the parent, which takes it out of here and hands it over: that is one
/// `write`, which no profile may ask the listener about. It is closed by `execve`.
fn load_filter(plan: &ProcessPlan, parent: &ChildEnd) -> Result<()> {
    let Some(program) = &plan.seccomp else {
        return Ok(());
    };
    match seccomp::load(&program.filter, program.flags) {
        Ok(None) => Ok(()),
        Ok(Some(listener)) => parent
            .send(&ToParent::Listening {
                descriptor: listener.into_raw_fd(),
            })
            .while_doing(|| "hand over the listener of linux.seccomp".to_owned()),
        Err(error) if error.errno == Errno::INVAL && program.flags != 0 => Err(Error::System {
            action: "load linux.seccomp: one of its flags is not known to this kernel".to_owned(),
            source: error,
        }),
        Err(error) => Err(error).while_doing(|| "load linux.seccomp".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_found_by_number_only() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\n1000:x:7:7::/seven:/bin/sh\nbroken\nu:x:9:9::relative:/bin/sh\n";
        assert_eq!(home_in(passwd, 0), Some("/root"));
        assert_eq!(home_in(passwd, 7), Some("/seven"));
        assert_eq!(home_in(passwd, 1000), None);
        assert_eq!(home_in(passwd, 9), None);
    }

    #[test]
    fn of_a_repeated_variable_the_last_value_stays() {
        let env = ["A=1", "AB=2", "A=3", "C", "AB="].map(str::to_owned);
        assert_eq!(without_repeats(&env), ["A=3", "AB=", "C"]);
    }

    #[test]
    fn a_list_is_a_regular_file_and_nothing_else_is_waited_for() {
        let directory = std::env::temp_dir().join(format!("croze-list-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("made");
        let (file, pipe) = (directory.join("file"), directory.join("pipe"));
        std::fs::write(&file, b"a\xff").expect("written");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).expect("made");
        assert_eq!(read_list(&file).as_deref(), Some("a\u{fffd}"));
        for other in [&pipe, &directory, Path::new("/dev/zero"), Path::new("/no/such")] {
            assert_eq!(read_list(other), None, "{}", other.display());
        }
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
