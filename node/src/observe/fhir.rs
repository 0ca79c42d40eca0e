//! FHIR R4 JSON as observations.
//!
//! For: Observation with its components, Procedure, and Bundles of them (a dialysis session). Not for: ranges,
//! ratios and sampled data, which are no single value, and not for what was entered in error.

use std::borrow::Cow;

use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{LOINC, Observation, ReadError, Source, Value};
use crate::import::{Code, Effective, time};

/// UCUM in FHIR.
const UCUM: &str = "http://unitsofmeasure.org";

/// Bundles within Bundles that are opened. 4: a collection within a searchset is as deep as they come.
const BUNDLES_DEEP_MAX: u32 = 4;

/// What stands where no source is stated.
const NOT_STATED: &str = "not stated";

/// Every observation of a resource.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Observation>, ReadError> {
    let resource = Resource::parse(bytes)
        .map_err(|fault| ReadError::Json { line: fault.line(), column: fault.column() })?;
    let mut found = Vec::new();
    resource.observations(BUNDLES_DEEP_MAX, &mut found);
    Ok(found)
}

/// What every resource has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    #[serde(borrow)]
    resource_type: Cow<'a, str>,
    #[serde(borrow, default)]
    contained: Vec<&'a RawValue>,
}

/// What is read of an Observation, a Procedure or a Bundle; a field of another shape is a fault.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Resource<'a> {
    #[serde(borrow)]
    resource_type: Cow<'a, str>,
    #[serde(default)]
    status: String,
    #[serde(borrow, default)]
    entry: Vec<Entry<'a>>,
    #[serde(borrow, default)]
    contained: Vec<&'a RawValue>,
    #[serde(default)]
    code: Concept,
    /// Read apart, because serde's `flatten` cannot keep numbers as they are written.
    #[serde(skip)]
    value: Choice<'a>,
    #[serde(borrow, default)]
    component: Vec<&'a RawValue>,
    effective_date_time: Option<String>,
    effective_instant: Option<String>,
    effective_period: Option<Period>,
    performed_date_time: Option<String>,
    performed_period: Option<Period>,
    issued: Option<String>,
    device: Option<Reference>,
    #[serde(borrow, default)]
    performer: Vec<&'a RawValue>,
    method: Option<Concept>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Component {
    #[serde(default)]
    code: Concept,
}

/// `value[x]`, as far as it is one value.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Choice<'a> {
    #[serde(borrow)]
    value_quantity: Option<Quantity<'a>>,
    #[serde(borrow)]
    value_integer: Option<&'a RawValue>,
    value_codeable_concept: Option<Concept>,
    value_string: Option<String>,
    value_boolean: Option<bool>,
}

#[derive(Deserialize)]
struct Quantity<'a> {
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    comparator: Option<String>,
    unit: Option<String>,
    system: Option<String>,
    code: Option<String>,
}

#[derive(Deserialize, Default)]
struct Concept {
    #[serde(default)]
    coding: Vec<Coding>,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Coding {
    #[serde(default)]
    system: String,
    #[serde(default)]
    code: String,
    display: Option<String>,
}

#[derive(Deserialize)]
struct Period {
    start: Option<String>,
    end: Option<String>,
}

#[derive(Deserialize)]
struct Reference {
    reference: Option<String>,
    display: Option<String>,
}

/// Procedure.performer, whose actor is the reference.
#[derive(Deserialize)]
struct Actor {
    actor: Reference,
}

impl<'a> Resource<'a> {
    /// Only what may hold observations is read whole: other resources use the same names for other shapes.
    fn parse(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        let head: Head<'_> = serde_json::from_slice(bytes)?;
        if !matches!(&*head.resource_type, "Bundle" | "Observation" | "Procedure") {
            let Head { resource_type, contained } = head;
            return Ok(Self { resource_type, contained, ..Self::default() });
        }
        let resource: Self = serde_json::from_slice(bytes)?;
        let value = match &*resource.resource_type {
            "Observation" => serde_json::from_slice(bytes)?,
            _ => Choice::default(),
        };
        Ok(Self { value, ..resource })
    }

    fn observations(&self, deep: u32, found: &mut Vec<Observation>) {
        match &*self.resource_type {
            "Bundle" => self.entries(deep, found),
            "Observation" if !matches!(self.status.as_str(), "entered-in-error" | "cancelled") => {
                self.values(found)
            }
            "Procedure" if !matches!(self.status.as_str(), "entered-in-error" | "not-done") => {
                let text = self.code.called();
                found.extend(text.and_then(|text| self.observation(&self.code, Value::Text(text), None)));
            }
            _ => {}
        }
        for inner in self.contained.iter().filter(|_| deep > 0) {
            within(inner, 0, found);
        }
    }

    fn entries(&self, deep: u32, found: &mut Vec<Observation>) {
        let inner = self.entry.iter().filter_map(|entry| entry.resource).filter(|_| deep > 0);
        inner.for_each(|resource| within(resource, deep.saturating_sub(1), found));
    }

