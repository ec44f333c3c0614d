//! `port`, `network`, and how ports are shown elsewhere.

use std::collections::BTreeMap;

use croze_client::v1::{
    ContainerState, ContainerSummary, Endpoint, InspectContainerRequest, ListNetworksRequest, Network,
    NetworkOptions, PortRange, PublishPorts, PublishedPort,
};
use croze_client::{Client, Error, Publish, nearest};
use serde_json::{Value as Json, json};

use crate::args::{NetworkArgs, NetworkVerb, PortArgs};
use crate::failure::Failure;
use crate::listing::{Format, Title};
use crate::output;
use crate::template::Value;
use crate::verbs::inspect::Form;

/// docker's table, without its first column: networks have no ids.
const TABLE: &str = "{{.Name}}\t{{.Driver}}\t{{.Scope}}";
const TITLES: [Title; 4] = [
    ("Driver", "DRIVER"),
    ("IPv6", "IPV6"),
    ("Name", "NAME"),
    ("Scope", "SCOPE"),
];

/// The request's part about the network.
pub(super) fn options(args: &NetworkArgs) -> NetworkOptions {
    let text = |value: Option<String>| value.unwrap_or_default();
    NetworkOptions {
        publish: args.publish.iter().map(publish).collect(),
        publish_all: args.publish_all,
        expose: args.expose.iter().map(range).collect(),
        ipv4: text(args.ip.map(|ip| ip.to_string())),
        ipv6: text(args.ip6.map(|ip| ip.to_string())),
        mac: text(args.mac_address.clone()),
    }
}

fn range(ports: &croze_client::ExposedPorts) -> PortRange {
    PortRange {
        first: ports.ports.first().into(),
        last: ports.ports.last().into(),
        protocol: ports.protocol.to_string(),
    }
}

fn publish(publish: &Publish) -> PublishPorts {
    PublishPorts {
        host_ip: publish.host.map(|ip| ip.to_string()).unwrap_or_default(),
        host: publish.host_ports.map(|ports| PortRange {
            first: ports.first().into(),
            last: ports.last().into(),
            protocol: publish.container.protocol.to_string(),
        }),
        container: Some(range(&publish.container)),
    }
}

/// `croze port`
pub(super) async fn port(client: &Client, args: &PortArgs) -> Result<u8, Failure> {
    let request = InspectContainerRequest {
        container: args.container.clone(),
        sizes: false,
    };
    let inspected = client
        .containers()
        .inspect_container(request)
        .await
        .map_err(Error::from)?
        .into_inner();
    let summary = inspected.summary.unwrap_or_default();
    let Some(wanted) = &args.port else {
        for port in &summary.ports {
            let line = format!(
                "{}/{} -> {}",
                port.container_port,
                port.protocol,
                host_address(port)
            );
            output::line(&line)?;
        }
        return Ok(0);
    };
    let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let number: u32 = number
        .parse()
        .map_err(|_| Failure::usage(format!("{wanted:?} is no port"), Some("write PORT or PORT/udp")))?;
    let mut found = false;
    for port in &summary.ports {
        if (port.container_port, port.protocol.as_str()) == (number, protocol) {
            output::line(&host_address(port))?;
            found = true;
        }
    }
    if found {
        return Ok(0);
    }
    output::notice(&format!(
        "Error: No public port '{number}/{protocol}' published for {}",
        args.container
    ));
    Err(Failure::reported())
}

fn host_address(port: &PublishedPort) -> String {
    if port.host_ip.contains(':') {
        format!("[{}]:{}", port.host_ip, port.host_port)
    } else {
        format!("{}:{}", port.host_ip, port.host_port)
    }
}

