//! The conformance table: one case for each field of the OCI runtime specification (1.3) and each flag of the command line that
//! engines use, run against any runtime and judged from outside by what the probe reports from inside.
//!
//! ```text
//! chapters   the cases: data where one run and a comparison will do, a script where it takes more
//! Case       a spec's changes, what the host must have, what is to be seen
//! Stage      one case's scene, runtime and bundles
//! Host       what the kernel and the machine offer, observed once
//! Verdict    ok, skipped with its reason, failed with its reason
//! ```
//!
//! Invariants:
//! - A case that the host cannot show is skipped with the missing thing as the reason; it is never passed.
//! - The words of an error message are only asked of croze-rt; that there is an error is asked of every runtime.
//! - A case leaves nothing: processes, mounts, cgroups and interfaces are compared after each.
//!
//! What it does not do: attacks, races and crashes, which have suites of their own.

#![forbid(unsafe_code)]

mod case;
mod cgroups;
mod chapters;
mod console;
mod host;
mod stage;

pub use case::{Case, Expect, Verdict};
pub use chapters::{Chapter, all};
pub use host::{Host, Need};
pub use stage::Stage;
