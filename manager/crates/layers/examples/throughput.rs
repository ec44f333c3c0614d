//! How fast a layer is read: `cargo run --release --example throughput -- LAYER [EMPTY-DIRECTORY]`.
//!
//! Without a directory it inflates and hashes only.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Instant;

use croze_layers::{Limits, Parents, hash, unpack};

#[expect(clippy::print_stdout, reason = "an example prints")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (layer, target) = match arguments.as_slice() {
        [layer] => (layer, None),
        [layer, target] => (layer, Some(target)),
        _ => return Err("usage: throughput LAYER [EMPTY-DIRECTORY]".into()),
    };
    let started = Instant::now();
    let mut compressed = Vec::new();
    File::open(layer)?.read_to_end(&mut compressed)?;
    println!("read {} bytes in {:?}", compressed.len(), started.elapsed());
    let started = Instant::now();
    let digest = croze_model::Digest::of(&compressed);
    println!("{digest} in {:?}", started.elapsed());
    let started = Instant::now();
    let (diff_id, bytes) = match target {
        None => hash(&compressed[..], Limits::default())?,
        Some(target) => {
            let unpacked = unpack(
                &compressed[..],
                Path::new(target),
                Parents::Unknown,
                Limits::default(),
            )?;
            (unpacked.diff_id, unpacked.archive_size)
        }
    };
    println!("{diff_id}: {bytes} bytes uncompressed in {:?}", started.elapsed());
    Ok(())
}
