//! Pulls through a proxy that breaks things, before a real registry: each ends in a whole image or in a clear error, with nothing left of it in
//! the store; and what came before a connection broke is not fetched again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{
    Crozed, Fault, FaultyProxy, ImageLayout, LayerBuilder, Refusing, Registry, RegistryOptions, Rule, Scene,
    digest,
};
use serde_json::json;

/// What a pull through a fault must come to.
enum Outcome {
    /// The image, whole; of the large layer so many bytes more than it has.
    Whole(u64),
    /// An error with these words.
    Error(&'static [&'static str]),
}

use Outcome::{Error, Whole};

/// With what the advice of an error begins.
const HINT: &str = "hint: ";

/// A registry behind the proxy, an image of two layers in it, and a daemon that has nothing.
struct Stage<'scene> {
    registry: Registry<'scene>,
    proxy: FaultyProxy,
    daemon: Crozed<'scene>,
    /// What the file `noise` of the large layer holds.
    noise: Vec<u8>,
    config: String,
    large: String,
    large_size: u64,
    empty: BTreeSet<String>,
}

/// Bytes that no compressor makes less of.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 7_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(count)
    .collect()
}

/// Every file of the store but the index, whose files come and go, by its path.
fn files(root: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))? {
            let path = entry?.path();
            if fs::symlink_metadata(&path)?.is_dir() {
                pending.push(path);
            } else {
                found.insert(path.strip_prefix(root)?.to_string_lossy().into_owned());
            }
        }
    }
    found.retain(|path| !path.starts_with("index"));
    Ok(found)
}

impl<'scene> Stage<'scene> {
    fn set(scene: &'scene Scene) -> Result<Self> {
        let noise = noise(600_000);
        let large = LayerBuilder::new().file("noise", 0o644, &noise)?.finish()?;
        let small = LayerBuilder::new().file("small", 0o644, b"small")?.finish()?;
        let image = ImageLayout::new(&[large, small], &json!({ "Cmd": ["/small"] }))?;
        let layer = image.layers.first().context("a layer")?;
        let (large, large_size) = (digest(layer), layer.len() as u64);
        let config = digest(&serde_json::to_vec(&image.config)?);
        let registry = Registry::start(scene)?;
        registry.push(&image.write(scene, "image", "latest")?, "latest", "app:1")?;
        let proxy = FaultyProxy::before(&registry.address())?;
        let daemon = Crozed::start(scene)?;
        let empty = files(daemon.root())?;
        Ok(Self {
            registry,
            proxy,
            daemon,
            noise,
            config,
            large,
            large_size,
            empty,
        })
    }

    /// Pulls under these rules, compares, and leaves the store as it was.
    fn pull(&self, name: &str, rules: &[Rule], outcome: &Outcome) -> Result<()> {
        self.proxy.obey(rules);
        let reference = self.proxy.reference("app:1");
        let output = self.daemon.croze(&["pull", &reference])?;
        match outcome {
            Whole(more) => {
                let output = output.success()?;
                self.is_whole().with_context(|| format!("{output}"))?;
                let bytes = self.proxy.bytes(&self.large);
                ensure!(
                    bytes == self.large_size + more,
                    "{bytes} bytes of {} were fetched, {more} more would do: {:?}",
                    self.large_size,
                    self.proxy.answered()
                );
                self.daemon.ok(&["rmi", &reference])?;
            }
            Error(words) => {
                output.failure(words)?;
            }
        }
        assert_eq!(self.daemon.images()?, Vec::<String>::new());
        let left = files(self.daemon.root())?;
        let left: Vec<&String> = left.difference(&self.empty).collect();
        ensure!(left.is_empty(), "left after {name}: {left:?}");
        Ok(())
    }

    /// Whether the large layer's file is what it should be.
    fn is_whole(&self) -> Result<()> {
        let stored = files(self.daemon.root())?;
        let path = stored
            .iter()
            .find(|path| path.ends_with("/noise"))
            .context("the layer's file")?;
        ensure!(
            fs::read(self.daemon.root().join(path))? == self.noise,
            "{path} is another"
        );
        Ok(())
    }

    fn all(&self, cases: Vec<Case>) -> Result<()> {
        for (name, rules, outcome) in cases {
            self.pull(name, &rules, &outcome)
                .with_context(|| format!("with {name}"))?;
        }
        // After all of it, it still works.
        self.pull("nothing wrong", &[], &Whole(0))?;
        self.daemon.finish()
    }
}

fn status(code: u16, headers: &str) -> Fault {
    Fault::Status(code, headers.to_owned(), String::new())
}

