//! The undo of steps that were done, armed as each step succeeds and disarmed when all have.

use std::future::Future;
use std::pin::Pin;

use croze_model::Result;

use crate::engine::Engine;

type Step = (&'static str, Pin<Box<dyn Future<Output = Result<()>> + Send>>);

/// What has to be undone, the last step first, unless everything succeeds.
pub(crate) struct Undo {
    of: String,
    steps: Vec<Step>,
}

impl Undo {
    /// Nothing to undo yet; `of` names the thing in logs.
    pub(crate) fn new(of: impl Into<String>) -> Self {
        Self {
            of: of.into(),
            steps: Vec::new(),
        }
    }

    /// A step was done; `undo` takes it back. It runs only if it is needed.
    pub(crate) fn push(
        &mut self,
        name: &'static str,
        undo: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.steps.push((name, Box::pin(undo)));
    }

    /// Takes back everything. A step that cannot be taken back is logged and kept for the user to see, and the others are still taken back.
    pub(crate) async fn run(self, engine: &Engine) {
        let of = self.of;
        for line in failures(&of, self.steps).await {
            tracing::error!(of, "{line}");
            engine.leave(line);
        }
    }
}

/// Runs the steps backwards; one line per failure.
async fn failures(of: &str, steps: Vec<Step>) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, step) in steps.into_iter().rev() {
        if let Err(error) = step.await {
            lines.push(format!("cannot {name} of {of}: {}", error.one_line()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use croze_model::{Error, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn steps_are_taken_back_in_reverse_even_past_a_failure() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::new("x");
        for (name, fails) in [("first", false), ("second", true), ("third", false)] {
            let order = Arc::clone(&order);
            undo.push(name, async move {
                order.lock().unwrap().push(name);
                if fails {
                    Err(Error::new(ErrorKind::Internal, "test", "no way back"))
                } else {
                    Ok(())
                }
            });
        }
        assert_eq!(
            failures("x", undo.steps).await,
            ["cannot second of x: no way back"]
        );
        assert_eq!(*order.lock().unwrap(), ["third", "second", "first"]);
    }
}
