//! What happened, for whoever listens. Events are told, not stored: who needs the truth asks for it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::sync::broadcast;

/// A listener that is this many events late loses the oldest.
const CAPACITY: usize = 1024;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
}

impl EventKind {
    /// The kind's name on every wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
        }
    }
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, RFC 3339.
    pub time: String,
    /// To what kind of thing.
    pub kind: EventKind,
    /// What: `create`, `start`, `die`, `destroy`, `pull`, `delete` …
    pub action: &'static str,
    /// To which thing.
    pub id: String,
    /// More about it.
    pub attributes: BTreeMap<String, String>,
}

/// Where events are told.
#[derive(Debug)]
pub(crate) struct Bus {
    sender: broadcast::Sender<Event>,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(CAPACITY).0,
        }
    }
}

impl Bus {
    /// Tells everyone; nobody listening is no error.
    pub(crate) fn tell(
        &self,
        kind: EventKind,
        action: &'static str,
        id: impl Into<String>,
        attributes: &[(&str, &str)],
    ) {
        let event = Event {
            time: Timestamp::now().to_string(),
            kind,
            action,
            id: id.into(),
            attributes: attributes
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        tracing::debug!(kind = kind.as_str(), action, id = event.id, "event");
        self.sender.send(event).ok();
    }

    /// What is told from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_hear_what_comes_after_them() {
        let bus = Bus::default();
        bus.tell(EventKind::Image, "pull", "nobody hears", &[]);
        let mut events = bus.subscribe();
        bus.tell(EventKind::Container, "die", "ab", &[("exitCode", "3")]);
        let event = events.recv().await.unwrap();
        assert_eq!(
            (event.kind, event.action, event.id.as_str()),
            (EventKind::Container, "die", "ab")
        );
        assert_eq!(event.attributes["exitCode"], "3");
        assert!(events.try_recv().is_err());
    }
}
