//! Random profiles and random calls.
//!
//! A call's verdict by our program must be the one of libseccomp's and of a plain reading. Half of the profiles keep to one verdict for each
//! call, so that it cannot matter which of two rules that both hold comes first; in the others many rules meet at few calls, and then only
//! the reading judges: ours is the first rule that holds, and one without conditions wins.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use croze_integration_tests::Scene;
use croze_integration_tests::seed::{Seed, from_environment};
use croze_seccomp::arch::Arch;
use croze_seccomp::interpreter::{Call, run};
use croze_seccomp::{compile_for, table};
use libc::sock_filter;
use serde_json::{Value, json};

use crate::numbers::{ALL, shared_names};
use crate::peer::Peer;
use crate::profile::{KILL_PROCESS, KILL_THREAD, NOT_IMPLEMENTED, Profile, Reading};

/// Calls that each profile is asked about.
const CALLS: usize = 250;
/// Profiles in an ordinary run.
const PROFILES: usize = 40;

const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
const ACTIONS: [&str; 9] = [
    "KILL",
    "KILL_THREAD",
    "KILL_PROCESS",
    "TRAP",
    "ERRNO",
    "TRACE",
    "LOG",
    "ALLOW",
    "NOTIFY",
];
const VALUES: [u64; 14] = [
    0,
    1,
    2,
    5,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0005,
    0x8000_0000_0000_0000,
    u64::MAX - 1,
    u64::MAX,
];

#[test]
fn random_profiles_mean_the_same_to_libseccomp() -> Result<()> {
    let profiles = from_environment("CROZE_TEST_SECCOMP_PROFILES")?.unwrap_or(PROFILES);
    let seed = from_environment("CROZE_TEST_SEED")?.unwrap_or(1);
    Scene::play(|scene| {
        let peer = Peer::build(scene)?;
        let names = shared_names(&peer)?;
        let mut compared = 0;
        // In parts: a program of either side may have thousands of instructions.
        for first in (0..profiles).step_by(50) {
            let mut drawn = Vec::new();
            for number in first..profiles.min(first + 50) {
                let mut draw = Draw(Seed::new(seed + number as u64));
                let contradicts = draw.0.below(2) == 0;
                drawn.push((draw.profile(&names, contradicts)?, contradicts, draw));
            }
            let theirs = peer.compile(&drawn.iter().map(|(profile, ..)| profile).collect::<Vec<_>>())?;
            for (at, ((profile, contradicts, draw), theirs)) in drawn.iter_mut().zip(&theirs).enumerate() {
                let number = seed + (first + at) as u64;
                compared += compare(profile, *contradicts, draw, theirs)
                    .with_context(|| format!("CROZE_TEST_SEED={number} CROZE_TEST_SECCOMP_PROFILES=1"))?;
            }
        }
        writeln!(
            std::io::stdout(),
            "{compared} verdicts compared, of {profiles} profiles"
        )?;
        ensure!(compared >= profiles * CALLS, "{compared} verdicts were compared");
        Ok(())
    })
}

/// Both programs and the reading, over many calls; how many.
fn compare(profile: &Profile, contradicts: bool, draw: &mut Draw, theirs: &[sock_filter]) -> Result<usize> {
    let own = compile_for(&profile.parsed, profile.native)?;
    for _ in 0..CALLS {
        let call = draw.call(profile);
        let (ours, theirs) = (run(&own.filter, &call)?, run(theirs, &call)?);
        let arch = profile.arch_of(&call);
        let reading = arch.map(|arch| profile.read(arch, &call));
        let problem = difference(profile, contradicts, &call, ours, theirs, reading.as_ref());
        if let Some(problem) = problem {
            let rules = serde_json::to_string(&profile.parsed)?;
            anyhow::bail!(
                "{problem}: {arch:?} {call:x?}: ours {ours:#x}, libseccomp's {theirs:#x}, read plainly {:x?}\nnative {:?} {rules}",
                reading.map(|reading| (reading.verdicts, reading.newer)),
                profile.native,
            );
        }
    }
    Ok(CALLS)
}

