//! Networks: the default bridge, its addresses, its packet filter rules, and published ports.
//!
//! ```text
//!                         host's network namespace                                  container's: <run root>/netns/<id>
//!   ┌──────────────────────────────────────────────────────────────┐          ┌─────────────────────────────────────┐
//!   │ outside ── eth0 ── routing, nat ── croze0 172.30.0.1/16 ── cz<id> ══════╪ eth0 172.30.0.2/16  02:42:ac:1e:00:02 │
//!   │               tables ip croze0, ip6 croze0   fd…::1/64        │          │ default route via 172.30.0.1, fd…::1  │
//!   │ 127.0.0.1:8080, [::1]:8080 ── port proxy ──────────────────▶  │          └─────────────────────────────────────┘
//!   └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! How a container gets its network: [`Networks::attach`] takes addresses from the pool, binds the ports, makes and pins the namespace,
//! and lets the packet filter lead the ports there; the OCI spec joins the namespace by path. When the container's first process exists,
//! [`Networks::serve_ports`] gives the sockets to the port proxy. [`Networks::detach`] takes everything back:
//! the ports before it returns, the interface soon after.
//!
//! | layer | module |
//! |---|---|
//! | what the verbs do, in which order, with which undo | `service` (a container's), `leaving` (its end), `serving` (its ports'), `lifecycle` (the network's), `recovery`, `rebuild` |
//! | decisions: subnet and addresses, rules, what recovery does (pure) | `address`, `rules`, `plan` |
//! | the kernel | `netlink`, `bridge`, `namespace`, `ports`, `forwarding`, `forget`, `tables`, `watch` |
//! | what is there of others | `foreign`, `holder` |
//!
//! Invariants:
//! - Everything happens in the network namespace of the thread that opened [`Networks`]; the host's own interfaces are never touched,
//!   nor is a bridge that this daemon did not make (`bridge` says how it knows).
//! - The bridge is made with the first container that needs it. When crozed ends and no container is connected, the bridge, the rules and the
//!   changed settings of the host go: it is left as it was found.
//! - After kill -9 of crozed ports go on working: rules are the kernel's, sockets the port proxy's. [`Networks::recover`] repairs what is
//!   missing, and removes what belongs to nobody.
//! - Rules that somebody else removes are written again at once.
//! - The records are the truth about leases; a record that was not written has no address.
//!
//! Not here: names of containers as host names (DNS), user-defined networks, rootless networks. Everything blocks; async callers use blocking
//! threads.
#![forbid(unsafe_code)]

mod address;
mod bridge;
mod error;
mod foreign;
mod forget;
mod forwarding;
mod holder;
mod leaving;
mod lifecycle;
mod namespace;
mod netlink;
mod plan;
mod ports;
mod proxy;
mod rebuild;
mod records;
mod recovery;
mod rules;
mod service;
mod serving;
mod settings;
mod tables;
mod watch;

pub use address::{Mac, Subnet};
pub use error::NetworkError;
pub use ports::PublishedPort;
pub use records::{Address, Endpoint, ProcessMark};
pub use service::Networks;
pub use settings::{AttachRequest, BridgeSettings, Ipv6, NetworkFacts, Settings};
