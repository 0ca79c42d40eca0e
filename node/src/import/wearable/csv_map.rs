//! What the columns of a CSV mean: a mapping, written in TOML or ready in this program.
//!
//! For: mappings, how one is found by a file's header, and how a record names the one it was read by. Not for: rows.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::import::error::ImportError;

/// Longest mapping in its compact form, in bytes. 16 KiB: a hundred columns with their names.
const MAP_BYTES_MAX: usize = 16 * 1024;
/// Longest name a label carries for a mapping, in bytes. 480: below the 500 a label allows one text.
const PROFILE_BYTES_MAX: usize = 480;
/// Most values of a row. 200: a chart of a ward has fewer.
const VALUES_MAX: usize = 200;
const URN: &str = "urn:karte:csv-map:";

/// The meaning of a CSV's columns. Column names are compared without case, spaces and full-width forms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvMap {
    /// Letters, digits, dots and dashes; part of the media type.
    pub name: String,
    /// `daily/blood-pressure`, ...
    pub kind: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    /// For people: `Blood pressure`.
    pub title: String,
    /// Who measured: `omron`, `manual`.
    pub source: String,
    /// One character; a comma where none is stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Whether numbers have a decimal comma.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub decimal_comma: bool,
    /// Whether each row is a record of its own, not each day.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub each_row: bool,
    /// Sets of columns; a header with all of one set is this mapping's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recognised_by: Vec<Vec<String>>,
    /// Names of the column that tells people apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub person: Vec<String>,
    /// Names of the column that tells devices apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device: Vec<String>,
    pub time: TimeMap,
    #[serde(rename = "value")]
    pub values: Vec<ValueMap>,
}

/// Where the time stands. Without zone and offset a clock is kept as written, with offset 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeMap {
    /// Names of the column with the date, or with date and clock.
    pub date: Vec<String>,
    /// Names of the column with the clock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clock: Vec<String>,
    /// `strftime` patterns of the date column, tried in order.
    pub date_formats: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clock_formats: Vec<String>,
    /// `+09:00`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<String>,
    /// `Asia/Tokyo`; of two meanings of a clock in autumn, the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// How long a row counts, in minutes; a day where the row has no clock, an instant where it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minutes: Option<u32>,
}

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueMap {
    /// Names of its column; the first that the header has.
    pub column: Vec<String>,
    /// The name other parts of the program know it by: `pre_weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `system|code`, or a LOINC code.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// Names of a column that holds the code.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub code_column: Vec<String>,
    /// UCUM; without one the value is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Names of a column that holds the unit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unit_column: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display: String,
    /// The code of the whole: 85354-9 for a systolic value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<String>,
}

impl CsvMap {
    /// A mapping file's text, or the name of a ready mapping.
    pub fn named_or_toml(text: &str) -> Result<Self, ImportError> {
        match builtin(text.trim()) {
            Some(map) => Ok(map.clone()),
            None => Self::from_toml(text),
        }
    }

    /// Errors name the fault and its place in the mapping.
    pub fn from_toml(text: &str) -> Result<Self, ImportError> {
        let map: Self = toml::from_str(text).map_err(|error| fault(error.message()))?;
        map.checked()
    }

    pub(super) fn media_type(&self) -> String {
        format!("text/csv; format={}", self.name)
    }

    /// What a label says so that the mapping is found again: a name, or the mapping itself in pieces.
    pub(super) fn profiles(&self) -> Vec<String> {
        if builtin(&self.name) == Some(self) {
            return vec![format!("{URN}{}", self.name)];
        }
        let text = serde_json::to_string(self).unwrap_or_default();
        let pieces = pieces(&text, PROFILE_BYTES_MAX - URN.len() - "json:000:".len());
        pieces.iter().enumerate().map(|(at, piece)| format!("{URN}json:{at}:{piece}")).collect()
    }

    /// The mapping that `profiles` name.
    pub(super) fn from_profiles(profiles: &[String]) -> Result<Self, ImportError> {
        let mut text = String::new();
        for said in profiles.iter().filter_map(|profile| profile.strip_prefix(URN)) {
            let Some(piece) = said.strip_prefix("json:") else {
                return builtin(said)
                    .cloned()
                    .ok_or_else(|| fault("this program has no mapping of that name"));
            };
            text.push_str(piece.split_once(':').map_or("", |(_, piece)| piece));
        }
        let map: Self =
            serde_json::from_str(&text).map_err(|_| fault("a record does not say its mapping"))?;
        map.checked()
    }

