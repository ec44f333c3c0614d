//! Readiness: what the container tells its service manager (`sd_notify(3)`), passed on.
//!
//! ```text
//! NOTIFY_SOCKET=/run/x  ──▶  runtime  ── create ──▶  <container's directory>/notify/ bound read-only at /run/x/
//!      ▲                        │                    NOTIFY_SOCKET=/run/x/notify in the process's environment
//!      │                        │
//!      │                        └─ start, run ────▶  a socket of our own bound at notify/notify
//!      └── READY=1, then MAINPID=<host's pid> ──────── READY=1 ◀── container
//! ```
//!
//! The service manager's own socket does not go into the container: whoever can write to it can tell it anything, and knows its
//! processes by pids that mean nothing inside. So nothing passes but that the container is ready, once; the pid is the runtime's word.
//!
//! Whoever starts the container waits for that (or for the container's end), as runc and crun do: to the service manager the runtime is
//! the service until it is told of another main process.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use croze_sys::mount::Depth;
use croze_sys::{Errno, socket};
use rustix::event::{PollFd, PollFlags};

use crate::error::{Error, Result, While};
use crate::mounts::options::{self, MountOptions};
use crate::mounts::{PlannedMount, Source};

/// The variable that names the service manager's socket.
pub const VARIABLE: &str = "NOTIFY_SOCKET";
/// The directory beside the container's record that is bound into it.
const DIRECTORY: &str = "notify";
/// The socket in that directory.
const SOCKET: &str = "notify";
/// Where the directory is bound if the service manager's socket has no path that could be used.
const DEFAULT_PLACE: &str = "/run/notify";
/// The longest message that is looked at.
const LONGEST: usize = 4096;

/// The service manager's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// An absolute path, or `@` and an abstract name.
    address: PathBuf,
}

impl Manager {
    /// Reads the variable's value; `Ok(None)` if it is not set, or empty.
    ///
    /// # Errors
    /// The value is no address of a unix socket (`vsock:` and its like).
    pub fn of(value: Option<&OsStr>) -> Result<Option<Self>, String> {
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let address = PathBuf::from(value);
        let is_abstract = value.as_encoded_bytes().starts_with(b"@") && value.len() > 1;
        if address.is_absolute() || is_abstract {
            Ok(Some(Self { address }))
        } else {
            Err(format!(
                "{VARIABLE}: {value:?} is neither an absolute path nor an abstract name: the container cannot tell the service manager that it is ready"
            ))
        }
    }

    /// The directory in the container that its socket is in: the path of the service manager's own socket, where it has a plain one.
    pub fn place(&self) -> PathBuf {
        let mut components = self.address.components();
        let is_plain = components.next() == Some(Component::RootDir)
            && components
                .clone()
                .all(|part| matches!(part, Component::Normal(_)))
            && components.next().is_some();
        PathBuf::from(if is_plain {
            self.address.as_path()
        } else {
            Path::new(DEFAULT_PLACE)
        })
    }

    /// What is mounted for it; `container` is the container's directory on the host.
    pub fn mount(&self, container: &Path) -> PlannedMount {
        let words = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned);
        PlannedMount {
            destination: self.place(),
            source: Source::Bind {
                path: container.join(DIRECTORY),
                depth: Depth::One,
            },
            options: MountOptions {
                bind: Some(Depth::One),
                ..options::parse(&words)
            },
            id_map: None,
        }
    }

    /// The variable for the container.
    pub fn variable(&self) -> String {
        format!("{VARIABLE}={}", self.place().join(SOCKET).display())
    }
}

/// How many sockets a service manager has opened for this process, from descriptor 3 on: they are for the container. Who
/// calls us in a process of its own cannot know our pid, and leaves it out.
pub fn activation_sockets(variable: impl Fn(&str) -> Option<String>, own_pid: u32) -> u32 {
    let number = |name| variable(name).and_then(|value| value.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), _) if pid != own_pid => 0,
        (_, count) => count.unwrap_or(0),
    }
}

/// Makes the directory that is bound into the container.
///
/// # Errors
/// The disk fails.
pub fn make_directory(container: &Path) -> Result<()> {
    let path = container.join(DIRECTORY);
    let made = std::fs::create_dir(&path).and_then(|()| {
        // Whatever the caller's umask: the container's users have to pass through.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
    });
    made.map_err(|source| Error::File {
        action: "make",
        path,
        source,
    })
}

/// The container's socket, and whom its readiness is told.
#[derive(Debug)]
pub struct Relay {
    own: OwnedFd,
    manager: Manager,
}

