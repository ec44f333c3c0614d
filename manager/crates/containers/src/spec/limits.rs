//! Limits of single processes (setrlimit(2)), as docker's `--ulimit` names them.

use serde_json::{Value, json};

use super::SpecError;
use crate::options::Ulimit;

/// The names that setrlimit(2) knows, without `RLIMIT_`.
const NAMES: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The OCI list of these limits.
pub(crate) fn rlimits(ulimits: &[Ulimit]) -> Result<Value, SpecError> {
    let mut list = Vec::new();
    for (at, ulimit) in ulimits.iter().enumerate() {
        let bad = |reason| SpecError::Ulimit {
            name: ulimit.name.clone(),
            reason,
        };
        if !NAMES.contains(&ulimit.name.as_str()) {
            return Err(bad("setrlimit(2) knows no such limit"));
        }
        // The last one of a name counts.
        if ulimits[at + 1..].iter().any(|later| later.name == ulimit.name) {
            continue;
        }
        let number = |value: i64| match value {
            -1 => Ok(u64::MAX),
            _ => u64::try_from(value).map_err(|_| bad("limits are numbers from 0, or -1 for none")),
        };
        let (soft, hard) = (number(ulimit.soft)?, number(ulimit.hard)?);
        if soft > hard {
            return Err(bad("the soft limit must not exceed the hard one"));
        }
        let kind = format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase());
        list.push(json!({ "type": kind, "soft": soft, "hard": hard }));
    }
    Ok(Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulimit(name: &str, soft: i64, hard: i64) -> Ulimit {
        Ulimit {
            name: name.into(),
            soft,
            hard,
        }
    }

    #[test]
    fn limits_become_the_specs() {
        let found = rlimits(&[
            ulimit("nofile", 1, 2),
            ulimit("core", 0, -1),
            ulimit("nofile", 10, 20),
        ]);
        assert_eq!(
            found,
            Ok(json!([
                { "type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX },
                { "type": "RLIMIT_NOFILE", "soft": 10, "hard": 20 },
            ]))
        );
        for wrong in [
            ulimit("files", 1, 1),
            ulimit("nofile", 2, 1),
            ulimit("nofile", -1, 1),
            ulimit("nofile", -2, -2),
        ] {
            assert!(rlimits(std::slice::from_ref(&wrong)).is_err(), "{wrong:?}");
        }
    }
}
