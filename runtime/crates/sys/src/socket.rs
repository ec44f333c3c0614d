//! Unix sockets between processes that know each other, and descriptors sent over them.

use std::ffi::OsStr;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::Named;
use crate::{Errno, Error, Result};

/// A connected pair of sockets that keep message borders and tell when the other side is gone, close-on-exec.
///
/// # Errors
/// No descriptors left.
pub fn message_pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .named("socketpair")
}

/// What a socket's address holds of a path, in bytes.
const LONGEST_PATH: usize = 107;

/// Connects to the stream socket at `path`, however long the path is.
///
/// # Errors
/// Nobody listens there (`ECONNREFUSED`), or there is no such socket.
pub fn connect(path: &Path) -> Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .named("socket")?;
    connect_to(&socket, path)?;
    Ok(socket)
}

/// A path that is too long for an address goes through a descriptor.
fn connect_to(socket: &OwnedFd, path: &Path) -> Result<()> {
    let held;
    let near;
    let mut target = path;
    if path.as_os_str().len() > LONGEST_PATH {
        held = crate::fd::open_path(path)?;
        near = crate::fd::proc_path(held.as_fd())
            .into_string()
            .unwrap_or_default();
        target = Path::new(&near);
    }
    let address = SocketAddrUnix::new(target).named("connect")?;
    retry(|| rustix::net::connect(socket, &address)).named("connect")
}

/// Makes a datagram socket at `path`, however long the path is, that everybody may send to who can reach it; what was there is replaced.
///
/// # Errors
/// The directory is not there, or cannot be written.
pub fn bind_datagram(path: &Path) -> Result<OwnedFd> {
    let name = path.file_name().ok_or(Error::new("bind", Errno::INVAL))?;
    let directory = crate::fd::open_path(path.parent().unwrap_or(Path::new("/")))?;
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => {}
        result => result.named("unlinkat")?,
    }
    let socket = datagram()?;
    let near = crate::fd::proc_path(directory.as_fd());
    let near = Path::new(OsStr::from_bytes(near.as_bytes())).join(name);
    let address = SocketAddrUnix::new(&near).named("bind")?;
    rustix::net::bind(&socket, &address).named("bind")?;
    let everybody = Mode::from_raw_mode(0o777);
    rustix::fs::chmodat(&directory, name, everybody, AtFlags::empty()).named("fchmodat")?;
    Ok(socket)
}

fn datagram() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .named("socket")
}

/// Receives one datagram without waiting for it; `None` if there is none. What does not fit is cut off.
///
/// # Errors
/// None that is to be expected of a bound socket.
pub fn receive_datagram(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<usize>> {
    let flags = RecvFlags::DONTWAIT;
    match retry(|| rustix::net::recv(socket.as_fd(), &mut *buffer, flags)) {
        Ok((length, _)) => Ok(Some(length)),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(Error::new("recvfrom", errno)),
    }
}

/// Sends one datagram to a unix socket: at a path, or with the abstract name behind an `@`.
///
/// # Errors
/// There is no such socket, or nobody reads it.
pub fn send_datagram(to: &Path, message: &[u8]) -> Result<()> {
    let socket = datagram()?;
    match to.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => {
            let address = SocketAddrUnix::new_abstract_name(name).named("connect")?;
            retry(|| rustix::net::connect(&socket, &address)).named("connect")?;
        }
        None => connect_to(&socket, to)?,
    }
    send(&socket, message)
}

/// Sends one message.
///
/// # Errors
/// `EPIPE`: the other side is gone.
pub fn send(socket: impl AsFd, message: &[u8]) -> Result<()> {
    let sent = retry(|| rustix::net::send(socket.as_fd(), message, SendFlags::NOSIGNAL)).named("sendto")?;
    if sent == message.len() {
        Ok(())
    } else {
        Err(Error::new("sendto", Errno::MSGSIZE))
    }
}

