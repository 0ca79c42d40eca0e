//! Import: from files to findings, one for each record-to-be.
//!
//! Participants: a caller with paths and a visitor. Goals: bytes stay the original bytes; a wrong part is refused
//! by name and the rest is read; memory is bounded whatever a file says (file held + one resource copied).
//! Non-goals: sealing, storing, finding duplicates, and knowing whose data it is.
//!
//! A new format is one file here, and one line in [`choose`].

mod bundle;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "called once an import makes two passes"))]
mod dicom;
mod document;
mod error;
mod facts;
mod fhir;
mod fields;
mod files;
mod ndjson;
mod object;
mod outline;
mod sink;
mod sniff;
#[cfg(test)]
mod tests;
mod time;

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

pub use self::dicom::{DicomFault, PixelFault, Tag};
pub use self::error::ImportError;
pub use self::facts::{Body, Code, Effective, Facts, Finding, Group, TITLE_BYTES_MAX};
use self::sink::{Place, Sink};
use self::sniff::{HEAD_BYTES, Looks};

/// What an import tells while it runs.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "an event is handed over once; a box would be one allocation a record"
)]
pub enum Event {
    Found(Finding),
    Refused { origin: String, reason: ImportError },
    Progress { bytes_done: u64, bytes_total: u64 },
}

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// As what they are; a file that is not understood is kept as a document.
    #[default]
    Auto,
    /// As FHIR JSON or NDJSON; everything else is refused.
    Fhir,
    /// Each as one document, FHIR too.
    Document,
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub format: Format,
    pub limits: Limits,
}

/// The bounds of an import.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest JSON file or NDJSON line held in memory, in bytes. 64 MiB: twenty times the largest Synthea
    /// patient, and with one resource copied still far below the 256 MiB any file may cost us.
    pub file_bytes_max: u64,
    /// Largest single resource, in bytes. 32 MiB: a Binary of 24 MiB in base64, above what FHIR servers accept.
    pub resource_bytes_max: u64,
    /// Deepest nesting in a resource. 120: serde_json reads up to 127, so every later reader can open it.
    pub depth_max: u32,
    /// Most files in one import. 100,000: paths of 200 bytes then take 30 MB; a year of CT studies fits.
    pub files_max: usize,
    /// Deepest folder. 32: deeper ones are loops of mounts or mistakes.
    pub folders_deep_max: usize,
    /// Most refusals told one by one in a file; the rest are counted. 1,000: more than anyone reads, while 64 MiB
    /// of bad lines would be 33 million sentences.
    pub refusals_told_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes_max: 64 * 1024 * 1024,
            resource_bytes_max: 32 * 1024 * 1024,
            depth_max: 120,
            files_max: 100_000,
            folders_deep_max: 32,
            refusals_told_max: 1_000,
        }
    }
}

/// What an import came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub files: u64,
    pub found: u64,
    pub refused: u64,
    /// Bundle entries that hold only a request or response.
    pub entries_without_resource: u64,
    /// Bundles without any entry: an empty search.
    pub empty_bundles: u64,
    /// Symbolic links met inside folders.
    pub links_skipped: u64,
    pub bytes: u64,
    /// The visitor ended the import.
    pub stopped: bool,
}

