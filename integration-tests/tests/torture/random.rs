//! kill -9 of the daemon at random moments, again and again, and a model of what it had acknowledged.
//!
//! ```text
//!   round:  some requests at once ──▶ a random time ──▶ kill -9 ──▶ who was answered? ──▶ start ──▶ settle ──▶ compare
//! ```
//!
//! A client that ended before the kill was answered with success, for every request makes sense; any other was, or lost the daemon.
//! What was answered with success is in force. What was not may be in force or not, and nothing in between; the model takes over what it finds.
//! Each request of a round is about a container or an image of its own. Two containers print numbered lines all the time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use croze_integration_tests::{Crozed, Process, Scene, is_alive, rest, wait_until};
use serde_json::Value;

use crate::check;
use crate::seed::{Seed, from_environment};
use crate::world::World;

/// Kills where nobody says otherwise: the slice that every test run has.
const SLICE: usize = 6;
/// From so many kills on it is asked how many requests were answered.
const ENOUGH: usize = 50;
/// The daemon dies within one of these after the requests were sent.
const SOON_MS: [usize; 5] = [40, 120, 300, 700, 1500];
/// How many containers the model plays with.
const CONTAINERS: usize = 5;
/// How long a client may take to see that its daemon is gone.
const NOTICE: Duration = Duration::from_secs(20);

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Container(usize),
    Image(usize),
    Tag,
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(n) => write!(out, "c{n}"),
            Self::Image(n) => write!(out, "image {n}"),
            Self::Tag => write!(out, "tag"),
        }
    }
}

/// Where a subject stands. An image is `Absent` or `Present`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Present,
    Created,
    Running(i64),
    Exited,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Present => "present",
            Self::Created => "created",
            Self::Running(_) => "running",
            Self::Exited => "exited",
        }
    }
}

/// A request under way.
struct Request {
    subject: Subject,
    verb: &'static str,
    before: State,
    /// Names of the states that it may end in when it was answered, and those besides when it was not.
    answered: &'static [&'static str],
    unanswered: &'static [&'static str],
    client: Process,
}

/// The model.
struct Torture<'world, 'scene> {
    world: &'world World<'scene>,
    scene: &'scene Scene,
    number: u64,
    states: BTreeMap<Subject, State>,
    /// Per verb: sent, answered.
    counts: BTreeMap<&'static str, (usize, usize)>,
    longest_start: Duration,
}

/// What is drawn for a round. The same draws for the same number and round; what they meet depends on what the kills before have left, and that on
/// timing.
struct Draws {
    /// In this order, and what of the requests that make sense for each.
    subjects: Vec<(Subject, usize)>,
    /// From the sending to the kill.
    delay: Duration,
}

impl Draws {
    fn new(number: u64, round: usize, mut subjects: Vec<Subject>) -> Self {
        let mut seed = Seed::new(number ^ (round as u64) << 32);
        let count = 3 + seed.below(3);
        let mut drawn = Vec::new();
        while drawn.len() < count && !subjects.is_empty() {
            let subject = subjects.remove(seed.below(subjects.len()));
            drawn.push((subject, seed.below(usize::MAX)));
        }
        let limit = *seed.pick(&SOON_MS);
        Self {
            subjects: drawn,
            delay: Duration::from_micros(seed.below(limit * 1000) as u64),
        }
    }
}

#[test]
fn a_daemon_killed_at_random_moments_loses_nothing() -> Result<()> {
    let kills = from_environment("CROZE_TORTURE_KILLS")?.unwrap_or(SLICE);
    let number = Seed::number_from_environment()?;
    let begin = Instant::now();
    Scene::play(|scene| {
        let world = World::set(scene, &mut Seed::new(number))?;
        let containers = (0..CONTAINERS).map(Subject::Container);
        let images = (0..world.large.len()).map(Subject::Image);
        let all = containers.chain(images).chain([Subject::Tag]);
        let mut torture = Torture::new(&world, scene, number, all);
        torture.play(kills, &[("printer", &[]), ("printer-tty", &["-t"])])?;
        eprintln!("{}", torture.summary(number, kills, begin.elapsed()));
        world.daemon.finish()
    })
    .with_context(|| format!("again with CROZE_TORTURE_SEED={number} CROZE_TORTURE_KILLS={kills}"))
}