impl Relay {
    /// Opens the socket of a container that was made with one; `None` for others, and where no service manager waits.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open(container: &Path, manager: Option<Manager>) -> Result<Option<Self>> {
        let directory = container.join(DIRECTORY);
        let Some(manager) = manager.filter(|_| directory.is_dir()) else {
            return Ok(None);
        };
        let path = directory.join(SOCKET);
        let own =
            socket::bind_datagram(&path).while_doing(|| format!("make the socket {}", path.display()))?;
        Ok(Some(Self { own, manager }))
    }

    /// Reads what has arrived, and tells the service manager if it says that the container is ready; `true`: it does, nothing more is
    /// to come.
    ///
    /// # Errors
    /// The service manager cannot be told.
    pub fn pass_on(&self, pid: i32) -> Result<bool> {
        let mut message = [0; LONGEST];
        while let Some(length) = socket::receive_datagram(&self.own, &mut message)
            .while_doing(|| "hear whether the container is ready".to_owned())?
        {
            let mut lines = message[..length].split(|byte| *byte == b'\n');
            if lines.any(|line| line == b"READY=1") {
                self.tell("READY=1")?;
                self.tell(&format!("MAINPID={pid}"))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn tell(&self, text: &str) -> Result<()> {
        let address = &self.manager.address;
        socket::send_datagram(address, text.as_bytes()).while_doing(|| {
            format!(
                "tell the service manager at {} that the container is ready",
                address.display()
            )
        })
    }

    /// Waits until the container has said that it is ready, or has ended.
    ///
    /// # Errors
    /// The service manager cannot be told.
    pub fn until_ready(&self, process: BorrowedFd<'_>, pid: i32) -> Result<()> {
        loop {
            let mut fds = [
                PollFd::new(&self.own, PollFlags::IN),
                PollFd::new(&process, PollFlags::IN),
            ];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(errno).while_doing(|| "wait until the container is ready".to_owned());
                }
            }
            let has_ended = !fds[1].revents().is_empty();
            // What it said before it ended is there by now.
            if self.pass_on(pid)? || has_ended {
                return Ok(());
            }
        }
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn manager(value: &str) -> Manager {
        Manager::of(Some(OsStr::new(value)))
            .expect("an address")
            .expect("one")
    }

    #[test]
    fn addresses_become_places_in_the_container() {
        for (value, place) in [
            ("/run/systemd/notify", "/run/systemd/notify"),
            ("/run/../x", DEFAULT_PLACE),
            ("/", DEFAULT_PLACE),
            ("@abstract", DEFAULT_PLACE),
        ] {
            assert_eq!(manager(value).place(), Path::new(place), "{value}");
        }
        assert_eq!(manager("/a/b").variable(), "NOTIFY_SOCKET=/a/b/notify");
        assert_eq!(Manager::of(None), Ok(None));
        assert_eq!(Manager::of(Some(OsStr::new(""))), Ok(None));
        for value in ["relative/path", "vsock:2:1234", "@"] {
            assert!(Manager::of(Some(OsStr::new(value))).is_err(), "{value}");
        }
    }

    #[test]
    fn only_readiness_passes_and_the_pid_is_ours() {
        let directory = tempfile::tempdir().expect("made");
        let address = directory.path().join("manager.sock");
        let service_manager = UnixDatagram::bind(&address).expect("bound");
        service_manager.set_nonblocking(true).expect("set");
        let manager = manager(address.to_str().expect("text"));
        assert!(
            Relay::open(directory.path(), Some(manager.clone()))
                .expect("nothing to open")
                .is_none()
        );
        make_directory(directory.path()).expect("made");
        let relay = Relay::open(directory.path(), Some(manager))
            .expect("opened")
            .expect("a relay");
        let container = UnixDatagram::unbound().expect("a socket");
        let inside = directory.path().join("notify/notify");
        container
            .send_to(b"STATUS=busy\nREADY=10", &inside)
            .expect("sent");
        assert!(!relay.pass_on(7).expect("read"));
        assert!(service_manager.recv(&mut [0; 9]).is_err(), "nothing has passed");
        container.send_to(b"MAINPID=1\nREADY=1\n", &inside).expect("sent");
        assert!(relay.pass_on(7).expect("read"));
        let mut buffer = [0; 64];
        for want in [&b"READY=1"[..], b"MAINPID=7"] {
            let length = service_manager.recv(&mut buffer).expect("told");
            assert_eq!(&buffer[..length], want);
        }
    }

    #[test]
    fn sockets_are_taken_only_by_whom_they_are_for() {
        let cases = [
            (Some("7"), Some("2"), 2),
            (Some("8"), Some("2"), 0),
            (None, Some("2"), 2),
            (None, None, 0),
            (Some("7"), Some("-1"), 0),
            (Some("7"), None, 0),
        ];
        for (pid, count, expected) in cases {
            let variable = |name: &str| {
                let value = if name == "LISTEN_PID" { pid } else { count };
                value.map(str::to_owned)
            };
            assert_eq!(activation_sockets(variable, 7), expected, "{pid:?} {count:?}");
        }
    }
}