#[test]
fn what_came_before_a_connection_broke_is_not_fetched_again() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let (large, size) = (stage.large.clone(), stage.large_size);
        // The beginning, both sides of what is read and counted at once, gzip's own head and tail, the last byte and none missing.
        let offsets = [
            0,
            1,
            9,
            10,
            1023,
            16_383,
            16_384,
            65_535,
            65_536,
            size / 2,
            size - 9,
            size - 8,
            size - 1,
        ];
        for offset in offsets {
            let rule = Rule::new(&large, 1, Fault::Cut(offset));
            stage
                .pull("a cut", &[rule], &Whole(0))
                .with_context(|| format!("cut at {offset}"))?;
        }
        stage.all(vec![
            (
                "a cut after the last byte",
                vec![Rule::new(&large, 1, Fault::Cut(size))],
                Whole(0),
            ),
            (
                "many cuts",
                vec![Rule::new(&large, 8, Fault::Cut(70_000))],
                Whole(0),
            ),
            (
                "a cut, and a server without ranges",
                vec![
                    Rule::new(&large, 1, Fault::Cut(100_000)),
                    Rule::new(&large, 1, Fault::NoRanges),
                ],
                Whole(100_000),
            ),
            (
                "a cut, and a server that refuses ranges",
                vec![
                    Rule::new(&large, 1, Fault::Cut(100_000)),
                    Rule::new(&large, 2, Fault::RefusesRanges),
                ],
                Whole(100_000),
            ),
            (
                "a cut, and no answer to the next tries",
                vec![
                    Rule::new(&large, 1, Fault::Cut(100_000)),
                    Rule::new(&large, 1, Fault::NoAnswer),
                    Rule::new(&large, 1, status(503, "")),
                ],
                Whole(0),
            ),
            (
                "a cut in the config",
                vec![Rule::new(&stage.config, 2, Fault::Cut(20))],
                Whole(0),
            ),
            (
                "a cut without a length",
                vec![
                    Rule::new(&large, 1, Fault::NoLength),
                    Rule::new("/manifests/", 1, Fault::NoLength),
                ],
                Whole(0),
            ),
        ])
    })
}

#[test]
fn what_passes_is_waited_for() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let large = stage.large.clone();
        let mut cases = Vec::new();
        for on in ["/manifests/", &stage.config, &stage.large] {
            for fault in [
                Fault::NoAnswer,
                Fault::CutHead(0),
                Fault::CutHead(9),
                Fault::CutHead(60),
                Fault::Late(Duration::from_millis(300)),
                Fault::Redirect,
                status(408, ""),
                status(429, ""),
                status(429, "Retry-After: 1\r\n"),
                status(500, ""),
                status(502, ""),
                status(503, "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
                status(504, ""),
            ] {
                cases.push(("something that passes", vec![Rule::new(on, 1, fault)], Whole(0)));
            }
        }
        cases.push((
            "a manifest that breaks off",
            vec![Rule::new("/manifests/", 2, Fault::Cut(50))],
            Whole(0),
        ));
        cases.push((
            "a slow drip",
            vec![Rule::new(
                &large,
                1,
                Fault::Drip(40_000, Duration::from_millis(30)),
            )],
            Whole(0),
        ));
        cases.push((
            "everything at once",
            vec![
                Rule::new("/manifests/", 1, status(500, "")),
                Rule::new("/manifests/", 1, Fault::Redirect),
                Rule::new("/blobs/", 2, Fault::NoAnswer),
                Rule::new("/blobs/", 1, Fault::Redirect),
                Rule::new(&large, 1, Fault::Cut(300_000)),
                Rule::new(&large, 1, status(429, "Retry-After: 0\r\n")),
            ],
            Whole(0),
        ));
        stage.all(cases)
    })
}

