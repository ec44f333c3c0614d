//! The conformance table against the runtime under test: every case passes, or is skipped because the host cannot show it.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use croze_conformance::{Host, Verdict, all};

fn chapter(name: &str) -> Result<()> {
    let host = Host::observe();
    let chapter = all(&host)
        .into_iter()
        .find(|chapter| chapter.name == name)
        .with_context(|| format!("there is no chapter {name}"))?;
    let mut failed = Vec::new();
    let mut passed = 0;
    for case in &chapter.cases {
        match case.judge(&host) {
            Verdict::Ok => passed += 1,
            Verdict::Skipped(_) => {}
            Verdict::Failed(reason) => failed.push(format!("{}: {reason}", case.name)),
        }
    }
    ensure!(
        failed.is_empty(),
        "{} failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
    ensure!(passed > 0, "no case was run");
    Ok(())
}

macro_rules! chapters {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() -> Result<()> {
                chapter(stringify!($name))
            }
        )+

        #[test]
        fn every_chapter_is_run() {
            let known = [$(stringify!($name)),+];
            let all: Vec<&str> = all(&Host::observe()).iter().map(|chapter| chapter.name).collect();
            assert_eq!(all, known);
        }
    };
}

chapters! { process mounts namespaces system resources seccomp hooks commands exec update }

#[test]
fn no_two_cases_have_the_same_name() {
    let chapters = all(&Host::observe());
    let mut names: Vec<&str> = chapters
        .iter()
        .flat_map(|chapter| &chapter.cases)
        .map(|case| case.name.as_str())
        .collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
