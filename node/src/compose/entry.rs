//! Entry: one line typed by hand as one FHIR R4 Observation.
//!
//! For: `weight 62.4kg`, `bp 132/84 72`, `meal "rice, miso soup" 640kcal salt 2.1g`. Unlikely values are kept with a
//! warning; what cannot be understood is an error that says what was expected. Not for: judging health.

use rust_decimal::Decimal;

use super::fhir::{Component, Concept, Observation, Period, Quantity, Reference};
use super::quantity::{narrow, number, unit};
use super::{Moment, Warning};
use crate::observe::units;

/// Longest line, in bytes. 4 KiB: a note of a page.
pub const ENTRY_BYTES_MAX: usize = 4096;

/// What is understood, for the error that nothing was.
const KNOWN: &str = "weight, bp, steps, meal, glucose, temperature, spo2, pulse or note";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("expected an entry such as \"weight 62.4kg\", got nothing")]
    Empty,
    #[error("expected an entry of at most {ENTRY_BYTES_MAX} bytes, got {got}")]
    TooLong { got: usize },
    #[error("expected {KNOWN}, got \"{got}\"")]
    Unknown { got: String },
    #[error("expected {expected}, got {}", quoted(.got))]
    Expected { expected: &'static str, got: String },
    #[error("expected {what} in a unit like {unit}, got \"{got}\"")]
    Unit { what: &'static str, unit: &'static str, got: String },
    #[error("expected a closing quotation mark, got the end of the line")]
    Quote,
    #[error("expected the upper pressure above the lower, got {upper}/{lower}")]
    Pressure { upper: Decimal, lower: Decimal },
    #[error("expected a time between the years 1 and 9999")]
    Time,
}

fn quoted(got: &str) -> String {
    if got.is_empty() { "nothing".to_owned() } else { format!("\"{got}\"") }
}

/// A composed observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// FHIR R4 JSON.
    pub json: String,
    pub warnings: Vec<Warning>,
}

/// The observation that `line` says was made at `at`.
pub fn compose(line: &str, at: Moment) -> Result<Entry, EntryError> {
    if line.len() > ENTRY_BYTES_MAX {
        return Err(EntryError::TooLong { got: line.len() });
    }
    let mut words = Words::of(line)?;
    let Piece::Word(verb) = words.next().ok_or(EntryError::Empty)? else {
        return Err(EntryError::Expected { expected: KNOWN, got: "a quotation".to_owned() });
    };
    let mut warnings = Vec::new();
    let observation = match verb.to_lowercase().as_str() {
        "bp" | "血圧" => pressure(&mut words, &mut warnings)?,
        "meal" | "食事" => meal(&mut words, &mut warnings)?,
        "note" | "メモ" => note(&mut words)?,
        "glucose" | "血糖" => glucose(&mut words, &mut warnings)?,
        name => single(name, &mut words, &mut warnings)?,
    };
    words.end()?;
    let observation = by_hand(observation, at)?;
    let json = serde_json::to_string(&observation);
    json.map(|json| Entry { json, warnings }).map_err(|_| EntryError::Time)
}

/// Steps are of the day so far; everything else is of the moment.
fn by_hand(mut observation: Observation, at: Moment) -> Result<Observation, EntryError> {
    let now = at.text().ok_or(EntryError::Time)?;
    if observation.code.called() == STEPS.display {
        let start = at.midnight().ok_or(EntryError::Time)?;
        observation.effective_period = Some(Period { start, end: Some(now) });
    } else {
        observation.effective_date_time = Some(now);
    }
    observation.method = Some(Concept::text("manual"));
    observation.device = Some(Reference { reference: None, display: Some("manual".to_owned()) });
    Ok(observation)
}

/// A single measured value.
struct Single {
    names: &'static [&'static str],
    loinc: &'static str,
    display: &'static str,
    /// UCUM, where none is said.
    unit: &'static str,
    category: (&'static str, &'static str),
    /// Outside of it a warning is due: values that living people hardly have.
    plausible: (u32, u32),
}

const VITAL: (&str, &str) = ("vital-signs", "Vital Signs");
const LABORATORY: (&str, &str) = ("laboratory", "Laboratory");
const ACTIVITY: (&str, &str) = ("activity", "Activity");

