//! Manifests, indexes and configs that lie: each is refused by the kind of error that the table says, at once and in little memory, and leaves
//! nothing behind. Layers that lie: `croze-layers`' own corpus.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what fails in a test's helper fails the test"
)]

#[allow(dead_code, reason = "shared with the other suites, which need more of it")]
mod world;

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use croze_model::{Digest, ErrorKind};
use world::{DOCKER_MANIFEST, INDEX, Layer, MANIFEST, Reply, Stored, World, layer};

/// When a pull counts as one that never ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much more memory a pull may take than there was before. The registry is in this process too, and holds the 100 MB that it sends.
const MEMORY: u64 = 160 << 20;
/// More requests than this for one refusal is no refusal.
const MAX_REQUESTS: usize = 40;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What is served is made by the function; what must come of the pull is the rest. No kind: it is harmless, and pulled.
type Case = (&'static str, Box<dyn Fn(&World)>, Option<ErrorKind>);

/// Served as the tag, as an OCI manifest.
fn document(text: impl Into<Vec<u8>>) -> Box<dyn Fn(&World)> {
    let text = text.into();
    Box::new(move |world| {
        world.document("a/b", "1", MANIFEST, &text);
    })
}

fn index(text: impl Into<Vec<u8>>) -> Box<dyn Fn(&World)> {
    let text = text.into();
    Box::new(move |world| {
        world.document("a/b", "1", INDEX, &text);
    })
}

/// A good image whose manifest is changed as a text before it is served.
fn spoilt(change: impl Fn(&str) -> String + 'static) -> Box<dyn Fn(&World)> {
    spoilt_as(MANIFEST, change)
}

fn spoilt_as(served: &'static str, change: impl Fn(&str) -> String + 'static) -> Box<dyn Fn(&World)> {
    Box::new(move |world| {
        let (digest, _) = world.image("a/b", "1", &[good()]);
        let path = format!("/v2/a/b/manifests/{digest}");
        let text = world.content.lock().unwrap()[&path].body.clone();
        let changed = change(std::str::from_utf8(&text).unwrap());
        world.document("a/b", "1", served, changed.as_bytes());
    })
}

fn replaced(from: &'static str, to: impl Into<String>) -> Box<dyn Fn(&World)> {
    let to = to.into();
    spoilt(move |text| {
        assert!(text.contains(from), "{from} is not in {text}");
        text.replacen(from, &to, 1)
    })
}

fn good() -> Layer {
    layer(&[("f", "content")])
}

/// A good image with another config; `DIFF` in it stands for the layer's diff id.
fn config(text: impl Into<String>) -> Box<dyn Fn(&World)> {
    let text = text.into();
    Box::new(move |world| {
        let good = good();
        let text = text.replace("DIFF", &good.diff_id.to_string());
        let config = world.serve_blob("a/b", text.as_bytes());
        let layer = world.serve_blob("a/b", &good.blob);
        let manifest = manifest(&format!(r#"{{"mediaType":"{CONFIG}",{config}}}"#), &[layer]);
        world.document("a/b", "1", MANIFEST, manifest.as_bytes());
    })
}

fn manifest(config: &str, layers: &[String]) -> String {
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| format!(r#"{{"mediaType":"{LAYER}",{layer}}}"#))
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{}]}}"#,
        layers.join(",")
    )
}

/// An image of the same layer, so many times.
fn layers(count: usize) -> Box<dyn Fn(&World)> {
    Box::new(move |world| {
        let good = good();
        let diff_ids = vec![format!("\"{}\"", good.diff_id); count].join(",");
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#
        );
        let config = world.serve_blob("a/b", config.as_bytes());
        let layer = world.serve_blob("a/b", &good.blob);
        let text = manifest(
            &format!(r#"{{"mediaType":"{CONFIG}",{config}}}"#),
            &vec![layer; count],
        );
        world.document("a/b", "1", MANIFEST, text.as_bytes());
    })
}

fn entry(digest: &str, size: usize, media_type: &str) -> String {
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"amd64"}}}}"#
    )
}

fn index_of(entries: &[String]) -> String {
    let entries = entries.join(",");
    format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{entries}]}}"#)
}

