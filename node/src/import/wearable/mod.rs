//! Wearables and home devices: one record for each measure or file shape, source, person and local day.
//!
//! Participants: a sniffer ([`claims`]), a reader for each family ([`read`]), and [`observations`], which reads the
//! records again. Goals: a record is the original bytes of its day; numbers stay exact; a fuller day replaces an
//! earlier one. Non-goals: converting units, merging sources that counted the same steps, and guessing dates.

mod csv;
mod csv_map;
mod csv_plan;
mod csv_rows;
mod day;
mod fit;
mod fitbit;
mod google_fit;
mod omh_body;
mod openmhealth;
#[cfg(test)]
mod tests;
mod vendor;
mod withings;

use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;

pub(crate) use self::csv::named_rows;
pub use self::csv_map::CsvMap;
pub use self::openmhealth::SchemaId;
use self::vendor::Vendor;
use super::error::ImportError;
use super::sink::Sink;
use crate::observe::Observation;

/// What was asked about wearables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WearableOptions {
    /// The one person taken from files of several; `all` takes each, kept apart.
    pub person: Option<String>,
    /// What a CSV's columns mean; without it only known headers are read.
    pub map: Option<CsvMap>,
    /// What a file without a header of its own is, for Open mHealth: `omh:body-weight/2.0`.
    pub schema: Option<SchemaId>,
    /// The folder of Open mHealth schemas, with `omh`, `ieee` and `granola` in it.
    pub schemas: Option<PathBuf>,
}

/// What was read without becoming a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Answers of a vendor that hold nothing: no error, and no record.
    pub empty_answers: u64,
}

/// Who reads a file of a wearable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wearable {
    Csv(Box<CsvMap>),
    Fit,
    Answer(Vendor),
    DataPoint,
}

/// Whose a file is, by its first bytes; the stated mapping or schema decides before them. JSON is left to
/// [`claims_json`], which needs all of it.
pub(super) fn claims(head: &[u8], name: &str, options: &WearableOptions) -> Option<Wearable> {
    if fit::claims(head) {
        return Some(Wearable::Fit);
    }
    let ending = name.rsplit('.').next().unwrap_or_default();
    let table = ["csv", "tsv", "txt"].iter().any(|known| ending.eq_ignore_ascii_case(known));
    match &options.map {
        Some(map) if table => Some(Wearable::Csv(Box::new(map.clone()))),
        _ => csv::claims(head).map(|map| Wearable::Csv(Box::new(map.clone()))),
    }
}

/// Whose a JSON text is, by its fields; not a word of it has to be known from the file's name.
pub(super) fn claims_json(text: &str, options: &WearableOptions) -> Option<Wearable> {
    if options.schema.is_some() {
        return Some(Wearable::DataPoint);
    }
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with('[') {
        let all: Vec<&serde_json::value::RawValue> = serde_json::from_str(text).ok()?;
        let point = |raw: &&serde_json::value::RawValue| {
            vendor::fields(raw.get()).is_ok_and(|fields| openmhealth::claims(&fields))
        };
        return (!all.is_empty() && all.iter().all(point)).then_some(Wearable::DataPoint);
    }
    if vendor::fields(text).is_ok_and(|fields| openmhealth::claims(&fields)) {
        return Some(Wearable::DataPoint);
    }
    vendor::claims(text).map(Wearable::Answer)
}

/// Read a file to its end. Whatever is wrong is told to the sink; CSV streams, everything else is held, at most
/// `limits.file_bytes_max`.
pub(super) fn read(
    which: &Wearable,
    input: &mut dyn Read,
    origin: &str,
    options: &WearableOptions,
    sink: &mut Sink<'_>,
) -> ControlFlow<(), Counts> {
    if let Wearable::Csv(map) = which {
        return csv::read(input, map, origin, options, sink);
    }
    let bytes = match held(input, sink.limits.file_bytes_max) {
        Ok(bytes) => bytes,
        Err(reason) => return refused(origin, reason, sink),
    };
    match which {
        Wearable::Fit => match fit::finding(bytes, origin) {
            Ok(finding) => sink.found(finding)?,
            Err(reason) => sink.refused(origin, reason)?,
        },
        Wearable::Answer(whose) => match super::utf8(bytes) {
            Ok(text) => return vendor::read(*whose, &text, origin, sink),
            Err(reason) => sink.refused(origin, reason)?,
        },
        Wearable::DataPoint => match super::utf8(bytes) {
            Ok(text) => data_points(&text, origin, options, sink)?,
            Err(reason) => sink.refused(origin, reason)?,
        },
        Wearable::Csv(_) => {}
    }
    ControlFlow::Continue(Counts::default())
}

fn refused(origin: &str, reason: ImportError, sink: &mut Sink<'_>) -> ControlFlow<(), Counts> {
    sink.refused(origin, reason)?;
    ControlFlow::Continue(Counts::default())
}

fn held(input: &mut dyn Read, max: u64) -> Result<Vec<u8>, ImportError> {
    let mut bytes = Vec::new();
    // One more than allowed is asked for: too long a file is refused, not cut.
    input.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    let got = bytes.len() as u64;
    if got > max { Err(ImportError::FileTooLarge { max, got }) } else { Ok(bytes) }
}

/// One data point, or a list of them, each a record of its own.
fn data_points(text: &str, origin: &str, options: &WearableOptions, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let bare = text.trim_start_matches('\u{feff}').trim_start();
    let list: Vec<&serde_json::value::RawValue> = match bare.starts_with('[') && options.schema.is_none() {
        true => serde_json::from_str(bare).unwrap_or_default(),
        false => Vec::new(),
    };
    let judge = |text: &str, origin: &str| {
        openmhealth::finding(text, origin, options.schema.as_ref(), options.schemas.as_deref())
    };
    if list.is_empty() {
        return told(judge(text, origin), origin, sink);
    }
    for (number, raw) in (1_u64..).zip(list) {
        let place = format!("{origin} entry {number}");
        told(judge(raw.get(), &place), &place, sink)?;
    }
    ControlFlow::Continue(())
}

fn told(
    finding: Result<super::facts::Finding, ImportError>,
    origin: &str,
    sink: &mut Sink<'_>,
) -> ControlFlow<()> {
    match finding {
        Ok(finding) => sink.found(finding),
        Err(reason) => sink.refused(origin, reason),
    }
}

/// The values of a record that [`read`] made; nothing for a record of another kind.
pub(crate) fn observations(
    media_type: &str,
    profiles: &[String],
    bytes: &[u8],
) -> Result<Vec<Observation>, ImportError> {
    let (essence, format) = media_type.split_once("; format=").unwrap_or((media_type, ""));
    let text =
        || std::str::from_utf8(bytes).map_err(|error| ImportError::NotUtf8 { offset: error.valid_up_to() });
    match (essence, format.split('.').next().unwrap_or_default()) {
        ("text/csv", _) if !format.is_empty() => csv::observations(profiles, bytes),
        ("application/vnd.ant.fit", _) => fit::observations(bytes),
        ("application/json", "fitbit") => vendor::observations(Vendor::Fitbit, text()?),
        ("application/json", "google-fit") => vendor::observations(Vendor::GoogleFit, text()?),
        ("application/json", "withings") => vendor::observations(Vendor::Withings, text()?),
        ("application/json", "omh" | "ieee" | "granola") => openmhealth::observations(format, text()?),
        _ => Ok(Vec::new()),
    }
}
