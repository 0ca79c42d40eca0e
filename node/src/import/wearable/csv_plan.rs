//! A mapping laid over a file's header: which cell means what.
//!
//! For: the time, the person and the values of one row. Not for: reading files.

use std::collections::BTreeMap;

use jiff::civil::{Date, Time};
use jiff::fmt::strtime::BrokenDownTime;

use super::csv_map::{CsvMap, ValueMap, plain};
use super::csv_rows::Cells;
use super::day::{Clock, code, decimal};
use crate::import::error::ImportError;
use crate::import::facts::{Code, Effective, clean};
use crate::observe::{Observation, Source, Value};

/// Longest column name in a message, in bytes. 60: an error stays a line.
const COLUMN_BYTES_MAX: usize = 60;
/// Longest text taken from a cell, in bytes. 1,000: a meal or a note, not a letter.
const TEXT_BYTES_MAX: usize = 1_000;

pub(super) struct Plan<'m> {
    pub(super) map: &'m CsvMap,
    pub(super) delimiter: char,
    width: usize,
    names: Vec<String>,
    person: Option<usize>,
    device: Option<usize>,
    date: usize,
    clock: Option<usize>,
    pub(super) values: Vec<Column<'m>>,
    by: Clock,
}

/// A value's cell, and those of its code and unit.
pub(super) struct Column<'m> {
    at: usize,
    code_at: Option<usize>,
    unit_at: Option<usize>,
    pub(super) means: &'m ValueMap,
}

/// When a row was, and on which local day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct When {
    pub(super) effective: Effective,
    pub(super) day: Date,
    pub(super) clock: Option<Time>,
}

impl<'m> Plan<'m> {
    /// `map` over the header row; where the mapping states no delimiter, the first that fits.
    pub(super) fn new(map: &'m CsvMap, header: &[u8]) -> Result<Self, ImportError> {
        let stated = map.delimiter.map(|only| vec![only]);
        let mut fault = ImportError::NoMapping;
        for delimiter in stated.unwrap_or_else(|| vec![',', ';', '\t']).into_iter().rev() {
            match Cells::new(delimiter).split(header).and_then(|names| Self::over(map, delimiter, names)) {
                Ok(plan) => return Ok(plan),
                Err(error) => fault = error,
            }
        }
        Err(fault)
    }

