//! Which devices a container may make, read and write: the rules, and how each version is told.
//!
//! Everything is denied first; then the spec's rules count in their order, and after them a few fixed ones
//! without which hardly a program runs (making any node, the harmless devices, terminals, the tunnel device). A
//! later rule wins over an earlier one, for each of make, read and write by itself.
//!
//! * Version 1 keeps a default and a list of exceptions. Rules are folded into that form; a rule that takes a
//!   part out of a wider exception cannot be said there and is an error rather than ignored.
//! * Version 2 asks an eBPF program, made here: rules from last to first, each either answers for some of the
//!   accesses asked for or falls through, until every access is answered.

use crate::error::Error;
use crate::observe::Kind;
use crate::plan::Directory;
use crate::resources::Step;
use croze_sys::bpf::Instruction;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::fmt;

/// Accesses, as the kernel numbers them for device programs.
const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const EVERY: u8 = MAKE | READ | WRITE;

/// The device types of a rule, as the kernel numbers them for device programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Block devices.
    Block = 1,
    /// Character devices.
    Char = 2,
}

/// A device, or every device of a kind: `None` is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Devices {
    /// The kind.
    pub kind: DeviceKind,
    /// The major number.
    pub major: Option<u32>,
    /// The minor number.
    pub minor: Option<u32>,
}

/// One rule. `devices: None` means every device and every access: it resets what came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Allow or deny.
    pub allow: bool,
    /// For which devices.
    pub devices: Option<Devices>,
    /// Bits of make (1), read (2) and write (4).
    pub access: u8,
}

/// Rules in their order, the fixed ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// `(major, minor)` of the character devices that are always allowed: null, zero, full, random, urandom, tty,
/// ptmx, every pseudo terminal, the tunnel device.
const ALWAYS: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
    (10, Some(200)),
];

impl Rules {
    /// The rules of a spec with the fixed ones after them.
    ///
    /// # Errors
    /// If a rule names a type or an access that does not exist.
    pub fn from_spec(spec: &[LinuxDeviceCgroup]) -> Result<Self, Error> {
        let mut rules = Vec::with_capacity(spec.len() + ALWAYS.len() + 2);
        for rule in spec {
            rules.extend(parse(rule)?);
        }
        for kind in [DeviceKind::Char, DeviceKind::Block] {
            let devices = Some(Devices {
                kind,
                major: None,
                minor: None,
            });
            rules.push(Rule {
                allow: true,
                devices,
                access: MAKE,
            });
        }
        for (major, minor) in ALWAYS {
            let devices = Some(Devices {
                kind: DeviceKind::Char,
                major: Some(major),
                minor,
            });
            rules.push(Rule {
                allow: true,
                devices,
                access: EVERY,
            });
        }
        Ok(Self(rules))
    }

    /// The default after the last rule that resets everything, and the rules behind it.
    fn tail(&self) -> (bool, &[Rule]) {
        match self.0.iter().rposition(|rule| rule.devices.is_none()) {
            Some(at) => (self.0[at].allow, &self.0[at + 1..]),
            None => (false, &self.0),
        }
    }

    /// The writes for version 1: file and line.
    ///
    /// # Errors
    /// If version 1 cannot express a rule.
    pub fn v1(&self) -> Result<Vec<(&'static str, String)>, Error> {
        let (default, rules) = self.tail();
        let mut exceptions: Vec<(Devices, u8)> = Vec::new();
        for rule in rules {
            let Some(devices) = rule.devices else { continue };
            if rule.allow == default {
                take_out(&mut exceptions, devices, rule)?;
            } else if let Some(known) = exceptions.iter_mut().find(|(known, _)| *known == devices) {
                known.1 |= rule.access;
            } else {
                exceptions.push((devices, rule.access));
            }
        }
        let (reset, except) = if default {
            ("devices.allow", "devices.deny")
        } else {
            ("devices.deny", "devices.allow")
        };
        let mut writes = vec![(reset, "a".to_owned())];
        writes.extend(
            exceptions
                .into_iter()
                .filter(|(_, access)| *access != 0)
                .map(|(devices, access)| {
                    (
                        except,
                        Rule {
                            allow: !default,
                            devices: Some(devices),
                            access,
                        }
                        .to_string(),
                    )
                }),
        );
        Ok(writes)
    }