/// Read `paths`, files or folders, and hand every finding to `visit` as it is met. An error means that nothing
/// was read; whatever is wrong with one file or record is an [`Event::Refused`].
pub fn import(
    paths: &[PathBuf],
    options: &Options,
    visit: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Totals, ImportError> {
    let listing = files::list(paths, &options.limits)?;
    let mut sink = Sink::new(&options.limits, listing.bytes_total(), visit);
    sink.totals.links_skipped = listing.links_skipped;
    let flow =
        listing.items.into_iter().try_for_each(|(path, length)| one_path(&path, length, options, &mut sink));
    sink.totals.stopped = flow.is_break();
    Ok(sink.totals)
}

fn one_path(
    path: &Path,
    length: Result<u64, ImportError>,
    options: &Options,
    sink: &mut Sink<'_>,
) -> ControlFlow<()> {
    let origin = facts::clean(&path.to_string_lossy(), ORIGIN_BYTES_MAX);
    sink.totals.files += 1;
    let bytes_before = sink.totals.bytes;
    let listed = length.clone().unwrap_or_default();
    match length.and_then(|_| choose(path, options)) {
        Ok(Chosen::Fhir(text)) => fhir::read(Cow::Owned(text), Place::file(&origin), sink)?,
        Ok(Chosen::Lines(file)) => ndjson::read(file, &origin, sink)?,
        Ok(Chosen::Document(looks, length)) => sink.found(document::finding(path, length, looks, &origin))?,
        Err(reason) => sink.refused(&origin, reason)?,
    }
    sink.file_done(&origin)?;
    sink.advanced_to(bytes_before.saturating_add(listed))
}

/// Longest path in a message, in bytes: 4 KiB, Linux's own bound.
const ORIGIN_BYTES_MAX: usize = 4096;

/// Who reads a file.
enum Chosen {
    /// The whole text, in memory.
    Fhir(String),
    Lines(File),
    /// What it looks like, and its length in bytes.
    Document(Looks, u64),
}

fn choose(path: &Path, options: &Options) -> Result<Chosen, ImportError> {
    let mut file = File::open(path)?;
    let length = files::regular(&file.metadata()?)?;
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    if head.is_empty() {
        return Err(ImportError::Empty);
    }
    let looks = sniff::sniff(&head);
    if options.format != Format::Document {
        match claim(path, &head, &mut file)? {
            Claim::Resource => {
                return held(file, length, &options.limits).and_then(utf8).map(Chosen::Fhir);
            }
            Claim::Lines => return Ok(Chosen::Lines(file)),
            Claim::None => {}
        }
    }
    let looks = if looks == sniff::TEXT { json_or_text(path, &head, file, length, options)? } else { looks };
    match options.format {
        Format::Fhir => Err(ImportError::NotFhir { got: looks.kind.to_owned() }),
        Format::Auto | Format::Document => Ok(Chosen::Document(looks, length)),
    }
}

/// What a file claims to be in FHIR.
enum Claim {
    Resource,
    Lines,
    None,
}

/// Lines are a first line that is a resource, with more below it. A name that says so decides for a single line,
/// and for a file whose first line is broken. The file is left at its start.
fn claim(path: &Path, head: &[u8], file: &mut File) -> Result<Claim, ImportError> {
    file.rewind()?;
    let named = has_ending(path, "ndjson") || has_ending(path, "jsonl");
    if named && String::from_utf8_lossy(head).contains("\"resourceType\"") {
        return Ok(Claim::Lines);
    }
    if !sniff::opens_object(head) {
        return Ok(Claim::None);
    }
    let first = outline::outline(BufReader::new(&mut *file))?;
    file.rewind()?;
    Ok(match first.claims_fhir {
        true if first.one_line && (first.more_lines || named) => Claim::Lines,
        true => Claim::Resource,
        false => Claim::None,
    })
}

/// The whole file, if it may be held in memory.
fn held(mut file: File, length: u64, limits: &Limits) -> Result<Vec<u8>, ImportError> {
    let max = limits.file_bytes_max;
    let too_large = |got| ImportError::FileTooLarge { max, got };
    if length > max {
        return Err(too_large(length));
    }
    file.rewind()?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(|_| too_large(length))?);
    // One more than allowed is asked for: a file that grew since is refused, not cut.
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

fn utf8(bytes: Vec<u8>) -> Result<String, ImportError> {
    String::from_utf8(bytes)
        .map_err(|error| ImportError::NotUtf8 { offset: error.utf8_error().valid_up_to() })
}

/// A text is JSON if it parses. One too large to hold is called what its first character says.
fn json_or_text(
    path: &Path,
    head: &[u8],
    file: File,
    length: u64,
    options: &Options,
) -> Result<Looks, ImportError> {
    let opens = sniff::opens_object(head) || sniff::opens_list(head);
    if !opens && !has_ending(path, "json") {
        return Ok(sniff::TEXT);
    }
    if length > options.limits.file_bytes_max {
        return Ok(if opens { sniff::JSON } else { sniff::TEXT });
    }
    let text = utf8(held(file, length, &options.limits)?).unwrap_or_default();
    let json = serde_json::from_str::<IgnoredAny>(text.strip_prefix(sniff::BOM).unwrap_or(&text));
    Ok(if json.is_ok() { sniff::JSON } else { sniff::TEXT })
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}