/// The column PORTS of `ps`, as docker shows it: ranges joined, sorted by the container's ports.
pub(super) fn column(container: &ContainerSummary) -> String {
    if container.state() != ContainerState::Running || container.network != "bridge" {
        return String::new();
    }
    // Address of the host ("" for ports that are offered only) and protocol, then the container's port and the host's.
    let mut groups: BTreeMap<(String, String), Vec<(u32, u32)>> = BTreeMap::new();
    for port in &container.ports {
        let key = (port.host_ip.clone(), port.protocol.clone());
        groups
            .entry(key)
            .or_default()
            .push((port.container_port, port.host_port));
    }
    let published = |number: u32, protocol: &str| {
        let mut ports = container.ports.iter();
        ports.any(|p| p.container_port == number && p.protocol == protocol)
    };
    for exposed in &container.exposed_ports {
        for number in (exposed.first..=exposed.last).filter(|n| !published(*n, &exposed.protocol)) {
            let key = (String::new(), exposed.protocol.clone());
            groups.entry(key).or_default().push((number, 0));
        }
    }
    let mut shown: Vec<(u32, bool, String, String)> = Vec::new();
    for ((address, protocol), mut ports) in groups {
        ports.sort_unstable();
        ports.dedup();
        for run in runs(&ports) {
            let ((first, host_first), (last, host_last)) = (run[0], run[run.len() - 1]);
            let inside = format!("{}/{protocol}", span(first, last));
            let text = if address.is_empty() {
                inside
            } else {
                format!("{address}:{}->{inside}", span(host_first, host_last))
            };
            shown.push((first, address.contains(':'), protocol.clone(), text));
        }
    }
    shown.sort();
    let texts: Vec<String> = shown.into_iter().map(|(.., text)| text).collect();
    texts.join(", ")
}

/// Ports that follow each other on both sides.
fn runs(ports: &[(u32, u32)]) -> Vec<&[(u32, u32)]> {
    let follows =
        |a: &(u32, u32), b: &(u32, u32)| b.0 == a.0 + 1 && (b.1 == a.1 + 1 || (a.1 == 0 && b.1 == 0));
    ports.chunk_by(follows).collect()
}

fn span(first: u32, last: u32) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

fn row(network: &Network) -> Value {
    let fields = [
        ("Driver", network.driver.clone()),
        ("IPv6", has_ipv6(network).to_string()),
        ("Name", network.name.clone()),
        ("Scope", "local".to_owned()),
    ];
    Value::Struct(
        fields
            .map(|(name, text)| (name.to_owned(), Value::Text(text)))
            .into(),
    )
}

fn has_ipv6(network: &Network) -> bool {
    network.subnets.iter().any(|subnet| subnet.subnet.contains(':'))
}

async fn networks(client: &Client) -> Result<Vec<Network>, Failure> {
    let listed = client.networks().list_networks(ListNetworksRequest {}).await;
    Ok(listed.map_err(Error::from)?.into_inner().networks)
}

/// `croze network`
pub(super) async fn network(client: &Client, verb: &NetworkVerb) -> Result<u8, Failure> {
    let all = networks(client).await?;
    match verb {
        NetworkVerb::Ls(args) => {
            let format = match args.quiet {
                true => Format::quiet(args.format.as_deref(), "Name")?,
                false => Format::parse(args.format.as_deref(), TABLE)?,
            };
            let rows: Vec<Value> = all.iter().map(row).collect();
            format.print(&TITLES, &rows)?;
        }
        NetworkVerb::Inspect(args) => {
            let form = Form::parse(args.format.as_deref())?;
            let mut found = Vec::new();
            let mut failed = false;
            for name in &args.networks {
                match all.iter().find(|network| network.name == *name) {
                    Some(network) => found.push(document(network)),
                    None => {
                        output::notice(&format!("Error: network {name} not found"));
                        let names = all.iter().map(|network| network.name.as_str());
                        let near = nearest(name, names).map(|near| format!("did you mean {near}? "));
                        output::hint(&format!(
                            "{}`croze network ls` lists them",
                            near.unwrap_or_default()
                        ));
                        failed = true;
                    }
                }
            }
            form.print(&found)?;
            if failed {
                return Err(Failure::reported());
            }
        }
    }
    Ok(0)
}

