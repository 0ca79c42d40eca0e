//! Archives as their reader's caller meets them: what people pack, and what they should not have to fear.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::import::{Body, Event, Format, Limits, Options, Totals, import};

const PATIENT: &str = r#"{"resourceType":"Patient"}"#;

/// What an import of one file said.
#[derive(Default)]
struct Heard {
    /// Origin behind the file's own, kind, and body.
    found: Vec<(String, String, Vec<u8>)>,
    refused: Vec<(String, String)>,
    totals: Totals,
}

impl Heard {
    fn kinds(&self) -> Vec<(&str, &str)> {
        self.found.iter().map(|(origin, kind, _)| (origin.as_str(), kind.as_str())).collect()
    }

    fn reasons(&self) -> Vec<(&str, &str)> {
        self.refused.iter().map(|(origin, reason)| (origin.as_str(), reason.as_str())).collect()
    }
}

fn read(name: &str, content: &[u8]) -> Heard {
    read_with(name, content, Options::default())
}

fn read_with(name: &str, content: &[u8], options: Options) -> Heard {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let short =
        |origin: String| origin.strip_prefix(&format!("{}/", folder.path().display())).unwrap().to_owned();
    let mut heard = Heard::default();
    let (mut done, mut total) = (0, 0);
    let totals = import(&[PathBuf::from(&path)], &options, &mut |event| {
        match event {
            Event::Found(finding) => {
                let bytes = match finding.bytes {
                    Body::Memory(bytes) => bytes,
                    Body::File(path, _) => fs::read(path).unwrap(),
                };
                heard.found.push((short(finding.origin), finding.facts.kind, bytes));
            }
            Event::Refused { origin, reason } => heard.refused.push((short(origin), reason.to_string())),
            Event::Progress { bytes_done, bytes_total } => {
                assert!(done <= bytes_done && bytes_done <= bytes_total, "progress only grows");
                (done, total) = (bytes_done, bytes_total);
            }
        }
        ControlFlow::Continue(())
    });
    assert_eq!(done, total, "an import that ends has read everything");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is unpacked onto the disk");
    heard.totals = totals.unwrap();
    heard
}

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored)
}

fn deflated() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)
}

fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in entries {
        zip.start_file(*name, deflated()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn tarred(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzipped(content: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

fn bzipped(content: &[u8]) -> Vec<u8> {
    let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    bzip.write_all(content).unwrap();
    bzip.finish().unwrap()
}

/// Every packing says the same of the same content, under the same names.
#[test]
fn what_is_packed_is_read_like_what_is_not() {
    let lines = format!("{PATIENT}\n{PATIENT}\n");
    let long = format!("{}/note.txt", "folder/".repeat(30));
    let entries: &[(&str, &[u8])] = &[
        ("a/p.json", PATIENT.as_bytes()),
        ("a/many.ndjson", lines.as_bytes()),
        (&long, b"slept well"),
        ("scan.pdf", b"%PDF-1.4"),
    ];
    let tar = tarred(entries);
    for (name, content) in [
        ("x.zip", zipped(entries)),
        ("x.tar", tar.clone()),
        ("x.tar.gz", gzipped(&tar)),
        ("x.tar.bz2", bzipped(&tar)),
    ] {
        let heard = read(name, &content);
        let at = |entry: &str| format!("{name}/{entry}");
        let expected = [
            (at("a/p.json"), "fhir/Patient"),
            (at("a/many.ndjson line 1"), "fhir/Patient"),
            (at("a/many.ndjson line 2"), "fhir/Patient"),
            (at(&long), "document/text"),
            (at("scan.pdf"), "document/pdf"),
        ];
        let got: Vec<_> =
            heard.found.iter().map(|(origin, kind, _)| (origin.clone(), kind.as_str())).collect();
        assert_eq!((got, heard.reasons()), (expected.to_vec(), vec![]), "{name}");
        assert_eq!(heard.found[3].2, b"slept well");
        assert_eq!(heard.totals.files, 4);
        let whole = read_with(name, &content, Options { format: Format::Document, ..Options::default() });
        assert_eq!(
            (whole.found.len(), whole.found[0].2 == content),
            (1, true),
            "{name} as a document is kept whole"
        );
    }
    let one = read("p.json.gz", &gzipped(PATIENT.as_bytes()));
    assert_eq!(one.kinds(), [("p.json.gz/p.json", "fhir/Patient")]);
    let one = read("many.ndjson.bz2", &bzipped(lines.as_bytes()));
    assert_eq!(one.found.len(), 2);
}

/// A deflated entry of zeros: about 1,000 to 1.
fn zeros(mebibytes: usize) -> Vec<u8> {
    vec![0; mebibytes << 20]
}

const RATIO: &str =
    "expected an archive that unpacks to at most 200 times its size, got more; unpack it if you trust it";

#[test]
fn a_bomb_ends_in_a_named_error_and_what_stood_before_it_is_kept() {
    let entries: &[(&str, &[u8])] =
        &[("p.json", PATIENT.as_bytes()), ("zeros", &zeros(12)), ("late.txt", b"x")];
    let tar = tarred(entries);
    for (name, content) in
        [("b.zip", zipped(entries)), ("b.tar.gz", gzipped(&tar)), ("b.tar.bz2", bzipped(&tar))]
    {
        let heard = read(name, &content);
        let entry = format!("{name}/zeros");
        assert_eq!(heard.found.len(), 1, "{name} keeps what stood before");
        assert_eq!(heard.reasons(), [(entry.as_str(), RATIO), (name, RATIO)]);
    }
    let one = read("zeros.gz", &gzipped(&zeros(12)));
    assert_eq!((one.found.len(), one.reasons()), (0, vec![("zeros.gz/zeros", RATIO)]));
    let blank = format!("\"resourceType\"\n{}", format!("{}\n", " ".repeat(1 << 20)).repeat(12));
    let lines = read("z.ndjson.gz", &gzipped(blank.as_bytes()));
    let last = lines.reasons().last().copied();
    assert_eq!(last, Some(("z.ndjson.gz/z.ndjson line 9", RATIO)), "a stream is bounded too");
}

#[test]
fn a_phones_export_is_read_from_its_zip() {
    let steps = "<Record type=\"HKQuantityTypeIdentifierStepCount\" sourceName=\"W\" unit=\"count\" startDate=\"2024-06-10 08:00:00 +0900\" endDate=\"2024-06-10 08:10:00 +0900\" value=\"31\"/>";
    let export = format!(
        "<!DOCTYPE HealthData [\n<!ELEMENT HealthData (Record)*>\n]>\n<HealthData locale=\"ja_JP\">{}</HealthData>",
        steps.repeat(50)
    );
    let cda = "<?xml version=\"1.0\"?>\n<ClinicalDocument xmlns=\"urn:hl7-org:v3\"/>";
    let entries: &[(&str, &[u8])] = &[
        ("apple_health_export/エクスポート.xml", export.as_bytes()),
        ("apple_health_export/export_cda.xml", cda.as_bytes()),
        ("apple_health_export/workout-routes/r.gpx", b"<?xml version=\"1.0\"?><gpx version=\"1.1\"/>"),
        ("apple_health_export/clinical-records/Patient-1.json", PATIENT.as_bytes()),
    ];
    let content = zipped(entries);
    let heard = read("export.zip", &content);
    let kinds: Vec<_> = heard.found.iter().map(|(_, kind, _)| kind.as_str()).collect();
    assert_eq!(
        (kinds, heard.reasons()),
        (vec!["daily/steps", "document/xml", "document/gpx", "fhir/Patient"], vec![])
    );
    assert_eq!(heard.found[0].0, "export.zip/apple_health_export/エクスポート.xml StepCount 2024-06-10");
    assert!(String::from_utf8(heard.found[0].2.clone()).unwrap().contains(steps), "exact bytes");
    assert_eq!(heard.found, read("export.zip", &content).found, "read again, it says the same");

    let mut damaged = zipped(entries);
    let at = central(&damaged, 0) + 16;
    damaged[at] ^= 1;
    let heard = read("export.zip", &damaged);
    let checksum = "expected a readable file, got: Invalid checksum";
    assert_eq!(heard.found.len(), 4, "what a checksum proves wrong only at its end was read by then");
    assert_eq!(heard.reasons(), [("export.zip/apple_health_export/エクスポート.xml", checksum)]);
}

#[test]
fn an_archive_without_entries_is_said_to_be_empty() {
    let empty = "expected an archive with entries, got an empty one";
    assert_eq!(read("e.zip", &zipped(&[])).reasons(), [("e.zip", empty)]);
    assert_eq!(
        read("e.gz", &gzipped(b"")).reasons(),
        [("e.gz/e", "expected at least one byte, got an empty file")]
    );
}

#[test]
fn counts_and_sizes_are_bounded() {
    let few = Options {
        limits: Limits { files_max: 2, entry_bytes_max: 3, ..Limits::default() },
        ..Options::default()
    };
    let three: &[(&str, &[u8])] = &[("a", b"a"), ("b", b"b"), ("c", b"c")];
    let many = "expected at most 2 entries in an archive, got more; unpack it and import its folders";
    let zip = read_with("m.zip", &zipped(three), few.clone());
    assert_eq!(
        (zip.found.len(), zip.reasons()),
        (0, vec![("m.zip", many)]),
        "a directory says how many it lists"
    );
    let tar = read_with("m.tar", &tarred(three), few.clone());
    assert_eq!((tar.found.len(), tar.reasons()), (2, vec![("m.tar", many)]));

    let large = "expected an entry of at most 3 bytes, got a larger one; unpack it and import the file";
    let zip = read_with("l.zip", &zipped(&[("l", b"1234"), ("s", b"123")]), few);
    assert_eq!((zip.kinds(), zip.reasons()), (vec![("l.zip/s", "document/text")], vec![("l.zip/l", large)]));
}

#[test]
fn names_are_data_and_links_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let absolute = format!("{}/x", outside.path().display());
    let evil: &[(&str, &[u8])] =
        &[("../../../up.txt", b"up"), (&absolute, b"abs"), ("dir\\w.txt", b"w"), ("dup", b"1")];
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in evil {
        zip.start_file(*name, stored()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.add_symlink("link", "/etc/passwd", stored()).unwrap();
    zip.add_directory("folder/", stored()).unwrap();
    zip.start_file("__MACOSX/._p.json", stored()).unwrap();
    zip.start_file("a/.DS_Store", stored()).unwrap();
    let heard = read("e.zip", &zip.finish().unwrap().into_inner());
    let names: Vec<_> = heard.found.iter().map(|(origin, ..)| origin.clone()).collect();
    let expected = [
        "e.zip/../../../up.txt".to_owned(),
        format!("e.zip/{absolute}"),
        "e.zip/dir\\w.txt".into(),
        "e.zip/dup".into(),
    ];
    assert_eq!((names, heard.reasons()), (expected.to_vec(), vec![]));
    assert_eq!((heard.totals.links_skipped, heard.totals.junk_skipped, heard.totals.files), (1, 2, 4));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "no name is a path");

    let mut tar = tar::Builder::new(Vec::new());
    for kind in [
        tar::EntryType::Symlink,
        tar::EntryType::Link,
        tar::EntryType::Char,
        tar::EntryType::Fifo,
        tar::EntryType::Directory,
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_link_name("/etc/passwd").unwrap();
        tar.append_data(&mut header, "special", std::io::empty()).unwrap();
    }
    let plain = tarred(&[("twice", b"1"), ("twice", b"2"), ("._twice", b"junk")]);
    let heard = read("e.tar", &[&tar.into_inner().unwrap()[..5 * 512], &plain[..]].concat());
    assert_eq!((heard.totals.links_skipped, heard.totals.junk_skipped), (4, 1));
    let bodies: Vec<_> = heard.found.iter().map(|(_, _, body)| body.clone()).collect();
    assert_eq!(bodies, [b"1", b"2"], "of two with one name, both are read");
}

#[test]
fn what_is_only_packed_as_a_zip_stays_one_document() {
    let letter = zipped(&[("_rels/.rels", b"x"), ("[Content_Types].xml", b"<Types/>")]);
    let heard = read("letter.docx", &letter);
    assert_eq!(heard.kinds(), [("letter.docx", "document/zip")]);
    assert_eq!(heard.found[0].2, letter);
    let inner = zipped(&[("p.json", PATIENT.as_bytes())]);
    let heard = read("outer.zip", &zipped(&[("inner.zip", &inner), ("t.tar.gz", &gzipped(b"x"))]));
    assert_eq!(
        heard.kinds(),
        [("outer.zip/inner.zip", "document/zip"), ("outer.zip/t.tar.gz", "document/gzip")]
    );
    assert_eq!(heard.found[0].2, inner, "an archive in an archive is kept unread");
}

/// Where the `n`th central header of `zip` stands.
fn central(zip: &[u8], n: usize) -> usize {
    let mut at = zip.windows(4).enumerate().filter(|(_, four)| four == b"PK\x01\x02").map(|(at, _)| at);
    at.nth(n).unwrap()
}

#[test]
fn a_zip_that_lies_or_is_damaged_is_refused_by_name() {
    let entries: &[(&str, &[u8])] = &[("a.txt", b"first entry"), ("b.txt", b"second entry, longer")];
    let good = {
        let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, content) in entries {
            zip.start_file(*name, stored()).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap().into_inner()
    };
    let (first, second) = (central(&good, 0), central(&good, 1));
    let patched = |patches: &[(usize, u8)]| {
        let mut zip = good.clone();
        patches.iter().for_each(|(at, byte)| zip[*at] = *byte);
        read("x.zip", &zip)
    };
    let encrypted = patched(&[(6, 1), (first + 8, 1)]);
    let locked = "expected an entry without a password, got an encrypted one; unpack it and import the file";
    assert_eq!((encrypted.found.len(), encrypted.reasons()), (1, vec![("x.zip/a.txt", locked)]));
    let method = patched(&[(8, 12), (first + 10, 12)]);
    assert!(
        method.reasons()[0].1.starts_with("expected an entry stored or deflated, got "),
        "{:?}",
        method.refused
    );
    assert_eq!(method.found.len(), 1);
    let flipped = patched(&[(30 + 5, b'F')]);
    let checksum = "expected a readable file, got: Invalid checksum";
    assert_eq!((flipped.found.len(), flipped.reasons()), (1, vec![("x.zip/a.txt", checksum)]));
    let shorter = patched(&[(first + 24, 3)]);
    assert_eq!((shorter.found.len(), shorter.refused.len()), (1, 1), "{:?}", shorter.refused);
    let overlapping = patched(&[(second + 42, 0)]);
    let overlap = "expected each byte of an archive to belong to one entry, got entries that overlap";
    assert_eq!((overlapping.found.len(), overlapping.reasons()), (0, vec![("x.zip", overlap)]));

    for cut in [good.len() - 1, second, 20] {
        let heard = read("cut.zip", &good[..cut]);
        assert_eq!((heard.found.len(), heard.refused.len()), (0, 1), "{cut}: {:?}", heard.refused);
        assert!(heard.refused[0].1.starts_with("expected a whole archive, got: "), "{}", heard.refused[0].1);
    }
    let behind = read("behind.zip", &[&good[..], b"and more"].concat());
    assert_eq!((behind.found.len(), behind.refused.len()), (2, 0), "what stands behind a zip is not of it");
    let before = read("before.zip", &[b"MZ\0", &good[..]].concat());
    assert_eq!(
        before.kinds(),
        [("before.zip", "document/other")],
        "a program that unpacks itself is a document"
    );
    let bad_directory = patched(&[(second, b'X')]);
    assert_eq!(
        (bad_directory.found.len(), bad_directory.refused.len()),
        (1, 1),
        "{:?}",
        bad_directory.refused
    );
}

#[test]
fn a_tar_that_is_cut_or_hostile_is_refused_by_name() {
    let tar = tarred(&[("a.txt", b"first"), ("b.txt", &[b'x'; 2000])]);
    let cut = read("cut.tar", &tar[..2500]);
    let short = "expected an entry of 2000 bytes, got 964; the archive is cut short";
    assert_eq!((cut.found.len(), cut.reasons()[0]), (1, ("cut.tar/b.txt", short)));
    let packed = gzipped(&tarred(&[("a.txt", b"first"), ("b.bin", &noise(50_000))]));
    let cut = read("cut.tar.gz", &packed[..packed.len() / 2]);
    assert_eq!(cut.kinds(), [("cut.tar.gz/a.txt", "document/text")]);
    assert!(!cut.refused.is_empty());
    let mut broken = tar.clone();
    broken[1024 + 150] ^= 1;
    let broken = read("broken.tar", &broken);
    assert_eq!((broken.found.len(), broken.refused.len()), (1, 1), "{:?}", broken.refused);

    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(3 << 20);
    header.set_cksum();
    let name = [header.as_bytes().as_slice(), &vec![b'n'; 3 << 20], &tar].concat();
    let long = read("long.tar", &name);
    let between = "expected a whole archive, got: more than 1 MiB between two entries; copy it again, or unpack it and import the folder";
    assert_eq!((long.found.len(), long.reasons()), (0, vec![("long.tar", between)]));
}

/// Bytes that do not pack.
fn noise(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

proptest::proptest! {
    /// Whatever bytes an archive has, an import of it ends without a panic, and its progress is whole.
    #[test]
    fn no_bytes_break_an_archive(
        flips in proptest::collection::vec((0_usize..2000, proptest::num::u8::ANY), 1..8),
        which in 0_usize..4,
    ) {
        let entries: &[(&str, &[u8])] = &[("p.json", PATIENT.as_bytes()), ("n.txt", b"slept well, slept well")];
        let tar = tarred(entries);
        let mut content =
            vec![zipped(entries), tar.clone(), gzipped(&tar), bzipped(&tar)].swap_remove(which);
        let length = content.len();
        flips.iter().for_each(|(at, byte)| content[at % length] = *byte);
        let heard = read("x", &content);
        proptest::prop_assert!(!heard.totals.stopped);
    }
}
