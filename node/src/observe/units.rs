//! Units of UCUM: whether one is valid, whether two can be compared, and exact conversion between them.
//!
//! For: decimals in, decimals out. octofhir-ucum parses the units and gives their magnitudes as exact decimals of
//! 28 significant digits (its own `convert` computes special units in `f64`, so it is not used here); ratio and
//! offset are applied in the same arithmetic. Not for: mass into amount of substance, which UCUM cannot know (see
//! `analytes`), and not for logarithmic units (pH, dB), which have no exact decimals.

use std::collections::BTreeSet;

use octofhir_ucum::{Case, Number, SpecialKind, UnitAnalysis, UnitExpr, analyse, is_comparable, lookup_unit};
use rust_decimal::{Decimal, RoundingStrategy};

/// Longest unit that is read, in bytes. 128: the longest in the UCUM test file has 40.
pub const UNIT_BYTES_MAX: usize = 128;

/// Decimal places kept where an offset is subtracted. 24: the magnitudes have 28 digits, of which three stand
/// before the point (273.15); what lies below is noise of 5/9.
const AFFINE_PLACES: u32 = 24;

/// Most decimal places of a `Decimal`.
const PLACES_MAX: i32 = 28;

/// Why a value keeps its unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("expected a UCUM unit, got \"{unit}\"{hint}")]
    Invalid { unit: String, hint: String },
    #[error("expected a UCUM unit of at most {UNIT_BYTES_MAX} bytes, got {got}")]
    TooLong { got: usize },
    #[error("expected two units of the same kind, got {from} and {to}")]
    NotComparable { from: String, to: String },
    /// UCUM counts mol, equivalents and osmoles as plain numbers, so 1 mEq/L of calcium would be 1 mmol/L and an
    /// HbA1c of 6.5 % would be 65 mmol/mol. Both are wrong.
    #[error("{from} becomes {to} only for a known substance")]
    NeedsSubstance { from: String, to: String },
    #[error("expected units in proportion, got \"{unit}\", which is logarithmic or otherwise not linear")]
    NotLinear { unit: String },
    #[error("{from} in {to} does not fit an exact decimal of 28 digits")]
    OutOfRange { from: String, to: String },
}

/// Whether `unit` is UCUM (case sensitive).
pub fn is_valid(unit: &str) -> bool {
    unit.len() <= UNIT_BYTES_MAX && octofhir_ucum::validate(unit).is_ok()
}

/// Whether values in `a` and `b` measure the same kind of thing, after UCUM section 17.
pub fn comparable(a: &str, b: &str) -> bool {
    a.len() <= UNIT_BYTES_MAX && b.len() <= UNIT_BYTES_MAX && is_comparable(a, b).unwrap_or(false)
}

/// `value` of unit `from` in unit `to`; the full precision is kept, so the way back gives the original once it is
/// rounded to the original's digits ([`returns`]).
pub fn convert(value: Decimal, from: &str, to: &str) -> Result<Decimal, UnitError> {
    Conversion::between(from, to)?.apply(value)
}

/// The way from one unit to another, to be applied to many values.
#[derive(Debug, Clone)]
pub struct Conversion {
    from: String,
    to: String,
    /// `None` where both units are written alike: nothing is computed then.
    linear: Option<[Line; 2]>,
}

/// A value `v` is `v × factor + offset` in base units.
#[derive(Debug, Clone, Copy)]
struct Line {
    factor: Number,
    offset: Number,
}

impl Conversion {
    pub fn between(from: &str, to: &str) -> Result<Self, UnitError> {
        let (a, b) = (analysed(from)?, analysed(to)?);
        let (from, to) = (from.to_owned(), to.to_owned());
        if from == to {
            return Ok(Self { from, to, linear: None });
        }
        if !comparable(&from, &to) {
            return Err(UnitError::NotComparable { from, to });
        }
        let linear = Some([line(&a)?, line(&b)?]);
        if counted(&a.parsed_ast) != counted(&b.parsed_ast) {
            return Err(UnitError::NeedsSubstance { from, to });
        }
        Ok(Self { from, to, linear })
    }

    pub fn apply(&self, value: Decimal) -> Result<Decimal, UnitError> {
        let Some([from, to]) = self.linear else {
            return Ok(value);
        };
        let affine = !from.offset.is_zero() || !to.offset.is_zero();
        let result = Number::parse(&value.to_string())
            .and_then(|v| v.checked_mul(from.factor))
            .and_then(|v| v.checked_add(from.offset))
            .and_then(|v| v.checked_sub(to.offset))
            .and_then(|v| v.checked_div(to.factor))
            .and_then(|v| decimal(v, significant_digits(value)));
        let result = result.map(|v| if affine { v.round_dp(AFFINE_PLACES) } else { v });
        let out_of_range = || UnitError::OutOfRange {
            from: format!("{value} {}", shown(&self.from)),
            to: shown(&self.to).to_owned(),
        };
        result.map(|v| v.normalize()).ok_or_else(out_of_range)
    }
}

