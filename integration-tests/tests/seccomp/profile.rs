//! A profile in the three forms that are compared: as OCI's JSON, as lines for libseccomp, and read plainly.

use std::collections::HashMap;

use anyhow::{Context, Result};
use croze_seccomp::arch::Arch;
use croze_seccomp::interpreter::Call;
use croze_seccomp::table;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use serde_json::Value;

/// A return value of the kernel's, and what the tests ask of it.
pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;
pub(crate) const KILL_THREAD: u32 = 0;
pub(crate) const NOT_IMPLEMENTED: u32 = 0x0005_0000 | 38;

/// A profile and the machine it is for.
pub(crate) struct Profile {
    pub(crate) parsed: LinuxSeccomp,
    pub(crate) native: Arch,
    pub(crate) architectures: Vec<Arch>,
    /// libseccomp's layout of its program: 1 a list, 2 a tree.
    optimise: u8,
    /// The rules that name a call, by its number.
    named: HashMap<(u32, u32), Vec<usize>>,
    /// The largest number that is named, by architecture.
    newest: HashMap<u32, u32>,
}

/// What a plain reading of the rules says about a call.
pub(crate) struct Reading {
    /// Every verdict whose conditions hold, those without conditions alone if there are any; never empty.
    pub(crate) verdicts: Vec<u32>,
    /// Newer than every call that the profile names, where that matters.
    pub(crate) newer: bool,
}

impl Profile {
    pub(crate) fn new(json: &Value, native: Arch, optimise: u8) -> Result<Self> {
        let parsed: LinuxSeccomp =
            serde_json::from_value(json.clone()).with_context(|| format!("parsing {json}"))?;
        let mut architectures = vec![native];
        for listed in parsed.architectures().iter().flatten() {
            if let Some(arch) = Arch::listed(*listed, native)
                && !architectures.contains(&arch)
            {
                architectures.push(arch);
            }
        }
        let (mut named, mut newest) = (HashMap::new(), HashMap::new());
        for arch in &architectures {
            for (at, rule) in parsed.syscalls().iter().flatten().enumerate() {
                let numbers = rule
                    .names()
                    .iter()
                    .filter_map(|name| table::find(name)?.number(*arch));
                for number in numbers {
                    let rules: &mut Vec<usize> = named.entry((token(*arch), number)).or_default();
                    if rules.last() != Some(&at) {
                        rules.push(at);
                    }
                    if number < table::ARM_PRIVATE || *arch != Arch::Arm {
                        let newest = newest.entry(token(*arch)).or_insert(number);
                        *newest = number.max(*newest);
                    }
                }
            }
        }
        Ok(Self {
            named,
            newest,
            parsed,
            native,
            architectures,
            optimise,
        })
    }

    fn default(&self) -> u32 {
        verdict(self.parsed.default_action(), self.parsed.default_errno_ret())
    }

    /// The rules that say something else than the default.
    fn rules(&self) -> impl Iterator<Item = (&LinuxSyscall, u32)> {
        let default = self.default();
        self.parsed
            .syscalls()
            .iter()
            .flatten()
            .map(|rule| (rule, verdict(rule.action(), rule.errno_ret())))
            .filter(move |(_, verdict)| *verdict != default)
    }

    /// As lines for the helper. What runc does before it calls libseccomp is done here: a rule that says what the default says is none,
    /// and conditions on the same argument are rules of their own.
    pub(crate) fn for_peer(&self) -> String {
        let mut lines = format!(
            "profile {:x} {:x} {}\n",
            self.default(),
            token(self.native),
            self.optimise
        );
        for arch in &self.architectures {
            lines.push_str(&format!("arch {:x}\n", token(*arch)));
        }
        for (rule, verdict) in self.rules() {
            for name in rule.names() {
                for group in groups(rule) {
                    let conditions: String = group.iter().map(condition_for_peer).collect();
                    lines.push_str(&format!("rule {verdict:x} {name}{conditions}\n"));
                }
            }
        }
        lines.push_str("end\n");
        lines
    }

    /// Whether a rule with conditions names a call that i386 has twice.
    pub(crate) fn has_conditions_on_multiplexed_calls(&self) -> bool {
        let is_twice =
            |name: &String| table::find(name).is_some_and(|call| call.multiplexed(Arch::X86).is_some());
        self.rules()
            .any(|(rule, _)| !groups(rule)[0].is_empty() && rule.names().iter().any(is_twice))
    }

