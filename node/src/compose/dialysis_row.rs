//! A session from one row of a centre's sheet.
//!
//! For: canonical column names with values as people type them. A value that is not understood for certain is kept
//! as a note and told in a warning: nothing in the row is lost and nothing is guessed. Not for: reading CSV files.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::dialysis::{
    Access, Amount, Anticoagulant, Anticoagulation, DialysisError, DialysisSession, Pressure,
};
use super::quantity::{narrow, number, unit};
use super::{Exact, Warning};
use crate::observe::units;

/// Columns that are read; all but `start` may be missing or empty.
pub const COLUMNS: [&str; 17] = [
    "access",
    "anticoagulation",
    "blood_flow",
    "bp_post",
    "bp_pre",
    "complications",
    "dialysate_ca",
    "dialysate_flow",
    "dialysate_k",
    "end",
    "ktv",
    "post_weight",
    "pre_weight",
    "start",
    "target_weight",
    "uf_volume",
    "urr",
];

/// Longest value kept as a note, in characters. 500: a cell of a sheet, not a letter.
const CELL_CHARS_MAX: usize = 500;

/// Below this a bare ultrafiltration volume is in litres, and from [`UF_ML_MIN`] on in millilitres: nobody loses 20 L
/// in a session, and nobody is dialysed for less than 100 mL. Between them the unit must be stated.
const UF_L_BELOW: Decimal = Decimal::from_parts(20, 0, 0, false, 0);
const UF_ML_MIN: Decimal = Decimal::ONE_HUNDRED;

/// The session in `row`, and what of it was not understood. Times are FHIR dateTimes with an offset.
pub fn from_row(row: &BTreeMap<String, String>) -> Result<(DialysisSession, Vec<Warning>), DialysisError> {
    if let Some(got) = row.keys().find(|name| !COLUMNS.contains(&name.as_str())) {
        return Err(DialysisError::Column {
            got: got.chars().filter(|c| !c.is_control()).take(40).collect(),
        });
    }
    let mut cells = Cells { row, notes: Vec::new(), warnings: Vec::new() };
    let start = cells.text("start").ok_or(DialysisError::Missing("start"))?;
    let mut session = DialysisSession {
        start,
        end: cells.text("end"),
        pre_weight_kg: cells.amount("pre_weight", Some("kg")),
        target_weight_kg: cells.amount("target_weight", Some("kg")),
        post_weight_kg: cells.amount("post_weight", Some("kg")),
        uf_volume_ml: cells.read("uf_volume", "2300 mL or 2.3 L", uf_volume),
        bp_pre: cells.read("bp_pre", "142/78", pressure),
        bp_post: cells.read("bp_post", "142/78", pressure),
        access: cells.read("access", "AV fistula, AV graft or catheter", access),
        anticoagulation: cells.read("anticoagulation", "heparin 3000 IU", anticoagulation),
        blood_flow_ml_min: cells.amount("blood_flow", Some("mL/min")),
        ktv: cells.amount("ktv", None),
        urr_percent: cells.amount("urr", Some("%")),
        complications: cells.list("complications"),
        ..DialysisSession::default()
    };
    session.dialysate.potassium_mmol_l = cells.read("dialysate_k", "2.0 mmol/L", potassium);
    session.dialysate.calcium = cells.read("dialysate_ca", "1.5 mmol/L or 3.0 meq/L", calcium);
    session.dialysate.flow_ml_min = cells.amount("dialysate_flow", Some("mL/min"));
    session.notes = cells.notes;
    Ok((session.checked()?, cells.warnings))
}

struct Cells<'r> {
    row: &'r BTreeMap<String, String>,
    notes: Vec<String>,
    warnings: Vec<Warning>,
}

