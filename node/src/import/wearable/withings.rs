//! Withings: body measures, activity by the minute, and sleep.
//!
//! Days are those of the zone the answer names, else of UTC. Measures are whole numbers with a power of ten, so they
//! stay exact. Goals are kept and not read: nobody measured them. Not for: types without a known meaning (18, ...).

use std::collections::BTreeMap;

use jiff::civil::Date;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::day::{Clock, code, quantity};
use super::vendor::{Exact, Fields, Part, fields, join, list, parse, take};
use crate::import::error::ImportError;
use crate::import::facts::{Effective, clean};
use crate::observe::{Observation, Source, Value};

/// Withings' measure types: code, unit, words.
const MEASURES: &[(i64, &str, &str, &str)] = &[
    (1, "29463-7", "kg", "Body weight"),
    (4, "8302-2", "m", "Body height"),
    (5, "urn:karte:withings|fat-free-mass", "kg", "Fat-free mass"),
    (6, "41982-0", "%", "Body fat"),
    (8, "urn:karte:withings|fat-mass", "kg", "Fat mass"),
    (9, "8462-4", "mm[Hg]", "Diastolic blood pressure"),
    (10, "8480-6", "mm[Hg]", "Systolic blood pressure"),
    (11, "8867-4", "/min", "Heart rate"),
    (12, "8310-5", "Cel", "Temperature"),
    (54, "59408-5", "%", "Oxygen saturation"),
    (71, "8310-5", "Cel", "Body temperature"),
    (73, "urn:karte:withings|skin-temperature", "Cel", "Skin temperature"),
    (76, "urn:karte:withings|muscle-mass", "kg", "Muscle mass"),
    (77, "urn:karte:withings|water", "kg", "Body water"),
    (88, "urn:karte:withings|bone-mass", "kg", "Bone mass"),
];
/// The category of a real measure; 2 is a goal.
const MEASURED: i64 = 1;

pub(super) fn claims(outer: &Fields<'_>) -> bool {
    let known = |body: &Fields<'_>| body.contains_key("measuregrps") || is_series(body);
    outer.contains_key("status") && body(outer).is_ok_and(|body| known(&body))
}

/// A series keyed by time, or a list with start and end.
fn is_series(body: &Fields<'_>) -> bool {
    body.get("series").is_some_and(|raw| match raw.get().starts_with('{') {
        true => fields(raw.get()).is_ok_and(|series| series.keys().all(|key| key.parse::<i64>().is_ok())),
        false => list(body, "series").is_ok_and(|list| list.iter().all(|one| parse::<Sleep>(one).is_ok())),
    })
}

fn body<'a>(outer: &Fields<'a>) -> Result<Fields<'a>, ImportError> {
    fields(outer.get("body").map_or("{}", |raw| raw.get()))
}

#[derive(Deserialize)]
struct Group {
    date: i64,
    #[serde(default)]
    category: i64,
    attrib: Option<i64>,
    deviceid: Option<String>,
    #[serde(default)]
    measures: Vec<Measure>,
}

#[derive(Deserialize)]
struct Measure {
    #[serde(rename = "type")]
    kind: i64,
    unit: i32,
    value: i64,
}

#[derive(Deserialize)]
struct Minute {
    duration: Option<i64>,
    steps: Option<Exact>,
    distance: Option<Exact>,
    calories: Option<Exact>,
    elevation: Option<Exact>,
}

/// A stage of a night, or the summary of one.
#[derive(Deserialize)]
struct Sleep {
    startdate: i64,
    enddate: i64,
    state: Option<i64>,
    date: Option<Date>,
    timezone: Option<String>,
    data: Option<Night>,
}

#[derive(Deserialize)]
struct Night {
    lightsleepduration: Option<Exact>,
    deepsleepduration: Option<Exact>,
    remsleepduration: Option<Exact>,
    wakeupduration: Option<Exact>,
}

impl Group {
    /// What a group is about; several things make it something else.
    fn kind(&self) -> &'static str {
        let pressure = self.measures.iter().any(|one| matches!(one.kind, 9 | 10));
        let mass = self.measures.iter().any(|one| matches!(one.kind, 1 | 4 | 5 | 6 | 8));
        let pulse = self.measures.iter().any(|one| one.kind == 11);
        match (pressure, mass, pulse) {
            _ if self.category != MEASURED => "daily/other",
            (true, false, _) => "daily/blood-pressure",
            (false, true, false) => "daily/weight",
            (false, false, true) => "daily/heart-rate",
            _ => "daily/other",
        }
    }
}

