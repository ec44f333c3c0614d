//! The parts in which `run --help` shows its options, below those that most people need.

/// Where the image comes from.
pub(super) const IMAGE: &str = "Image";
/// Who reaches the container, and whom it reaches.
pub(super) const NETWORK: &str = "Network";
/// How much of the host it may use.
pub(super) const LIMITS: &str = "Limits";
/// What it may do.
pub(super) const RIGHTS: &str = "Rights and devices";
/// What it shares with the host or another container.
pub(super) const NAMESPACES: &str = "Namespaces";
