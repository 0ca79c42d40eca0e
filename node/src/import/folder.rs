//! The folder that `karte record export` writes: records with their authors' signatures, and the proofs around them.
//!
//! For: reading its index and naming its files. Not for: judging signatures; whoever seals the records compares each
//! label with its bytes and traces its author.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::error::ImportError;
use super::facts::{Body, Facts, Finding, Proof, clean};
use super::item::path_origin;
use super::sink::Sink;

/// The index of such a folder.
const INDEX: &str = "index.jsonl";
/// Version of the index that is read.
const VERSION: u32 = 1;
/// Longest line, in bytes. 4 MiB: a label of 64 KiB and the identity log of a careful author, in base64.
const LINE_BYTES_MAX: u64 = 4 << 20;
/// Longest title of a proof's file, in bytes.
const NAME_BYTES_MAX: usize = 120;

#[derive(Deserialize)]
struct Head {
    karte_export: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Record {
        #[serde(rename = "record")]
        _record: String,
        file: String,
        kind: String,
        bytes: u64,
        label: String,
        identity: Vec<String>,
    },
    Proof {
        proof: String,
        grant: String,
        file: String,
    },
    /// An entry of the exporter's own log: it stands in the proofs and labels too.
    Log {
        #[serde(rename = "log")]
        _log: String,
    },
}

/// The index of `folder`, if `karte record export` wrote it.
pub(super) fn index_of(folder: &Path) -> Option<BufReader<File>> {
    let mut index = BufReader::new(File::open(folder.join(INDEX)).ok()?);
    let mut first = String::new();
    index.by_ref().take(LINE_BYTES_MAX).read_line(&mut first).ok()?;
    let head: Head = serde_json::from_str(&first).ok()?;
    (head.karte_export == VERSION).then_some(index)
}

/// Every record and proof that the index names.
pub(super) fn read(folder: &Path, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let Some(mut index) = index_of(folder) else {
        return ControlFlow::Continue(());
    };
    sink.totals.files += 1;
    let origin = path_origin(&folder.join(INDEX));
    for number in 2.. {
        let mut line = String::new();
        match index.by_ref().take(LINE_BYTES_MAX).read_line(&mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                sink.refused(&origin, error.into())?;
                break;
            }
        }
        let place = format!("{origin} line {number}");
        match finding(folder, &line, &place) {
            Ok(Some(finding)) => sink.found(finding)?,
            Ok(None) => {}
            Err(reason) => sink.refused(&place, reason)?,
        }
    }
    sink.item_done(&origin)
}

fn finding(folder: &Path, line: &str, place: &str) -> Result<Option<Finding>, ImportError> {
    let wrong = |what| ImportError::Export { what };
    let line: Line =
        serde_json::from_str(line).map_err(|_| wrong("a line that is neither record nor proof"))?;
    let decode =
        |text: &str| BASE64_STANDARD.decode(text).map_err(|_| wrong("a signature that is not base64"));
    match line {
        Line::Log { .. } => Ok(None),
        Line::Record { file, kind, bytes, label, identity, .. } => {
            let path = inside(folder, &file)?;
            let identity = identity.iter().map(|entry| decode(entry)).collect::<Result<_, _>>()?;
            let proof = Proof { label: decode(&label)?, identity };
            let facts = Facts { kind: clean(&kind, 500), proof: Some(proof), ..Facts::default() };
            Ok(Some(Finding { bytes: Body::File(path, bytes), facts, origin: place.to_owned() }))
        }
        Line::Proof { proof, grant, file } => {
            if !["grant", "release", "receipt"].contains(&proof.as_str()) {
                return Err(wrong("a proof of an unknown kind"));
            }
            let path = inside(folder, &file)?;
            let bytes = std::fs::metadata(&path)?.len();
            let grant: String = grant.chars().filter(char::is_ascii_hexdigit).take(64).collect();
            let facts = Facts {
                kind: format!("consent/{proof}"),
                title: clean(
                    &format!("Signed {proof} of {}", grant.get(..12).unwrap_or("?")),
                    NAME_BYTES_MAX,
                ),
                media_type: "application/cose; cose-type=\"cose-sign1\"".into(),
                source_id: Some(format!("{proof}/{grant}")),
                ..Facts::default()
            };
            Ok(Some(Finding { bytes: Body::File(path, bytes), facts, origin: place.to_owned() }))
        }
    }
}

/// A file below the folder; whoever wrote the index may not name others.
fn inside(folder: &Path, file: &str) -> Result<PathBuf, ImportError> {
    let path = Path::new(file);
    let stays = !file.is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)));
    let whole = folder.join(path);
    if stays && std::fs::symlink_metadata(&whole).is_ok_and(|found| found.is_file()) {
        Ok(whole)
    } else {
        Err(ImportError::Export { what: "a file that is not in the folder" })
    }
}
