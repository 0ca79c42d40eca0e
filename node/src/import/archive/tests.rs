//! Archives as their reader's caller meets them: what people pack, and what they should not have to fear.

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::import::{Body, Event, Format, Options, Totals, import};

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
