//! Profiles against calls: what a compiled program answers.

use crate::action::{ALLOW, KILL_PROCESS, KILL_THREAD, NOT_IMPLEMENTED, NOTIFY};
use crate::arch::Arch::{self, Aarch64, Arm, Riscv64, X32, X86, X86_64};
use crate::interpreter::{Call, run};
use crate::{Error, MOST_INSTRUCTIONS, Program, compile_for, table};
use oci_spec::runtime::LinuxSeccomp;

const EPERM: u32 = 0x0005_0001;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn compile(json: &str) -> Program {
    compile_for(&profile(json), X86_64).unwrap()
}

fn ask(program: &Program, arch: Arch, name: &str, args: &[u64]) -> u32 {
    let number = table::find(name).unwrap().number(arch).unwrap();
    ask_number(program, arch, number, args)
}

fn ask_number(program: &Program, arch: Arch, number: u32, args: &[u64]) -> u32 {
    let mut call = Call {
        number,
        arch: arch.audit(),
        ..Call::default()
    };
    call.args[..args.len()].copy_from_slice(args);
    run(&program.filter, &call).unwrap()
}

fn docker_like() -> Program {
    compile(include_str!("../tests/docker-like.json"))
}

#[test]
fn a_profile_of_dockers_size_answers_on_every_architecture() {
    let program = docker_like();
    assert!(
        program.filter.len() < 1200,
        "{} instructions",
        program.filter.len()
    );
    for arch in [X86_64, X86, X32] {
        for (name, args, want) in [
            ("read", &[][..], ALLOW),
            ("execve", &[], ALLOW),
            ("openat2", &[], ALLOW),
            ("mount", &[], EPERM),
            ("bpf", &[], EPERM),
            ("personality", &[0], ALLOW),
            ("personality", &[8], ALLOW),
            ("personality", &[0xffff_ffff], ALLOW),
            ("personality", &[1], EPERM),
            ("clone", &[0x11], ALLOW),
            ("clone", &[0x1000_0011], EPERM),
            ("clone3", &[], NOT_IMPLEMENTED),
        ] {
            assert_eq!(ask(&program, arch, name, args), want, "{arch:?} {name} {args:?}");
        }
    }
    for (arch, want) in [
        (Aarch64, KILL_PROCESS),
        (Arm, KILL_PROCESS),
        (Riscv64, KILL_PROCESS),
    ] {
        assert_eq!(ask(&program, arch, "read", &[]), want, "{arch:?}");
    }
    assert_eq!(ask(&program, X86_64, "socket", &[40]), EPERM);
    assert_eq!(ask(&program, X86_64, "socket", &[2]), ALLOW);
}

