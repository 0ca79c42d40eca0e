//! Acceptance 8: every file of the shared `bad` folder is given to `import`. One table says what comes of each:
//! no panic, no abort, and memory within bounds.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::{Told, text, utf8};
use karte_tests::outside::{files, shared_data};
use karte_tests::{Home, bytes, say, synthetic};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Most memory that any input may cost, in bytes.
const MEMORY_MAX: u64 = 256 * 1024 * 1024;
/// Most memory that files may cost which ask for more than they hold, in bytes.
const BOMB_MEMORY_MAX: u64 = 64 * 1024 * 1024;

/// What comes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Becomes {
    /// A document of this kind, byte for byte.
    Document(&'static str),
    /// A document of one of these kinds: the collection leaves open whether it is JSON.
    OneOf(&'static [&'static str]),
    /// Refused, with this in the reason.
    Refused(&'static str),
    /// Refused if it declares entities, else an unread document.
    Xml,
    /// An image byte for byte, or refused as one, or something else whose bytes stay.
    Image,
}
use Becomes::{Document, Image, OneOf, Refused, Xml};

/// The table: class of files, by the beginning of their path, and what comes of each. The first row that fits counts.
/// None of them is FHIR, so with `--format fhir` each is refused by what it is instead.
const TABLE: &[(&str, Becomes)] = &[
    // Nothing there.
    ("json/test_parsing/n_structure_no_data.json", Refused("empty file")),
    // Must not be taken for JSON. Texts where the bytes are text, else other.
    ("json/test_parsing/n_", OneOf(&["document/text", "document/other"])),
    // Must be taken for JSON.
    ("json/test_parsing/y_", Document("document/json")),
    // Either way is right; what matters is that the bytes stay.
    ("json/test_parsing/i_", OneOf(&["document/json", "document/text", "document/other"])),
    ("json/test_transform/", OneOf(&["document/json", "document/text", "document/other"])),
    ("strings/", Document("document/json")),
    // Bombs and external entities are not expanded: whatever declares entities is refused unread.
    ("xml/", Xml),
    ("dicom/", Image),
];

fn row_of(name: &str) -> usize {
    let row = TABLE.iter().position(|(class, _)| name.starts_with(class));
    row.unwrap_or_else(|| unreachable!("{name} stands in the table"))
}

#[test]
fn every_bad_file_becomes_what_the_table_says() {
    let Some(bad) = shared_data("bad") else { return };
    let hana = Home::patient("hana");
    let mut daemon = hana.runs();
    let (mut seen, mut texts) = (BTreeMap::<usize, usize>::new(), BTreeSet::new());
    for path in files(&bad) {
        let name = utf8(path.strip_prefix(&bad).unwrap()).to_owned();
        let row = row_of(&name);
        *seen.entry(row).or_default() += 1;

        let as_fhir = hana.tries(&["import", "--format", "fhir", utf8(&path)]);
        is_refused_in_order(&as_fhir, &["expected FHIR JSON", "empty file"]);

        let told = hana.tries(&["import", utf8(&path)]);
        match TABLE[row].1 {
            Refused(reason) => is_refused_in_order(&told, &[reason]),
            Document(kind) => is_kept(&hana, &told, &path, &[kind], &mut texts),
            OneOf(kinds) => is_kept(&hana, &told, &path, kinds, &mut texts),
            Xml if declares_entities(&path) => is_refused_in_order(&told, &["entit"]),
            Xml => is_kept(&hana, &told, &path, &["document/xml"], &mut texts),
            Image => is_kept_or_refused(&hana, &told, &path),
        }
        assert!(daemon.is_alive(), "the daemon survives {name}: {}", daemon.log());
    }
    for (at, (class, _)) in TABLE.iter().enumerate() {
        assert!(seen.contains_key(&at), "there are files of class {class}");
    }
    let total: usize = seen.values().sum();
    let peak = daemon.peak_memory();
    say!(
        "acceptance 8: {total} bad files, {} distinct documents kept, no panic; peak memory {} MiB",
        texts.len(),
        peak >> 20
    );
    assert!(peak <= BOMB_MEMORY_MAX, "{peak} bytes of memory");
    no_panic_in(&daemon.log());
    daemon.stops(&hana);
}

fn declares_entities(path: &Path) -> bool {
    String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains("<!ENTITY")
}

/// Whatever becomes of it, there is a reason, or a record of the same bytes.
fn is_kept_or_refused(hana: &Home, told: &Told, path: &Path) {
    no_panic_in(&told.error);
    if told.code == Some(1) {
        assert!(told.items.iter().any(|item| item["reason"].is_string()), "it is told why: {told}");
        return;
    }
    assert_eq!(told.code, Some(0), "{told}");
    let original = std::fs::read(path).unwrap();
    let hash = bytes::hash(&original);
    let kept = hana.lists().iter().any(|record| bytes::hash(&hana.opens(&text(record, "id"))) == hash);
    assert!(kept, "{} is kept byte for byte", path.display());
}

