//! What is remembered of a container between two calls of the runtime.
//!
//! ```text
//! <root>/                    0700, one per runtime root (`--root`)
//!   <id>/                    made by `reserve`: mkdir is what makes an id unique
//!     state.json             the record: versioned, replaced by rename
//!     config.json            the spec as it was given, byte for byte (exec and poststop hooks read it)
//!     exec.fifo              made by create, written once by start
//! ```
//!
//! * [`id`]: what an id may look like.
//! * [`transition`]: the state machine, pure.
//! * [`record`]: the file's contents and the identity of a process.
//! * [`store`]: directories and atomic files; [`lock`]: one writer per container.
//! * [`status`]: what is told to a caller, derived from record, liveness and freezer.
//!
//! Invariants: the disk alone is never trusted (a record that says `running` of a process that is gone reads as
//! `stopped`); a process is the same only if boot id, pid and start time are the same; every change happens
//! under the container's lock.
//!
//! Nothing here is synced to disk: the root lies under `/run`, and after a power cut no process of it is left,
//! which the boot id in each record tells.

pub mod id;
pub mod identity;
pub mod lock;
pub mod record;
pub mod status;
pub mod store;
pub mod transition;

pub use id::{Id, IdError};
pub use identity::{Identity, IdentityError};
pub use lock::Locked;
pub use record::{RECORD_VERSION, Record, ScopeManager, ScopeRecord};
pub use status::Status;
pub use store::{EXEC_FIFO, Entry, Store, StoreError};
pub use transition::{Event, State, TransitionError};
