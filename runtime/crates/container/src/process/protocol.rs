//! The conversation between the runtime and the process that it makes.
//!
//! ```text
//!   parent                                    child (init, or a joined process)
//!     │ clone3                                  │
//!     │ id maps, OOM score                      │ enters its cgroup, waits
//!     ├── Proceed ─────────────────────────────▶│ namespaces, mounts, devices
//!     │                       (if it has hooks) │
//!     │◀───────────────────────── AwaitHooks ───┤ waits
//!     │ prestart, createRuntime                 │
//!     ├── Proceed ─────────────────────────────▶│ createContainer, console, root, identity, filter
//!     │◀── Listening (the filter asks others) ──┤ goes on; the parent takes the descriptor and hands it over
//!     │◀────────────────────────────── Ready ───┤
//!     │                                         │ waits at its gate
//!     ├── Start (the gate is this socket) ─────▶│ startContainer, execve
//!     │◀─────────────── end of file: executed ──┤
//!     │◀──────────── Failed, at any moment ─────┤ ends
//!     │◀── Because (only after a failed execve) ┤ ends
//! ```
//!
//! It is spoken over a pair of sockets that keep message borders and close with the programs on either side: whoever dies is
//! noticed. The child's end is close-on-exec, so that a successful `execve` is the end of file.
//!
//! What the child says about a failure is made of text that it wrote itself before anything of the container ran in it; a file that the kernel
//! refused to execute may be quoted in it. It is bounded, cut if it is longer, and never interpreted.

use std::os::fd::{AsFd, OwnedFd};

use croze_sys::{Errno, Error, Result, socket};

/// The longest message: a step and an explanation.
const LIMIT: usize = 4096;

/// What the parent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToChild {
    /// What the child waited for is done.
    Proceed,
    /// Execute the command.
    Start,
}

/// What the child says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToParent {
    /// The hooks that run on the host are due.
    AwaitHooks,
    /// A filter is loaded that has a listener, which is this descriptor of the child's.
    Listening {
        /// Its number in the child.
        descriptor: i32,
    },
    /// Everything is done but the command.
    Ready,
    /// A step failed; the child ends.
    Failed {
        /// Which.
        step: String,
        /// On what, and why.
        message: String,
    },
    /// More about the failure, found out after it was told: finding it out takes calls that a filter may end the child for.
    Because {
        /// The reason.
        reason: String,
    },
}

/// The parent's end.
#[derive(Debug)]
pub struct ParentEnd(OwnedFd);

/// The child's end.
#[derive(Debug)]
pub struct ChildEnd(OwnedFd);

/// Makes both ends.
///
/// # Errors
/// No descriptors left.
pub fn pair() -> Result<(ParentEnd, ChildEnd)> {
    let (parent, child) = socket::message_pair()?;
    Ok((ParentEnd(parent), ChildEnd(child)))
}

impl ParentEnd {
    /// Says something to the child.
    ///
    /// # Errors
    /// The child is gone.
    pub fn send(&self, message: ToChild) -> Result<()> {
        socket::send(&self.0, &[message.tag()])
    }

    /// Waits for what the child has to say; `None` if it has closed its end.
    ///
    /// # Errors
    /// What came is no message.
    pub fn receive(&self) -> Result<Option<ToParent>> {
        let mut buffer = [0; LIMIT];
        let length = match socket::receive(&self.0, &mut buffer) {
            // A child that died with unread messages resets the connection.
            Err(error) if error.errno == Errno::CONNRESET => 0,
            result => result?,
        };
        match buffer[..length].split_first() {
            None => Ok(None),
            Some((tag, rest)) => ToParent::decode(*tag, rest).map(Some).ok_or(malformed()),
        }
    }
}

impl AsFd for ParentEnd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ChildEnd {
    /// Says something to the parent.
    ///
    /// With `write(2)`, which no useful filter forbids: the child may have one already.
    ///
    /// # Errors
    /// The parent is gone.
    pub fn send(&self, message: &ToParent) -> Result<()> {
        rustix::io::write(&self.0, &message.encode())
            .map(drop)
            .map_err(|errno| Error::new("write", errno))
    }