    /// The program for version 2.
    #[must_use]
    pub fn program(&self) -> Vec<Instruction> {
        let (default, rules) = self.tail();
        let mut program = prologue();
        for rule in rules.iter().rev() {
            if let Some(devices) = rule.devices.filter(|_| rule.access != 0) {
                program.extend(compile(devices, rule));
            }
        }
        program.extend(answer(default));
        program
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(devices) = self.devices else {
            return f.write_str("a");
        };
        f.write_str(if devices.kind == DeviceKind::Char {
            "c "
        } else {
            "b "
        })?;
        for (number, end) in [(devices.major, ":"), (devices.minor, " ")] {
            match number {
                Some(number) => write!(f, "{number}{end}")?,
                None => write!(f, "*{end}")?,
            }
        }
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MAKE, "m")] {
            if self.access & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// Undoes exceptions to the default. On version 1 an exception goes only as a whole or by access, not by device.
fn take_out(exceptions: &mut [(Devices, u8)], devices: Devices, rule: &Rule) -> Result<(), Error> {
    for (known, access) in exceptions {
        if !overlap(*known, devices) || *access & rule.access == 0 {
            continue;
        }
        if !covers(devices, *known) {
            return Err(Error::Value {
                field: "linux.resources.devices",
                value: rule.to_string(),
                why: "it takes a part out of a wider rule before it, which cgroup version 1 cannot do",
            });
        }
        *access &= !rule.access;
    }
    Ok(())
}

fn overlap(a: Devices, b: Devices) -> bool {
    let meet = |x: Option<u32>, y: Option<u32>| x.is_none() || y.is_none() || x == y;
    a.kind == b.kind && meet(a.major, b.major) && meet(a.minor, b.minor)
}

fn covers(wide: Devices, narrow: Devices) -> bool {
    let holds = |w: Option<u32>, n: Option<u32>| w.is_none() || w == n;
    wide.kind == narrow.kind && holds(wide.major, narrow.major) && holds(wide.minor, narrow.minor)
}

/// A rule of the spec; one without a kind is for every device, whatever numbers stand beside it, as the kernel
/// has it.
fn parse(spec: &LinuxDeviceCgroup) -> Result<Option<Rule>, Error> {
    let bad = |value: String, why| {
        Err(Error::Value {
            field: "linux.resources.devices",
            value,
            why,
        })
    };
    let allow = spec.allow();
    let kind = match spec.typ().unwrap_or_default() {
        LinuxDeviceType::A => {
            return Ok(Some(Rule {
                allow,
                devices: None,
                access: EVERY,
            }));
        }
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::P => return bad(spec.to_string(), "a fifo is not a device: use a, b or c"),
    };
    let mut access = 0;
    for letter in spec.access().as_deref().unwrap_or_default().bytes() {
        access |= match letter {
            b'r' => READ,
            b'w' => WRITE,
            b'm' => MAKE,
            _ => return bad(spec.to_string(), "an access is made of r, w and m"),
        };
    }
    // A denial that names no access denies every one; a permission that names none permits nothing.
    if access == 0 && !allow {
        access = EVERY;
    }
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Some(None),
        Some(n) => i32::try_from(n)
            .ok()
            .filter(|n| *n >= 0)
            .map(|n| Some(n.cast_unsigned())),
    };
    let (Some(major), Some(minor)) = (number(spec.major()), number(spec.minor())) else {
        return bad(
            spec.to_string(),
            "a device number is -1 (any) or not negative, and fits 31 bits",
        );
    };
    Ok((access != 0).then_some(Rule {
        allow,
        devices: Some(Devices { kind, major, minor }),
        access,
    }))
}

/// Adds the device rules to the directory that enforces them: the `devices` controller of version 1 where it
/// is, else the version 2 tree.
pub(crate) fn plan(directories: &mut [Directory], rules: &Rules) -> Result<(), Error> {
    let v1 = directories
        .iter_mut()
        .find(|d| d.controllers.iter().any(|c| c == "devices"));
    if let Some(directory) = v1 {
        for (file, value) in rules.v1()? {
            directory
                .steps
                .push(Step::write("linux.resources.devices", file, value));
        }
    } else if let Some(directory) = directories.iter_mut().find(|d| d.kind == Kind::V2) {
        directory.steps.push(Step::DeviceProgram(rules.program()));
    } else {
        return Err(Error::MissingController {
            controller: "devices".to_owned(),
            field: "linux.resources.devices",
        });
    }
    Ok(())
}

