//! Layers that mean harm, or are broken beyond sense: each is refused by a named error or unpacked harmlessly, as the table says.
//!
//! ```text
//!   scene/                 compared before and after, to the last inode: nothing outside of the layer changes
//!     outside/secret       what archives try to reach
//!     lower/               the layer below, where a case needs one
//!     layer/               the target
//! ```
//!
//! For every case:
//! - it ends: one that does not within [`PATIENCE`] fails its test (no time is measured, so a busy host makes no difference);
//! - the process's peak of resident memory grows by [`MEMORY`] at most;
//! - a refusal is no internal error: its kind says that the image is at fault, or is too large;
//! - the second time gives the same.
//!
//! The archives are made by [`tape`]; no binary file is kept. What the words of the tables mean: [`Expect`].
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what fails in a test's helper fails the test"
)]

mod amounts;
mod headers;
mod links;
mod names;
mod sparse;
mod tape;
mod whiteouts;

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use croze_layers::{LayerError, Limits, Parents, Unpacked, unpack};
use croze_model::ErrorKind;
use tape::Tape;

/// When a case counts as one that never ends.
const PATIENCE: Duration = Duration::from_secs(100);
/// How much more memory a case may take than there was before: a zstd window is half of it.
const MEMORY: u64 = 256 << 20;

/// What must come of an archive.
pub(crate) enum Expect {
    /// It is refused, by this variant of [`LayerError`] and with these words.
    Refused(&'static str, &'static str),
    /// It is unpacked, to just this tree: a line for each path, sorted. `f` file with its content, `d` directory, `D` opaque directory, `w`
    /// whiteout, `l` symbolic link, `c` `b` `p` devices and pipes.
    Tree(&'static [&'static str]),
    /// It is unpacked, and what it looks like is not the point.
    Harmless,
    /// Refused as one of these or unpacked: file systems differ.
    Either(&'static str),
}

/// An archive and what must come of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    source: Box<Source>,
    pub(crate) limits: Limits,
    expect: Expect,
}

/// The compressed or plain bytes, made anew for each run. It is told where the directory is that nobody may reach.
type Source = dyn Fn(&Path) -> Box<dyn Read + Send>;

/// Far below the defaults, so that what is beyond them is made quickly.
pub(crate) const SMALL: Limits = Limits {
    bytes: 4 << 20,
    entries: 3000,
    names: 256 << 10,
};

impl Case {
    /// An archive that ends as it should.
    pub(crate) fn tape(name: &'static str, tape: Tape, expect: Expect) -> Self {
        Self::bytes(name, tape.end(), expect)
    }

    /// Bytes of any kind.
    pub(crate) fn bytes(name: &'static str, bytes: Vec<u8>, expect: Expect) -> Self {
        Self::stream(name, expect, move || {
            Box::new(std::io::Cursor::new(bytes.clone()))
        })
    }

    /// An archive that knows the directory it tries to reach, without its leading slash in the names it is to have.
    pub(crate) fn aimed(name: &'static str, make: impl Fn(&str) -> Tape + 'static, expect: Expect) -> Self {
        let source = move |outside: &Path| -> Box<dyn Read + Send> {
            Box::new(std::io::Cursor::new(make(outside.to_str().unwrap()).end()))
        };
        Self {
            name,
            source: Box::new(source),
            limits: SMALL,
            expect,
        }
    }

    /// A source that may have no end.
    pub(crate) fn stream(
        name: &'static str,
        expect: Expect,
        make: impl Fn() -> Box<dyn Read + Send> + 'static,
    ) -> Self {
        Self {
            name,
            source: Box::new(move |_| make()),
            limits: SMALL,
            expect,
        }
    }

    /// With the bounds that are in force when images are pulled.
    pub(crate) fn default_limits(mut self) -> Self {
        self.limits = Limits::default();
        self
    }
}

/// The name of an error, as the tables write it.
fn kind(error: &LayerError) -> &'static str {
    match error {
        LayerError::Escape { .. } => "Escape",
        LayerError::LinkEscape { .. } => "LinkEscape",
        LayerError::BehindLink { .. } => "BehindLink",
        LayerError::NoLinkTarget { .. } => "NoLinkTarget",
        LayerError::Whiteout { .. } => "Whiteout",
        LayerError::Name { .. } => "Name",
        LayerError::Field { .. } => "Field",
        LayerError::Unsupported { .. } => "Unsupported",
        LayerError::Truncated => "Truncated",
        LayerError::Damaged { .. } => "Damaged",
        LayerError::TooLarge { .. } => "TooLarge",
        LayerError::Source { .. } => "Source",
        LayerError::File { .. } => "File",
        LayerError::Sink { .. } => "Sink",
        LayerError::Target { .. } => "Target",
    }
}

