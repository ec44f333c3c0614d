//! What must be true of the store and the host whenever the daemon has come to rest, whatever was done to it.
//!
//! The files are compared with what the daemon says: each container, layer, blob, mount, shim and directory belongs to something that is
//! known, and what is known is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use croze_integration_tests::{Crozed, Ended, Output, digest, wait_until};
use serde_json::Value;

/// How long the daemon may take to clean up after a start.
const SETTLE: Duration = Duration::from_secs(30);

/// Whether a request was answered with success; if not, its client must have lost the daemon: another refusal is an error, for what is asked here
/// makes sense.
pub(crate) fn answered(output: &Output) -> Result<bool> {
    const LOST: [&str; 2] = [
        "the connection to the daemon was lost",
        "cannot connect to the croze daemon",
    ];
    ensure!(!output.stderr.contains("panicked"), "a panic: {output}");
    match output.ended {
        Ended::Code(0) => Ok(true),
        _ if LOST.iter().any(|words| output.stderr.contains(words)) => Ok(false),
        _ => bail!("it was refused: {output}"),
    }
}

/// Waits until nothing is half there. The error lists what stayed.
pub(crate) fn whole(daemon: &Crozed<'_>) -> Result<()> {
    let mut last = Vec::new();
    let settled = wait_until("everything belonged to something", SETTLE, || {
        last = complaints(daemon)?;
        Ok(last.is_empty().then_some(()))
    });
    match settled {
        Ok(()) => Ok(()),
        Err(error) => bail!("{error:#}\n  {}", last.join("\n  ")),
    }
}

/// Every container's state by its id: `inspect` must know each that `ps` lists.
pub(crate) fn containers(daemon: &Crozed<'_>) -> Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    let answer = wait_until("what is listed can be inspected", SETTLE, || {
        let ids = daemon.container_ids()?;
        if ids.is_empty() {
            return Ok(Some(Value::Array(Vec::new())));
        }
        let mut words = vec!["inspect"];
        words.extend(ids.iter().map(String::as_str));
        let answer = daemon.croze(&words)?;
        // One that removes itself may go between the two.
        let is_whole = answer.ended == Ended::Code(0);
        is_whole.then(|| answer.json()).transpose()
    })?;
    for facts in answer.as_array().context("a list")? {
        let id = facts["Id"].as_str().context("an id")?;
        found.insert(id.to_owned(), facts.clone());
    }
    Ok(found)
}

fn complaints(daemon: &Crozed<'_>) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let known = containers(daemon)?;
    let ids: BTreeSet<String> = known.keys().cloned().collect();
    let running: BTreeSet<String> = known
        .iter()
        .filter(|(_, facts)| facts["State"]["Running"] == true)
        .map(|(id, _)| id.clone())
        .collect();
    let (root, run) = (daemon.root(), daemon.run_root());
    let mut compare = |what: &str, found: BTreeSet<String>, expected: &BTreeSet<String>| {
        if found != *expected {
            said.push(format!("{what}: found {found:?}, expected {expected:?}"));
        }
    };
    let none = BTreeSet::new();
    compare("records of containers", names(&root.join("containers"))?, &ids);
    compare("snapshots", names(&root.join("snapshots/active"))?, &ids);
    compare("staged snapshots", names(&root.join("snapshots/staging"))?, &none);
    compare("ingests", names(&root.join("content/ingest"))?, &none);
    compare("root file systems", names(&run.join("rootfs"))?, &running);
    compare("mounts", mounts_below(&run.join("rootfs"))?, &running);
    compare("the runtime's states", names(&run.join("rt"))?, &running);
    compare("shims", shims_below(&run.join("containers")), &running);
    let bundles = names(&run.join("containers"))?;
    if let Some(stray) = bundles.difference(&ids).next() {
        said.push(format!("the bundle {stray} belongs to nothing"));
    }
    said.extend(images(root)?);
    Ok(said)
}

/// What is wrong between the records of images and what they name.
fn images(root: &Path) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let (mut blobs, mut layers, mut images) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let have = names(&root.join("snapshots/layers"))?;
    for record in records(&root.join("images"))? {
        let text = |value: &Value| hex_of(value.as_str().unwrap_or_default());
        images.insert(text(&record["config"]));
        blobs.extend([text(&record["config"]), text(&record["manifest"])]);
        let mut chain = String::new();
        for layer in record["layers"].as_array().context("layers")? {
            let diff_id = layer["diff_id"].as_str().context("a diff id")?;
            blobs.insert(text(&layer["blob"]));
            chain = match chain.as_str() {
                "" => diff_id.to_owned(),
                below => digest(format!("{below} {diff_id}").as_bytes()),
            };
            if !have.contains(&hex_of(diff_id)) && !have.contains(&hex_of(&chain)) {
                said.push(format!("layer {diff_id} of a listed image is not there"));
            }
            layers.extend([hex_of(diff_id), hex_of(&chain)]);
        }
    }
    if let Some(stray) = have.difference(&layers).next() {
        said.push(format!("the layer {stray} belongs to no image"));
    }
    let stored = names(&root.join("content/blobs/sha256"))?;
    if stored != blobs {
        said.push(format!("blobs: found {stored:?}, expected {blobs:?}"));
    }
    for tag in records(&root.join("tags"))? {
        let image = tag["image"].as_str().unwrap_or_default();
        if !images.contains(&hex_of(image)) {
            said.push(format!("the name {} has no image", tag["reference"]));
        }
    }
    for pair in records(&root.join("pairs"))? {
        let blob = pair["blob"].as_str().unwrap_or_default();
        if !blobs.contains(&hex_of(blob)) {
            said.push(format!("the pair of {blob} belongs to no image"));
        }
    }
    Ok(said)
}

fn hex_of(digest: &str) -> String {
    digest.trim_start_matches("sha256:").to_owned()
}

/// The bodies of all records in a directory; nothing else may be in it.
fn records(dir: &Path) -> Result<Vec<Value>> {
    names(dir)?
        .iter()
        .map(|name| {
            let text = fs::read_to_string(dir.join(name))?;
            let envelope: Value =
                serde_json::from_str(&text).with_context(|| format!("a record: {name}: {text}"))?;
            Ok(envelope["record"].clone())
        })
        .collect()
}

/// Names in a directory; one that is not there is empty.
pub(crate) fn names(dir: &Path) -> Result<BTreeSet<String>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).with_context(|| format!("listing {}", dir.display())),
    }
}

fn mounts_below(dir: &Path) -> Result<BTreeSet<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| Path::new(line.split(' ').nth(4)?).strip_prefix(dir).ok())
        .map(|rest| rest.display().to_string())
        .collect())
}

/// The containers of the shims whose working directory is below `dir`.
pub(crate) fn shims_below(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let program = fs::read_link(entry.path().join("exe")).ok()?;
            let cwd = fs::read_link(entry.path().join("cwd")).ok()?;
            let is_shim = program.file_name()?.to_string_lossy().starts_with("croze-shim");
            let name = cwd.strip_prefix(dir).ok()?.display().to_string();
            is_shim.then_some(name)
        })
        .collect()
}
