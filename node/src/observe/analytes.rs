//! Mass and amount of substance, for the analytes whose molar mass is known.
//!
//! For: mg/dL into mmol/L and back where the LOINC code says which molecule was measured. Not for: guessing; an
//! unknown or ambiguous analyte is [`NotConverted`] with its reason. Sources stand in the table.
//!
//! Atomic weights: IUPAC standard atomic weights 2021, abridged: H 1.008, C 12.011, N 14.007, O 15.999,
//! P 30.974, Ca 40.078 (Prohaska et al., Pure Appl. Chem. 2022, 94, 573).

use rust_decimal::{Decimal, RoundingStrategy};

use super::units::{Conversion, UnitError, significant_digits};
use super::{LOINC, Observation, Value};
use crate::import::Code;

/// Fewest digits of a value in the other customary unit: 3, as laboratories print them.
const DIGITS_SHOWN_MIN: u32 = 3;

/// Why a value keeps its unit. Never a guess.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotConverted {
    #[error(transparent)]
    Unit(#[from] UnitError),
    #[error("{from} becomes {to} only for a known molecule, and no molar mass is known for code {code}")]
    UnknownAnalyte { code: String, from: String, to: String },
    #[error("{analyte}: {why}")]
    Ambiguous { analyte: &'static str, why: &'static str },
    #[error("expected codes of the same analyte, got {from} and {to}")]
    OtherAnalyte { from: String, to: String },
    #[error("expected a value that an exact decimal of 28 digits can hold, got one beyond it")]
    OutOfRange,
}

/// One measured value with what it is a value of.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    pub code: &'a Code,
    pub value: Decimal,
    /// UCUM.
    pub unit: &'a str,
}

/// `measured` in unit `to`. Where the analyte under `to_code` is another form of the same (urea and urea
/// nitrogen), that code decides which.
pub fn convert(measured: Measured<'_>, to: &str, to_code: Option<&Code>) -> Result<Decimal, NotConverted> {
    Way::between(measured.code, measured.unit, to, to_code)?.apply(measured.value)
}

/// The way from a unit to another for one code, to be applied to many values.
#[derive(Debug, Clone)]
pub struct Way {
    /// Before the conversion of units: times, divided by, or as a line.
    step: Step,
    conversion: Conversion,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    None,
    Times(Decimal),
    Over(Decimal),
    /// HbA1c of NGSP into IFCC.
    ToIfcc,
    /// And back.
    ToNgsp,
}

