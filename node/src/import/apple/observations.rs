//! A day of an export, read back as observations.
//!
//! For: values as they are written, with code, unit in UCUM, time and source. Not for: adding up (a phone and a watch
//! both count the same steps), and not for converting. A value that is not a number is kept as a text.
//!
//! HealthKit stores percentages as fractions (0.97 with the unit `%`); they come out as 97.

use rust_decimal::Decimal;

use super::ROOT;
use super::groups::source_name;
use super::metrics::{self, BLOOD_PRESSURE_PANEL, HEALTHKIT, Metric};
use super::units::ucum;
use crate::import::error::ImportError;
use crate::import::facts::{Code, Effective};
use crate::import::time;
use crate::import::xml::{Children, Part, said};
use crate::observe::{LOINC, Observation, Source, Value};

/// What a day's record says. Errors: it is not the XML of one; an element whose time is not one says nothing.
pub fn observations(bytes: &[u8]) -> Result<Vec<Observation>, ImportError> {
    let mut children = Children::open(bytes, ROOT)?;
    let mut found = Found::default();
    loop {
        let mut nodes = Vec::new();
        let Some(child) = children.next(&mut |part| hear(&mut nodes, &part))? else {
            return Ok(found.once());
        };
        if let Some(reason) = child.fault {
            return Err(reason);
        }
        if let Some((whole, inner)) = nodes.split_first() {
            found.child(whole, inner);
        }
    }
}

/// An element and what its attributes say.
#[derive(Debug, Default)]
struct Node {
    depth: usize,
    name: String,
    attributes: Vec<(String, String)>,
}

fn hear(nodes: &mut Vec<Node>, part: &Part<'_>) {
    match *part {
        Part::Element { depth, name } => {
            nodes.push(Node { depth, name: name.to_owned(), attributes: Vec::new() });
        }
        Part::Attribute { name, value, .. } => {
            if let Some(node) = nodes.last_mut() {
                node.attributes.push((name.to_owned(), said(value).into_owned()));
            }
        }
    }
}

impl Node {
    fn get(&self, name: &str) -> &str {
        self.attributes.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }

    fn effective(&self) -> Option<Effective> {
        let first = ["startDate", "dateComponents", "dateIssued", "receivedDate"];
        let start = first.iter().find_map(|name| time::apple(self.get(name)))?;
        let end = time::apple(self.get("endDate")).filter(|end| end.end_ms > start.end_ms);
        Some(Effective { end_ms: end.map_or(start.end_ms, |end| end.end_ms), ..start })
    }

    fn source(&self) -> Source {
        let device = self.get("device");
        Source {
            name: source_name(self.get("sourceName")),
            device: model_of(device).map(str::to_owned),
            method: None,
        }
    }
}

/// `Watch6,4` of `<<HKDevice: 0x1>, name:Apple Watch, manufacturer:Apple Inc., hardware:Watch6,4, software:10>`;
/// all of it where it has no such parts.
fn model_of(device: &str) -> Option<&str> {
    let part = |name: &str| {
        let (_, rest) = device.split_once(name)?;
        Some(rest.split_once(", ").map_or(rest.trim_end_matches('>'), |(value, _)| value))
    };
    let model = part(", hardware:").or_else(|| part(", model:")).or_else(|| part(", name:"));
    model.or((!device.is_empty()).then_some(device))
}

#[derive(Default)]
struct Found {
    list: Vec<Observation>,
    /// Places in `list` of what stands in a correlation: an export says it there and once more on its own.
    inner: Vec<usize>,
}

impl Found {
    fn child(&mut self, node: &Node, inner: &[Node]) {
        match node.name.as_str() {
            "Record" => self.list.extend(record(node, inner, None)),
            "Correlation" => self.correlation(node, inner),
            "Workout" => self.workout(node, inner),
            "ActivitySummary" => self.summary(node),
            _ => {}
        }
    }

    fn correlation(&mut self, node: &Node, inner: &[Node]) {
        let metric = metrics::metric_of(&node.name, node.get("type"));
        let whole = metrics::code_of(metric, node.get("type"), "");
        // A meal has a name; a blood pressure is only its parts.
        let named = metadata(inner, "HKFoodType").filter(|_| metric.name == "Food");
        if let (Some(name), Some(effective)) = (named, node.effective()) {
            self.list.push(Observation {
                code: whole.clone(),
                display: "Meal".to_owned(),
                value: Value::Text(name.to_owned()),
                effective,
                source: node.source(),
                part_of: None,
            });
        }
        for (at, part) in inner.iter().enumerate().filter(|(_, part)| part.name == "Record") {
            let below = inner.get(at + 1..).unwrap_or_default();
            let below: Vec<&Node> = below.iter().take_while(|node| node.depth > part.depth).collect();
            if let Some(observation) = record_with(part, &below, Some(whole.clone())) {
                self.inner.push(self.list.len());
                self.list.push(observation);
            }
        }
    }

