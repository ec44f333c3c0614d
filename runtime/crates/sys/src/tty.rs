//! Pseudo terminals of a given devpts instance, and terminals in general.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::termios::{OptionalActions, Termios, Winsize};

use crate::error::Named;
use crate::{Error, Result};

/// Both sides of a pseudo terminal.
#[derive(Debug)]
pub struct Pty {
    /// The side that shows and types.
    pub master: OwnedFd,
    /// The side that a program uses as its terminal.
    pub slave: OwnedFd,
}

/// Makes a terminal of `master`, the `ptmx` of a devpts instance, just opened.
///
/// The slave is opened through the master (`TIOCGPTPEER`), never by a path: what stands at `/dev/pts/N` may have been
/// exchanged by then.
///
/// # Errors
/// `ENOSPC`: no terminals left in the instance.
pub fn open_pty(master: OwnedFd) -> Result<Pty> {
    rustix::pty::unlockpt(&master).named("ioctl(TIOCSPTLCK)")?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the request takes an integer and returns a new descriptor.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) };
    let slave = Error::check("ioctl(TIOCGPTPEER)", result.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    let slave = unsafe { OwnedFd::from_raw_fd(slave as i32) };
    Ok(Pty { master, slave })
}

/// Makes `terminal` the controlling terminal of the calling session leader.
///
/// # Errors
/// `EPERM`: the caller leads no session, or the terminal belongs to another one.
pub fn make_controlling(terminal: impl AsFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal).named("ioctl(TIOCSCTTY)")
}

/// Sets the size of a terminal, in characters.
///
/// # Errors
/// It is no terminal.
pub fn set_size(terminal: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).named("ioctl(TIOCSWINSZ)")
}

/// Gives `to` the size of `from`.
///
/// # Errors
/// One of them is no terminal.
pub fn copy_size(from: impl AsFd, to: impl AsFd) -> Result<()> {
    let size = rustix::termios::tcgetwinsize(from).named("ioctl(TIOCGWINSZ)")?;
    rustix::termios::tcsetwinsize(to, size).named("ioctl(TIOCSWINSZ)")
}

/// Whether `fd` is a terminal.
pub fn is_terminal(fd: impl AsFd) -> bool {
    rustix::termios::isatty(fd)
}

/// A terminal in raw mode; its old modes come back when this is dropped.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Puts `terminal` into raw mode.
    ///
    /// # Errors
    /// It is no terminal.
    pub fn enter(terminal: impl AsFd) -> Result<Self> {
        let terminal = rustix::io::fcntl_dupfd_cloexec(terminal, 3).named("fcntl(F_DUPFD_CLOEXEC)")?;
        let before = rustix::termios::tcgetattr(&terminal).named("ioctl(TCGETS)")?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &raw).named("ioctl(TCSETS)")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that has gone meanwhile needs no modes any more.
        rustix::termios::tcsetattr(&self.terminal, OptionalActions::Flush, &self.before).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_is_written_at_one_side_is_read_at_the_other() {
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).expect("a /dev/ptmx");
        let pty = open_pty(master).expect("a terminal");
        set_size(&pty.master, 24, 100).expect("sized");
        assert_eq!(
            rustix::termios::tcgetwinsize(&pty.slave).expect("sized").ws_col,
            100
        );
        let raw = RawMode::enter(&pty.slave).expect("raw");
        std::fs::File::from(pty.slave).write_all(b"a\n").expect("written");
        let mut buffer = [0; 8];
        let mut master = std::fs::File::from(pty.master);
        let length = master.read(&mut buffer).expect("read");
        assert_eq!(&buffer[..length], b"a\n");
        drop(raw);
    }
}