    fn over(map: &'m CsvMap, delimiter: char, names: Vec<String>) -> Result<Self, ImportError> {
        let known: Vec<String> = names.iter().map(|name| plain(name)).collect();
        let find = |wanted: &[String]| {
            wanted.iter().find_map(|name| known.iter().position(|known| *known == plain(name)))
        };
        let missing = |wanted: &[String]| ImportError::ColumnMissing {
            column: clean(wanted.first().map_or("", String::as_str), COLUMN_BYTES_MAX),
        };
        let column = |means: &'m ValueMap| {
            let at = find(&means.column)?;
            Some(Column { at, code_at: find(&means.code_column), unit_at: find(&means.unit_column), means })
        };
        let values: Vec<_> = map.values.iter().filter_map(column).collect();
        let first = map.values.first().map_or(&[][..], |value| &value.column);
        if values.is_empty() {
            return Err(missing(first));
        }
        let person = find(&map.person);
        if person.is_none() && !map.person.is_empty() {
            return Err(missing(&map.person));
        }
        let date = find(&map.time.date).ok_or_else(|| missing(&map.time.date))?;
        let (clock, device) = (find(&map.time.clock), find(&map.device));
        let by = Clock::new(map.time.offset.as_deref(), map.time.zone.as_deref());
        Ok(Self { map, delimiter, width: names.len(), names, person, device, date, clock, values, by })
    }

    pub(super) fn has_people(&self) -> bool {
        self.person.is_some()
    }

    /// A row has as many cells as the header.
    pub(super) fn checked(&self, cells: &[String]) -> Result<(), ImportError> {
        match cells.len() == self.width {
            true => Ok(()),
            false => Err(ImportError::CellCount { expected: self.width, got: cells.len() }),
        }
    }

    /// Whom the row is about; empty where no column says.
    pub(super) fn person<'c>(&self, cells: &'c [String]) -> &'c str {
        self.person.and_then(|at| cells.get(at)).map_or("", String::as_str)
    }

    pub(super) fn source(&self, cells: &[String]) -> Source {
        let device = self.device.and_then(|at| cells.get(at)).filter(|text| !text.is_empty());
        Source {
            name: source_name(self.map, self.person(cells)),
            device: device.map(|text| clean(text, COLUMN_BYTES_MAX)),
            method: None,
        }
    }

    pub(super) fn when(&self, cells: &[String]) -> Result<When, ImportError> {
        let cell = cells.get(self.date).map_or("", String::as_str);
        let (day, mut time) =
            read_date(cell, &self.map.time.date_formats).ok_or_else(|| self.unread(cell))?;
        if let Some(at) = self.clock {
            let text = cells.get(at).map_or("", String::as_str);
            if !text.is_empty() {
                time = Some(read_clock(text, &self.map.time.clock_formats).ok_or_else(|| self.no_time(at))?);
            }
        }
        let effective = self.effective(day, time).ok_or_else(|| self.no_time(self.date))?;
        Ok(When { effective, day, clock: time })
    }

    fn effective(&self, day: Date, time: Option<Time>) -> Option<Effective> {
        let Some(time) = time else {
            return self.by.day(day);
        };
        let instant = self.by.at(day.to_datetime(time))?;
        let lasts = i64::from(self.map.time.minutes.unwrap_or(0)).checked_mul(60_000)?;
        Some(Effective { end_ms: instant.end_ms.checked_add(lasts)?, ..instant })
    }

    /// The window of a whole local day.
    pub(super) fn whole_day(&self, day: Date) -> Option<Effective> {
        self.by.day(day)
    }

    fn unread(&self, cell: &str) -> ImportError {
        let column = self.name(self.date);
        match two_meanings(cell) {
            true => ImportError::DateAmbiguous { column },
            false => ImportError::TimeUnread { column },
        }
    }

    fn no_time(&self, at: usize) -> ImportError {
        ImportError::TimeUnread { column: self.name(at) }
    }

    fn name(&self, at: usize) -> String {
        clean(self.names.get(at).map_or("", String::as_str), COLUMN_BYTES_MAX)
    }

    /// The value in a cell; `None` where the cell says that there is none.
    pub(super) fn value(&self, column: &Column<'_>, cells: &[String]) -> Result<Option<Value>, ImportError> {
        let text = cells.get(column.at).map_or("", String::as_str);
        if is_absent(text) {
            return Ok(None);
        }
        let Some(unit) = self.unit(column, cells) else {
            return Ok(Some(Value::Text(clean(text, TEXT_BYTES_MAX))));
        };
        let number = match self.map.decimal_comma {
            true => decimal(&text.replace('.', " ").replace(',', ".")),
            false => decimal(text),
        };
        let value = number.ok_or_else(|| ImportError::NumberUnread { column: self.name(column.at) })?;
        Ok(Some(Value::Quantity { value, unit }))
    }

    fn unit(&self, column: &Column<'_>, cells: &[String]) -> Option<String> {
        let said = column.unit_at.and_then(|at| cells.get(at)).filter(|text| !text.is_empty());
        said.map(|text| clean(text, COLUMN_BYTES_MAX)).or_else(|| column.means.unit.clone())
    }

    fn code(&self, column: &Column<'_>, cells: &[String]) -> Code {
        match column.code_at.and_then(|at| cells.get(at)).filter(|text| !text.is_empty()) {
            Some(text) => code(&clean(text, COLUMN_BYTES_MAX)),
            None => self.code_of(column),
        }
    }

    /// A value without a code has its column's name as one.
    pub(super) fn code_of(&self, column: &Column<'_>) -> Code {
        match column.means.code.is_empty() {
            false => code(&column.means.code),
            true => Code { system: "urn:karte:csv".to_owned(), code: self.name(column.at) },
        }
    }

    /// Every value of a row.
    pub(super) fn observe(&self, cells: &[String]) -> Result<Vec<Observation>, ImportError> {
        let (when, source) = (self.when(cells)?, self.source(cells));
        let mut out = Vec::new();
        for column in &self.values {
            let Some(value) = self.value(column, cells)? else { continue };
            let display = &column.means.display;
            out.push(Observation {
                code: self.code(column, cells),
                display: if display.is_empty() { self.name(column.at) } else { display.clone() },
                value,
                effective: when.effective,
                source: source.clone(),
                part_of: column.means.part_of.as_deref().map(code),
            });
        }
        Ok(out)
    }

    /// A row under the mapping's own names, with `date`; cells that say nothing are left out.
    pub(super) fn named(&self, cells: &[String]) -> Result<BTreeMap<String, String>, ImportError> {
        let mut out = BTreeMap::from([("date".to_owned(), self.when(cells)?.day.to_string())]);
        for column in &self.values {
            let text = cells.get(column.at).map_or("", String::as_str);
            if let (Some(name), false) = (&column.means.name, is_absent(text)) {
                out.insert(name.clone(), clean(text, TEXT_BYTES_MAX));
            }
        }
        Ok(out)
    }
}