/// Nothing but images that come and go: more often, because it is the store that is asked.
#[test]
fn a_daemon_killed_at_random_moments_of_pulls_and_removals_loses_nothing() -> Result<()> {
    let kills = from_environment("CROZE_TORTURE_PULL_KILLS")?.unwrap_or(SLICE);
    let number = Seed::number_from_environment()?;
    let begin = Instant::now();
    Scene::play(|scene| {
        let world = World::set(scene, &mut Seed::new(number))?;
        let images = (0..world.large.len()).map(Subject::Image);
        let mut torture = Torture::new(&world, scene, number, images);
        torture.play(kills, &[])?;
        eprintln!("{}", torture.summary(number, kills, begin.elapsed()));
        world.daemon.finish()
    })
    .with_context(|| format!("again with CROZE_TORTURE_SEED={number} CROZE_TORTURE_PULL_KILLS={kills}"))
}

impl<'world, 'scene> Torture<'world, 'scene> {
    /// A model of these subjects, none of which is there.
    fn new(
        world: &'world World<'scene>,
        scene: &'scene Scene,
        number: u64,
        subjects: impl Iterator<Item = Subject>,
    ) -> Self {
        Self {
            world,
            scene,
            number,
            states: subjects.map(|subject| (subject, State::Absent)).collect(),
            counts: BTreeMap::new(),
            longest_start: Duration::ZERO,
        }
    }

    /// So many kills. The printers, with the flags they are run with, must live through all of them.
    fn play(&mut self, kills: usize, printers: &[(&str, &[&str])]) -> Result<()> {
        let daemon = &self.world.daemon;
        let baseline = check::names(&daemon.root().join("snapshots/layers"))?;
        for (name, flags) in printers {
            let words = [
                &["run", "-d", "--name", name][..],
                flags,
                &[self.world.small.as_str()],
            ];
            daemon.ok(&[&words.concat()[..], &["/probe", "print", "100000000", "20"]].concat())?;
        }
        let pids: Vec<i32> = printers
            .iter()
            .map(|(name, _)| daemon.pid(name))
            .collect::<Result<_>>()?;
        for round in 1..=kills {
            let draws = Draws::new(self.number, round, self.states.keys().copied().collect());
            let delay = draws.delay;
            self.round(draws)
                .with_context(|| format!("round {round}, killed after {delay:?}"))?;
            for ((name, _), &pid) in printers.iter().zip(&pids) {
                ensure!(is_alive(pid), "round {round}: {name} died");
                ensure!(
                    daemon.pid(name)? == pid,
                    "round {round}: {name} is another process"
                );
                grows(daemon, name).with_context(|| format!("round {round}: the log of {name}"))?;
            }
        }
        self.enough(kills)?;
        self.leave()?;
        let left = check::names(&daemon.root().join("snapshots/layers"))?;
        ensure!(left == baseline, "layers: {left:?} instead of {baseline:?}");
        Ok(())
    }

    /// Everything is removed; then the store holds what it held at the start.
    fn leave(&self) -> Result<()> {
        let daemon = &self.world.daemon;
        for id in daemon.container_ids()? {
            daemon.ok(&["rm", "-f", &id])?;
        }
        for (n, image) in self.world.large.iter().enumerate() {
            if self.states[&Subject::Image(n)] == State::Present {
                daemon.ok(&["rmi", image])?;
            }
        }
        if self.states.get(&Subject::Tag) == Some(&State::Present) {
            daemon.ok(&["rmi", TAG])?;
        }
        check::whole(daemon)?;
        ensure!(
            daemon.images()?.len() == 1,
            "only the small image is left: {:?}",
            daemon.images()?
        );
        Ok(())
    }

    /// A daemon that answers nothing loses nothing.
    fn enough(&self, kills: usize) -> Result<()> {
        if kills < ENOUGH {
            return Ok(());
        }
        let (mut all, mut all_answered) = (0, 0);
        for (verb, &(sent, answered)) in &self.counts {
            ensure!(
                sent < 10 || answered > 0,
                "{verb} was sent {sent} times and never answered"
            );
            all += sent;
            all_answered += answered;
        }
        ensure!(
            all_answered * 4 >= all,
            "of {all} requests only {all_answered} were answered"
        );
        Ok(())
    }

