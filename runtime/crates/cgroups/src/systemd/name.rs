//! Names: `slice:prefix:name` of a spec, units, and the directory that a slice's unit has.

use crate::error::Error;
use std::path::PathBuf;

/// The prefix of our scopes where a spec names none.
const PREFIX: &str = "croze";
/// systemd takes no longer names.
const LIMIT: usize = 255;

/// Where a container's scope goes and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeName {
    /// The slice, `system.slice` for one.
    pub slice: String,
    /// The scope's unit.
    pub unit: String,
}

impl ScopeName {
    /// Reads `cgroupsPath` for this driver. Nothing in it, or an empty slice, means `usual_slice`; nothing at all names the scope by the
    /// container's id.
    ///
    /// # Errors
    /// It is no `slice:prefix:name`, or one of them is no name for systemd.
    pub fn parse(path: Option<&str>, id: &str, usual_slice: &str) -> Result<Self, Error> {
        let bad = |value: &str, why| Error::Value {
            field: "linux.cgroupsPath",
            value: format!("{value:?}"),
            why,
        };
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Ok(Self {
                slice: usual_slice.to_owned(),
                unit: scope(PREFIX, id),
            });
        };
        let parts: Vec<&str> = path.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            let why = "expected the form slice:prefix:name (system.slice:croze:web), because systemd makes the cgroups";
            return Err(bad(path, why));
        };
        if name.is_empty() {
            return Err(bad(path, "the name after the second colon is empty"));
        }
        if name.ends_with(".slice") {
            return Err(bad(
                path,
                "a container goes into a scope: its name cannot end with .slice",
            ));
        }
        let slice = if slice.is_empty() { usual_slice } else { slice };
        if slice_path(slice).is_none() {
            return Err(bad(
                path,
                "the part before the first colon is no slice, like user.slice or a-b.slice",
            ));
        }
        let unit = scope(prefix, name);
        if unit.len() > LIMIT {
            return Err(bad(path, "the scope's name is longer than 255 bytes"));
        }
        Ok(Self {
            slice: slice.to_owned(),
            unit,
        })
    }
}

fn scope(prefix: &str, name: &str) -> String {
    let hyphen = if prefix.is_empty() { "" } else { "-" };
    format!("{}{hyphen}{}.scope", escaped(prefix), escaped(name))
}

/// What systemd allows in a unit's name, and the rest as `\xNN`, its own way of writing it.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-@\\".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// The directory of a slice below its manager's: `a-b.slice` is inside `a.slice`. `None` if it is no slice.
#[must_use]
pub fn slice_path(slice: &str) -> Option<PathBuf> {
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut whole = String::new();
    for part in stem.split('-') {
        if part.is_empty() || part.starts_with('.') || escaped(part) != part || slice.len() > LIMIT {
            return None;
        }
        if !whole.is_empty() {
            whole.push('-');
        }
        whole.push_str(part);
        path.push(format!("{whole}.slice"));
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_three_parts_names_a_scope() {
        for (path, slice, unit) in [
            (None, "system.slice", "croze-web.scope"),
            (Some(""), "system.slice", "croze-web.scope"),
            (Some("a-b.slice:docker:x1"), "a-b.slice", "docker-x1.scope"),
            (Some("::x1"), "system.slice", "x1.scope"),
            (Some("-.slice:cri:a+b"), "-.slice", "cri-a\\x2bb.scope"),
        ] {
            let name = ScopeName::parse(path, "web", "system.slice").unwrap();
            assert_eq!((&*name.slice, &*name.unit), (slice, unit), "{path:?}");
        }
    }

    #[test]
    fn other_paths_are_refused_with_the_form_they_should_have() {
        let long = format!("a.slice:b:{}", "x".repeat(300));
        for (path, words) in [
            ("/croze/web", "slice:prefix:name"),
            ("a.slice:b", "slice:prefix:name"),
            ("a.slice:b:c:d", "slice:prefix:name"),
            ("a.slice:b:", "is empty"),
            ("a.slice:b:c.slice", "goes into a scope"),
            ("a:b:c", "is no slice"),
            ("a--b.slice:b:c", "is no slice"),
            ("../a.slice:b:c", "is no slice"),
            ("-a.slice:b:c", "is no slice"),
            (&long, "255 bytes"),
        ] {
            let error = ScopeName::parse(Some(path), "web", "system.slice").unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn slices_lie_in_each_other() {
        for (slice, path) in [
            ("system.slice", Some("system.slice")),
            ("a-b-c.slice", Some("a.slice/a-b.slice/a-b-c.slice")),
            ("-.slice", Some("")),
            (".slice", None),
            ("a", None),
            ("a/b.slice", None),
            ("...slice", None),
        ] {
            assert_eq!(slice_path(slice), path.map(PathBuf::from), "{slice}");
        }
    }
}
