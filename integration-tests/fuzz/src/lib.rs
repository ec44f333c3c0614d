//! Random input for parsers, that can be drawn again.
//!
//! ```text
//!   seeds ──► corpus ──► pick, change a little or a lot ──► target(input) ──► what kind of answer?
//!               ▲                                                                  │
//!               └────────────── an input whose answer nobody gave before ◄─────────┘
//! ```
//!
//! A target is a function from bytes to a number that stands for the kind of its answer (which error, how many entries): inputs with answers
//! that were not seen before are changed further, which leads deeper than blind chance. It panics where an invariant does not hold.
//!
//! A campaign is a test beside the code that it attacks, so that it reaches what is not public; `make test` runs some thousand inputs of each,
//! `make fuzz` (and `make torture`) as many as fit into a time. Everything follows from one number: a failure names it with the input's place,
//! and shows the input.
//!
//! | variable | what |
//! |---|---|
//! | `CROZE_FUZZ_RUNS` | inputs for each target |
//! | `CROZE_FUZZ_SECONDS` | as many inputs as fit into this time, for each target |
//! | `CROZE_FUZZ_SEED` | the number that all inputs follow from (1) |
//!
//! It deliberately does not watch which code is reached: that takes an instrumented build.
#![forbid(unsafe_code)]

mod change;

use std::collections::HashSet;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use croze_integration_tests::seed::Seed;

/// When a single input counts as one that never ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many inputs are kept to be changed further.
const MAX_CORPUS: usize = 2000;
/// How much of an input a failure shows.
const SHOWN: usize = 2000;

/// Which inputs to draw.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// Inputs to begin with: good ones of every form.
    pub seeds: Vec<Vec<u8>>,
    /// Words that the parser knows, to be put anywhere.
    pub words: Vec<Vec<u8>>,
    /// No input is longer, in bytes.
    pub longest: usize,
    /// How many inputs there are unless a variable says otherwise.
    pub runs: u64,
}

/// What came of a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How many inputs there were.
    pub runs: u64,
    /// How many kinds of answers.
    pub kinds: usize,
}

/// When to stop.
#[derive(Debug, Clone, Copy)]
enum End {
    Runs(u64),
    Time(Duration),
}

impl Campaign {
    /// A campaign with these beginnings.
    #[must_use]
    pub fn new(seeds: Vec<Vec<u8>>, words: &[&[u8]], longest: usize) -> Self {
        Self {
            seeds,
            words: words.iter().map(|word| word.to_vec()).collect(),
            longest,
            runs: 20_000,
        }
    }

    /// Attacks `target`.
    ///
    /// # Panics
    /// If the target panics, or takes longer than a minute for one input; the message says how to repeat it.
    pub fn attack(&self, name: &str, target: impl FnMut(&[u8]) -> u64 + Send) -> Outcome {
        let number = variable("CROZE_FUZZ_SEED").unwrap_or(1);
        let end = match (variable("CROZE_FUZZ_SECONDS"), variable("CROZE_FUZZ_RUNS")) {
            (Some(seconds), _) => End::Time(Duration::from_secs(seconds)),
            (None, runs) => End::Runs(runs.unwrap_or(self.runs)),
        };
        let at = AtomicU64::new(0);
        let (done, outcome) = channel();
        std::thread::scope(|scope| {
            let worker = std::thread::Builder::new().name(name.to_owned());
            let begun = worker.spawn_scoped(scope, || self.work(name, number, end, &at, target, &done));
            assert!(begun.is_ok(), "no thread for {name}");
            let mut before = u64::MAX;
            loop {
                match outcome.recv_timeout(PATIENCE) {
                    Ok(Ok(outcome)) => return outcome,
                    Ok(Err(message)) => std::panic::resume_unwind(Box::new(message)),
                    Err(RecvTimeoutError::Timeout) if at.load(Ordering::Relaxed) != before => {
                        before = at.load(Ordering::Relaxed);
                    }
                    // The thread cannot be ended, so nobody may wait for it.
                    Err(_) => std::process::abort(),
                }
            }
        })
    }

