//! The domain core: one request type per verb, operations, events, recovery.
//!
//! ```text
//!   door --request--> Engine --+--> images       what exists to be run, and how it is fetched
//!                              +--> snapshots    a writable file system per container
//!                              +--> containers   records, shims, processes, logs
//!                              +--> networks     namespaces, addresses, published ports
//!                              `--> events       what happened, for whoever listens
//! ```
//!
//! Images and containers do not know each other: the engine joins them. A container `ID` is joined from four things that carry its id:
//!
//! | thing | made by | where |
//! |---|---|---|
//! | active snapshot `ID` | create | `<root>/snapshots` |
//! | record of container `ID` | create, after the snapshot | `<root>/containers` |
//! | overlay mount | the first start, or attach before it | `<run root>/rootfs/ID` |
//! | endpoint, on the bridge network | the same, and taken back at each end | `<run root>/network`, `<run root>/netns/ID` |
//!
//! Invariants:
//! - A verb that changes something runs to its end even if its caller goes away; only pulls are cancelled with their caller.
//! - Every step of create has an undo; an undo that fails is logged, kept ([`Engine::info`] shows it) and swept at the next start.
//! - Everything done to one container is serialised by that container's lock; different containers never wait for each other.
//! - While a create is in flight its image cannot be removed, nor while a container uses it.
//! - A container that removes itself is removed by the daemon, whoever was attached, also when it ended while no daemon ran.
//! - One bad container never stops the daemon's start, nor holds it up for more than some seconds.
//! - Nothing is unmounted or removed under a shim that waits, runs or does not answer, and nothing whose record is on disk in whatever form.
//!
//! Not here: wire formats, authentication, printing; the format of records and the protocol of shims.
#![forbid(unsafe_code)]

mod attach;
mod checks;
mod create;
mod engine;
mod events;
mod filters;
mod hello;
mod host;
mod images;
mod lifecycle;
mod listing;
mod locks;
mod names;
mod network;
mod operation;
mod operations;
mod recovery;
mod rootfs;
mod storage;
mod undo;
mod unsettled;
mod waiting;

pub use attach::{AttachRequest, ExecContainerRequest};
pub use checks::{HostCheck, Verdict};
pub use engine::{Engine, Hello, Settings};
pub use events::{Event, EventKind, EventsRequest, Told};
pub use filters::Filter;
pub use host::{Info, Version};
pub use images::{LoginRequest, PullRequest, RemoveImageRequest, TagImageRequest};
pub use lifecycle::{
    KillRequest, ListRequest, LogsRequest, RemoveRequest, ResizeRequest, StartRequest, StopRequest,
    WaitRequest,
};
pub use listing::{ContainersRequest, DiskUse, ImagesRequest, ListedContainer};
pub use network::NetworkSettings;
pub use operation::Operation;
pub use operations::{OperationInfo, Outcome, Watched};

pub use croze_containers::{
    BindMount, CgroupView, Container, CreateRequest, Created, DeviceMapping, Dns, ExecRequest, ExitStatus,
    ExtraHost, HostAddress, Input, Inspection, IoConfig, IpcMode, LogEntry, LogOptions, LogStream,
    NamespaceModes, Network, NetworkOptions, Options, Output, PidMode, ProcessStream, Propagation,
    ReadOnlyBelow, Resources, RuntimeProgram, Runtimes, State, TerminalSize, TmpfsMount, Ulimit,
};
pub use croze_images::{
    Image, ImageDetails, ImageLayer, LayerOrigin, LayerProgress, LayerState, PullPhase, PullState, Pulled,
    PulledLayer, Removed,
};
pub use croze_networks::{
    Address, BridgeSettings, Endpoint, Ipv6, NetworkError, NetworkFacts, PublishedPort, Subnet,
};
pub use croze_registry::{ClientCertificate, Host, Hosts, LoggedIn, Mirror, Rate};
pub use croze_snapshots::{Limit, Snapshotter};
pub use storage::{StorageOptError, storage_limit};