#[test]
fn x32_is_a_foreign_architecture_unless_it_is_listed() {
    let open = compile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["ptrace"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    assert_eq!(ask(&open, X86_64, "ptrace", &[]), EPERM);
    assert_eq!(ask_number(&open, X86_64, 101 | 0x4000_0000, &[]), KILL_PROCESS);
    assert_eq!(ask_number(&open, X86_64, 521 | 0x4000_0000, &[]), KILL_PROCESS);
    assert_eq!(ask_number(&open, X86, 26, &[]), KILL_PROCESS);
    // -1 is a call that a tracer wants skipped.
    assert_eq!(ask_number(&open, X86_64, u32::MAX, &[]), ALLOW);

    let listed = compile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X32"],
        "syscalls":[{"names":["ptrace"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    assert_eq!(ask(&listed, X32, "ptrace", &[]), EPERM);
    assert_eq!(ask(&listed, X32, "read", &[]), ALLOW);
    assert_eq!(ask(&listed, X86_64, "read", &[]), ALLOW);
}

#[test]
fn every_action_has_its_return_value() {
    for (action, value, want) in [
        ("SCMP_ACT_KILL", None, KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", None, KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", None, KILL_PROCESS),
        ("SCMP_ACT_TRAP", None, 0x0003_0000),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", Some(13), 0x0005_000d),
        ("SCMP_ACT_TRACE", Some(7), 0x7ff0_0007),
        ("SCMP_ACT_LOG", None, 0x7ffc_0000),
        ("SCMP_ACT_ALLOW", None, ALLOW),
        ("SCMP_ACT_NOTIFY", None, NOTIFY),
    ] {
        let value = value.map_or(String::new(), |v| format!(r#","errnoRet":{v}"#));
        let program = compile(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":99,"listenerPath":"/run/l.sock",
                "syscalls":[{{"names":["mkdir"],"action":"{action}"{value}}}]}}"#
        ));
        assert_eq!(ask(&program, X86_64, "mkdir", &[]), want, "{action}");
        assert_eq!(ask(&program, X86_64, "chdir", &[]), 0x0005_0063);
        assert!(program.listener, "there is a path to send it to");
    }
}

#[test]
fn every_operator_compares_all_64_bits() {
    let high = 0x1_0000_0005_u64;
    for (operator, rest, hits, misses) in [
        ("NE", "", &[0, 5, high + 1][..], &[high][..]),
        ("LT", "", &[0, 6, high - 1], &[high, u64::MAX]),
        ("LE", "", &[0, high], &[high + 1, 0x2_0000_0000]),
        ("EQ", "", &[high], &[5, 0x1_0000_0000]),
        ("GE", "", &[high, 0x2_0000_0000], &[high - 1, 0xffff_ffff]),
        ("GT", "", &[high + 1, u64::MAX], &[high, 6]),
        // The value is the mask; what is left under it must be valueTwo.
        (
            "MASKED_EQ",
            r#","valueTwo":5"#,
            &[5, 0xf5 & !0xf0],
            &[high, 1, 4, 0x1_0000_0000],
        ),
    ] {
        let program = compile(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["ioctl"],"action":"SCMP_ACT_ERRNO",
                "args":[{{"index":1,"value":{high},"op":"SCMP_CMP_{operator}"{rest}}}]}}]}}"#
        ));
        for value in hits {
            assert_eq!(
                ask(&program, X86_64, "ioctl", &[9, *value]),
                EPERM,
                "{operator} {value:#x}"
            );
        }
        for value in misses {
            assert_eq!(
                ask(&program, X86_64, "ioctl", &[9, *value]),
                ALLOW,
                "{operator} {value:#x}"
            );
        }
    }
}