pub(super) fn parts(text: &str, outer: &Fields<'_>) -> Result<Vec<Part>, ImportError> {
    let body = body(outer)?;
    if body.contains_key("measuregrps") {
        return measure_parts(text, &body);
    }
    match body.get("series").is_some_and(|raw| raw.get().starts_with('{')) {
        true => minute_parts(text, &body),
        false => sleep_parts(text, &body),
    }
}

fn part(
    text: String,
    shape: &str,
    kind: &'static str,
    title: &'static str,
    day: Date,
    clock: &Clock,
) -> Part {
    let (shape, source) = (shape.to_owned(), "withings".to_owned());
    Part { text, shape, kind, title, source, day: Some(day), clock: clock.clone() }
}

fn clock(body: &Fields<'_>) -> Result<Clock, ImportError> {
    Ok(Clock::new(None, take::<String>(body, "timezone")?.as_deref()))
}

fn day_of(clock: &Clock, seconds: i64) -> Result<Date, ImportError> {
    let local = seconds.checked_mul(1_000).and_then(|ms| clock.local(ms));
    local.map(|(_, day)| day).ok_or(ImportError::VendorAnswer {
        vendor: "Withings",
        what: "times within 9999 years",
        got: "another",
    })
}

fn measure_parts(text: &str, body: &Fields<'_>) -> Result<Vec<Part>, ImportError> {
    let clock = clock(body)?;
    let mut days: BTreeMap<(Date, &'static str), Vec<&RawValue>> = BTreeMap::new();
    for raw in list(body, "measuregrps")? {
        let group: Group = parse(raw)?;
        days.entry((day_of(&clock, group.date)?, group.kind())).or_default().push(raw);
    }
    let zone = body.get("timezone").map_or(String::new(), |raw| format!(",\"timezone\":{}", raw.get()));
    let alone = days.len() == 1;
    let wrapped = |elements: &[&RawValue]| match alone {
        true => text.to_owned(),
        false => format!("{{\"status\":0,\"body\":{{\"measuregrps\":{}{zone}}}}}", join(elements)),
    };
    let part = |(day, kind): &(Date, &'static str), list: &[&RawValue]| {
        let title = match *kind {
            "daily/blood-pressure" => "Blood pressure",
            "daily/weight" => "Weight",
            "daily/heart-rate" => "Heart rate",
            _ => "Body measures",
        };
        part(
            wrapped(list),
            &format!("measures-{}", kind.trim_start_matches("daily/")),
            kind,
            title,
            *day,
            &clock,
        )
    };
    Ok(days.iter().map(|(key, list)| part(key, list)).collect())
}

fn minute_parts(text: &str, body: &Fields<'_>) -> Result<Vec<Part>, ImportError> {
    let clock = clock(body)?;
    let series: BTreeMap<i64, &RawValue> = take(body, "series")?.unwrap_or_default();
    let mut days: BTreeMap<Date, Vec<String>> = BTreeMap::new();
    for (at, raw) in &series {
        days.entry(day_of(&clock, *at)?).or_default().push(format!("\"{at}\":{}", raw.get()));
    }
    let alone = days.len() == 1;
    let wrapped = |elements: &[String]| match alone {
        true => text.to_owned(),
        false => format!("{{\"status\":0,\"body\":{{\"series\":{{{}}}}}}}", elements.join(",")),
    };
    let (shape, kind) = ("intraday", "daily/activity");
    Ok(days.iter().map(|(day, list)| part(wrapped(list), shape, kind, "Activity", *day, &clock)).collect())
}

fn sleep_parts(text: &str, body: &Fields<'_>) -> Result<Vec<Part>, ImportError> {
    let mut days: BTreeMap<Date, (Clock, Vec<&RawValue>)> = BTreeMap::new();
    for raw in list(body, "series")? {
        let sleep: Sleep = parse(raw)?;
        let clock = Clock::new(None, sleep.timezone.as_deref());
        let day = sleep.date.map_or_else(|| day_of(&clock, sleep.enddate), Ok)?;
        days.entry(day).or_insert_with(|| (clock, Vec::new())).1.push(raw);
    }
    let alone = days.len() == 1;
    let wrapped = |elements: &[&RawValue]| match alone {
        true => text.to_owned(),
        false => format!("{{\"status\":0,\"body\":{{\"series\":{}}}}}", join(elements)),
    };
    let made = |day: &Date, clock: &Clock, list: &[&RawValue]| {
        part(wrapped(list), "sleep", "daily/sleep", "Sleep", *day, clock)
    };
    Ok(days.iter().map(|(day, (clock, list))| made(day, clock, list)).collect())
}

pub(super) fn observations(outer: &Fields<'_>) -> Result<Vec<Observation>, ImportError> {
    let body = body(outer)?;
    let clock = clock(&body)?;
    let mut out = Vec::new();
    for raw in list(&body, "measuregrps")? {
        observe_group(&parse::<Group>(raw)?, &clock, &mut out);
    }
    match body.get("series").is_some_and(|raw| raw.get().starts_with('{')) {
        true => {
            let series: BTreeMap<i64, Minute> = take(&body, "series")?.unwrap_or_default();
            series.iter().for_each(|(at, minute)| observe_minute(*at, minute, &clock, &mut out));
        }
        false => {
            for raw in list(&body, "series")? {
                observe_sleep(&parse::<Sleep>(raw)?, &mut out);
            }
        }
    }
    Ok(out)
}

fn window(clock: &Clock, start: i64, end: i64) -> Option<Effective> {
    clock.window(start.checked_mul(1_000)?, end.checked_mul(1_000)?)
}

fn source(device: Option<&str>, method: Option<&str>) -> Source {
    Source {
        name: "withings".to_owned(),
        device: device.map(|text| clean(text, 100)),
        method: method.map(str::to_owned),
    }
}

fn observe_group(group: &Group, clock: &Clock, out: &mut Vec<Observation>) {
    let method = match group.attrib {
        Some(0) => Some("automatic"),
        Some(2 | 4) => Some("manual"),
        _ => None,
    };
    let source = source(group.deviceid.as_deref(), method);
    let Some(when) = window(clock, group.date, group.date).filter(|_| group.category == MEASURED) else {
        return;
    };
    for measure in &group.measures {
        let known = MEASURES.iter().find(|known| known.0 == measure.kind);
        if let (Some((_, code_text, unit, words)), Some(value)) = (known, scaled(measure)) {
            let mut said = quantity((code_text, unit, words), value, when, &source);
            said.part_of = matches!(measure.kind, 9 | 10).then(|| code("85354-9"));
            out.push(said);
        }
    }
}

/// `value` times ten to the power of `unit`, exactly.
fn scaled(measure: &Measure) -> Option<Decimal> {
    match u32::try_from(measure.unit) {
        Ok(up) => Decimal::from(measure.value).checked_mul(Decimal::from(10_i64.checked_pow(up)?)),
        Err(_) => Decimal::try_new(measure.value, measure.unit.unsigned_abs()).ok(),
    }
}

fn observe_minute(at: i64, minute: &Minute, clock: &Clock, out: &mut Vec<Observation>) {
    let end = at.checked_add(minute.duration.unwrap_or(0));
    let Some(when) = end.and_then(|end| window(clock, at, end)) else {
        return;
    };
    let values = [
        (("55423-8", "{steps}", "Steps"), minute.steps),
        (("41953-1", "m", "Distance"), minute.distance),
        (("41981-2", "kcal", "Energy burned"), minute.calories),
        (("urn:karte:withings|elevation", "m", "Climbed"), minute.elevation),
    ];
    for (what, value) in values {
        out.extend(value.map(|value| quantity(what, value.0, when, &source(None, None))));
    }
}

fn observe_sleep(sleep: &Sleep, out: &mut Vec<Observation>) {
    let clock = Clock::new(None, sleep.timezone.as_deref());
    let Some(when) = window(&clock, sleep.startdate, sleep.enddate) else {
        return;
    };
    let source = source(None, None);
    if let Some(stage) = sleep.state {
        let name = match stage {
            0 => "awake".to_owned(),
            1 => "light".to_owned(),
            2 => "deep".to_owned(),
            3 => "REM".to_owned(),
            other => format!("state {other}"),
        };
        out.push(Observation {
            code: code("urn:karte:sleep|stage"),
            display: "Stage of sleep".to_owned(),
            value: Value::Text(name),
            effective: when,
            source: source.clone(),
            part_of: None,
        });
    }
    let Some(night) = &sleep.data else { return };
    let stages = [night.lightsleepduration, night.deepsleepduration, night.remsleepduration];
    // The vendor states the stages; asleep is their sum, in the same unit.
    let asleep = stages.iter().flatten().try_fold(Decimal::ZERO, |sum, stage| sum.checked_add(stage.0));
    let values = [
        (("93832-4", "s", "Sleep duration"), asleep.filter(|_| stages.iter().any(Option::is_some))),
        (("93830-8", "s", "Light sleep"), stages[0].map(|value| value.0)),
        (("93831-6", "s", "Deep sleep"), stages[1].map(|value| value.0)),
        (("93829-0", "s", "REM sleep"), stages[2].map(|value| value.0)),
        (("urn:karte:sleep|awake", "s", "Awake in the night"), night.wakeupduration.map(|value| value.0)),
    ];
    for (what, value) in values {
        out.extend(value.map(|value| quantity(what, value, when, &source)));
    }
}