type Case = (&'static str, Vec<Rule>, Outcome);

fn always(on: &str, fault: Fault) -> Vec<Rule> {
    vec![Rule::always(on, fault)]
}

/// Answers that say no.
fn refusals(stage: &Stage<'_>) -> Vec<Case> {
    let (large, config) = (&stage.large, &stage.config);
    let loose = "Location: http://registry.example/x\r\n";
    vec![
        (
            "401",
            always("/manifests/", status(401, "")),
            Error(&["does not say how it wants to be asked"]),
        ),
        (
            "401",
            always(large, status(401, "")),
            Error(&["does not say how it wants to be asked"]),
        ),
        (
            "403",
            always("/manifests/", status(403, "")),
            Error(&["no anonymous users", "403", "croze login"]),
        ),
        (
            "403",
            always(large, status(403, "")),
            Error(&["no anonymous users", "403", "croze login"]),
        ),
        (
            "404",
            always("/manifests/", status(404, "")),
            Error(&["has no image app with tag 1", "check the spelling"]),
        ),
        (
            "404",
            always(config, status(404, "")),
            Error(&["has no blob sha256:", "push it there again"]),
        ),
        (
            "404",
            always(large, status(404, "")),
            Error(&["has no blob sha256:", "push it there again"]),
        ),
        (
            "500",
            always("/manifests/", status(500, "")),
            Error(&["answered 500", HINT]),
        ),
        (
            "500",
            always(large, status(500, "")),
            Error(&["answered 500", HINT]),
        ),
        (
            "429",
            always(large, status(429, "")),
            Error(&["answered 429", "asked too often"]),
        ),
        (
            "a redirect out of reach",
            always(large, status(307, loose)),
            Error(&["not HTTPS"]),
        ),
        (
            "a redirect to nowhere",
            always(large, status(307, "")),
            Error(&["to nowhere"]),
        ),
    ]
}

/// Answers that are not what they should be.
fn damages(stage: &Stage<'_>) -> Vec<Case> {
    let (large, size, config) = (&stage.large, stage.large_size, &stage.config);
    let mut cases = vec![
        (
            "no answer",
            always("/manifests/", Fault::NoAnswer),
            Error(&["cannot reach registry", HINT]),
        ),
        (
            "half a manifest",
            always("/manifests/", Fault::Cut(50)),
            Error(&["cannot reach registry", HINT]),
        ),
        (
            "no byte",
            always(large, Fault::Cut(0)),
            Error(&["broke off at 0 of", "try again later"]),
        ),
        (
            "a wrong manifest",
            always("/manifests/", Fault::Flip(60)),
            Error(&["digest", "damaged"]),
        ),
        (
            "a wrong config",
            always(config, Fault::Flip(3)),
            Error(&["digest", "damaged"]),
        ),
    ];
    for place in [0, 3, 30, size / 2, size - 5, size - 1] {
        cases.push((
            "a wrong byte",
            always(large, Fault::Flip(place)),
            Error(&["digest", "nothing of it was kept"]),
        ));
        cases.push((
            "a wrong byte once",
            vec![Rule::new(large, 1, Fault::Flip(place))],
            Error(&["digest"]),
        ));
    }
    for more in [-1, 1, -100_000, 1_000_000_000_000] {
        let length = Fault::Length(more);
        cases.push((
            "a lie about the length",
            always(large, length),
            Error(&["its descriptor says", "bytes at registry"]),
        ));
    }
    for (on, more, words) in [
        (
            config.as_str(),
            -1,
            &["its descriptor says", "bytes at registry"][..],
        ),
        (config, 1, &["its descriptor says", "bytes at registry"]),
        ("/manifests/", -1, &["digest", "damaged"]),
        ("/manifests/", 1, &["cannot reach registry", HINT]),
    ] {
        let rules = always(on, Fault::Length(more));
        cases.push(("a lie about a small one's length", rules, Error(words)));
    }
    cases.push((
        "another length after a break",
        vec![
            Rule::new(large, 1, Fault::Cut(1000)),
            Rule::new(large, 1, status(206, "Content-Range: bytes 1000-1999/2000\r\n")),
        ],
        Error(&["its descriptor says"]),
    ));
    cases
}

#[test]
fn what_is_refused_is_a_clear_error_and_leaves_nothing() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.all(refusals(&stage))
    })
}

#[test]
fn a_registry_that_wants_to_be_left_alone_for_an_hour_is() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let said =
            r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"you have reached your pull rate limit"}]}"#;
        let limit = Fault::Status(429, "Retry-After: 3600\r\n".to_owned(), said.to_owned());
        let told = Error(&["seconds only", "pull rate limit", "logged in", HINT]);
        stage.pull("a limit", &always("/manifests/", limit), &told)?;
        // Nobody asks it before, and everybody is told why; somebody else may be let in.
        stage.pull("a limit before", &[], &told)?;
        assert_eq!(stage.proxy.answered(), []);
        let image = stage.proxy.reference("app:1");
        stage.daemon.ok(&["pull", "--creds", "alice:secret", &image])?;
        stage.is_whole()?;
        stage.daemon.finish()
    })
}

#[test]
fn what_is_damaged_is_a_clear_error_and_leaves_nothing() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        stage.all(damages(&stage))
    })
}

