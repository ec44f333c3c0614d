//! Containers: records and their transitions, the OCI spec, the link to the shim, recovery.
//!
//! ```text
//!   engine ──▶ Containers ──┬─ record, state      <state>/<id>/container.json      what was acknowledged
//!                           ├─ spec  (pure)       request + image + host facts ──▶ OCI spec
//!                           ├─ bundle             <run>/<id>/config.json, shim.json
//!                           ├─ link  ◀── unix socket ──▶ croze-shim ──▶ OCI runtime
//!                           ├─ logs               <state>/<id>/container.log       written by the shim alone
//!                           ├─ relay, backlog     an attached client's streams, and what it missed of them
//!                           └─ recovery           observe ──▶ plan (pure) ──▶ execute
//! ```
//!
//! How a container comes to run: [`Containers::create`] reserves the name and stores the record; [`Containers::prepare`] (given the mounted root file
//! system) writes the bundle and starts the shim, which calls the runtime's `create`; [`Containers::start`] asks the shim for the runtime's `start` and
//! stores that it runs. `start` prepares by itself; a client that must miss no output prepares, attaches, and then starts.
//!
//! Invariants: a container's life, output and exit status depend on its shim alone, never on this process; whatever was acknowledged is in
//! a durable file; a bare pid is never trusted.
//!
//! What this crate does not do: images and root file systems (the engine brings a mounted one), networks, restart policies.
#![forbid(unsafe_code)]

mod backlog;
mod bundle;
mod ending;
mod entries;
mod error;
mod features;
mod joining;
mod launch;
mod link;
mod log_line;
mod logs;
mod networking;
mod observe;
mod options;
mod record;
mod recovery;
mod relay;
mod remains;
mod request;
mod runtimes;
mod service;
mod spec;
mod streams;
mod types;

pub use error::{ContainersError, classify_runtime_message};
pub use joining::JoinedNamespace;
pub use networking::{Attachment, Network, NetworkOptions};
pub use options::{
    CgroupView, DeviceMapping, Dns, ExtraHost, HostAddress, IpcMode, NamespaceModes, Options, PidMode,
    TmpfsMount, Ulimit,
};
pub use record::{Container, ExitStatus, ProcessIdentity, Refused, State, Transition};
pub use remains::Remains;
pub use request::{
    BindMount, CreateRequest, ExecRequest, ImageFacts, IoConfig, Propagation, ReadOnlyBelow, Resources,
    TerminalSize,
};
pub use runtimes::{RuntimeProgram, Runtimes};
pub use service::{
    Containers, Created, Event, Inspection, LogEntry, LogOptions, LogStream, RecoveryReport, Settings,
};
pub use spec::SpecError;
pub use spec::etc::name_server_warning;
pub use streams::{Input, Output, ProcessStream};
