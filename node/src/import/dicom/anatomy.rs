//! Body Part Examined (0018,0015) as SNOMED CT codes (PS3.16 annex L, table L-1).
//!
//! For: the common ones. Not for: the whole table; what is not here keeps its text as its code.

/// SNOMED CT, as FHIR names it.
const SNOMED: &str = "http://snomed.info/sct";

/// Sorted by the defined term.
const PARTS: &[(&str, &str)] = &[
    ("ABDOMEN", "818981001"),
    ("ABDOMENPELVIS", "818982008"),
    ("ABDOMINALAORTA", "7832008"),
    ("ANKLE", "70258002"),
    ("AORTA", "15825003"),
    ("BLADDER", "89837001"),
    ("BRAIN", "12738006"),
    ("BREAST", "76752008"),
    ("CALCANEUS", "80144004"),
    ("CAROTID", "69105007"),
    ("CHEST", "816094009"),
    ("CHESTABDOMEN", "416550000"),
    ("CHESTABDPELVIS", "416775004"),
    ("CIRCLEOFWILLIS", "11279006"),
    ("CLAVICLE", "51299004"),
    ("COCCYX", "64688005"),
    ("COLON", "71854001"),
    ("CORONARYARTERY", "41801008"),
    ("CSPINE", "122494005"),
    ("EAR", "117590005"),
    ("ELBOW", "16953009"),
    ("ESOPHAGUS", "32849002"),
    ("EXTREMITY", "66019005"),
    ("EYE", "81745001"),
    ("FACE", "89545001"),
    ("FEMUR", "71341001"),
    ("FINGER", "7569003"),
    ("FOOT", "56459004"),
    ("FOREARM", "14975008"),
    ("GALLBLADDER", "28231008"),
    ("HAND", "85562004"),
    ("HEAD", "69536005"),
    ("HEADNECK", "774007"),
    ("HEART", "80891009"),
    ("HIP", "24136001"),
    ("HUMERUS", "85050009"),
    ("KIDNEY", "64033007"),
    ("KNEE", "72696002"),
    ("LEG", "30021000"),
    ("LIVER", "10200004"),
    ("LSPINE", "122496007"),
    ("LUNG", "39607008"),
    ("NECK", "45048000"),
    ("NECKCHEST", "417437006"),
    ("NECKCHESTABDOMEN", "416152001"),
    ("NECKCHESTABDPELV", "416319003"),
    ("ORBIT", "363654007"),
    ("PANCREAS", "15776009"),
    ("PELVIS", "816092008"),
    ("PROSTATE", "41216001"),
    ("SHOULDER", "16982005"),
    ("SKULL", "89546000"),
    ("SPINE", "421060004"),
    ("SPLEEN", "78961009"),
    ("STOMACH", "69695003"),
    ("THIGH", "68367000"),
    ("THYROID", "69748006"),
    ("TOE", "29707007"),
    ("TSPINE", "122495006"),
    ("UTERUS", "35039007"),
    ("WHOLEBODY", "38266002"),
    ("WRIST", "74670003"),
];

/// System and code of a body part; the text itself, without a system, where the table has none.
pub(super) fn code(part: &str) -> (&'static str, String) {
    let term: String =
        part.chars().filter(|c| c.is_ascii_alphanumeric()).collect::<String>().to_ascii_uppercase();
    match PARTS.binary_search_by_key(&term.as_str(), |(name, _)| name) {
        Ok(at) => (SNOMED, PARTS.get(at).map_or_else(String::new, |(_, code)| (*code).to_owned())),
        Err(_) => ("", part.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_searched() {
        assert!(PARTS.is_sorted_by_key(|(name, _)| name));
        assert_eq!(code("BRAIN"), (SNOMED, "12738006".into()));
        assert_eq!(code("WHOLE BODY"), (SNOMED, "38266002".into()));
        assert_eq!(code("e+1"), ("", "e+1".into()));
    }
}
