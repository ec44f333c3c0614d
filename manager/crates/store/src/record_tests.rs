//! The life of record files, with the crashes and the damage they must survive.

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Barrel {
    name: String,
    litres: u32,
}

impl Record for Barrel {
    const KIND: &'static str = "barrel";
    const VERSION: u32 = 2;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn upgrade(from: u32, mut body: serde_json::Value) -> Option<serde_json::Value> {
        if from != 1 {
            return None;
        }
        let gallons = body.get("gallons")?.as_u64()?;
        body["litres"] = (gallons * 4).into();
        Some(body)
    }
}

fn barrel(name: &str, litres: u32) -> Barrel {
    Barrel {
        name: name.into(),
        litres,
    }
}

#[test]
fn save_load_list_remove_in_both_layouts() {
    let dir = tempfile::tempdir().unwrap();
    for records in [
        Records::flat(dir.path().join("f")),
        Records::nested(dir.path().join("n"), "barrel.json"),
    ] {
        assert_eq!(records.load("a").unwrap(), None);
        records.save(&barrel("b/c:1", 2)).unwrap();
        records.save(&barrel("a", 1)).unwrap();
        records.save(&barrel("a", 3)).unwrap();
        assert_eq!(records.load("a").unwrap(), Some(barrel("a", 3)));
        assert_eq!(records.list().unwrap(), [barrel("a", 3), barrel("b/c:1", 2)]);
        assert!(records.remove("a").unwrap());
        assert!(!records.remove("a").unwrap());
        assert_eq!(records.list().unwrap(), [barrel("b/c:1", 2)]);
    }
}

#[test]
fn a_crash_between_the_temporary_file_and_the_rename_keeps_the_old_record() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::flat(dir.path());
    records.save(&barrel("a", 1)).unwrap();
    // What a process that died there leaves behind (pid 1 is not ours).
    let temp = dir.path().join(".tmp-1-0");
    fs::write(&temp, r#"{"kind":"barrel","version":2,"rec"#).unwrap();
    assert_eq!(records.list().unwrap(), [barrel("a", 1)]);
    assert!(!temp.exists(), "list sweeps it");
}

#[test]
fn damaged_files_are_set_aside_and_the_others_are_listed() {
    let whole = r#"{"kind":"barrel","version":2,"record":{"name":"x","litres":1}}"#;
    for damage in [
        "",
        "\0\0\0\0\0\0\0",
        &whole[..whole.len() - 9],
        r#"{"kind":"cask","version":2,"record":{"name":"x","litres":1}}"#,
        r#"{"kind":"barrel","version":2,"record":{"name":"x"}}"#,
        r#"{"kind":"barrel","version":0,"record":{"name":"x","litres":1}}"#,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::flat(dir.path());
        records.save(&barrel("good", 1)).unwrap();
        fs::write(records.path("x"), damage).unwrap();
        assert_eq!(records.list().unwrap(), [barrel("good", 1)], "{damage:?}");
        assert!(!records.path("x").exists(), "{damage:?}");
        let aside: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|n| n.starts_with("x.json.corrupt-"))
            .collect();
        assert_eq!(aside.len(), 1, "{damage:?}");
        // The name is free again.
        records.save(&barrel("x", 5)).unwrap();
        assert_eq!(records.load("x").unwrap(), Some(barrel("x", 5)));
    }
}

#[test]
fn older_versions_are_upgraded_and_newer_ones_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let records: Records<Barrel> = Records::flat(dir.path());
    fs::write(
        records.path("o"),
        r#"{"kind":"barrel","version":1,"record":{"name":"o","gallons":3}}"#,
    )
    .unwrap();
    fs::write(
        records.path("n"),
        r#"{"kind":"barrel","version":3,"record":{"shape":"round"}}"#,
    )
    .unwrap();
    assert_eq!(records.list().unwrap(), [barrel("o", 12)]);
    assert!(matches!(
        records.load("n"),
        Err(StoreError::TooNew {
            found: 3,
            supported: 2,
            ..
        })
    ));
    assert!(records.path("n").exists());
}

