//! Clients that are connected to a container and about to start it, or that have made it to start it next.
//!
//! While there is one, its prepared container is left alone; when the last one goes away without having started it, the container is taken
//! back to where it was. A daemon that was ended knows no such client any more: its connections are gone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use croze_model::ContainerId;
use tokio::sync::watch;

use crate::engine::Engine;

/// Who waits, per container.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    /// Tells the clients of one run from those of a later one.
    runs: u64,
    of: HashMap<ContainerId, Run>,
}

#[derive(Debug)]
struct Run {
    number: u64,
    clients: usize,
    /// Closed when the run is over, for clients that have nothing else to wait for.
    over: watch::Sender<()>,
}

impl Waiting {
    /// A client waits; gives the number of the run it waits for, and what is closed when that is over.
    fn enter(&self, id: &ContainerId) -> (u64, watch::Receiver<()>) {
        let mut clients = self.lock();
        let next = clients.runs + 1;
        let run = clients.of.entry(id.clone()).or_insert(Run {
            number: next,
            clients: 0,
            over: watch::Sender::new(()),
        });
        run.clients += 1;
        let waited_for = (run.number, run.over.subscribe());
        clients.runs = next;
        waited_for
    }

    /// A client went away; says whether it was the last one of a run that nobody has begun.
    fn leave(&self, id: &ContainerId, number: u64) -> bool {
        let mut clients = self.lock();
        let Some(run) = clients.of.get_mut(id).filter(|run| run.number == number) else {
            return false;
        };
        run.clients -= 1;
        let last = run.clients == 0;
        if last {
            clients.of.remove(id);
        }
        last
    }

    /// The run has begun, or cannot begin any more: its clients no longer keep the container prepared.
    pub(crate) fn over(&self, id: &ContainerId) {
        self.lock().of.remove(id);
    }

    /// Whether a client is about to start the container.
    pub(crate) fn any(&self, id: &ContainerId) -> bool {
        self.lock().of.contains_key(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Clients> {
        // Nothing panics while it is held.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One waiting client, for as long as this lives.
#[derive(Debug)]
pub(crate) struct WaitingClient {
    engine: Engine,
    id: ContainerId,
    run: u64,
    over: watch::Receiver<()>,
}

impl WaitingClient {
    pub(crate) fn new(engine: &Engine, id: &ContainerId) -> Self {
        let (run, over) = engine.waiting().enter(id);
        Self {
            engine: engine.clone(),
            id: id.clone(),
            run,
            over,
        }
    }

    /// Waits until there is nothing left to wait for: the run has begun, or cannot begin any more.
    pub(crate) async fn over(&mut self) {
        while self.over.changed().await.is_ok() {}
    }
}

impl Drop for WaitingClient {
    fn drop(&mut self) {
        if !self.engine.waiting().leave(&self.id, self.run) {
            return;
        }
        // Without a runtime the daemon ends; the next one finds the prepared container.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (engine, id) = (self.engine.clone(), self.id.clone());
            runtime.spawn(async move { engine.abandoned(&id).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> ContainerId {
        ContainerId::from_random([n; 32])
    }

    #[test]
    fn the_last_client_that_goes_leaves_the_container_to_be_taken_back() {
        let waiting = Waiting::default();
        let ((first, _), (second, _)) = (waiting.enter(&id(1)), waiting.enter(&id(1)));
        assert!(waiting.any(&id(1)) && !waiting.any(&id(2)));
        assert!(!waiting.leave(&id(1), first), "another one waits");
        assert!(waiting.leave(&id(1), second));
        assert!(!waiting.any(&id(1)));
    }

    #[test]
    fn clients_of_a_begun_run_are_not_those_of_the_next() {
        let waiting = Waiting::default();
        let (first, first_over) = waiting.enter(&id(1));
        assert!(first_over.has_changed().is_ok(), "it is waited for");
        waiting.over(&id(1));
        assert!(first_over.has_changed().is_err(), "nobody has to wait any longer");
        assert!(!waiting.any(&id(1)));
        let (second, _) = waiting.enter(&id(1));
        assert!(!waiting.leave(&id(1), first), "it went after its own run");
        assert!(waiting.any(&id(1)));
        assert!(waiting.leave(&id(1), second));
    }
}
