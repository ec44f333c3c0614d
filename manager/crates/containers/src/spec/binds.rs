//! Bind mounts: how far down a read-only one is read-only, and how mounts travel between it and the host.
//!
//! ```text
//!   read-only, recursive        rbind ro rro    the whole tree, where the kernel (5.12) and the runtime can do that
//!                               rbind ro        the top alone: what is mounted below it can be written to
//!   shared, slave               linux.rootfsPropagation too, or the runtime would cut all of it off from the host
//! ```
//!
//! What the host mounts below a source after the start is not made read-only, whatever the options: only `private` keeps it out.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::SpecError;
use super::process::absolute;
use crate::request::{BindMount, Propagation, ReadOnlyBelow};

/// The first kernel with mount_setattr(2), which makes a whole tree read-only.
const SETS_TREES: (u32, u32) = (5, 12);

/// How far down the runtime and the kernel can make a tree of mounts read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadOnlyDepth {
    /// The whole tree.
    Whole,
    /// What is mounted on the target itself.
    Top,
}

impl ReadOnlyDepth {
    /// What this kernel allows.
    pub(crate) fn of_kernel(version: (u32, u32)) -> Self {
        if version >= SETS_TREES {
            Self::Whole
        } else {
            Self::Top
        }
    }
}

/// Whether it matters for this mount how far down read-only reaches.
pub(crate) fn wants_whole_tree(mount: &BindMount) -> bool {
    mount.read_only && mount.recursive && mount.read_only_below != ReadOnlyBelow::Never
}

/// The mount in the OCI spec.
pub(crate) fn spec(mount: &BindMount, depth: ReadOnlyDepth) -> Result<Value, SpecError> {
    let refused = |reason: &str| SpecError::Mount {
        target: mount.target.clone(),
        reason: reason.into(),
    };
    let source = mount
        .source
        .to_str()
        .ok_or_else(|| refused("the source is not UTF-8"))?;
    let mut options = vec![
        if mount.recursive { "rbind" } else { "bind" },
        if mount.read_only { "ro" } else { "rw" },
    ];
    match (wants_whole_tree(mount), depth) {
        (true, ReadOnlyDepth::Whole) => options.push("rro"),
        (true, ReadOnlyDepth::Top) if mount.read_only_below == ReadOnlyBelow::Always => {
            return Err(refused(
                "what is mounted below the source cannot be made read-only: that needs Linux 5.12 and a runtime that knows the mount option rro",
            ));
        }
        _ => {}
    }
    options.push(mount.propagation.as_str());
    Ok(json!({
        "destination": absolute(&mount.target)?,
        "type": "bind",
        "source": source,
        "options": options,
    }))
}

/// What the root's propagation must be for these mounts to reach the host, or to be reached from it; `None`: the runtime's default will do.
pub(crate) fn root_propagation(mounts: &[BindMount]) -> Option<&'static str> {
    let any = |kinds: [Propagation; 2]| mounts.iter().any(|mount| kinds.contains(&mount.propagation));
    if any([Propagation::Shared, Propagation::Rshared]) {
        return Some("shared");
    }
    any([Propagation::Slave, Propagation::Rslave]).then_some("rslave")
}

/// Refuses a mount that is to travel and whose source lies on a mount that does not. `source` has no links left in it; `mountinfo` is the host's
/// table (proc_pid_mountinfo(5)).
pub(crate) fn check_travels(mount: &BindMount, source: &Path, mountinfo: &str) -> Result<(), SpecError> {
    let (tags, what): (&[&str], _) = match mount.propagation {
        Propagation::Rprivate | Propagation::Private => return Ok(()),
        Propagation::Shared | Propagation::Rshared => (&["shared:"], "a shared mount"),
        Propagation::Slave | Propagation::Rslave => (&["shared:", "master:"], "a shared or slave mount"),
    };
    // Of mounts on one point the last in the table is the one on top.
    let below = table(mountinfo).filter(|line| source.starts_with(&line.point));
    let Some(line) = below.max_by_key(|line| line.point.as_os_str().len()) else {
        return Ok(());
    };
    if line
        .travels
        .iter()
        .any(|tag| tags.iter().any(|wanted| tag.starts_with(wanted)))
    {
        return Ok(());
    }
    Err(SpecError::Mount {
        target: mount.target.clone(),
        reason: format!(
            "{} is mounted on {} but it is not {what}",
            mount.source.display(),
            line.point.display()
        ),
    })
}

/// Whether something is mounted below a path.
pub(crate) fn has_mounts_below(source: &Path, mountinfo: &str) -> bool {
    table(mountinfo).any(|line| line.point != source && line.point.starts_with(source))
}

