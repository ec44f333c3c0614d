//! The options of `run` and `create` about the network, and the verbs `port` and `network`.

use std::net::{Ipv4Addr, Ipv6Addr};

use clap::{Args, Subcommand};
use croze_client::{ExposedPorts, Publish};

use crate::args::headings::NETWORK;

/// Where a container is connected, and which of its ports can be reached.
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    /// Network: bridge, none (nothing but loopback), host (the host's own) or container:NAME [default: the daemon's, bridge]
    #[arg(long, alias = "net", value_name = "NETWORK", help_heading = NETWORK)]
    pub(crate) network: Option<String>,
    /// Ports to publish.
    #[arg(
        help = "Publish ports of the container: [[IP:][HOST_PORT[-LAST]]:]PORT[-LAST][/tcp|udp]",
        short,
        long,
        value_name = "PORTS",
        help_heading = NETWORK
    )]
    pub(crate) publish: Vec<Publish>,
    /// Publish every exposed port on a free port of the host
    #[arg(short = 'P', long, help_heading = NETWORK)]
    pub(crate) publish_all: bool,
    /// Say that the container offers ports
    #[arg(
        help = "Say that the container offers ports: PORT[-LAST][/tcp|udp]",
        long,
        value_name = "PORTS",
        help_heading = NETWORK
    )]
    pub(crate) expose: Vec<ExposedPorts>,
    /// IPv4 address on the bridge network
    #[arg(long, value_name = "ADDRESS", help_heading = NETWORK)]
    pub(crate) ip: Option<Ipv4Addr>,
    /// IPv6 address on the bridge network
    #[arg(long, value_name = "ADDRESS", help_heading = NETWORK)]
    pub(crate) ip6: Option<Ipv6Addr>,
    /// Hardware address on the bridge network
    #[arg(long, value_name = "ADDRESS", help_heading = NETWORK)]
    pub(crate) mac_address: Option<String>,
}

/// `port`
#[derive(Debug, Args)]
pub(crate) struct PortArgs {
    /// Name, id or prefix of an id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// Only this port of the container: PORT[/tcp|udp]
    #[arg(value_name = "PORT")]
    pub(crate) port: Option<String>,
}

/// `network`
#[derive(Debug, Args)]
pub(crate) struct NetworkVerbArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: NetworkVerb,
}

/// What can be done with networks.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkVerb {
    /// List networks
    #[command(visible_alias = "list")]
    Ls(NetworkLsArgs),
    /// Show everything about networks, as a JSON array
    Inspect(NetworkInspectArgs),
}

/// `network ls`
#[derive(Debug, Args)]
pub(crate) struct NetworkLsArgs {
    /// Do not shorten anything; nothing is, here
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Print only names
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// What to print: table, json, or a template such as '{{.Name}}: {{.Driver}}'
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
}

/// `network inspect`
#[derive(Debug, Args)]
pub(crate) struct NetworkInspectArgs {
    /// What to print: json (on one line), or a template such as '{{.IPAM.Config}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Names
    #[arg(required = true, value_name = "NETWORK")]
    pub(crate) networks: Vec<String>,
}
