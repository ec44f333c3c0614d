//! The network of containers: what a request may ask for, how a container is connected when it starts, and how that is taken back.
//!
//! | when | what |
//! |---|---|
//! | create | options that do not go together are refused; `container:X` is resolved to an id |
//! | before the shim is started | `bridge`: attach (address, namespace, ports bound); `container:X`: find X's namespace |
//! | the first process exists | its ports' sockets are handed to a process that lives as long as it |
//! | it does not run any more | detach; when `stop`, `kill` or `rm` return, its ports are free |
//! | the daemon starts | what is left of containers that ended is taken back, what lives is repaired |

use std::net::IpAddr;

use croze_containers::{
    Attachment, Container, CreateRequest, HostAddress, Network, NetworkOptions, ProcessIdentity, Remains,
    State, name_server_warning,
};
use croze_model::{ContainerId, Error, ErrorKind, ExposedPorts, PortRange, Publish, Result};
use croze_networks::{AttachRequest, BridgeSettings, Endpoint, NetworkFacts, ProcessMark};

use futures_util::StreamExt as _;

use crate::engine::{Engine, blocking};
use crate::recovery::SIDE_BY_SIDE;

/// How containers are connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// The network of a container that asks for none in particular.
    pub default: Network,
    /// The default bridge network.
    pub bridge: BridgeSettings,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            default: Network::Bridge,
            bridge: BridgeSettings::default(),
        }
    }
}

impl Engine {
    /// The network of a container that asks for none in particular.
    #[must_use]
    pub fn default_network(&self) -> &Network {
        &self.settings().network.default
    }

    /// A container's connection to the bridge network, while it has one.
    #[must_use]
    pub fn endpoint(&self, id: &ContainerId) -> Option<Endpoint> {
        self.networks().endpoint(id)
    }

    /// The bridge network.
    #[must_use]
    pub fn bridge_network(&self) -> NetworkFacts {
        self.networks().facts()
    }

    /// Takes the bridge network down if no container is connected. To be called when nothing is served any more.
    pub async fn close(&self) {
        let networks = self.networks().clone();
        // It logs what fails; a panic would be in the log, too.
        let _closed = blocking(move || {
            networks.close();
            Ok(())
        })
        .await;
    }

