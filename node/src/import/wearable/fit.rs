//! Garmin FIT (ANT+ Flexible and Interoperable Data Transfer): one file, one record.
//!
//! The messages are read one at a time by `fitparser`, so memory is one message whatever a file holds; header, length
//! and checksum are judged before anything is believed. Not for: developer fields, whose meaning only their
//! developer knows; they stay in the record.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fitparser::de::{FitObject, FitStreamProcessor};
use fitparser::profile::MesgNum;
use fitparser::{ErrorKind, FitDataRecord, Value as Held};
use rust_decimal::Decimal;

use super::day::{Clock, Daily, decimal, quantity};
use super::vendor::{category, codes};
use crate::import::error::ImportError;
use crate::import::facts::{Body, Effective, Finding, clean};
use crate::observe::{Observation, Source};

/// Most messages in a file. 2,000,000: three weeks by the second; a hostile file of one-byte messages ends here.
const MESSAGES_MAX: u64 = 2_000_000;
/// A file's header, in bytes: the older form, and the one with a checksum of its own.
const HEADER_BYTES: [u8; 2] = [12, 14];
/// Length of a file's checksum, in bytes.
const CRC_BYTES: u64 = 2;
/// 1989-12-31T00:00:00Z, where FIT counts seconds from.
const EPOCH_S: i64 = 631_065_600;
/// Below this many seconds a time is counted from when the device was switched on (FIT profile, `date_time`).
const SYSTEM_TIME_MAX_S: i64 = 0x1000_0000;

pub(super) fn claims(head: &[u8]) -> bool {
    head.get(8..12) == Some(b".FIT")
}

/// What stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Told {
    /// Messages by their kind, as the profile names it.
    pub(super) messages: BTreeMap<String, u64>,
    /// The type of the file: `activity`, `weight`.
    file_type: String,
    source: Source,
    created_s: Option<i64>,
    first_s: Option<i64>,
    last_s: Option<i64>,
    /// A time, and the same time on the wearer's clock.
    local: Option<(i64, i64)>,
}

pub(super) fn finding(bytes: Vec<u8>, origin: &str) -> Result<Finding, ImportError> {
    let told = tell(&bytes)?;
    let said = observe(&bytes, &told)?;
    let kind = match told.file_type.as_str() {
        "activity" | "workout" => "daily/workout",
        "weight" => "daily/weight",
        "blood_pressure" => "daily/blood-pressure",
        "monitoring_a" | "monitoring_b" | "monitoring_daily" => "daily/activity",
        _ => "daily/other",
    };
    let effective = told.first_s.and_then(|first| told.window(first, told.last_s.unwrap_or(first)));
    let day = effective.and_then(|when| Clock::Offset(i64::from(when.offset_min)).local(when.start_ms));
    let device = told.source.device.clone().unwrap_or_default();
    // A file is known by when it was begun: a device writes several a day.
    let begun = told.created_s.or(told.first_s).map(|at| format!("@{at}")).unwrap_or_default();
    let mut facts = Daily {
        kind,
        categories: &[category(kind)],
        codes: codes(&said),
        title: &format!("Garmin FIT, {}", told.file_type.replace('_', " ")),
        media_type: "application/vnd.ant.fit; format=fit",
        source: &format!("{} {device}", told.source.name),
        day: &day.map(|(_, day)| day.to_string()).unwrap_or_default(),
        effective,
    }
    .facts();
    facts.source_id = facts.source_id.map(|id| clean(&(id + &begun), 480));
    Ok(Finding { bytes: Body::Memory(bytes), facts, origin: origin.to_owned() })
}

pub(super) fn observations(bytes: &[u8]) -> Result<Vec<Observation>, ImportError> {
    observe(bytes, &tell(bytes)?)
}

pub(super) fn tell(bytes: &[u8]) -> Result<Told, ImportError> {
    let mut told = Told { file_type: "unknown".to_owned(), ..Told::default() };
    each(bytes, &mut |record| told.meet(record))?;
    Ok(told)
}

/// Every data message of a file, and of the files chained behind it; an error when anything is wrong anywhere.
fn each(bytes: &[u8], with: &mut dyn FnMut(&FitDataRecord)) -> Result<(), ImportError> {
    whole(bytes)?;
    // The library counts some lengths of hostile definitions in a byte and would overflow; the message is refused.
    catch_unwind(AssertUnwindSafe(|| decode(bytes, with)))
        .unwrap_or(Err(ImportError::FitFault { fault: "a definition with impossible lengths" }))
}

