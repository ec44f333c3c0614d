//! Mounts: `-v`, `--mount` and `--tmpfs`.

use std::path::{Component, Path, PathBuf};

use croze_client::v1::{Mount, ReadOnlyBelow, TmpfsMount};

use super::size_bytes;

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// What one `--mount` asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum MountSpec {
    /// A host directory or file.
    Bind(Mount),
    /// A memory file system.
    Tmpfs(TmpfsMount),
}

/// Parses one `-v`: `/host:/container[:options]`, where a host path that starts with `.` is relative to `here`. Options are `ro`, `rw`, a
/// propagation (`rshared`, `rslave`, `rprivate`, `shared`, `slave`, `private`) and `nocopy`, `z`, `Z`, `cached`, `delegated`, `consistent`, which
/// mean nothing here. Two of one kind contradict each other.
pub(crate) fn volume(text: &str, here: &Path) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        [_] => {
            return Err(format!(
                "invalid volume {text:?}: anonymous volumes are not supported yet; write /host/path:/container/path"
            ));
        }
        _ => {
            return Err(format!(
                "invalid volume {text:?}: write /host/path:/container/path[:ro]"
            ));
        }
    };
    let mut mount = Mount {
        source: host_path(source, here).ok_or_else(|| {
            format!("invalid volume {text:?}: named volumes are not supported yet; the host's path must start with / or .")
        })?,
        target: container_path(target).ok_or_else(|| {
            format!("invalid volume {text:?}: {target:?} must be an absolute path other than / in the container")
        })?,
        create_source: true,
        ..Mount::default()
    };
    let mut access = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let before = match option {
            "ro" | "readonly" | "rw" => access.replace(option).map(str::to_owned),
            option if PROPAGATIONS.contains(&option) => {
                let before = std::mem::replace(&mut mount.propagation, option.to_owned());
                Some(before).filter(|before| !before.is_empty())
            }
            "nocopy" | "z" | "Z" | "cached" | "delegated" | "consistent" => None,
            _ => return Err(format!("invalid volume {text:?}: unknown option {option:?}")),
        };
        if let Some(before) = before {
            return Err(format!(
                "invalid volume {text:?}: {before:?} and {option:?} contradict each other; write one of them"
            ));
        }
    }
    mount.read_only = access.is_some_and(|access| access != "rw");
    Ok(mount)
}

/// An absolute host path as text, `.` and `..` in a relative one resolved by its words.
fn host_path(text: &str, here: &Path) -> Option<String> {
    if text.starts_with('/') {
        return Some(text.to_owned());
    }
    if !text.starts_with('.') {
        return None;
    }
    let mut path = PathBuf::from(here);
    for component in Path::new(text).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path.to_str().map(str::to_owned)
}

fn container_path(text: &str) -> Option<String> {
    let names_something = Path::new(text)
        .components()
        .any(|c| matches!(c, Component::Normal(_)));
    (text.starts_with('/') && names_something).then(|| text.to_owned())
}

/// Parses one `--tmpfs`: `/container[:options]`; which options there are is the daemon's to judge.
pub(crate) fn tmpfs(text: &str) -> Result<TmpfsMount, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    Ok(TmpfsMount {
        target: container_path(target).ok_or_else(|| {
            format!(
                "invalid tmpfs {text:?}: {target:?} must be an absolute path other than / in the container"
            )
        })?,
        options: options.to_owned(),
    })
}

/// Parses one `--mount`: fields `key=value` as in a line of CSV, so that a value with a comma stands in quotes with its key.
pub(crate) fn mount(text: &str, here: &Path) -> Result<MountSpec, String> {
    let bad = |reason: String| format!("invalid mount {text:?}: {reason}");
    let fields = csv(text).ok_or_else(|| bad("a quote is not closed".to_owned()))?;
    let mut words = Words::default();
    for field in &fields {
        words.take(field).map_err(bad)?;
    }
    words.finish(here).map_err(bad)
}

/// The fields of one `--mount`, before it is known whether they fit together.
#[derive(Debug, Default)]
struct Words {
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    propagation: String,
    non_recursive: bool,
    read_only_below: ReadOnlyBelow,
    tmpfs: Vec<String>,
}

