//! Compiles the `.proto` files below `proto/` with protox: nothing but cargo is needed to build them.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message as _;

const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    if std::env::var_os("CARGO_FEATURE_API").is_some() {
        compile_api()?;
    }
    if std::env::var_os("CARGO_FEATURE_SHIM").is_some() {
        compile_shim()?;
    }
    Ok(())
}

/// `croze.v1`: messages, gRPC client and server, and the descriptors that server reflection answers with.
fn compile_api() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(proto_files(&Path::new(ROOT).join("croze/v1"))?, [ROOT])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("croze.v1.fds"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        // Written by hand: they hold secrets.
        .skip_debug(["croze.v1.RegistryCredentials", "croze.v1.LoginResponse"])
        .compile_fds(descriptors)?;
    Ok(())
}

/// `croze.shim.v1`: messages alone; the shim frames them itself.
fn compile_shim() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(proto_files(&Path::new(ROOT).join("shim/v1"))?, [ROOT])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}

/// The `.proto` files of one directory, in a stable order.
fn proto_files(dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