    /// Waits until the parent says `expected`.
    ///
    /// # Errors
    /// The parent is gone (`EPIPE`), or says something else.
    pub fn wait_for(&self, expected: ToChild) -> Result<()> {
        let mut buffer = [0; 1];
        loop {
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(0) => return Err(Error::new("read", Errno::PIPE)),
                Ok(_) if buffer[0] == expected.tag() => return Ok(()),
                Ok(_) => return Err(malformed()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::new("read", errno)),
            }
        }
    }
}

impl AsFd for ChildEnd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ToChild {
    const fn tag(self) -> u8 {
        match self {
            Self::Proceed => b'p',
            Self::Start => b's',
        }
    }
}

impl ToParent {
    /// One letter; for a listener its number (little endian), for a failure the step, a NUL, and the explanation; for a reason its text.
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::AwaitHooks => vec![b'h'],
            Self::Listening { descriptor } => [b"l", &descriptor.to_le_bytes()[..]].concat(),
            Self::Ready => vec![b'r'],
            Self::Failed { step, message } => {
                let mut bytes = format!("f{step}\0{message}").into_bytes();
                bytes.truncate(LIMIT);
                bytes
            }
            Self::Because { reason } => {
                let mut bytes = format!("b{reason}").into_bytes();
                bytes.truncate(LIMIT);
                bytes
            }
        }
    }

    fn decode(tag: u8, rest: &[u8]) -> Option<Self> {
        match (tag, rest) {
            (b'h', []) => Some(Self::AwaitHooks),
            (b'l', number) => Some(Self::Listening {
                descriptor: i32::from_le_bytes(number.try_into().ok()?),
            }),
            (b'r', []) => Some(Self::Ready),
            (b'f', text) => {
                let text = String::from_utf8_lossy(text);
                let (step, message) = text.split_once('\0')?;
                Some(Self::Failed {
                    step: step.to_owned(),
                    message: message.to_owned(),
                })
            }
            (b'b', text) => Some(Self::Because {
                reason: String::from_utf8_lossy(text).into_owned(),
            }),
            _ => None,
        }
    }
}

fn malformed() -> Error {
    Error::new("read", Errno::BADMSG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let (parent, child) = pair().expect("a pair");
        let failed = ToParent::Failed {
            step: "mounts".to_owned(),
            message: "no room: ENOSPC".to_owned(),
        };
        for message in [
            ToParent::AwaitHooks,
            ToParent::Listening { descriptor: 7 },
            ToParent::Ready,
            failed,
            ToParent::Because {
                reason: "it is empty".to_owned(),
            },
        ] {
            child.send(&message).expect("sent");
            assert_eq!(parent.receive().expect("received"), Some(message));
        }
        for message in [ToChild::Proceed, ToChild::Start] {
            parent.send(message).expect("sent");
            child.wait_for(message).expect("received");
        }
        drop(child);
        assert_eq!(parent.receive().expect("the end"), None);
    }

    #[test]
    fn an_endless_explanation_is_cut() {
        let (parent, child) = pair().expect("a pair");
        child
            .send(&ToParent::Failed {
                step: "s".to_owned(),
                message: "x".repeat(100_000),
            })
            .expect("sent");
        let Some(ToParent::Failed { message, .. }) = parent.receive().expect("received") else {
            panic!("no failure")
        };
        assert_eq!(message.len(), LIMIT - 3);
    }

    #[test]
    fn what_is_out_of_turn_is_refused() {
        let (parent, child) = pair().expect("a pair");
        parent.send(ToChild::Start).expect("sent");
        assert_eq!(
            child.wait_for(ToChild::Proceed).expect_err("not that").errno,
            Errno::BADMSG
        );
        drop(parent);
        assert_eq!(
            child.wait_for(ToChild::Proceed).expect_err("gone").errno,
            Errno::PIPE
        );
    }
}
