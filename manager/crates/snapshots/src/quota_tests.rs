//! Tables, and real limits on an ext4 and an xfs of the test's own, each in a file, mounted in a mount namespace of the test's own thread.

use std::io::{self, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use croze_model::ErrorKind;
use croze_store::Durable;
use croze_sys::caps;

use super::*;
use crate::mount::tests::isolated;
use crate::{Access, Snapshotter};

const MIB: u64 = 1 << 20;

#[test]
fn an_id_is_used_once_and_again_when_it_was_given_back() {
    let projects = Projects::default();
    assert!(projects.take(7) && projects.take(8) && !projects.take(7));
    projects.give_back(7);
    assert!(projects.take(7) && !projects.take(8));
}

#[test]
fn ids_are_drawn_from_where_nobody_else_looks_for_theirs() {
    let drawn: HashSet<u32> = (0..100).map(|_| draw().unwrap()).collect();
    assert!(drawn.len() > 90, "{drawn:?}");
    assert!(drawn.iter().all(|id| id >> 30 == 1), "{drawn:?}");
}

#[test]
fn the_nearest_mount_is_the_one_that_counts() {
    let table = "\
20 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
21 20 254:1 / /var/lib rw shared:2 - xfs /dev/mapper/my\\040disk rw,noquota\n\
22 20 0:9 / /var/library rw - tmpfs tmpfs rw\n\
23 21 254:2 / /var/lib rw - ext4 /dev/vdc rw,prjquota\n";
    let found = |path: &str| Mounted::find(table, Path::new(path)).unwrap().describe();
    assert_eq!(found("/var/lib/croze"), "ext4 on /dev/vdc, mounted at /var/lib");
    assert_eq!(found("/var/library/x"), "tmpfs on tmpfs, mounted at /var/library");
    assert_eq!(found("/var/l"), "ext4 on /dev/root, mounted at /");
    let below: String = table.lines().take(2).map(|line| format!("{line}\n")).collect();
    let below = Mounted::find(&below, Path::new("/var/lib")).unwrap();
    assert_eq!(below.source, "/dev/mapper/my disk");
}

#[test]
fn what_a_file_system_lacks_is_said_with_what_to_do() {
    let mounted = |kind: &str| Mounted {
        kind: kind.to_owned(),
        source: "/dev/vdb".to_owned(),
        point: "/data".into(),
    };
    let both = [true, true];
    for (kind, state, kernel_has, lacks, advice) in [
        (
            "ext4",
            State::Off,
            both,
            "features project and quota",
            "umount /data && tune2fs -O project,quota /dev/vdb && mount -o prjquota /dev/vdb /data",
        ),
        (
            "ext4",
            State::Counted,
            both,
            "without prjquota",
            "mount -o prjquota /dev/vdb /data",
        ),
        ("ext4", State::Off, [false, true], "kernel", "CONFIG_QFMT_V2"),
        ("xfs", State::Off, both, "without prjquota", "rootflags=prjquota"),
        ("xfs", State::Counted, both, "without prjquota", "umount /data"),
        ("xfs", State::Off, [true, false], "kernel", "CONFIG_XFS_QUOTA"),
        (
            "btrfs",
            State::Off,
            both,
            "only ext4 and xfs",
            "root in croze.toml",
        ),
    ] {
        let (said, hint) = mounted(kind).lack(state, kernel_has);
        assert!(said.contains(lacks), "{kind} {state:?}: {said}");
        assert!(hint.contains(advice), "{kind} {state:?}: {hint}");
    }
    let (said, hint) = mounted("ext4").lack_of_devices();
    assert!(
        said.contains("nodev") && hint.contains("remount,dev /data"),
        "{said} {hint}"
    );
}

#[test]
fn without_a_limit_nothing_is_asked_of_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let store = Snapshots::open(dir.path()).unwrap();
    let record = store.prepare("c", &[]).unwrap();
    assert_eq!(record.quota, None);
    if store.can_limit().is_ok() {
        return;
    }
    let limit = Limit {
        bytes: Some(MIB),
        inodes: None,
    };
    let error = store.prepare_when("d", &[], limit, Durable::Now).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.advice().is_some(), "{}", error.one_line());
    assert_eq!(fs::read_dir(store.dir("active")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(store.dir("staging")).unwrap().count(), 0);
    assert!(store.projects().lock().is_empty());
}

