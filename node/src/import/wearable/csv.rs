//! CSV of wearables, monitors, scales, diaries and sheets: a record for each person and local day.
//!
//! A record is the header row and the rows of its day, byte for byte. Rows are read one at a time; what is held is
//! the days that may still grow, at most [`HELD_BYTES_MAX`]. Not for: what columns mean; that is the mapping's.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;

use jiff::civil::Date;

use super::csv_map::{CsvMap, plain, recognise};
use super::csv_plan::{Plan, When, source_name};
use super::csv_rows::{Cells, blank, next_row};
use super::day::{Daily, code};
use super::{Counts, WearableOptions};
use crate::import::error::ImportError;
use crate::import::facts::{Body, Code, Finding};
use crate::import::sink::Sink;
use crate::observe::Observation;

/// Most bytes of days that may still grow. 32 MiB: ten years by the minute, unsorted; a sorted file of any length
/// needs a day of it.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most days (of each person) in a file. 200,000: five hundred people for a year; their keys take 20 MB.
const DAYS_MAX: usize = 200_000;
/// The option that takes each person of a file.
const ALL: &str = "all";

/// The ready mapping whose header opens a file.
pub(super) fn claims(head: &[u8]) -> Option<&'static CsvMap> {
    let first = head.split_inclusive(|byte| *byte == b'\n').next()?;
    [',', ';', '\t'].into_iter().find_map(|delimiter| {
        let names = Cells::new(delimiter).split(first).ok()?;
        recognise(&names.iter().map(|name| plain(name)).collect::<Vec<_>>())
    })
}

/// Read a whole file by `map`.
pub(super) fn read(
    input: &mut dyn Read,
    map: &CsvMap,
    origin: &str,
    options: &WearableOptions,
    sink: &mut Sink<'_>,
) -> ControlFlow<(), Counts> {
    let mut input = BufReader::with_capacity(64 * 1024, input);
    let mut header = Vec::new();
    let opened =
        next_row(&mut input, &mut header).and_then(|any| any.then_some(()).ok_or(ImportError::Empty));
    match opened.and_then(|()| Plan::new(map, &header)) {
        Err(reason) => sink.refused(origin, reason)?,
        Ok(plan) => rows(&mut input, &plan, Days::new(&plan, header, origin, options), sink)?,
    }
    ControlFlow::Continue(Counts::default())
}

fn rows(
    input: &mut dyn BufRead,
    plan: &Plan<'_>,
    mut days: Days<'_>,
    sink: &mut Sink<'_>,
) -> ControlFlow<()> {
    let (mut cells, mut row) = (Cells::new(plan.delimiter), Vec::new());
    for number in 2_u64.. {
        let place = |origin: &str| format!("{origin} row {number}");
        match next_row(input, &mut row) {
            Ok(false) => break,
            Ok(true) if blank(&row) => {}
            Ok(true) => match cells.split(&row).and_then(|cells| days.add(&cells, &row, number)) {
                Ok(()) => {}
                Err(reason) if reason.ends_the_file() => return sink.refused(days.origin, reason),
                Err(reason) => sink.refused(&place(days.origin), reason)?,
            },
            Err(reason @ ImportError::Unreadable { .. }) => return sink.refused(days.origin, reason),
            Err(reason) => sink.refused(&place(days.origin), reason)?,
        }
        days.let_go(sink)?;
    }
    days.finish(sink)
}

impl ImportError {
    /// Whether there is no use in the rest of a file.
    fn ends_the_file(&self) -> bool {
        matches!(self, Self::PersonNotChosen { .. } | Self::TooManyDays { .. })
    }
}

type Key = (String, Date, String);

/// The rows of one record so far.
struct Day {
    bytes: Vec<u8>,
    /// Which of the plan's values some row has.
    has: Vec<bool>,
    first_row: u64,
    when: When,
}

/// The days of a file that are not handed over yet, in the order they were met.
struct Days<'a> {
    plan: &'a Plan<'a>,
    header: Vec<u8>,
    origin: &'a str,
    chosen: Option<&'a str>,
    held: HashMap<Key, Day>,
    order: VecDeque<Key>,
    bytes_held: usize,
    done: BTreeSet<Key>,
    people: BTreeSet<String>,
}