/// How many digits `value` states: 3 for 6.30 and for 0.0630, 2 for 63.
pub fn significant_digits(value: Decimal) -> u32 {
    value.mantissa().unsigned_abs().checked_ilog10().map_or(1, |log| log + 1)
}

/// Whether `back`, a value converted there and back, is `original`: at the original's decimal places.
pub fn returns(original: Decimal, back: Decimal) -> bool {
    back.round_dp_with_strategy(original.scale(), RoundingStrategy::MidpointAwayFromZero) == original
}

fn analysed(unit: &str) -> Result<UnitAnalysis, UnitError> {
    if unit.len() > UNIT_BYTES_MAX {
        return Err(UnitError::TooLong { got: unit.len() });
    }
    analyse(unit).map_err(|error| {
        let hint = error.suggestions.first().map(|first| format!("; did you mean {first}?"));
        UnitError::Invalid { unit: shown(unit).to_owned(), hint: hint.unwrap_or_default() }
    })
}

/// A unit in a message. It is short here; control characters are never part of a valid one.
fn shown(unit: &str) -> &str {
    if unit.chars().any(char::is_control) { "(unprintable)" } else { unit }
}

fn line(unit: &UnitAnalysis) -> Result<Line, UnitError> {
    let not_linear = || UnitError::NotLinear { unit: unit.expression.clone() };
    let temperature =
        |kind| matches!(kind, SpecialKind::Celsius | SpecialKind::Fahrenheit | SpecialKind::Reaumur);
    if unit.special.is_some_and(|kind| !temperature(kind)) {
        return Err(not_linear());
    }
    let factor = unit.factor.checked_mul(unit.scale).ok_or_else(not_linear)?;
    Ok(Line { factor, offset: unit.offset })
}

/// What a unit counts entities by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Counted {
    Amount,
    Charge,
    Osmotic,
}

/// What the unit counts by, in numerator and denominator alike.
fn counted(expr: &UnitExpr) -> BTreeSet<Counted> {
    match expr {
        UnitExpr::Symbol(symbol) => atom(symbol).into_iter().collect(),
        UnitExpr::Power(inner, _) | UnitExpr::Annotated(inner, _) | UnitExpr::Reciprocal(inner) => {
            counted(inner)
        }
        UnitExpr::Product(parts) => parts.iter().flat_map(counted).collect(),
        UnitExpr::Quotient(over, under) => counted(over).into_iter().chain(counted(under)).collect(),
        UnitExpr::Numeric(_) | UnitExpr::Annotation(_) => BTreeSet::new(),
    }
}

fn atom(symbol: &str) -> Option<Counted> {
    let (_, unit) = lookup_unit(symbol, Case::Sensitive)?;
    match unit.code {
        "mol" | "kat" | "U" => Some(Counted::Amount),
        "eq" => Some(Counted::Charge),
        "osm" => Some(Counted::Osmotic),
        _ => None,
    }
}

/// Digits of a value that must survive the way back. 18: no laboratory states more, and what has more is itself the
/// result of a conversion, with noise at its end.
const DIGITS_STATED_MAX: u32 = 18;

/// `number` as a `Decimal`, unless fewer than `digits` and two more of its digits would be left: then the way
/// back could not return.
fn decimal(number: Number, digits: u32) -> Option<Decimal> {
    let (mantissa, exponent) = number.to_integer_and_exponent();
    if exponent >= 0 {
        let scale = 10_i128.checked_pow(exponent.unsigned_abs())?;
        return Decimal::try_from_i128_with_scale(mantissa.checked_mul(scale)?, 0).ok();
    }
    let surplus = (-PLACES_MAX).checked_sub(exponent)?;
    if surplus <= 0 {
        return Decimal::try_from_i128_with_scale(mantissa, exponent.unsigned_abs()).ok();
    }
    let exact = Decimal::try_from_i128_with_scale(mantissa, 0).ok()?;
    let cut = 10_i128
        .checked_pow(surplus.unsigned_abs())
        .and_then(|n| Decimal::try_from_i128_with_scale(n, 0).ok())?;
    let kept = exact.checked_div(cut)?.round().mantissa();
    let enough = mantissa == 0
        || kept.unsigned_abs().checked_ilog10().is_some_and(|log| log > digits.min(DIGITS_STATED_MAX));
    enough.then(|| Decimal::try_from_i128_with_scale(kept, PLACES_MAX.unsigned_abs()).ok())?
}

/// `unit` as people write it: mmHg, °C, µmol/L. For eyes only, no unit to compute with.
pub fn printed(unit: &str) -> String {
    const WRITTEN: &[(&str, &str)] = &[
        ("mm[Hg]", "mmHg"),
        ("[lb_av]", "lb"),
        ("Cel", "°C"),
        ("[degF]", "°F"),
        ("umol", "µmol"),
        ("[iU]", "IU"),
        ("10*", "10^"),
    ];
    if unit == "1" {
        return "count".to_owned();
    }
    let named = WRITTEN.iter().fold(unit.to_owned(), |text, (ucum, written)| text.replace(ucum, written));
    named.replace(['{', '}'], "")
}