// The program. Registers: 0 the answer, 1 the context and then scratch, 2 the kind, 3 the accesses not answered
// yet, 4 the major and 5 the minor number. The context is three 32-bit words: access in the upper half of the
// first and kind in its lower half, major, minor (`struct bpf_cgroup_dev_ctx`).

const LOAD_WORD: u8 = 0x61;
const AND_CONST: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE_CONST: u8 = 0xb7;
const MOVE: u8 = 0xbf;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

fn prologue() -> Vec<Instruction> {
    vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE, 3, 2, 0, 0),
        op(AND_CONST, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ]
}

fn answer(allow: bool) -> [Instruction; 2] {
    [op(MOVE_CONST, 0, 0, 0, i32::from(allow)), op(EXIT, 0, 0, 0, 0)]
}

fn compile(devices: Devices, rule: &Rule) -> Vec<Instruction> {
    let access = i32::from(rule.access);
    // What a matching rule does; it falls through to the next rule if accesses are left.
    let mut body = if rule.allow {
        vec![op(AND_CONST, 3, 0, 0, !access), op(JUMP_NOT_EQUAL, 3, 0, 2, 0)]
    } else {
        vec![
            op(MOVE, 1, 3, 0, 0),
            op(AND_CONST, 1, 0, 0, access),
            op(JUMP_EQUAL, 1, 0, 2, 0),
        ]
    };
    body.extend(answer(rule.allow));
    let mut tests = vec![(2, devices.kind as i32)];
    tests.extend(devices.major.map(|n| (4, n.cast_signed())));
    tests.extend(devices.minor.map(|n| (5, n.cast_signed())));
    let mut out = Vec::with_capacity(tests.len() + body.len());
    for (at, (register, wanted)) in tests.iter().enumerate() {
        // At most seven instructions are jumped over.
        let distance = (tests.len() - at - 1 + body.len()) as i16;
        out.push(op(JUMP_NOT_EQUAL, *register, 0, distance, *wanted));
    }
    out.extend(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would: every jump must land inside it, and every path must end in an exit.
    fn run(program: &[Instruction], kind: DeviceKind, access: u8, major: u32, minor: u32) -> bool {
        let context = [u32::from(access) << 16 | kind as u32, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0_usize;
        loop {
            let Instruction {
                code,
                registers: pair,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let constant = i64::from(immediate).cast_unsigned();
            at += 1;
            let jump = match code {
                LOAD_WORD => {
                    assert_eq!(from, 1);
                    registers[to] = u64::from(context[usize::try_from(offset).unwrap() / 4]);
                    false
                }
                AND_CONST => {
                    registers[to] &= constant;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= constant;
                    false
                }
                MOVE_CONST => {
                    registers[to] = constant;
                    false
                }
                MOVE => {
                    registers[to] = registers[from];
                    false
                }
                JUMP_EQUAL => registers[to] == constant,
                JUMP_NOT_EQUAL => registers[to] != constant,
                EXIT => return registers[0] != 0,
                _ => panic!("unknown instruction {code:#x}"),
            };
            if jump {
                at = at.checked_add_signed(isize::from(offset)).unwrap();
            }
        }
    }

    /// The meaning of rules, said once more in the plainest way: each access bit is decided by the last rule
    /// that names it.
    fn decide(rules: &Rules, kind: DeviceKind, access: u8, major: u32, minor: u32) -> bool {
        let here = Devices {
            kind,
            major: Some(major),
            minor: Some(minor),
        };
        [MAKE, READ, WRITE]
            .into_iter()
            .filter(|bit| access & bit != 0)
            .all(|bit| {
                rules
                    .0
                    .iter()
                    .rev()
                    .find(|r| r.access & bit != 0 && r.devices.is_none_or(|wide| covers(wide, here)))
                    .is_some_and(|r| r.allow)
            })
    }

    fn spec(json: &str) -> Rules {
        Rules::from_spec(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap()).unwrap()
    }

    const SPECS: [&str; 7] = [
        "[]",
        r#"[{"allow":false,"access":"rwm"}]"#,
        r#"[{"allow":true,"access":"rwm"}]"#,
        r#"[{"allow":true,"type":"a","access":"rwm"},{"allow":false,"type":"b","major":8,"access":"w"}]"#,
        r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":29,"access":"r"},
            {"allow":true,"type":"c","major":29,"minor":1,"access":"w"},
            {"allow":false,"type":"c","major":29,"access":"w"}]"#,
        r#"[{"allow":true,"type":"b","major":7,"minor":-1,"access":"rw"},{"allow":false,"type":"b","major":7}]"#,
        r#"[{"allow":true,"type":"c","major":4,"minor":64,"access":"m"}]"#,
    ];

    #[test]
    fn the_program_says_what_the_rules_say() {
        for json in SPECS {
            let rules = spec(json);
            let program = rules.program();
            for kind in [DeviceKind::Char, DeviceKind::Block] {
                for (major, minor) in [
                    (1, 3),
                    (1, 1),
                    (5, 0),
                    (5, 2),
                    (136, 77),
                    (10, 200),
                    (8, 0),
                    (29, 0),
                    (29, 1),
                    (7, 3),
                    (4, 64),
                ] {
                    for access in 1..=EVERY {
                        assert_eq!(
                            run(&program, kind, access, major, minor),
                            decide(&rules, kind, access, major, minor),
                            "{json} {kind:?} {major}:{minor} access {access}"
                        );
                    }
                }
            }
        }
    }

    /// The verifier refuses a program with an instruction that nothing leads to.
    #[test]
    fn every_instruction_can_be_reached() {
        for json in SPECS {
            let program = spec(json).program();
            let mut reached = vec![false; program.len()];
            let mut todo = vec![0_usize];
            while let Some(at) = todo.pop() {
                if std::mem::replace(&mut reached[at], true) || program[at].code == EXIT {
                    continue;
                }
                todo.push(at + 1);
                if matches!(program[at].code, JUMP_EQUAL | JUMP_NOT_EQUAL) {
                    todo.push(
                        (at + 1)
                            .checked_add_signed(isize::from(program[at].offset))
                            .unwrap(),
                    );
                }
            }
            assert!(reached.iter().all(|r| *r), "{json}");
        }
    }

    #[test]
    fn v1_lists_are_folded() {
        let lines = |json| -> Vec<String> {
            spec(json)
                .v1()
                .unwrap()
                .into_iter()
                .map(|(file, line)| format!("{file} {line}"))
                .collect()
        };
        assert_eq!(
            lines(
                r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"r"}]"#
            ),
            [
                "devices.deny a",
                "devices.allow c 1:3 rwm",
                "devices.allow c *:* m",
                "devices.allow b *:* m",
                "devices.allow c 1:5 rwm",
                "devices.allow c 1:7 rwm",
                "devices.allow c 1:8 rwm",
                "devices.allow c 1:9 rwm",
                "devices.allow c 5:0 rwm",
                "devices.allow c 5:2 rwm",
                "devices.allow c 136:* rwm",
                "devices.allow c 10:200 rwm",
            ]
        );
        assert_eq!(
            lines(r#"[{"allow":true},{"allow":false,"type":"b","major":8,"access":"w"}]"#),
            ["devices.allow a", "devices.deny b 8:* w"]
        );
    }

    #[test]
    fn v1_refuses_what_it_cannot_say() {
        let narrow = spec(
            r#"[{"allow":true,"type":"c","major":29,"access":"rwm"},
                {"allow":false,"type":"c","major":29,"minor":1,"access":"w"}]"#,
        );
        assert_eq!(
            narrow.v1().unwrap_err().to_string(),
            "linux.resources.devices is c 29:1 w: it takes a part out of a wider rule before it, \
             which cgroup version 1 cannot do"
        );
    }

    #[test]
    fn malformed_rules_are_refused() {
        for json in [
            r#"[{"allow":true,"type":"p","access":"r"}]"#,
            r#"[{"allow":true,"type":"c","access":"x"}]"#,
            r#"[{"allow":true,"type":"c","major":-2,"access":"r"}]"#,
            r#"[{"allow":true,"type":"c","minor":4294967296,"access":"r"}]"#,
        ] {
            let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
            assert!(
                matches!(Rules::from_spec(&rules), Err(Error::Value { .. })),
                "{json}"
            );
        }
    }
}
