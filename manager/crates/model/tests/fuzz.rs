//! Random texts at everything that users and registries write: what parses means the same when it is written and read again.

use croze_fuzz::{Campaign, kind_of};
use croze_model::{ContainerName, Digest, Platform, Reference};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The error's words without what is quoted in them: its kind.
fn kind(error: &str) -> u64 {
    kind_of(error.rsplit(": ").next().unwrap_or(error))
}

#[test]
fn fuzz_references() {
    let seeds = [
        "debian",
        "croze/hello:1.0",
        "localhost:5000/a/b__c:v1",
        "[::1]:5000/a",
        "registry.example.org:443/a/b/c-d:latest@",
        "a.b/c",
        "UPPER/lower",
        "docker.io/with.dot/a",
    ];
    let with_digest = format!("a/b:t@{DIGEST}");
    let seeds = seeds
        .into_iter()
        .chain([with_digest.as_str()])
        .map(|text| text.as_bytes().to_vec())
        .collect();
    let words: [&[u8]; 8] = [
        b"docker.io/",
        b"library/",
        b":latest",
        b"@",
        DIGEST.as_bytes(),
        b"__",
        b"..",
        b"--",
    ];
    let outcome = Campaign::new(seeds, &words, 600).attack("references", |input| {
        let text = String::from_utf8_lossy(input);
        match text.parse::<Reference>() {
            Ok(reference) => {
                for written in [reference.to_string(), reference.familiar()] {
                    let again = written.parse::<Reference>();
                    assert_eq!(again.as_ref(), Ok(&reference), "{text:?} became {written:?}");
                }
                // These become parts of URLs and file names.
                let parts = [
                    reference.domain(),
                    reference.path(),
                    reference.tag().unwrap_or("t"),
                ];
                for part in parts {
                    assert!(!part.is_empty() && part.is_ascii(), "{part:?}");
                    assert!(!part.contains(['\0', '\n', ' ', '?', '#', '%', '\\']), "{part:?}");
                }
                assert!(
                    !reference
                        .path()
                        .split('/')
                        .any(|part| matches!(part, "" | "." | ".."))
                );
                assert!(reference.repository().len() <= 255 + 1);
                u64::from(reference.tag().is_some()) + 2 * u64::from(reference.digest().is_some())
            }
            Err(error) => kind(&error.to_string()),
        }
    });
    assert!(outcome.kinds > 5, "{outcome:?}");
}

#[test]
fn fuzz_digests_platforms_and_names() {
    let seeds = [
        DIGEST,
        "linux/amd64",
        "linux/arm/v7",
        "web-1",
        "sha512:00",
        "windows/amd64/10.0",
    ];
    let seeds = seeds.iter().map(|text| text.as_bytes().to_vec()).collect();
    let outcome = Campaign::new(seeds, &[b"sha256:", b"/", b"linux", b"v8"], 200).attack("words", |input| {
        let text = String::from_utf8_lossy(input);
        let mut kind = 0;
        if let Ok(digest) = text.parse::<Digest>() {
            assert_eq!(digest.to_string(), *text);
            kind |= 1;
        }
        if let Ok(platform) = text.parse::<Platform>() {
            assert_eq!(
                platform.to_string().parse::<Platform>().as_ref(),
                Ok(&platform),
                "{text:?}"
            );
            kind |= 2;
        }
        if let Ok(name) = text.parse::<ContainerName>() {
            assert!(!name.to_string().contains(['/', '\0', '\n']), "{text:?}");
            kind |= 4;
        }
        kind
    });
    assert!(outcome.kinds > 2, "{outcome:?}");
}
