//! Conditions on containers.

use std::collections::HashSet;

use croze_containers::{Container, State};
use croze_model::{ContainerId, Result};
use regex::Regex;

use super::{Filter, Filters, invalid};

/// What may be asked for.
const KNOWN: [&str; 11] = [
    "ancestor", "before", "exited", "health", "id", "label", "name", "network", "since", "status", "volume",
];
/// docker's names of states; some of them no container here can be in.
const STATES: [&str; 7] = [
    "created",
    "restarting",
    "running",
    "removing",
    "paused",
    "exited",
    "dead",
];
/// What `health` may ask for.
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

/// Conditions on containers, understood.
#[derive(Debug)]
pub(crate) struct ContainerFilters {
    filters: Filters,
    names: Vec<Regex>,
    ids: Vec<Regex>,
    exited: Vec<u32>,
}

/// What conditions refer to, looked up.
#[derive(Debug, Default)]
pub(crate) struct References {
    /// Only those that were made before this one.
    pub(crate) before: Option<ContainerId>,
    /// Only those that were made after this one.
    pub(crate) since: Option<ContainerId>,
    /// Ids of the images that the wanted ancestors and their descendants are.
    pub(crate) ancestors: HashSet<String>,
}

impl ContainerFilters {
    pub(crate) fn parse(filters: &[Filter]) -> Result<Self> {
        let filters = Filters::parse("containers", &KNOWN, filters)?;
        one_of(&filters, "status", &STATES)?;
        one_of(&filters, "health", &HEALTH)?;
        let code = |text: &String| {
            text.parse::<u32>().map_err(|_| {
                invalid(
                    format!("invalid filter \"exited={text}\": it takes an exit code"),
                    None,
                )
            })
        };
        let exited = filters.values("exited").iter().map(code).collect::<Result<_>>()?;
        let (names, ids) = (filters.patterns("name")?, filters.patterns("id")?);
        filters.single("before")?;
        filters.single("since")?;
        Ok(Self {
            filters,
            names,
            ids,
            exited,
        })
    }

    /// The container that `before` names.
    pub(crate) fn before(&self) -> Option<&str> {
        self.filters.values("before").first().map(String::as_str)
    }

    /// The container that `since` names.
    pub(crate) fn since(&self) -> Option<&str> {
        self.filters.values("since").first().map(String::as_str)
    }

    /// The images that `ancestor` names.
    pub(crate) fn ancestors(&self) -> &[String] {
        self.filters.values("ancestor")
    }

    /// Whether a state is asked for: then those that do not run are not left out.
    pub(crate) fn wants_states(&self) -> bool {
        !self.filters.values("status").is_empty()
    }

    /// Those of `containers` (all there are, the newest first) that fit.
    pub(crate) fn select(&self, containers: Vec<Container>, references: &References) -> Vec<Container> {
        let position = |id: &Option<ContainerId>| {
            let id = id.as_ref()?;
            containers.iter().position(|container| container.id == *id)
        };
        let newer_than = position(&references.since).unwrap_or(containers.len());
        let older_than = position(&references.before).map_or(0, |position| position + 1);
        containers
            .into_iter()
            .enumerate()
            .filter(|(position, _)| (older_than..newer_than).contains(position))
            .map(|(_, container)| container)
            .filter(|container| self.fits(container, references))
            .collect()
    }

    fn fits(&self, container: &Container, references: &References) -> bool {
        let name = container.name.as_str();
        let any_of = |patterns: &[Regex], texts: &[&str]| {
            patterns.is_empty() || patterns.iter().any(|p| texts.iter().any(|text| p.is_match(text)))
        };
        let wanted = |key: &str, fits: &dyn Fn(&str) -> bool| {
            let values = self.filters.values(key);
            values.is_empty() || values.iter().any(|value| fits(value))
        };
        let labels = &container.request.labels;
        let label = |key: &str| {
            let found = labels.get(key).or_else(|| container.image.labels.get(key));
            found.map(String::as_str)
        };
        any_of(&self.names, &[name, &format!("/{name}")])
            && any_of(&self.ids, &[container.id.as_str()])
            && self.filters.fit_labels(label)
            && self.fits_exit(container)
            && wanted("status", &|status| container.state.name() == status)
            // There are no health checks.
            && wanted("health", &|health| health == "none")
            && wanted("ancestor", &|_| references.ancestors.contains(&container.image.id))
            && wanted("network", &|network| container.request.network.name() == network)
            && wanted("volume", &|volume| {
                let mut mounts = container.request.mounts.iter();
                mounts.any(|mount| mount.target == volume || mount.source.as_os_str() == volume)
            })
    }

