//! Answers of vendors' web interfaces: what their readers share.
//!
//! An answer about one day is one record, the whole file. An answer over several days is a record for each day: the
//! same outer shape around the exact bytes of that day's elements, so that one reader reads both. Not for: what the
//! fields of a vendor mean.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use jiff::civil::Date;
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::day::{Clock, Daily, decimal};
use super::{Counts, fitbit, google_fit, withings};
use crate::import::error::ImportError;
use crate::import::facts::{Body, Code, Effective, Finding};
use crate::import::sink::Sink;
use crate::observe::Observation;

/// Most elements of an answer. 1,000,000: a year by the minute is half of it.
const ELEMENTS_MAX: usize = 1_000_000;

/// The fields of an answer, each with its exact text.
pub(super) type Fields<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vendor {
    Fitbit,
    GoogleFit,
    Withings,
}

/// A record-to-be of one day.
pub(super) struct Part {
    pub(super) text: String,
    /// The file's shape, for the media type: `steps`.
    pub(super) shape: String,
    pub(super) kind: &'static str,
    pub(super) title: &'static str,
    pub(super) source: String,
    pub(super) day: Option<Date>,
    pub(super) clock: Clock,
}

/// Whose answer `text` is, by its fields.
pub(super) fn claims(text: &str) -> Option<Vendor> {
    let fields = fields(text).ok()?;
    [
        (fitbit::claims(&fields), Vendor::Fitbit),
        (google_fit::claims(&fields), Vendor::GoogleFit),
        (withings::claims(&fields), Vendor::Withings),
    ]
    .into_iter()
    .find_map(|(claimed, vendor)| claimed.then_some(vendor))
}

pub(super) fn read(vendor: Vendor, text: &str, origin: &str, sink: &mut Sink<'_>) -> ControlFlow<(), Counts> {
    let parts = fields(text).and_then(|fields| match vendor {
        Vendor::Fitbit => fitbit::parts(text, &fields),
        Vendor::GoogleFit => google_fit::parts(text, &fields),
        Vendor::Withings => withings::parts(text, &fields),
    });
    let mut counts = Counts::default();
    match parts {
        Err(reason) => sink.refused(origin, reason)?,
        Ok(parts) if parts.is_empty() => counts.empty_answers += 1,
        Ok(parts) => parts.into_iter().try_for_each(|part| match finding(vendor, part, origin) {
            Ok(finding) => sink.found(finding),
            Err(reason) => sink.refused(origin, reason),
        })?,
    }
    ControlFlow::Continue(counts)
}

fn finding(vendor: Vendor, part: Part, origin: &str) -> Result<Finding, ImportError> {
    let said = observations(vendor, &part.text)?;
    let day = part.day.map(|day| day.to_string()).unwrap_or_default();
    let facts = Daily {
        kind: part.kind,
        categories: &[category(part.kind)],
        codes: codes(&said),
        title: part.title,
        media_type: &format!("application/json; format={}.{}", name(vendor), part.shape),
        source: &part.source,
        day: &day,
        effective: part.day.and_then(|day| part.clock.day(day)),
    }
    .facts();
    let origin = if day.is_empty() { origin.to_owned() } else { format!("{origin} {day}") };
    Ok(Finding { bytes: Body::Memory(part.text.into_bytes()), facts, origin })
}

pub(super) fn category(kind: &str) -> &'static str {
    match kind {
        "daily/weight"
        | "daily/body-fat"
        | "daily/height"
        | "daily/blood-pressure"
        | "daily/heart-rate"
        | "daily/glucose"
        | "daily/oxygen-saturation"
        | "daily/temperature"
        | "daily/respiratory-rate" => "vital-signs",
        "daily/nutrition" => "nutrition",
        _ => "activity",
    }
}

fn name(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Fitbit => "fitbit",
        Vendor::GoogleFit => "google-fit",
        Vendor::Withings => "withings",
    }
}

/// Each code once, in order, the whole before its part.
pub(super) fn codes(said: &[Observation]) -> Vec<Code> {
    let (mut seen, mut out) = (BTreeSet::new(), Vec::new());
    for code in said.iter().flat_map(|one| one.part_of.iter().chain([&one.code])) {
        if seen.insert((&code.system, &code.code)) {
            out.push(code.clone());
        }
    }
    out
}

pub(super) fn observations(vendor: Vendor, text: &str) -> Result<Vec<Observation>, ImportError> {
    let fields = fields(text)?;
    match vendor {
        Vendor::Fitbit => fitbit::observations(&fields),
        Vendor::GoogleFit => google_fit::observations(&fields),
        Vendor::Withings => withings::observations(&fields),
    }
}

/// The fields of an object; a field that stands twice has two meanings and is refused.
pub(super) fn fields(text: &str) -> Result<Fields<'_>, ImportError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let pairs: Pairs<'_> = serde_json::from_str(text).map_err(|error| syntax(&error))?;
    let mut fields = Fields::new();
    for (key, value) in pairs.0 {
        if fields.insert(key.clone(), value).is_some() {
            let key = crate::import::facts::clean(&key, 60);
            return Err(ImportError::DuplicateField { key });
        }
    }
    Ok(fields)
}

struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        from.deserialize_map(Visit).map(Pairs)
    }
}

/// A fault's place, without the text around it.
pub(super) fn syntax(error: &serde_json::Error) -> ImportError {
    let fault = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data => "a value has another type than its field",
        _ => "it is not JSON",
    };
    ImportError::Syntax { line: error.line(), column: error.column(), fault: fault.to_owned() }
}

/// A field's value as `T`; `None` where it is absent or null.
pub(super) fn take<'a, T: Deserialize<'a>>(fields: &Fields<'a>, key: &str) -> Result<Option<T>, ImportError> {
    match fields.get(key) {
        None => Ok(None),
        Some(raw) => parse::<Option<T>>(raw),
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, ImportError> {
    serde_json::from_str(raw.get()).map_err(|error| syntax(&error))
}

/// The elements of a list.
pub(super) fn list<'a>(fields: &Fields<'a>, key: &str) -> Result<Vec<&'a RawValue>, ImportError> {
    let list: Vec<&RawValue> = take(fields, key)?.unwrap_or_default();
    match list.len() > ELEMENTS_MAX {
        true => Err(ImportError::TooManyFields { max: ELEMENTS_MAX }),
        false => Ok(list),
    }
}

/// Exact texts of elements as a list.
pub(super) fn join(elements: &[&RawValue]) -> String {
    let texts: Vec<&str> = elements.iter().map(|raw| raw.get()).collect();
    format!("[{}]", texts.join(","))
}

/// A number, or a text that is one, without passing through binary fractions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exact(pub(super) Decimal);

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        let text = raw.get().trim_matches('"');
        decimal(text).map(Self).ok_or_else(|| serde::de::Error::custom("expected a number"))
    }
}

/// A whole number, or a text that is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole(pub(super) i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        raw.get()
            .trim_matches('"')
            .parse()
            .map(Self)
            .map_err(|_| serde::de::Error::custom("expected a whole number"))
    }
}

/// From a local time, for some milliseconds.
pub(super) fn lasting(start: Effective, ms: i64) -> Option<Effective> {
    (ms >= 0).then_some(Effective { end_ms: start.end_ms.checked_add(ms)?, ..start })
}