/// `fitbit 1503960366`: the person is a part of the source, so that two people's days stay apart.
pub(super) fn source_name(map: &CsvMap, person: &str) -> String {
    match person {
        "" => map.source.clone(),
        person => format!("{} {}", map.source, clean(person, COLUMN_BYTES_MAX)),
    }
}

fn is_absent(text: &str) -> bool {
    matches!(text, "" | "-" | "--" | "---" | "－" | "ー" | "n/a" | "N/A" | "NA")
}

fn read_date(text: &str, formats: &[String]) -> Option<(Date, Option<Time>)> {
    formats.iter().find_map(|format| {
        let parsed = BrokenDownTime::parse(format, text).ok()?;
        let day = parsed.to_date().ok()?;
        Some((day, parsed.hour().and_then(|_| parsed.to_time().ok())))
    })
}

fn read_clock(text: &str, formats: &[String]) -> Option<Time> {
    formats.iter().find_map(|format| BrokenDownTime::parse(format, text).ok()?.to_time().ok())
}

/// Three numbers with the year last: the month may be the first or the second.
fn two_meanings(text: &str) -> bool {
    let day = text.split(' ').next().unwrap_or_default();
    let parts: Vec<&str> = day.split(['/', '-', '.']).collect();
    let number = |text: &&str| (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    matches!(parts.as_slice(), [a, b, c] if number(a) && number(b) && number(c) && a.len() <= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn month_first_is_read_only_where_a_mapping_says_so() {
        let fitabase = ["%m/%d/%Y".to_owned(), "%m-%d-%Y".to_owned()];
        let read = |text| read_date(text, &fitabase).map(|(day, _)| day.to_string());
        assert_eq!(read("4/12/2016").as_deref(), Some("2016-04-12"));
        assert_eq!(read("5-2-2016").as_deref(), Some("2016-05-02"), "the second of May");
        assert_eq!(read("13/4/2016"), None);
        assert!(two_meanings("4/12/2016") && two_meanings("5-2-16") && !two_meanings("2016/4/12"));
    }

    #[test]
    fn clocks_are_read_with_and_without_morning() {
        let formats = ["%H:%M".to_owned(), "%I:%M %p".to_owned()];
        let read = |text| read_clock(text, &formats).map(|time| time.to_string());
        assert_eq!(read("8:05").as_deref(), Some("08:05:00"));
        assert_eq!(read("8:05 PM").as_deref(), Some("20:05:00"));
        assert_eq!(read("25:00"), None);
    }
}