    fn fits_exit(&self, container: &Container) -> bool {
        self.exited.is_empty()
            || matches!(&container.state, State::Exited { status } if self.exited.contains(&status.code))
    }
}

fn one_of(filters: &Filters, key: &str, allowed: &[&str]) -> Result<()> {
    let wrong = filters
        .values(key)
        .iter()
        .find(|value| !allowed.contains(&value.as_str()));
    match wrong {
        None => Ok(()),
        Some(value) => Err(invalid(format!("invalid filter \"{key}={value}\""), None)
            .hint(format!("{key} is one of {}", allowed.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use croze_containers::{BindMount, CreateRequest, ExitStatus, ImageFacts, Network};

    use super::super::tests::filters;
    use super::*;

    fn container(n: u8, name: &str, state: State) -> Container {
        Container {
            id: ContainerId::from_random([n; 32]),
            name: name.parse().unwrap(),
            created_at: format!("2026-01-01T00:00:{n:02}Z"),
            request: CreateRequest {
                labels: [("tier".to_owned(), name.to_owned())].into(),
                network: if n == 1 { Network::Host } else { Network::None },
                mounts: vec![BindMount {
                    source: format!("/src{n}").into(),
                    target: "/data".to_owned(),
                    read_only: false,
                    propagation: croze_containers::Propagation::default(),
                    recursive: true,
                    read_only_below: croze_containers::ReadOnlyBelow::default(),
                    create_source: false,
                }],
                ..CreateRequest::default()
            },
            image: ImageFacts {
                id: format!("image{n}"),
                labels: [("maker".to_owned(), "us".to_owned())].into(),
                ..ImageFacts::default()
            },
            state,
            started_at: None,
            error: None,
        }
    }

    fn exited(code: u32) -> State {
        State::Exited {
            status: ExitStatus {
                code,
                signal: None,
                oom_killed: false,
                finished_at: String::new(),
                log_lines_dropped: 0,
                unknown: false,
                log_end: None,
            },
        }
    }

    /// The newest first: web3, web2, db1.
    fn shown(pairs: &[(&str, &str)], references: &References) -> Vec<String> {
        let all = vec![
            container(3, "web3", State::Created),
            container(2, "web2", exited(3)),
            container(1, "db1", exited(0)),
        ];
        let selected = ContainerFilters::parse(&filters(pairs))
            .unwrap()
            .select(all, references);
        selected
            .iter()
            .map(|container| container.name.to_string())
            .collect()
    }

    #[test]
    fn conditions_and_what_they_leave() {
        let nothing = References::default();
        for (pairs, names) in [
            (&[][..], &["web3", "web2", "db1"][..]),
            (&[("name", "web")], &["web3", "web2"]),
            (&[("name", "^/web2$")], &["web2"]),
            (&[("name", "^b")], &[]),
            (&[("id", "0101")], &["db1"]),
            (&[("status", "exited")], &["web2", "db1"]),
            (
                &[("status", "exited"), ("status", "created")],
                &["web3", "web2", "db1"],
            ),
            (&[("exited", "3")], &["web2"]),
            (&[("exited", "0"), ("name", "web")], &[]),
            (&[("label", "maker=us"), ("label", "tier=db1")], &["db1"]),
            (&[("label", "tier"), ("label", "nope")], &[]),
            (&[("network", "host")], &["db1"]),
            (&[("volume", "/data")], &["web3", "web2", "db1"]),
            (&[("volume", "/src2")], &["web2"]),
            (&[("health", "none")], &["web3", "web2", "db1"]),
            (&[("health", "healthy")], &[]),
            (&[("ancestor", "unknown")], &[]),
        ] {
            assert_eq!(shown(pairs, &nothing), names, "{pairs:?}");
        }
    }

    #[test]
    fn before_since_and_ancestors_refer_to_others() {
        let id = |n: u8| Some(ContainerId::from_random([n; 32]));
        let references = |before, since| References {
            before,
            since,
            ancestors: ["image2".to_owned()].into(),
        };
        assert_eq!(shown(&[], &references(id(2), None)), ["db1"]);
        assert_eq!(shown(&[], &references(None, id(2))), ["web3"]);
        assert_eq!(shown(&[], &references(id(3), id(1))), ["web2"]);
        assert_eq!(shown(&[("ancestor", "x")], &references(None, None)), ["web2"]);
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for pairs in [
            &[("bogus", "1")][..],
            &[("status", "asleep")],
            &[("exited", "often")],
            &[("health", "fine")],
            &[("name", "(")],
            &[("before", "a"), ("before", "b")],
        ] {
            assert!(ContainerFilters::parse(&filters(pairs)).is_err(), "{pairs:?}");
        }
    }
}