    fn values(&self, found: &mut Vec<Observation>) {
        let own = self.value.value();
        found.extend(own.and_then(|value| self.observation(&self.code, value, None)));
        for raw in &self.component {
            let part = serde_json::from_str::<Component>(raw.get());
            let value = serde_json::from_str::<Choice<'_>>(raw.get()).ok().and_then(|choice| choice.value());
            let (Ok(part), Some(value)) = (part, value) else {
                continue;
            };
            found.extend(self.observation(&part.code, value, self.code.code()));
        }
    }

    fn observation(&self, code: &Concept, value: Value, part_of: Option<Code>) -> Option<Observation> {
        let (effective, code, display) = (self.when()?, code.code()?, code.called()?);
        Some(Observation { code, display, value, effective, source: self.source(), part_of })
    }

    fn when(&self) -> Option<Effective> {
        let point = [&self.effective_date_time, &self.effective_instant, &self.performed_date_time];
        let period = self.effective_period.as_ref().or(self.performed_period.as_ref());
        let stated = point.into_iter().flatten().next().map(|text| time::point(text));
        let stated = stated.or_else(|| period.map(|p| time::period(p.start.as_deref(), p.end.as_deref())));
        stated.or_else(|| self.issued.as_deref().map(time::point))?
    }

    fn source(&self) -> Source {
        let performer = self.performer.first().and_then(|raw| {
            let plain = || serde_json::from_str::<Reference>(raw.get()).ok();
            serde_json::from_str::<Actor>(raw.get()).map(|actor| actor.actor).ok().or_else(plain)
        });
        let called =
            |reference: &Reference| reference.display.clone().or_else(|| reference.reference.clone());
        let named = [self.device.as_ref(), performer.as_ref()].into_iter().flatten().find_map(called);
        Source {
            name: named.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| NOT_STATED.to_owned()),
            device: self.device.as_ref().and_then(|device| device.reference.clone()),
            method: self.method.as_ref().and_then(Concept::called),
        }
    }
}

/// A resource in a resource; one that cannot be read is left out, the others stay.
fn within(raw: &RawValue, deep: u32, found: &mut Vec<Observation>) {
    if let Ok(resource) = Resource::parse(raw.get().as_bytes()) {
        resource.observations(deep, found);
    }
}

impl Choice<'_> {
    fn value(&self) -> Option<Value> {
        if let Some(quantity) = &self.value_quantity {
            return quantity.value();
        }
        if let Some(count) = self.value_integer {
            return Some(Value::Quantity { value: decimal(count.get())?, unit: "1".to_owned() });
        }
        let text = self.value_codeable_concept.as_ref().and_then(Concept::called);
        let text =
            text.or_else(|| self.value_string.clone()).or_else(|| self.value_boolean.map(|b| b.to_string()));
        text.map(Value::Text)
    }
}

impl Quantity<'_> {
    fn value(&self) -> Option<Value> {
        let (value, unit) = (decimal(self.value?.get())?, self.ucum());
        match &self.comparator {
            None => Some(Value::Quantity { value, unit }),
            // Less than the limit of detection is not that limit.
            Some(comparator) => Some(Value::Text(format!("{comparator}{value} {unit}"))),
        }
    }

    /// The UCUM code; any other unit is kept as an annotation, so that it is never taken for another (`ft` is a
    /// femtotonne in UCUM).
    fn ucum(&self) -> String {
        let ucum = self.code.as_deref().filter(|_| self.system.as_deref() == Some(UCUM));
        let stated = self.unit.as_deref().or(self.code.as_deref()).unwrap_or_default();
        let annotation = || {
            let kept = |c: &char| c.is_ascii_graphic() && !matches!(c, '{' | '}');
            stated.chars().filter(kept).collect::<String>()
        };
        match (ucum, annotation()) {
            (Some(code), _) => code.to_owned(),
            (None, text) if text.is_empty() => "1".to_owned(),
            (None, text) => format!("{{{text}}}"),
        }
    }
}

impl Concept {
    /// The LOINC coding, else the first, else what it is called.
    fn code(&self) -> Option<Code> {
        let coding = self.coding.iter().find(|coding| coding.system == LOINC).or(self.coding.first());
        let coded = coding.filter(|coding| !coding.code.is_empty());
        let coded = coded.map(|coding| Code { system: coding.system.clone(), code: coding.code.clone() });
        coded.or_else(|| self.text.clone().map(|code| Code { system: String::new(), code }))
    }

    fn called(&self) -> Option<String> {
        let display = || self.coding.iter().find_map(|coding| coding.display.clone());
        let code = || self.coding.first().map(|coding| coding.code.clone());
        self.text.clone().or_else(display).or_else(code).filter(|text| !text.is_empty())
    }
}

/// A JSON number as it is written: no float in between. One of more than 28 digits is not read.
fn decimal(text: &str) -> Option<Decimal> {
    let scientific = text.contains(['e', 'E']);
    if scientific { Decimal::from_scientific(text).ok() } else { Decimal::from_str_exact(text).ok() }
}
