//! A value and its unit as people type them.
//!
//! For: `62.4kg`, `６２．４　㎏`, `8,123`. Not for: guessing a unit that was not said.

use icu_normalizer::ComposingNormalizerBorrowed;
use rust_decimal::Decimal;

/// `text` with full-width digits, letters and unit signs as ASCII (NFKC, Unicode Annex 15).
pub(super) fn narrow(text: &str) -> String {
    ComposingNormalizerBorrowed::new_nfkc().normalize(text).into_owned()
}

/// The number at the start of `text` and what follows it, both without space around. `None` where no number starts.
pub(super) fn number(text: &str) -> Option<(Decimal, &str)> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ',').unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((decimal(digits)?, rest.trim()))
}

/// A decimal with a point; commas may part thousands and nothing else.
fn decimal(text: &str) -> Option<Decimal> {
    let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
    let mut groups = whole.split(',');
    let first = groups.next()?;
    let thousands = groups.clone().all(|group| group.len() == 3);
    let parted = groups.next().is_some();
    let shaped = !first.is_empty() && thousands && (!parted || first.len() <= 3);
    let fraction = text.get(whole.len()..)?;
    if !shaped || fraction == "." || fraction.contains(',') {
        return None;
    }
    Decimal::from_str_exact(&text.replace(',', "")).ok()
}

/// The UCUM unit for what people write, in any case of letters; `None` where nobody is known to write so.
pub(super) fn unit(written: &str) -> Option<&'static str> {
    const WRITTEN: &[(&str, &str)] = &[
        ("kg", "kg"),
        ("g", "g"),
        ("mg", "mg"),
        ("lb", "[lb_av]"),
        ("lbs", "[lb_av]"),
        ("[lb_av]", "[lb_av]"),
        ("mmhg", "mm[Hg]"),
        ("mm[hg]", "mm[Hg]"),
        ("kpa", "kPa"),
        ("steps", "{steps}"),
        ("歩", "{steps}"),
        ("{steps}", "{steps}"),
        ("kcal", "kcal"),
        ("kj", "kJ"),
        ("mg/dl", "mg/dL"),
        ("mmol/l", "mmol/L"),
        ("meq/l", "meq/L"),
        ("c", "Cel"),
        ("°c", "Cel"),
        ("cel", "Cel"),
        ("度", "Cel"),
        ("f", "[degF]"),
        ("°f", "[degF]"),
        ("[degf]", "[degF]"),
        ("%", "%"),
        ("bpm", "/min"),
        ("/min", "/min"),
        ("回/分", "/min"),
        ("ml", "mL"),
        ("l", "L"),
        ("cc", "mL"),
        ("ml/min", "mL/min"),
        ("iu", "[iU]"),
        ("u", "[iU]"),
        ("units", "[iU]"),
        ("単位", "[iU]"),
        ("[iu]", "[iU]"),
        ("iu/h", "[iU]/h"),
        ("[iu]/h", "[iU]/h"),
        ("mg/h", "mg/h"),
        ("mg/hr", "mg/h"),
    ];
    let written = written.to_lowercase();
    WRITTEN.iter().find(|(name, _)| *name == written).map(|(_, ucum)| *ucum)
}