    fn round(&mut self, draws: Draws) -> Result<()> {
        let mut requests = Vec::new();
        for (subject, choice) in draws.subjects {
            requests.push(self.send(subject, choice)?);
        }
        let moment = Instant::now() + draws.delay;
        while Instant::now() < moment && requests.iter().any(|r| r.client.ended().is_none()) {
            rest(Duration::from_millis(1))?;
        }
        let daemon = &self.world.daemon;
        let ended_before: Vec<bool> = requests.iter().map(|r| r.client.ended().is_some()).collect();
        daemon.kill()?;
        let mut told = Vec::new();
        for (request, ended_before) in requests.into_iter().zip(ended_before) {
            let output = request.client.wait(NOTICE)?;
            let answered = check::answered(&output).with_context(|| {
                format!(
                    "{} of {} which was {:?}",
                    request.verb, request.subject, request.before
                )
            })?;
            ensure!(
                answered || !ended_before,
                "the daemon was there, and its client lost it: {output}"
            );
            let count = self.counts.entry(request.verb).or_default();
            count.0 += 1;
            count.1 += usize::from(answered);
            told.push((request, answered, output));
        }
        let begin = Instant::now();
        daemon.launch()?;
        self.longest_start = self.longest_start.max(begin.elapsed());
        check::whole(daemon)?;
        let touched: Vec<Subject> = told.iter().map(|(request, ..)| request.subject).collect();
        let found = self.look()?;
        for (subject, before) in &self.states {
            ensure!(
                touched.contains(subject) || found[subject] == *before,
                "{subject} was {before:?} and nobody touched it; now it is {:?}",
                found[subject]
            );
        }
        for (request, answered, output) in &told {
            let now = found[&request.subject];
            let allowed = request.answered.contains(&now.name())
                || (!answered && (request.unanswered.contains(&now.name()) || now == request.before));
            ensure!(
                allowed,
                "{} of {} which was {:?}: answered {answered}, and now it is {now:?}\n{output}",
                request.verb,
                request.subject,
                request.before
            );
        }
        self.states = found;
        for subject in touched {
            self.usable(subject)?;
        }
        Ok(())
    }

    /// What is there is whole: an image runs, a container can be looked at; what is not there has not left its name behind.
    fn usable(&mut self, subject: Subject) -> Result<()> {
        let daemon = &self.world.daemon;
        match (subject, self.states[&subject]) {
            (Subject::Container(n), State::Absent) => {
                let name = format!("c{n}");
                daemon
                    .ok(&["create", "--name", &name, &self.world.small, "/bin/true"])
                    .context("the name is free")?;
                daemon.ok(&["rm", &name])?;
            }
            (Subject::Container(n), _) => {
                daemon.ok(&["logs", &format!("c{n}")])?;
            }
            (Subject::Image(n), State::Present) => {
                daemon.ok(&["run", "--rm", &self.world.large[n], "/bin/true"])?;
            }
            (Subject::Tag, State::Present) => {
                daemon.ok(&["run", "--rm", TAG, "/bin/true"])?;
            }
            (Subject::Image(_) | Subject::Tag, _) => {}
        }
        Ok(())
    }

    /// Sends one request that makes sense in the state that the subject has.
    fn send(&self, subject: Subject, choice: usize) -> Result<Request> {
        let before = self.states[&subject];
        let small = self.world.small.clone();
        let (verb, words, answered, unanswered) = match subject {
            Subject::Image(n) => self.image_request(n, before),
            Subject::Tag if before == State::Absent => {
                ("tag", vec!["tag".into(), small, TAG.into()], PRESENT, NOTHING)
            }
            Subject::Tag => ("untag", vec!["rmi".into(), TAG.into()], ABSENT, NOTHING),
            Subject::Container(n) => container_request(choice, &format!("c{n}"), before, &small),
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Ok(Request {
            subject,
            verb,
            before,
            answered,
            unanswered,
            client: self.scene.start(self.world.daemon.command(&words)?)?,
        })
    }

    fn image_request(&self, n: usize, before: State) -> Chosen {
        let image = self.world.large[n].clone();
        match before {
            State::Absent => ("pull", vec!["pull".into(), image], PRESENT, NOTHING),
            _ => ("rmi", vec!["rmi".into(), image], ABSENT, NOTHING),
        }
    }

    /// Where everything stands now. A container that removes itself gets the time to end.
    fn look(&self) -> Result<BTreeMap<Subject, State>> {
        let daemon = &self.world.daemon;
        wait_until("containers that remove themselves were gone", NOTICE, || {
            let known = check::containers(daemon)?;
            let passing = known
                .values()
                .any(|facts| facts["HostConfig"]["AutoRemove"] == true);
            Ok((!passing).then_some(()))
        })?;
        let known = check::containers(daemon)?;
        let images = daemon.ok(&["images"])?.stdout;
        ensure!(
            !images.contains("<none>"),
            "an image without a name, which nobody asked for:\n{images}"
        );
        let mut found = BTreeMap::new();
        for subject in self.states.keys() {
            let state = match subject {
                Subject::Container(n) => {
                    let name = format!("/c{n}");
                    let facts = known.values().find(|facts| facts["Name"] == name.as_str());
                    facts.map_or(Ok(State::Absent), state_of)?
                }
                Subject::Image(0) => presence(images.contains("large-a")),
                Subject::Image(_) => presence(images.contains("large-b")),
                Subject::Tag => presence(images.contains("tortured")),
            };
            found.insert(*subject, state);
        }
        Ok(found)
    }

    fn summary(&self, number: u64, kills: usize, took: Duration) -> String {
        let (sent, answered) = self
            .counts
            .values()
            .fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
        let mut text = format!(
            "torture: seed {number}: {kills} kills, {sent} requests, {answered} answered before the kill, {:.0} s, longest \
             start {:.1} s\n",
            took.as_secs_f64(),
            self.longest_start.as_secs_f64()
        );
        for (verb, (sent, answered)) in &self.counts {
            text.push_str(&format!(
                "torture:   {verb:<12} {sent:>4} sent {answered:>4} answered\n"
            ));
        }
        text
    }
}

/// A verb for the counts, its words, and the states that it may lead to.
type Chosen = (
    &'static str,
    Vec<String>,
    &'static [&'static str],
    &'static [&'static str],
);

