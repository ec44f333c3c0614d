//! `start`: init is told to execute the command.
//!
//! ```text
//! start                         init
//!   ├── one byte into exec.fifo ─▶│ startContainer hooks, execve
//!   │◀── result.fifo: closed ─────┤ executed
//!   │◀── result.fifo: words ──────┤ not executed, and why
//! ```
//!
//! Init has both fifos open already, so nothing of the container is looked at. A fifo that nobody has open says that init is gone.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use croze_sys::Errno;
use rustix::fs::{Mode, OFlags};

use super::Settings;
use super::create::RESULT_FIFO;
use super::state::status;
use crate::error::{Error, Result, While};
use crate::hooks::{self, HookState, Kind};
use crate::notify::{self, Manager, Relay};
use crate::spec;
use crate::state::{EXEC_FIFO, Event, Id, Locked, Record, Status, Store};

/// The longest explanation that is read.
const EXPLANATION: usize = 4096;
/// How long an init that could not execute its command gets to end.
const END: Duration = Duration::from_secs(5);

/// Starts a created container.
///
/// # Errors
/// There is no such container, it was started already, its init is gone, or the command cannot be executed.
pub fn start(settings: &Settings, id: &str) -> Result<()> {
    let id = Id::parse(id)?;
    let locked = Store::new(&settings.root)?.find(&id)?.lock()?;
    let refuse = |reason| Error::State {
        verb: "start",
        id: id.to_string(),
        reason,
    };
    let mut record = locked
        .load()?
        .ok_or_else(|| refuse("it is still being created"))?;
    match status(locked.entry(), &record)? {
        Status::Created => {}
        Status::Creating => return Err(refuse("it is still being created")),
        Status::Running => return Err(refuse("it is running already")),
        Status::Paused => return Err(refuse("it is paused")),
        Status::Stopped => return Err(refuse("it has stopped")),
    }
    // Where nobody was waiting when it was made there is no way out for such a message: a strange value of the variable is nobody's then.
    let manager = Manager::of(std::env::var_os(notify::VARIABLE).as_deref()).unwrap_or_default();
    let readiness = Relay::open(locked.path(), manager)?;
    if let Err(error) = open_gate(locked.path(), &refuse) {
        // Init ends after it has explained itself: whoever asks next shall see it stopped.
        if let Some(init) = record
            .state
            .init()
            .map(crate::state::Identity::pidfd)
            .transpose()?
            .flatten()
        {
            croze_sys::pidfd::wait_ended(init, Some(END))
                .while_doing(|| "wait for the first process".to_owned())?;
        }
        return Err(error);
    }
    record.state = record.state.clone().next(Event::Started)?;
    locked.save(&record)?;
    poststart(&locked, &record)?;
    // Others may want to work on it while it gets ready.
    drop(locked);
    match (readiness, record.state.init()) {
        (Some(relay), Some(init)) => match init.pidfd()? {
            Some(process) => relay.until_ready(process.as_fd(), init.pid),
            // It has ended, and has been reaped by now.
            None => relay.pass_on(init.pid).map(drop),
        },
        _ => Ok(()),
    }
}

/// Lets init go on, and hears what became of it.
fn open_gate(directory: &Path, refuse: &dyn Fn(&'static str) -> Error) -> Result<()> {
    let open = |name: &str, flags| -> Result<OwnedFd> {
        let path = directory.join(name);
        match rustix::fs::open(&path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
            // Nobody has it open for reading.
            Err(Errno::NXIO) => Err(refuse("its first process is gone")),
            result => result.while_doing(|| format!("open {}", path.display())),
        }
    };
    // Opened before init is told: what it says is not lost even if it is quick.
    let result = open(RESULT_FIFO, OFlags::RDONLY)?;
    let start = open(EXEC_FIFO, OFlags::WRONLY)?;
    rustix::io::write(&start, b"0")
        .while_doing(|| "tell the container's first process to start".to_owned())?;
    remove(directory, EXEC_FIFO)?;
    let explanation = listen(&result)?;
    remove(directory, RESULT_FIFO)?;
    if explanation.is_empty() {
        return Ok(());
    }
    Err(Error::Init {
        step: "execute the command".to_owned(),
        message: explanation,
    })
}

fn remove(directory: &Path, name: &str) -> Result<()> {
    let path = directory.join(name);
    std::fs::remove_file(&path).map_err(|source| Error::File {
        action: "remove",
        path,
        source,
    })
}

/// Reads until init has closed its end: by executing the command, or by ending.
fn listen(result: &OwnedFd) -> Result<String> {
    let action = || "hear from the container's first process".to_owned();
    let mut text = Vec::new();
    let mut buffer = [0; EXPLANATION];
    loop {
        match rustix::io::read(result, &mut buffer) {
            Ok(0) => return Ok(String::from_utf8_lossy(&text).into_owned()),
            Ok(length) if text.len() < EXPLANATION => text.extend_from_slice(&buffer[..length]),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [rustix::event::PollFd::new(result, rustix::event::PollFlags::IN)];
                match rustix::event::poll(&mut fds, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno).while_doing(action),
                }
            }
            Err(errno) => return Err(errno).while_doing(action),
        }
    }
}

/// Runs the poststart hooks of the kept spec. If one fails the container is killed: it was to run with what the hook does.
fn poststart(locked: &Locked, record: &Record) -> Result<()> {
    let Some(raw) = locked.entry().load_config()? else {
        return Err(Error::NoSpec {
            id: record.id.clone(),
        });
    };
    // Most containers have none: their spec is not parsed again for that.
    let word = b"\"poststart\"";
    if !raw.windows(word.len()).any(|window| window == word) {
        return Ok(());
    }
    let (spec, _) = spec::parse(&raw, "config.json")?;
    run_poststart(&spec, record)
}

/// As [`poststart`], for a spec at hand.
pub(super) fn run_poststart(spec: &oci_spec::runtime::Spec, record: &Record) -> Result<()> {
    let due = hooks::of_kind(spec.hooks().as_ref(), Kind::Poststart);
    let Some(init) = record.state.init().filter(|_| !due.is_empty()) else {
        return Ok(());
    };
    let Err(error) = hooks::run(due, Kind::Poststart, &HookState::of(record, "running", init.pid)) else {
        return Ok(());
    };
    if let Some(process) = init.pidfd()? {
        match croze_sys::pidfd::send_signal(&process, 9) {
            Err(gone) if gone.errno == Errno::SRCH => {}
            result => result.while_doing(|| "kill the container after a failed hook".to_owned())?,
        }
    }
    Err(error.into())
}
