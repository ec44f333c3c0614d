//! Limits of what a snapshot may take: project quotas of the file system that the store lies on (ext4, xfs).
//!
//! ```text
//!   prepare   an id that nobody uses ──▶ upper, work: project <id>, inherited by all that is made in them ──▶ record ──▶ limits of <id>
//!   mount     the directories still belong to <id>? ──▶ no limits ──▶ overlayfs makes its own directory ──▶ limits of <id>
//!   remove    no limits for <id> ──▶ the record goes ──▶ the files go ──▶ <id> may be used again
//! ```
//!
//! Invariants:
//! - An id is used by one snapshot at a time, and its record says which.
//! - Ids are drawn at random from [`FIRST`] on, where neither docker, podman nor Kubernetes look for theirs, so that nobody knows a neighbour's from his
//!   own. One of which the file system knows anything belongs to somebody else and is passed over: another daemon's, or one whose limits could not be
//!   lifted when its snapshot was removed (quotas were off, the record was damaged). Nobody sweeps these: they cost nothing but themselves.
//! - The kernel counts and refuses. Nothing here measures anything. ext4 refuses nothing to who has `CAP_SYS_RESOURCE`: overlayfs writes without it,
//!   whoever asks it to, but pages that are mapped, and the copy of a privileged container, have no limit there.
//!
//! Not here: a defence against programs that want to evade their limit. Who owns a file may give it to another project (`FS_IOC_FSSETXATTR`), also through
//! overlayfs, which asks the file system as whoever mounted it; no OCI seccomp rule can tell that ioctl from the others. Given to no project it is not
//! counted; given to a neighbour's it counts there, if its id can be found; a root directory that is given away does not start again.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use croze_model::Result;
use croze_sys::Errno;
use croze_sys::quota::{self, Account, Limits, Place, Project, State};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::rand::GetRandomFlags;
use serde::{Deserialize, Serialize};

use crate::error::SnapshotError;
use crate::records::SnapshotRecord;
use crate::store::{SNAPSHOT_FILE, Snapshots};

/// The first project id of ours.
const FIRST: u32 = 1 << 30;
/// How many there are.
const IDS: u32 = 1 << 30;
/// How many of them are drawn before it is given up: not by chance is each somebody's.
const DRAWS: u32 = 1000;

const ASK: &str = "ask for the project quotas of";

/// What may be written into a snapshot; `None`: as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Bytes on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Files, directories and everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
}

impl Limit {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The project that a snapshot's files belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Its id on the file system.
    pub project: u32,
    /// What it may take.
    #[serde(flatten)]
    pub limit: Limit,
}

/// The ids that are in use, by the records or by who makes one.
#[derive(Debug, Default)]
pub(crate) struct Projects {
    used: Mutex<HashSet<u32>>,
}

impl Projects {
    fn lock(&self) -> MutexGuard<'_, HashSet<u32>> {
        // Nothing panics between two changes of it.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known when the store is opened.
    pub(crate) fn begin(&self, snapshots: &[SnapshotRecord]) {
        let records = snapshots.iter().filter_map(|snapshot| snapshot.quota.as_ref());
        self.lock().extend(records.map(|quota| quota.project));
    }

    /// Whether nobody in this process has the id; it is the caller's from now on.
    fn take(&self, id: u32) -> bool {
        self.lock().insert(id)
    }

    fn give_back(&self, id: u32) {
        self.lock().remove(&id);
    }
}

/// An id of ours.
fn draw() -> std::result::Result<u32, SnapshotError> {
    let mut bytes = [0; 4];
    // So few bytes are given whole.
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()).map_err(SnapshotError::file(
        "draw a project id with getrandom for",
        Path::new("a snapshot"),
    ))?;
    Ok(FIRST + u32::from_ne_bytes(bytes) % IDS)
}

/// A project that a new snapshot's directories belong to. Unless the snapshot is kept the id is given back: the directories go before this does.
#[derive(Debug)]
pub(crate) struct Assigned<'a> {
    store: &'a Snapshots,
    quota: Option<Quota>,
}

impl Assigned<'_> {
    pub(crate) fn quota(&self) -> Option<Quota> {
        self.quota.clone()
    }

    /// The snapshot has its record.
    pub(crate) fn keep(mut self) {
        self.quota = None;
    }
}

