//! Names: what people call a value, and every LOINC code it may stand under.
//!
//! For: `karte trend weight`, and taking codes of one thing together. Not for: codes of different things that only
//! share a unit: urea and urea nitrogen are two.

/// What one thing is called, and its codes; the first stands for all.
struct Name {
    names: &'static [&'static str],
    codes: &'static [&'static str],
}

const fn name(names: &'static [&'static str], codes: &'static [&'static str]) -> Name {
    Name { names, codes }
}

/// Of <https://loinc.org>: mass and amount of one analyte, and a count with and without its 24 hours, are one thing.
#[rustfmt::skip]
const NAMES: &[Name] = &[
    name(&["weight", "体重"], &["29463-7", "3141-9", "3142-7", "8335-2"]),
    name(&["steps", "歩数"], &["55423-8", "41950-7"]),
    name(&["bp", "blood-pressure", "血圧"], &["85354-9", "55284-4"]),
    name(&["pulse", "heart-rate", "脈拍"], &["8867-4"]),
    name(&["glucose", "血糖"], &["2339-0", "2345-7", "15074-8", "14749-6"]),
    name(&["creatinine"], &["2160-0", "38483-4", "14682-9"]),
    name(&["bun", "urea-nitrogen"], &["3094-0", "6299-2"]),
    name(&["urea"], &["22664-7", "3091-6"]),
    name(&["potassium"], &["2823-3", "6298-4"]),
    name(&["phosphate"], &["2777-1", "14879-1"]),
    name(&["calcium"], &["17861-6", "2000-8"]),
    name(&["cholesterol"], &["2093-3", "14647-2"]),
    name(&["urate", "uric-acid"], &["3084-1", "14933-6"]),
    name(&["haemoglobin", "hemoglobin"], &["718-7", "59260-0"]),
    name(&["hba1c"], &["4548-4", "17856-6", "59261-8"]),
    name(&["pth"], &["2731-8", "14866-8"]),
    name(&["temperature", "体温"], &["8310-5"]),
    name(&["spo2", "oxygen-saturation"], &["59408-5", "2708-6"]),
    name(&["energy-intake", "meals", "食事"], &["9052-2"]),
    name(&["distance"], &["41953-1", "55430-3"]),
    name(&["energy"], &["41981-2", "41979-6"]),
    name(&["body-fat"], &["41982-0"]),
    name(&["bmi"], &["39156-5"]),
    name(&["ktv"], &["70961-8"]),
];

/// Every code that `text`, a name or a LOINC code, stands for; the first is the one to show them under.
pub fn codes(text: &str) -> Vec<String> {
    let wanted = text.trim().to_lowercase();
    let bare = wanted.rsplit('|').next().unwrap_or_default();
    let known = NAMES.iter().find(|one| one.names.contains(&wanted.as_str()) || one.codes.contains(&bare));
    match known {
        Some(one) => one.codes.iter().map(|code| (*code).to_owned()).collect(),
        None => vec![text.trim().rsplit('|').next().unwrap_or_default().to_owned()],
    }
}

/// Names that are understood, for help.
pub fn all() -> impl Iterator<Item = &'static str> {
    NAMES.iter().filter_map(|one| one.names.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_code_and_no_name_stands_for_two_things() {
        let names: Vec<_> = NAMES.iter().flat_map(|one| one.names).collect();
        let codes: Vec<_> = NAMES.iter().flat_map(|one| one.codes).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
    }

    #[test]
    fn a_name_and_each_of_its_codes_give_the_same() {
        assert_eq!(codes("Weight"), codes("3141-9"));
        assert_eq!(codes("http://loinc.org|29463-7"), codes("weight"));
        assert_eq!(codes("99999-1"), ["99999-1"]);
    }
}
