//! Mounts put on a target.
//!
//! A mount is finished while nobody can see it, then attached: it is never there without its attributes. Where the kernel
//! lacks a call (`mount_setattr` before Linux 5.12, all of them behind a filter that answers `ENOSYS`), it is attached first and
//! changed afterwards, as `mount(8)` always did.

use std::os::fd::{AsFd, OwnedFd};

use croze_sys::mount::{self, AttributeChange, Attributes, Depth, Propagation};
use croze_sys::{Error, Result};

use crate::mounts::options::{Change, MountOptions};
use crate::mounts::target::Target;

/// Binds `source` on `target`; returns the root of the new mount.
///
/// # Errors
/// The call that failed.
pub fn bind(source: impl AsFd, target: &Target<'_>, depth: Depth, options: &MountOptions) -> Result<OwnedFd> {
    match mount::clone_at(source.as_fd(), depth) {
        Ok(tree) => finish(tree, target, options),
        Err(error) if error.is_missing() => {
            mount::bind_on(source, target, depth)?;
            let attached = target.reopen()?;
            change_attached(&attached, &options.own)?;
            change_recursively(&attached, &options.recursive)?;
            Ok(attached)
        }
        Err(error) => Err(error),
    }
}

/// Mounts a new file system on `target`; returns the root of the new mount.
///
/// # Errors
/// The call that failed.
pub fn filesystem(
    kind: &str,
    source: &str,
    data: &[String],
    target: &Target<'_>,
    options: &MountOptions,
) -> Result<OwnedFd> {
    let attributes = options.own.set;
    let words: Vec<&str> = data.iter().map(String::as_str).collect();
    let made = if fits_fsconfig(source, &words) {
        mount::new_filesystem(kind, Some(source), &words, attributes)
    } else {
        Err(Error::new("fsconfig", croze_sys::Errno::NOSYS))
    };
    match made {
        Ok(detached) => {
            change_recursively(&detached, &options.recursive)?;
            mount::attach(&detached, target)?;
            Ok(detached)
        }
        Err(error) if error.is_missing() => {
            let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            mount::mount_on(target, kind, source, attributes, &words.join(","))?;
            let attached = target.reopen()?;
            change_recursively(&attached, &options.recursive)?;
            Ok(attached)
        }
        Err(error) => Err(error),
    }
}

/// Whether `fsconfig` takes them: it allows 255 bytes a value, which the layers of an overlay exceed soon, where `mount(2)` has a page
/// for all of them.
fn fits_fsconfig(source: &str, words: &[&str]) -> bool {
    const LIMIT: usize = 255;
    let value = |word: &&str| word.split_once('=').map_or(0, |(_, value)| value.len());
    source.len() <= LIMIT && words.iter().map(value).all(|length| length <= LIMIT)
}

/// A security context may have commas in it, which end an option in the text of `mount(2)`.
fn quoted(word: &str) -> String {
    match word.split_once('=') {
        Some(("context", label)) => format!("context=\"{label}\""),
        _ => word.to_owned(),
    }
}

/// Changes the propagation of an attached mount.
///
/// # Errors
/// The call that failed.
pub fn set_propagation(attached: &OwnedFd, propagation: Propagation, depth: Depth) -> Result<()> {
    let change = AttributeChange {
        propagation: Some(propagation),
        ..AttributeChange::default()
    };
    match mount::set_attributes(attached, &change, depth) {
        Err(error) if error.is_missing() => mount::set_propagation_of(attached, propagation, depth),
        result => result,
    }
}

/// Makes one mount read-only, detached or attached.
///
/// # Errors
/// The call that failed; `ENOSYS` only for a detached one.
pub fn set_read_only(mounted: &OwnedFd) -> Result<()> {
    change_attached(
        mounted,
        &Change {
            set: Attributes::READ_ONLY,
            clear: Attributes::NONE,
        },
    )
}

/// Attaches a detached tree with its attributes.
///
/// # Errors
/// The call that failed.
pub fn finish(tree: OwnedFd, target: &Target<'_>, options: &MountOptions) -> Result<OwnedFd> {
    let early = if options.own.is_empty() {
        Ok(())
    } else {
        mount::set_attributes(&tree, &as_attributes(&options.own), Depth::One)
    };
    match early {
        Ok(()) => {
            change_recursively(&tree, &options.recursive)?;
            mount::attach(&tree, target)?;
        }
        Err(error) if error.is_missing() => {
            mount::attach(&tree, target)?;
            change_attached(&tree, &options.own)?;
            change_recursively(&tree, &options.recursive)?;
        }
        Err(error) => return Err(error),
    }
    Ok(tree)
}

fn change_attached(mounted: &OwnedFd, change: &Change) -> Result<()> {
    if change.is_empty() {
        return Ok(());
    }
    match mount::set_attributes(mounted, &as_attributes(change), Depth::One) {
        Err(error) if error.is_missing() => {
            let now = mount::attributes_of(mounted)?;
            mount::remount(mounted, now.without(change.clear).with(change.set))
        }
        result => result,
    }
}

/// There is no older way to change a whole tree at once.
fn change_recursively(mounted: &OwnedFd, change: &Change) -> Result<()> {
    if change.is_empty() {
        return Ok(());
    }
    mount::set_attributes(mounted, &as_attributes(change), Depth::Recursive).map_err(|error| Error {
        call: "mount_setattr (recursive options need Linux 5.12)",
        ..error
    })
}

fn as_attributes(change: &Change) -> AttributeChange<'static> {
    AttributeChange {
        set: change.set,
        clear: change.clear,
        ..AttributeChange::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_go_the_classic_way() {
        let long = format!("lowerdir={}", "x".repeat(256));
        assert!(fits_fsconfig("overlay", &["lowerdir=/a:/b", "ro"]));
        assert!(!fits_fsconfig("overlay", &["ro", &long]));
        assert!(!fits_fsconfig(&long, &[]));
    }

    #[test]
    fn a_context_keeps_its_commas() {
        assert_eq!(quoted("context=u:r:t:s0:c1,c2"), "context=\"u:r:t:s0:c1,c2\"");
        assert_eq!(quoted("mode=755"), "mode=755");
    }
}
