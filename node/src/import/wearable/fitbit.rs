//! Fitbit Web API: time series of activity, intraday series, days of activity, and sleep.
//!
//! Times are the wearer's, without zone: kept as written, with offset 0. Distances are not read: their unit depends
//! on a request header that the answer does not repeat. Not for: Fitabase's CSV, which is a mapping.

use std::collections::BTreeMap;

use jiff::civil::{Date, DateTime};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::day::{Clock, code, quantity};
use super::vendor::{Exact, Fields, Part, fields, join, lasting, list, parse, take};
use crate::import::error::ImportError;
use crate::import::facts::{Effective, clean};
use crate::observe::{Observation, Source, Value};

const SERIES: &str = "activities-";
const INTRADAY: &str = "-intraday";
/// What a series counts: its name here, code, unit, words, kind.
const COUNTED: &[(&str, &str, &str, &str, &str)] = &[
    ("steps", "41950-7", "{steps}", "Steps in a day", "daily/steps"),
    ("floors", "100304-5", "1", "Floors climbed", "daily/floors"),
    ("calories", "41981-2", "kcal", "Energy burned", "daily/energy"),
    ("minutesSedentary", "urn:karte:fitbit|minutesSedentary", "min", "Sedentary", "daily/activity"),
    (
        "minutesLightlyActive",
        "urn:karte:fitbit|minutesLightlyActive",
        "min",
        "Lightly active",
        "daily/activity",
    ),
    ("minutesFairlyActive", "urn:karte:fitbit|minutesFairlyActive", "min", "Fairly active", "daily/activity"),
    ("minutesVeryActive", "urn:karte:fitbit|minutesVeryActive", "min", "Very active", "daily/activity"),
];

