//! Import: from files to findings, one for each record-to-be.
//!
//! Participants: a caller with paths and a visitor. Goals: bytes stay the original bytes; a wrong part is refused
//! by name and the rest is read; memory is bounded whatever a file says (file held + one resource copied).
//! Non-goals: sealing, storing, finding duplicates, and knowing whose data it is.
//!
//! The unit of reading is an item: a file, or an entry of an archive. A new format is one file here, one line in
//! `choose`, and one in `one_item`.

mod apple;
mod archive;
mod bundle;
mod choose;
mod dicom;
mod document;
mod error;
mod facts;
mod fhir;
mod fields;
mod files;
mod folder;
mod images;
mod item;
mod meter;
mod ndjson;
mod object;
mod outline;
mod session_sheet;
mod sink;
mod sniff;
#[cfg(test)]
mod tests;
pub(crate) mod time;
mod walk;
pub(crate) mod wearable;
mod xml;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::PathBuf;

pub use self::apple::observations as apple_health_observations;
use self::choose::{Chosen, choose};
pub use self::dicom::{DicomFault, PixelFault, Tag};
pub use self::error::ImportError;
pub use self::facts::{Body, Code, Effective, Facts, Finding, Group, Proof, TITLE_BYTES_MAX};
use self::images::Images;
use self::item::Item;
use self::sink::{Place, Sink};
use self::walk::{Step, Walk};
pub use self::wearable::{CsvMap, SchemaId, WearableOptions};

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
    /// What was asked about tables and data points.
    pub wearable: WearableOptions,
}

/// The bounds of an import.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest JSON file or NDJSON line held in memory, in bytes. 64 MiB: twenty times the largest Synthea
    /// patient, and with one resource copied still far below the 256 MiB any file may cost us.
    pub file_bytes_max: u64,
    /// Largest entry of an archive kept as one record, in bytes. 64 MiB, as above: it is held until it is sealed,
    /// because it is never written to disk as it is.
    pub entry_bytes_max: u64,
    /// Largest single resource, in bytes. 32 MiB: a Binary of 24 MiB in base64, above what FHIR servers accept.
    pub resource_bytes_max: u64,
    /// Deepest nesting in a resource. 120: serde_json reads up to 127, so every later reader can open it.
    pub depth_max: u32,
    /// Most files in one import, and most entries in one archive. 100,000: paths of 200 bytes then take 30 MB; a year of CT studies fits.
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
            entry_bytes_max: 64 * 1024 * 1024,
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
    /// Files and entries of archives that were read.
    pub files: u64,
    pub found: u64,
    pub refused: u64,
    /// Bundle entries that hold only a request or response.
    pub entries_without_resource: u64,
    /// Bundles without any entry: an empty search.
    pub empty_bundles: u64,
    /// Symbolic links met inside folders and archives, and devices in archives.
    pub links_skipped: u64,
    /// What desktops leave beside people's files (`__MACOSX/`, `.DS_Store`).
    pub junk_skipped: u64,
    /// Elements of a phone's export that are no record: when it was made, and what its owner said of themself.
    pub elements_skipped: u64,
    pub bytes: u64,
    /// Answers of a vendor that hold nothing.
    pub empty_answers: u64,
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
    let (exported, paths): (Vec<_>, Vec<_>) =
        paths.iter().cloned().partition(|path| folder::index_of(path).is_some());
    let walk = Walk::new(&paths, options)?;
    let mut sink = Sink::new(&options.limits, walk.listing().bytes_total(), visit);
    sink.totals.links_skipped = walk.listing().links_skipped;
    sink.totals.junk_skipped = walk.listing().junk_skipped;
    let read = sink.read.clone();
    let arrangement = images::arrange(&walk, options);
    let mut images = Images::new(&arrangement);
    let mut flow = exported.iter().try_for_each(|path| folder::read(path, &mut sink));
    if flow.is_continue() {
        flow = walk.each(&read, &mut |step| one_step(step, options, &mut images, &mut sink));
    }
    if flow.is_continue() {
        flow = images.finish(&mut sink);
    }
    sink.totals.stopped = flow.is_break();
    Ok(sink.totals)
}

/// One FHIR resource that was written here, as a finding.
pub fn fhir_finding(text: String, origin: &str) -> Result<Finding, ImportError> {
    let limits = Limits::default();
    let mut outcome = Err(ImportError::Empty);
    let mut keep = |event| {
        match event {
            Event::Found(finding) => outcome = Ok(finding),
            Event::Refused { reason, .. } => outcome = Err(reason),
            Event::Progress { .. } => {}
        }
        ControlFlow::Break(())
    };
    let mut sink = Sink::new(&limits, 0, &mut keep);
    // It ends with its one finding.
    let _ = fhir::read(Cow::Owned(text), Place::file(origin), &mut sink);
    outcome
}

fn utf8(bytes: Vec<u8>) -> Result<String, ImportError> {
    String::from_utf8(bytes)
        .map_err(|error| ImportError::NotUtf8 { offset: error.utf8_error().valid_up_to() })
}

fn one_step(
    step: Step<'_>,
    options: &Options,
    images: &mut Images<'_>,
    sink: &mut Sink<'_>,
) -> ControlFlow<()> {
    match step {
        Step::Item(item) => {
            let flow = one_item(item, options, images, sink);
            images.key += 1;
            return flow;
        }
        Step::Refused(origin, reason) => {
            sink.totals.files += 1;
            return sink.refused(&origin, reason);
        }
        Step::LinkSkipped => sink.totals.links_skipped += 1,
        Step::JunkSkipped => sink.totals.junk_skipped += 1,
        Step::PathDone(origin, bytes) => return sink.path_done(&origin, bytes),
    }
    ControlFlow::Continue(())
}

fn one_item(
    item: Item<'_>,
    options: &Options,
    images: &mut Images<'_>,
    sink: &mut Sink<'_>,
) -> ControlFlow<()> {
    let origin = item.origin.clone();
    sink.totals.files += 1;
    match choose(item, options) {
        Ok(Chosen::Fhir(text)) => fhir::read(Cow::Owned(text), Place::file(&origin), sink)?,
        Ok(Chosen::Lines(reader)) => ndjson::read(reader, &origin, sink)?,
        Ok(Chosen::Image(header, item)) => images.found(&header, item, options, sink)?,
        Ok(Chosen::Wearable(which, mut reader)) => {
            let counts = wearable::read(&which, &mut reader, &origin, &options.wearable, sink);
            sink.totals.empty_answers += match counts {
                ControlFlow::Continue(counts) => counts.empty_answers,
                ControlFlow::Break(()) => return ControlFlow::Break(()),
            };
        }
        Ok(Chosen::Apple(reader)) => apple::read(reader, &origin, sink)?,
        Ok(Chosen::Document(looks, name, body)) => {
            sink.found(document::finding(&name, body, looks, &origin))?
        }
        Err(reason) => sink.refused(&origin, reason)?,
    }
    sink.item_done(&origin)
}
