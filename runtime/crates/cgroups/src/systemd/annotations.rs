//! Properties of the container's scope that a spec's annotations ask for: `org.systemd.property.NAME: VALUE`.
//!
//! Whoever writes annotations is often further away than whoever writes the rest of a spec (a pod's author, through CRI), and some
//! properties of a unit reach beyond it: with `SuccessAction` a container that ends reboots the host, with `OnFailure` or `Wants` it
//! starts other units (CVE-2024-3154). So there is a list of what may be set, and nothing else may: what a scope's processes may use,
//! how they are stopped, and in which order.

use super::text;
use crate::dbus::Value;
use crate::error::Error;

/// The prefix of such annotations.
pub const PREFIX: &str = "org.systemd.property.";
/// How many of them there may be.
const COUNT: usize = 64;

/// Families of properties that may be set: what a scope may use, by the names of their controllers.
const FAMILIES: [&str; 9] = [
    "CPU",
    "Memory",
    "IO",
    "BlockIO",
    "Tasks",
    "Allowed",
    "Startup",
    "DefaultMemory",
    "ManagedOOM",
];
/// Single properties that may be set.
const SINGLE: [&str; 19] = [
    "After",
    "Before",
    "CollectMode",
    "DefaultDependencies",
    "Description",
    "Documentation",
    "FinalKillSignal",
    "IPAccounting",
    "IPAddressAllow",
    "IPAddressDeny",
    "JobRunningTimeoutUSec",
    "JobTimeoutUSec",
    "KillMode",
    "KillSignal",
    "OOMPolicy",
    "RuntimeMaxUSec",
    "SendSIGHUP",
    "SendSIGKILL",
    "TimeoutStopUSec",
];

/// The properties that the annotations ask for, in the order of their names.
///
/// # Errors
/// A property that may not be set, or a value that cannot be read.
pub fn properties<'a>(
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<(String, Value)>, Error> {
    let mut found = Vec::new();
    for (key, value) in annotations {
        if let Some(name) = key.strip_prefix(PREFIX) {
            found.push(property(name, value)?);
        }
    }
    if found.len() > COUNT {
        return Err(Error::Value {
            field: "annotations",
            value: format!("{} properties of systemd", found.len()),
            why: "at most 64 may be set",
        });
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn property(name: &str, text: &str) -> Result<(String, Value), Error> {
    let shown: String = format!("{PREFIX}{name}={text}").chars().take(200).collect();
    let value = text::parse(text).map_err(|source| Error::Property {
        annotation: shown.clone(),
        source,
    })?;
    // What unit files write in seconds goes over D-Bus in microseconds, under another name.
    let (name, value) = match name.strip_suffix("Sec").filter(|stem| !stem.ends_with('U')) {
        Some(stem) => (format!("{stem}USec"), microseconds(&value, &shown)?),
        None => (name.to_owned(), value),
    };
    let family = |family: &&str| {
        name.strip_prefix(*family)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()))
    };
    if SINGLE.contains(&&*name)
        || (name.bytes().all(|b| b.is_ascii_alphanumeric()) && FAMILIES.iter().any(family))
    {
        return Ok((name, value));
    }
    Err(Error::Value {
        field: "annotations",
        value: shown,
        why: "this property of a unit may not be set by a container: it is the runtime's own, or reaches beyond the container",
    })
}

fn microseconds(value: &Value, shown: &str) -> Result<Value, Error> {
    let whole = |seconds: i128| u64::try_from(seconds * 1_000_000).ok();
    let micros = match value {
        Value::Byte(v) => whole((*v).into()),
        Value::I16(v) => whole((*v).into()),
        Value::U16(v) => whole((*v).into()),
        Value::I32(v) => whole((*v).into()),
        Value::U32(v) => whole((*v).into()),
        Value::I64(v) => whole((*v).into()),
        Value::U64(v) => whole((*v).into()),
        // Far below 2^63, so nothing is cut off.
        Value::Double(v) if *v >= 0.0 && *v < 1e12 => Some((v * 1e6) as u64),
        _ => None,
    };
    micros.map(Value::U64).ok_or_else(|| Error::Value {
        field: "annotations",
        value: shown.to_owned(),
        why: "a time in seconds is a number that is not negative",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> Result<Vec<(String, Value)>, String> {
        let (name, value) = (format!("{PREFIX}{name}"), value.to_owned());
        properties([(&name, &value)]).map_err(|error| error.to_string())
    }

    #[test]
    fn properties_of_the_scope_itself_are_taken() {
        for (name, value, want, as_value) in [
            (
                "CollectMode",
                "'inactive-or-failed'",
                "CollectMode",
                Value::text("inactive-or-failed"),
            ),
            ("TimeoutStopUSec", "uint64 5", "TimeoutStopUSec", Value::U64(5)),
            ("TimeoutStopSec", "2", "TimeoutStopUSec", Value::U64(2_000_000)),
            ("RuntimeMaxSec", "1.5", "RuntimeMaxUSec", Value::U64(1_500_000)),
            ("MemoryHigh", "@t 4096", "MemoryHigh", Value::U64(4096)),
            ("IOWeight", "uint64 50", "IOWeight", Value::U64(50)),
        ] {
            assert_eq!(one(name, value), Ok(vec![(want.to_owned(), as_value)]), "{name}");
        }
        let other = ("io.kubernetes.pod".to_owned(), "x".to_owned());
        assert_eq!(properties([(&other.0, &other.1)]).unwrap(), []);
    }

    #[test]
    fn properties_that_reach_further_are_refused() {
        for name in [
            "SuccessAction",
            "FailureAction",
            "JobTimeoutAction",
            "OnFailure",
            "OnSuccess",
            "Wants",
            "Requires",
            "BindsTo",
            "Conflicts",
            "PIDs",
            "Slice",
            "Delegate",
            "DeviceAllow",
            "DevicePolicy",
            "ExecStart",
            "User",
            "RebootArgument",
            "",
            "CPU",
            "Memory",
            "MemoryMax\n",
            "Memoryx",
            "../x",
            "AddRef",
        ] {
            let refused = one(name, "'poweroff-force'").unwrap_err();
            assert!(refused.contains("may not be set"), "{refused}");
        }
        for (name, value) in [
            ("MemoryMax", "many"),
            ("TimeoutStopSec", "-1"),
            ("TimeoutStopSec", "'a'"),
            ("RuntimeMaxSec", "1e300"),
        ] {
            assert!(one(name, value).is_err(), "{name}={value}");
        }
    }
}