/// A file system in a file; its loop device goes with the mount.
struct Disk {
    image: PathBuf,
    mounted: PathBuf,
    kind: &'static str,
}

impl Disk {
    /// `None`, with the reason, where this host cannot have it with quotas.
    fn make(dir: &Path, kind: &'static str, features: &[&str]) -> Option<Self> {
        // Neither is loaded unless somebody has asked for it.
        let _loaded = ["loop", kind].map(|module| Command::new("modprobe").arg("-q").arg(module).status());
        let program = format!("mkfs.{kind}");
        let missing = if !Path::new("/dev/loop-control").exists() {
            "loop devices".to_owned()
        } else if Command::new(&program).arg("-V").output().is_err() {
            program.clone()
        } else if !Self::with(
            dir,
            kind,
            &["-O", "project,quota"][..if kind == "ext4" { 2 } else { 0 }],
        )
        .takes_quotas()
        {
            format!("a kernel with quotas of {kind}")
        } else {
            return Some(Self::with(dir, kind, features));
        };
        eprintln!("skipped: {missing} missing");
        None
    }

    fn with(dir: &Path, kind: &'static str, features: &[&str]) -> Self {
        let disk = Self {
            image: dir.join(kind),
            mounted: dir.join(format!("{kind}-mounted")),
            kind,
        };
        File::create(&disk.image).unwrap().set_len(400 * MIB).unwrap();
        fs::create_dir_all(&disk.mounted).unwrap();
        let force = if kind == "xfs" { "-f" } else { "-F" };
        Self::run(
            &format!("mkfs.{kind}"),
            &[&["-q", force], features].concat(),
            &[&disk.image],
        );
        disk
    }

    /// The kernel may have the file system and not its quotas: then it is not mounted with them.
    fn takes_quotas(&self) -> bool {
        let mounted = Command::new("mount")
            .args(["-t", self.kind, "-o", "loop,prjquota"])
            .args([&self.image, &self.mounted])
            .output();
        let takes = mounted.is_ok_and(|output| output.status.success());
        if takes {
            self.unmount();
        }
        takes
    }

    fn run(program: &str, words: &[&str], last: &[&Path]) {
        let output = Command::new(program).args(words).args(last).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn mount(&self, options: &str) {
        let options = format!("loop{options}");
        Self::run(
            "mount",
            &["-t", self.kind, "-o", &options],
            &[&self.image, &self.mounted],
        );
    }

    fn unmount(&self) {
        Self::run("umount", &[], &[&self.mounted]);
    }
}

/// Writes until the disk takes no more; how much it took.
fn fill(path: &Path) -> (u64, io::Error) {
    let mut file = File::create(path).unwrap();
    let piece = vec![7; 256 << 10];
    let mut written = 0;
    loop {
        // What was written may only be missed when it comes to the disk.
        match file.write_all(&piece).and_then(|()| file.sync_data()) {
            Ok(()) => written += piece.len() as u64,
            Err(error) => return (written, error),
        }
        assert!(written < 64 * MIB, "there is no limit");
    }
}

fn is_over(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::QuotaExceeded | io::ErrorKind::StorageFull
    )
}

struct Limited<'a> {
    store: &'a Snapshots,
    target: PathBuf,
}

impl Limited<'_> {
    fn mounted<T>(&self, id: &str, look: impl FnOnce(&Path) -> T) -> T {
        self.store.mount(id, &self.target, Access::ReadWrite).unwrap();
        let result = look(&self.target);
        self.store.unmount(&self.target).unwrap();
        result
    }
}

