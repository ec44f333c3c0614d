//! What can go wrong with networks, and how it is told to users.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use croze_model::{Error, ErrorKind, Protocol};
use croze_store::StoreError;

use crate::address::Subnet;

/// A failure of an operation on networks.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused a change or a question about interfaces, routes or the packet filter.
    #[error("cannot {what}: {source}")]
    Kernel {
        /// What was tried, as a verb with its object.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A file could not be used.
    #[error("cannot {call} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        call: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A record could not be stored or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A text is no subnet.
    #[error(
        "{text:?} is no subnet: expected ADDRESS/PREFIX with no bit set behind the prefix, as 172.30.0.0/16"
    )]
    MalformedSubnet {
        /// The text as given.
        text: String,
    },
    /// A text is no hardware address.
    #[error(
        "{text:?} is no MAC address of one machine: expected six pairs of hexadecimal digits, as 02:42:ac:1e:00:02"
    )]
    MalformedMac {
        /// The text as given.
        text: String,
    },
    /// The name of the bridge is none for an interface.
    #[error("{name:?} cannot be an interface's name: 1 to 15 characters without space, slash or colon")]
    BridgeName {
        /// The name as given.
        name: String,
    },
    /// All addresses are taken.
    #[error("no address of {subnet} is free")]
    NoFreeAddress {
        /// The network's subnet.
        subnet: Subnet,
    },
    /// A wanted address is not the network's.
    #[error("address {address} is not in the network's subnet {subnet}")]
    AddressOutside {
        /// The address.
        address: IpAddr,
        /// The network's subnet.
        subnet: Subnet,
    },
    /// A wanted address is no container's.
    #[error("address {address} is reserved in {subnet}")]
    AddressReserved {
        /// The address.
        address: IpAddr,
        /// The network's subnet.
        subnet: Subnet,
    },
    /// A wanted address is another container's.
    #[error("address {address} is already in use on this network")]
    AddressTaken {
        /// The address.
        address: IpAddr,
    },
    /// An IPv6 address is wanted of a network that has none.
    #[error("the network has no IPv6: {address} cannot be given")]
    NoIpv6 {
        /// The address.
        address: IpAddr,
    },
    /// Every subnet that would be used overlaps with what the host reaches.
    #[error(
        "no subnet is free for the bridge {bridge}: all that would be used overlap with the host's routes"
    )]
    NoSubnet {
        /// The bridge.
        bridge: String,
    },
    /// The configured subnet overlaps with what the host reaches.
    #[error("the subnet {subnet} of the bridge {bridge} overlaps with the host's route to {route}")]
    SubnetTaken {
        /// The bridge.
        bridge: String,
        /// The configured subnet.
        subnet: Subnet,
        /// The host's route.
        route: Subnet,
    },
    /// An interface has the bridge's name and is none.
    #[error("the interface {name} exists and is no bridge")]
    NotABridge {
        /// The name.
        name: String,
    },
    /// A bridge has the bridge's name that this daemon did not make.
    #[error(
        "the bridge {name} exists and {}",
        other.as_deref().map_or("was not made by crozed".to_owned(), |o| format!("belongs to the crozed with the run root {o}"))
    )]
    ForeignBridge {
        /// The name.
        name: String,
        /// The run root of the daemon that made it, where it was one.
        other: Option<String>,
    },
    /// A port of the host is taken.
    #[error(
        "cannot publish port {address}/{protocol}: {}",
        holder.as_deref().map_or("it is already allocated".to_owned(), |h| format!("it is already allocated to {h}"))
    )]
    PortTaken {
        /// The host's address and port.
        address: std::net::SocketAddr,
        /// Of which protocol.
        protocol: Protocol,
        /// Who holds it, where that can be known.
        holder: Option<String>,
    },
    /// No port of a range is free.
    #[error("cannot publish a port of {range}/{protocol}: all of them are already allocated")]
    NoFreePort {
        /// The wanted ports.
        range: String,
        /// Of which protocol.
        protocol: Protocol,
    },
    /// A port cannot be bound for another reason.
    #[error("cannot publish port {address}/{protocol}: {source}")]
    Bind {
        /// The host's address and port.
        address: std::net::SocketAddr,
        /// Of which protocol.
        protocol: Protocol,
        /// Why not.
        source: io::Error,
    },
    /// More ports than one process can hold.
    #[error("{count} published ports are too many for one container: {limit} are the most")]
    TooManyPorts {
        /// How many are wanted.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The process that serves published ports on loopback addresses did not start.
    #[error("the port proxy did not start: {reason}")]
    Proxy {
        /// Why.
        reason: String,
    },
    /// A container has no connection to the network.
    #[error("container {container} is not connected to the network")]
    NotAttached {
        /// The container's short id.
        container: String,
    },
    /// The daemon is ending.
    #[error("crozed is ending: nothing is connected any more")]
    Closing,
    /// A helper thread panicked or could not be started.
    #[error("the work was interrupted")]
    Interrupted,
}

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const EPROTONOSUPPORT: i32 = 93;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;
const EADDRNOTAVAIL: i32 = 99;

