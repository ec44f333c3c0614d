//! The large image: eight layers, about 850 MB in 25,000 files, made the same way every time and kept.
//!
//! ```text
//! $CROZE_TEST_CACHE, else /var/cache/croze-tests/
//!   large-1/      an OCI layout with the tag `large`; gzip layers
//! ```

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::content::{Kind, Random, fill};

/// The layout's format: to be raised when what is in it changes.
const LAYOUT: &str = "large-1";
/// The image's tag in the layout.
pub(crate) const TAG: &str = "large";
/// As other engines' builders compress.
const LEVEL: u32 = 6;

/// One layer: what a part of an image is like.
struct Part {
    /// Where it lies in the image.
    directory: &'static str,
    /// How many files.
    files: u64,
    /// The median of their sizes.
    median: f64,
    /// Large files on top: how many, and the size of each.
    large: (u64, usize),
    /// Of ten files, how many are programs, and how many are packed already; the rest is text.
    programs: u64,
    packed: u64,
}

const MB: usize = 1_000_000;

/// A distribution's base, a language with its libraries, what an application adds.
const PARTS: [Part; 8] = [
    part("usr", 4980, 4000.0, (6, 4 * MB), 4, 1),
    part("usr/lib/tools", 1500, 9000.0, (12, 7 * MB), 8, 0),
    part("usr/lib/language", 6500, 3500.0, (4, 20 * MB), 3, 0),
    part("usr/lib/packages", 8500, 2500.0, (3, 12 * MB), 1, 0),
    part("usr/share/data", 1200, 14_000.0, (2, 45 * MB), 2, 3),
    part("opt/engine", 300, 30_000.0, (3, 36 * MB), 9, 0),
    part("srv/app", 1888, 5000.0, (2, 9 * MB), 1, 2),
    part("etc/app", 100, 800.0, (0, 0), 0, 0),
];

const fn part(
    directory: &'static str,
    files: u64,
    median: f64,
    large: (u64, usize),
    programs: u64,
    packed: u64,
) -> Part {
    Part {
        directory,
        files,
        median,
        large,
        programs,
        packed,
    }
}

/// The layout's directory; it is made first if it is not there, which takes a minute or two.
pub(crate) fn prepare() -> Result<PathBuf> {
    let cache = std::env::var_os("CROZE_TEST_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/croze-tests"), PathBuf::from);
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let lock = File::create(cache.join(format!("{LAYOUT}.lock")))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let layout = cache.join(LAYOUT);
    if !layout.is_dir() {
        let fresh = cache.join(format!("{LAYOUT}.new"));
        if fresh.is_dir() {
            fs::remove_dir_all(&fresh)?;
        }
        make(&fresh)?;
        fs::rename(&fresh, &layout)?;
    }
    Ok(layout)
}

/// What the image is, in numbers.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    pub(crate) layers: usize,
    pub(crate) files: u64,
    pub(crate) unpacked: u64,
    pub(crate) compressed: u64,
}

/// Reads what [`prepare`] noted of the image.
pub(crate) fn describe(layout: &Path) -> Result<Description> {
    let facts: Value = serde_json::from_slice(&fs::read(layout.join("facts.json"))?)?;
    let number = |name: &str| {
        facts[name]
            .as_u64()
            .with_context(|| format!("facts.json: {name}"))
    };
    Ok(Description {
        layers: usize::try_from(number("layers")?)?,
        files: number("files")?,
        unpacked: number("unpacked")?,
        compressed: number("compressed")?,
    })
}

