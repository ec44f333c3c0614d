//! Pulls an image into a root of its own and says what came: `cargo run --example pull -- ROOT REFERENCE [PLATFORM]`.

use std::path::Path;

use croze_images::{Images, Progress, PullOptions};
use croze_registry::Registry;
use croze_snapshots::Snapshots;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example prints")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, reference, platform @ ..] = arguments.as_slice() else {
        return Err("usage: pull ROOT REFERENCE [PLATFORM]".into());
    };
    std::fs::create_dir_all(root)?;
    let snapshots = Snapshots::open(Path::new(root))?;
    let images = Images::open(Path::new(root), snapshots.clone(), Registry::default())?;
    let mut options = PullOptions::default();
    if let [platform] = platform {
        options.platform = Some(platform.parse()?);
    }
    let started = std::time::Instant::now();
    let pulled = match images
        .pull(&reference.parse()?, &options, &Progress::ignored())
        .await
    {
        Ok(pulled) => pulled,
        Err(error) => {
            let kind = error.kind();
            println!("{kind} in {}: {}", error.stage(), error.one_line());
            println!("hint: {}", error.advice().unwrap_or("none"));
            return Err(kind.to_string().into());
        }
    };
    println!("{pulled:#?}\n{:?}", started.elapsed());
    for image in images.list().await? {
        println!(
            "{} {:?} {:?} {} bytes",
            image.id.short(),
            image.references,
            image.repo_digests,
            image.size
        );
    }
    for tree in snapshots.trees(&images.resolve(reference).await?.diff_ids())? {
        println!("layer {}", tree.display());
    }
    Ok(())
}
