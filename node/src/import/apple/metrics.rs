//! What HealthKit's types are called here and elsewhere.
//!
//! For: kind, category, title and code of a type. Not for: guessing: a type without a LOINC code of which we are sure
//! keeps its own identifier.

use crate::import::facts::Code;
use crate::observe::LOINC;

/// The system of HealthKit's own identifiers.
pub(super) const HEALTHKIT: &str = "https://developer.apple.com/documentation/healthkit";

/// Blood pressure panel (LOINC): what a systolic and a diastolic value are parts of.
pub(super) const BLOOD_PRESSURE_PANEL: &str = "85354-9";

/// What a day of one type is filed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metric {
    /// The HealthKit type without its prefix.
    pub(super) name: &'static str,
    /// What follows `daily/`.
    pub(super) kind: &'static str,
    pub(super) category: Option<&'static str>,
    pub(super) title: &'static str,
    /// LOINC.
    pub(super) code: Option<&'static str>,
}

const fn row(
    name: &'static str,
    kind: &'static str,
    category: &'static str,
    title: &'static str,
    code: Option<&'static str>,
) -> Metric {
    Metric { name, kind, category: Some(category), title, code }
}

const ACTIVITY: &str = "activity";
const VITAL: &str = "vital-signs";

#[rustfmt::skip] // a table reads by its lines
const METRICS: &[Metric] = &[
    row("HeartRate", "heart-rate", VITAL, "Heart rate", Some("8867-4")),
    row("StepCount", "steps", ACTIVITY, "Steps", Some("55423-8")),
    row("ActiveEnergyBurned", "energy", ACTIVITY, "Active energy", Some("41981-2")),
    row("BasalEnergyBurned", "energy", ACTIVITY, "Resting energy", None),
    row("DistanceWalkingRunning", "distance", ACTIVITY, "Walking and running distance", Some("41953-1")),
    row("DistanceCycling", "distance", ACTIVITY, "Cycling distance", None),
    row("DistanceSwimming", "distance", ACTIVITY, "Swimming distance", None),
    row("DistanceWheelchair", "distance", ACTIVITY, "Wheelchair distance", None),
    row("FlightsClimbed", "floors", ACTIVITY, "Flights climbed", Some("100304-5")),
    row("RestingHeartRate", "heart-rate", VITAL, "Resting heart rate", Some("40443-4")),
    row("WalkingHeartRateAverage", "heart-rate", VITAL, "Walking heart rate", None),
    row("HeartRateVariabilitySDNN", "heart-rate", VITAL, "Heart rate variability", Some("80404-7")),
    row("OxygenSaturation", "oxygen-saturation", VITAL, "Oxygen saturation", Some("59408-5")),
    row("RespiratoryRate", "respiratory-rate", VITAL, "Respiratory rate", Some("9279-1")),
    row("BodyTemperature", "temperature", VITAL, "Body temperature", Some("8310-5")),
    row("BodyMass", "weight", VITAL, "Weight", Some("29463-7")),
    row("BodyMassIndex", "weight", VITAL, "Body mass index", Some("39156-5")),
    row("BodyFatPercentage", "body-fat", VITAL, "Body fat", Some("41982-0")),
    row("Height", "height", VITAL, "Height", Some("8302-2")),
    row("BloodPressureSystolic", "blood-pressure", VITAL, "Blood pressure", Some("8480-6")),
    row("BloodPressureDiastolic", "blood-pressure", VITAL, "Blood pressure", Some("8462-4")),
    row("BloodPressure", "blood-pressure", VITAL, "Blood pressure", Some(BLOOD_PRESSURE_PANEL)),
    row("BloodGlucose", "glucose", VITAL, "Blood glucose", Some("2339-0")),
    row("SleepAnalysis", "sleep", "sleep", "Sleep", Some("93832-4")),
    row("MindfulSession", "mindfulness", "mindfulness", "Mindful minutes", None),
    row("DietaryEnergyConsumed", "nutrition", "nutrition", "Food", Some("9052-2")),
    row("Food", "nutrition", "nutrition", "Food", None),
    row("Workout", "workout", ACTIVITY, "Workouts", None),
    row("ActivitySummary", "activity", ACTIVITY, "Activity summary", None),
    row("AppleExerciseTime", "activity", ACTIVITY, "Exercise time", None),
    row("AppleStandTime", "activity", ACTIVITY, "Standing time", None),
    row("AppleStandHour", "activity", ACTIVITY, "Standing hours", None),
];

/// Every other nutrient.
const NUTRIENT: Metric = row("Dietary", "nutrition", "nutrition", "Food", None);

pub(super) const OTHER: Metric = Metric { name: "", kind: "other", category: None, title: "", code: None };

/// The prefixes of HealthKit's identifiers.
const PREFIXES: &[&str] = &[
    "HKQuantityTypeIdentifier",
    "HKCategoryTypeIdentifier",
    "HKCorrelationTypeIdentifier",
    "HKDataType",
    "HKClinicalTypeIdentifier",
];

/// A HealthKit identifier without its prefix.
pub(super) fn short(kind: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| kind.strip_prefix(prefix)).unwrap_or(kind)
}

/// What an element of this name and type is filed as.
pub(super) fn metric_of(element: &str, kind: &str) -> &'static Metric {
    let name = match element {
        "Record" | "Correlation" => short(kind),
        other => other,
    };
    match METRICS.iter().find(|metric| metric.name == name) {
        Some(metric) => metric,
        None if name.starts_with("Dietary") => &NUTRIENT,
        None => &OTHER,
    }
}

/// Whether days of this metric hold several types that are one whole. They are small, and their types stand far
/// apart in an export.
pub(super) fn is_whole(metric: &Metric) -> bool {
    matches!(metric.kind, "blood-pressure" | "nutrition" | "workout")
}

/// The code of a type, and of its values in `unit`: LOINC's glucose by mass and by substance are two.
pub(super) fn code_of(metric: &Metric, kind: &str, unit: &str) -> Code {
    let code = match metric.code {
        Some("2339-0") if unit.starts_with("mmol") => Some("15074-8"),
        code => code,
    };
    match code {
        Some(code) => Code { system: LOINC.to_owned(), code: code.to_owned() },
        None => Code { system: HEALTHKIT.to_owned(), code: kind.to_owned() },
    }
}

/// What a person calls a type: `Walking speed` for one that has no row here.
pub(super) fn title_of(metric: &Metric, element: &str, kind: &str) -> String {
    if !metric.title.is_empty() {
        return metric.title.to_owned();
    }
    words(if kind.is_empty() { element } else { short(kind) })
}

/// `Walking speed` of `WalkingSpeed`; capitals that stand together stay.
pub(super) fn words(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (at, &c) in letters.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| letters.get(at));
        let after_small = before.is_some_and(|c| c.is_lowercase() || c.is_ascii_digit());
        let before_small = letters.get(at + 1).is_some_and(|c| c.is_lowercase());
        let begins = c.is_uppercase() && before.is_some() && (after_small || before_small);
        if begins {
            out.push(' ');
        }
        let lower =
            begins && before_small || c.is_uppercase() && after_small && letters.get(at + 1).is_none();
        out.extend(if lower { c.to_lowercase().collect::<Vec<_>>() } else { vec![c] });
    }
    out
}
