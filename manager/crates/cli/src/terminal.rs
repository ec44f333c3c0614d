//! The user's terminal: raw mode, restored on every way out, and its size.
//!
//! The mode from before is kept in one place for the whole process, so that a panic on any thread finds it.

use std::io::{self, IsTerminal as _};
use std::sync::Mutex;

use croze_client::v1::TerminalSize;
use rustix::termios::{self, OptionalActions, Termios};

/// The mode to go back to while the terminal is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps the terminal raw until it is dropped.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Puts the terminal of standard input into raw mode.
    ///
    /// # Errors
    /// Those of tcgetattr(3) and tcsetattr(3).
    pub(crate) fn enable() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        if let Ok(mut saved) = SAVED.lock() {
            saved.get_or_insert(before);
        }
        termios::tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes a panic, on whatever thread, restore the terminal before it prints.
pub(crate) fn restore_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        print(panic);
    }));
}

/// Goes back to the mode from before; does nothing when the terminal is not raw.
fn restore() {
    let saved = SAVED.lock().ok().and_then(|mut saved| saved.take());
    if let Some(mode) = saved {
        // Nothing can be done where the terminal itself is gone.
        termios::tcsetattr(io::stdin(), OptionalActions::Drain, &mode).ok();
    }
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard error is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// The size of the terminal of standard output or input, if one of them is one.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(io::stdout())
        .or_else(|_| termios::tcgetwinsize(io::stdin()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then(|| TerminalSize {
        rows: size.ws_row.into(),
        columns: size.ws_col.into(),
    })
}