#[test]
fn an_architecture_of_32_bits_compares_32() {
    let program = compile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"syscalls":[
        {"names":["ioctl"],"action":"SCMP_ACT_ERRNO",
         "args":[{"index":1,"value":18446744073709551615,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    assert_eq!(ask(&program, X86, "ioctl", &[0, 0xffff_ffff]), EPERM);
    assert_eq!(ask(&program, X86_64, "ioctl", &[0, 0xffff_ffff]), ALLOW);
    assert_eq!(ask(&program, X86_64, "ioctl", &[0, u64::MAX]), EPERM);
}

#[test]
fn conditions_on_different_arguments_all_hold_on_the_same_one_any() {
    let program = compile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["ioctl"],"action":"SCMP_ACT_ERRNO","args":[
            {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]},
        {"names":["fcntl"],"action":"SCMP_ACT_ERRNO","args":[
            {"index":1,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    for (name, args, want) in [
        ("ioctl", [1, 2], EPERM),
        ("ioctl", [1, 3], ALLOW),
        ("ioctl", [0, 2], ALLOW),
        ("fcntl", [0, 1], EPERM),
        ("fcntl", [0, 2], EPERM),
        ("fcntl", [0, 3], ALLOW),
    ] {
        assert_eq!(ask(&program, X86_64, name, &args), want, "{name} {args:?}");
    }
}

#[test]
fn rules_for_the_same_call_are_joined() {
    let program = compile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
        {"names":["socket"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":0,"value":16,"op":"SCMP_CMP_EQ"}]},
        {"names":["bind"],"action":"SCMP_ACT_TRAP","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
        {"names":["bind","no_such_call"],"action":"SCMP_ACT_ALLOW"},
        {"names":["bind"],"action":"SCMP_ACT_LOG"},
        {"names":["listen"],"action":"SCMP_ACT_ERRNO"},
        {"names":["listen"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":5,"op":"SCMP_CMP_LE"}]}]}"#,
    );
    for (name, args, want) in [
        ("socket", [1, 0], ALLOW),
        ("socket", [16, 0], KILL_PROCESS),
        ("socket", [2, 0], EPERM),
        // Without conditions wins, and of those the first.
        ("bind", [1, 0], ALLOW),
        ("bind", [2, 0], ALLOW),
        // A rule that says what the default says is no rule.
        ("listen", [0, 5], ALLOW),
        ("listen", [0, 6], EPERM),
    ] {
        assert_eq!(ask(&program, X86_64, name, &args), want, "{name} {args:?}");
    }
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let json = |default: &str| {
        format!(
            r#"{{"defaultAction":"{default}","architectures":["SCMP_ARCH_X86"],"syscalls":[
                {{"names":["read","statx"],"action":"SCMP_ACT_ALLOW"}}]}}"#
        )
    };
    let closed = compile(&json("SCMP_ACT_ERRNO"));
    assert_eq!(ask(&closed, X86_64, "statx", &[]), ALLOW);
    assert_eq!(ask(&closed, X86_64, "mount", &[]), EPERM);
    assert_eq!(ask(&closed, X86_64, "clone3", &[]), NOT_IMPLEMENTED);
    // statx is 332 on x86_64 and 383 on i386: each architecture has its own end.
    assert_eq!(ask_number(&closed, X86_64, 333, &[]), NOT_IMPLEMENTED);
    assert_eq!(ask_number(&closed, X86, 382, &[]), EPERM);
    assert_eq!(ask_number(&closed, X86, 384, &[]), NOT_IMPLEMENTED);
    assert_eq!(ask_number(&closed, X86_64, u32::MAX, &[]), EPERM);
    for (action, want) in [
        ("SCMP_ACT_ALLOW", ALLOW),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
        ("SCMP_ACT_TRACE", 0x7ff0_0001),
        ("SCMP_ACT_KILL_PROCESS", NOT_IMPLEMENTED),
    ] {
        assert_eq!(
            ask(&compile(&json(action)), X86_64, "clone3", &[]),
            want,
            "{action}"
        );
    }
}

#[test]
fn arms_private_calls_are_neither_new_nor_a_measure_of_it() {
    let program = compile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_ARM"],"syscalls":[
        {"names":["read","set_tls"],"action":"SCMP_ACT_ALLOW"}]}"#,
    );
    assert_eq!(ask(&program, Arm, "read", &[]), ALLOW);
    assert_eq!(ask(&program, Arm, "set_tls", &[]), ALLOW);
    assert_eq!(ask(&program, Arm, "openat2", &[]), NOT_IMPLEMENTED);
    assert_eq!(ask(&program, Arm, "breakpoint", &[]), EPERM);
}

#[test]
fn old_i386_sockets_follow_the_rules_for_sockets() {
    let program = compile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[
        {"names":["socket","shmget"],"action":"SCMP_ACT_ALLOW"}]}"#,
    );
    assert_eq!(ask_number(&program, X86, 102, &[1]), ALLOW);
    assert_eq!(ask_number(&program, X86, 102, &[2]), EPERM);
    assert_eq!(ask_number(&program, X86, 117, &[23]), ALLOW);
    assert_eq!(ask_number(&program, X86, 359, &[]), ALLOW);
}

#[test]
fn notify_is_refused_where_it_would_block() {
    for (json, want) in [
        (
            r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#,
            "SCMP_ACT_NOTIFY cannot be the default action: every call would wait for a listener, those that hand \
             the listener over included",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "SCMP_ACT_NOTIFY cannot be used for write: the runtime needs it to hand the listener over",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            "the seccomp profile uses SCMP_ACT_NOTIFY, which needs a listenerPath",
        ),
    ] {
        assert_eq!(compile_for(&profile(json), X86_64).unwrap_err().to_string(), want);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let refuse = |json: &str| compile_for(&profile(json), X86_64).unwrap_err();
    assert_eq!(
        refuse(r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#),
        Error::Errno {
            of: "the default action".into(),
            value: 4096
        }
    );
    assert_eq!(
        refuse(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
            "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#
        ),
        Error::Argument {
            syscall: "read".into(),
            index: 6
        }
    );
    let many: Vec<String> = (0..2000)
        .map(|n| {
            format!(
                r#"{{"names":["ioctl"],"action":"SCMP_ACT_ERRNO","args":[{{"index":1,"value":{n},"op":"SCMP_CMP_EQ"}}]}}"#
            )
        })
        .collect();
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#,
        many.join(",")
    );
    assert!(matches!(refuse(&json), Error::TooLong { .. }));
}

/// Halves of the search that are further apart than a conditional jump reaches.
#[test]
fn long_programs_still_jump_right() {
    let conditional = |name: &str, count: u64| -> String {
        let rules: Vec<String> = (0..count)
            .map(|n| {
                format!(
                    r#"{{"names":["{name}"],"action":"SCMP_ACT_ERRNO","errnoRet":{},"args":[
                        {{"index":1,"value":{n},"op":"SCMP_CMP_EQ"}}]}}"#,
                    n + 1
                )
            })
            .collect();
        rules.join(",")
    };
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"syscalls":[{},{},{}]}}"#,
        conditional("read", 100),
        conditional("ioctl", 90),
        conditional("futex", 80)
    );
    let program = compile(&json);
    assert!((1000..MOST_INSTRUCTIONS).contains(&program.filter.len()));
    for arch in [X86_64, X86] {
        for (name, count) in [("read", 100), ("ioctl", 90), ("futex", 80)] {
            for n in 0..count {
                let want = 0x0005_0000 | (n as u32 + 1);
                assert_eq!(ask(&program, arch, name, &[0, n]), want, "{arch:?} {name} {n}");
            }
            assert_eq!(ask(&program, arch, name, &[0, count]), ALLOW);
        }
        for name in ["write", "open", "close", "mount", "exit"] {
            assert_eq!(ask(&program, arch, name, &[]), ALLOW);
        }
    }
}