#[test]
fn mirrors_are_tried_in_order_and_checked() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let (daemon, proxy) = (&stage.daemon, &stage.proxy);
        let gone = Refusing::new()?;
        let gone = gone.address();
        let empty = Registry::start_with(scene, "empty", &RegistryOptions::default())?;
        let own = stage.registry.address();
        let mirrors = format!(
            "[registries.\"{own}\"]\nmirrors = [\"{gone}\", \"{}\", \"{}\"]\n",
            empty.address(),
            proxy.address()
        );
        daemon.stop()?;
        daemon.configure(&mirrors)?;
        daemon.launch()?;
        // The third mirror has it.
        let image = stage.registry.reference("app:1");
        daemon.ok(&["pull", &image])?;
        stage.is_whole()?;
        assert_eq!(proxy.bytes(&stage.large), stage.large_size);
        daemon.ok(&["rmi", &image])?;
        // What it breaks off, and what it changes, comes from the registry itself.
        for fault in [Fault::Flip(1000), status(500, ""), Fault::Length(-1)] {
            proxy.obey(&[Rule::always(&stage.large, fault)]);
            daemon.ok(&["pull", &image])?;
            stage.is_whole()?;
            daemon.ok(&["rmi", &image])?;
        }
        // If nobody has it, everybody is named.
        let unknown = stage.registry.reference("unknown:1");
        let words = [
            "4 sources of",
            gone,
            &empty.address(),
            &proxy.address(),
            &own,
            "cannot reach",
            "has no image",
        ];
        daemon.croze(&["pull", &unknown])?.failure(&words)?;
        daemon.finish()
    })
}

#[test]
fn nobody_waits_for_a_mirror_that_is_busy_or_silent() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let (daemon, proxy) = (&stage.daemon, &stage.proxy);
        let own = stage.registry.address();
        daemon.stop()?;
        daemon.configure(&format!(
            "[registries.\"{own}\"]\nmirrors = [\"{}\"]\n",
            proxy.address()
        ))?;
        daemon.launch()?;
        let image = stage.registry.reference("app:1");
        let rest = Duration::from_secs(30);
        for (fault, rest) in [
            (status(429, "Retry-After: 120\r\n"), Duration::from_mins(2)),
            (status(503, ""), rest),
            (Fault::Late(Duration::from_mins(2)), rest),
        ] {
            // What it waits for by itself is silence, and for that an eighth of the time that the mirror asks for.
            proxy.obey(&[Rule::always("/", fault.clone())]);
            let begun = Instant::now();
            daemon.ok(&["pull", &image])?;
            let taken = begun.elapsed();
            ensure!(taken < Duration::from_secs(45), "{fault:?}: {taken:?}");
            stage.is_whole()?;
            // Not for each layer again, and not by the next pull.
            daemon.ok(&["rmi", &image])?;
            daemon.ok(&["pull", &image])?;
            // Unless this machine took so long that the rest was over meanwhile.
            let answered = proxy.answered();
            let in_time = begun.elapsed() < rest;
            ensure!(answered.len() == 1 || !in_time, "{fault:?}: {answered:?}");
            daemon.ok(&["rmi", &image])?;
            // Another daemon knows nothing of it.
            daemon.stop()?;
            daemon.launch()?;
        }
        daemon.finish()
    })
}

#[test]
fn the_environments_proxy_is_used_for_what_is_not_here() -> Result<()> {
    Scene::play(|scene| {
        let stage = Stage::set(scene)?;
        let (daemon, proxy) = (&stage.daemon, &stage.proxy);
        daemon.stop()?;
        daemon.configure("[registries.\"registry.invalid:5000\"]\nplain-http = true\n")?;
        daemon.set_environment(&[("HTTP_PROXY", &format!("http://{}", proxy.address()))]);
        daemon.launch()?;
        // Nobody but the proxy knows the name.
        daemon.ok(&["pull", "registry.invalid:5000/app:1"])?;
        stage.is_whole()?;
        let answered = proxy.answered();
        ensure!(
            answered
                .iter()
                .all(|answer| answer.host == "registry.invalid:5000"),
            "{answered:?}"
        );
        // What is on this host is asked without it.
        proxy.obey(&[]);
        daemon.ok(&["pull", &stage.registry.reference("app:1")])?;
        assert_eq!(proxy.answered(), []);
        // And what the environment excepts.
        daemon.stop()?;
        daemon.set_environment(&[
            ("http_proxy", &format!("http://{}", proxy.address())),
            ("NO_PROXY", "registry.invalid"),
        ]);
        daemon.launch()?;
        daemon
            .croze(&["pull", "registry.invalid:5000/app:2"])?
            .failure(&["cannot reach registry registry.invalid:5000"])?;
        assert_eq!(proxy.answered(), []);
        daemon.finish()
    })
}