    fn checked(self) -> Result<Self, ImportError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let fits = serde_json::to_string(&self).is_ok_and(|text| text.len() <= MAP_BYTES_MAX);
        let delimiter = self.delimiter.is_none_or(|c| c.is_ascii() && !matches!(c, '"' | '\n' | '\r'));
        let zoned = self.time.zone.as_ref().is_none_or(|zone| jiff::tz::TimeZone::get(zone).is_ok());
        let offset = self.time.offset.as_ref().is_none_or(|text| super::day::offset_min(text).is_some());
        let kind = self.kind.starts_with("daily/") || self.kind == "dialysis/session";
        let wrong = [
            (self.name.is_empty() || self.name.len() > 60 || !self.name.chars().all(plain), "name"),
            (!kind || self.kind.len() > 60 || !self.kind.chars().all(|c| plain(c) || c == '/'), "kind"),
            (self.source.is_empty() || self.source.len() > 60, "source"),
            (self.title.is_empty() || self.title.len() > 100, "title"),
            (self.categories.len() > 10, "categories"),
            (!delimiter, "delimiter"),
            (self.time.date.is_empty(), "time.date"),
            (self.time.date_formats.is_empty(), "time.date_formats"),
            (!offset, "time.offset"),
            (!zoned, "time.zone"),
            (self.values.is_empty() || self.values.len() > VALUES_MAX, "value"),
            (!fits, "length"),
        ];
        match wrong.iter().find(|(wrong, _)| *wrong) {
            Some((_, field)) => Err(fault(&format!("\"{field}\" is missing, too long or not understood"))),
            None => Ok(self),
        }
    }
}

fn fault(text: &str) -> ImportError {
    ImportError::Mapping { fault: crate::import::facts::clean(text, 200) }
}

/// `text` in pieces of at most `bytes`, cut between characters.
fn pieces(text: &str, bytes: usize) -> Vec<&str> {
    let mut rest = text;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(bytes).max(1));
        out.push(piece);
        rest = after;
    }
    out
}

/// The ready mapping of that name.
pub(super) fn builtin(name: &str) -> Option<&'static CsvMap> {
    BUILTIN.iter().find(|map| map.name == name)
}

/// The ready mapping whose columns `header` has.
pub(super) fn recognise(header: &[String]) -> Option<&'static CsvMap> {
    let has = |column: &String| header.contains(&plain(column));
    BUILTIN.iter().find(|map| map.recognised_by.iter().any(|set| set.iter().all(has)))
}

/// A column's name as it is compared.
pub(super) fn plain(name: &str) -> String {
    let narrow = |c: char| match c {
        '（' => '(',
        '）' => ')',
        '％' => '%',
        '／' => '/',
        other => other,
    };
    let kept = name.chars().filter(|c| !c.is_whitespace() && *c != '\u{feff}' && *c != '_').map(narrow);
    kept.flat_map(char::to_lowercase).collect()
}

static BUILTIN: LazyLock<Vec<CsvMap>> = LazyLock::new(|| {
    let texts = [
        include_str!("maps/fitabase.daily-activity.toml"),
        include_str!("maps/fitabase.daily-steps.toml"),
        include_str!("maps/fitabase.weight-log.toml"),
        include_str!("maps/fitabase.hourly-steps.toml"),
        include_str!("maps/fitabase.minute-steps.toml"),
        include_str!("maps/omron-bp.toml"),
        include_str!("maps/scale.toml"),
        include_str!("maps/diet-diary.toml"),
        include_str!("maps/dialysis-sheet.toml"),
    ];
    // A test reads each of them, so none is left out here.
    texts.iter().filter_map(|text| CsvMap::from_toml(text).ok()).collect()
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_ready_mapping_is_read_and_named_by_one_profile() {
        let names: Vec<_> = BUILTIN.iter().map(|map| map.name.as_str()).collect();
        assert_eq!(names.len(), 9, "{names:?}");
        for map in BUILTIN.iter() {
            assert_eq!(map.profiles(), [format!("urn:karte:csv-map:{}", map.name)]);
            assert_eq!(&CsvMap::from_profiles(&map.profiles()).unwrap(), map);
        }
    }

    #[test]
    fn a_mapping_with_a_fault_is_refused_by_its_field() {
        let text =
            include_str!("maps/scale.toml").replace("kind = \"daily/weight\"", "kind = \"fhir/Patient\"");
        let refused = CsvMap::from_toml(&text).unwrap_err().to_string();
        assert!(refused.contains("\"kind\""), "{refused}");
        assert!(CsvMap::from_toml("name = 3").is_err());
    }

    proptest! {
        /// A mapping of one's own is found again from what the label says, whatever its texts are.
        #[test]
        fn a_custom_mapping_round_trips_through_profiles(title in "[a-z測定 ]{1,30}", columns in proptest::collection::vec("[\\PC]{1,60}", 1..20)) {
            let mut map = builtin("scale").unwrap().clone();
            map.name = "mine".to_owned();
            map.title = title;
            map.values = columns.into_iter().map(|column| ValueMap { column: vec![column], ..map.values[0].clone() }).collect();
            let profiles = map.profiles();
            prop_assert!(profiles.iter().all(|text| text.len() <= PROFILE_BYTES_MAX));
            prop_assert_eq!(CsvMap::from_profiles(&profiles).unwrap(), map);
        }

        #[test]
        fn any_text_is_a_mapping_or_refused(text in any::<String>()) {
            let _ = CsvMap::from_toml(&text);
            let _ = CsvMap::from_profiles(&[format!("urn:karte:csv-map:json:0:{text}")]);
        }
    }
}