/// Every number of every architecture, against a plain reading of a profile without conditions.
#[test]
fn the_search_finds_every_number() {
    let allowed = [
        "read",
        "write",
        "openat",
        "futex",
        "statx",
        "clone3",
        "exit_group",
        "mmap",
    ];
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32","SCMP_ARCH_AARCH64"],
            "syscalls":[{{"names":{allowed:?},"action":"SCMP_ACT_ALLOW"}}]}}"#
    );
    let program = compile(&json);
    for (arch, base) in [(X86_64, 0), (X86, 0), (Aarch64, 0), (X32, 0x4000_0000)] {
        let numbers: Vec<u32> = allowed
            .iter()
            .filter_map(|n| table::find(n).unwrap().number(arch))
            .collect();
        let newest = *numbers.iter().max().unwrap();
        for number in (base..base + 600).chain([base + 100_000, base + 0x3fff_fffe]) {
            let want = match number {
                n if numbers.contains(&n) => ALLOW,
                n if n > newest => NOT_IMPLEMENTED,
                _ => EPERM,
            };
            assert_eq!(
                ask_number(&program, arch, number, &[]),
                want,
                "{arch:?} {number:#x}"
            );
        }
    }
}

#[test]
fn flags_are_numbers_of_the_kernel() {
    let program = compile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/l","flags":["SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_SPEC_ALLOW","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    );
    // All threads are one: TSYNC would only make the descriptor ambiguous.
    assert_eq!(program.flags, 0b10_1110);
    let quiet =
        compile(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#);
    assert_eq!((quiet.flags, quiet.listener), (0, false));
}

#[test]
fn the_same_profile_gives_the_same_program() {
    let (a, b) = (docker_like(), docker_like());
    let words = |p: &Program| -> Vec<_> { p.filter.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect() };
    assert_eq!(words(&a), words(&b));
}

#[test]
fn what_ends_a_process_or_asks_others_does_not_leave_in_peace() {
    let profile = |action: &str| {
        compile(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/l",
                "syscalls": [{{"names": ["openat"], "action": "{action}"}}]}}"#
        ))
    };
    for (action, expected) in [
        ("SCMP_ACT_ALLOW", true),
        ("SCMP_ACT_LOG", true),
        ("SCMP_ACT_ERRNO", true),
        ("SCMP_ACT_TRAP", false),
        ("SCMP_ACT_TRACE", false),
        ("SCMP_ACT_NOTIFY", false),
        ("SCMP_ACT_KILL", false),
        ("SCMP_ACT_KILL_PROCESS", false),
    ] {
        let program = profile(action);
        assert_eq!(program.leaves_in_peace("openat"), expected, "{action}");
        assert!(program.leaves_in_peace("read"), "{action}");
        assert!(!program.leaves_in_peace("no_such_call"));
    }
}
