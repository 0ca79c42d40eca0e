//! Google Fit: datasets of one data source.
//!
//! Times are nanoseconds of Unix time, so days are those of UTC, with offset 0. Not for: places; location samples
//! are kept as records and read into nothing.

use std::collections::BTreeMap;

use jiff::civil::Date;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::day::{Clock, code, quantity};
use super::vendor::{Exact, Fields, Part, Whole, join, list, parse, take};
use crate::import::error::ImportError;
use crate::import::facts::{Effective, clean};
use crate::observe::{Observation, Source, Value};

const PREFIX: &str = "com.google.";
/// Google's numbers for sleep among its activities: sleep, and light, deep and REM sleep.
const SLEEP: &[i64] = &[72, 109, 110, 111];
/// Names of the commonest activities; the others keep their number.
const ACTIVITIES: &[(i64, &str)] = &[
    (0, "in vehicle"),
    (1, "biking"),
    (2, "on foot"),
    (3, "still"),
    (7, "walking"),
    (8, "running"),
    (9, "aerobics"),
    (72, "sleeping"),
    (82, "swimming"),
    (109, "light sleep"),
    (110, "deep sleep"),
    (111, "REM sleep"),
    (112, "awake"),
];

pub(super) fn claims(fields: &Fields<'_>) -> bool {
    fields.contains_key("dataSourceId")
        && (fields.contains_key("point") || fields.contains_key("minStartTimeNs"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Point {
    start_time_nanos: Whole,
    end_time_nanos: Whole,
    data_type_name: String,
    origin_data_source_id: Option<String>,
    #[serde(default)]
    value: Vec<Held>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Held {
    int_val: Option<Exact>,
    fp_val: Option<Exact>,
}

impl Point {
    fn start_ms(&self) -> i64 {
        self.start_time_nanos.0.div_euclid(1_000_000)
    }

    fn when(&self) -> Option<Effective> {
        Clock::Unstated.window(self.start_ms(), self.end_time_nanos.0.div_euclid(1_000_000))
    }

    fn kind(&self) -> &'static str {
        match self.data_type_name.strip_prefix(PREFIX).unwrap_or_default() {
            "step_count.delta" => "daily/steps",
            "weight" => "daily/weight",
            "height" => "daily/height",
            "heart_rate.bpm" => "daily/heart-rate",
            "calories.expended" => "daily/energy",
            "distance.delta" => "daily/distance",
            "body.fat.percentage" => "daily/body-fat",
            "activity.segment" if self.sleeps() => "daily/sleep",
            "activity.segment" => "daily/activity",
            _ => "daily/other",
        }
    }

    fn sleeps(&self) -> bool {
        let number = self.value.first().and_then(|value| value.int_val).map(|value| value.0);
        number.is_some_and(|number| SLEEP.iter().any(|sleep| number == Decimal::from(*sleep)))
    }
}

pub(super) fn parts(text: &str, fields: &Fields<'_>) -> Result<Vec<Part>, ImportError> {
    let mut days: BTreeMap<(Date, &'static str), Vec<&RawValue>> = BTreeMap::new();
    for raw in list(fields, "point")? {
        let point: Point = parse(raw)?;
        let (_, day) = Clock::Unstated.local(point.start_ms()).ok_or_else(bad_time)?;
        days.entry((day, point.kind())).or_default().push(raw);
    }
    let stream: String = take(fields, "dataSourceId")?.unwrap_or_default();
    let alone = days.len() == 1;
    let wrapped = |elements: &[&RawValue]| match alone {
        true => text.to_owned(),
        false => {
            format!(
                "{{\"dataSourceId\":{},\"point\":{}}}",
                serde_json::Value::from(stream.as_str()),
                join(elements)
            )
        }
    };
    let part = |(day, kind): &(Date, &'static str), list: &[&RawValue]| Part {
        text: wrapped(list),
        shape: kind.trim_start_matches("daily/").to_owned(),
        kind,
        title: title(kind),
        source: clean(&stream, 200),
        day: Some(*day),
        clock: Clock::Unstated,
    };
    Ok(days.iter().map(|(key, list)| part(key, list)).collect())
}

fn bad_time() -> ImportError {
    ImportError::VendorAnswer { vendor: "Google Fit", what: "times within 9999 years", got: "another" }
}

fn title(kind: &str) -> &'static str {
    match kind {
        "daily/steps" => "Steps",
        "daily/weight" => "Weight",
        "daily/height" => "Height",
        "daily/heart-rate" => "Heart rate",
        "daily/energy" => "Energy burned",
        "daily/distance" => "Distance",
        "daily/body-fat" => "Body fat",
        "daily/sleep" => "Sleep",
        "daily/activity" => "Activities",
        _ => "Google Fit",
    }
}

pub(super) fn observations(fields: &Fields<'_>) -> Result<Vec<Observation>, ImportError> {
    let mut out = Vec::new();
    for raw in list(fields, "point")? {
        let point: Point = parse(raw)?;
        out.extend(point.when().and_then(|when| observe(&point, when)));
    }
    Ok(out)
}

fn observe(point: &Point, when: Effective) -> Option<Observation> {
    let held = point.value.first()?;
    let source = source(point.origin_data_source_id.as_deref().unwrap_or_default());
    let what = match point.data_type_name.strip_prefix(PREFIX)? {
        "step_count.delta" => ("55423-8", "{steps}", "Steps"),
        "weight" => ("29463-7", "kg", "Body weight"),
        "height" => ("8302-2", "m", "Body height"),
        "heart_rate.bpm" => ("8867-4", "/min", "Heart rate"),
        "calories.expended" => ("41981-2", "kcal", "Energy burned"),
        "distance.delta" => ("41953-1", "m", "Distance"),
        "body.fat.percentage" => ("41982-0", "%", "Body fat"),
        "activity.segment" if point.sleeps() => {
            let (unit, length) = length(point)?;
            return Some(quantity(("93832-4", unit, "Sleep duration"), length, when, &source));
        }
        "activity.segment" => return Some(activity(held, when, source)),
        _ => return None,
    };
    Some(quantity(what, held.int_val.or(held.fp_val)?.0, when, &source))
}

/// How long, in minutes where they are whole, else in seconds.
fn length(point: &Point) -> Option<(&'static str, Decimal)> {
    let nanos = point.end_time_nanos.0.checked_sub(point.start_time_nanos.0)?;
    match nanos % 60_000_000_000 {
        0 => Some(("min", Decimal::from(nanos / 60_000_000_000))),
        _ => Some(("s", Decimal::try_new(nanos, 9).ok()?.normalize())),
    }
}

fn activity(held: &Held, effective: Effective, source: Source) -> Observation {
    let number = held.int_val.map_or(Decimal::NEGATIVE_ONE, |value| value.0);
    let known = ACTIVITIES.iter().find(|(known, _)| number == Decimal::from(*known));
    let name = known.map_or_else(|| format!("activity {number}"), |(_, name)| (*name).to_owned());
    Observation {
        code: code("urn:karte:google-fit|activity"),
        display: "Activity".to_owned(),
        value: Value::Text(name),
        effective,
        source,
        part_of: None,
    }
}

/// `raw:com.google.weight:com.fatsecret.android:` as the application `com.fatsecret.android`.
fn source(origin: &str) -> Source {
    let mut parts = origin.splitn(4, ':').skip(2);
    let name = parts.next().filter(|name| !name.is_empty()).unwrap_or("google fit");
    let rest = parts.next().unwrap_or_default();
    let manual = rest == "user_input";
    Source {
        name: clean(name, 100),
        device: (!rest.is_empty() && !manual).then(|| clean(rest, 100)),
        method: manual.then(|| "manual".to_owned()),
    }
}