/// What is wrong with two verdicts, if anything is.
///
/// Allowed differences:
/// - A call of an architecture that is not listed: libseccomp ends the thread, we end the process. A container's other threads would go on
///   without the one that was killed, and nobody would learn of it.
/// - A call that is newer than all that the profile names has ENOSYS, as with runc, which patches libseccomp's programs for it.
/// - Of several rules that hold and contradict each other we take the first. What libseccomp takes depends on the order of its tree.
/// - Conditions on calls that i386 can also make through `socketcall` and `ipc`: libseccomp compares the arguments of the multiplexer, which
///   are addresses or stand one place further on. We carry only rules without conditions over.
/// - Several rules for a call, on different arguments, with other operators than `EQ`, or with values that repeat or differ in one half only:
///   libseccomp 2.5 joins their trees wrongly at times, so that a rule that holds is passed over or one that does not is followed. Such
///   profiles are judged by the reading alone.
pub(crate) fn difference(
    profile: &Profile,
    contradicts: bool,
    call: &Call,
    ours: u32,
    theirs: u32,
    reading: Option<&Reading>,
) -> Option<&'static str> {
    let Some(reading) = reading else {
        return (ours != KILL_PROCESS || theirs != KILL_THREAD).then_some("a foreign architecture");
    };
    if reading.newer {
        return (ours != NOT_IMPLEMENTED).then_some("a newer call");
    }
    // i386's old ways to sockets and to System V IPC are not in the reading: there libseccomp is the judge.
    if profile.arch_of(call) == Some(Arch::X86) && [102, 117].contains(&call.number) {
        let judged = !contradicts && !profile.has_conditions_on_multiplexed_calls();
        return (judged && ours != theirs).then_some("a multiplexed call");
    }
    if Some(&ours) != reading.verdicts.first() {
        return Some("our program is not what the profile says");
    }
    (!contradicts && ours != theirs).then_some("libseccomp's program says something else")
}

/// Draws profiles and calls.
struct Draw(Seed);

impl Draw {
    fn one_in(&mut self, count: usize) -> bool {
        self.0.below(count) == 0
    }

    fn value(&mut self) -> u64 {
        match self.0.below(4) {
            0 => self.number(),
            1 => self.number() & 0xffff_ffff,
            _ => *self.0.pick(&VALUES),
        }
    }

