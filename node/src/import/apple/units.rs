//! HealthKit's unit strings as UCUM.
//!
//! For: renaming, digit for digit. Not for: converting: a weight in pounds stays in pounds.

use super::metrics::Metric;

/// HealthKit's unit strings (HKUnit) and their UCUM codes.
#[rustfmt::skip] // a table reads by its lines
const UNITS: &[(&str, &str)] = &[
    ("%", "%"), ("g", "g"), ("kg", "kg"), ("mg", "mg"), ("mcg", "ug"), ("oz", "[oz_av]"), ("lb", "[lb_av]"),
    ("st", "[stone_av]"), ("m", "m"), ("cm", "cm"), ("mm", "mm"), ("km", "km"), ("in", "[in_i]"), ("ft", "[ft_i]"),
    ("yd", "[yd_i]"), ("mi", "[mi_i]"), ("L", "L"), ("mL", "mL"), ("dL", "dL"), ("l", "L"), ("ml", "mL"),
    ("fl_oz_us", "[foz_us]"), ("fl_oz_imp", "[foz_br]"), ("cup_us", "[cup_us]"), ("pt_us", "[pt_us]"),
    ("Pa", "Pa"), ("kPa", "kPa"), ("mmHg", "mm[Hg]"), ("cmAq", "cm[H2O]"), ("s", "s"), ("ms", "ms"), ("min", "min"),
    ("hr", "h"), ("d", "d"), ("J", "J"), ("kJ", "kJ"), ("cal", "cal"), ("kcal", "kcal"), ("Cal", "kcal"),
    ("degC", "Cel"), ("degF", "[degF]"), ("K", "K"), ("S", "S"), ("mcS", "uS"), ("V", "V"), ("W", "W"),
    ("IU", "[IU]"), ("Hz", "Hz"), ("mg/dL", "mg/dL"), ("g/L", "g/L"), ("count/min", "/min"), ("count/s", "/s"),
    ("mL/min·kg", "mL/kg/min"), ("mL/kg·min", "mL/kg/min"), ("L/min", "L/min"), ("km/hr", "km/h"), ("m/s", "m/s"),
    ("cm/s", "cm/s"), ("mi/hr", "[mi_i]/h"), ("ft/s", "[ft_i]/s"), ("kcal/hr·kg", "kcal/kg/h"),
];

/// The UCUM code of `written`; one that is not known stands in the braces that UCUM has for such.
pub(super) fn ucum(metric: &Metric, written: &str) -> String {
    match (written, metric.name) {
        ("count", "StepCount") => return "{steps}".to_owned(),
        ("count", "FlightsClimbed") => return "{flights}".to_owned(),
        ("count", "BodyMassIndex") => return "kg/m2".to_owned(),
        ("count" | "", _) => return "1".to_owned(),
        _ => {}
    }
    if let Some((_, code)) = UNITS.iter().find(|(unit, _)| *unit == written) {
        return (*code).to_owned();
    }
    match written.strip_prefix("mmol<").and_then(|rest| rest.split_once('>')) {
        // The number is the molar mass, which the substance already says.
        Some((_, "/L")) => "mmol/L".to_owned(),
        // An annotation is ASCII without braces (UCUM, section 6).
        _ => format!("{{{}}}", written.replace(|c: char| !c.is_ascii_graphic() || "{}".contains(c), "_")),
    }
}
