//! OCI seccomp profiles compiled to classic BPF.
//!
//! ```text
//!   LinuxSeccomp ─ rules ─> per architecture: number -> verdict ─ program ─> Program { filter, flags, listener }
//!                   names, actions, conditions        runs of equal verdicts, binary search, condition blocks
//! ```
//!
//! * [`action`]: the nine actions and their return values.
//! * [`arch`]: architectures, and [`table`]: the numbers of system calls by name.
//! * [`rules`]: what a profile says about each number of each architecture.
//! * [`program`]: the instructions. Conditions on arguments are compiled by `seccompiler`; dispatch is ours,
//!   because a filter has many actions here, several architectures, and at most 4096 instructions.
//! * [`interpreter`]: what a program answers to a call.
//!
//! What is decided as libseccomp and runc decide it: a rule without conditions wins over those with conditions
//! for the same call; of several conditions on the same argument each is a rule of its own; a call that is
//! newer than every call the profile names is answered with ENOSYS rather than EPERM, so that programs fall
//! back to an older call; names that are not known are skipped; the native architecture always counts as
//! listed.
//!
//! It loads nothing and knows no process: the result is a list of instructions. The same profile always gives
//! the same program.
#![forbid(unsafe_code)]

pub mod action;
pub mod arch;
pub mod interpreter;
pub mod program;
pub mod rules;
pub mod table;

#[cfg(test)]
mod tests;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};

/// The most instructions the kernel takes (`BPF_MAXINSNS`).
pub const MOST_INSTRUCTIONS: usize = 4096;

/// A compiled profile.
#[derive(Debug, Clone)]
pub struct Program {
    /// The filter, for `seccomp(2)`.
    pub filter: Vec<libc::sock_filter>,
    /// The flags for `seccomp(2)`, `SECCOMP_FILTER_FLAG_NEW_LISTENER` among them if it notifies.
    pub flags: u64,
    /// Whether there is a listener: the descriptor that loading returns has to reach `listenerPath`.
    pub listener: bool,
}

impl Program {
    /// Whether a native call with nothing but zeros for arguments is simply carried out or simply fails: the process is not ended by it, and
    /// nobody else is asked. A call that is decided by its arguments may still be judged otherwise.
    #[must_use]
    pub fn leaves_in_peace(&self, name: &str) -> bool {
        let numbered = |native| Some((native, table::find(name)?.number(native)?));
        let Some((native, number)) = arch::Arch::native().and_then(numbered) else {
            return false;
        };
        let call = interpreter::Call {
            number,
            arch: native.audit(),
            args: [0; 6],
        };
        interpreter::run(&self.filter, &call).is_ok_and(action::is_peaceful)
    }
}

/// Why a profile cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The machine this was built for is not known here.
    #[error("seccomp is not supported on this architecture")]
    Native,
    /// `SCMP_ACT_NOTIFY` where it would stop the container or its start.
    #[error("SCMP_ACT_NOTIFY cannot be {place}: {why}")]
    Notify {
        /// The default action, or a system call.
        place: &'static str,
        /// What would happen.
        why: &'static str,
    },
    /// A condition on an argument that does not exist.
    #[error("seccomp condition of {syscall} is on argument {index}: a system call has arguments 0 to 5")]
    Argument {
        /// The system call.
        syscall: String,
        /// The argument's number.
        index: usize,
    },
    /// A value that does not fit an action's return value.
    #[error("seccomp errnoRet of {of} is {value}: at most 4095")]
    Errno {
        /// The default action, or a system call.
        of: String,
        /// The value.
        value: u32,
    },
    /// A condition that the condition compiler refused.
    #[error("seccomp condition of {syscall} is not valid: {reason}")]
    Condition {
        /// The system call.
        syscall: String,
        /// What the compiler says.
        reason: String,
    },
    /// The program is too long.
    #[error(
        "the seccomp profile needs {instructions} instructions, the kernel takes {MOST_INSTRUCTIONS}; use fewer conditions"
    )]
    TooLong {
        /// How many it would need.
        instructions: usize,
    },
    /// A listener without a place to send it to, or the reverse.
    #[error("the seccomp profile uses SCMP_ACT_NOTIFY, which needs a listenerPath")]
    NoListenerPath,
}

/// Compiles a profile for the machine this was built for.
///
/// # Errors
/// [`Error`] says which part of the profile cannot be compiled, and why.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    let native = arch::Arch::native().ok_or(Error::Native)?;
    compile_for(profile, native)
}

/// Compiles a profile for a machine of the given native architecture.
///
/// # Errors
/// As [`compile`].
pub fn compile_for(profile: &LinuxSeccomp, native: arch::Arch) -> Result<Program, Error> {
    let rules = rules::Rules::read(profile, native)?;
    if rules.notifies && profile.listener_path().is_none() {
        return Err(Error::NoListenerPath);
    }
    let filter = program::assemble(&rules)?;
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
        };
    }
    // A path alone asks for a listener too, as with crun: whoever waits at the socket is not left waiting.
    let listens = rules.notifies || profile.listener_path().is_some();
    if listens {
        flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        // Both at once would make the return value ambiguous. The process that loads it has one thread: nothing is lost.
        flags &= !libc::SECCOMP_FILTER_FLAG_TSYNC;
    } else {
        // Without a listener the kernel refuses the flag; it has no meaning then.
        flags &= !WAIT_KILLABLE_RECV;
    }
    Ok(Program {
        filter,
        flags,
        listener: listens,
    })
}

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19).
const WAIT_KILLABLE_RECV: u64 = 1 << 5;