/// A directory with the layer to be made and what must stay as it is.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["layer", "outside", "lower"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("outside/secret"), "untouched").unwrap();
        fs::write(dir.path().join("lower/below"), "lower").unwrap();
        Self { dir }
    }

    fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    /// Everything but the layer's inside, with all that would show a touch.
    fn surroundings(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.dir.path().to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path == self.layer() {
                    continue;
                }
                let is = fs::symlink_metadata(&path).unwrap();
                if is.is_dir() {
                    pending.push(path.clone());
                }
                let (links, size) = (is.nlink(), is.size());
                let owner = (is.uid(), is.gid(), is.mode());
                let times = (is.mtime(), is.mtime_nsec(), is.ctime(), is.ctime_nsec());
                found.push(format!("{} {owner:?} {links} {size} {times:?}", path.display()));
            }
        }
        found.sort();
        found
    }

    fn tree(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.layer()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let is = fs::symlink_metadata(&path).unwrap();
                let kind = is.file_type();
                let what = if kind.is_dir() {
                    pending.push(path.clone());
                    if opaque(&path) { "D" } else { "d" }.to_owned()
                } else if kind.is_symlink() {
                    format!("l {}", fs::read_link(&path).unwrap().display())
                } else if kind.is_char_device() {
                    if is.rdev() == 0 { "w" } else { "c" }.to_owned()
                } else if kind.is_block_device() {
                    "b".to_owned()
                } else if kind.is_fifo() {
                    "p".to_owned()
                } else {
                    let content = fs::read(&path).unwrap();
                    let shown = &content[..content.len().min(20)];
                    format!("f {}", String::from_utf8_lossy(shown))
                        .trim_end()
                        .to_owned()
                };
                let name = path.strip_prefix(self.layer()).unwrap().as_os_str().as_bytes();
                found.push(format!("{} {what}", name.escape_ascii()));
            }
        }
        found.sort();
        found
    }
}

fn opaque(path: &Path) -> bool {
    let mut value = [0_u8; 8];
    matches!(rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value[..]), Ok(1) if value[0] == b'y')
}

/// A figure of /proc/self/status, in bytes.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Unpacks one case on a thread of its own, which must come to an end.
fn run(case: &Case, scene: &Scene) -> Result<Unpacked, LayerError> {
    let source = (case.source)(&scene.dir.path().join("outside"));
    let (layer, lower, limits) = (scene.layer(), scene.dir.path().join("lower"), case.limits);
    let (done, outcome) = channel();
    let thread = std::thread::spawn(move || {
        let result = unpack(source, &layer, Parents::Known(&[lower]), limits);
        // Nobody listens any more if it took too long.
        drop(done.send(result));
    });
    match outcome.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("{}: no end after {PATIENCE:?}", case.name),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => panic!("{}: no outcome", case.name),
        },
    }
}

/// What is wrong with a case's outcome, if anything.
fn judge(case: &Case) -> Vec<String> {
    let mut wrong = Vec::new();
    let scene = Scene::new();
    let before = scene.surroundings();
    // The peak counts from here on.
    let resets = fs::write("/proc/self/clear_refs", "5").is_ok();
    let resident = memory("VmRSS");
    let result = run(case, &scene);
    let grown = memory("VmHWM").saturating_sub(resident);
    if resets && grown > MEMORY {
        wrong.push(format!("it took {} MiB", grown >> 20));
    }
    if scene.surroundings() != before {
        wrong.push(format!(
            "outside: {:#?} instead of {before:#?}",
            scene.surroundings()
        ));
    }
    let tree = scene.tree();
    let told = match &result {
        Ok(unpacked) => format!("unpacked {} bytes", unpacked.size),
        Err(error) => format!("{}: {error}", kind(error)),
    };
    match (&case.expect, result) {
        (Expect::Refused(name, words), Err(error)) if kind(&error) == *name && told.contains(words) => {
            let public = croze_model::Error::from(error);
            if public.kind() == ErrorKind::Internal {
                wrong.push(format!("an internal error: {}", public.one_line()));
            }
        }
        (Expect::Tree(expected), Ok(_)) if tree == *expected => {}
        (Expect::Harmless, Ok(_)) => {}
        (Expect::Either(name), result) if result.as_ref().err().is_none_or(|error| kind(error) == *name) => {}
        (Expect::Refused(name, words), _) => wrong.push(format!("{told}\n  instead of {name} {words:?}")),
        (Expect::Tree(expected), _) => wrong.push(format!("{told}\n  {tree:?}\n  instead of {expected:?}")),
        (Expect::Harmless | Expect::Either(_), _) => wrong.push(told.clone()),
    }
    let again = Scene::new();
    let second = match run(case, &again) {
        Ok(unpacked) => format!("unpacked {} bytes", unpacked.size),
        Err(error) => format!("{}: {error}", kind(&error)),
    };
    let (first, second) = (told.replace(scene.dir.path().to_str().unwrap(), ""), second);
    if first != second.replace(again.dir.path().to_str().unwrap(), "") {
        wrong.push(format!("the second time: {second}\n  the first time: {first}"));
    }
    wrong
}

/// Judges all cases and fails with all that are wrong.
fn play(cases: &[Case]) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: owners and devices need root");
        return;
    }
    let names: std::collections::BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "each case has a name of its own");
    let wrong: Vec<String> = cases
        .iter()
        .flat_map(|case| {
            judge(case)
                .into_iter()
                .map(move |why| format!("{}: {why}", case.name))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    eprintln!("{} layers", cases.len());
}

#[test]
fn names_that_lead_elsewhere() {
    play(&names::cases());
}

#[test]
fn links_and_devices_that_lead_elsewhere() {
    play(&links::cases());
}

#[test]
fn whiteouts_of_everything() {
    play(&whiteouts::cases());
}

#[test]
fn fields_and_extended_headers_of_nonsense() {
    play(&headers::cases());
}

#[test]
fn holes_that_are_none() {
    play(&sparse::cases());
}

#[test]
fn too_much_of_everything() {
    play(&amounts::cases());
}

/// The corpus has the size that it is said to have.
#[test]
fn the_corpus_is_large() {
    let tables = [
        names::cases(),
        links::cases(),
        whiteouts::cases(),
        headers::cases(),
        sparse::cases(),
        amounts::cases(),
    ];
    let count: usize = tables.iter().map(Vec::len).sum();
    assert!(count >= 150, "{count}");
}