/// What is needed of a line of the table.
struct Line<'text> {
    point: PathBuf,
    travels: Vec<&'text str>,
}

fn table(mountinfo: &str) -> impl Iterator<Item = Line<'_>> {
    mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let point = PathBuf::from(unescaped(fields.nth(4)?));
        // Its own options, then any number of tags up to a lone hyphen.
        let travels = fields.skip(1).take_while(|field| *field != "-").collect();
        Some(Line { point, travels })
    })
}

/// The kernel writes blanks, tabs, line ends and backslashes as three octal digits.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (written, meant)| {
            text.replace(written, meant)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(propagation: Propagation, read_only_below: ReadOnlyBelow) -> BindMount {
        BindMount {
            source: "/src".into(),
            target: "/data".into(),
            read_only: true,
            propagation,
            recursive: true,
            read_only_below,
            create_source: false,
        }
    }

    #[test]
    fn read_only_reaches_as_far_as_can_be() {
        use ReadOnlyBelow::{Always, Never, WherePossible};
        let whole = Some(json!(["rbind", "ro", "rro", "rprivate"]));
        let top = Some(json!(["rbind", "ro", "rprivate"]));
        let table = [
            (WherePossible, (5, 12), whole.clone()),
            (WherePossible, (5, 11), top.clone()),
            (Never, (6, 1), top.clone()),
            (Never, (4, 19), top),
            (Always, (6, 1), whole),
            (Always, (5, 4), None),
        ];
        for (below, kernel, expected) in table {
            let found = spec(
                &bind(Propagation::Rprivate, below),
                ReadOnlyDepth::of_kernel(kernel),
            );
            let options = found.ok().map(|mount| mount["options"].clone());
            assert_eq!(options, expected, "{below:?} {kernel:?}");
        }
        let mut writable = bind(Propagation::Rprivate, WherePossible);
        writable.read_only = false;
        let options = &spec(&writable, ReadOnlyDepth::Whole).unwrap()["options"];
        assert_eq!(options, &json!(["rbind", "rw", "rprivate"]));
        let mut alone = bind(Propagation::Rprivate, WherePossible);
        alone.recursive = false;
        let options = &spec(&alone, ReadOnlyDepth::Whole).unwrap()["options"];
        assert_eq!(options, &json!(["bind", "ro", "rprivate"]));
    }

    #[test]
    fn the_root_lets_through_what_a_mount_asks_for() {
        use Propagation::{Private, Rprivate, Rshared, Rslave, Shared, Slave};
        for (kinds, expected) in [
            (&[][..], None),
            (&[Rprivate, Private], None),
            (&[Slave], Some("rslave")),
            (&[Rprivate, Rslave], Some("rslave")),
            (&[Rslave, Rshared], Some("shared")),
            (&[Shared], Some("shared")),
        ] {
            let mounts: Vec<BindMount> = kinds
                .iter()
                .map(|kind| bind(*kind, ReadOnlyBelow::default()))
                .collect();
            assert_eq!(root_propagation(&mounts), expected, "{kinds:?}");
        }
    }

    #[test]
    fn what_does_not_travel_is_refused() {
        const TABLE: &str = "\
20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/a rw
21 20 0:5 / /private rw - tmpfs tmpfs rw
22 20 0:6 / /follows rw master:3 - tmpfs tmpfs rw
23 21 0:7 / /private/with\\040blank rw shared:9 - tmpfs tmpfs rw
24 20 0:8 / /twice rw shared:4 - tmpfs tmpfs rw
25 24 0:9 / /twice rw - tmpfs tmpfs rw
";
        for (source, shared, slave) in [
            ("/home", true, true),
            ("/privately", true, true),
            ("/private/x", false, false),
            ("/private/with blank/x", true, true),
            ("/follows", false, true),
            ("/twice", false, false),
        ] {
            let source = Path::new(source);
            for (propagation, expected) in [
                (Propagation::Rshared, shared),
                (Propagation::Slave, slave),
                (Propagation::Rprivate, true),
            ] {
                let found = check_travels(&bind(propagation, ReadOnlyBelow::default()), source, TABLE);
                assert_eq!(found.is_ok(), expected, "{} {propagation:?}", source.display());
            }
        }
        let error = check_travels(
            &bind(Propagation::Shared, ReadOnlyBelow::default()),
            Path::new("/private"),
            TABLE,
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "the mount on \"/data\" is not possible: /src is mounted on /private but it is not a shared mount"
        );
        for (source, expected) in [
            ("/private", true),
            ("/follows", false),
            ("/", true),
            ("/priv", false),
        ] {
            assert_eq!(has_mounts_below(Path::new(source), TABLE), expected, "{source}");
        }
    }
}