fn limits_hold(disk: &Disk, snapshotter: Snapshotter) {
    let root = disk.mounted.join(snapshotter.name());
    // The host's own limit for all of it: in such a directory only what belongs to the same project may be moved.
    fs::create_dir(&root).unwrap();
    set(&root, 5, true);
    let store = Snapshots::open_with(&root, Some(snapshotter)).unwrap();
    store.can_limit().unwrap();
    let target = root.join("target");
    fs::create_dir(&target).unwrap();
    let limited = Limited {
        store: &store,
        target,
    };
    let limit = Limit {
        bytes: Some(8 * MIB),
        inodes: Some(100),
    };

    passes_over_what_is_somebodys(&store, limit);
    // What is asked of the device is what is asked of the descriptor.
    let record = store.prepare_when("c", &[], limit, Durable::Now).unwrap();
    let own = record.quota.clone().unwrap();
    assert_eq!(own.limit, limit);
    let account = store.account(own.project).unwrap();
    assert_eq!(
        (account.inodes, account.limits.bytes, account.limits.inodes),
        (2, limit.bytes, limit.inodes)
    );
    let by_device = store
        .ask_device(ASK, |place| quota::account(place, own.project))
        .unwrap();
    assert_eq!(by_device, account);
    assert_eq!(store.ask_device(ASK, quota::state).unwrap(), State::Enforced);

    hold_again(&store, &record);
    if snapshotter == Snapshotter::Copy {
        is_refused_below_its_image(&store);
    }

    // The limit is what a program sees, and what it meets.
    limited.mounted("c", |at| {
        let seen = rustix::fs::statvfs(at).unwrap();
        assert_eq!(seen.f_blocks * seen.f_frsize, 8 * MIB);
        let (written, error) = fill(&at.join("large"));
        assert!(
            is_over(&error) && (6 * MIB..=8 * MIB).contains(&written),
            "{written} {error}"
        );
        // What is removed is given back by xfs when it comes to that, what is cut off at once.
        fs::write(at.join("large"), "").unwrap();
        let made = (0..200)
            .take_while(|n| fs::create_dir(at.join(n.to_string())).is_ok())
            .count();
        assert!((80..100).contains(&made), "{made}");
    });

    // Another one has room, and a project of its own also for a store that is opened anew.
    let again = Snapshots::open_with(&root, Some(snapshotter)).unwrap();
    let more = Limit {
        bytes: Some(32 * MIB),
        inodes: None,
    };
    let other = again
        .prepare_when("d", &[], more, Durable::Soon)
        .unwrap()
        .quota
        .unwrap();
    assert!(other.project != own.project);
    limited.mounted("d", |at| {
        fs::write(at.join("x"), vec![1; 16 << 20]).unwrap();
        fs::create_dir_all(at.join("deep/er/and/deep/er")).unwrap();
    });
    assert!(store.usage("d").unwrap().bytes >= 16 * MIB);

    // It holds again after a mount without quotas, in which it cannot be mounted; what was written can be read as ever.
    store.diff("c", io::sink()).unwrap();
    disk.unmount();
    disk.mount("");
    says_what_the_mount_lacks(&store.mount("c", &limited.target, Access::ReadWrite).unwrap_err());
    disk.unmount();
    disk.mount(",prjquota");
    // One that has taken all it may can still be mounted, and has its limits then.
    limited.mounted("c", |at| {
        assert!(is_over(&File::create(at.join("one more")).unwrap_err()));
        let (_, error) = fill(&at.join("large"));
        assert!(is_over(&error), "{error}");
    });

    // Files that were copied back have no project: they are not run without a limit.
    set(&store.dir("active").join("c/upper"), 0, false);
    let error = store.mount("c", &limited.target, Access::ReadWrite).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.advice().unwrap().contains("chattr"), "{:?}", error.advice());

    for (id, quota) in [("c", &own), ("d", &other)] {
        is_given_back(&again, id, quota);
    }
    assert_eq!(fs::read_dir(store.dir("staging")).unwrap().count(), 0);
}

fn set(directory: &Path, id: u32, inherit: bool) {
    quota::set_project(open(directory).unwrap(), Project { id, inherit }).unwrap();
}

/// Of two ids the one is taken that no file belongs to; if there is none, it is said.
fn passes_over_what_is_somebodys(store: &Snapshots, limit: Limit) {
    let staging = store.staging().unwrap();
    let [foreign, own] = ["foreign", "own"].map(|name| staging.path().join(name));
    for directory in [&foreign, &own] {
        fs::create_dir(directory).unwrap();
    }
    set(&foreign, FIRST, false);
    let mut next = FIRST..;
    let drawn = || Ok(next.next().unwrap());
    let assigned = store.assign_drawn(limit, &[&own], drawn).unwrap();
    let project = assigned.quota().unwrap().project;
    assert_eq!(project, FIRST + 1);
    assert_eq!(quota::project_of(open(&own).unwrap()).unwrap().id, project);
    let error = store.assign_drawn(limit, &[&foreign], || Ok(FIRST)).unwrap_err();
    assert!(matches!(error, SnapshotError::NoProject { .. }), "{error}");
    drop(assigned);
    assert!(store.projects().lock().is_empty());
}