    fn work(
        &self,
        name: &str,
        number: u64,
        end: End,
        at: &AtomicU64,
        mut target: impl FnMut(&[u8]) -> u64,
        done: &Sender<Result<Outcome, String>>,
    ) {
        let begun = Instant::now();
        let mut corpus = self.seeds.clone();
        let mut known = HashSet::new();
        let mut run = 0;
        let is_over = |run: u64| match end {
            End::Runs(runs) => run >= runs,
            End::Time(time) => begun.elapsed() >= time,
        };
        while run < self.seeds.len() as u64 || !is_over(run) {
            let input = match self.seeds.get(usize::try_from(run).unwrap_or(usize::MAX)) {
                Some(seed) => seed.clone(),
                None => {
                    let mut seed = Seed::new(number ^ run.rotate_left(32));
                    change::draw(&mut seed, &corpus, &self.words, self.longest)
                }
            };
            at.store(run, Ordering::Relaxed);
            match catch_unwind(AssertUnwindSafe(|| target(&input))) {
                Ok(kind) => {
                    if known.insert(kind) && corpus.len() < MAX_CORPUS {
                        corpus.push(input);
                    }
                }
                Err(_) => {
                    let message = told(name, number, run, &input);
                    // The message is for whoever reads the test's output; the unwinding alone carries no text there.
                    report(&message);
                    drop(done.send(Err(message)));
                    return;
                }
            }
            run += 1;
        }
        let outcome = Outcome {
            runs: run,
            kinds: known.len(),
        };
        report(&format!(
            "fuzz: {name}: seed {number}: {} inputs, {} kinds of answers",
            outcome.runs, outcome.kinds
        ));
        drop(done.send(Ok(outcome)));
    }
}

fn told(name: &str, number: u64, run: u64, input: &[u8]) -> String {
    format!(
        "fuzz: {name} failed at input {run} of seed {number} (again: CROZE_FUZZ_SEED={number} CROZE_FUZZ_RUNS={}), {} bytes: {}",
        run + 1,
        input.len(),
        input[..input.len().min(SHOWN)].escape_ascii()
    )
}

#[allow(
    clippy::print_stderr,
    reason = "this library is for tests, and this is their output"
)]
fn report(message: &str) {
    eprintln!("{message}");
}

/// A variable's number. One that is none is told, and taken as not there.
fn variable(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    let number = text.parse().ok();
    if number.is_none() {
        report(&format!("fuzz: {name}={text} is no number"));
    }
    number
}

/// A number for a kind of answer that is told by a text.
#[must_use]
pub fn kind_of(text: &str) -> u64 {
    // FNV-1a: the same in every build.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_behind_two_conditions_is_found() {
        let campaign = Campaign::new(vec![b"hello world".to_vec()], &[b"magic"], 100);
        let found = catch_unwind(|| {
            campaign.attack("example", |input| {
                let has = |word: &[u8]| input.windows(word.len()).any(|part| part == word);
                assert!(!(has(b"magic") && input.first() == Some(&0xff)), "the bug");
                u64::from(has(b"magic"))
            })
        });
        let message = found.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("CROZE_FUZZ_SEED="), "{message}");
    }

    #[test]
    fn the_same_number_gives_the_same_inputs() {
        let draw = || {
            let mut seen = Vec::new();
            let campaign = Campaign {
                runs: 500,
                ..Campaign::new(vec![b"a,b".to_vec(), b"c=d".to_vec()], &[b"x"], 50)
            };
            campaign.attack("same", |input| {
                assert!(input.len() <= 50);
                seen.push(input.to_vec());
                0
            });
            seen.truncate(500);
            seen
        };
        assert_eq!(draw(), draw());
    }
}
