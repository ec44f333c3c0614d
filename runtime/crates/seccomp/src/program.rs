//! Rules as instructions of classic BPF.
//!
//! ```text
//!   load arch
//!   is it A?  no -> next            one section per audit architecture
//!     load number
//!     >= n/2 ?  -> right half       binary search over runs of numbers with the same answer
//!       ...
//!         return VERDICT            a run with one answer
//!         CONDITIONS return V1      a call with conditions: blocks one after the other,
//!         CONDITIONS return V2      each falls through to the next if its conditions do not hold
//!         return DEFAULT
//!   return KILL_PROCESS             no architecture of the profile
//! ```
//!
//! A conditional jump reaches 255 instructions; where a half of the search is longer, an unconditional one is
//! put behind it. All jumps go forward and stay inside their section, so blocks can be put together without
//! labels.
//!
//! x86_64 and x32 share an audit architecture: their numbers are two ranges of one section. If one of them is
//! not listed, its range is answered like a foreign architecture, or a profile could be passed by with the
//! other's numbers. The number -1 is what a tracer sets to skip a call; it gets the default.

use crate::action::{KILL_PROCESS, Verdict};
use crate::arch::{Arch, X32_BIT};
use crate::rules::{Answer, ArchRules, Conditional, Conditions, Rules};
use crate::table::ARM_PRIVATE;
use crate::{Error, MOST_INSTRUCTIONS};
use libc::sock_filter;
use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator};
use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

pub(crate) const LOAD: u16 = 0x20;
pub(crate) const JUMP: u16 = 0x05;
pub(crate) const JUMP_EQUAL: u16 = 0x15;
pub(crate) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
pub(crate) const RETURN: u16 = 0x06;

/// Places in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// The number of a call that is to be skipped.
const SKIPPED: u32 = u32::MAX;

/// The first number of a run, and the answer from there to the next run.
type Run<'r, 'p> = (u32, Target<'r, 'p>);

#[derive(Clone, Copy)]
enum Target<'r, 'p> {
    Return(Verdict),
    Block(&'r [Conditional<'p>]),
}

/// Puts the program together.
///
/// # Errors
/// If a condition cannot be compiled or the program gets too long.
pub fn assemble(rules: &Rules<'_>) -> Result<Vec<sock_filter>, Error> {
    let mut program = Vec::with_capacity(1024);
    program.push(statement(LOAD, ARCH));
    let mut audits: Vec<u32> = rules.architectures.iter().map(|a| a.arch.audit()).collect();
    audits.dedup();
    let mut done: Vec<u32> = Vec::new();
    for audit in audits {
        if done.contains(&audit) {
            continue;
        }
        done.push(audit);
        let at = program.len();
        program.push(jump(JUMP_EQUAL, audit, 1, 0));
        program.push(statement(JUMP, 0));
        program.push(statement(LOAD, NUMBER));
        search(&runs(rules, audit), rules.default, &mut program)?;
        // Cannot overflow: a program this long is refused below.
        program[at + 1].k = (program.len() - at - 2) as u32;
    }
    program.push(statement(RETURN, KILL_PROCESS));
    if program.len() > MOST_INSTRUCTIONS {
        return Err(Error::TooLong {
            instructions: program.len(),
        });
    }
    Ok(program)
}

/// The runs of one section: from 0 up, without gaps, neighbours different.
fn runs<'r, 'p>(rules: &'r Rules<'p>, audit: u32) -> Vec<Run<'r, 'p>> {
    let of = |arch: Arch| rules.architectures.iter().find(|a| a.arch == arch);
    let mut runs = Vec::with_capacity(256);
    if audit == Arch::X86_64.audit() {
        range(of(Arch::X86_64), 0, X32_BIT - 1, rules.default, &mut runs);
        range(of(Arch::X32), X32_BIT, SKIPPED - 1, rules.default, &mut runs);
    } else {
        let arch = rules.architectures.iter().find(|a| a.arch.audit() == audit);
        range(arch, 0, SKIPPED - 1, rules.default, &mut runs);
    }
    add(&mut runs, SKIPPED, Target::Return(rules.default));
    runs
}