impl Words {
    fn take(&mut self, field: &str) -> Result<(), String> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let switch = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("{key} is true or false, not {other:?}")),
        };
        match key.as_str() {
            "readonly" | "ro" => self.read_only = switch()?,
            "bind-nonrecursive" => self.non_recursive = switch()?,
            _ => {
                let value = value.ok_or_else(|| format!("the field {field:?} must be KEY=VALUE"))?;
                self.valued(&key, value)?;
            }
        }
        Ok(())
    }

    fn valued(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "type" => self.kind = value.to_ascii_lowercase(),
            "source" | "src" => value.clone_into(&mut self.source),
            "target" | "dst" | "destination" => value.clone_into(&mut self.target),
            "bind-propagation" if PROPAGATIONS.contains(&value) => value.clone_into(&mut self.propagation),
            "bind-propagation" => {
                return Err(format!("the propagations are {}", PROPAGATIONS.join(", ")));
            }
            "bind-recursive" => match value {
                "enabled" => {}
                "disabled" => self.non_recursive = true,
                "writable" => self.read_only_below = ReadOnlyBelow::Never,
                "readonly" => self.read_only_below = ReadOnlyBelow::Always,
                other => {
                    return Err(format!(
                        "bind-recursive is enabled, disabled, writable or readonly, not {other:?}"
                    ));
                }
            },
            "tmpfs-size" => self.tmpfs.push(format!("size={}", size_bytes(value)?)),
            "tmpfs-mode" => match u32::from_str_radix(value, 8) {
                Ok(mode) if mode <= 0o7777 => self.tmpfs.push(format!("mode={mode:o}")),
                _ => return Err(format!("tmpfs-mode is an octal number, not {value:?}")),
            },
            // A hint for hosts whose file systems are shared with a virtual machine.
            "consistency" => {}
            key if key.starts_with("volume-") => return Err("volumes are not there yet".to_owned()),
            other => return Err(format!("unknown key {other:?}")),
        }
        Ok(())
    }

    fn finish(self, here: &Path) -> Result<MountSpec, String> {
        let target = container_path(&self.target)
            .ok_or("target must be an absolute path other than / in the container".to_owned())?;
        match self.kind.as_str() {
            "bind" => {
                if !self.tmpfs.is_empty() {
                    return Err("tmpfs- options go with type=tmpfs".to_owned());
                }
                let below = self.read_only_below;
                if below != ReadOnlyBelow::Unspecified && !self.read_only {
                    return Err("bind-recursive=writable and readonly go with readonly".to_owned());
                }
                // docker's rule: nothing may be mounted below afterwards.
                if below == ReadOnlyBelow::Always && self.propagation != "rprivate" {
                    return Err("bind-recursive=readonly goes with bind-propagation=rprivate".to_owned());
                }
                let source =
                    host_path(&self.source, here).ok_or("source must be a path on the host".to_owned())?;
                Ok(MountSpec::Bind(Mount {
                    source,
                    target,
                    read_only: self.read_only,
                    propagation: self.propagation,
                    non_recursive: self.non_recursive,
                    create_source: false,
                    read_only_below: below.into(),
                }))
            }
            "tmpfs" => {
                if !self.source.is_empty()
                    || !self.propagation.is_empty()
                    || self.non_recursive
                    || self.read_only_below != ReadOnlyBelow::Unspecified
                {
                    return Err("source and bind- options go with type=bind".to_owned());
                }
                let mut options = self.tmpfs;
                if self.read_only {
                    options.push("ro".to_owned());
                }
                Ok(MountSpec::Tmpfs(TmpfsMount {
                    target,
                    options: options.join(","),
                }))
            }
            "" | "volume" => Err("volumes are not there yet; write type=bind or type=tmpfs".to_owned()),
            other => Err(format!("unknown type {other:?}; there are bind and tmpfs")),
        }
    }
}