/// Exit code 1, a sentence, and nothing of a panic.
fn is_refused_in_order(told: &Told, reasons: &[&str]) {
    assert_eq!(told.code, Some(1), "{told}");
    no_panic_in(&told.error);
    let said: String = told.items.iter().filter_map(|item| item["reason"].as_str()).collect();
    assert!(reasons.iter().any(|reason| said.contains(reason)), "one of {reasons:?} is the reason: {said:?}");
}

/// One record of the right kind, whose bytes are the file's.
fn is_kept(hana: &Home, told: &Told, path: &Path, kinds: &[&str], texts: &mut BTreeSet<String>) {
    assert_eq!(told.code, Some(0), "{told}");
    no_panic_in(&told.error);
    let original = std::fs::read(path).unwrap();
    let hash = bytes::hash(&original);
    let imported = told.imported();
    if !texts.insert(hash) {
        // Two files of the collection hold the same bytes; they are one record.
        assert_eq!((imported.taken, imported.known), (0, 1), "{told}");
        return;
    }
    assert_eq!((imported.taken, imported.refused), (1, 0), "{told}");
    let name = path.file_name().and_then(|name| name.to_str()).unwrap();
    let records = hana.lists();
    let record = records.iter().find(|record| record["title"] == name);
    let record = record.unwrap_or_else(|| unreachable!("{name} is listed under its name"));
    let kind = text(record, "kind");
    assert!(kinds.contains(&kind.as_str()), "{name} became {kind}, expected one of {kinds:?}");
    assert!(hana.opens(&text(record, "id")) == original, "{name} opens as it was");
}

fn no_panic_in(text: &str) {
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
}

/// Ours: what claims to be FHIR and is wrong is refused by name, and large or deep input costs no memory.
#[test]
fn what_claims_to_be_fhir_and_is_not_is_refused_within_bounded_memory() {
    let hana = Home::patient("hana");
    let mut daemon = hana.runs();
    let huge_text = "x".repeat(40 << 20);
    let entries = r#"{"resource":{"resourceType":"Basic"}},"#.repeat(200_000);
    let cases: &[(&str, String, &str)] = &[
        ("cut.json", r#"{"resourceType":"Patient","id":"#.into(), "expected valid JSON"),
        ("twice.json", r#"{"resourceType":"Patient","id":"a","id":"b"}"#.into(), "twice"),
        ("alien.json", r#"{"resourceType":"Spaceship"}"#.into(), "expected a FHIR R4 resource type"),
        ("number.json", r#"{"resourceType":7}"#.into(), "expected \"resourceType\" to be text"),
        ("bundle.json", r#"{"resourceType":"Bundle","type":"pile","entry":[]}"#.into(), "Bundle.type"),
        ("entry.json", r#"{"resourceType":"Bundle","type":"batch","entry":{}}"#.into(), "Bundle.entry"),
        (
            "deep.json",
            format!(r#"{{"resourceType":"Basic","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000)),
            "deep",
        ),
        ("wide.json", format!(r#"{{"resourceType":"Basic","x":"{huge_text}"}}"#), "at most"),
        (
            "many.json",
            format!(r#"{{"resourceType":"Bundle","type":"pile","entry":[{entries}null]}}"#),
            "Bundle.type",
        ),
        (
            "line.ndjson",
            format!("{{\"resourceType\":\"Basic\",\"x\":\"{huge_text}{huge_text}\"}}\n"),
            "at most",
        ),
    ];
    for (name, content, reason) in cases {
        let path = synthetic::write_text(&hana.beside(name), content);
        let told = hana.tries(&["import", utf8(&path)]);
        is_refused_in_order(&told, &[reason]);
        assert!(daemon.is_alive(), "the daemon survives {name}: {}", daemon.log());
    }
    assert_eq!(hana.count(), 0, "nothing of it came in");
    let peak = daemon.peak_memory();
    say!("acceptance 8: {} wrong FHIR files of ours refused; peak memory {} MiB", cases.len(), peak >> 20);
    assert!(peak <= MEMORY_MAX, "{peak} bytes of memory");
    no_panic_in(&daemon.log());
    daemon.stops(&hana);
}

/// Two hundred megabytes of nothing in two hundred kilobytes: refused by name, in little memory.
#[test]
fn a_thousandfold_archive_is_refused_within_bounded_memory() {
    let hana = Home::patient("hana");
    let daemon = hana.runs();
    let path = hana.beside("zeros.gz");
    let made = std::process::Command::new("sh")
        .args(["-c", &format!("head -c 200000000 /dev/zero | gzip -9 > {}", utf8(&path))])
        .status()
        .unwrap();
    assert!(made.success(), "gzip packs it");
    let told = hana.tries(&["import", utf8(&path)]);
    is_refused_in_order(&told, &["times", "ratio", "unpack"]);
    let peak = daemon.peak_memory();
    say!("a 1,000:1 archive is refused; peak memory {} MiB", peak >> 20);
    assert!(peak <= BOMB_MEMORY_MAX, "{peak} bytes of memory");
    daemon.stops(&hana);
}