const TAG: &str = "localhost/tortured:1";
const PRESENT: &[&str] = &["present"];
const ABSENT: &[&str] = &["absent"];
const NOTHING: &[&str] = &[];

/// One of the requests that make sense for a container in that state.
fn container_request(choice: usize, name: &str, before: State, image: &str) -> Chosen {
    let named = |words: &[&str]| -> Vec<String> {
        let words = words.iter().map(|word| (*word).to_owned());
        words.chain([name.to_owned()]).collect()
    };
    let made = |words: &[&str], command: &[&str]| -> Vec<String> {
        let tail = [&[image], command].concat();
        let tail = tail.iter().map(|word| (*word).to_owned());
        named(words).into_iter().chain(tail).collect()
    };
    const LIVES: [&str; 2] = ["/probe", "wait"];
    let choices: Vec<Chosen> = match before {
        State::Absent | State::Present => vec![
            (
                "create",
                made(&["create", "--name"], &LIVES),
                &["created"],
                NOTHING,
            ),
            (
                "run -d",
                made(&["run", "-d", "--name"], &LIVES),
                &["running"],
                &["created", "exited"],
            ),
            (
                "run --rm",
                made(&["run", "--rm", "--name"], &["/probe", "print", "20", "5"]),
                ABSENT,
                NOTHING,
            ),
            (
                "run -d --rm",
                made(&["run", "-d", "--rm", "--name"], &["/probe", "print", "20", "5"]),
                ABSENT,
                NOTHING,
            ),
        ],
        State::Created => vec![
            ("start", named(&["start"]), &["running"], &["exited"]),
            ("rm", named(&["rm"]), ABSENT, NOTHING),
        ],
        State::Running(_) => vec![
            ("stop", named(&["stop", "-t", "2"]), &["exited"], NOTHING),
            ("kill", named(&["kill"]), &["exited"], NOTHING),
            ("rm -f", named(&["rm", "-f"]), ABSENT, &["exited"]),
            (
                "exec",
                named(&["exec"]).into_iter().chain(["/bin/true".into()]).collect(),
                &["running"],
                NOTHING,
            ),
        ],
        State::Exited => vec![
            ("start", named(&["start"]), &["running"], NOTHING),
            ("rm", named(&["rm"]), ABSENT, NOTHING),
        ],
    };
    choices[choice % choices.len()].clone()
}

fn presence(is_there: bool) -> State {
    if is_there { State::Present } else { State::Absent }
}

fn state_of(facts: &Value) -> Result<State> {
    let state = &facts["State"];
    Ok(match state["Status"].as_str().context("a status")? {
        "created" => State::Created,
        "running" => State::Running(state["Pid"].as_i64().context("a pid")?),
        "exited" => State::Exited,
        other => bail!("a container is {other}: {facts}"),
    })
}

/// A log is whole, and goes on: lines that are printed from now on get into it.
fn grows(daemon: &Crozed<'_>, name: &str) -> Result<()> {
    let lines = || unbroken(&daemon.ok(&["logs", name])?.stdout);
    let before = lines()?;
    wait_until(
        "the log went on",
        NOTICE,
        || Ok((lines()? > before).then_some(())),
    )
}

/// `line 1`, `line 2` … and not one missing or twice; gives how many.
fn unbroken(log: &str) -> Result<usize> {
    let mut count = 0;
    for line in log.lines() {
        count += 1;
        let expected = format!("line {count}");
        ensure!(
            line.trim_end() == expected,
            "{line:?} stands where {expected:?} belongs"
        );
    }
    ensure!(count > 0, "it is empty");
    Ok(count)
}