/// A reply of so many bytes, announced or in one chunk.
fn huge(megabytes: usize, announced: bool) -> Box<dyn Fn(&World)> {
    Box::new(move |world| {
        let mut body = Vec::new();
        if !announced {
            body.extend_from_slice(format!("{:x}\r\n", megabytes << 20).as_bytes());
        }
        let text = br#"{"schemaVersion":2,"annotations":{"a":""#;
        body.extend_from_slice(text);
        body.resize(body.len() - text.len() + (megabytes << 20), b'x');
        if !announced {
            body.extend_from_slice(b"\r\n0\r\n\r\n");
        }
        let mut reply = Reply::new(200, body).with("Content-Type", MANIFEST);
        if !announced {
            reply = reply.with("Transfer-Encoding", "chunked");
        }
        world.serve("/v2/a/b/manifests/1".to_owned(), reply);
    })
}

/// A figure of /proc/self/status, in bytes.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Judges every case, and fails with all that are wrong.
async fn play(cases: Vec<Case>) {
    let mut wrong = String::new();
    let count = cases.len();
    for (name, serve, expected) in cases {
        let world = World::new().await;
        serve(&world);
        let resets = fs::write("/proc/self/clear_refs", "5").is_ok();
        let resident = memory("VmRSS");
        let Ok(result) = tokio::time::timeout(PATIENCE, world.pull("a/b:1")).await else {
            panic!("{name}: no end after {PATIENCE:?}");
        };
        let grown = memory("VmHWM").saturating_sub(resident);
        if resets && grown > MEMORY {
            writeln!(wrong, "{name}: it took {} MiB", grown >> 20).unwrap();
        }
        let asked = world.server.requests().len();
        if asked > MAX_REQUESTS {
            writeln!(wrong, "{name}: {asked} requests").unwrap();
        }
        match (&result, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(kind)) if error.kind() == kind => {
                if world.stored() != Stored::default() {
                    writeln!(wrong, "{name}: it left {:?}", world.stored()).unwrap();
                }
            }
            (Ok(_), Some(kind)) => writeln!(wrong, "{name}: pulled instead of {kind:?}").unwrap(),
            (Err(error), expected) => {
                let line: String = error.one_line().chars().take(300).collect();
                writeln!(
                    wrong,
                    "{name}: {:?} instead of {expected:?}: {line}",
                    error.kind()
                )
                .unwrap();
            }
        }
        if let Err(error) = &result {
            let line = error.one_line();
            if line.len() > 3000 {
                writeln!(wrong, "{name}: a message of {} bytes", line.len()).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "of {count}:\n{wrong}");
    eprintln!("{count} images");
}

const CORRUPT: Option<ErrorKind> = Some(ErrorKind::Corrupt);
const UNSUPPORTED: Option<ErrorKind> = Some(ErrorKind::Unsupported);

#[tokio::test]
async fn documents_that_are_none() {
    let text = |name, text: &'static str, kind| -> Case { (name, document(text), kind) };
    let nested = |open: &str, depth: usize| open.repeat(depth);
    play(vec![
        text("nothing", "", CORRUPT),
        text("text", "<html>502 Bad Gateway</html>", CORRUPT),
        text("a list", "[1,2,3]", CORRUPT),
        text("a number", "9e999999", CORRUPT),
        text("null", "null", CORRUPT),
        text("an object of nothing", "{}", CORRUPT),
        text("half a document", r#"{"schemaVersion":2,"config":"#, CORRUPT),
        text("a mark of byte order", "\u{feff}{\"schemaVersion\":2}", CORRUPT),
        text("another version", r#"{"schemaVersion":3,"config":{},"layers":[]}"#, CORRUPT),
        text("a version that is no number", r#"{"schemaVersion":"2","config":{},"layers":[]}"#, CORRUPT),
        text("version 1", r#"{"schemaVersion":1,"fsLayers":[]}"#, UNSUPPORTED),
        text(
            "a manifest and an index at once",
            r#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#,
            CORRUPT,
        ),
        text("no config", r#"{"schemaVersion":2,"layers":[]}"#, CORRUPT),
        text("config null", r#"{"schemaVersion":2,"config":null,"layers":[]}"#, CORRUPT),
        ("no layers", spoilt(|text| format!("{}}}", &text[..text.find(",\"layers\"").unwrap()])), CORRUPT),
        ("layers that are no list", replaced("\"layers\":[", "\"layers\":{\"a\":["), CORRUPT),
        ("bytes that are no text", document(b"{\"schemaVersion\":2,\"a\":\"\xff\xfe\"}".to_vec()), CORRUPT),
        ("zero bytes", document(vec![0; 5000]), CORRUPT),
        ("a document behind the document", spoilt(|text| format!("{text}{text}")), CORRUPT),
        ("white space behind the document", spoilt(|text| format!("{text}{}", " ".repeat(1 << 20))), None),
        ("deep nesting", document(nested("[", 1 << 20)), CORRUPT),
        ("deep nesting of objects", document(nested("{\"a\":", 1 << 18)), CORRUPT),
        (
            "deep nesting in a field that nobody reads",
            replaced(
                "\"schemaVersion\"",
                format!("\"a\":{}1{},\"schemaVersion\"", "[".repeat(100_000), "]".repeat(100_000)),
            ),
            None,
        ),
        (
            "deep nesting in the config's descriptor",
            replaced("\"config\":{", format!("\"config\":{}{{", "[".repeat(100_000))),
            CORRUPT,
        ),
        ("a field twice", replaced("\"schemaVersion\":2", "\"schemaVersion\":2,\"schemaVersion\":2"), CORRUPT),
        ("layers twice", replaced("\"layers\":[", "\"layers\":[],\"layers\":["), CORRUPT),
        (
            "config twice",
            replaced("\"config\":{", format!("\"config\":{{\"mediaType\":\"{CONFIG}\",\"digest\":\"{EMPTY}\",\"size\":0}},\"config\":{{")),
            CORRUPT,
        ),
        (
            "a size twice",
            replaced("\"size\":", "\"size\":1,\"size\":"),
            CORRUPT,
        ),
        (
            "a hundred thousand annotations",
            spoilt(|text| {
                let many: Vec<String> = (0..100_000).map(|n| format!("\"{n}\":\"\"")).collect();
                text.replacen('{', &format!("{{\"annotations\":{{{}}},", many.join(",")), 1)
            }),
            None,
        ),
        ("100 MB that are announced", huge(100, true), CORRUPT),
        ("100 MB in one chunk", huge(100, false), CORRUPT),
    ])
    .await;
}

#[tokio::test]
async fn manifests_that_lie() {
    let size = |text: &'static str| replaced("\"size\":", format!("\"size\":{text},\"was\":"));
    let digest = |text: &'static str| replaced("\"digest\":", format!("\"digest\":\"{text}\",\"was\":"));
    let last_size = |change: fn(u64) -> u64| {
        spoilt(move |text| {
            let at = text.rfind("\"size\":").unwrap() + 7;
            let end = at + text[at..].find('}').unwrap();
            let size: u64 = text[at..end].parse().unwrap();
            format!("{}{}{}", &text[..at], change(size), &text[end..])
        })
    };
    let other = |media_type: &'static str| replaced(CONFIG, media_type);
    play(vec![
        ("a negative size", size("-1"), CORRUPT),
        ("a size with a point", size("1.5"), CORRUPT),
        ("a size that is a text", size("\"1\""), CORRUPT),
        ("a size of 10^30", size("1e30"), CORRUPT),
        ("a size of 2^64", size("18446744073709551616"), CORRUPT),
        ("a config of 2^63 bytes", size("9223372036854775807"), CORRUPT),
        ("a config of 100 MB", size("104857600"), CORRUPT),
        ("a config of one byte", size("1"), CORRUPT),
        ("a config of no bytes", size("0"), CORRUPT),
        ("a layer of 2^63 bytes", last_size(|_| i64::MAX as u64), UNSUPPORTED),
        ("a layer of a terabyte", last_size(|_| 1 << 40), UNSUPPORTED),
        ("a layer of a byte more", last_size(|size| size + 1), CORRUPT),
        ("a layer of a byte less", last_size(|size| size - 1), CORRUPT),
        ("a layer of no bytes", last_size(|_| 0), CORRUPT),
        ("a digest of another kind", digest("md5:d41d8cd98f00b204e9800998ecf8427e"), UNSUPPORTED),
        ("a digest that is none", digest("sha256"), CORRUPT),
        ("a digest that is too short", digest("sha256:00"), CORRUPT),
        ("a digest in capitals", digest("sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"), CORRUPT),
        ("a digest that is a path", digest("../../../../etc/passwd"), CORRUPT),
        ("a digest with a path in it", digest("sha256:../../../../../../../../etc/passwd"), CORRUPT),
        ("a digest of a megabyte", spoilt(|text| text.replacen("\"digest\":\"", &format!("\"digest\":\"{}", "a".repeat(1 << 20)), 1)), UNSUPPORTED),
        ("a config that is nowhere", digest(EMPTY), CORRUPT),
        ("1000 layers of one digest", layers(1000), None),
        ("1001 layers", layers(1001), UNSUPPORTED),
        ("10,000 layers", layers(10_000), UNSUPPORTED),
        ("a config of a chart", other("application/vnd.cncf.helm.config.v1+json"), UNSUPPORTED),
        ("a config of nothing", other("application/vnd.oci.empty.v1+json"), UNSUPPORTED),
        ("a config without a type", other(""), UNSUPPORTED),
        ("a config of no type that there is", other("\\u0000\\n;;"), UNSUPPORTED),
        ("a layer that is encrypted", replaced("tar+gzip", "tar+gzip+encrypted"), UNSUPPORTED),
        ("a layer of a type of nonsense", replaced(LAYER, "text/html"), None),
        (
            "a layer that is to be fetched elsewhere",
            replaced("tar+gzip\",", "tar+gzip\",\"urls\":[\"http://169.254.169.254/latest\"],"),
            None,
        ),
        ("a manifest of another type", replaced(MANIFEST, "application/vnd.example+json"), CORRUPT),
        ("an index by its type", replaced(MANIFEST, INDEX), CORRUPT),
        ("a manifest served as docker's", spoilt_as(DOCKER_MANIFEST, str::to_owned), CORRUPT),
        ("a manifest served as an index", spoilt_as(INDEX, str::to_owned), CORRUPT),
        ("a manifest served as text", spoilt_as("text/html", str::to_owned), None),
        (
            "another digest than the registry says",
            Box::new(|world| {
                world.image("a/b", "1", &[good()]);
                let mut content = world.content.lock().unwrap();
                let reply = content.get_mut("/v2/a/b/manifests/1").unwrap();
                reply.headers.push(("Docker-Content-Digest", EMPTY.to_owned()));
            }),
            CORRUPT,
        ),
        (
            "a layer that is the config",
            Box::new(|world| {
                let text = format!(
                    r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{EMPTY}"]}}}}"#
                );
                let blob = world.serve_blob("a/b", text.as_bytes());
                let text = manifest(&format!(r#"{{"mediaType":"{CONFIG}",{blob}}}"#), &[blob]);
                world.document("a/b", "1", MANIFEST, text.as_bytes());
            }),
            CORRUPT,
        ),
    ])
    .await;
}

#[tokio::test]
async fn indexes_that_lead_nowhere() {
    let not_found = Some(ErrorKind::NotFound);
    let chain = |depth: usize| -> Box<dyn Fn(&World)> {
        Box::new(move |world| {
            let (digest, size) = world.image("a/b", "0", &[good()]);
            let mut next = entry(&digest.to_string(), size, MANIFEST);
            for _ in 0..depth {
                let text = index_of(&[next]);
                let (digest, size) = world.document("a/b", "1", INDEX, text.as_bytes());
                next = entry(&digest.to_string(), size, INDEX);
            }
        })
    };
    play(vec![
        ("an index of nothing", index(index_of(&[])), not_found),
        (
            "an index without a list",
            index(format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}"}}"#)),
            CORRUPT,
        ),
        (
            "an index of a number",
            index(r#"{"schemaVersion":2,"manifests":7}"#),
            CORRUPT,
        ),
        (
            "an entry that is nowhere",
            index(index_of(&[entry(EMPTY, 5, MANIFEST)])),
            not_found,
        ),
        (
            "an entry of a wrong digest",
            index(index_of(&[entry("sha256:00", 5, MANIFEST)])),
            CORRUPT,
        ),
        (
            "an entry of another platform",
            index(index_of(&[entry(EMPTY, 5, MANIFEST).replace("amd64", "s390x")])),
            not_found,
        ),
        (
            "10,000 entries of other platforms",
            index(index_of(&vec![
                entry(EMPTY, 5, MANIFEST).replace("amd64", "s390x");
                10_000
            ])),
            not_found,
        ),
        (
            "100,000 entries",
            index(index_of(&vec![entry(EMPTY, 5, MANIFEST); 100_000])),
            CORRUPT,
        ),
        (
            "an index that names itself",
            Box::new(|world| {
                // Its own digest cannot be in it, so the registry says for another one that it is this.
                let text = index_of(&[entry(EMPTY, 0, INDEX)]);
                let text = text.replace("\"size\":0", &format!("\"size\":{}", text.len() + 2));
                world.document("a/b", "1", INDEX, text.as_bytes());
                let reply = Reply::new(200, text.as_bytes()).with("Content-Type", INDEX);
                world.serve(format!("/v2/a/b/manifests/{EMPTY}"), reply);
            }),
            CORRUPT,
        ),
        (
            "two indexes that name each other",
            Box::new(|world| {
                let other = Digest::of(b"other").to_string();
                let first = index_of(&[entry(&other, 400, INDEX)]);
                let (digest, size) = world.document("a/b", "1", INDEX, first.as_bytes());
                let mut second = index_of(&[entry(&digest.to_string(), size, INDEX)]);
                second.push_str(&" ".repeat(400 - second.len()));
                let reply = Reply::new(200, second.as_bytes()).with("Content-Type", INDEX);
                world.serve(format!("/v2/a/b/manifests/{other}"), reply);
            }),
            CORRUPT,
        ),
        ("an index in an index, 100 deep", chain(100), UNSUPPORTED),
        (
            "an entry of a wrong size",
            Box::new(|world| {
                let (digest, size) = world.image("a/b", "0", &[good()]);
                let text = index_of(&[entry(&digest.to_string(), size + 1, MANIFEST)]);
                world.document("a/b", "1", INDEX, text.as_bytes());
            }),
            CORRUPT,
        ),
        (
            "an entry of 2^63 bytes",
            Box::new(|world| {
                let (digest, _) = world.image("a/b", "0", &[good()]);
                let text = index_of(&[entry(&digest.to_string(), i64::MAX as usize, MANIFEST)]);
                world.document("a/b", "1", INDEX, text.as_bytes());
            }),
            CORRUPT,
        ),
    ])
    .await;
}

#[tokio::test]
async fn configs_that_lie() {
    let head = r#""architecture":"amd64","os":"linux""#;
    let with = |rootfs: &str| config(format!(r#"{{{head},"rootfs":{rootfs}}}"#));
    let good = r#"{"type":"layers","diff_ids":["DIFF"]}"#;
    let whole = |more: &str| config(format!(r#"{{{head},"rootfs":{good},{more}}}"#));
    play(vec![
        ("a config of nothing", config(""), CORRUPT),
        ("a config that is a list", config("[]"), CORRUPT),
        ("a config of deep nesting", config("[".repeat(200_000)), CORRUPT),
        ("a config without layers", config(format!("{{{head}}}")), CORRUPT),
        (
            "a config with another kind of layers",
            with(r#"{"type":"tree","diff_ids":["DIFF"]}"#),
            None,
        ),
        ("no diff ids", with(r#"{"type":"layers","diff_ids":[]}"#), CORRUPT),
        (
            "more diff ids than layers",
            with(r#"{"type":"layers","diff_ids":["DIFF","DIFF"]}"#),
            CORRUPT,
        ),
        (
            "a diff id that is none",
            with(r#"{"type":"layers","diff_ids":["../../etc"]}"#),
            CORRUPT,
        ),
        (
            "a diff id of another kind",
            with(r#"{"type":"layers","diff_ids":["sha512:00"]}"#),
            CORRUPT,
        ),
        (
            "a diff id that is a number",
            with(r#"{"type":"layers","diff_ids":[1]}"#),
            CORRUPT,
        ),
        (
            "another diff id",
            with(&format!(r#"{{"type":"layers","diff_ids":["{EMPTY}"]}}"#)),
            CORRUPT,
        ),
        (
            "10,000 diff ids",
            with(&format!(
                r#"{{"type":"layers","diff_ids":[{}]}}"#,
                vec!["\"DIFF\""; 10_000].join(",")
            )),
            CORRUPT,
        ),
        (
            "a platform that is a number",
            config(format!(r#"{{"architecture":5,"os":"linux","rootfs":{good}}}"#)),
            CORRUPT,
        ),
        (
            "another platform",
            config(format!(
                r#"{{"architecture":"s390x","os":"linux","rootfs":{good}}}"#
            )),
            Some(ErrorKind::NotFound),
        ),
        (
            "another system",
            config(format!(
                r#"{{"architecture":"amd64","os":"plan9","rootfs":{good}}}"#
            )),
            Some(ErrorKind::NotFound),
        ),
        (
            "a command that is a number",
            whole(r#""config":{"Cmd":7}"#),
            CORRUPT,
        ),
        (
            "a user of a megabyte",
            whole(&format!(r#""config":{{"User":"{}"}}"#, "u".repeat(1 << 20))),
            None,
        ),
        ("a date that is none", whole(r#""created":"yesterday""#), None),
        (
            "layers twice in the config",
            whole(&format!(r#""rootfs":{good}"#)),
            CORRUPT,
        ),
        (
            "a config of 10 MB",
            whole(&format!(r#""comment":"{}""#, "c".repeat(10 << 20))),
            CORRUPT,
        ),
    ])
    .await;
}
