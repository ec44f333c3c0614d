//! Embeds the program of the image `croze/hello`: the static binary that the environment's CROZE_HELLO names, or none.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=CROZE_HELLO");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let source = match std::env::var_os("CROZE_HELLO").filter(|path| !path.is_empty()) {
        Some(program) => embed(&PathBuf::from(program), &out)?,
        None => "None".to_owned(),
    };
    // The time that reproducible builds agree on; without it the image says nothing of its age.
    let created: Option<i64> = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) if !text.is_empty() => Some(
            text.parse()
                .map_err(|e| format!("SOURCE_DATE_EPOCH={text}: {e}"))?,
        ),
        _ => None,
    };
    std::fs::write(
        out.join("hello.rs"),
        format!(
            "/// The hello program, if this build carries one.\npub(crate) const HELLO: Option<&[u8]> = {source};\n\
             /// When it was made, seconds since 1970, if this build was told so.\npub(crate) const CREATED: Option<i64> = {created:?};\n"
        ),
    )?;
    Ok(())
}

fn embed(program: &PathBuf, out: &std::path::Path) -> Result<String, Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", program.display());
    std::fs::copy(program, out.join("hello.bin"))
        .map_err(|e| format!("CROZE_HELLO={}: {e}", program.display()))?;
    Ok("Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/hello.bin\")))".to_owned())
}
