//! Which objects of docker's documents are maps: their keys are free, so that a missing one is no error, and they are printed as maps.

use crate::template::{Shape, Zero};

/// What the object (or null) of this key is, inside of the object of another key.
pub(super) fn of(around: &str, key: &str) -> Shape {
    match (around, key) {
        (_, "Labels" | "Annotations" | "Sysctls" | "Tmpfs" | "StorageOpt" | "DriverOpts" | "Options")
        | ("LogConfig", "Config")
        | ("GraphDriver", "Data") => Shape::Map(Zero::Text),
        (_, "Ports" | "PortBindings") => Shape::Map(Zero::List),
        (_, "Networks" | "Volumes" | "ExposedPorts") => Shape::Map(Zero::Pointer),
        (
            _,
            "IPAMConfig" | "Health" | "Healthcheck" | "Init" | "MemorySwappiness" | "OomKillDisable"
            | "PidsLimit" | "StopTimeout",
        ) => Shape::Struct,
        _ => Shape::List,
    }
}