    /// Checks what a create asks of the network, and completes it; gives what the user should know.
    pub(crate) async fn resolve_network(&self, request: &mut CreateRequest) -> Result<Vec<String>> {
        let mut warnings = check(
            &request.network,
            request.hostname.as_deref(),
            &request.network_options,
        )?;
        let hosts = &request.options.extra_hosts;
        match &mut request.network {
            Network::Container(name) => *name = self.containers().resolve(name)?.to_string(),
            Network::Bridge => {
                let mut found = self.network_warnings().await;
                if !request.options.dns.servers.is_empty() {
                    found.retain(|warning| name_server_warning().as_ref() != Some(warning));
                }
                warnings.extend(found.into_iter().filter(|warning| self.is_news(warning)));
            }
            Network::None if hosts.iter().any(|host| host.address == HostAddress::Gateway) => {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "create",
                    "conflicting options: an address host-gateway and the network mode none",
                ));
            }
            Network::None | Network::Host => {}
        }
        Ok(warnings)
    }

    /// What keeps containers on the bridge from being reached, and from finding others.
    pub(crate) async fn network_warnings(&self) -> Vec<String> {
        let networks = self.networks().clone();
        let found = move || {
            let mut found = networks.warnings();
            found.extend(name_server_warning());
            Ok(found)
        };
        blocking(found).await.unwrap_or_default()
    }

    /// Connects a container that is about to be started. With its lock held. Undo: [`Engine::disconnect`].
    pub(crate) async fn connect(&self, container: &Container) -> Result<Attachment> {
        match &container.request.network {
            Network::None | Network::Host => Ok(Attachment::default()),
            Network::Bridge => {
                self.disconnect_unprepared(&container.id).await;
                let request = attach_request(container)?;
                let (networks, id) = (self.networks().clone(), container.id.clone());
                let endpoint = blocking(move || Ok(networks.attach(&id, &request)?)).await?;
                Ok(Attachment {
                    namespace: Some(endpoint.namespace.clone()),
                    held: None,
                    addresses: addresses(&endpoint),
                    gateways: gateways(&endpoint),
                })
            }
            Network::Container(other) => self.join(other).await,
        }
    }

    /// The namespace and addresses of another container, which must run.
    async fn join(&self, other: &str) -> Result<Attachment> {
        let id = self.containers().resolve(other)?;
        let other = self.containers().get(&id)?;
        if !other.state.is_running() {
            return Err(Error::new(
                ErrorKind::Conflict,
                "network",
                format!("cannot join network of a non running container: {}", other.name),
            )
            .hint(format!("start it first: `croze start {}`", other.name)));
        }
        if let Some(endpoint) = self.networks().endpoint(&id) {
            return Ok(Attachment {
                namespace: Some(endpoint.namespace.clone()),
                held: None,
                addresses: addresses(&endpoint),
                gateways: gateways(&endpoint),
            });
        }
        // By a descriptor and not by its number, which may be a process of the host by the time the runtime looks.
        let held = self.containers().network_namespace(id.as_str())?;
        Ok(Attachment {
            namespace: Some(held.path()),
            held: Some(held),
            addresses: Vec::new(),
            gateways: Vec::new(),
        })
    }

    /// Takes back what a former run has left, or a start that failed halfway: a new run gets a namespace of its own. What is prepared stays.
    async fn disconnect_unprepared(&self, id: &ContainerId) {
        if self.networks().endpoint(id).is_some()
            && !matches!(self.containers().remains(id).await, Ok(Remains::Prepared))
        {
            self.disconnect(id).await;
        }
    }

    /// Has the ports of a prepared container served. With its lock held.
    pub(crate) async fn serve_ports(&self, id: &ContainerId) -> Result<()> {
        if self.networks().endpoint(id).is_none_or(|e| e.ports.is_empty()) {
            return Ok(());
        }
        let process = self.containers().process(id).await?.ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "network",
                "the container's process is not known",
            )
        })?;
        let (networks, id) = (self.networks().clone(), id.clone());
        blocking(move || Ok(networks.serve_ports(&id, mark(&process))?)).await
    }

    /// Takes a container's connection back; one that has none is no error. With its lock held.
    pub(crate) async fn disconnect(&self, id: &ContainerId) {
        if self.networks().endpoint(id).is_none() {
            return;
        }
        let (networks, id) = (self.networks().clone(), id.clone());
        // It logs what fails.
        let _detached = blocking(move || {
            networks.detach(&id);
            Ok(())
        })
        .await;
    }

    /// The same for one that has just ended, so that its ports are free for what the user does next.
    pub(crate) async fn disconnect_ended(&self, id: &ContainerId) {
        if self.networks().endpoint(id).is_none() {
            return;
        }
        let _lock = self.locks().lock(id).await;
        let ended = self
            .containers()
            .get(id)
            .is_ok_and(|container| !container.state.is_running());
        if ended && !self.waiting().any(id) {
            self.disconnect(id).await;
        }
    }

    /// Brings the network and the containers together after a start of the daemon. Taken back is only what belongs to a container that surely
    /// does not run: one whose record cannot be read, or whose shim does not answer, may.
    pub(crate) async fn recover_network(&self) {
        let networks = self.networks().clone();
        let traces = blocking(move || Ok(networks.traces())).await.unwrap_or_default();
        let live = futures_util::stream::iter(traces)
            .map(|id| async move { self.liveness(&id).await.map(|process| (id, process)) })
            .buffer_unordered(SIDE_BY_SIDE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let networks = self.networks().clone();
        if let Err(error) = blocking(move || Ok(networks.recover(live)?)).await {
            tracing::error!("the network cannot be recovered: {}", error.one_line());
        }
    }

    /// Whether a container lives, with its first process; within: that it may, and this cannot be told.
    async fn liveness(&self, id: &ContainerId) -> Option<Option<ProcessMark>> {
        match self.containers().get(id) {
            Ok(container) => match &container.state {
                State::Running { process } => Some(Some(mark(process))),
                _ => self.may_be_in_use(&container).await.then_some(None),
            },
            // There is something of it, and no record that can be read.
            Err(_) => self.has_traces(id).then_some(None),
        }
    }
}

fn mark(process: &ProcessIdentity) -> ProcessMark {
    ProcessMark {
        pid: process.pid,
        start_ticks: process.start_ticks,
    }
}

fn addresses(endpoint: &Endpoint) -> Vec<IpAddr> {
    endpoint.addresses().map(|address| address.address).collect()
}

fn gateways(endpoint: &Endpoint) -> Vec<IpAddr> {
    endpoint.addresses().map(|address| address.gateway).collect()
}

fn attach_request(container: &Container) -> Result<AttachRequest> {
    let options = &container.request.network_options;
    Ok(AttachRequest {
        name: container.name.to_string(),
        ipv4: options.ipv4,
        ipv6: options.ipv6,
        mac: options.mac.as_deref().map(str::parse).transpose()?,
        publish: to_publish(options, container),
    })
}

/// What `-p` asks for, and with `-P` every exposed port that it does not mention.
fn to_publish(options: &NetworkOptions, container: &Container) -> Vec<Publish> {
    let mut publish = options.publish.clone();
    if options.publish_all {
        let exposed = container.image.exposed_ports.iter().chain(&options.expose);
        for ports in exposed {
            publish.extend(unmentioned(&publish, *ports));
        }
    }
    publish
}