    fn workout(&mut self, node: &Node, inner: &[Node]) {
        let Some(effective) = node.effective() else { return };
        let code = healthkit("HKWorkoutTypeIdentifier");
        let activity = node.get("workoutActivityType");
        let activity = activity.strip_prefix("HKWorkoutActivityType").unwrap_or(activity);
        let part = |code: Code, display: String, value: Value| Observation {
            code,
            display,
            value,
            effective,
            source: node.source(),
            part_of: Some(healthkit("HKWorkoutTypeIdentifier")),
        };
        let whole = part(code, "Workout".to_owned(), Value::Text(sentence(activity)));
        self.list.push(Observation { part_of: None, ..whole });
        for (name, unit) in [
            ("duration", "durationUnit"),
            ("totalDistance", "totalDistanceUnit"),
            ("totalEnergyBurned", "totalEnergyBurnedUnit"),
        ] {
            if let Some(value) = quantity(&metrics::OTHER, node.get(name), node.get(unit)) {
                self.list.push(part(healthkit(&format!("HKWorkout.{name}")), sentence(name), value));
            }
        }
        for sums in inner.iter().filter(|node| node.name == "WorkoutStatistics") {
            let kind = sums.get("type");
            let metric = metrics::metric_of("Record", kind);
            if let Some(value) = quantity(metric, sums.get("sum"), sums.get("unit")) {
                let code = metrics::code_of(metric, kind, sums.get("unit"));
                self.list.push(part(code, metrics::title_of(metric, "", kind), value));
            }
        }
    }

    /// A day's rings: each closed attribute with its unit beside it.
    fn summary(&mut self, node: &Node) {
        let Some(effective) = node.effective() else { return };
        let rings = [
            ("activeEnergyBurned", node.get("activeEnergyBurnedUnit")),
            ("appleMoveTime", "min"),
            ("appleExerciseTime", "min"),
            ("appleStandHours", "hr"),
        ];
        for (name, unit) in rings {
            if let Some(value) = quantity(&metrics::OTHER, node.get(name), unit) {
                self.list.push(Observation {
                    code: healthkit(&format!("HKActivitySummary.{name}")),
                    display: sentence(name),
                    value,
                    effective,
                    source: node.source(),
                    part_of: None,
                });
            }
        }
    }

    /// Without what is said once in a correlation and once on its own: the one in the correlation stays.
    fn once(mut self) -> Vec<Observation> {
        let mut doubled = Vec::new();
        for &inner in &self.inner {
            let same = |(at, other): (usize, &Observation)| {
                let free = !self.inner.contains(&at) && !doubled.contains(&at);
                (free && self.list.get(inner).is_some_and(|inner| same_reading(inner, other))).then_some(at)
            };
            doubled.extend(self.list.iter().enumerate().find_map(same));
        }
        let mut at = 0_usize;
        self.list.retain(|_| {
            at += 1;
            !doubled.contains(&(at - 1))
        });
        self.list
    }
}

fn same_reading(one: &Observation, other: &Observation) -> bool {
    (&one.code, &one.value, one.effective, &one.source)
        == (&other.code, &other.value, other.effective, &other.source)
}

fn record(node: &Node, inner: &[Node], part_of: Option<Code>) -> Option<Observation> {
    record_with(node, &inner.iter().collect::<Vec<_>>(), part_of)
}

fn record_with(node: &Node, inner: &[&Node], part_of: Option<Code>) -> Option<Observation> {
    let kind = node.get("type");
    let metric = metrics::metric_of("Record", kind);
    let (written, unit) = (node.get("value"), node.get("unit"));
    let pressure = matches!(metric.name, "BloodPressureSystolic" | "BloodPressureDiastolic");
    let panel = pressure.then(|| Code { system: LOINC.to_owned(), code: BLOOD_PRESSURE_PANEL.to_owned() });
    let value = match quantity(metric, written, unit) {
        Some(value) if !kind.starts_with("HKCategoryType") => value,
        _ => Value::Text(category(metric, kind, written)),
    };
    let entered = inner.iter().any(|node| node.get("key") == "HKWasUserEntered" && node.get("value") == "1");
    Some(Observation {
        code: metrics::code_of(metric, kind, unit),
        display: match metric.name {
            "BloodPressureSystolic" => "Systolic blood pressure".to_owned(),
            "BloodPressureDiastolic" => "Diastolic blood pressure".to_owned(),
            "DietaryEnergyConsumed" => "Energy consumed".to_owned(),
            "Dietary" => metrics::words(metrics::short(kind)),
            _ => metrics::title_of(metric, &node.name, kind),
        },
        value,
        effective: node.effective()?,
        source: Source { method: entered.then(|| "manual".to_owned()), ..node.source() },
        part_of: part_of.or(panel),
    })
}

/// The exact number, if it is one.
fn quantity(metric: &Metric, written: &str, unit: &str) -> Option<Value> {
    let value = Decimal::from_str_exact(written).or_else(|_| Decimal::from_scientific(written)).ok()?;
    let unit = ucum(metric, unit);
    let is_fraction = unit == "%" && value.abs() <= Decimal::ONE;
    let value = if is_fraction { value.checked_mul(Decimal::ONE_HUNDRED)?.normalize() } else { value };
    Some(Value::Quantity { value, unit })
}

/// What a category value says: `asleep core` of `HKCategoryValueSleepAnalysisAsleepCore`.
fn category(metric: &Metric, kind: &str, written: &str) -> String {
    let said = written.strip_prefix("HKCategoryValue").unwrap_or(written);
    let said = said.strip_prefix(metrics::short(kind)).unwrap_or(said);
    match said {
        "" | "NotApplicable" => metrics::title_of(metric, "Record", kind),
        said if said.len() == written.len() => said.to_owned(),
        said => sentence(said),
    }
}

fn sentence(name: &str) -> String {
    metrics::words(name).to_lowercase()
}

fn metadata<'n>(inner: &'n [Node], key: &str) -> Option<&'n str> {
    let entry = inner.iter().find(|node| node.name == "MetadataEntry" && node.get("key") == key)?;
    Some(entry.get("value"))
}

fn healthkit(code: &str) -> Code {
    Code { system: HEALTHKIT.to_owned(), code: code.to_owned() }
}
