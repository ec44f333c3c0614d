//! What a profile says about each call of each architecture.

use crate::Error;
use crate::action::{self, NOT_IMPLEMENTED, NOTIFY, Verdict};
use crate::arch::Arch;
use crate::table::{self, ARM_PRIVATE, Call};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSyscall};

/// A profile, resolved.
#[derive(Debug)]
pub struct Rules<'a> {
    /// One entry per architecture, the native one first.
    pub architectures: Vec<ArchRules<'a>>,
    /// For every call without a rule.
    pub default: Verdict,
    /// Whether a call may be handed to a listener.
    pub notifies: bool,
}

/// What it says about one architecture.
#[derive(Debug)]
pub struct ArchRules<'a> {
    /// Which one.
    pub arch: Arch,
    /// Calls with a rule, by number, ascending.
    pub calls: Vec<(u32, Answer<'a>)>,
    /// The largest number the profile names, and the answer to calls beyond it, if that is not the default.
    pub newer: Option<(u32, Verdict)>,
}

/// The answer to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Whatever its arguments are.
    Always(Verdict),
    /// The first of these whose conditions hold; the default if none.
    When(Vec<Conditional<'a>>),
}

/// A verdict under conditions, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditional<'a> {
    /// The call's name, for messages.
    pub name: &'a str,
    /// Never empty.
    pub conditions: Conditions<'a>,
    /// Whether arguments are compared in 64 bits, or in their lower 32.
    pub wide: bool,
    /// The answer.
    pub verdict: Verdict,
}

/// Conditions on arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conditions<'a> {
    /// As the profile has them.
    Given(&'a [LinuxSeccompArg]),
    /// The first argument has this value (a multiplexed call).
    First(u64),
}

/// One statement of the profile about one number, before statements about the same number are joined.
struct Statement<'a> {
    number: u32,
    name: &'a str,
    conditions: Option<Conditions<'a>>,
    verdict: Verdict,
}

impl<'a> Rules<'a> {
    /// Resolves a profile for a machine.
    ///
    /// # Errors
    /// If an action stands where it cannot, or a value does not fit.
    pub fn read(profile: &'a LinuxSeccomp, native: Arch) -> Result<Self, Error> {
        let default_action = profile.default_action();
        if default_action == LinuxSeccompAction::ScmpActNotify {
            let why = "every call would wait for a listener, those that hand the listener over included";
            return Err(Error::Notify {
                place: "the default action",
                why,
            });
        }
        let of_default = || "the default action".to_owned();
        let default = action::verdict(default_action, profile.default_errno_ret(), of_default)?;
        let mut architectures: Vec<ArchRules<'a>> = Vec::new();
        let listed = profile
            .architectures()
            .iter()
            .flatten()
            .filter_map(|a| Arch::listed(*a, native));
        for arch in std::iter::once(native).chain(listed) {
            if !architectures.iter().any(|known| known.arch == arch) {
                architectures.push(ArchRules {
                    arch,
                    calls: Vec::new(),
                    newer: None,
                });
            }
        }
        let mut statements: Vec<Vec<Statement<'a>>> = architectures.iter().map(|_| Vec::new()).collect();
        let mut newest: Vec<Option<u32>> = vec![None; architectures.len()];
        for rule in profile.syscalls().iter().flatten() {
            let verdict = checked_verdict(rule)?;
            check_arguments(rule)?;
            for name in rule.names() {
                // A name nobody knows is a call of some later kernel: it cannot be made here.
                let Some(call) = table::find(name) else { continue };
                if verdict == NOTIFY && name == "write" {
                    let why = "the runtime needs it to hand the listener over";
                    return Err(Error::Notify {
                        place: "used for write",
                        why,
                    });
                }
                for (at, known) in architectures.iter().enumerate() {
                    // arm's private calls say nothing about how new the others are.
                    let number = call
                        .number(known.arch)
                        .filter(|n| *n < ARM_PRIVATE || known.arch != Arch::Arm);
                    newest[at] = newest[at].max(number);
                    if verdict != default {
                        state(&mut statements[at], call, known.arch, name, rule, verdict);
                    }
                }
            }
        }
        let stays_open = action::permits(default_action) || default == NOT_IMPLEMENTED;
        for ((rules, statements), newest) in architectures.iter_mut().zip(statements).zip(newest) {
            rules.calls = join(statements, rules.arch.is_wide());
            rules.newer = newest
                .filter(|_| !stays_open)
                .map(|number| (number, NOT_IMPLEMENTED));
        }
        let notifies = architectures
            .iter()
            .any(|a| a.calls.iter().any(|(_, answer)| answer.notifies()));
        Ok(Self {
            architectures,
            default,
            notifies,
        })
    }
}

