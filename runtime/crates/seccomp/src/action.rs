//! What a filter answers: the nine actions of the specification as return values of the kernel.

use crate::Error;
use oci_spec::runtime::LinuxSeccompAction;

/// A return value of a filter.
pub type Verdict = u32;

/// `SECCOMP_RET_KILL_PROCESS`.
pub const KILL_PROCESS: Verdict = 0x8000_0000;
/// `SECCOMP_RET_KILL_THREAD`.
pub const KILL_THREAD: Verdict = 0;
/// `SECCOMP_RET_ALLOW`.
pub const ALLOW: Verdict = 0x7fff_0000;
/// `SECCOMP_RET_USER_NOTIF`.
pub const NOTIFY: Verdict = 0x7fc0_0000;
const TRAP: Verdict = 0x0003_0000;
const ERRNO: Verdict = 0x0005_0000;
const TRACE: Verdict = 0x7ff0_0000;
const LOG: Verdict = 0x7ffc_0000;
/// `SECCOMP_RET_ACTION_FULL`: the rest is the action's value.
const ACTION: Verdict = 0xffff_0000;

/// The largest errno the kernel returns; it would cut a larger one down without a word.
const MOST_ERRNO: u32 = 4095;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Fails with ENOSYS: what a kernel without the call would answer.
pub const NOT_IMPLEMENTED: Verdict = ERRNO | ENOSYS;

/// An action with its value. `SCMP_ACT_KILL` is the old name of killing the thread; an error or a trace without
/// a value has EPERM.
///
/// # Errors
/// [`Error::Errno`] if the value does not fit; `of` names whose it is.
pub fn verdict(
    action: LinuxSeccompAction,
    value: Option<u32>,
    of: impl FnOnce() -> String,
) -> Result<Verdict, Error> {
    let checked = |base: Verdict, most: u32| {
        let value = value.unwrap_or(EPERM);
        if value > most {
            Err(Error::Errno { of: of(), value })
        } else {
            Ok(base | value)
        }
    };
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Ok(KILL_THREAD),
        LinuxSeccompAction::ScmpActKillProcess => Ok(KILL_PROCESS),
        LinuxSeccompAction::ScmpActTrap => Ok(TRAP),
        LinuxSeccompAction::ScmpActErrno => checked(ERRNO, MOST_ERRNO),
        LinuxSeccompAction::ScmpActTrace => checked(TRACE, 0xffff),
        LinuxSeccompAction::ScmpActNotify => Ok(NOTIFY),
        LinuxSeccompAction::ScmpActLog => Ok(LOG),
        LinuxSeccompAction::ScmpActAllow => Ok(ALLOW),
    }
}

/// Whether the call goes its way or fails, and that is all: no signal, and nobody else who is asked and may never answer.
#[must_use]
pub const fn is_peaceful(verdict: Verdict) -> bool {
    matches!(verdict & ACTION, ALLOW | LOG | ERRNO)
}

/// Whether calls that the profile does not know stay possible by its default action: then nothing has to be
/// said about newer ones. A tracer counts as one who permits: it can answer for itself.
#[must_use]
pub const fn permits(action: LinuxSeccompAction) -> bool {
    matches!(
        action,
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
    )
}
