//! Writes the table of system call numbers, sorted by name, so that a name is one binary search for every
//! architecture at once.
//!
//! The output holds no pointer (names are one string, entries hold places in it): a position-independent
//! program would have to relocate each pointer at every start.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// In the order of the columns: see `Column` in `table.rs`.
type Numbers = [Option<u16>; 5];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let mut table: BTreeMap<&'static str, Numbers> = BTreeMap::new();
    let mut add = |column: usize, name: &'static str, number: i32| {
        // A name may be written as a raw identifier there (`r#break`).
        let name = name.strip_prefix("r#").unwrap_or(name);
        table.entry(name).or_default()[column] = u16::try_from(number).ok();
    };
    syscalls::x86_64::Sysno::iter().for_each(|s| add(0, s.name(), s.id()));
    syscalls::x86::Sysno::iter().for_each(|s| add(1, s.name(), s.id()));
    // There the list of names has two mistakes: the calls with times of 64 bits, which only architectures of 32 bits have, and the name
    // of `newfstatat`.
    for s in syscalls::aarch64::Sysno::iter().filter(|s| !(403..=423).contains(&s.id())) {
        let name = if s.name() == "fstatat" {
            "newfstatat"
        } else {
            s.name()
        };
        add(2, name, s.id());
    }
    syscalls::riscv64::Sysno::iter().for_each(|s| add(4, s.name(), s.id()));
    syscalls::arm::Sysno::iter().for_each(|s| add(3, s.name(), s.id()));

    // The private calls of arm have numbers that do not fit the column: here they only get an entry, table.rs has the numbers.
    for name in ["breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"] {
        table.entry(name).or_default();
    }

    let mut names = String::new();
    let mut entries = String::new();
    for (name, numbers) in &table {
        let numbers: Vec<String> = numbers
            .iter()
            .map(|n| n.map_or("NONE".to_owned(), |n| n.to_string()))
            .collect();
        let (start, length) = (names.len(), name.len());
        names.push_str(name);
        writeln!(
            entries,
            "    Entry {{ start: {start}, length: {length}, numbers: [{}] }},",
            numbers.join(", ")
        )?;
    }
    let source = format!(
        "const NAMES: &str = \"{names}\";\n\nstatic ENTRIES: [Entry; {}] = [\n{entries}];\n",
        table.len()
    );
    let directory = env::var_os("OUT_DIR").ok_or("cargo has not set OUT_DIR")?;
    Ok(fs::write(Path::new(&directory).join("syscalls.rs"), source)?)
}
