//! Documents that break, and indexes that name indexes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use croze_model::ErrorKind;

use super::*;
use crate::test_server::{Reply, Request, Server};

/// Documents by digest and, the last one, by the tag.
#[derive(Default)]
struct Documents {
    served: HashMap<String, (&'static str, String)>,
    last: String,
}

impl Documents {
    fn add(&mut self, media_type: &'static str, text: String) -> String {
        let digest = Digest::of(text.as_bytes());
        let entry = format!(
            r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}"#,
            text.len()
        );
        self.served.insert(digest.to_string(), (media_type, text));
        self.last = digest.to_string();
        entry
    }

    /// A manifest that can be told from others, and its entry in an index without the last brace.
    fn manifest(&mut self, mark: &str) -> String {
        let config = Digest::of(mark.as_bytes());
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":1}},"layers":[]}}"#
        );
        self.add(OCI_MANIFEST, text)
    }

    fn index(&mut self, entries: &[String]) -> String {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
            entries.join(",")
        );
        self.add(OCI_INDEX, text)
    }

    async fn resolve(self, platform: &str) -> Result<Resolved> {
        let Self { served, last } = self;
        let server = Server::start(move |request: &Request| {
            let name = request.path.rsplit('/').next().unwrap_or_default();
            let name = if name == "latest" { last.as_str() } else { name };
            match served.get(name) {
                Some((media_type, text)) => Reply::new(200, text.as_str()).with("Content-Type", *media_type),
                None => Reply::new(404, "{}"),
            }
        })
        .await;
        let reference = format!("{}/a/b", server.address).parse().unwrap();
        Registry::impatient(crate::Hosts::default())
            .resolve(&reference, &platform.parse().unwrap())
            .await
    }
}

fn on(entry: &str, platform: &str) -> String {
    let (os, architecture) = platform.split_once('/').unwrap();
    format!(r#"{entry},"platform":{{"os":"{os}","architecture":"{architecture}"}}}}"#)
}

fn config(resolved: &Resolved) -> String {
    resolved.manifest.config().digest().to_string()
}

#[tokio::test]
async fn indexes_in_indexes_are_searched() {
    // Two indexes that do not say what they hold, and what is looked for in the second.
    let mut documents = Documents::default();
    let arm = on(&documents.manifest("arm"), "linux/arm64");
    let first = documents.index(&[arm]) + "}";
    let amd = on(&documents.manifest("amd"), "linux/amd64");
    let attestation = on(&documents.manifest("attestation"), "unknown/unknown");
    let second = documents.index(&[attestation, amd]) + "}";
    documents.index(&[first, second]);
    let outer = documents.last.clone();
    let resolved = documents.resolve("linux/amd64").await.unwrap();
    assert_eq!(config(&resolved), Digest::of(b"amd").to_string());
    assert_eq!(resolved.digest.to_string(), outer, "what the name stands for");

    // One that says what it holds.
    let mut documents = Documents::default();
    let amd = on(&documents.manifest("amd"), "linux/amd64");
    let inner = on(&documents.index(&[amd]), "linux/amd64");
    let arm = on(&documents.manifest("arm"), "linux/arm64");
    documents.index(&[arm, inner]);
    let resolved = documents.resolve("linux/amd64").await.unwrap();
    assert_eq!(config(&resolved), Digest::of(b"amd").to_string());

    // What all of them have is told if none of it fits.
    let mut documents = Documents::default();
    let arm = on(&documents.manifest("arm"), "linux/arm64");
    let inner = documents.index(&[arm]) + "}";
    let riscv = on(&documents.manifest("riscv"), "linux/riscv64");
    documents.index(&[riscv, inner]);
    let error = documents.resolve("linux/s390x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.what().contains("it has linux/riscv64, linux/arm64"),
        "{}",
        error.what()
    );
}

#[tokio::test]
async fn an_index_that_is_not_there_hides_no_other() {
    let absent = |documents: &mut Documents| {
        let other = on(&documents.manifest("absent"), "linux/amd64");
        let entry = documents.index(&[other]) + "}";
        documents.served.remove(&documents.last);
        entry
    };
    let mut documents = Documents::default();
    let missing = absent(&mut documents);
    let amd = on(&documents.manifest("amd"), "linux/amd64");
    let inner = documents.index(&[amd]) + "}";
    documents.index(&[missing, inner]);
    let resolved = documents.resolve("linux/amd64").await.unwrap();
    assert_eq!(config(&resolved), Digest::of(b"amd").to_string());

    // It may have had what the others do not have.
    let mut documents = Documents::default();
    let missing = absent(&mut documents);
    let arm = on(&documents.manifest("arm"), "linux/arm64");
    let inner = documents.index(&[arm]) + "}";
    documents.index(&[missing, inner]);
    let error = documents.resolve("linux/amd64").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.what().contains("with digest"), "{}", error.what());
}

#[tokio::test]
async fn indexes_without_end_are_given_up() {
    let mut documents = Documents::default();
    let mut entry = on(&documents.manifest("deep"), "linux/amd64");
    for _ in 0..100 {
        entry = documents.index(&[entry]) + "}";
    }
    let error = documents.resolve("linux/amd64").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.what().contains("more than 16 indexes"), "{}", error.what());

    // As many beside each other are no better.
    let mut documents = Documents::default();
    let arm = on(&documents.manifest("arm"), "linux/arm64");
    let entries: Vec<String> = (0..100)
        .map(|n| {
            let other = on(&documents.manifest(&n.to_string()), "linux/arm64");
            documents.index(&[arm.clone(), other]) + "}"
        })
        .collect();
    documents.index(&entries);
    let error = documents.resolve("linux/amd64").await.unwrap_err();
    assert!(error.what().contains("more than 16 indexes"), "{}", error.what());
}

#[tokio::test]
async fn a_document_that_breaks_off_is_asked_for_again() {
    for (breaks, whole) in [(2, true), (100, false)] {
        let asked = AtomicUsize::new(0);
        let server = Server::start(move |_| {
            let mut documents = Documents::default();
            documents.manifest("m");
            let (media_type, text) = documents.served.remove(&documents.last).unwrap();
            let cut = (asked.fetch_add(1, Ordering::Relaxed) < breaks).then_some(40);
            Reply {
                cut,
                ..Reply::new(200, text).with("Content-Type", media_type)
            }
        })
        .await;
        let reference = format!("{}/a/b", server.address).parse().unwrap();
        let registry = Registry::impatient(crate::Hosts::default());
        let resolved = registry.resolve(&reference, &Platform::host()).await;
        assert_eq!(resolved.is_ok(), whole, "{resolved:?}");
        if let Err(error) = resolved {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert_eq!(server.requests().len(), 4);
        }
    }
}
