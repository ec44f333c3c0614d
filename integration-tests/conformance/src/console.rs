//! The other end of a console socket, a pidfd socket or a seccomp listener's.

use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use croze_integration_tests::wait_until;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::stage::Stage;

/// How long a runtime may take to connect.
const PATIENCE: Duration = Duration::from_secs(20);

/// A unix socket that waits for one message with a descriptor.
#[derive(Debug)]
pub(crate) struct Receiver {
    path: PathBuf,
    listener: UnixListener,
}

impl Receiver {
    pub(crate) fn new(stage: &Stage<'_>, name: &str) -> Result<Self> {
        let path = stage.scene.path(name);
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { path, listener })
    }

    pub(crate) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// The message's text and its descriptor.
    pub(crate) fn receive(&self) -> Result<(Vec<u8>, OwnedFd)> {
        let stream: UnixStream = wait_until("the runtime connected", PATIENCE, || {
            Ok(self.listener.accept().ok().map(|(stream, _)| stream))
        })?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut bytes = vec![0_u8; 8192];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let slices = &mut [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(&stream, slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let descriptor = control
            .drain()
            .find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            })
            .context("no descriptor came along")?;
        bytes.truncate(received.bytes);
        Ok((bytes, descriptor))
    }

    /// All that is written to the terminal whose master comes.
    pub(crate) fn read_terminal(&self, master: OwnedFd) -> Result<String> {
        let mut master = File::from(master);
        let mut text = String::new();
        let mut bytes = [0_u8; 4096];
        // After the last slave is closed the master gives EIO.
        while let Ok(count @ 1..) = master.read(&mut bytes) {
            text.push_str(&String::from_utf8_lossy(bytes.get(..count).context("a part")?));
        }
        Ok(text)
    }
}