/// Receives one message into `buffer`; its length, 0 when the other side is gone.
///
/// # Errors
/// `EMSGSIZE`: it did not fit.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    let (_, length) =
        retry(|| rustix::net::recv(socket.as_fd(), &mut *buffer, RecvFlags::TRUNC)).named("recvfrom")?;
    if length > buffer.len() {
        Err(Error::new("recvfrom", Errno::MSGSIZE))
    } else {
        Ok(length)
    }
}

/// Sends one message with descriptors.
///
/// # Errors
/// `EPIPE`: the other side is gone.
pub fn send_fds(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::new("sendmsg", Errno::TOOMANYREFS));
    }
    retry(|| {
        rustix::net::sendmsg(
            socket.as_fd(),
            &[IoSlice::new(message)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    })
    .named("sendmsg")
    .map(drop)
}

/// Receives one message and the descriptors that came with it (at most 8), close-on-exec.
///
/// # Errors
/// None that is to be expected of a connected socket.
pub fn receive_fds(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = retry(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(&mut *buffer)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })
    .named("recvmsg")?;
    let fds = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((message.bytes, fds))
}

fn retry<T>(mut call: impl FnMut() -> std::result::Result<T, Errno>) -> std::result::Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    #[test]
    fn messages_keep_their_borders_and_the_end_is_seen() {
        let (here, there) = message_pair().expect("a pair");
        send(&here, b"one").expect("sent");
        send(&here, b"two!").expect("sent");
        drop(here);
        let mut buffer = [0; 16];
        for expected in [&b"one"[..], b"two!", b""] {
            let length = receive(&there, &mut buffer).expect("received");
            assert_eq!(&buffer[..length], expected);
        }
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error() {
        let (here, there) = message_pair().expect("a pair");
        send(&here, b"too long").expect("sent");
        assert_eq!(
            receive(&there, &mut [0; 3]).expect_err("cut").errno,
            Errno::MSGSIZE
        );
    }

    #[test]
    fn a_descriptor_arrives_as_a_descriptor_of_the_same_file() {
        let (here, there) = message_pair().expect("a pair");
        let file = std::fs::File::open("/proc/self/comm").expect("a /proc");
        send_fds(&here, b"x", &[file.as_fd()]).expect("sent");
        let (length, mut fds) = receive_fds(&there, &mut [0; 1]).expect("received");
        assert_eq!((length, fds.len()), (1, 1));
        let mut text = String::new();
        std::fs::File::from(fds.remove(0))
            .read_to_string(&mut text)
            .expect("read");
        assert!(!text.is_empty());
    }

    #[test]
    fn datagrams_reach_long_paths_and_abstract_names() {
        let directory = std::env::temp_dir().join(format!("croze-sys-datagram-{}", std::process::id()));
        let path = directory.join("d".repeat(120)).join("s");
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        let mut buffer = [0; 8];
        for _again in 0..2 {
            let socket = bind_datagram(&path).expect("bound");
            assert_eq!(receive_datagram(&socket, &mut buffer), Ok(None));
            send_datagram(&path, b"here").expect("sent");
            assert_eq!(receive_datagram(&socket, &mut buffer), Ok(Some(4)));
        }
        send_datagram(&path, b"nobody").expect_err("its socket is closed");
        std::fs::remove_dir_all(&directory).expect("removed");

        let name = format!("croze-sys-datagram-{}", std::process::id());
        let socket = datagram().expect("a socket");
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).expect("a name");
        rustix::net::bind(&socket, &address).expect("bound");
        send_datagram(Path::new(&format!("@{name}")), b"there").expect("sent");
        assert_eq!(receive_datagram(&socket, &mut buffer), Ok(Some(5)));
    }

    #[test]
    fn a_socket_with_a_long_path_is_reached() {
        let directory = std::env::temp_dir().join(format!("croze-sys-socket-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("made");
        let short = directory.join("s");
        let listener = UnixListener::bind(&short).expect("bound");
        let long_directory = directory.join("d".repeat(120));
        std::fs::create_dir(&long_directory).expect("made");
        let long = long_directory.join("s");
        std::fs::rename(&short, &long).expect("moved");
        connect(&long).expect("connected");
        listener.accept().expect("somebody came");
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