/// docker's document about a network.
fn document(network: &Network) -> Json {
    let subnets: Vec<Json> = network
        .subnets
        .iter()
        .map(|subnet| json!({"Subnet": subnet.subnet, "Gateway": subnet.gateway}))
        .collect();
    let members: BTreeMap<&str, Json> = network
        .members
        .iter()
        .map(|member| {
            let endpoint = member.endpoint.clone().unwrap_or_default();
            let with_prefix = |address: &str, prefix: u32| match address {
                "" => String::new(),
                _ => format!("{address}/{prefix}"),
            };
            let facts = json!({
                "Name": member.name,
                "MacAddress": endpoint.mac,
                "IPv4Address": with_prefix(&endpoint.ipv4, endpoint.ipv4_prefix),
                "IPv6Address": with_prefix(&endpoint.ipv6, endpoint.ipv6_prefix),
            });
            (member.id.as_str(), facts)
        })
        .collect();
    let options = match network.bridge.as_str() {
        "" => json!({}),
        bridge => json!({
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.name": bridge,
            "com.docker.network.driver.mtu": network.mtu.to_string(),
        }),
    };
    json!({
        "Name": network.name,
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv6": has_ipv6(network),
        "IPAM": {"Driver": "default", "Config": subnets},
        "Internal": false,
        "Containers": members,
        "Options": options,
    })
}

/// `NetworkSettings` of an inspected container.
pub(super) fn settings(network: &str, summary: &ContainerSummary) -> Json {
    let endpoint = summary.endpoint.clone().unwrap_or_default();
    let own = facts(&endpoint);
    let mut settings = json!({
        "Bridge": "",
        "SandboxID": "",
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": ports(summary),
        "SandboxKey": endpoint.namespace,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": "",
    });
    let mut of_network = json!({
        "IPAMConfig": null,
        "Links": null,
        "Aliases": null,
        "NetworkID": "",
        "EndpointID": "",
        "DriverOpts": null,
    });
    if let (Json::Object(settings), Json::Object(of_network), Json::Object(own)) =
        (&mut settings, &mut of_network, own)
    {
        settings.extend(own.clone());
        of_network.extend(own);
        let networks = match network.starts_with("container:") {
            true => json!({}),
            false => json!({ network: of_network }),
        };
        settings.insert("Networks".to_owned(), networks);
    }
    settings
}

fn facts(endpoint: &Endpoint) -> Json {
    json!({
        "Gateway": endpoint.ipv4_gateway,
        "GlobalIPv6Address": endpoint.ipv6,
        "GlobalIPv6PrefixLen": endpoint.ipv6_prefix,
        "IPAddress": endpoint.ipv4,
        "IPPrefixLen": endpoint.ipv4_prefix,
        "IPv6Gateway": endpoint.ipv6_gateway,
        "MacAddress": endpoint.mac,
    })
}

/// Every port that is offered, with where it is published.
fn ports(summary: &ContainerSummary) -> Json {
    let mut all: BTreeMap<String, Json> = BTreeMap::new();
    if summary.endpoint.is_none() {
        return json!(all);
    }
    for exposed in &summary.exposed_ports {
        for number in exposed.first..=exposed.last {
            all.insert(format!("{number}/{}", exposed.protocol), Json::Null);
        }
    }
    for port in &summary.ports {
        let key = format!("{}/{}", port.container_port, port.protocol);
        let binding = json!({"HostIp": port.host_ip, "HostPort": port.host_port.to_string()});
        match all.entry(key).or_insert(Json::Null) {
            Json::Array(bindings) => bindings.push(binding),
            nothing => *nothing = json!([binding]),
        }
    }
    json!(all)
}

/// `PortBindings` of a container's `HostConfig`: what was asked for.
pub(super) fn bindings(options: &NetworkOptions) -> Json {
    let mut all: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    for publish in &options.publish {
        let container = publish.container.clone().unwrap_or_default();
        let host = publish.host.clone();
        for (n, number) in (container.first..=container.last).enumerate() {
            let host_port = match &host {
                None => String::new(),
                Some(host) if container.first == container.last => span(host.first, host.last),
                Some(host) => (host.first + u32::try_from(n).unwrap_or(0)).to_string(),
            };
            all.entry(format!("{number}/{}", container.protocol))
                .or_default()
                .push(json!({"HostIp": publish.host_ip, "HostPort": host_port}));
        }
    }
    json!(all)
}

