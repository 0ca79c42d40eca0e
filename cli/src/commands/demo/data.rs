//! The demo's records: made by hand, of nobody.

use serde_json::Value;

pub(super) const PATIENT_BUNDLE: &str = include_str!("../../../demo-data/patient.bundle.json");
pub(super) const DIET_NOTE: &str = include_str!("../../../demo-data/diet-note.txt");
pub(super) const SESSION_BUNDLE: &str = include_str!("../../../demo-data/session.bundle.json");

/// LOINC code of the test that the patient holds back.
pub(super) const HIV_CODE: &str = "56888-1";

/// Words that must not be readable anywhere on disk: names, an identifier, what codes are called.
pub(super) const TELLING: [&str; 8] = [
    PATIENT_NAME,
    "Morimoto",
    "OSK-1961-041722",
    "Chronic kidney disease",
    "Creatinine",
    "血清クレアチニン",
    "Haemodialysis",
    CENTRE_NAME,
];

/// What the patient calls herself.
pub(super) const PATIENT_NAME: &str = "森本 千尋";
pub(super) const CLINIC_NAME: &str = "Sakura Clinic";
pub(super) const CENTRE_NAME: &str = "Pusat Dialisis Melati";

/// How many resources a bundle holds.
pub(super) fn resources(bundle: &str) -> usize {
    each_resource(bundle).len()
}

/// The ids of the laboratory results of one year without one code, counted from the bundle itself: what a grant
/// for them must bring, found without asking the node.
pub(super) fn laboratory_ids(bundle: &str, year: &str, without: &str) -> Vec<String> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let wanted = |resource: &Value| {
        text(resource.pointer("/category/0/coding/0/code")) == "laboratory"
            && text(resource.get("effectiveDateTime")).starts_with(year)
            && text(resource.pointer("/code/coding/0/code")) != without
    };
    let found = each_resource(bundle).into_iter().filter(wanted);
    found.map(|resource| text(resource.get("id"))).collect()
}

fn each_resource(bundle: &str) -> Vec<Value> {
    let bundle: Value = serde_json::from_str(bundle).unwrap_or_default();
    let entries = bundle.get("entry").and_then(Value::as_array).cloned().unwrap_or_default();
    entries.into_iter().filter_map(|entry| entry.get("resource").cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_is_about_these_records() {
        assert_eq!(resources(PATIENT_BUNDLE), 18);
        assert_eq!(resources(SESSION_BUNDLE), 3);
        assert_eq!(
            laboratory_ids(PATIENT_BUNDLE, "2024", HIV_CODE),
            ["creatinine-3", "phosphate-1", "creatinine-4", "potassium-2", "phosphate-2", "haemoglobin-2"]
        );
        assert_eq!(laboratory_ids(PATIENT_BUNDLE, "2024", "").len(), 7, "one of them is held back");
    }

    #[test]
    fn the_telling_words_are_in_the_originals() {
        let all = [PATIENT_BUNDLE, DIET_NOTE, SESSION_BUNDLE].concat();
        for word in TELLING {
            assert!(
                all.contains(word),
                "{word} is in none of the files, so not finding it would prove nothing"
            );
        }
    }
}