#[test]
fn keys_become_distinct_safe_file_names() {
    let long = "r".repeat(300);
    let table = [
        ("web", "web".to_owned()),
        (
            "127.0.0.1:5000/a/b:v1",
            "127.0.0.1%3A5000%2Fa%2Fb%3Av1".to_owned(),
        ),
        ("..", "%2E.".to_owned()),
        (".hidden", "%2Ehidden".to_owned()),
        ("", "%00".to_owned()),
        ("a%b", "a%25b".to_owned()),
    ];
    for (key, name) in table {
        assert_eq!(encode_key(key), name);
    }
    let (one, two) = (encode_key(&long), encode_key(&format!("{long}x")));
    assert!(one.len() <= 180 && two.len() <= 180);
    assert_ne!(one, two);
}

#[test]
fn a_survey_tells_what_cannot_be_read_until_it_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::flat(dir.path());
    records.save(&barrel("good", 1)).unwrap();
    fs::write(records.path("damaged"), "{").unwrap();
    fs::write(
        records.path("newer"),
        r#"{"kind":"barrel","version":3,"record":{}}"#,
    )
    .unwrap();
    // A directory where the file should be.
    fs::create_dir(records.path("unreadable")).unwrap();
    for _ in 0..2 {
        let listing = records.survey().unwrap();
        assert_eq!(listing.records, [barrel("good", 1)]);
        assert_eq!(listing.unreadable.len(), 3, "{:?}", listing.unreadable);
    }
    records.save(&barrel("damaged", 2)).unwrap();
    assert!(records.remove("unreadable").unwrap(), "what was set aside counts");
    assert!(!records.remove("unreadable").unwrap());
    records.save(&barrel("newer", 2)).unwrap();
    assert_eq!(records.survey().unwrap().unreadable, []);
    // With the record goes what was set aside of it.
    assert!(records.remove("damaged").unwrap());
    assert_eq!(records.survey().unwrap().unreadable, []);

    let nested: Records<Barrel> = Records::nested(dir.path().join("n"), "barrel.json");
    nested.save(&barrel("a", 1)).unwrap();
    fs::create_dir(dir.path().join("n/without")).unwrap();
    let listing = nested.survey().unwrap();
    assert_eq!(listing.records, [barrel("a", 1)]);
    assert_eq!(
        listing.unreadable,
        [Unreadable {
            path: dir.path().join("n/without"),
            reason: "it has no record".into()
        }]
    );
}

#[test]
fn damage_again_and_again_is_kept_a_few_times_only() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::flat(dir.path());
    for n in 0..8 {
        records.save(&barrel("x", n)).unwrap();
        fs::write(records.path("x"), "noise").unwrap();
        assert_eq!(records.load("x").unwrap(), None);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), KEPT_ASIDE);
}

#[test]
fn a_copy_of_a_record_under_another_name_is_not_the_entity_twice() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::flat(dir.path());
    records.save(&barrel("a", 1)).unwrap();
    fs::copy(records.path("a"), records.path("b")).unwrap();
    let listing = records.survey().unwrap();
    assert_eq!(listing.records, [barrel("a", 1)]);
    assert_eq!(listing.unreadable[0].path, records.path("b"));
}

#[test]
fn a_directory_in_the_place_of_a_nested_record_is_set_aside_and_removed_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let records: Records<Barrel> = Records::nested(dir.path(), "barrel.json");
    fs::create_dir_all(records.path("a").join("something")).unwrap();
    for _ in 0..2 {
        let listing = records.survey().unwrap();
        assert_eq!(listing.unreadable.len(), 1, "{:?}", listing.unreadable);
        assert_eq!(listing.unreadable[0].path, records.path("a"));
    }
    assert!(records.remove("a").unwrap());
    assert!(!dir.path().join("a").exists());
}