impl Way {
    pub fn between(code: &Code, from: &str, to: &str, to_code: Option<&Code>) -> Result<Self, NotConverted> {
        let (here, there) = (analyte(code), to_code.map(analyte));
        if let Some(there) = there.filter(|there| !related(here, *there) && to_code != Some(code)) {
            let named = |analyte: Option<&'static Analyte>, code: &Code| {
                analyte.map_or_else(|| code.code.clone(), |analyte| analyte.name.to_owned())
            };
            let to = to_code.map(|code| named(there, code)).unwrap_or_default();
            return Err(NotConverted::OtherAnalyte { from: named(here, code), to });
        }
        let same = there.is_none_or(|there| there.map(|a| a.name) == here.map(|a| a.name));
        match Conversion::between(from, to) {
            Ok(conversion) if same => Ok(Self { step: Step::None, conversion }),
            Ok(_) => Err(pick_a_code(here)),
            Err(UnitError::NotComparable { .. } | UnitError::NeedsSubstance { .. }) => {
                Self::of_substance(here, there.flatten(), code, from, to)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn of_substance(
        here: Option<&'static Analyte>,
        there: Option<&'static Analyte>,
        code: &Code,
        from: &str,
        to: &str,
    ) -> Result<Self, NotConverted> {
        let unknown = || NotConverted::UnknownAnalyte {
            code: code.code.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
        };
        let here = here.ok_or_else(unknown)?;
        match here.kind {
            // Only the mass form of urea says whether it is urea or its nitrogen.
            Kind::Molar(_) | Kind::UreaMolecule => Self::by_mass(here, there, from, to),
            Kind::HbA1c => Self::by_master_equation(code, from, to),
            Kind::Monovalent => Self::by_charge(from, to),
            Kind::Unclear(why) => Err(NotConverted::Ambiguous { analyte: here.name, why }),
        }
    }

    fn by_mass(
        here: &'static Analyte,
        there: Option<&'static Analyte>,
        from: &str,
        to: &str,
    ) -> Result<Self, NotConverted> {
        let mass = [Some(here), there].into_iter().flatten().find_map(|analyte| match analyte.kind {
            Kind::Molar(milligrams) => Some(milli(milligrams)),
            _ => None,
        });
        // The factor g/mol is on the side that has no mol, so that both sides count by amount.
        if let Ok(conversion) = Conversion::between(&format!("({from}).mol/g"), to) {
            let step = Step::Over(mass.ok_or_else(|| pick_a_code(Some(here)))?);
            return Ok(Self { step, conversion });
        }
        let conversion = Conversion::between(from, &format!("({to}).mol/g"));
        let conversion = conversion.map_err(|_| not_comparable(from, to))?;
        Ok(Self { step: Step::Times(mass.ok_or_else(|| pick_a_code(Some(here)))?), conversion })
    }

    /// One charge each: 1 mEq is 1 mmol. Both sides are told to count by both, which changes neither value.
    fn by_charge(from: &str, to: &str) -> Result<Self, NotConverted> {
        let one_of_each = |word: &str| from.contains(word) != to.contains(word);
        if !one_of_each("mol") || !one_of_each("eq") {
            return Err(not_comparable(from, to));
        }
        let both = |unit: &str| format!("({unit}).(mol/mol).(eq/eq)");
        let conversion = Conversion::between(&both(from), &both(to)).map_err(|_| not_comparable(from, to))?;
        Ok(Self { step: Step::None, conversion })
    }

    /// NGSP is a percentage, IFCC is in mmol/mol; a percentage under the IFCC code is neither.
    fn by_master_equation(code: &Code, from: &str, to: &str) -> Result<Self, NotConverted> {
        let ifcc_code = code.code == IFCC_CODE;
        let conversion = |unit: &str| Conversion::between(unit, unit).map_err(NotConverted::Unit);
        match (from, to) {
            ("%", "mmol/mol") if !ifcc_code => Ok(Self { step: Step::ToIfcc, conversion: conversion(to)? }),
            ("mmol/mol", "%") => Ok(Self { step: Step::ToNgsp, conversion: conversion(to)? }),
            _ => Err(NotConverted::Ambiguous {
                analyte: "HbA1c",
                why: "only % of NGSP and mmol/mol of IFCC are known to each other",
            }),
        }
    }

    pub fn apply(&self, value: Decimal) -> Result<Decimal, NotConverted> {
        let (slope, intercept) = MASTER_EQUATION;
        let stepped = match self.step {
            Step::None => Some(value),
            Step::Times(mass) => value.checked_mul(mass),
            Step::Over(mass) => value.checked_div(mass),
            Step::ToNgsp => value.checked_mul(slope).and_then(|v| v.checked_add(intercept)),
            Step::ToIfcc => value.checked_sub(intercept).and_then(|v| v.checked_div(slope)),
        };
        Ok(self.conversion.apply(stepped.ok_or(NotConverted::OutOfRange)?)?)
    }
}

fn not_comparable(from: &str, to: &str) -> NotConverted {
    UnitError::NotComparable { from: from.to_owned(), to: to.to_owned() }.into()
}

fn pick_a_code(here: Option<&'static Analyte>) -> NotConverted {
    NotConverted::Ambiguous {
        analyte: here.map_or("analyte", |analyte| analyte.name),
        why: "a mass may be of urea (3091-6) or of its nitrogen (3094-0); name the code that is wanted",
    }
}

/// `observation`'s value in the other unit that is customary for it: mg/dL and mmol/L, kg and pounds. Rounded to
/// the digits that were stated, at least three. `None` where there is none, or none for certain.
pub fn both_units(observation: &Observation) -> Option<(Decimal, String)> {
    let Value::Quantity { value, unit } = &observation.value else {
        return None;
    };
    let [one, other] = customary(&observation.code)?;
    let to = if unit == one { other } else { one };
    let measured = Measured { code: &observation.code, value: *value, unit };
    let converted = convert(measured, to, None).ok()?;
    Some((to_shown_digits(converted, *value), to.to_owned()))
}

/// `converted` at the digits `original` stated, at least three: what a person is shown.
pub fn to_shown_digits(converted: Decimal, original: Decimal) -> Decimal {
    let digits = significant_digits(original).max(DIGITS_SHOWN_MIN);
    let rounded = converted.round_sf_with_strategy(digits, RoundingStrategy::MidpointAwayFromZero);
    rounded.unwrap_or(converted).normalize()
}

/// The two units in use for what `code` measures: of mass, then of amount.
pub fn customary(code: &Code) -> Option<[&'static str; 2]> {
    const BODY_WEIGHT: &str = "29463-7";
    if code.system == LOINC && code.code == BODY_WEIGHT {
        return Some(["kg", "[lb_av]"]);
    }
    Some(analyte(code)?.units).filter(|[one, other]| one != other)
}

/// IFCC master equation: NGSP % = 0.09148 × IFCC mmol/mol + 2.152 (Hoelzel et al., Clin. Chem. 2004, 50, 166;
/// <https://ngsp.org/ifcc.asp>).
const MASTER_EQUATION: (Decimal, Decimal) =
    (Decimal::from_parts(9_148, 0, 0, false, 5), Decimal::from_parts(2_152, 0, 0, false, 3));

/// Haemoglobin A1c by the IFCC protocol.
const IFCC_CODE: &str = "59261-8";

struct Analyte {
    name: &'static str,
    /// LOINC codes, of mass and of amount alike: the unit says which is meant.
    codes: &'static [&'static str],
    kind: Kind,
    /// In use: of mass, of amount.
    units: [&'static str; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Molar mass in milligrams a mole.
    Molar(u32),
    /// Moles of urea, whose mass may be told as urea or as nitrogen.
    UreaMolecule,
    Monovalent,
    HbA1c,
    Unclear(&'static str),
}

const fn milli(milligrams: u32) -> Decimal {
    Decimal::from_parts(milligrams, 0, 0, false, 3)
}

fn analyte(code: &Code) -> Option<&'static Analyte> {
    let loinc = code.system == LOINC;
    ANALYTES.iter().find(|analyte| loinc && analyte.codes.contains(&code.code.as_str()))
}

/// Whether a value of one may be told as the other: the same analyte, or two forms of urea with moles on one side.
fn related(one: Option<&Analyte>, other: Option<&Analyte>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return false;
    };
    let urea = |analyte: &Analyte| analyte.kind == Kind::UreaMolecule;
    let form = |analyte: &Analyte| analyte.name.starts_with("urea");
    one.name == other.name || ((urea(one) || urea(other)) && form(one) && form(other))
}

const MG_MMOL: [&str; 2] = ["mg/dL", "mmol/L"];
const MG_UMOL: [&str; 2] = ["mg/dL", "umol/L"];
const MEQ_MMOL: [&str; 2] = ["meq/L", "mmol/L"];

/// Formula and source beside each molar mass. Codes: <https://loinc.org>.
#[rustfmt::skip] // a table reads by its lines
const ANALYTES: &[Analyte] = &[
    // C6H12O6. Serum or plasma, blood, capillary by glucometer, fasting.
    Analyte { name: "glucose", kind: Kind::Molar(180_156), units: MG_MMOL,
        codes: &["2345-7", "2339-0", "41653-7", "1558-6", "14749-6", "15074-8", "14743-9", "14771-0"] },
    // C4H7N3O.
    Analyte { name: "creatinine", kind: Kind::Molar(113_120), units: MG_UMOL,
        codes: &["2160-0", "38483-4", "14682-9", "59826-8"] },
    // CH4N2O, mass of the whole molecule.
    Analyte { name: "urea", kind: Kind::Molar(60_056), units: MG_MMOL, codes: &["3091-6"] },
    // N2 of each urea molecule: two atoms, so 28.014, and the moles are of urea.
    Analyte { name: "urea nitrogen", kind: Kind::Molar(28_014), units: MG_MMOL, codes: &["3094-0", "6299-2"] },
    Analyte { name: "urea, in moles", kind: Kind::UreaMolecule, units: MG_MMOL, codes: &["22664-7"] },
    Analyte { name: "urea nitrogen, in moles", units: MG_MMOL, codes: &["14937-7"],
        kind: Kind::Unclear("its moles may be of nitrogen atoms or of urea, which has two") },
    // C27H46O. Total, HDL, LDL (calculated, direct, unspecified).
    Analyte { name: "cholesterol", kind: Kind::Molar(386_664), units: MG_MMOL,
        codes: &["2093-3", "2085-9", "13457-7", "18262-6", "2089-1", "14647-2", "14646-4", "39469-2", "22748-8"] },
    // As triolein, C57H104O6: the convention behind the factor 0.0113 of the AMA Manual of Style (SI units).
    Analyte { name: "triglyceride", kind: Kind::Molar(885_453), units: MG_MMOL, codes: &["2571-8", "14927-8"] },
    // As phosphorus, which is how a mass of phosphate in serum is told.
    Analyte { name: "phosphate, as phosphorus", kind: Kind::Molar(30_974), units: MG_MMOL,
        codes: &["2777-1", "14879-1"] },
    // Total calcium.
    Analyte { name: "calcium", kind: Kind::Molar(40_078), units: MG_MMOL, codes: &["17861-6", "2000-8"] },
    Analyte { name: "ionised calcium", units: MG_MMOL, codes: &["1994-3", "17864-0", "1995-0", "12180-6"],
        kind: Kind::Unclear("laboratories tell it in mmol/L, mEq/L (two charges) and mg/dL; only its own unit is kept") },
    // Uric acid, C5H4N4O3.
    Analyte { name: "urate", kind: Kind::Molar(168_112), units: MG_UMOL, codes: &["3084-1", "14933-6"] },
    // Human parathyrin 1-84, 9425 Da (UniProt P01270, chain 32-115).
    Analyte { name: "parathyrin, intact", kind: Kind::Molar(9_425_000), units: ["pg/mL", "pmol/L"],
        codes: &["2731-8", "14866-8"] },
    // The monomer, Hb(Fe): a quarter of 64,458 (ICSH 1967, Br. J. Haematol. 13 suppl. 71). Moles of the tetramer are
    // four times fewer and are not in clinical use.
    Analyte { name: "haemoglobin, monomer", kind: Kind::Molar(16_114_500), units: ["g/dL", "mmol/L"],
        codes: &["718-7", "59260-0"] },
    Analyte { name: "HbA1c", kind: Kind::HbA1c, units: ["%", "mmol/mol"], codes: &["4548-4", "17856-6", IFCC_CODE] },
    // One charge each.
    Analyte { name: "potassium", kind: Kind::Monovalent, units: MEQ_MMOL, codes: &["2823-3", "6298-4"] },
    Analyte { name: "sodium", kind: Kind::Monovalent, units: MEQ_MMOL, codes: &["2951-2", "2947-0"] },
    Analyte { name: "chloride", kind: Kind::Monovalent, units: MEQ_MMOL, codes: &["2075-0"] },
    Analyte { name: "bicarbonate", kind: Kind::Monovalent, units: MEQ_MMOL, codes: &["1963-8"] },
];