/// Limits that were taken away are there again when it is asked for.
fn hold_again(store: &Snapshots, record: &SnapshotRecord) {
    let project = record.quota.as_ref().unwrap().project;
    let account = store.account(project).unwrap();
    store.lift(record);
    assert_eq!(store.account(project).unwrap().limits, Account::default().limits);
    store.keep_limits(&record.id).unwrap();
    assert_eq!(store.account(project).unwrap(), account);
}

/// A copy that takes all it may would have no room for what it shall do, or not even for itself.
fn is_refused_below_its_image(store: &Snapshots) {
    let staged = store.stage_layer().unwrap();
    fs::write(staged.tree().join("large"), vec![1; 2 << 20]).unwrap();
    let key = croze_model::Digest::of(b"large");
    let layer = crate::LayerRecord {
        key,
        diff_id: key,
        size: 1,
        implicit: Vec::new(),
        opaque_root: false,
    };
    store.commit_layer(staged, &layer).unwrap();
    let limit = |bytes, inodes| Limit { bytes, inodes };
    for (limit, said) in [
        (limit(Some(MIB), None), "1048576 bytes are allowed, 2"),
        (limit(Some(8 * MIB), Some(2)), "2 inodes are allowed, 3 are taken"),
    ] {
        let error = store.prepare_when("e", &[key], limit, Durable::Now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.one_line().contains(said), "{}", error.one_line());
        assert!(!store.dir("active").join("e").exists());
    }
    store
        .prepare_when("e", &[key], limit(Some(3 * MIB), Some(3)), Durable::Now)
        .unwrap();
    store.remove("e").unwrap();
    store.remove_layer(&key).unwrap();
}

/// Nothing is known of a project when its snapshot was removed.
fn is_given_back(store: &Snapshots, id: &str, quota: &Quota) {
    store.remove(id).unwrap();
    store.remove(id).unwrap();
    // xfs frees inodes in the background.
    let deadline = Instant::now() + Duration::from_secs(60);
    while store.account(quota.project).unwrap() != Account::default() {
        assert!(
            Instant::now() < deadline,
            "{id}: {:?}",
            store.account(quota.project)
        );
        std::thread::yield_now();
    }
    assert!(!store.projects().lock().contains(&quota.project));
}

/// The error of a file system that could have quotas and was mounted without.
fn says_what_the_mount_lacks(error: &croze_model::Error) {
    let line = error.one_line();
    assert!(line.contains("without prjquota"), "{line}");
}

fn limits_of(kind: &'static str, mkfs: &[&str]) {
    isolated(|| {
        let dir = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::make(dir.path(), kind, mkfs) else {
            return;
        };
        disk.mount("");
        let store = Snapshots::open(&disk.mounted).unwrap();
        let error = store.can_limit().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        says_what_the_mount_lacks(&error);
        disk.unmount();
        disk.mount(",prjquota");
        // As a container's root: with this one ext4 heeds no limit, where it is not overlayfs that writes.
        let mut own = caps::own().unwrap();
        let names = own.effective.names().filter(|name| *name != "CAP_SYS_RESOURCE");
        own.effective = names.filter_map(caps::Set::named).collect();
        caps::set_own(&own).unwrap();
        for snapshotter in [Snapshotter::Overlay, Snapshotter::Copy] {
            limits_hold(&disk, snapshotter);
        }
        disk.unmount();
    });
}

#[test]
fn ext4_keeps_the_limits() {
    limits_of("ext4", &["-O", "project,quota"]);
}

#[test]
fn xfs_keeps_the_limits() {
    limits_of("xfs", &[]);
}

#[test]
fn ext4_gets_its_features_as_is_advised() {
    isolated(|| {
        let dir = tempfile::tempdir().unwrap();
        let Some(disk) = Disk::make(dir.path(), "ext4", &[]) else {
            return;
        };
        disk.mount("");
        let advice = Snapshots::open(&disk.mounted).unwrap().can_limit().unwrap_err();
        assert!(
            advice.one_line().contains("features project and quota"),
            "{}",
            advice.one_line()
        );
        disk.unmount();
        Disk::run("tune2fs", &["-O", "project,quota"], &[&disk.image]);
        disk.mount(",prjquota");
        Snapshots::open(&disk.mounted).unwrap().can_limit().unwrap();
        disk.unmount();
    });
}