pub(super) fn claims(fields: &Fields<'_>) -> bool {
    let series = series(fields).is_some_and(|(key, _)| {
        list(fields, key).is_ok_and(|list| list.iter().all(|one| parse::<Point<'_>>(one).is_ok()))
    });
    let has = |outer: &str, inner: &str| {
        fields.get(outer).is_some_and(|raw| self::fields(raw.get()).is_ok_and(|f| f.contains_key(inner)))
    };
    let listed = |key: &str| fields.get(key).is_some_and(|raw| raw.get().starts_with('['));
    let day = listed("activities") && has("summary", "caloriesOut");
    let dated = |one: &&RawValue| self::fields(one.get()).is_ok_and(|f| f.contains_key("dateOfSleep"));
    let nights = list(fields, "sleep").is_ok_and(|list| list.iter().any(dated));
    series || day || (listed("sleep") && (nights || has("summary", "totalMinutesAsleep")))
}

/// The series of an answer: its key and what it counts.
fn series<'f>(fields: &'f Fields<'_>) -> Option<(&'f str, &'f str)> {
    let named = fields.keys().filter_map(|key| Some((key.as_str(), key.strip_prefix(SERIES)?)));
    named.into_iter().find(|(key, _)| !key.ends_with(INTRADAY))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Point<'a> {
    date_time: Date,
    #[serde(borrow)]
    value: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Intraday {
    #[serde(default)]
    dataset: Vec<Minute>,
    dataset_interval: Option<i64>,
    dataset_type: Option<String>,
}

#[derive(Deserialize)]
struct Minute {
    time: jiff::civil::Time,
    value: Exact,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Night {
    date_of_sleep: Date,
    start_time: DateTime,
    duration: i64,
    minutes_asleep: Option<Exact>,
    time_in_bed: Option<Exact>,
    levels: Option<Levels>,
}

#[derive(Deserialize)]
struct Levels {
    #[serde(default)]
    data: Vec<Stage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stage {
    date_time: DateTime,
    level: String,
    seconds: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Activity {
    start_date: Date,
    start_time: Option<String>,
    #[serde(default)]
    has_start_time: bool,
    name: Option<String>,
    duration: Option<i64>,
    steps: Option<Exact>,
    calories: Option<Exact>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Summary {
    steps: Option<Exact>,
    calories_out: Option<Exact>,
    floors: Option<Exact>,
    resting_heart_rate: Option<Exact>,
    sedentary_minutes: Option<Exact>,
    lightly_active_minutes: Option<Exact>,
    fairly_active_minutes: Option<Exact>,
    very_active_minutes: Option<Exact>,
}

pub(super) fn parts(text: &str, fields: &Fields<'_>) -> Result<Vec<Part>, ImportError> {
    if let Some((key, counts)) = series(fields) {
        return series_parts(text, fields, key, counts);
    }
    if fields.contains_key("sleep") {
        return sleep_parts(text, fields);
    }
    Ok(vec![part(text.to_owned(), "activities", "daily/activity", "Day of activity", activity_day(fields)?)])
}

fn part(text: String, shape: &str, kind: &'static str, title: &'static str, day: Option<Date>) -> Part {
    let (source, clock) = ("fitbit".to_owned(), Clock::Unstated);
    Part { text, shape: clean(shape, 60), kind, title, source, day, clock }
}

fn series_parts(text: &str, fields: &Fields<'_>, key: &str, counts: &str) -> Result<Vec<Part>, ImportError> {
    let kind = match counts {
        "heart" => "daily/heart-rate",
        "distance" => "daily/distance",
        other => COUNTED.iter().find(|known| known.0 == other).map_or("daily/activity", |known| known.4),
    };
    let title = COUNTED.iter().find(|known| known.0 == counts).map_or("Day of activity", |known| known.3);
    let days = by_day(list(fields, key)?, |raw| Ok(parse::<Point<'_>>(raw)?.date_time))?;
    let alone = days.len() == 1;
    if !alone && fields.keys().any(|key| key.ends_with(INTRADAY)) && !days.is_empty() {
        return Err(fault("one day with an intraday series", "several days"));
    }
    let shape = if fields.keys().any(|key| key.ends_with(INTRADAY)) {
        format!("{counts}{INTRADAY}")
    } else {
        counts.to_owned()
    };
    let wrapped = |elements: &[&RawValue]| match alone {
        true => text.to_owned(),
        false => format!("{{{}:{}}}", serde_json::Value::from(key), join(elements)),
    };
    Ok(days.iter().map(|(day, list)| part(wrapped(list), &shape, kind, title, Some(*day))).collect())
}

fn sleep_parts(text: &str, fields: &Fields<'_>) -> Result<Vec<Part>, ImportError> {
    let days = by_day(list(fields, "sleep")?, |raw| Ok(parse::<Night>(raw)?.date_of_sleep))?;
    let alone = days.len() == 1;
    let wrapped = |elements: &[&RawValue]| match alone {
        true => text.to_owned(),
        false => format!("{{\"sleep\":{}}}", join(elements)),
    };
    Ok(days
        .iter()
        .map(|(day, list)| part(wrapped(list), "sleep", "daily/sleep", "Sleep", Some(*day)))
        .collect())
}

type Days<'a> = BTreeMap<Date, Vec<&'a RawValue>>;

fn by_day<'a>(
    list: Vec<&'a RawValue>,
    day: impl Fn(&'a RawValue) -> Result<Date, ImportError>,
) -> Result<Days<'a>, ImportError> {
    let mut days = Days::new();
    for raw in list {
        days.entry(day(raw)?).or_default().push(raw);
    }
    Ok(days)
}

/// The one day of an answer's activities. An answer without any does not say its day.
fn activity_day(fields: &Fields<'_>) -> Result<Option<Date>, ImportError> {
    let days = by_day(list(fields, "activities")?, |raw| Ok(parse::<Activity>(raw)?.start_date))?;
    match days.len() {
        0 | 1 => Ok(days.keys().next().copied()),
        _ => Err(fault("the activities of one day", "several days")),
    }
}

fn fault(what: &'static str, got: &'static str) -> ImportError {
    ImportError::VendorAnswer { vendor: "Fitbit", what, got }
}

fn source() -> Source {
    Source { name: "fitbit".to_owned(), ..Source::default() }
}

pub(super) fn observations(fields: &Fields<'_>) -> Result<Vec<Observation>, ImportError> {
    let mut out = Vec::new();
    if let Some((key, counts)) = series(fields) {
        for raw in list(fields, key)? {
            observe_point(&parse::<Point<'_>>(raw)?, counts, &mut out)?;
        }
        observe_intraday(fields, key, counts, &mut out)?;
    } else if fields.contains_key("sleep") {
        for raw in list(fields, "sleep")? {
            observe_night(&parse::<Night>(raw)?, &mut out);
        }
    } else if let Some(day) = activity_day(fields)?.and_then(|day| Clock::Unstated.day(day)) {
        observe_summary(&take(fields, "summary")?.unwrap_or_default(), day, &mut out);
        for raw in list(fields, "activities")? {
            observe_activity(&parse::<Activity>(raw)?, &mut out);
        }
    }
    Ok(out)
}

fn observe_point(point: &Point<'_>, counts: &str, out: &mut Vec<Observation>) -> Result<(), ImportError> {
    let Some(day) = Clock::Unstated.day(point.date_time) else {
        return Ok(());
    };
    if counts == "heart" {
        let resting: Option<Exact> = take(&fields(point.value.get())?, "restingHeartRate")?;
        let what = ("40443-4", "/min", "Resting heart rate");
        out.extend(resting.map(|rate| quantity(what, rate.0, day, &source())));
    } else if let Some((_, code, unit, words, _)) = COUNTED.iter().find(|known| known.0 == counts) {
        let value: Exact = parse(point.value)?;
        out.push(quantity((code, unit, words), value.0, day, &source()));
    }
    Ok(())
}

fn observe_intraday(
    fields: &Fields<'_>,
    key: &str,
    counts: &str,
    out: &mut Vec<Observation>,
) -> Result<(), ImportError> {
    let what = match counts {
        "steps" => ("55423-8", "{steps}", "Steps"),
        "heart" => ("8867-4", "/min", "Heart rate"),
        "floors" => ("100304-5", "1", "Floors climbed"),
        "calories" => ("41981-2", "kcal", "Energy burned"),
        _ => return Ok(()),
    };
    let (Some(series), Some(first)) =
        (take::<Intraday>(fields, &format!("{key}{INTRADAY}"))?, list(fields, key)?.first().copied())
    else {
        return Ok(());
    };
    let day = parse::<Point<'_>>(first)?.date_time;
    let unit_ms = match series.dataset_type.as_deref() {
        Some("minute") => 60_000,
        Some("second") => 1_000,
        _ => 0,
    };
    let ms = series.dataset_interval.unwrap_or(0).saturating_mul(unit_ms);
    for minute in series.dataset {
        let start = Clock::Unstated.at(day.to_datetime(minute.time));
        if let Some(when) = start.and_then(|start| lasting(start, ms)) {
            out.push(quantity(what, minute.value.0, when, &source()));
        }
    }
    Ok(())
}

fn observe_night(night: &Night, out: &mut Vec<Observation>) {
    let window = |start: DateTime, ms: i64| lasting(Clock::Unstated.at(start)?, ms);
    if let Some(when) = window(night.start_time, night.duration) {
        let asleep = ("93832-4", "min", "Sleep duration");
        let in_bed = ("urn:karte:fitbit|timeInBed", "min", "Time in bed");
        out.extend(night.minutes_asleep.map(|value| quantity(asleep, value.0, when, &source())));
        out.extend(night.time_in_bed.map(|value| quantity(in_bed, value.0, when, &source())));
    }
    for stage in night.levels.iter().flat_map(|levels| &levels.data) {
        if let Some(when) = window(stage.date_time, stage.seconds.saturating_mul(1_000)) {
            out.push(said(("urn:karte:sleep|stage", "Stage of sleep"), &stage.level, when));
        }
    }
}

fn said(what: (&str, &str), text: &str, effective: Effective) -> Observation {
    Observation {
        code: code(what.0),
        display: what.1.to_owned(),
        value: Value::Text(clean(text, 200)),
        effective,
        source: source(),
        part_of: None,
    }
}

/// Code, unit and words.
type What = (&'static str, &'static str, &'static str);

fn observe_summary(summary: &Summary, day: Effective, out: &mut Vec<Observation>) {
    let values: [(What, Option<Exact>); 8] = [
        (("41950-7", "{steps}", "Steps in a day"), summary.steps),
        (("41981-2", "kcal", "Energy burned"), summary.calories_out),
        (("100304-5", "1", "Floors climbed"), summary.floors),
        (("40443-4", "/min", "Resting heart rate"), summary.resting_heart_rate),
        (("urn:karte:fitbit|minutesSedentary", "min", "Sedentary"), summary.sedentary_minutes),
        (("urn:karte:fitbit|minutesLightlyActive", "min", "Lightly active"), summary.lightly_active_minutes),
        (("urn:karte:fitbit|minutesFairlyActive", "min", "Fairly active"), summary.fairly_active_minutes),
        (("urn:karte:fitbit|minutesVeryActive", "min", "Very active"), summary.very_active_minutes),
    ];
    for (what, value) in values {
        out.extend(value.map(|value| quantity(what, value.0, day, &source())));
    }
}

/// An activity without a clock of its own covers its day.
fn observe_activity(activity: &Activity, out: &mut Vec<Observation>) {
    let clock = activity.start_time.as_deref().filter(|_| activity.has_start_time);
    let start = clock.and_then(|text| jiff::civil::Time::strptime("%H:%M", text).ok());
    let when = match start {
        None => Clock::Unstated.day(activity.start_date),
        Some(time) => Clock::Unstated
            .at(activity.start_date.to_datetime(time))
            .and_then(|start| lasting(start, activity.duration.unwrap_or(0))),
    };
    let Some(when) = when else { return };
    out.extend(activity.name.iter().map(|name| said(("urn:karte:workout|name", "Workout"), name, when)));
    let value =
        |what, value: Option<Exact>| value.map(|value: Exact| quantity(what, value.0, when, &source()));
    out.extend(value(
        ("55423-8", "{steps}", "Steps"),
        activity.steps.filter(|steps| steps.0 > Decimal::ZERO),
    ));
    out.extend(value(("41981-2", "kcal", "Energy burned"), activity.calories));
}
