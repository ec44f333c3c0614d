//! Conditions on events.

use croze_model::Result;

use super::{Filter, Filters};
use crate::events::{Event, EventKind};

/// What may be asked for.
const KNOWN: [&str; 5] = ["container", "event", "image", "label", "type"];

/// Conditions on events, understood.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventFilters {
    filters: Filters,
}

impl EventFilters {
    pub(crate) fn parse(filters: &[Filter]) -> Result<Self> {
        let filters = Filters::parse("events", &KNOWN, filters)?;
        Ok(Self { filters })
    }

    pub(crate) fn fits(&self, event: &Event) -> bool {
        let wanted = |key: &str, fits: &dyn Fn(&str) -> bool| {
            let values = self.filters.values(key);
            values.is_empty() || values.iter().any(|value| fits(value))
        };
        let attribute = |key: &str| event.attributes.get(key).map_or("", String::as_str);
        let image_name = match event.kind {
            EventKind::Container => attribute("image"),
            EventKind::Image => attribute("name"),
        };
        wanted("type", &|kind| event.kind.as_str() == kind)
            && wanted("event", &|action| event.action == action)
            && wanted("container", &|name| {
                event.kind == EventKind::Container
                    && (event.id.starts_with(name) || attribute("name").starts_with(name))
            })
            && wanted("image", &|image| {
                [event.id.as_str(), image_name]
                    .into_iter()
                    .any(|known| known == image || without_tag(known) == image)
            })
            && self
                .filters
                .fit_labels(|key| event.attributes.get(key).map(String::as_str))
    }
}

/// A name without its tag: a colon before a slash belongs to a registry's port.
fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') && repository != "sha256" => repository,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::filters;
    use super::*;

    #[test]
    fn conditions_and_what_they_let_through() {
        let event = |kind, action, id: &str, attributes: &[(&str, &str)]| Event {
            time: jiff::Timestamp::UNIX_EPOCH,
            kind,
            action,
            id: id.to_owned(),
            attributes: attributes
                .iter()
                .map(|&(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        };
        let attributes = [
            ("name", "web"),
            ("image", "host:5000/debian:12"),
            ("tier", "front"),
        ];
        let die = event(EventKind::Container, "die", "abc", &attributes);
        let pull = event(EventKind::Image, "pull", "debian:12", &[("name", "debian:12")]);
        for (pairs, of_die, of_pull) in [
            (&[][..], true, true),
            (&[("type", "container")], true, false),
            (&[("type", "image"), ("type", "container")], true, true),
            (&[("event", "die")], true, false),
            (&[("container", "web")], true, false),
            (&[("container", "ab")], true, false),
            (&[("container", "b")], false, false),
            (&[("image", "host:5000/debian")], true, false),
            (&[("image", "debian:12")], false, true),
            (&[("image", "debian")], false, true),
            (&[("label", "tier=front")], true, false),
            (&[("event", "die"), ("type", "image")], false, false),
        ] {
            let filters = EventFilters::parse(&filters(pairs)).unwrap();
            assert_eq!(
                (filters.fits(&die), filters.fits(&pull)),
                (of_die, of_pull),
                "{pairs:?}"
            );
        }
        assert!(EventFilters::parse(&filters(&[("colour", "blue")])).is_err());
    }
}