fn range<'r, 'p>(
    rules: Option<&'r ArchRules<'p>>,
    first: u32,
    last: u32,
    default: Verdict,
    runs: &mut Vec<Run<'r, 'p>>,
) {
    let Some(rules) = rules else {
        add(runs, first, Target::Return(KILL_PROCESS));
        return;
    };
    // Numbers without a rule, from one to before the other.
    let gap = |runs: &mut Vec<Run<'r, 'p>>, from: u32, to: u32| match rules.newer {
        Some((newest, verdict)) if newest < to => {
            if from <= newest {
                add(runs, from, Target::Return(default));
            }
            // Whether one of arm's private calls is new cannot be told from the others.
            let end = if rules.arch == Arch::Arm {
                to.min(ARM_PRIVATE)
            } else {
                to
            };
            let newer = from.max(newest + 1);
            if newer < end {
                add(runs, newer, Target::Return(verdict));
            }
            if end.max(from) < to {
                add(runs, end.max(from), Target::Return(default));
            }
        }
        _ if from < to => add(runs, from, Target::Return(default)),
        _ => {}
    };
    let mut next = first;
    for (number, answer) in &rules.calls {
        gap(runs, next, *number);
        let target = match answer {
            Answer::Always(verdict) => Target::Return(*verdict),
            Answer::When(list) => Target::Block(list),
        };
        add(runs, *number, target);
        next = number + 1;
    }
    gap(runs, next, last.saturating_add(1));
}

fn add<'r, 'p>(runs: &mut Vec<Run<'r, 'p>>, start: u32, target: Target<'r, 'p>) {
    let same = match (runs.last(), target) {
        (Some((_, Target::Return(last))), Target::Return(verdict)) => *last == verdict,
        _ => false,
    };
    if !same {
        runs.push((start, target));
    }
}

/// Appends a search over runs; the number is in the accumulator.
fn search(runs: &[Run<'_, '_>], default: Verdict, program: &mut Vec<sock_filter>) -> Result<(), Error> {
    if program.len() > 4 * MOST_INSTRUCTIONS {
        // A profile may ask for any number of conditions; there is no point in compiling all of them.
        return Err(Error::TooLong {
            instructions: program.len(),
        });
    }
    match runs {
        [] => program.push(statement(RETURN, default)),
        [(_, target)] => leaf(*target, default, program)?,
        _ => {
            let (left, right) = runs.split_at(runs.len() / 2);
            let pivot = right[0].0;
            let at = program.len();
            program.push(statement(JUMP_GREATER_OR_EQUAL, pivot));
            search(left, default, program)?;
            let distance = program.len() - at - 1;
            if let Ok(near) = u8::try_from(distance) {
                program[at].jt = near;
            } else {
                program[at].jf = 1;
                program.insert(at + 1, statement(JUMP, distance as u32));
            }
            search(right, default, program)?;
        }
    }
    Ok(())
}

fn leaf(target: Target<'_, '_>, default: Verdict, program: &mut Vec<sock_filter>) -> Result<(), Error> {
    match target {
        Target::Return(verdict) => program.push(statement(RETURN, verdict)),
        Target::Block(list) => {
            for conditional in list {
                program.extend(conditions(conditional)?);
                program.push(statement(RETURN, conditional.verdict));
            }
            program.push(statement(RETURN, default));
        }
    }
    Ok(())
}

/// The conditions of one rule: falls through if they hold, else jumps over one instruction.
fn conditions(conditional: &Conditional<'_>) -> Result<impl Iterator<Item = sock_filter>, Error> {
    let fail = |reason: seccompiler::BackendError| Error::Condition {
        syscall: conditional.name.to_owned(),
        reason: reason.to_string(),
    };
    let width = || {
        if conditional.wide {
            SeccompCmpArgLen::Qword
        } else {
            SeccompCmpArgLen::Dword
        }
    };
    let list: Result<Vec<SeccompCondition>, _> = match &conditional.conditions {
        Conditions::First(value) => {
            SeccompCondition::new(0, width(), SeccompCmpOp::Eq, *value).map(|c| vec![c])
        }
        Conditions::Given(args) => args.iter().map(|arg| condition(arg, width())).collect(),
    };
    let compiled: BpfProgram = SeccompRule::new(list.map_err(fail)?).map_err(fail)?.into();
    // The first two instructions are a way in and a way out that the compiler's own chain of rules needs.
    Ok(compiled.into_iter().skip(2).map(|i| sock_filter {
        code: i.code,
        jt: i.jt,
        jf: i.jf,
        k: i.k,
    }))
}

/// In `SCMP_CMP_MASKED_EQ`, `value` is the mask and `valueTwo` what is to be left.
fn condition(
    arg: &LinuxSeccompArg,
    width: SeccompCmpArgLen,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (operator, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (SeccompCmpOp::Ne, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (SeccompCmpOp::Lt, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (SeccompCmpOp::Le, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (SeccompCmpOp::Eq, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (SeccompCmpOp::Ge, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (SeccompCmpOp::Gt, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            SeccompCmpOp::MaskedEq(arg.value()),
            arg.value_two().unwrap_or_default(),
        ),
    };
    // Checked when the rules were read: at most 5.
    SeccompCondition::new(arg.index() as u8, width, operator, value)
}

const fn statement(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}