impl Drop for Assigned<'_> {
    fn drop(&mut self) {
        if let Some(quota) = &self.quota {
            self.store.projects().give_back(quota.project);
        }
    }
}

impl Snapshots {
    /// Whether what is written into snapshots can be limited here.
    ///
    /// # Errors
    /// `Unsupported` with what the file system lacks, and how it gets it.
    pub fn can_limit(&self) -> Result<()> {
        Ok(self.enforced()?)
    }

    fn enforced(&self) -> std::result::Result<(), SnapshotError> {
        let (state, is_nodev) = match self.ask(ASK, quota::state) {
            Ok(State::Enforced) => return Ok(()),
            Ok(state) => (state, false),
            // A kernel that is asked by a device file opens none below a mount that is `nodev`.
            Err(SnapshotError::File { source, .. })
                if source.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) =>
            {
                (State::Off, true)
            }
            Err(error) => return Err(error),
        };
        let root = self.dir("active");
        let mounted = fs::read_to_string("/proc/thread-self/mountinfo")
            .ok()
            .and_then(|table| Mounted::find(&table, &root.canonicalize().unwrap_or_else(|_| root.clone())))
            .unwrap_or_default();
        let kernel_has = ["/proc/sys/fs/quota", "/proc/fs/xfs/xqmstat"].map(|path| Path::new(path).exists());
        let (lacks, advice) = if is_nodev {
            mounted.lack_of_devices()
        } else {
            mounted.lack(state, kernel_has)
        };
        Err(SnapshotError::NoQuota {
            place: mounted.describe(),
            lacks,
            advice,
        })
    }

    /// Gives new, empty directories to a project that nobody has. Nothing happens without a limit.
    pub(crate) fn assign(
        &self,
        limit: Limit,
        directories: &[&Path],
    ) -> std::result::Result<Assigned<'_>, SnapshotError> {
        self.assign_drawn(limit, directories, draw)
    }

    fn assign_drawn(
        &self,
        limit: Limit,
        directories: &[&Path],
        mut draw: impl FnMut() -> std::result::Result<u32, SnapshotError>,
    ) -> std::result::Result<Assigned<'_>, SnapshotError> {
        let mut assigned = Assigned {
            store: self,
            quota: None,
        };
        if limit.is_none() {
            return Ok(assigned);
        }
        self.enforced()?;
        for _ in 0..DRAWS {
            let project = draw()?;
            if !self.projects().take(project) {
                continue;
            }
            match self.give(project, directories) {
                Ok(true) => {
                    assigned.quota = Some(Quota { project, limit });
                    return Ok(assigned);
                }
                // Somebody else's.
                Ok(false) => self.projects().give_back(project),
                Err(error) => {
                    self.projects().give_back(project);
                    return Err(error);
                }
            }
        }
        Err(SnapshotError::NoProject { count: DRAWS })
    }

    /// Whether the project is these directories' alone.
    fn give(&self, project: u32, directories: &[&Path]) -> std::result::Result<bool, SnapshotError> {
        if self.account(project)? != Account::default() {
            return Ok(false);
        }
        for directory in directories {
            let failed = SnapshotError::file("give to a project", directory);
            open(directory)
                .and_then(|file| {
                    quota::set_project(
                        &file,
                        Project {
                            id: project,
                            inherit: true,
                        },
                    )
                    .map_err(Into::into)
                })
                .map_err(failed)?;
        }
        // Another daemon may have chosen it in the same moment: then both take another one.
        let expected = u64::try_from(directories.len()).unwrap_or(u64::MAX);
        Ok(self.account(project)?.inodes == expected)
    }

    /// What the file system knows of a project.
    pub(crate) fn account(&self, project: u32) -> std::result::Result<Account, SnapshotError> {
        self.ask(ASK, |place| quota::account(place, project))
    }

    /// Puts the limits in force that a snapshot has.
    pub(crate) fn enforce(&self, record: &SnapshotRecord) -> std::result::Result<(), SnapshotError> {
        match &record.quota {
            Some(quota) => self.set_limits(quota.project, quota.limit),
            None => Ok(()),
        }
    }

    /// Puts the limits of a snapshot that is mounted already in force, whether they are or not.
    ///
    /// # Errors
    /// `NotFound` if there is none of this id; as [`Snapshots::can_limit`] if it has a limit.
    pub fn keep_limits(&self, id: &str) -> Result<()> {
        let record = self.load_snapshot(id)?;
        if record.quota.is_some() {
            self.enforced()?;
            self.enforce(&record)?;
        }
        Ok(())
    }

    /// Whether what was put into a new snapshot leaves it under its limits.
    pub(crate) fn check_room(&self, id: &str, quota: &Quota) -> std::result::Result<(), SnapshotError> {
        let Account { bytes, inodes, .. } = self.account(quota.project)?;
        let Limit {
            bytes: most,
            inodes: most_inodes,
        } = quota.limit;
        let (what, taken, limit) = if let Some(most) = most.filter(|&most| most < bytes) {
            ("bytes", bytes, most)
        } else if let Some(most) = most_inodes.filter(|&most| most < inodes) {
            ("inodes", inodes, most)
        } else {
            return Ok(());
        };
        Err(SnapshotError::TooLarge {
            id: id.to_owned(),
            what,
            taken,
            limit,
        })
    }

    /// Mounts a snapshot, without its limits: overlayfs makes a directory when it is mounted, which one that has taken all it may could not have.
    /// Nobody writes to it before this returns.
    pub(crate) fn with_limits_off(
        &self,
        record: &SnapshotRecord,
        target: &Path,
        mount: impl FnOnce() -> std::result::Result<(), SnapshotError>,
    ) -> std::result::Result<(), SnapshotError> {
        let Some(quota) = &record.quota else {
            return mount();
        };
        self.enforced()?;
        self.check_project(record, quota.project)?;
        self.lift(record);
        let mounted = mount();
        let limited = self.enforce(record);
        if mounted.is_ok() && limited.is_err() {
            // Nobody may find it without its limits.
            croze_sys::mount::detach(target).ok();
        }
        mounted.and(limited)
    }

    /// What is written into a directory that belongs to another project, or to none, is not counted.
    fn check_project(&self, record: &SnapshotRecord, project: u32) -> std::result::Result<(), SnapshotError> {
        for name in ["upper", "work"] {
            let path = self.dir("active").join(&record.id).join(name);
            let expected = Project {
                id: project,
                inherit: true,
            };
            let found = open(&path).and_then(|file| Ok(quota::project_of(&file)?));
            if found.map_err(SnapshotError::file("look for the project of", &path))? != expected {
                return Err(SnapshotError::LostProject {
                    id: record.id.clone(),
                    path,
                    project,
                });
            }
        }
        Ok(())
    }

    /// Takes the limits back. When a snapshot is removed its id is not used again before its files are gone: the file system knows of them.
    pub(crate) fn lift(&self, record: &SnapshotRecord) {
        let Some(quota) = &record.quota else {
            return;
        };
        if let Err(error) = self.set_limits(quota.project, Limit::default()) {
            // Quotas may be off: then there is nothing to lift now, and nobody takes an id that has limits when they are on again.
            tracing::debug!(id = record.id, project = quota.project, %error, "its limits stay");
        }
    }

    fn set_limits(&self, project: u32, limit: Limit) -> std::result::Result<(), SnapshotError> {
        let limits = Limits {
            bytes: limit.bytes,
            inodes: limit.inodes,
        };
        self.ask("set project quotas of", |place| {
            quota::set_limits(place, project, limits)
        })
    }

    /// The id may be used by another snapshot.
    pub(crate) fn forget_project(&self, record: &SnapshotRecord) {
        if let Some(quota) = &record.quota {
            self.projects().give_back(quota.project);
        }
    }

    /// The record of what is to be removed, if it can be read.
    pub(crate) fn quota_of(&self, id: &str) -> Option<SnapshotRecord> {
        let path = self.dir("active").join(id).join(SNAPSHOT_FILE);
        path.exists()
            .then(|| self.load_snapshot(id).ok())
            .flatten()
            .filter(|record| record.quota.is_some())
    }

    /// Asks the store's file system: by descriptor, or by its device before Linux 5.14.
    fn ask<T>(
        &self,
        what: &'static str,
        ask: impl FnOnce(Place<'_>) -> croze_sys::Result<T>,
    ) -> std::result::Result<T, SnapshotError> {
        static BY_DESCRIPTOR: OnceLock<bool> = OnceLock::new();
        if !BY_DESCRIPTOR.get_or_init(quota::takes_descriptors) {
            return self.ask_device(what, ask);
        }
        let any = self.dir("active");
        let asked = open(&any).and_then(|file| Ok(ask(Place::Of(file.as_fd()))?));
        asked.map_err(SnapshotError::file(what, &any))
    }

    /// The device file is one of our own: nobody says under which name the device is in `/dev`, or whether it is.
    fn ask_device<T>(
        &self,
        what: &'static str,
        ask: impl FnOnce(Place<'_>) -> croze_sys::Result<T>,
    ) -> std::result::Result<T, SnapshotError> {
        let staging = self.staging()?;
        let node = staging.path().join("device");
        let metadata = fs::metadata(staging.path());
        let device = metadata
            .map_err(SnapshotError::file("look at", staging.path()))?
            .dev();
        rustix::fs::mknodat(CWD, &node, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, device)
            .map_err(SnapshotError::file("make the device file", &node))?;
        ask(Place::Device(&node)).map_err(SnapshotError::file(what, &node))
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// What a directory's file system is, as the table of mounts says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mounted {
    kind: String,
    source: String,
    point: PathBuf,
}

impl Mounted {
    /// The entry that `path` lies in: of those that begin its path the longest, of these the last.
    fn find(mountinfo: &str, path: &Path) -> Option<Self> {
        let entries = mountinfo.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut fields = file_system.split(' ');
            let text = |text: &str| {
                text.replace("\\040", " ")
                    .replace("\\011", "\t")
                    .replace("\\134", "\\")
            };
            Some(Self {
                kind: fields.next()?.to_owned(),
                source: text(fields.next()?),
                point: PathBuf::from(text(mount.split(' ').nth(4)?)),
            })
        });
        entries
            .filter(|entry| path.starts_with(&entry.point))
            .max_by_key(|entry| entry.point.as_os_str().len())
    }

    fn describe(&self) -> String {
        format!(
            "{} on {}, mounted at {}",
            self.kind,
            self.source,
            self.point.display()
        )
    }

    /// What it lacks where no device file may be used, and how it gets that.
    fn lack_of_devices(&self) -> (String, String) {
        let point = self.point.display();
        (
            "it is mounted nodev, and a kernel before Linux 5.14 is asked for quotas by a device file"
                .to_owned(),
            format!("mount -o remount,dev {point} (and in /etc/fstab), or boot a newer kernel"),
        )
    }

    /// What it lacks, and how it gets that; `kernel_has` are the kernel's quotas: those of ext4, those of xfs.
    fn lack(&self, state: State, kernel_has: [bool; 2]) -> (String, String) {
        let Self { kind, source, point } = self;
        let point = point.display();
        let mount = format!(
            "mount it with the option prjquota (in /etc/fstab; for / rootflags=prjquota on the kernel's command line): \
             umount {point} && mount -o prjquota {source} {point}; a remount does not switch it on"
        );
        let [ext4, xfs] = kernel_has;
        match (kind.as_str(), state) {
            ("ext4", _) if !ext4 => no_kernel("CONFIG_QUOTA and CONFIG_QFMT_V2"),
            ("xfs", _) if !xfs => no_kernel("CONFIG_XFS_QUOTA"),
            ("ext4", State::Off) => (
                "it has not the features project and quota".to_owned(),
                format!(
                    "give it the features while it is not mounted, and mount it with prjquota: umount {point} && tune2fs -O project,quota {source} \
                     && mount -o prjquota {source} {point}; a new one is made by mkfs.ext4 -O project,quota. A kernel without CONFIG_QFMT_V2 cannot write to it any more"
                ),
            ),
            ("ext4" | "xfs", _) => ("it is mounted without prjquota".to_owned(), mount),
            _ => (
                "only ext4 and xfs have project quotas".to_owned(),
                "put the daemon's root directory on ext4 or xfs (root in croze.toml), or let the container write into a file system of the \
                 wanted size: -v /HOST:/CONTAINER, --tmpfs /CONTAINER:size=64m"
                    .to_owned(),
            ),
        }
    }
}

fn no_kernel(options: &str) -> (String, String) {
    (
        "the kernel was built without its quotas".to_owned(),
        format!("boot a kernel with {options}"),
    )
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