impl Answer<'_> {
    fn notifies(&self) -> bool {
        match self {
            Self::Always(verdict) => *verdict == NOTIFY,
            Self::When(list) => list.iter().any(|c| c.verdict == NOTIFY),
        }
    }
}

fn checked_verdict(rule: &LinuxSyscall) -> Result<Verdict, Error> {
    action::verdict(rule.action(), rule.errno_ret(), || {
        rule.names().first().cloned().unwrap_or_default()
    })
}

fn check_arguments(rule: &LinuxSyscall) -> Result<(), Error> {
    match rule.args().iter().flatten().find(|arg| arg.index() > 5) {
        Some(arg) => {
            let syscall = rule.names().first().cloned().unwrap_or_default();
            Err(Error::Argument {
                syscall,
                index: arg.index(),
            })
        }
        None => Ok(()),
    }
}

/// Adds what a rule says about one call on one architecture.
fn state<'a>(
    statements: &mut Vec<Statement<'a>>,
    call: Call,
    arch: Arch,
    name: &'a str,
    rule: &'a LinuxSyscall,
    verdict: Verdict,
) {
    let args = rule.args().as_deref().unwrap_or_default();
    if let Some(number) = call.number(arch) {
        if args.is_empty() {
            statements.push(Statement {
                number,
                name,
                conditions: None,
                verdict,
            });
        } else if repeats_an_argument(args) {
            let one_by_one = args.chunks(1).map(Conditions::Given);
            statements.extend(one_by_one.map(|c| Statement {
                number,
                name,
                conditions: Some(c),
                verdict,
            }));
        } else {
            let conditions = Some(Conditions::Given(args));
            statements.push(Statement {
                number,
                name,
                conditions,
                verdict,
            });
        }
    }
    // The arguments of a multiplexed call lie in memory, where a filter cannot look: only a rule without
    // conditions carries over.
    if args.is_empty()
        && let Some((number, value)) = call.multiplexed(arch)
    {
        let conditions = Some(Conditions::First(value));
        statements.push(Statement {
            number,
            name,
            conditions,
            verdict,
        });
    }
}

fn repeats_an_argument(args: &[LinuxSeccompArg]) -> bool {
    args.iter()
        .enumerate()
        .any(|(at, arg)| args[..at].iter().any(|other| other.index() == arg.index()))
}

/// Joins the statements about each number. The first one without conditions settles it; else they are tried in
/// their order.
fn join(mut statements: Vec<Statement<'_>>, wide: bool) -> Vec<(u32, Answer<'_>)> {
    // Stable: statements about one number keep their order.
    statements.sort_by_key(|s| s.number);
    let mut calls: Vec<(u32, Answer<'_>)> = Vec::with_capacity(statements.len());
    for Statement {
        number,
        name,
        conditions,
        verdict,
    } in statements
    {
        let known = calls
            .last_mut()
            .filter(|(last, _)| *last == number)
            .map(|(_, answer)| answer);
        match (known, conditions) {
            (None, None) => calls.push((number, Answer::Always(verdict))),
            (None, Some(conditions)) => {
                calls.push((
                    number,
                    Answer::When(vec![Conditional {
                        name,
                        conditions,
                        wide,
                        verdict,
                    }]),
                ));
            }
            (Some(Answer::Always(_)), _) => {}
            (Some(answer), None) => *answer = Answer::Always(verdict),
            (Some(Answer::When(list)), Some(conditions)) => {
                list.push(Conditional {
                    name,
                    conditions,
                    wide,
                    verdict,
                });
            }
        }
    }
    calls
}