/// `ExposedPorts` of a container's `Config`; `None`: there are none, and docker leaves the field out.
pub(super) fn exposed(summary: &ContainerSummary, options: &NetworkOptions) -> Option<Json> {
    let published = options.publish.iter().filter_map(|p| p.container.as_ref());
    let all: BTreeMap<String, Json> = summary
        .exposed_ports
        .iter()
        .chain(published)
        .flat_map(|range| (range.first..=range.last).map(|n| (format!("{n}/{}", range.protocol), json!({}))))
        .collect();
    (!all.is_empty()).then(|| json!(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: &str, host_port: u32, container_port: u32, protocol: &str) -> PublishedPort {
        PublishedPort {
            host_ip: host_ip.to_owned(),
            host_port,
            container_port,
            protocol: protocol.to_owned(),
        }
    }

    fn exposed_range(first: u32, last: u32) -> PortRange {
        PortRange {
            first,
            last,
            protocol: "tcp".to_owned(),
        }
    }

    fn running(ports: Vec<PublishedPort>, exposed_ports: Vec<PortRange>) -> ContainerSummary {
        ContainerSummary {
            state: ContainerState::Running.into(),
            network: "bridge".to_owned(),
            endpoint: Some(Endpoint::default()),
            ports,
            exposed_ports,
            ..ContainerSummary::default()
        }
    }

    #[test]
    fn ports_are_shown_as_docker_shows_them() {
        for (ports, exposed, shown) in [
            (vec![], vec![], ""),
            (
                vec![port("0.0.0.0", 8080, 80, "tcp"), port("::", 8080, 80, "tcp")],
                vec![],
                "0.0.0.0:8080->80/tcp, :::8080->80/tcp",
            ),
            (vec![], vec![exposed_range(80, 80)], "80/tcp"),
            (vec![], vec![exposed_range(80, 82)], "80-82/tcp"),
            (
                vec![port("0.0.0.0", 8080, 80, "tcp")],
                vec![exposed_range(80, 81)],
                "0.0.0.0:8080->80/tcp, 81/tcp",
            ),
            (
                (0..3).map(|n| port("0.0.0.0", 7000 + n, 80 + n, "tcp")).collect(),
                vec![],
                "0.0.0.0:7000-7002->80-82/tcp",
            ),
            (
                vec![port("0.0.0.0", 7000, 80, "tcp"), port("0.0.0.0", 9000, 81, "tcp")],
                vec![],
                "0.0.0.0:7000->80/tcp, 0.0.0.0:9000->81/tcp",
            ),
            (
                vec![port("127.0.0.1", 53, 53, "udp"), port("0.0.0.0", 443, 443, "tcp")],
                vec![],
                "127.0.0.1:53->53/udp, 0.0.0.0:443->443/tcp",
            ),
        ] {
            assert_eq!(column(&running(ports, exposed)), shown);
        }
        let ended = ContainerSummary {
            state: ContainerState::Exited.into(),
            ..running(vec![], vec![exposed_range(80, 80)])
        };
        assert_eq!(column(&ended), "");
    }

    #[test]
    fn published_ports_in_inspects_documents() {
        let summary = running(
            vec![port("0.0.0.0", 8080, 80, "tcp"), port("::", 8080, 80, "tcp")],
            vec![exposed_range(80, 81)],
        );
        let document = settings("bridge", &summary);
        assert_eq!(
            document["Ports"],
            json!({
                "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
                "81/tcp": null,
            })
        );
        assert!(document["Networks"]["bridge"].is_object());
        let options = NetworkOptions {
            publish: ["8080:80", "7000-7001:90-91/udp", "85"]
                .iter()
                .map(|text| publish(&text.parse().unwrap()))
                .collect(),
            ..NetworkOptions::default()
        };
        assert_eq!(
            bindings(&options),
            json!({
                "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
                "85/tcp": [{"HostIp": "", "HostPort": ""}],
                "90/udp": [{"HostIp": "", "HostPort": "7000"}],
                "91/udp": [{"HostIp": "", "HostPort": "7001"}],
            })
        );
        let all = exposed(&summary, &options).unwrap();
        assert_eq!(all.as_object().unwrap().len(), 5, "{all}");
        assert_eq!(
            exposed(&ContainerSummary::default(), &NetworkOptions::default()),
            None
        );
    }
}
