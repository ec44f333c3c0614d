//! What happened, for whoever listens. Events are told, not stored: who needs the truth asks for it. The last of them are remembered, so that
//! whoever comes late can be told what was.
//!
//! ```text
//!   tell ──▶ history (the last 1,000) ──▶ replay ──▶ a listener: what was since a time, then what comes, until a time
//!       └──▶ broadcast ─────────────────────────────┘
//! ```
//!
//! Invariant: a listener hears every event once, whether it was told before or after it came; history and broadcast change under one lock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use croze_containers::Container;
use croze_model::Result;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::filters::events::EventFilters;
use crate::filters::{Filter, invalid};

/// A listener that is this many events late loses the oldest.
const CAPACITY: usize = 1024;
/// So many events are remembered.
const REMEMBERED: usize = 1000;

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
    /// When.
    pub time: Timestamp,
    /// To what kind of thing.
    pub kind: EventKind,
    /// What: `create`, `start`, `die`, `destroy`, `pull`, `delete` …
    pub action: &'static str,
    /// To which thing.
    pub id: String,
    /// More about it: its name, and for a container its image and labels.
    pub attributes: BTreeMap<String, String>,
}

/// Listens to events.
#[derive(Debug, Clone, Default)]
pub struct EventsRequest {
    /// Also what was told since this time, RFC 3339, as far as it is remembered.
    pub since: Option<String>,
    /// Nothing that is told after this time, RFC 3339; the stream ends then.
    pub until: Option<String>,
    /// Conditions, by docker's names.
    pub filters: Vec<Filter>,
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An event.
    Event(Event),
    /// It was too slow, and lost so many.
    Lost(u64),
}

/// Where events are told.
#[derive(Debug)]
pub(crate) struct Bus {
    sender: broadcast::Sender<Event>,
    history: Mutex<VecDeque<Event>>,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            sender: broadcast::channel(CAPACITY).0,
            history: Mutex::default(),
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
        let attributes = attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        self.send(kind, action, id.into(), attributes.collect());
    }

    /// Tells everyone what happened to a container; `more` stands beside its name, image and labels.
    pub(crate) fn tell_of(&self, container: &Container, action: &'static str, more: &[(&str, &str)]) {
        let own = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let labels = container.image.labels.iter().chain(&container.request.labels);
        let attributes = labels
            .map(|(key, value)| own(key, value))
            .chain([
                own("name", container.name.as_str()),
                own("image", &container.request.image),
            ])
            .chain(more.iter().map(|(key, value)| own(key, value)));
        self.send(
            EventKind::Container,
            action,
            container.id.as_str().to_owned(),
            attributes.collect(),
        );
    }

    fn send(&self, kind: EventKind, action: &'static str, id: String, attributes: BTreeMap<String, String>) {
        tracing::debug!(kind = kind.as_str(), action, id, "event");
        let mut history = self.history();
        let event = Event {
            time: Timestamp::now(),
            kind,
            action,
            id,
            attributes,
        };
        if history.len() == REMEMBERED {
            history.pop_front();
        }
        history.push_back(event.clone());
        self.sender.send(event).ok();
    }

    /// What is told from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    /// What is remembered, and what is told from now on.
    fn replay(&self) -> (VecDeque<Event>, broadcast::Receiver<Event>) {
        let history = self.history();
        (history.clone(), self.sender.subscribe())
    }

    fn history(&self) -> MutexGuard<'_, VecDeque<Event>> {
        // Nothing panics while it is held.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// What happens from now on, or happened since a time, as far as it fits.
    ///
    /// # Errors
    /// `InvalidArgument` for times and filters that make no sense.
    pub fn listen(&self, request: &EventsRequest) -> Result<BoxStream<'static, Told>> {
        let selection = Selection {
            since: request.since.as_deref().map(moment).transpose()?,
            until: request.until.as_deref().map(moment).transpose()?,
            filters: EventFilters::parse(&request.filters)?,
        };
        Ok(listen(self.bus(), selection, Timestamp::now()))
    }
}

fn moment(text: &str) -> Result<Timestamp> {
    text.parse::<Timestamp>()
        .map_err(|error| invalid(format!("invalid time {text:?}"), Some(error.to_string())))
}

/// Which events a listener wants.
#[derive(Debug, Default)]
struct Selection {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    filters: EventFilters,
}

impl Selection {
    fn takes(&self, event: &Event) -> bool {
        self.since.is_none_or(|since| event.time >= since)
            && self.until.is_none_or(|until| event.time <= until)
            && self.filters.fits(event)
    }
}

fn listen(bus: &Bus, selection: Selection, now: Timestamp) -> BoxStream<'static, Told> {
    let (mut past, coming) = bus.replay();
    if selection.since.is_none() && selection.until.is_none() {
        past.clear();
    }
    past.retain(|event| selection.takes(event));
    let past = futures_util::stream::iter(past).map(Told::Event);
    let left = selection.until.map(|until| until.duration_since(now));
    if left.is_some_and(|left| !left.is_positive()) {
        return past.boxed();
    }
    // What no clock can hold is as good as for ever.
    let end = left
        .and_then(|left| Duration::try_from(left).ok())
        .and_then(|left| Instant::now().checked_add(left));
    let coming =
        futures_util::stream::unfold((coming, selection), move |(mut coming, selection)| async move {
            loop {
                let told = tokio::select! {
                    () = reached(end) => return None,
                    told = coming.recv() => told,
                };
                match told {
                    Ok(event) if selection.takes(&event) => {
                        return Some((Told::Event(event), (coming, selection)));
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(count)) => return Some((Told::Lost(count), (coming, selection))),
                    Err(RecvError::Closed) => return None,
                }
            }
        });
    past.chain(coming).boxed()
}

async fn reached(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

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

    fn id(told: Option<Told>) -> String {
        match told {
            Some(Told::Event(event)) => event.id,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_was_is_told_first_and_nothing_twice() {
        let bus = Bus::default();
        for n in 0..REMEMBERED + 5 {
            bus.tell(EventKind::Image, "pull", n.to_string(), &[]);
        }
        let selection = Selection {
            since: Some(Timestamp::UNIX_EPOCH),
            ..Selection::default()
        };
        let mut all = listen(&bus, selection, Timestamp::now());
        bus.tell(EventKind::Image, "pull", "new", &[]);
        for n in 5..REMEMBERED + 5 {
            assert_eq!(
                id(all.next().await),
                n.to_string(),
                "the oldest five are forgotten"
            );
        }
        assert_eq!(id(all.next().await), "new");
        assert!(all.next().now_or_never().is_none(), "it goes on");
        let mut only_new = listen(&bus, Selection::default(), Timestamp::now());
        assert!(only_new.next().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_at_the_time_that_was_asked_for() {
        let bus = Bus::default();
        bus.tell(EventKind::Image, "pull", "old", &[]);
        let now = Timestamp::now();
        let until = |until: Timestamp| Selection {
            until: Some(until),
            ..Selection::default()
        };
        let mut past = listen(&bus, until(now), now);
        assert_eq!(id(past.next().await), "old");
        assert_eq!(past.next().await, None, "what is over ends at once");
        let later = now + Duration::from_secs(3600);
        let mut soon = listen(&bus, until(later), now);
        assert_eq!(id(soon.next().await), "old");
        assert_eq!(soon.next().await, None, "the clock of the test jumps an hour");
        let never = listen(&bus, until(Timestamp::MIN), now).collect::<Vec<_>>().await;
        assert_eq!(never, []);
    }
}
