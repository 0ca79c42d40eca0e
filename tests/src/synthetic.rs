//! Small FHIR resources of ours, in any number.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// One laboratory value a line, numbered `from..until`; no two are alike. About 600 bytes each, as the real ones.
pub fn laboratory(from: u64, until: u64) -> String {
    let mut lines = String::new();
    for n in from..until {
        let (year, month, day) = (2015 + n % 10, 1 + n % 12, 1 + n % 28);
        // Writing to a String does not fail.
        let _ = writeln!(
            lines,
            concat!(
                r#"{{"resourceType":"Observation","id":"{}","status":"final","#,
                r#""category":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/observation-category","#,
                r#""code":"laboratory","display":"Laboratory"}}]}}],"#,
                r#""code":{{"coding":[{{"system":"http://loinc.org","code":"2160-0","#,
                r#""display":"Creatinine [Mass/volume] in Serum or Plasma"}}],"text":"{}"}},"#,
                r#""subject":{{"display":"Chihiro Morimoto"}},"effectiveDateTime":"{}-{:02}-{:02}T08:30:00+09:00","#,
                r#""valueQuantity":{{"value":{}.{},"unit":"mg/dL","system":"http://unitsofmeasure.org","#,
                r#""code":"mg/dL"}},"note":[{{"text":"drawn before the session, number {}"}}]}}"#
            ),
            id(n),
            title(n),
            year,
            month,
            day,
            n % 14,
            n % 10,
            n
        );
    }
    lines
}

/// The logical id of number `n`.
pub fn id(n: u64) -> String {
    format!("lab-{n:06}")
}

/// What a record list shows of number `n`.
pub fn title(n: u64) -> String {
    format!("Serum creatinine {n:06}")
}

/// The numbers of those among `records` that are ours, sorted.
pub fn numbers(records: &[serde_json::Value]) -> Vec<u64> {
    let titles = records.iter().filter_map(|record| record["title"].as_str());
    let mut numbers: Vec<u64> =
        titles.filter_map(|title| title.strip_prefix("Serum creatinine ")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Writes them as NDJSON.
pub fn write(path: PathBuf, from: u64, until: u64) -> PathBuf {
    std::fs::write(&path, laboratory(from, until)).expect("the file is written");
    path
}

/// Writes something of our own.
pub fn write_text(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).expect("the file is written");
    path.to_owned()
}