impl Cells<'_> {
    fn text(&self, column: &str) -> Option<String> {
        let text = self.row.get(column)?;
        let narrow = narrow(text).trim().to_owned();
        (!matches!(narrow.as_str(), "" | "-")).then_some(narrow)
    }

    /// What `read` makes of the cell; where it makes nothing, the cell becomes a note.
    fn read<T>(&mut self, column: &str, like: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(column)?;
        let value = read(&text);
        if value.is_none() {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(CELL_CHARS_MAX).collect();
            let why = format!("expected a value like {like}, got \"{shown}\"; it is kept as a note");
            self.warnings.push(Warning::new(column, why));
            self.notes.push(format!("{column}: {shown}"));
        }
        value
    }

    /// A number in `ucum`, stated in it or without a unit.
    fn amount(&mut self, column: &str, ucum: Option<&'static str>) -> Option<Exact> {
        let like = ucum.map_or("1.45".to_owned(), |ucum| format!("70 {}", units::printed(ucum)));
        self.read(column, &like, |text| in_unit(text, ucum))
    }

    fn list(&self, column: &str) -> Vec<String> {
        let text = self.text(column).unwrap_or_default();
        let items = text.split([',', ';', '、']).map(str::trim).filter(|item| !item.is_empty());
        items.map(|item| item.chars().take(CELL_CHARS_MAX).collect::<String>().to_lowercase()).collect()
    }
}

fn in_unit(text: &str, ucum: Option<&str>) -> Option<Exact> {
    let (value, written) = number(text)?;
    match (written, ucum) {
        ("", _) => Some(Exact(value)),
        (written, Some(ucum)) => units::convert(value, unit(written)?, ucum).ok().map(Exact),
        _ => None,
    }
}

fn uf_volume(text: &str) -> Option<Exact> {
    let (value, written) = number(text)?;
    let stated = match written {
        "" if value < UF_L_BELOW => "L",
        "" if value >= UF_ML_MIN => "mL",
        written => unit(written)?,
    };
    units::convert(value, stated, "mL").ok().map(Exact)
}

fn pressure(text: &str) -> Option<Pressure> {
    let (systolic, rest) = number(text)?;
    let (diastolic, written) = number(rest.strip_prefix('/')?)?;
    let fits = systolic > diastolic && (written.is_empty() || unit(written) == Some("mm[Hg]"));
    fits.then_some(Pressure { systolic: Exact(systolic), diastolic: Exact(diastolic) })
}

/// One charge, so mEq/L and mmol/L are the same number.
fn potassium(text: &str) -> Option<Exact> {
    let (value, written) = number(text)?;
    let same = written.is_empty() || matches!(unit(written), Some("mmol/L" | "meq/L"));
    same.then_some(Exact(value))
}

/// 3.0 mEq/L is 1.5 mmol/L, and both are written: a bare number may be either.
fn calcium(text: &str) -> Option<Amount> {
    let (value, written) = number(text)?;
    let unit = unit(written).filter(|unit| matches!(*unit, "mmol/L" | "meq/L"))?;
    Some(Amount { value: Exact(value), unit: unit.to_owned() })
}

fn access(text: &str) -> Option<Access> {
    match text.to_lowercase().as_str() {
        "av fistula" | "avf" | "fistula" | "内シャント" => Some(Access::AvFistula),
        "av graft" | "avg" | "graft" | "人工血管" => Some(Access::AvGraft),
        "catheter" | "cvc" | "カテーテル" => Some(Access::Catheter),
        _ => None,
    }
}

/// An agent, and a dose with its unit behind it.
fn anticoagulation(text: &str) -> Option<Anticoagulation> {
    let at = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
    let (name, dose) = text.split_at_checked(at)?;
    let agent = match name.trim().to_lowercase().as_str() {
        "heparin" | "ufh" | "ヘパリン" => Anticoagulant::Heparin,
        "lmwh" | "low molecular weight heparin" | "低分子ヘパリン" => {
            Anticoagulant::LowMolecularWeightHeparin
        }
        "nafamostat" | "ナファモスタット" => Anticoagulant::Nafamostat,
        "none" | "no" | "heparin-free" | "なし" => Anticoagulant::None,
        _ => return None,
    };
    if dose.is_empty() {
        return Some(Anticoagulation { agent, dose: None });
    }
    let (value, written) = number(dose)?;
    let unit = unit(written)?.to_owned();
    Some(Anticoagulation { agent, dose: Some(Amount { value: Exact(value), unit }) })
}
