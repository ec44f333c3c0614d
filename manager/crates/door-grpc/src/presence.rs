//! Whether the client of a call is still there, after the call as well: its connection is what stands for it.
//!
//! ```text
//!   connection (owns the sender) ──dropped──▶ every receiver that a call on it has taken sees the end
//! ```

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::Request;
use tonic::transport::server::Connected;

/// A connection that tells when it is gone.
#[derive(Debug)]
pub(crate) struct Watched {
    stream: UnixStream,
    /// Nothing is ever sent: that it is dropped is what it says.
    alive: watch::Sender<()>,
}

/// What every call on a connection knows of it.
#[derive(Debug, Clone)]
pub(crate) struct Presence {
    alive: watch::Receiver<()>,
}

/// The connections of a listener, watched.
pub(crate) fn watched(
    connections: impl Stream<Item = io::Result<UnixStream>>,
) -> impl Stream<Item = io::Result<Watched>> {
    connections.map(|stream| {
        Ok(Watched {
            stream: stream?,
            alive: watch::Sender::new(()),
        })
    })
}

/// Ends when the connection of a call has ended; never for a call that came over none.
pub(crate) fn gone<T>(request: &Request<T>) -> impl Future<Output = ()> + Send + 'static {
    let presence = request.extensions().get::<Presence>().cloned();
    async move {
        match presence {
            Some(Presence { mut alive }) => while alive.changed().await.is_ok() {},
            None => std::future::pending().await,
        }
    }
}

impl Connected for Watched {
    type ConnectInfo = Presence;

    fn connect_info(&self) -> Presence {
        Presence {
            alive: self.alive.subscribe(),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
