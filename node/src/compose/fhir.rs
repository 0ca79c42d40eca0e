//! The few FHIR R4 resources that are composed here, as far as they are used.
//!
//! For: writing and reading back exactly what was written, numbers digit by digit. Not for: FHIR in general
//! (`observe` reads what others wrote).

use std::str::FromStr;

use rust_decimal::Decimal;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::observe::LOINC;

pub(super) const SNOMED: &str = "http://snomed.info/sct";
const UCUM: &str = "http://unitsofmeasure.org";
const CATEGORY: &str = "http://terminology.hl7.org/CodeSystem/observation-category";

/// A decimal that stands in JSON with the digits it has: 62.40 stays 62.40.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exact(pub Decimal);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.to_string()).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Decimal::from_str_exact(raw.get())
            .or_else(|_| Decimal::from_scientific(raw.get()))
            .map(Self)
            .map_err(|_| D::Error::custom("expected a number of at most 28 digits"))
    }
}

impl FromStr for Exact {
    type Err = rust_decimal::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Decimal::from_str_exact(text).map(Self)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Coding {
    pub(super) system: String,
    pub(super) code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) display: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Concept {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) coding: Vec<Coding>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
}

impl Concept {
    /// Without a code, where none is certain.
    pub(super) fn text(text: &str) -> Self {
        Self { coding: Vec::new(), text: Some(text.to_owned()) }
    }

    pub(super) fn coded(system: &str, code: &str, display: &str, text: &str) -> Self {
        let display = Some(display.to_owned());
        let coding = vec![Coding { system: system.to_owned(), code: code.to_owned(), display }];
        Self { coding, text: Some(text.to_owned()) }
    }

    pub(super) fn loinc(code: &str, display: &str) -> Self {
        Self::coded(LOINC, code, display, display)
    }

    /// `vital-signs`, `laboratory`, `activity`, `procedure`.
    pub(super) fn category(code: &str, display: &str) -> Self {
        Self { text: None, ..Self::coded(CATEGORY, code, display, display) }
    }

    pub(super) fn called(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quantity {
    pub(super) value: Exact,
    /// For people.
    pub(super) unit: String,
    pub(super) system: String,
    /// UCUM.
    pub(super) code: String,
}

impl Quantity {
    pub(super) fn new(value: Decimal, ucum: &str) -> Self {
        let unit = crate::observe::units::printed(ucum);
        Self { value: Exact(value), unit, system: UCUM.to_owned(), code: ucum.to_owned() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Reference {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) display: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Period {
    pub(super) start: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Component {
    pub(super) code: Concept,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) value_quantity: Option<Quantity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) value_string: Option<String>,
}

impl Component {
    pub(super) fn quantity(code: Concept, value: Decimal, ucum: &str) -> Self {
        Self { code, value_quantity: Some(Quantity::new(value, ucum)), value_string: None }
    }
}

/// <https://hl7.org/fhir/R4/observation.html>
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Observation {
    pub(super) resource_type: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) part_of: Vec<Reference>,
    pub(super) status: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) category: Vec<Concept>,
    pub(super) code: Concept,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) effective_date_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) effective_period: Option<Period>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) value_quantity: Option<Quantity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) value_codeable_concept: Option<Concept>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) value_string: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<Concept>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<Reference>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) component: Vec<Component>,
}

impl Observation {
    /// Final, and nothing but what it is of.
    pub(super) fn of(code: Concept) -> Self {
        Self {
            resource_type: "Observation".to_owned(),
            part_of: Vec::new(),
            status: "final".to_owned(),
            category: Vec::new(),
            code,
            effective_date_time: None,
            effective_period: None,
            value_quantity: None,
            value_codeable_concept: None,
            value_string: None,
            method: None,
            device: None,
            component: Vec::new(),
        }
    }
}

/// <https://hl7.org/fhir/R4/procedure.html>
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Procedure {
    pub(super) resource_type: String,
    pub(super) status: String,
    pub(super) code: Concept,
    pub(super) subject: Reference,
    pub(super) performed_period: Period,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) complication: Vec<Concept>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) note: Vec<Note>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) used_code: Vec<Concept>,
}

/// <https://hl7.org/fhir/R4/bundle.html>
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bundle {
    pub(super) resource_type: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) entry: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) full_url: String,
    pub(super) resource: Box<RawValue>,
}
