//! Seccomp programs: ours beside libseccomp's, both run in an interpreter.
//!
//! ```text
//!   profile ─┬─ croze-seccomp ───────────────▶ program ─┐
//!            ├─ peer.c (libseccomp) ─────────▶ program ─┼─ the same calls ─▶ the same verdicts
//!            └─ reading (a plain loop over the rules) ──┘
//! ```
//!
//! * `random`: random profiles, random calls. `$CROZE_TEST_SECCOMP_PROFILES` says how many profiles.
//! * `defaults`: the profiles that docker, podman and containerd give their containers.
//! * `numbers`: the numbers of all calls on all architectures.
//!
//! Where the verdicts are allowed to differ, and why, is in `difference`.

#![forbid(unsafe_code)]

mod defaults;
mod numbers;
mod peer;
mod profile;
mod random;
