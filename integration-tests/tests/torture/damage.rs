//! The index and the records damaged in every way: what can be derived is derived again, what cannot is one entity's misfortune, told and removable.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use croze_integration_tests::{Crozed, Scene};

use crate::check;
use crate::seed::Seed;
use crate::world::World;

/// What is done to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Deleted,
    Truncated(usize),
    Noise(u64),
    Directory,
    OtherVersion,
}

impl Damage {
    fn apply(self, path: &Path) -> Result<()> {
        let bytes = fs::read(path)?;
        match self {
            Self::Deleted => fs::remove_file(path)?,
            Self::Truncated(percent) => fs::write(path, &bytes[..bytes.len() * percent / 100])?,
            Self::Noise(seed) => fs::write(path, Seed::new(seed).noise(bytes.len().max(64)))?,
            Self::Directory => {
                fs::remove_file(path)?;
                fs::create_dir(path)?;
            }
            Self::OtherVersion => {
                let text = String::from_utf8(bytes)?;
                fs::write(path, text.replacen("\"version\":1", "\"version\":999", 1))?;
            }
        }
        Ok(())
    }
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in check::names(dir)? {
        let path = dir.join(name);
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// Everything that users see, in words.
fn seen(daemon: &Crozed<'_>) -> Result<String> {
    let states: Vec<String> = check::containers(daemon)?
        .values()
        .map(|facts| {
            format!(
                "{} {} {}",
                facts["Name"], facts["State"]["Status"], facts["State"]["Pid"]
            )
        })
        .collect();
    Ok(format!(
        "{}\n{}",
        states.join("\n"),
        daemon.ok(&["images", "-q", "--no-trunc"])?.stdout
    ))
}

#[test]
fn a_damaged_index_is_built_again_and_everything_found() -> Result<()> {
    Scene::play(|scene| {
        let world = World::set(scene, &mut Seed::new(3))?;
        let daemon = &world.daemon;
        daemon.ok(&["run", "-d", "--name", "runs", &world.small, "/probe", "wait"])?;
        daemon.ok(&["create", "--name", "waits", &world.small, "/bin/true"])?;
        let before = seen(daemon)?;
        let index = daemon.root().join("index");
        let mark = daemon.root().join("index.clean");
        let damages = [
            Damage::Deleted,
            Damage::Truncated(0),
            Damage::Truncated(30),
            Damage::Truncated(90),
            Damage::Noise(1),
            Damage::Noise(2),
        ];
        for damage in damages {
            daemon.stop()?;
            ensure!(mark.exists(), "it was closed well");
            for file in files_below(&index)? {
                damage.apply(&file)?;
            }
            found_again(daemon, &before, &format!("{damage:?} of all files"))?;
        }
        for (words, spoil) in WHOLE {
            daemon.stop()?;
            spoil(&index, &mark)?;
            found_again(daemon, &before, words)?;
        }
        let kept = check::names(daemon.root())?;
        let kept = kept.iter().filter(|name| name.starts_with("index.corrupt-"));
        ensure!(kept.count() <= 1, "one damaged index is enough to look at");
        daemon.finish()
    })
}

type Spoil = fn(&Path, &Path) -> Result<()>;

/// What can be done to the whole of it.
const WHOLE: [(&str, Spoil); 5] = [
    ("removed", |index, _| Ok(fs::remove_dir_all(index)?)),
    ("a file in its place", |index, _| {
        fs::remove_dir_all(index)?;
        Ok(fs::write(index, "noise")?)
    }),
    ("a strange mark", |_, mark| Ok(fs::write(mark, "12345")?)),
    ("a directory in the place of the mark", |_, mark| {
        fs::remove_file(mark)?;
        Ok(fs::create_dir(mark)?)
    }),
    ("a link to nowhere in its place", |index, _| {
        fs::remove_dir_all(index)?;
        Ok(std::os::unix::fs::symlink("/nowhere/at/all", index)?)
    }),
];

fn found_again(daemon: &Crozed<'_>, before: &str, words: &str) -> Result<()> {
    daemon.launch().with_context(|| words.to_owned())?;
    ensure!(seen(daemon)? == before, "{words}: {}", seen(daemon)?);
    // Names are known again.
    let image = daemon.images()?;
    let image = image.first().context("an image")?;
    daemon
        .croze(&["create", "--name", "waits", image, "/bin/true"])?
        .failure(&["in use"])
        .with_context(|| words.to_owned())?;
    Ok(())
}

#[test]
fn a_damaged_record_of_a_container_is_its_own_misfortune() -> Result<()> {
    Scene::play(|scene| {
        let world = World::set(scene, &mut Seed::new(4))?;
        let daemon = &world.daemon;
        daemon.ok(&["run", "-d", "--name", "whole", &world.small, "/probe", "wait"])?;
        let pid = daemon.pid("whole")?;
        let damages = [
            Damage::Truncated(0),
            Damage::Truncated(50),
            Damage::Noise(5),
            Damage::Directory,
            Damage::OtherVersion,
        ];
        for (n, damage) in damages.into_iter().enumerate() {
            // Every second one runs while its record is damaged.
            let verb: &[&str] = if n % 2 == 0 { &["create"] } else { &["run", "-d"] };
            let words = [verb, &["--name", "hurt", &world.small, "/probe", "wait"]].concat();
            let id = daemon.ok(&words)?.text().to_owned();
            daemon.stop()?;
            let record = daemon.root().join("containers").join(&id).join("container.json");
            damage.apply(&record)?;
            for life in 1..=2 {
                daemon.launch()?;
                let words = format!("{damage:?}, life {life}");
                ensure!(daemon.pid("whole")? == pid, "{words}");
                daemon.ok(&["ps", "-a"])?;
                let facts = daemon.inspect(&id)?;
                ensure!(facts["State"]["Status"] == "dead", "{words}: {facts}");
                let info = daemon.ok(&["info"])?;
                let said = format!("{}{}", info.stdout, info.stderr);
                ensure!(said.contains(&id[..12]), "{words}: {info}");
                ensure!(daemon.log().contains(&id), "{words}: {}", daemon.log());
                daemon.stop()?;
            }
            daemon.launch()?;
            daemon
                .ok(&["rm", "-f", &id])
                .with_context(|| format!("{damage:?}"))?;
            check::whole(daemon).with_context(|| format!("{damage:?}"))?;
        }
        daemon.finish()
    })
}

#[test]
fn damaged_records_of_images_are_told_and_healed_or_removed() -> Result<()> {
    Scene::play(|scene| {
        let world = World::set(scene, &mut Seed::new(6))?;
        world.proxy.rest(std::time::Duration::ZERO);
        let daemon = &world.daemon;
        daemon.ok(&["run", "-d", "--name", "runs", &world.small, "/probe", "wait"])?;
        let small: Vec<PathBuf> = files_below(&daemon.root().join("images"))?;
        let small_tags = files_below(&daemon.root().join("tags"))?;
        let large = &world.large[0];
        for damage in [
            Damage::Truncated(40),
            Damage::Noise(9),
            Damage::Directory,
            Damage::OtherVersion,
        ] {
            for (kind, others) in [("images", &small), ("tags", &small_tags)] {
                daemon.ok(&["pull", large])?;
                daemon.stop()?;
                for record in files_below(&daemon.root().join(kind))? {
                    if !others.contains(&record) {
                        damage.apply(&record)?;
                    }
                }
                daemon.launch()?;
                let words = format!("{damage:?} of {kind}");
                let info = daemon.ok(&["info"])?;
                let said = format!("{}{}", info.stdout, info.stderr);
                ensure!(said.contains("cannot be read"), "{words}: {info}");
                ensure!(!said.contains("wipe"), "{info}");
                daemon.ok(&["run", "--rm", &world.small, "/bin/true"])?;
                daemon.ok(&["rmi", large]).context(words.clone())?;
                if kind == "tags" {
                    // Without its name the image itself is still there, by its id.
                    for id in daemon.images()?.iter().filter(|id| !is_of(id, &small)) {
                        daemon.ok(&["rmi", id])?;
                    }
                }
                check::whole(daemon).context(words.clone())?;
                let info = daemon.ok(&["info"])?;
                let said = format!("{}{}", info.stdout, info.stderr);
                ensure!(!said.contains("cannot be read"), "{words}: {info}");
            }
        }
        // What can be made again is made again by the next pull.
        daemon.ok(&["pull", large])?;
        for kind in ["pairs", "snapshots/layers"] {
            daemon.stop()?;
            for record in files_below(&daemon.root().join(kind))? {
                let is_record = record.extension().is_some_and(|extension| extension == "json");
                if is_record && !record.components().any(|part| part.as_os_str() == "fs") {
                    Damage::Noise(11).apply(&record)?;
                }
            }
            daemon.launch()?;
            daemon.ok(&["pull", large])?;
            daemon.ok(&["pull", &world.small])?;
            daemon.ok(&["run", "--rm", large, "/bin/true"])?;
            daemon.ok(&["exec", "runs", "/bin/true"])?;
        }
        daemon.finish()
    })
}

fn is_of(id: &str, records: &[PathBuf]) -> bool {
    let hex = id.trim_start_matches("sha256:");
    records
        .iter()
        .any(|record| record.display().to_string().contains(hex))
}
