//! Working from a sealed copy of the program.
//!
//! A process that enters a container brings its own executable along: through `/proc/PID/exe`, through `#!/proc/self/exe`, or
//! through pages shared with the file, a container could reach the host's binary and change it (CVE-2019-5736). So `create`, `run`
//! and `exec` first become a copy in memory that nobody can write to, host's root included:
//!
//! ```text
//! croze-rt create … ─ memfd ← the program's bytes, sealed ─┬─ exchanged for the file that this process has ───▶ goes on
//!                                                          └─ refused: execveat ─▶ croze-rt create … ─ sealed ─▶ goes on
//! ```
//!
//! The first way spares a second start, and the kernel vouches for it: see [`croze_sys::exe`]. The binary is small, so that the copy costs
//! less than any other way of hiding the original that keeps its pages apart from the host's (docs/decisions/0006).

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result, While};

/// Whether it was found out already that this program is a sealed copy: that does not change any more.
static SEALED: AtomicBool = AtomicBool::new(false);

/// Returns at once if the program that runs is a sealed copy; otherwise makes one and executes it with the same arguments
/// and environment.
///
/// To be called before anything is opened or changed: nothing but the arguments and the environment is carried over.
///
/// # Errors
/// There is no memory for the copy, or no `/proc`.
pub fn ensure() -> Result<()> {
    if SEALED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let action = || "work from a sealed copy of the program".to_owned();
    match croze_sys::memfd::seal_running_program("croze-rt").while_doing(action)? {
        None => {
            SEALED.store(true, Ordering::Relaxed);
            Ok(())
        }
        Some(copy) if croze_sys::exe::exchange(&copy).is_ok() => {
            SEALED.store(true, Ordering::Relaxed);
            Ok(())
        }
        // The kernel or a missing capability is in the way: the copy is executed, which does the same.
        Some(copy) => Err(Error::System {
            action: action(),
            source: croze_sys::memfd::execute_in_place(&copy),
        }),
    }
}