/// Each header is one, and the bytes it promises are there.
fn whole(bytes: &[u8]) -> Result<(), ImportError> {
    let mut at = 0_usize;
    while at < bytes.len() || at == 0 {
        let rest = bytes.get(at..).unwrap_or_default();
        let (Some(header), Some([a, b, c, d])) = (rest.first(), rest.get(4..8)) else {
            return Err(ImportError::FitHeader);
        };
        if !HEADER_BYTES.contains(header) || rest.get(8..12) != Some(b".FIT") {
            return Err(ImportError::FitHeader);
        }
        let data = u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
        let expected = at as u64 + u64::from(*header) + data + CRC_BYTES;
        let got = bytes.len() as u64;
        if got < expected {
            return Err(ImportError::FitCutShort { expected, got });
        }
        at = usize::try_from(expected).map_err(|_| ImportError::FitCutShort { expected, got })?;
    }
    Ok(())
}

fn decode(bytes: &[u8], with: &mut dyn FnMut(&FitDataRecord)) -> Result<(), ImportError> {
    let (mut rest, mut processor, mut messages) = (bytes, FitStreamProcessor::new(), 0_u64);
    let mut unproved = false;
    while !rest.is_empty() {
        let (after, object) = processor.deserialize_next(rest).map_err(|error| fault(&error))?;
        match object {
            FitObject::Crc(_) => {
                unproved = false;
                processor.reset();
            }
            // A message that runs over the checksum would let the library go on without one.
            FitObject::Header(_) if unproved => return Err(RUNS_OVER),
            FitObject::Header(_) => unproved = true,
            FitObject::DefinitionMessage(_) => messages += 1,
            FitObject::DataMessage(message) => {
                messages += 1;
                with(&processor.decode_message(message).map_err(|error| fault(&error))?);
            }
        }
        if messages > MESSAGES_MAX {
            return Err(ImportError::FitTooLong { max: MESSAGES_MAX });
        }
        rest = after;
    }
    if unproved { Err(RUNS_OVER) } else { Ok(()) }
}

const RUNS_OVER: ImportError = ImportError::FitFault { fault: "a message that runs over the checksum" };

fn fault(error: &ErrorKind) -> ImportError {
    let fault = match error {
        ErrorKind::InvalidCrc((_, _, expected, got)) => {
            return ImportError::FitCrc { expected: *expected, got: *got };
        }
        ErrorKind::MissingDefinitionMessage(..) => "a message before its definition",
        ErrorKind::MissingDeveloperDefinitionMessage() => "a developer field before its description",
        ErrorKind::UnexpectedEof(_) => "a message longer than the file",
        ErrorKind::TrailingBytes(_) => "bytes behind the last message",
        _ => "a message that cannot be read",
    };
    ImportError::FitFault { fault }
}

fn field<'r>(record: &'r FitDataRecord, name: &str) -> Option<&'r Held> {
    record.fields().iter().find(|field| field.name() == name).map(|field| field.value())
}

/// Seconds of Unix time.
fn seconds(record: &FitDataRecord, name: &str) -> Option<i64> {
    match field(record, name)? {
        Held::Timestamp(at) => Some(at.timestamp()),
        _ => None,
    }
}

/// The library leaves a weight in hundredths of a kilogram, as it stands in the file (FIT profile, `weight`).
fn weight(record: &FitDataRecord) -> Option<Decimal> {
    let value = number(record, "weight")?;
    match field(record, "weight")? {
        Held::Float32(_) | Held::Float64(_) => Some(value),
        _ => value.checked_div(Decimal::ONE_HUNDRED).map(|kilograms| kilograms.normalize()),
    }
}

/// Scaled numbers pass through a double in the library; its shortest form is the decimal that the device meant.
fn number(record: &FitDataRecord, name: &str) -> Option<Decimal> {
    match field(record, name)? {
        Held::Timestamp(_) | Held::String(_) | Held::Array(_) | Held::Invalid => None,
        value => decimal(&value.to_string()),
    }
}

fn text(record: &FitDataRecord, name: &str) -> Option<String> {
    field(record, name).map(|value| clean(&value.to_string(), 60)).filter(|text| !text.is_empty())
}