/// The fields of a line of CSV (RFC 4180); `None` if a quote is not closed.
fn csv(line: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        let field = fields.last_mut()?;
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let here = Path::new("/work/dir");
        let mount = |source: &str, target: &str, read_only: bool, propagation: &str| Mount {
            source: source.to_owned(),
            target: target.to_owned(),
            read_only,
            propagation: propagation.to_owned(),
            non_recursive: false,
            create_source: true,
            ..Mount::default()
        };
        for (text, expected) in [
            ("/a:/b:cached,rw", mount("/a", "/b", false, "")),
            ("/a:/b", mount("/a", "/b", false, "")),
            ("/a:/b:ro", mount("/a", "/b", true, "")),
            ("/a:/b:rw,rshared", mount("/a", "/b", false, "rshared")),
            ("/a:/b:ro,z", mount("/a", "/b", true, "")),
            (".:/b", mount("/work/dir", "/b", false, "")),
            ("./x/../y:/b", mount("/work/dir/y", "/b", false, "")),
            ("../x:/b", mount("/work/x", "/b", false, "")),
        ] {
            assert_eq!(volume(text, here), Ok(expected), "{text}");
        }
        for (text, word) in [
            ("/b", "anonymous"),
            ("name:/b", "named volumes"),
            ("/a:b", "absolute"),
            ("/a:/", "absolute"),
            ("/a:/b:bogus", "unknown option"),
            ("/a:/b:ro,rw", "contradict"),
            ("/a:/b:rshared,rslave", "contradict"),
            ("/a:/b:ro:x", "write /host"),
            (":/b", "named volumes"),
            ("", "anonymous"),
        ] {
            let error = volume(text, here).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn memory_file_systems() {
        for (text, expected) in [
            ("/t", Some(("/t", ""))),
            ("/t:size=1m,exec", Some(("/t", "size=1m,exec"))),
            ("t", None),
            ("/", None),
            ("", None),
        ] {
            let found = tmpfs(text).ok().map(|mount| (mount.target, mount.options));
            let expected = expected.map(|(target, options)| (target.to_owned(), options.to_owned()));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn mounts_in_words() {
        let here = Path::new("/here");
        let bind = |source: &str, target: &str| Mount {
            source: source.to_owned(),
            target: target.to_owned(),
            ..Mount::default()
        };
        let memory = |options: &str| {
            MountSpec::Tmpfs(TmpfsMount {
                target: "/b".to_owned(),
                options: options.to_owned(),
            })
        };
        for (text, expected) in [
            ("type=bind,source=/a,target=/b", MountSpec::Bind(bind("/a", "/b"))),
            (
                "type=bind,src=./x,dst=/b,readonly,bind-propagation=rslave,consistency=cached",
                MountSpec::Bind(Mount {
                    read_only: true,
                    propagation: "rslave".to_owned(),
                    ..bind("/here/x", "/b")
                }),
            ),
            (
                "type=bind,\"source=/a,b\",destination=/b,ro=false,bind-nonrecursive=1",
                MountSpec::Bind(Mount {
                    non_recursive: true,
                    ..bind("/a,b", "/b")
                }),
            ),
            (
                "type=bind,src=/a,dst=/b,readonly,bind-recursive=writable",
                MountSpec::Bind(Mount {
                    read_only: true,
                    read_only_below: ReadOnlyBelow::Never.into(),
                    ..bind("/a", "/b")
                }),
            ),
            (
                "type=bind,src=/a,dst=/b,readonly,bind-recursive=readonly,bind-propagation=rprivate",
                MountSpec::Bind(Mount {
                    read_only: true,
                    propagation: "rprivate".to_owned(),
                    read_only_below: ReadOnlyBelow::Always.into(),
                    ..bind("/a", "/b")
                }),
            ),
            (
                "type=bind,src=/a,dst=/b,bind-recursive=disabled",
                MountSpec::Bind(Mount {
                    non_recursive: true,
                    ..bind("/a", "/b")
                }),
            ),
            ("type=tmpfs,target=/b", memory("")),
            (
                "type=tmpfs,target=/b,tmpfs-size=1k,tmpfs-mode=01770,ro",
                memory("size=1024,mode=1770,ro"),
            ),
        ] {
            assert_eq!(mount(text, here), Ok(expected), "{text}");
        }
        for (text, word) in [
            ("source=/a,target=/b", "volumes are not there yet"),
            ("type=volume,target=/b", "volumes are not there yet"),
            ("type=npipe,target=/b", "unknown type"),
            ("type=bind,target=/b", "source"),
            ("type=bind,source=/a", "target"),
            ("type=bind,source=/a,target=/b,tmpfs-size=1", "type=tmpfs"),
            ("type=tmpfs,target=/b,source=/a", "type=bind"),
            ("type=tmpfs,target=/b,tmpfs-mode=9", "octal"),
            ("type=bind,source=/a,target=/b,readonly=maybe", "true or false"),
            ("type=bind,source=/a,target=/b,bind-propagation=x", "propagations"),
            (
                "type=bind,source=/a,target=/b,bind-recursive=x",
                "enabled, disabled",
            ),
            (
                "type=bind,source=/a,target=/b,bind-recursive=writable",
                "readonly",
            ),
            (
                "type=bind,source=/a,target=/b,ro,bind-recursive=readonly",
                "rprivate",
            ),
            ("type=bind,bogus=1", "unknown key"),
            ("type=bind,bogus", "KEY=VALUE"),
            ("type=bind,\"source=/a", "quote"),
        ] {
            let error = mount(text, here).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
