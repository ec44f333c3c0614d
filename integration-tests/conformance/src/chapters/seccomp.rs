//! `linux.seccomp`: actions, operators, architectures, flags, the listener.

use anyhow::{Result, ensure};
use croze_integration_tests::{Output, spec};
use serde_json::{Value, json};

use crate::case::Case;
use crate::console::Receiver;
use crate::stage::Stage;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = actions();
    cases.extend(operators());
    cases.extend(rest());
    cases
}

/// A profile that allows all but the rules given.
fn profile(rules: &Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": rules })
}

fn with(name: &str, profile: Value) -> Case {
    Case::new(format!("linux.seccomp.{name}")).set("/linux/seccomp", profile)
}

/// A rule about making directories, which the probe is asked to do.
fn on_mkdir(action: &str) -> Value {
    json!([{ "names": ["mkdir", "mkdirat"], "action": action }])
}

fn actions() -> Vec<Case> {
    let attempt = |case: Case, answer: &str| {
        case.args(&["/probe", "attempt", "mkdir"])
            .prints(&format!(r#"{{"mkdir":"{answer}"}}"#))
    };
    let killed = |name: &str, code: i32| {
        with(&format!("syscalls.action {name}"), profile(&on_mkdir(name)))
            .args(&["/probe", "attempt", "mkdir"])
            .ends(code)
    };
    let errno = |number: u32| {
        profile(&json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": number }]))
    };
    let mut default_errno = profile(&json!([]));
    default_errno["defaultAction"] = json!("SCMP_ACT_ALLOW");
    vec![
        attempt(
            with(
                "syscalls.action SCMP_ACT_ALLOW",
                profile(&on_mkdir("SCMP_ACT_ALLOW")),
            ),
            "ok",
        ),
        attempt(
            with("syscalls.action SCMP_ACT_LOG", profile(&on_mkdir("SCMP_ACT_LOG"))),
            "ok",
        ),
        attempt(
            with(
                "syscalls.action SCMP_ACT_ERRNO",
                profile(&on_mkdir("SCMP_ACT_ERRNO")),
            ),
            "EPERM",
        ),
        attempt(with("syscalls.errnoRet", errno(28)), "ENOSPC"),
        attempt(
            with(
                "syscalls.action SCMP_ACT_TRACE without a tracer",
                profile(&on_mkdir("SCMP_ACT_TRACE")),
            ),
            "ENOSYS",
        ),
        killed("SCMP_ACT_KILL", 159),
        killed("SCMP_ACT_KILL_THREAD", 159),
        killed("SCMP_ACT_KILL_PROCESS", 159),
        killed("SCMP_ACT_TRAP", 159),
        with("defaultErrnoRet", {
            let mut strict = profile(&json!([]));
            strict["defaultAction"] = json!("SCMP_ACT_ERRNO");
            strict["defaultErrnoRet"] = json!(38);
            strict["syscalls"] = json!([{ "action": "SCMP_ACT_ALLOW", "names": NEEDED.as_slice() }]);
            strict
        })
        .args(&["/probe", "attempt", "sethostname"])
        .prints(r#"{"sethostname":"ENOSYS"}"#),
        with("syscalls.action unknown", profile(&on_mkdir("SCMP_ACT_DREAM"))).refused(&["SCMP_ACT_DREAM"]),
        with(
            "defaultAction missing",
            json!({ "syscalls": on_mkdir("SCMP_ACT_ERRNO") }),
        )
        .refused(&["defaultAction"]),
        with(
            "syscalls.names unknown is no error",
            profile(&json!([{ "names": ["no_such_call"], "action": "SCMP_ACT_ERRNO" }])),
        )
        .reports("/seccomp", json!("2")),
        attempt(
            with(
                "syscalls several rules",
                profile(&json!([
                    { "names": ["rmdir"], "action": "SCMP_ACT_ALLOW" },
                    { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13 },
                ])),
            ),
            "EACCES",
        ),
        with("none", Value::Null).reports("/seccomp", json!("0")),
    ]
}

/// What a static program needs to start, print and end, and a runtime of any kind between its filter and `execve`.
const NEEDED: [&str; 75] = [
    "capset",
    "fchmod",
    "keyctl",
    "prctl",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setuid",
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "clock_gettime",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat2",
    "fchdir",
    "fchown",
    "fcntl",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getgid",
    "getpid",
    "getppid",
    "getrandom",
    "gettid",
    "getuid",
    "ioctl",
    "lseek",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe2",
    "poll",
    "prctl",
    "prlimit64",
    "pread64",
    "read",
    "readlink",
    "readlinkat",
    "recvmsg",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sendmsg",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
    "stat",
    "statx",
    "tgkill",
    "write",
];

/// For each operator, a value and a second one, and which of the signals 0, 18 and 28 it denies to `kill`.
const OPERATORS: [(&str, u64, u64, &str); 7] = [
    ("SCMP_CMP_NE", 18, 0, "n y n"),
    ("SCMP_CMP_LT", 18, 0, "n y y"),
    ("SCMP_CMP_LE", 18, 0, "n n y"),
    ("SCMP_CMP_EQ", 18, 0, "y n y"),
    ("SCMP_CMP_GE", 18, 0, "y n n"),
    ("SCMP_CMP_GT", 18, 0, "y y n"),
    // 18 is 10010, 28 is 11100: only 18 has the second bit.
    ("SCMP_CMP_MASKED_EQ", 2, 2, "y n y"),
];

/// Tries the three signals on itself, none of which does harm.
const SIGNALS: &str = "r=; for s in 0 18 28; do if kill -$s $$ 2>/dev/null; then r=\"$r y\"; else r=\"$r n\"; fi; done; echo $r";

fn operators() -> Vec<Case> {
    let rule =
        |args: Value| profile(&json!([{ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": args }]));
    let mut cases: Vec<Case> = OPERATORS
        .into_iter()
        .map(|(op, value, second, answer)| {
            let args = json!([{ "index": 1, "value": value, "valueTwo": second, "op": op }]);
            with(&format!("syscalls.args {op}"), rule(args))
                .shell(SIGNALS)
                .prints(answer)
        })
        .collect();
    let equal = |index: u32, value: u64| json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" });
    cases.extend([
        with(
            "syscalls.args on different arguments are all needed",
            rule(json!([equal(1, 18), equal(0, 1)])),
        )
        .shell(SIGNALS)
        .prints("y n y"),
        with(
            "syscalls.args on different arguments, one not met",
            rule(json!([equal(1, 18), equal(0, 77)])),
        )
        .shell(SIGNALS)
        .prints("y y y"),
        with(
            "syscalls.args on the same argument: any will do",
            rule(json!([equal(1, 18), equal(1, 28)])),
        )
        .shell(SIGNALS)
        .prints("y n n"),
        with(
            "syscalls.args unknown operator",
            rule(json!([{ "index": 1, "value": 1, "op": "SCMP_CMP_ABOUT" }])),
        )
        .refused(&["SCMP_CMP_ABOUT"]),
        with("syscalls.args index out of range", rule(json!([equal(9, 18)]))).refused(&["argument 9"]),
    ]);
    cases
}

fn rest() -> Vec<Case> {
    let flags = |flags: Value| {
        let mut profile = profile(&on_mkdir("SCMP_ACT_ERRNO"));
        profile["flags"] = flags;
        profile
    };
    let flag =
        |name: &str| with(&format!("flags {name}"), flags(json!([name]))).reports("/seccomp", json!("2"));
    vec![
        flag("SECCOMP_FILTER_FLAG_LOG"),
        flag("SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
        flag("SECCOMP_FILTER_FLAG_TSYNC"),
        with("flags unknown", flags(json!(["SECCOMP_FILTER_FLAG_DREAM"])))
            .refused(&["SECCOMP_FILTER_FLAG_DREAM"]),
        with("architectures", {
            let mut other = profile(&on_mkdir("SCMP_ACT_ERRNO"));
            other["architectures"] = json!([
                "SCMP_ARCH_X86_64",
                "SCMP_ARCH_AARCH64",
                "SCMP_ARCH_RISCV64",
                "SCMP_ARCH_ARM",
                "SCMP_ARCH_S390X"
            ]);
            other
        })
        .args(&["/probe", "attempt", "mkdir"])
        .prints(r#"{"mkdir":"EPERM"}"#),
        with("architectures unknown is no error", {
            let mut other = profile(&on_mkdir("SCMP_ACT_ERRNO"));
            other["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_DREAM"]);
            other
        })
        .args(&["/probe", "attempt", "mkdir"])
        .prints(r#"{"mkdir":"EPERM"}"#),
        with("without a default action and rules is none", json!({})).reports("/seccomp", json!("0")),
        with(
            "before capabilities are dropped",
            profile(&on_mkdir("SCMP_ACT_ERRNO")),
        )
        .set("/process/user", json!({ "uid": 1000, "gid": 1000 }))
        .set("/process/capabilities", json!({}))
        .reports("/seccomp", json!("2")),
        with("with noNewPrivileges", profile(&on_mkdir("SCMP_ACT_ERRNO")))
            .set("/process/noNewPrivileges", json!(true))
            .reports("/seccomp", json!("2")),
        with(
            "a call that the runtime makes itself",
            profile(&json!([{ "names": ["getcwd"], "action": "SCMP_ACT_ERRNO" }])),
        )
        .reports("/seccomp", json!("2")),
        Case::script("linux.seccomp.listenerPath, listenerMetadata", |stage| {
            listened(stage, false)
        }),
        Case::script("linux.seccomp.listenerPath with noNewPrivileges", |stage| {
            listened(stage, true)
        }),
        with("listenerPath that nobody listens to", {
            let mut notified = profile(&on_mkdir("SCMP_ACT_NOTIFY"));
            notified["listenerPath"] = json!("/no/such/socket");
            notified
        })
        .refused(&["/no/such/socket"]),
        with("SCMP_ACT_NOTIFY as the default", {
            let mut all = profile(&json!([]));
            all["defaultAction"] = json!("SCMP_ACT_NOTIFY");
            all
        })
        .refused(&["SCMP_ACT_NOTIFY"]),
        Case::script("linux.seccomp of docker, podman and containerd", |stage| {
            let mut config = spec::docker_like(&["/probe", "attempt", "unshare:user", "mkdir"]);
            config["linux"]["seccomp"] = spec::docker_seccomp()?;
            let answer: Output = stage.run(&config)?.success()?;
            ensure!(
                answer.json()? == json!({ "unshare:user": "EPERM", "mkdir": "ok" }),
                "{answer}"
            );
            Ok(())
        })
        .needs(crate::host::Need::Path(
            "/usr/share/containers/seccomp.json",
            "package with the profile",
        )),
    ]
}

/// A call waits for the agent that listens; one that goes away is an answer: there is no such call.
fn listened(stage: &Stage<'_>, no_new_privileges: bool) -> Result<()> {
    let receiver = Receiver::new(stage, "agent.sock")?;
    let mut config = spec::docker_like(&["/bin/mkdir", "/tmp/asked"]);
    config["process"]["noNewPrivileges"] = json!(no_new_privileges);
    let mut notified = profile(&on_mkdir("SCMP_ACT_NOTIFY"));
    notified["listenerPath"] = json!(receiver.path());
    notified["listenerMetadata"] = json!("for the agent");
    config["linux"]["seccomp"] = notified;
    let bundle = stage.bundle(&config)?;
    let id = stage.next_id();
    let running = stage.runtime.start_run(&bundle, &id)?;
    let (text, descriptor) = receiver.receive()?;
    let message: Value = serde_json::from_slice(&text)?;
    ensure!(message["fds"] == json!(["seccompFd"]), "{message}");
    ensure!(message["metadata"] == "for the agent", "{message}");
    ensure!(message["state"]["id"] == json!(id), "{message}");
    ensure!(message["pid"].as_i64().is_some_and(|pid| pid > 1), "{message}");
    drop(descriptor);
    running
        .wait(std::time::Duration::from_secs(20))?
        .failure(&["Function not implemented"])?;
    Ok(())
}