/// Exposed ports that no `-p` mentions, each to be published on a port that the kernel chooses.
fn unmentioned(publish: &[Publish], exposed: ExposedPorts) -> Vec<Publish> {
    let mentions = |p: &Publish, port: u16| {
        p.container.protocol == exposed.protocol && p.container.ports.iter().any(|one| one == port)
    };
    exposed
        .ports
        .iter()
        .filter(|port| !publish.iter().any(|p| mentions(p, *port)))
        .filter_map(|port| {
            Some(Publish {
                host: None,
                host_ports: None,
                container: ExposedPorts {
                    ports: PortRange::new(port, port)?,
                    protocol: exposed.protocol,
                },
            })
        })
        .collect()
}

/// Refuses options that do not go with the network, in docker's words where it has some; gives warnings about those that mean nothing there.
fn check(network: &Network, hostname: Option<&str>, options: &NetworkOptions) -> Result<Vec<String>> {
    let refuse = |text: &str| Err(Error::new(ErrorKind::InvalidArgument, "create", text.to_owned()));
    if let Some(mac) = &options.mac {
        mac.parse::<croze_networks::Mac>()?;
    }
    let publishes = !options.publish.is_empty() || options.publish_all;
    let has_address = options.ipv4.is_some() || options.ipv6.is_some() || options.mac.is_some();
    match network {
        Network::Bridge => Ok(Vec::new()),
        Network::Container(_) if publishes => {
            refuse("conflicting options: port publishing and the container type network mode")
        }
        Network::Container(_) if !options.expose.is_empty() => {
            refuse("conflicting options: port exposing and the container type network mode")
        }
        Network::Container(_) if hostname.is_some() => {
            refuse("conflicting options: hostname and the network mode")
        }
        _ if has_address => refuse(&format!(
            "conflicting options: an address and the network mode {}",
            network.name()
        )),
        Network::Host | Network::None if publishes => Ok(vec![format!(
            "published ports are discarded when using {} network mode",
            network.name()
        )]),
        Network::Host | Network::None | Network::Container(_) => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposed_ports_are_published_once() {
        let publish: Vec<Publish> = vec!["8000-8002:8000-8002".parse().unwrap()];
        for (exposed, ports) in [
            ("8001", vec![]),
            ("8001/udp", vec!["8001/udp"]),
            ("8002-8004", vec!["8003/tcp", "8004/tcp"]),
        ] {
            let added = unmentioned(&publish, exposed.parse().unwrap());
            let added: Vec<String> = added.iter().map(|p| p.container.to_string()).collect();
            assert_eq!(added, ports, "{exposed}");
        }
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        let publishing = NetworkOptions {
            publish: vec!["80".parse().unwrap()],
            ..NetworkOptions::default()
        };
        let addressed = NetworkOptions {
            ipv4: Some([172, 30, 0, 9].into()),
            ..NetworkOptions::default()
        };
        let exposing = NetworkOptions {
            expose: vec!["80".parse().unwrap()],
            ..NetworkOptions::default()
        };
        let bad_mac = NetworkOptions {
            mac: Some("x".into()),
            ..NetworkOptions::default()
        };
        let joined = Network::Container("web".into());
        for (network, hostname, options, outcome) in [
            (&Network::Bridge, Some("h"), &publishing, Ok(0)),
            (&Network::Bridge, None, &addressed, Ok(0)),
            (&Network::Bridge, None, &bad_mac, Err("\"x\" is no MAC address")),
            (&Network::Host, None, &publishing, Ok(1)),
            (&Network::None, None, &publishing, Ok(1)),
            (&Network::None, None, &exposing, Ok(0)),
            (
                &Network::Host,
                None,
                &addressed,
                Err("an address and the network mode host"),
            ),
            (&joined, None, &NetworkOptions::default(), Ok(0)),
            (
                &joined,
                None,
                &publishing,
                Err("port publishing and the container type network mode"),
            ),
            (
                &joined,
                None,
                &exposing,
                Err("port exposing and the container type network mode"),
            ),
            (
                &joined,
                Some("h"),
                &NetworkOptions::default(),
                Err("hostname and the network mode"),
            ),
            (
                &joined,
                None,
                &addressed,
                Err("an address and the network mode container:web"),
            ),
        ] {
            let result = check(network, hostname, options);
            match outcome {
                Ok(warnings) => assert_eq!(result.unwrap().len(), warnings, "{network:?} {options:?}"),
                Err(words) => {
                    let error = result.unwrap_err().one_line();
                    assert!(error.contains(words), "{error}");
                }
            }
        }
    }
}
