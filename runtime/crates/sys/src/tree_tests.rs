//! Trees of kinds that a hostile container makes.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("croze-sys-tree-{name}-{}", process_unique()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove_path(&self.0).unwrap_or_default();
    }
}

/// Makes `depth` directories in each other, as a shell's `mkdir d && cd d` does.
fn deep(root: &Path, depth: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(root, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
        at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap();
        drop(
            rustix::fs::openat(
                &at,
                "f",
                OFlags::WRONLY | OFlags::CREATE,
                Mode::from_raw_mode(0o600),
            )
            .unwrap(),
        );
    }
}

#[test]
fn a_tree_deeper_than_descriptors_and_paths_go_is_measured_and_removed() {
    let scratch = Scratch::new("deep");
    let tree = scratch.0.join("tree");
    fs::create_dir(&tree).unwrap();
    // Far more levels than PATH_MAX / 2, and than the usual number of descriptors.
    deep(&tree, 3_000);
    assert_eq!(usage(&tree).unwrap().inodes, 6_001);
    remove_path(&tree).unwrap();
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
}

#[test]
fn links_are_removed_and_not_followed() {
    let scratch = Scratch::new("links");
    let (tree, outside) = (scratch.0.join("tree"), scratch.0.join("outside"));
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "x").unwrap();
    symlink(&outside, tree.join("a/link")).unwrap();
    symlink(&outside, tree.join("a/b/link")).unwrap();
    // The names that moved directories get may be there already.
    fs::create_dir_all(tree.join(".removed-1/x/y")).unwrap();
    File::create(tree.join(".removed-2")).unwrap();
    assert_eq!(usage(&tree).unwrap().inodes, 10);
    remove_path(&tree).unwrap();
    remove_path(&tree).unwrap();
    assert!(!tree.exists() && outside.join("kept").exists());
    symlink(&outside, &tree).unwrap();
    assert_eq!(usage(&tree).unwrap_err().errno, Errno::NOTDIR);
    remove_path(&tree).unwrap();
    assert!(fs::symlink_metadata(&tree).is_err() && outside.join("kept").exists());
}

#[test]
fn a_file_with_two_links_counts_once() {
    let scratch = Scratch::new("linked");
    fs::write(scratch.0.join("a"), [1; 8192]).unwrap();
    let one = usage(&scratch.0).unwrap();
    fs::hard_link(scratch.0.join("a"), scratch.0.join("b")).unwrap();
    assert_eq!(usage(&scratch.0).unwrap(), one);
    assert!(one.bytes >= 8192 && one.inodes == 2);
}