impl<'a> Days<'a> {
    fn new(plan: &'a Plan<'a>, header: Vec<u8>, origin: &'a str, options: &'a WearableOptions) -> Self {
        let chosen = options.person.as_deref().filter(|_| plan.has_people());
        Self {
            plan,
            header,
            origin,
            chosen,
            held: HashMap::new(),
            order: VecDeque::new(),
            bytes_held: 0,
            done: BTreeSet::new(),
            people: BTreeSet::new(),
        }
    }

    /// Whether somebody has to choose among people once the file is read.
    fn undecided(&self) -> bool {
        self.plan.has_people() && self.chosen.is_none()
    }

    fn add(&mut self, cells: &[String], row: &[u8], number: u64) -> Result<(), ImportError> {
        self.plan.checked(cells)?;
        let person = self.plan.person(cells);
        self.meet(person)?;
        let wanted = self.chosen.is_none_or(|chosen| chosen == ALL || chosen == person);
        if !wanted || (self.undecided() && self.people.len() > 1) {
            return Ok(());
        }
        let when = self.plan.when(cells)?;
        let mut has = vec![false; self.plan.values.len()];
        for (has, column) in has.iter_mut().zip(&self.plan.values) {
            *has = self.plan.value(column, cells)?.is_some();
        }
        let person = person.to_owned();
        let key = self.key(person, when)?;
        self.put(key, Day { bytes: row.to_vec(), has, first_row: number, when })
    }

    fn meet(&mut self, person: &str) -> Result<(), ImportError> {
        if self.plan.has_people() && !self.people.contains(person) {
            if self.people.len() >= DAYS_MAX {
                return Err(ImportError::TooManyDays { max: DAYS_MAX });
            }
            self.people.insert(person.to_owned());
            if self.undecided() && self.people.len() > 1 {
                self.forget();
            }
        }
        Ok(())
    }

    /// The key of the record a row belongs to. Where each row is one, its clock and its turn tell it apart.
    fn key(&self, person: String, when: When) -> Result<Key, ImportError> {
        if self.done.len() + self.held.len() >= DAYS_MAX {
            return Err(ImportError::TooManyDays { max: DAYS_MAX });
        }
        let mut key = (person, when.day, String::new());
        if self.plan.map.each_row {
            let clock = when.clock.map_or(String::new(), |time| format!("T{}", time.strftime("%H:%M")));
            key.2.clone_from(&clock);
            for turn in 2.. {
                if !self.done.contains(&key) && !self.held.contains_key(&key) {
                    break;
                }
                key.2 = format!("{clock}#{turn}");
            }
        }
        Ok(key)
    }