fn make(layout: &Path) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let layers = std::thread::scope(|scope| {
        // Two at a time: memory and processors are other people's too.
        let half = |odd: usize| {
            let blobs = &blobs;
            scope.spawn(move || {
                (odd..PARTS.len())
                    .step_by(2)
                    .map(|n| make_layer(blobs, n))
                    .collect::<Result<Vec<_>>>()
            })
        };
        let (even, odd) = (half(0), half(1));
        let even = even.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        let odd = odd.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        anyhow::Ok(
            even.into_iter()
                .zip(odd)
                .flat_map(|(a, b)| [a, b])
                .collect::<Vec<_>>(),
        )
    })?;
    let put = |bytes: &[u8]| -> Result<Value> {
        let name = hex::encode(Sha256::digest(bytes));
        fs::write(blobs.join(&name), bytes)?;
        Ok(json!({ "digest": format!("sha256:{name}"), "size": bytes.len() }))
    };
    let mut config = put(&serde_json::to_vec(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Cmd": ["/bin/sh"] },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>() },
    }))?)?;
    config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    let mut manifest = put(&serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers.iter().map(|layer| json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layer.blob,
            "size": layer.compressed,
        })).collect::<Vec<_>>(),
    }))?)?;
    manifest["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": TAG });
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    let sum = |value: fn(&Layer) -> u64| layers.iter().map(value).sum::<u64>();
    let facts = json!({
        "layers": layers.len(),
        "files": sum(|layer| layer.files),
        "unpacked": sum(|layer| layer.unpacked),
        "compressed": sum(|layer| layer.compressed),
    });
    Ok(fs::write(layout.join("facts.json"), serde_json::to_vec(&facts)?)?)
}

/// OCI's name of this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

struct Layer {
    diff_id: String,
    blob: String,
    files: u64,
    unpacked: u64,
    compressed: u64,
}

/// Streams one layer: tar, hash, gzip, hash, file. Nothing is kept in memory but one file's content.
fn make_layer(blobs: &Path, n: usize) -> Result<Layer> {
    let part = &PARTS[n];
    let mut random = Random::new(n as u64 + 1);
    let temporary = blobs.join(format!("layer-{n}"));
    let file = Hashing::new(BufWriter::new(File::create(&temporary)?));
    let gzip = Hashing::new(GzEncoder::new(file, Compression::new(LEVEL)));
    let mut tar = tar::Builder::new(gzip);
    let mut unpacked = 0;
    let mut content = Vec::new();
    add_directories(&mut tar, part.directory)?;
    for number in 0..part.files + part.large.0 {
        let size = if number < part.files {
            usize::try_from(random.size(part.median).min(3_000_000))?
        } else {
            part.large.1
        };
        let kind = match random.below(10) {
            pick if pick < part.programs => Kind::Program,
            pick if pick < part.programs + part.packed => Kind::Packed,
            _ if number >= part.files => Kind::Program,
            _ => Kind::Text,
        };
        let directory = format!("{}/d{:03}", part.directory, number / 20);
        if number.is_multiple_of(20) {
            append(
                &mut tar,
                &format!("{directory}/"),
                tar::EntryType::Directory,
                0o755,
                &[],
            )?;
        }
        fill(&mut content, &mut random, kind, size);
        let mode = if kind == Kind::Program { 0o755 } else { 0o644 };
        append(
            &mut tar,
            &format!("{directory}/f{number:05}"),
            tar::EntryType::Regular,
            mode,
            &content,
        )?;
        unpacked += content.len() as u64;
    }
    let (gzip, diff_id) = tar.into_inner()?.finish();
    let (mut file, blob) = gzip.finish()?.finish();
    file.flush()?;
    fs::rename(&temporary, blobs.join(&blob))?;
    Ok(Layer {
        diff_id: format!("sha256:{diff_id}"),
        compressed: fs::metadata(blobs.join(&blob))?.len(),
        blob: format!("sha256:{blob}"),
        files: part.files + part.large.0,
        unpacked,
    })
}

/// The directory and those above it: a layer says what each of them is like.
fn add_directories(tar: &mut tar::Builder<impl Write>, path: &str) -> Result<()> {
    for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
        append(
            tar,
            &format!("{}/", &path[..at]),
            tar::EntryType::Directory,
            0o755,
            &[],
        )?;
    }
    Ok(())
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(content.len() as u64);
    Ok(tar.append_data(&mut header, path, content.take(content.len() as u64))?)
}

/// A writer that hashes what goes through it.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }

    fn finish(self) -> (W, String) {
        (self.inner, hex::encode(self.hash.finalize()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