const WEIGHT: Single = Single {
    names: &["weight", "体重"],
    loinc: "29463-7",
    display: "Body weight",
    unit: "kg",
    category: VITAL,
    plausible: (20, 300),
};
const STEPS: Single = Single {
    names: &["steps", "歩数"],
    loinc: "55423-8",
    display: "Number of steps in unspecified time Pedometer",
    unit: "{steps}",
    category: ACTIVITY,
    plausible: (0, 60_000),
};
const TEMPERATURE: Single = Single {
    names: &["temperature", "temp", "体温"],
    loinc: "8310-5",
    display: "Body temperature",
    unit: "Cel",
    category: VITAL,
    plausible: (30, 43),
};
const SPO2: Single = Single {
    names: &["spo2", "酸素"],
    loinc: "59408-5",
    display: "Oxygen saturation in Arterial blood by Pulse oximetry",
    unit: "%",
    category: VITAL,
    plausible: (70, 100),
};
const PULSE: Single = Single {
    names: &["pulse", "脈拍"],
    loinc: "8867-4",
    display: "Heart rate",
    unit: "/min",
    category: VITAL,
    plausible: (25, 230),
};
const SYSTOLIC: Single = Single {
    names: &["upper pressure"],
    loinc: "8480-6",
    display: "Systolic blood pressure",
    unit: "mm[Hg]",
    category: VITAL,
    plausible: (60, 260),
};
const DIASTOLIC: Single = Single {
    names: &["lower pressure"],
    loinc: "8462-4",
    display: "Diastolic blood pressure",
    unit: "mm[Hg]",
    category: VITAL,
    plausible: (30, 160),
};
const GLUCOSE_MASS: Single = Single {
    names: &["glucose"],
    loinc: "2339-0",
    display: "Glucose [Mass/volume] in Blood",
    unit: "mg/dL",
    category: LABORATORY,
    plausible: (30, 600),
};
const GLUCOSE_MOLES: Single = Single {
    names: &["glucose"],
    loinc: "15074-8",
    display: "Glucose [Moles/volume] in Blood",
    unit: "mmol/L",
    category: LABORATORY,
    plausible: (2, 33),
};
const ENERGY: Single = Single {
    names: &["energy"],
    loinc: "9052-2",
    display: "Calorie intake total",
    unit: "kcal",
    category: ACTIVITY,
    plausible: (0, 4_000),
};

const SINGLES: [&Single; 5] = [&WEIGHT, &STEPS, &TEMPERATURE, &SPO2, &PULSE];

/// Part of a meal, without a code of its own, in the unit that is written on Japanese packages.
const NUTRIENTS: &[(&str, &str, &str)] = &[
    ("protein", "Protein", "g"),
    ("salt", "Salt", "g"),
    ("potassium", "Potassium", "mg"),
    ("phosphorus", "Phosphorus", "mg"),
    ("water", "Water", "mL"),
];

impl Single {
    fn concept(&self) -> Concept {
        Concept::loinc(self.loinc, self.display)
    }

    fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or(self.display)
    }

    fn observation(&self) -> Observation {
        let (code, display) = self.category;
        Observation { category: vec![Concept::category(code, display)], ..Observation::of(self.concept()) }
    }

    /// `value` in the unit that was said, and a warning where it is hardly possible.
    fn quantity(&self, said: Said, warnings: &mut Vec<Warning>) -> Result<Quantity, EntryError> {
        let ucum = match said.unit.as_str() {
            "" => self.unit,
            written => unit(written).filter(|ucum| units::comparable(ucum, self.unit)).ok_or_else(|| {
                EntryError::Unit { what: self.name(), unit: self.unit, got: written.to_owned() }
            })?,
        };
        self.judge(said.value, ucum, warnings);
        Ok(Quantity::new(said.value, ucum))
    }

    fn judge(&self, value: Decimal, ucum: &str, warnings: &mut Vec<Warning>) {
        let (low, high) = self.plausible;
        let usual = units::convert(value, ucum, self.unit).unwrap_or(value);
        if usual < low.into() || usual > high.into() {
            let why = format!(
                "{value} {} is kept, but {low} to {high} {} is usual",
                units::printed(ucum),
                units::printed(self.unit)
            );
            warnings.push(Warning::new(self.name(), why));
        }
    }
}

fn single(name: &str, words: &mut Words, warnings: &mut Vec<Warning>) -> Result<Observation, EntryError> {
    let found = SINGLES.into_iter().find(|single| single.names.contains(&name));
    let found = found.ok_or_else(|| EntryError::Unknown { got: short(name) })?;
    let said = words.said("a number, as in \"weight 62.4kg\"")?;
    let quantity = found.quantity(said, warnings)?;
    Ok(Observation { value_quantity: Some(quantity), ..found.observation() })
}