impl NetworkError {
    pub(crate) fn file(call: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::File { call, path, source }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } | Self::Bind { source, .. } | Self::File { source, .. } => {
                source.raw_os_error()
            }
            _ => None,
        }
    }

    /// Whether the kernel says that something is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        self.errno() == Some(ENOENT)
    }

    /// Whether the kernel cannot do it at all: a part of it is not there.
    pub(crate) fn is_unsupported(&self) -> bool {
        matches!(self.errno(), Some(EPROTONOSUPPORT | EOPNOTSUPP | EAFNOSUPPORT))
    }

    /// Whether the kernel says that something is there already.
    pub(crate) fn exists(&self) -> bool {
        self.errno() == Some(EEXIST)
    }
}

const OTHER_NETWORKS: &str =
    "crozed needs CAP_NET_ADMIN for bridge networks; without it use --network none or --network host";

impl From<NetworkError> for Error {
    fn from(error: NetworkError) -> Self {
        use NetworkError as E;
        let text = error.to_string();
        let failure = |kind| Error::new(kind, "network", text.clone());
        match &error {
            E::Kernel { .. } | E::File { .. } if error.errno() == Some(EPERM) => {
                failure(ErrorKind::PermissionDenied).hint(OTHER_NETWORKS)
            }
            E::Kernel { source, .. } if source.kind() == io::ErrorKind::Unsupported => {
                failure(ErrorKind::Unsupported)
                    .hint("the kernel lacks bridge, veth or nf_tables (nft_fib, nft_nat, nft_masq); use --network none or host")
            }
            E::Kernel { .. } | E::File { .. } | E::Interrupted | E::Proxy { .. } => failure(ErrorKind::Internal),
            E::Store(_) => match error {
                E::Store(store) => store.into(),
                _ => failure(ErrorKind::Internal),
            },
            E::MalformedSubnet { .. } | E::BridgeName { .. } => {
                failure(ErrorKind::InvalidArgument).hint("see [network] in croze.toml")
            }
            E::MalformedMac { .. } | E::AddressReserved { .. } => failure(ErrorKind::InvalidArgument),
            E::AddressOutside { .. } | E::NoIpv6 { .. } => failure(ErrorKind::InvalidArgument)
                .hint("`croze network inspect bridge` shows the network's subnets"),
            E::NoFreeAddress { .. } => failure(ErrorKind::ResourceExhausted)
                .hint("remove containers, or give [network] in croze.toml a wider subnet"),
            E::AddressTaken { .. } => failure(ErrorKind::Conflict).hint("choose another address"),
            E::NoSubnet { .. } | E::SubnetTaken { .. } => failure(ErrorKind::Conflict)
                .hint("choose a free one: `subnet` in [network] of croze.toml, then restart crozed"),
            E::NotABridge { .. } => failure(ErrorKind::Conflict)
                .hint("remove it, or choose another name: `bridge` in [network] of croze.toml"),
            E::ForeignBridge { other: Some(_), .. } => failure(ErrorKind::Conflict).hint(
                "give each daemon a bridge of its own: `--bridge`, or `bridge` in [network] of croze.toml; if the other one is gone for good, \
                 remove it: `ip link delete`",
            ),
            E::ForeignBridge { .. } => failure(ErrorKind::Conflict)
                .hint("choose another name: `--bridge`, or `bridge` in [network] of croze.toml"),
            E::PortTaken { .. } | E::NoFreePort { .. } => failure(ErrorKind::Conflict)
                .hint("choose another host port with -p, or leave it out to get a free one"),
            E::Bind { .. } if error.errno() == Some(EADDRNOTAVAIL) => {
                failure(ErrorKind::InvalidArgument).hint("the address must be one of the host's own")
            }
            E::Bind { .. } => failure(ErrorKind::PermissionDenied),
            E::TooManyPorts { .. } => failure(ErrorKind::ResourceExhausted),
            E::NotAttached { .. } => failure(ErrorKind::Conflict),
            E::Closing => failure(ErrorKind::Unavailable).hint("try again when it has been started anew"),
        }
    }
}
