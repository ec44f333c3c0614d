//! Signals of this program that belong to the container it is attached to.

use std::io;

use croze_client::Client;
use croze_client::v1::{ErrorKind, KillContainerRequest};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::failure::Failure;
use crate::output;

/// Signals that are forwarded: number and name.
const FORWARDED: [(i32, &str); 6] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (10, "USR1"),
    (12, "USR2"),
    (15, "TERM"),
];
/// So many signals that could not be delivered end this program, so that it can always be stopped.
const PATIENCE: u32 = 3;

/// Forwards signals to a container for as long as it lives. When the container cannot be reached any more, the future of
/// [`SignalProxy::exhausted`] ends.
#[derive(Debug)]
pub(crate) struct SignalProxy {
    tasks: tokio::task::JoinSet<()>,
    given_up: mpsc::Receiver<()>,
}

impl SignalProxy {
    /// Begins to forward to `container`. From here on the signals no longer end this program.
    pub(crate) fn start(client: &Client, container: &str) -> Result<Self, Failure> {
        let mut tasks = tokio::task::JoinSet::new();
        let (give_up, given_up) = mpsc::channel(1);
        let (caught_tx, caught) = mpsc::channel(16);
        for (number, name) in FORWARDED {
            let mut stream = listen(number).map_err(|source| Failure::io("catch signals", source))?;
            let caught = caught_tx.clone();
            tasks.spawn(async move {
                while stream.recv().await.is_some() {
                    if caught.send(name).await.is_err() {
                        return;
                    }
                }
            });
        }
        tasks.spawn(deliver(client.clone(), container.to_owned(), caught, give_up));
        Ok(Self { tasks, given_up })
    }

    /// Ends when signals could not be delivered several times in a row.
    pub(crate) async fn exhausted(&mut self) {
        if self.given_up.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for SignalProxy {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

/// Ends with the number of a signal that would have ended this program: while the terminal is raw it must be restored first.
pub(crate) async fn ending() -> io::Result<u8> {
    let (mut hangup, mut interrupt) = (signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?);
    let (mut quit, mut terminate) = (signal(SignalKind::quit())?, signal(SignalKind::terminate())?);
    Ok(tokio::select! {
        _ = hangup.recv() => 1,
        _ = interrupt.recv() => 2,
        _ = quit.recv() => 3,
        _ = terminate.recv() => 15,
    })
}

fn listen(number: i32) -> io::Result<tokio::signal::unix::Signal> {
    signal(SignalKind::from_raw(number))
}

async fn deliver(
    client: Client,
    container: String,
    mut caught: mpsc::Receiver<&'static str>,
    give_up: mpsc::Sender<()>,
) {
    let mut failures = 0;
    while let Some(name) = caught.recv().await {
        let request = KillContainerRequest {
            container: container.clone(),
            signal: name.to_owned(),
        };
        match client.containers().kill_container(request).await {
            Ok(_) => failures = 0,
            Err(status) => {
                let error = croze_client::Error::from(status);
                // The container may not run yet, or not any more: then its end is what comes next.
                if !matches!(error.kind(), Some(ErrorKind::Conflict | ErrorKind::NotFound)) {
                    output::error(&format!("cannot forward SIG{name}: {error}"));
                }
                failures += 1;
            }
        }
        if failures >= PATIENCE {
            give_up.send(()).await.ok();
            return;
        }
    }
}
