//! Cgroups of this host, whatever its layout: made, limited, frozen, killed, removed. Needs root and a writable
//! cgroup file system; without them each test says so and ends.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail and speak as tests do"
)]

use croze_cgroups::{Cgroup, Kind, Observed, Plan, Tree, observe};
use oci_spec::runtime::LinuxResources;
use rustix::fs::{Access, Mode, OFlags, access, open};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// A cgroup that is removed at the end of a test, failed or not.
struct Guard(Cgroup);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill_all(SOON).ok();
        self.0.remove(SOON).ok();
    }
}

fn path(name: &str) -> String {
    // Relative, so that no level between the root and the caller's own cgroup is touched.
    format!("croze-test-{}-{name}", std::process::id())
}

fn plan(observed: &Observed, name: &str, resources: &str) -> Plan {
    let resources: LinuxResources = serde_json::from_str(resources).unwrap();
    Plan::new(observed, Some(&path(name)), "unused", Some(&resources)).unwrap()
}

/// A cgroup on the trees that `choose` leaves; `None` if this host's cgroups cannot be written, or none is left.
fn make(name: &str, resources: &str, choose: impl Fn(&Tree) -> bool) -> Option<Guard> {
    let mut observed = observe().unwrap();
    observed.trees.retain(choose);
    let writable = |tree: &Tree| access(&tree.mount, Access::WRITE_OK).is_ok();
    if observed.trees.is_empty() || !observed.trees.iter().all(writable) {
        eprintln!("skipped: this host's cgroups cannot be written");
        return None;
    }
    Some(Guard(Cgroup::create(&plan(&observed, name, resources)).unwrap()))
}

fn shell(script: &str) -> Child {
    Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_cgroup_lives_and_goes() {
    let limits = r#"{"pids":{"limit":20},"memory":{"limit":67108864,"swap":67108864}}"#;
    let Some(guard) = make("life", limits, |_| true) else {
        return;
    };
    let cgroup = &guard.0;
    assert_eq!(cgroup.stats().pids_limit, Some(20));
    assert_eq!(cgroup.stats().memory_limit, Some(67_108_864));
    assert_eq!(cgroup.oom_kill_count(), Some(0));

    // The shell waits on its standard input, so that it is inside before it starts the others.
    let mut child = shell("read line; sleep 1000 & sleep 1000 & echo ready; wait");
    let pid = i32::try_from(child.id()).unwrap();
    cgroup.attach(pid).unwrap();
    cgroup.attach(pid).unwrap();
    drop(child.stdin.take());
    let mut ready = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    let pids = cgroup.pids().unwrap();
    assert!(pids.contains(&pid) && pids.len() == 3, "{pids:?}");

    // Raised and lowered, the pair of limits is consistent at every step.
    let observed = observe().unwrap();
    for limit in [268_435_456_u64, 33_554_432] {
        let resources = format!(r#"{{"memory":{{"limit":{limit},"swap":{limit}}}}}"#);
        cgroup.apply(&plan(&observed, "life", &resources)).unwrap();
        assert_eq!(cgroup.stats().memory_limit, Some(limit));
    }

    cgroup.freeze(SOON).unwrap();
    assert!(cgroup.is_frozen().unwrap());
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());

    // Killed though frozen.
    cgroup.freeze(SOON).unwrap();
    cgroup.kill_all(SOON).unwrap();
    child.wait().unwrap();
    assert!(cgroup.pids().unwrap().is_empty());
    let again = Cgroup::from_paths(&cgroup.paths());
    again.remove(SOON).unwrap();
    again.remove(SOON).unwrap();
    assert!(!cgroup.exists());
    assert!(!cgroup.is_frozen().unwrap());
    assert!(cgroup.pids().unwrap().is_empty());
}

/// A thread of this process stands for the process with one thread that enters: on version 1 it can be alone in
/// a cgroup.
#[test]
fn a_thread_enters_by_itself() {
    let Some(guard) = make("enter", "{}", |tree| tree.kind == Kind::V1) else {
        return;
    };
    let doors = guard.0.doors().unwrap();
    let inside = std::thread::spawn(move || {
        doors.enter().unwrap();
        std::fs::read_to_string("/proc/thread-self/cgroup").unwrap()
    });
    let inside = inside.join().unwrap();
    for dir in guard.0.dirs() {
        let controllers = dir.controllers.join(",");
        let line = inside
            .lines()
            .find(|line| line.contains(&format!(":{controllers}:")));
        assert!(
            line.is_some_and(|line| line.ends_with(&path("enter"))),
            "{controllers}: {inside}"
        );
    }
    guard.0.remove(SOON).unwrap();
}

#[test]
fn cgroups_made_inside_are_removed_too() {
    let Some(guard) = make("nested", "{}", |_| true) else {
        return;
    };
    for dir in guard.0.dirs() {
        std::fs::create_dir_all(dir.path.join("a/b")).unwrap();
    }
    guard.0.remove(SOON).unwrap();
    assert!(!guard.0.exists());
}

#[test]
fn processes_that_do_not_end_keep_the_cgroup() {
    let Some(guard) = make("busy", "{}", |_| true) else {
        return;
    };
    let mut child = shell("read line");
    guard.0.attach(i32::try_from(child.id()).unwrap()).unwrap();
    let error = guard.0.remove(Duration::from_millis(20)).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot remove the cgroup"),
        "{error}"
    );
    // Every signal number reaches them.
    guard.0.signal_all(15).unwrap();
    assert!(!child.wait().unwrap().success());
    guard.0.remove(SOON).unwrap();
}

#[test]
fn a_limit_the_kernel_refuses_leaves_nothing_behind() {
    let observed = observe().unwrap();
    if observed.tree_of("cpuset").is_none() {
        eprintln!("skipped: no cpuset controller");
        return;
    }
    let plan = plan(&observed, "refused/below", r#"{"cpu":{"cpus":"4000"}}"#);
    let error = Cgroup::create(&plan).unwrap_err().to_string();
    assert!(
        error.contains("cpuset.cpus") || error.contains("cannot make"),
        "{error}"
    );
    for directory in plan.directories() {
        assert!(!directory.path.parent().unwrap().exists(), "{:?}", directory.path);
    }
}

/// The verifier of this host's kernel takes the program, and the program keeps a process from a device: also on
/// a hybrid host, where only its version 2 tree is looked at.
#[test]
fn a_device_program_is_enforced() {
    let Some(guard) = make("devices", "{}", |tree| tree.kind == Kind::V2) else {
        return;
    };
    let dir = guard.0.unified().unwrap().path.clone();
    // Applied again, it takes the place of the first one.
    let mut observed = observe().unwrap();
    observed.trees.retain(|tree| tree.kind == Kind::V2);
    guard.0.apply(&plan(&observed, "devices", "{}")).unwrap();
    let fd = open(&dir, OFlags::RDONLY, Mode::empty()).unwrap();
    assert_eq!(croze_sys::bpf::device_programs(&fd).unwrap().len(), 1);

    // /dev/null and making nodes are always allowed, the kernel's log (1:11) was not named.
    let nodes = tempfile::tempdir().unwrap();
    let node = nodes.path().join("kmsg").display().to_string();
    let mut child = shell(&format!(
        "read line; mknod {node} c 1 11 && echo made; (: <{node}) 2>/dev/null && echo opened; \
         : </dev/null && echo null"
    ));
    guard.0.attach(i32::try_from(child.id()).unwrap()).unwrap();
    drop(child.stdin.take());
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert_eq!(said, "made\nnull\n");
}