    fn put(&mut self, key: Key, row: Day) -> Result<(), ImportError> {
        if self.done.contains(&key) {
            return Err(ImportError::RowOutOfOrder);
        }
        self.bytes_held += row.bytes.len();
        if let Some(day) = self.held.get_mut(&key) {
            end_line(&mut day.bytes);
            day.bytes.extend_from_slice(&row.bytes);
            day.has.iter_mut().zip(row.has).for_each(|(old, new)| *old |= new);
        } else {
            self.order.push_back(key.clone());
            self.held.insert(key, row);
        }
        if self.undecided() && self.bytes_held > HELD_BYTES_MAX {
            self.forget();
            return Err(ImportError::PersonNotChosen { max: HELD_BYTES_MAX as u64 });
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.held = HashMap::new();
        self.order.clear();
        self.bytes_held = 0;
    }

    /// Hand over the days met first once too much is held.
    fn let_go(&mut self, sink: &mut Sink<'_>) -> ControlFlow<()> {
        if self.undecided() {
            return ControlFlow::Continue(());
        }
        while self.bytes_held > HELD_BYTES_MAX || (self.plan.map.each_row && !self.order.is_empty()) {
            self.hand_over_first(sink)?;
        }
        ControlFlow::Continue(())
    }

    fn finish(mut self, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let count = self.people.len();
        if self.undecided() && count > 1 {
            return sink.refused(self.origin, ImportError::SeveralPeople { count });
        }
        if self.chosen.is_some_and(|chosen| chosen != ALL && !self.people.contains(chosen)) {
            return sink.refused(self.origin, ImportError::PersonNotInFile { count });
        }
        while !self.order.is_empty() {
            self.hand_over_first(sink)?;
        }
        ControlFlow::Continue(())
    }

    fn hand_over_first(&mut self, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let Some(key) = self.order.pop_front() else {
            return ControlFlow::Continue(());
        };
        let Some(day) = self.held.remove(&key) else {
            return ControlFlow::Continue(());
        };
        self.bytes_held = self.bytes_held.saturating_sub(day.bytes.len());
        let finding = self.finding(&key, day);
        self.done.insert(key);
        sink.found(finding)
    }

    fn finding(&self, key: &Key, day: Day) -> Finding {
        let map = self.plan.map;
        let mut bytes = self.header.clone();
        end_line(&mut bytes);
        bytes.extend_from_slice(&day.bytes);
        let each = if map.each_row { Some(day.when.effective) } else { self.plan.whole_day(day.when.day) };
        let categories: Vec<&str> = map.categories.iter().map(String::as_str).collect();
        let mut facts = Daily {
            kind: &map.kind,
            categories: &categories,
            codes: self.codes(&day.has),
            title: &map.title,
            media_type: &map.media_type(),
            source: &source_name(map, &key.0),
            day: &format!("{}{}", key.1, key.2),
            effective: each,
        }
        .facts();
        facts.profiles = map.profiles();
        Finding {
            bytes: Body::Memory(bytes),
            facts,
            origin: format!("{} row {}", self.origin, day.first_row),
        }
    }

    /// The codes of the values that are there, each after the whole it is a part of.
    fn codes(&self, has: &[bool]) -> Vec<Code> {
        let mut codes = Vec::new();
        for (column, _) in self.plan.values.iter().zip(has).filter(|(_, has)| **has) {
            let whole = column.means.part_of.as_deref().map(code);
            for code in whole.into_iter().chain([self.plan.code_of(column)]) {
                if !codes.contains(&code) {
                    codes.push(code);
                }
            }
        }
        codes
    }
}

/// A last row without a line ending gets one before another follows it.
fn end_line(bytes: &mut Vec<u8>) {
    if bytes.last().is_some_and(|last| *last != b'\n') {
        bytes.push(b'\n');
    }
}

/// What a record's rows say.
pub(super) fn observations(profiles: &[String], bytes: &[u8]) -> Result<Vec<Observation>, ImportError> {
    let mut out = Vec::new();
    each_row(&CsvMap::from_profiles(profiles)?, bytes, |plan, cells| {
        out.extend(plan.observe(cells)?);
        Ok(())
    })?;
    Ok(out)
}

/// A record's rows under the mapping's own names (`pre_weight`, `ktv`, ...), with `date`; for whoever composes a
/// document of them.
pub(crate) fn named_rows(
    profiles: &[String],
    bytes: &[u8],
) -> Result<Vec<BTreeMap<String, String>>, ImportError> {
    let mut out = Vec::new();
    each_row(&CsvMap::from_profiles(profiles)?, bytes, |plan, cells| {
        out.push(plan.named(cells)?);
        Ok(())
    })?;
    Ok(out)
}

fn each_row(
    map: &CsvMap,
    mut bytes: &[u8],
    mut with: impl FnMut(&Plan<'_>, &[String]) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let mut row = Vec::new();
    if !next_row(&mut bytes, &mut row)? {
        return Err(ImportError::Empty);
    }
    let plan = Plan::new(map, &row)?;
    let mut cells = Cells::new(plan.delimiter);
    while next_row(&mut bytes, &mut row)? {
        if !blank(&row) {
            let cells = cells.split(&row)?;
            plan.checked(&cells)?;
            with(&plan, &cells)?;
        }
    }
    Ok(())
}
