//! Who reads an item: the one place where a format is chosen.
//!
//! For: content decides; a name is asked only where the content allows two readings. Not for: reading. A new format
//! is one variant of [`Chosen`] and one line in [`choose`].

use serde::de::IgnoredAny;

use super::apple;
use super::dicom::Header;
use super::error::ImportError;
use super::facts::Body;
use super::item::{Item, Reader};
use super::sniff::{self, Looks};
use super::wearable::{self, Wearable};
use super::{Format, Limits, Options, images, utf8, xml};

/// Who reads an item, and what of it.
pub(super) enum Chosen<'a> {
    /// FHIR JSON: the whole text, in memory.
    Fhir(String),
    /// FHIR NDJSON.
    Lines(Reader<'a>),
    /// A DICOM file, and what was read of it.
    Image(Box<Header>, Item<'a>),
    /// A table, an answer or a file of a wearable or a home device.
    Wearable(Wearable, Reader<'a>),
    /// The XML of an Apple Health export.
    Apple(Reader<'a>),
    /// What it looks like, its name, and what is sealed.
    Document(Looks, String, Body),
}

pub(super) fn choose<'a>(mut item: Item<'a>, options: &Options) -> Result<Chosen<'a>, ImportError> {
    if item.head().is_empty() {
        return Err(ImportError::Empty);
    }
    if options.format != Format::Document {
        match claim(&mut item, &options.limits)? {
            Claim::Resource => return fhir_text(item, &options.limits).map(Chosen::Fhir),
            Claim::Lines => return Ok(Chosen::Lines(item.reader())),
            Claim::None => {}
        }
    }
    if options.format != Format::Auto {
        return document(item, options);
    }
    if apple::claims(item.head()) {
        return Ok(Chosen::Apple(item.reader()));
    }
    if let Some(header) = images::header_of(&mut item, options)? {
        return Ok(Chosen::Image(header, item));
    }
    match wearable(&mut item, options) {
        Some(which) => Ok(Chosen::Wearable(which, item.reader())),
        None => document(item, options),
    }
}

/// Whose a table, a binary or a JSON text is. One too large to hold is nobody's.
fn wearable(item: &mut Item<'_>, options: &Options) -> Option<Wearable> {
    if let Some(which) = wearable::claims(item.head(), &item.name, &options.wearable) {
        return Some(which);
    }
    // A data point whose schema is stated may be a bare word, so that its schema can say no.
    let may_be_json = sniff::opens_object(item.head()) || sniff::opens_list(item.head());
    if !may_be_json && options.wearable.schema.is_none() {
        return None;
    }
    let held = item.hold(options.limits.file_bytes_max).ok()?;
    wearable::claims_json(std::str::from_utf8(held).ok()?, &options.wearable)
}

/// What no format claims: a document, or refused where FHIR was asked for.
fn document<'a>(mut item: Item<'a>, options: &Options) -> Result<Chosen<'a>, ImportError> {
    let looks = sniff::sniff(item.head());
    if options.format == Format::Auto && looks.media_type == "application/xml" {
        xml::judge_document(&mut item)?;
    }
    let looks = if looks == sniff::TEXT { json_or_text(&mut item, &options.limits)? } else { looks };
    if options.format == Format::Fhir {
        return Err(ImportError::NotFhir { got: looks.kind.to_owned() });
    }
    let name = item.name.clone();
    Ok(Chosen::Document(looks, name, item.body(options.limits.entry_bytes_max)?))
}

/// What an item claims to be in FHIR.
enum Claim {
    Resource,
    Lines,
    None,
}

/// Lines are a first line that is a resource, with more below it. A name that says so decides for a single line,
/// and for a file whose first line is broken.
fn claim(item: &mut Item<'_>, limits: &Limits) -> Result<Claim, ImportError> {
    let named = item.has_ending("ndjson") || item.has_ending("jsonl");
    if named && String::from_utf8_lossy(item.head()).contains("\"resourceType\"") {
        return Ok(Claim::Lines);
    }
    if !sniff::opens_object(item.head()) {
        return Ok(Claim::None);
    }
    let first = item.outline(limits.file_bytes_max)?;
    Ok(match first.claims_fhir {
        true if first.one_line && (first.more_lines || named) => Claim::Lines,
        true => Claim::Resource,
        false => Claim::None,
    })
}

fn fhir_text(item: Item<'_>, limits: &Limits) -> Result<String, ImportError> {
    let held = item.held(limits.file_bytes_max).map_err(|error| match error {
        ImportError::TooLargeToHold { max, got } => ImportError::FileTooLarge { max, got },
        other => other,
    })?;
    utf8(held)
}

/// A text is JSON if it parses. One too large to hold is called what its first character says.
fn json_or_text(item: &mut Item<'_>, limits: &Limits) -> Result<Looks, ImportError> {
    let opens = sniff::opens_object(item.head()) || sniff::opens_list(item.head());
    if !opens && !item.has_ending("json") {
        return Ok(sniff::TEXT);
    }
    match item.hold(limits.file_bytes_max) {
        Ok(held) => Ok(if is_json(held) { sniff::JSON } else { sniff::TEXT }),
        Err(ImportError::TooLargeToHold { .. }) => Ok(if opens { sniff::JSON } else { sniff::TEXT }),
        Err(other) => Err(other),
    }
}

fn is_json(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(sniff::BOM.as_bytes()).unwrap_or(bytes);
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}