    fn number(&mut self) -> u64 {
        let bytes = self.0.noise(8);
        bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// An action, with its value where it has one.
    fn action(&mut self) -> (&'static str, Option<u32>) {
        let action = *self.0.pick(&ACTIONS);
        let most = match action {
            "ERRNO" => 4096,
            "TRACE" => 65_536,
            _ => return (action, None),
        };
        let value = u32::try_from(self.0.below(most)).unwrap_or(0);
        (action, (!self.one_in(4)).then_some(value))
    }

    fn profile(&mut self, names: &[&str], contradicts: bool) -> Result<Profile> {
        let native = *self.0.pick(&[
            Arch::X86_64,
            Arch::X86_64,
            Arch::X86_64,
            Arch::X86,
            Arch::Aarch64,
            Arch::Riscv64,
        ]);
        let listed: Vec<&str> = ["X86_64", "X86", "X32", "AARCH64", "ARM", "RISCV64"]
            .into_iter()
            .filter(|_| self.one_in(3))
            .collect();
        let (default, errno) = loop {
            let drawn = self.action();
            if drawn.0 != "NOTIFY" {
                break drawn;
            }
        };
        let mut rules: Vec<Value> = Vec::new();
        let mut used: Vec<&str> = Vec::new();
        for _ in 0..=self.0.below(14) {
            let own: Vec<&str> = (0..=self.0.below(4))
                .map(|_| {
                    // The same few again and again, so that rules meet; of the others any.
                    if contradicts || self.one_in(3) {
                        *self.0.pick(&["ioctl", "socket", "shmget", "clone", "read", "personality"])
                    } else {
                        *self.0.pick(names)
                    }
                })
                // The multiplexers themselves would contradict the rules for what goes through them.
                .filter(|name| !["write", "socketcall", "ipc"].contains(name) && !used.contains(name))
                .collect();
            if own.is_empty() {
                continue;
            }
            if !contradicts {
                used.extend(&own);
            }
            let (action, errno) = self.action();
            let mut rule = json!({ "names": own, "action": format!("SCMP_ACT_{action}") });
            if let Some(errno) = errno {
                rule["errnoRet"] = json!(errno);
            }
            if !contradicts && self.one_in(4) {
                // Several rules with the same verdict, as real profiles have them: one argument, small numbers.
                let index = self.0.below(6);
                let mut value = self.value() & 0x7fff_ffff;
                for _ in 0..=self.0.below(4) {
                    value += 1 + self.0.below(300) as u64;
                    rule["args"] = json!([{ "index": index, "op": "SCMP_CMP_EQ", "value": value }]);
                    rules.push(rule.clone());
                }
                continue;
            }
            if !self.one_in(3) {
                rule["args"] = self.conditions(contradicts);
            }
            rules.push(rule);
        }
        let mut profile = json!({
            "defaultAction": format!("SCMP_ACT_{default}"),
            "architectures": listed.iter().map(|arch| format!("SCMP_ARCH_{arch}")).collect::<Vec<_>>(),
            "listenerPath": "/listener",
            "syscalls": rules,
        });
        if let Some(errno) = errno {
            profile["defaultErrnoRet"] = json!(errno);
        }
        // libseccomp's other layout forgets to load the number where the first call of its list does not exist on the architecture.
        const TREE: u8 = 2;
        Profile::new(&profile, native, TREE)
    }

    fn conditions(&mut self, may_repeat: bool) -> Value {
        let repeats = may_repeat && self.one_in(4);
        let mut places: Vec<usize> = (0..6).collect();
        let conditions: Vec<Value> = (0..=self.0.below(3))
            .map(|_| {
                let place = places.remove(self.0.below(places.len()));
                let operator = *self.0.pick(&OPERATORS);
                let index = if repeats { 1 } else { place };
                let mut condition =
                    json!({ "index": index, "op": format!("SCMP_CMP_{operator}"), "value": self.value() });
                if operator == "MASKED_EQ" {
                    condition["valueTwo"] = json!(self.value());
                }
                condition
            })
            .collect();
        json!(conditions)
    }

    /// A call near to what the profile speaks of.
    fn call(&mut self, profile: &Profile) -> Call {
        let arch = if self.one_in(12) {
            *self.0.pick(&ALL)
        } else {
            *self.0.pick(&profile.architectures)
        };
        let rules = profile.parsed.syscalls().as_deref().unwrap_or_default();
        let rule = (!rules.is_empty()).then(|| self.0.pick(rules));
        let named = rule
            .and_then(|rule| table::find(self.0.pick::<String>(rule.names())))
            .and_then(|call| call.number(arch));
        let mut number = match (self.0.below(16), named) {
            (0, _) | (_, None) => u32::try_from(self.0.below(600)).unwrap_or(0),
            (1, Some(named)) => named.wrapping_add(1),
            (2, Some(named)) => named ^ 0x4000_0000,
            (3, _) => *self
                .0
                .pick(&[u32::MAX, u32::MAX - 1, 0x4000_0000, 0x3fff_ffff, 0x8000_0000]),
            (4, _) => *self.0.pick(&[102, 117]),
            (_, Some(named)) => named,
        };
        if arch == Arch::X32 && number < 1000 {
            number |= 0x4000_0000;
        }
        let mut args = [0; 6];
        for arg in &mut args {
            *arg = self.value();
        }
        if [102, 117].contains(&number) {
            args[0] = self.0.below(26) as u64;
        }
        for condition in rule.and_then(|rule| rule.args().as_deref()).unwrap_or_default() {
            let near = condition.value_two().filter(|_| self.0.below(4) > 0);
            let near = near.unwrap_or_else(|| condition.value());
            args[condition.index()] = match self.0.below(8) {
                0 => near.wrapping_add(1),
                1 => near.wrapping_sub(1),
                2 => near ^ 0x1_0000_0000,
                3 => near ^ (!condition.value()),
                4 => args[condition.index()],
                _ => near,
            };
        }
        Call {
            number,
            arch: arch.audit(),
            args,
        }
    }
}
