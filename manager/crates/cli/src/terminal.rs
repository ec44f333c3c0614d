//! The user's terminal: raw mode, restored on every way out, and its size.
//!
//! The mode from before is kept in one place for the whole process, so that a panic on any thread finds it.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::sync::Mutex;

use crate::failure::Failure;
use croze_client::v1::TerminalSize;
use rustix::termios::{self, OptionalActions, Termios};

/// The mode to go back to while the terminal is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps the terminal in another mode until it is dropped.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Puts the terminal of standard input into raw mode.
    ///
    /// # Errors
    /// Those of tcgetattr(3) and tcsetattr(3).
    pub(crate) fn enable() -> io::Result<Self> {
        Self::change(Termios::make_raw)
    }

    /// Stops the terminal of standard input from showing what is typed, a ^C too, so that the cursor stays where it was drawn. Nothing changes where
    /// there is no such terminal, or where another job has it: to change it then would stop this one (SIGTTOU).
    pub(crate) fn without_echo() -> Option<Self> {
        let in_foreground = termios::tcgetpgrp(io::stdin()).ok()? == rustix::process::getpgrp();
        let hide = |mode: &mut Termios| mode.local_modes.remove(termios::LocalModes::ECHO);
        in_foreground.then(|| Self::change(hide).ok()).flatten()
    }

    fn change(change: impl FnOnce(&mut Termios)) -> io::Result<Self> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut changed = before.clone();
        change(&mut changed);
        if let Ok(mut saved) = SAVED.lock() {
            saved.get_or_insert(before);
        }
        termios::tcsetattr(&stdin, OptionalActions::Drain, &changed)?;
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

/// Asks for a line on the terminal.
///
/// # Errors
/// Standard input is no terminal, or was closed.
pub(crate) fn ask(question: &str) -> Result<String, Failure> {
    must_be_terminal()?;
    prompt(question);
    let mut line = String::new();
    io::stdin()
        .read_line(&mut line)
        .map_err(|source| Failure::io("read from the terminal", source))?;
    Ok(line.trim().to_owned())
}

/// Asks for a line that is not shown while it is typed.
///
/// # Errors
/// Standard input is no terminal, or ^C was typed.
pub(crate) fn ask_secret(question: &str) -> Result<String, Failure> {
    must_be_terminal()?;
    prompt(question);
    let failed = |source| Failure::io("read from the terminal", source);
    let raw = RawMode::enable().map_err(failed)?;
    let mut secret = Vec::new();
    let end = loop {
        let mut key = [0];
        if io::stdin().lock().read(&mut key).map_err(failed)? == 0 {
            break End::Line;
        }
        match key[0] {
            b'\r' | b'\n' | 0x04 => break End::Line,
            // ^C is a key like any other while the terminal is raw.
            0x03 => break End::Interrupted,
            0x7f | 0x08 => drop(secret.pop()),
            // ^U
            0x15 => secret.clear(),
            other => secret.push(other),
        }
    };
    drop(raw);
    prompt("\n");
    match end {
        End::Interrupted => Err(Failure::usage("interrupted", None)),
        End::Line => String::from_utf8(secret).map_err(|_| Failure::usage("the password is not UTF-8", None)),
    }
}

/// What ended a line.
enum End {
    Line,
    Interrupted,
}

/// Shows a question on standard error: standard output may be a pipe.
fn prompt(text: &str) {
    let mut err = io::stderr().lock();
    // There is nowhere to say that this failed.
    drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
}

fn must_be_terminal() -> Result<(), Failure> {
    if stdin_is_terminal() {
        return Ok(());
    }
    Err(Failure::usage(
        "cannot ask for a user name or password: standard input is no terminal",
        Some("use --username and --password-stdin, or --creds USER:PASSWORD"),
    ))
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard error is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Columns of the terminal of standard error; 80 where it does not say.
pub(crate) fn stderr_columns() -> u16 {
    termios::tcgetwinsize(io::stderr()).map_or(80, |size| if size.ws_col == 0 { 80 } else { size.ws_col })
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