impl Told {
    fn meet(&mut self, record: &FitDataRecord) {
        *self.messages.entry(record.kind().to_string()).or_default() += 1;
        if let Some(at) = seconds(record, "timestamp") {
            self.first_s = Some(self.first_s.map_or(at, |first| first.min(at)));
            self.last_s = Some(self.last_s.map_or(at, |last| last.max(at)));
            if let Some(local) = seconds(record, "local_timestamp") {
                self.local = self.local.or(Some((at, local)));
            }
        }
        if record.kind() == MesgNum::FileId {
            self.file_type = text(record, "type").unwrap_or_else(|| self.file_type.clone());
            self.created_s = seconds(record, "time_created");
            let product = text(record, "garmin_product").or_else(|| text(record, "product"));
            let serial = text(record, "serial_number");
            let device: Vec<String> = product.into_iter().chain(serial).collect();
            self.source = Source {
                name: text(record, "manufacturer").unwrap_or_else(|| "fit".to_owned()),
                device: (!device.is_empty()).then(|| device.join(" ")),
                method: None,
            };
        }
    }

    /// A window by the wearer's clock. Times since the device was switched on become times of that clock where the
    /// file states both, and mean nothing otherwise.
    fn window(&self, start_s: i64, end_s: i64) -> Option<Effective> {
        let (shift_s, offset_min) = match self.local {
            Some((at, local)) if is_system(at) => (local.checked_sub(at)?, 0),
            _ if is_system(start_s) => return None,
            Some((at, local)) => (0, offset(local - at)),
            None => (0, 0),
        };
        let ms = |at: i64| at.checked_add(shift_s)?.checked_mul(1_000);
        let (start_ms, end_ms) = (ms(start_s)?, ms(end_s)?);
        (start_ms <= end_ms).then_some(Effective { start_ms, end_ms, offset_min })
    }
}

fn is_system(unix_s: i64) -> bool {
    unix_s - EPOCH_S < SYSTEM_TIME_MAX_S
}

/// Seconds between two clocks as an offset in quarters of an hour; 0 where no zone has such a one.
fn offset(seconds: i64) -> i16 {
    let minutes = seconds.saturating_add(450).div_euclid(900).saturating_mul(15);
    i16::try_from(minutes).ok().filter(|minutes| minutes.abs() <= 14 * 60).unwrap_or(0)
}

fn observe(bytes: &[u8], told: &Told) -> Result<Vec<Observation>, ImportError> {
    let mut out = Vec::new();
    each(bytes, &mut |record| observe_message(record, told, &mut out))?;
    Ok(out)
}

fn observe_message(record: &FitDataRecord, told: &Told, out: &mut Vec<Observation>) {
    let known: &[(&str, (&str, &str, &str))] = match record.kind() {
        MesgNum::Session => &[
            ("total_distance", ("41953-1", "m", "Distance")),
            ("total_calories", ("41981-2", "kcal", "Energy burned")),
            ("total_strides", ("urn:karte:fit|strides", "1", "Strides")),
        ],
        MesgNum::Record => &[("heart_rate", ("8867-4", "/min", "Heart rate"))],
        MesgNum::WeightScale => {
            &[("weight", ("29463-7", "kg", "Body weight")), ("percent_fat", ("41982-0", "%", "Body fat"))]
        }
        MesgNum::BloodPressure => &[
            ("systolic_pressure", ("8480-6", "mm[Hg]", "Systolic blood pressure")),
            ("diastolic_pressure", ("8462-4", "mm[Hg]", "Diastolic blood pressure")),
            ("heart_rate", ("8867-4", "/min", "Heart rate")),
        ],
        // A counter that a device sets back at midnight: its readings are no steps of their own.
        MesgNum::Monitoring => {
            &[("steps", ("urn:karte:fit|steps-so-far", "{steps}", "Steps since the day began"))]
        }
        _ => return,
    };
    let Some(when) = when(record, told) else { return };
    for (name, what) in known {
        let value = if *name == "weight" { weight(record) } else { number(record, name) };
        let Some(value) = value else { continue };
        let mut said = quantity(*what, value, when, &told.source);
        said.part_of = name.ends_with("_pressure").then(|| super::day::code("85354-9"));
        out.push(said);
    }
}

/// A session lasts from its start to its timestamp; everything else is a moment.
fn when(record: &FitDataRecord, told: &Told) -> Option<Effective> {
    let at = seconds(record, "timestamp")?;
    let start = seconds(record, "start_time").filter(|start| *start <= at);
    told.window(start.unwrap_or(at), at)
}