    /// The architecture of a call: the kernel tells x32 by a bit of the number. The number -1, which skips a call, may be either's.
    pub(crate) fn arch_of(&self, call: &Call) -> Option<Arch> {
        let is_x32 = call.number >= 0x4000_0000;
        self.architectures.iter().copied().find(|arch| {
            let shares = arch.audit() == Arch::X32.audit();
            arch.audit() == call.arch
                && (!shares || call.number == u32::MAX || (*arch == Arch::X32) == is_x32)
        })
    }

    /// A plain reading, for a call of a listed architecture that is not multiplexed.
    pub(crate) fn read(&self, arch: Arch, call: &Call) -> Reading {
        let mut always = Vec::new();
        let mut sometimes = Vec::new();
        let wide = arch.is_wide();
        let rules = self.parsed.syscalls().as_deref().unwrap_or_default();
        for &at in self.named.get(&(token(arch), call.number)).into_iter().flatten() {
            let rule = &rules[at];
            let verdict = verdict(rule.action(), rule.errno_ret());
            if verdict == self.default() {
                continue;
            }
            for group in groups(rule) {
                if group.is_empty() {
                    always.push(verdict);
                } else if group.iter().all(|condition| holds(condition, call, wide)) {
                    sometimes.push(verdict);
                }
            }
        }
        let newest = self.newest.get(&token(arch)).copied();
        let default = self.default();
        let open = matches!(
            self.parsed.default_action(),
            LinuxSeccompAction::ScmpActAllow
                | LinuxSeccompAction::ScmpActLog
                | LinuxSeccompAction::ScmpActTrace
        );
        let is_private = arch == Arch::Arm && call.number >= table::ARM_PRIVATE;
        let newer = !open
            && !is_private
            && call.number != u32::MAX
            && newest.is_some_and(|newest| call.number > newest)
            && always.is_empty()
            && sometimes.is_empty()
            && !self.named.contains_key(&(token(arch), call.number));
        let verdicts = match (always.is_empty(), sometimes.is_empty()) {
            (false, _) => always,
            (true, false) => sometimes,
            (true, true) => vec![default],
        };
        Reading { verdicts, newer }
    }
}

/// The conditions of a rule, as rules of their own where runc makes them so.
fn groups(rule: &LinuxSyscall) -> Vec<&[LinuxSeccompArg]> {
    let args = rule.args().as_deref().unwrap_or_default();
    let repeats = args
        .iter()
        .enumerate()
        .any(|(at, arg)| args[..at].iter().any(|other| other.index() == arg.index()));
    if repeats {
        args.chunks(1).collect()
    } else {
        vec![args]
    }
}

fn condition_for_peer(arg: &LinuxSeccompArg) -> String {
    // `enum scmp_compare`.
    let operator = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => 1,
        LinuxSeccompOperator::ScmpCmpLt => 2,
        LinuxSeccompOperator::ScmpCmpLe => 3,
        LinuxSeccompOperator::ScmpCmpEq => 4,
        LinuxSeccompOperator::ScmpCmpGe => 5,
        LinuxSeccompOperator::ScmpCmpGt => 6,
        LinuxSeccompOperator::ScmpCmpMaskedEq => 7,
    };
    let two = arg.value_two().unwrap_or_default();
    format!(" {:x}:{operator:x}:{:x}:{two:x}", arg.index(), arg.value())
}

fn holds(arg: &LinuxSeccompArg, call: &Call, wide: bool) -> bool {
    let cut = |value: u64| if wide { value } else { value & 0xffff_ffff };
    let (have, value, two) = (
        cut(call.args[arg.index()]),
        cut(arg.value()),
        cut(arg.value_two().unwrap_or_default()),
    );
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => have != value,
        LinuxSeccompOperator::ScmpCmpLt => have < value,
        LinuxSeccompOperator::ScmpCmpLe => have <= value,
        LinuxSeccompOperator::ScmpCmpEq => have == value,
        LinuxSeccompOperator::ScmpCmpGe => have >= value,
        LinuxSeccompOperator::ScmpCmpGt => have > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => have & value == two & value,
    }
}

/// The kernel's return values (`SECCOMP_RET_*`), which libseccomp's actions are too.
fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    let errno = errno.unwrap_or(1);
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActErrno => 0x0005_0000 | errno,
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | errno,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
    }
}

/// libseccomp's name of an architecture: the kernel's number, but for x32.
pub(crate) fn token(arch: Arch) -> u32 {
    match arch {
        Arch::X32 => 0x4000_003e,
        other => other.audit(),
    }
}