/// 118 mg/dL and 118 mmol/L are both numbers people type, so the unit must be said.
fn glucose(words: &mut Words, warnings: &mut Vec<Warning>) -> Result<Observation, EntryError> {
    let said = words.said("a number with its unit, as in \"glucose 118 mg/dL\"")?;
    let found = match unit(&said.unit) {
        Some("mg/dL") => &GLUCOSE_MASS,
        Some("mmol/L") => &GLUCOSE_MOLES,
        _ => return Err(EntryError::Unit { what: "glucose", unit: "mg/dL or mmol/L", got: said.unit }),
    };
    let quantity = found.quantity(said, warnings)?;
    Ok(Observation { value_quantity: Some(quantity), ..found.observation() })
}

/// `132/84`, with the pulse behind it if it was taken.
fn pressure(words: &mut Words, warnings: &mut Vec<Warning>) -> Result<Observation, EntryError> {
    const EXPECTED: &str = "two numbers, as in \"bp 132/84\"";
    let wrong = |got: &str| EntryError::Expected { expected: EXPECTED, got: short(got) };
    let word = words.word(EXPECTED)?;
    let (upper, rest) = number(&word).ok_or_else(|| wrong(&word))?;
    let (lower, written) = rest.strip_prefix('/').and_then(number).ok_or_else(|| wrong(&word))?;
    if upper <= lower {
        return Err(EntryError::Pressure { upper, lower });
    }
    let written = if written.is_empty() { words.unit_word() } else { written.to_owned() };
    let part = |single: &Single, value, warnings: &mut Vec<Warning>| {
        let quantity = single.quantity(Said { value, unit: written.clone() }, warnings)?;
        Ok(Component { code: single.concept(), value_quantity: Some(quantity), value_string: None })
    };
    let mut component = vec![part(&SYSTOLIC, upper, warnings)?, part(&DIASTOLIC, lower, warnings)?];
    words.skip(PULSE.names);
    if !words.is_empty() {
        let quantity = PULSE.quantity(words.said("a pulse, as in \"bp 132/84 72\"")?, warnings)?;
        component.push(Component {
            code: PULSE.concept(),
            value_quantity: Some(quantity),
            value_string: None,
        });
    }
    let code = Concept::loinc("85354-9", "Blood pressure panel with all children optional");
    Ok(Observation { code, component, ..SYSTOLIC.observation() })
}

/// A text, its energy, and parts by name, in any order.
fn meal(words: &mut Words, warnings: &mut Vec<Warning>) -> Result<Observation, EntryError> {
    let text = words.text("what was eaten, as in meal \"rice, miso soup\" 640kcal")?;
    let meal =
        Component { code: Concept::text("Meal"), value_string: Some(text.clone()), ..Component::default() };
    let (mut energy, mut parts) = (None, vec![meal]);
    while !words.is_empty() {
        match words.nutrient() {
            Some(part) => parts.push(nutrient(part, words)?),
            None => {
                energy = Some(ENERGY.quantity(
                    words.said("an energy, as in 640kcal, or a part such as salt 2.1g")?,
                    warnings,
                )?)
            }
        }
    }
    Ok(match energy {
        Some(quantity) => {
            Observation { value_quantity: Some(quantity), component: parts, ..ENERGY.observation() }
        }
        None => Observation {
            value_string: Some(text),
            component: parts.split_off(1),
            ..Observation::of(Concept::text("Meal"))
        },
    })
}

