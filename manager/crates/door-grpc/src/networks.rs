//! `croze.v1.Networks`, and what other services say of networks: both ways between the wire's messages and the engine's words.

use std::str::FromStr;

use croze_engine::{
    Container, CreateRequest, Endpoint, Engine, Network, NetworkOptions, PublishedPort, State,
};
use croze_model::{Error, ErrorKind, ExposedPorts, PortRange, Protocol, Publish};
use croze_proto::v1;
use croze_proto::v1::networks_server::Networks;
use tonic::{Request, Response, Status};

use crate::Door;
use crate::decode::given;
use crate::status::{self, invalid};

#[tonic::async_trait]
impl Networks for Door {
    async fn list_networks(
        &self,
        _: Request<v1::ListNetworksRequest>,
    ) -> Result<Response<v1::ListNetworksResponse>, Status> {
        let facts = self.engine.bridge_network();
        let bridge = v1::Network {
            name: facts.name,
            driver: "bridge".to_owned(),
            bridge: facts.bridge,
            subnets: facts
                .subnets
                .iter()
                .map(|(subnet, gateway)| v1::Subnet {
                    subnet: subnet.to_string(),
                    gateway: gateway.to_string(),
                })
                .collect(),
            mtu: facts.mtu,
            members: facts.endpoints.iter().map(member).collect(),
        };
        let other = |name: &str, driver: &str| v1::Network {
            name: name.to_owned(),
            driver: driver.to_owned(),
            ..v1::Network::default()
        };
        Ok(Response::new(v1::ListNetworksResponse {
            networks: vec![bridge, other("host", "host"), other("none", "null")],
        }))
    }
}

fn member(endpoint: &Endpoint) -> v1::NetworkMember {
    v1::NetworkMember {
        id: endpoint.container.as_str().to_owned(),
        name: endpoint.name.clone(),
        endpoint: Some(encode_endpoint(endpoint)),
    }
}

fn encode_endpoint(endpoint: &Endpoint) -> v1::Endpoint {
    let mut message = v1::Endpoint {
        ipv4: endpoint.ipv4.address.to_string(),
        ipv4_prefix: endpoint.ipv4.prefix.into(),
        ipv4_gateway: endpoint.ipv4.gateway.to_string(),
        mac: endpoint.mac.to_string(),
        namespace: endpoint.namespace.display().to_string(),
        ..v1::Endpoint::default()
    };
    if let Some(ipv6) = endpoint.ipv6 {
        message.ipv6 = ipv6.address.to_string();
        message.ipv6_prefix = ipv6.prefix.into();
        message.ipv6_gateway = ipv6.gateway.to_string();
    }
    message
}

/// Completes a request with its network.
pub(crate) fn decode(
    engine: &Engine,
    network: &str,
    options: Option<v1::NetworkOptions>,
    request: CreateRequest,
) -> Result<CreateRequest, Status> {
    let network = match network {
        "" => engine.default_network().clone(),
        name => named(name)?,
    };
    Ok(CreateRequest {
        network,
        network_options: decode_options(options.unwrap_or_default())?,
        ..request
    })
}

fn named(name: &str) -> Result<Network, Status> {
    Network::from_name(name).ok_or_else(|| {
        status::of(
            &Error::new(
                ErrorKind::InvalidArgument,
                "create",
                format!("network {name} not found"),
            )
            .hint("the networks are bridge, none, host and container:NAME"),
        )
    })
}

fn decode_options(message: v1::NetworkOptions) -> Result<NetworkOptions, Status> {
    Ok(NetworkOptions {
        publish: message
            .publish
            .into_iter()
            .map(decode_publish)
            .collect::<Result<_, _>>()?,
        publish_all: message.publish_all,
        expose: message.expose.iter().map(exposed).collect::<Result<_, _>>()?,
        ipv4: address(message.ipv4)?,
        ipv6: address(message.ipv6)?,
        mac: given(message.mac),
    })
}

fn address<T: FromStr>(text: String) -> Result<Option<T>, Status> {
    let parse = |text: String| {
        text.parse()
            .map_err(|_| invalid(format!("invalid IP address: {text}")))
    };
    given(text).map(parse).transpose()
}

fn decode_publish(message: v1::PublishPorts) -> Result<Publish, Status> {
    let container = message.container.unwrap_or_default();
    let publish = Publish {
        host: address(message.host_ip)?,
        host_ports: message.host.as_ref().map(range).transpose()?,
        container: exposed(&container)?,
    };
    // The rule about ranges is the model's: what it writes it must read back.
    match publish.to_string().parse::<Publish>() {
        Ok(_) => Ok(publish),
        Err(error) => Err(invalid(error.to_string())),
    }
}

fn exposed(message: &v1::PortRange) -> Result<ExposedPorts, Status> {
    let protocol = match message.protocol.as_str() {
        "" => Protocol::Tcp,
        name => name
            .parse()
            .map_err(|error: croze_model::PortError| invalid(error.to_string()))?,
    };
    Ok(ExposedPorts {
        ports: range(message)?,
        protocol,
    })
}

fn range(message: &v1::PortRange) -> Result<PortRange, Status> {
    let port = |number: u32| u16::try_from(number).ok();
    port(message.first)
        .zip(port(message.last))
        .and_then(|(first, last)| PortRange::new(first, last))
        .ok_or_else(|| invalid(format!("invalid port range: {}-{}", message.first, message.last)))
}

fn encode_range(ports: &ExposedPorts) -> v1::PortRange {
    v1::PortRange {
        first: ports.ports.first().into(),
        last: ports.ports.last().into(),
        protocol: ports.protocol.to_string(),
    }
}

fn encode_published(port: &PublishedPort) -> v1::PublishedPort {
    v1::PublishedPort {
        host_ip: port.host_ip.to_string(),
        host_port: port.host_port.into(),
        container_port: port.container_port.into(),
        protocol: port.protocol.to_string(),
    }
}

/// What was asked for.
pub(crate) fn encode_options(options: &NetworkOptions) -> v1::NetworkOptions {
    let text = |address: Option<String>| address.unwrap_or_default();
    v1::NetworkOptions {
        publish: options
            .publish
            .iter()
            .map(|publish| v1::PublishPorts {
                host_ip: text(publish.host.map(|a| a.to_string())),
                host: publish.host_ports.map(|ports| {
                    encode_range(&ExposedPorts {
                        ports,
                        protocol: publish.container.protocol,
                    })
                }),
                container: Some(encode_range(&publish.container)),
            })
            .collect(),
        publish_all: options.publish_all,
        expose: options.expose.iter().map(encode_range).collect(),
        ipv4: text(options.ipv4.map(|a| a.to_string())),
        ipv6: text(options.ipv6.map(|a| a.to_string())),
        mac: options.mac.clone().unwrap_or_default(),
    }
}

/// Completes what a list shows with the container's ports.
pub(crate) fn complete(engine: &Engine, container: &Container, summary: &mut v1::ContainerSummary) {
    let exposed = container
        .image
        .exposed_ports
        .iter()
        .chain(&container.request.network_options.expose);
    summary.exposed_ports = exposed.map(encode_range).collect();
    if matches!(container.state, State::Running { .. })
        && let Some(endpoint) = engine.endpoint(&container.id)
    {
        summary.ports = endpoint.ports.iter().map(encode_published).collect();
        summary.endpoint = Some(encode_endpoint(&endpoint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_survive_the_wire() {
        let options = NetworkOptions {
            publish: ["80", "[::1]:8080-8082:80-82/udp", "7000-7010:80"]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect(),
            publish_all: true,
            expose: vec!["90-92/udp".parse().unwrap()],
            ipv4: Some([172, 30, 0, 9].into()),
            ipv6: Some("fd00::9".parse().unwrap()),
            mac: Some("02:42:ac:1e:00:09".into()),
        };
        assert_eq!(decode_options(encode_options(&options)).unwrap(), options);
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        let range = |first, last, protocol: &str| v1::PortRange {
            first,
            last,
            protocol: protocol.to_owned(),
        };
        let publish = |host: Option<v1::PortRange>, container: v1::PortRange| v1::PublishPorts {
            host,
            container: Some(container),
            ..v1::PublishPorts::default()
        };
        for bad in [
            publish(None, range(0, 0, "")),
            publish(None, range(80, 79, "")),
            publish(None, range(80, 65_536, "")),
            publish(None, range(80, 80, "icmp")),
            publish(Some(range(1, 2, "")), range(80, 82, "")),
        ] {
            assert!(decode_publish(bad.clone()).is_err(), "{bad:?}");
        }
        assert!(named("nope").is_err() && named("container:web").is_ok());
        let options = v1::NetworkOptions {
            ipv4: "fd00::1".to_owned(),
            ..v1::NetworkOptions::default()
        };
        assert!(decode_options(options).is_err());
    }
}