fn nutrient(
    part: (&'static str, &'static str, &'static str),
    words: &mut Words,
) -> Result<Component, EntryError> {
    let (name, display, usual) = part;
    let said = words.said("an amount, as in \"salt 2.1g\"")?;
    let ucum = match said.unit.as_str() {
        "" => Some(usual),
        written => unit(written).filter(|ucum| units::comparable(ucum, usual)),
    };
    let ucum = ucum.ok_or(EntryError::Unit { what: name, unit: usual, got: said.unit })?;
    Ok(Component::quantity(Concept::text(display), said.value, ucum))
}

fn note(words: &mut Words) -> Result<Observation, EntryError> {
    let text = words.text("a text, as in note \"slept badly\"")?;
    Ok(Observation { value_string: Some(text), ..Observation::of(Concept::loinc("34109-9", "Note")) })
}

/// A number as it was said.
struct Said {
    value: Decimal,
    /// As written; empty where none is.
    unit: String,
}

/// A line in pieces: what is quoted is kept as it is, the rest is made narrow.
struct Words(std::collections::VecDeque<Piece>);

enum Piece {
    Word(String),
    Text(String),
}

impl Words {
    fn of(line: &str) -> Result<Self, EntryError> {
        let (mut pieces, mut rest) = (std::collections::VecDeque::new(), line);
        while let Some((at, open)) = rest.char_indices().find(|(_, c)| closing(*c).is_some()) {
            let (plain, tail) = rest.split_at(at);
            pieces.extend(words(plain));
            let inner = tail.get(open.len_utf8()..).unwrap_or_default();
            let (end, close) = inner
                .char_indices()
                .find(|(_, c)| closing(open).is_some_and(|set| set.contains(*c)))
                .ok_or(EntryError::Quote)?;
            let (text, after) = inner.split_at(end);
            pieces.push_back(Piece::Text(text.trim().chars().filter(|c| !c.is_control()).collect()));
            rest = after.get(close.len_utf8()..).unwrap_or_default();
        }
        pieces.extend(words(rest));
        Ok(Self(pieces))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn next(&mut self) -> Option<Piece> {
        self.0.pop_front()
    }

    fn word(&mut self, expected: &'static str) -> Result<String, EntryError> {
        match self.next() {
            Some(Piece::Word(word)) => Ok(word),
            Some(Piece::Text(got)) => Err(EntryError::Expected { expected, got: short(&got) }),
            None => Err(EntryError::Expected { expected, got: String::new() }),
        }
    }

    /// A quotation, or all words that are left.
    fn text(&mut self, expected: &'static str) -> Result<String, EntryError> {
        let text = match self.next() {
            Some(Piece::Text(text)) => text,
            Some(Piece::Word(word)) if !self.0.iter().any(|piece| matches!(piece, Piece::Text(_))) => {
                let rest = std::iter::from_fn(|| self.next());
                let rest =
                    rest.filter_map(|piece| if let Piece::Word(word) = piece { Some(word) } else { None });
                std::iter::once(word).chain(rest).collect::<Vec<_>>().join(" ")
            }
            Some(Piece::Word(got)) => return Err(EntryError::Expected { expected, got: short(&got) }),
            None => String::new(),
        };
        if text.is_empty() { Err(EntryError::Expected { expected, got: text }) } else { Ok(text) }
    }

    /// A number with its unit, joined to it or as the next word.
    fn said(&mut self, expected: &'static str) -> Result<Said, EntryError> {
        let word = self.word(expected)?;
        let wrong = || EntryError::Expected { expected, got: short(&word) };
        let (value, written) = number(&word).ok_or_else(wrong)?;
        let unit = if written.is_empty() { self.unit_word() } else { short(written) };
        Ok(Said { value, unit })
    }

    /// The next word, if it is neither a number nor a name.
    fn unit_word(&mut self) -> String {
        let is_unit = |word: &str| unit(word).is_some() || !word.chars().any(char::is_alphanumeric);
        match self.0.front() {
            Some(Piece::Word(word)) if is_unit(word) => match self.next() {
                Some(Piece::Word(word)) => short(&word),
                _ => String::new(),
            },
            _ => String::new(),
        }
    }

    fn skip(&mut self, names: &[&str]) {
        if matches!(self.0.front(), Some(Piece::Word(word)) if names.contains(&word.to_lowercase().as_str()))
        {
            self.0.pop_front();
        }
    }

    fn nutrient(&mut self) -> Option<(&'static str, &'static str, &'static str)> {
        let Some(Piece::Word(word)) = self.0.front() else { return None };
        let found = NUTRIENTS.iter().find(|(name, ..)| *name == word.to_lowercase()).copied();
        if found.is_some() {
            self.0.pop_front();
        }
        found
    }

    fn end(&mut self) -> Result<(), EntryError> {
        const EXPECTED: &str = "the end of the entry";
        match self.next() {
            None => Ok(()),
            Some(Piece::Word(got) | Piece::Text(got)) => {
                Err(EntryError::Expected { expected: EXPECTED, got: short(&got) })
            }
        }
    }
}

fn words(plain: &str) -> Vec<Piece> {
    narrow(plain).split_whitespace().map(|word| Piece::Word(word.to_owned())).collect()
}

/// What ends a quotation that `open` begins.
fn closing(open: char) -> Option<&'static str> {
    match open {
        '"' | '＂' | '“' | '”' => Some("\"＂“”"),
        '「' => Some("」"),
        _ => None,
    }
}

/// For a message: at most 40 characters, none of which act on a terminal.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}
