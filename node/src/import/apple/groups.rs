//! Days under way: the elements of one metric, source and local day, until they are handed on.
//!
//! For: turning millions of elements into thousands of records with bounded memory. An export is sorted by type and
//! mostly by time, so a day is usually complete long before there is no more room; then the day that was not added
//! to for longest is handed on. Should a later element belong to a day that is gone, the day continues as part 2, a
//! record of its own: nothing is lost, and the same file always makes the same parts, so importing it again adds
//! nothing. Days whose several types stand far apart in the file are handed on last.
//!
//! Not for: sorting. The elements keep the order of the file.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;

use super::MEDIA_TYPE;
use super::element::Said;
use super::metrics::{self, Metric};
use crate::import::error::ImportError;
use crate::import::facts::{Body, Code, Effective, Facts, Finding, TITLE_BYTES_MAX, clean};
use crate::import::sink::Sink;
use crate::import::{time, xml};

/// How much is held of days under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Most bytes of all days. 32 MiB: some three weeks of a busy watch; all of it stays far below 200 MB.
    pub(super) held_bytes_max: usize,
    /// Most days. 50,000: their names and facts then take about 20 MB.
    pub(super) days_max: usize,
    /// Largest day, in bytes; beyond it the day continues as another part. 8 MiB: eighty times a busy one.
    pub(super) day_bytes_max: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { held_bytes_max: 32 * 1024 * 1024, days_max: 50_000, day_bytes_max: 8 * 1024 * 1024 }
    }
}

/// Most days in one export. 1,000,000: twenty years of sixty types from two sources; knowing which are gone then
/// takes 40 MB.
const DAYS_MAX: usize = 1_000_000;

/// Most codes of one day: a food label has 39 nutrients.
const CODES_MAX: usize = 64;

/// Longest source in a `source_id`, in bytes. 100: a name of thirty letters in any script; longer ones are hashed.
const SOURCE_BYTES_MAX: usize = 100;

/// Longest source that is read, in bytes. 1 KiB: it is what a person called a phone.
const SOURCE_BYTES_READ_MAX: usize = 1024;

/// Longest name of a type, in bytes: 128, twice HealthKit's longest.
const TYPE_BYTES_MAX: usize = 128;

/// What becomes of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Kept,
    /// It says when the export was made, or who its owner is: no record.
    Skipped,
}

pub(super) struct Groups {
    origin: String,
    room: Room,
    opening: Vec<u8>,
    open: HashMap<String, Group>,
    held_bytes: usize,
    /// How many parts of a day were handed on, by the hash of its key. Two days of one hash, once in ten million
    /// exports, make a part number where none is needed.
    gone: HashMap<u64, u32>,
    key: String,
}

struct Group {
    metric: &'static Metric,
    title: String,
    source: String,
    name: String,
    day: String,
    payload: Vec<u8>,
    effective: Effective,
    codes: Vec<Code>,
    first: u64,
    last: u64,
}

impl Groups {
    pub(super) fn new(origin: &str, locale: Option<&str>, room: Room) -> Self {
        let attribute = locale.map(|locale| format!(" locale=\"{}\"", locale.replace('"', "&quot;")));
        let opening = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<HealthData{}>\n",
            attribute.unwrap_or_default()
        );
        Self {
            origin: origin.to_owned(),
            room,
            opening: opening.into_bytes(),
            open: HashMap::new(),
            held_bytes: 0,
            gone: HashMap::new(),
            key: String::new(),
        }
    }

    /// Add the element `raw`, the `number`th of the file, to its day.
    pub(super) fn take(&mut self, said: &Said, raw: &[u8], number: u64) -> Result<Taken, ImportError> {
        if matches!(said.element.as_str(), "ExportDate" | "Me") {
            return Ok(Taken::Skipped);
        }
        if said.kind.len() > TYPE_BYTES_MAX || said.element.len() > TYPE_BYTES_MAX {
            return Err(ImportError::NameTooLong { max: TYPE_BYTES_MAX });
        }
        if said.source.len() > SOURCE_BYTES_READ_MAX {
            return Err(ImportError::NameTooLong { max: SOURCE_BYTES_READ_MAX });
        }
        let start = time::apple(&said.start).ok_or(ImportError::NoDate)?;
        let end_ms = time::apple(&said.end).map_or(start.end_ms, |end| end.end_ms.max(start.end_ms));
        let metric = metrics::metric_of(&said.element, &said.kind);
        // The grammar has just been judged: a date is its first ten bytes.
        let day = said.start.get(..10).unwrap_or(&said.start);
        let name = match metric.name {
            _ if metrics::is_whole(metric) => metric.kind,
            "" if said.kind.is_empty() => &said.element,
            _ => metrics::short(&said.kind),
        };
        self.key.clear();
        self.key.extend([name, "\0", &said.source, "\0", day]);
        if !self.open.contains_key(&self.key) {
            if self.open.len() + self.gone.len() >= DAYS_MAX {
                return Err(ImportError::TooManyDays { max: DAYS_MAX });
            }
            let group = Group::new(metric, said, name, day, start, &self.opening, number);
            self.held_bytes += group.cost_bytes();
            self.open.insert(self.key.clone(), group);
        }
        if let Some(group) = self.open.get_mut(&self.key) {
            let before = group.cost_bytes();
            group.add(said, raw, start, end_ms, number);
            self.held_bytes = (self.held_bytes + group.cost_bytes()).saturating_sub(before);
        }
        Ok(Taken::Kept)
    }

    /// Hand on what there is no more room for; called after each element.
    pub(super) fn make_room(&mut self, sink: &mut Sink<'_>) -> ControlFlow<()> {
        if self.open.get(&self.key).is_some_and(|group| group.payload.len() >= self.room.day_bytes_max) {
            let key = self.key.clone();
            self.hand_on(&key, sink)?;
        }
        let Room { held_bytes_max, days_max, .. } = self.room;
        if self.held_bytes <= held_bytes_max && self.open.len() <= days_max {
            return ControlFlow::Continue(());
        }
        let mut oldest: Vec<_> = self.open.iter().map(|(key, group)| (group.rank(), key.clone())).collect();
        oldest.sort_unstable();
        for (_, key) in oldest {
            if self.held_bytes <= held_bytes_max / 2 && self.open.len() <= days_max / 2 {
                break;
            }
            self.hand_on(&key, sink)?;
        }
        ControlFlow::Continue(())
    }

    /// Hand on everything, in the order in which the days began.
    pub(super) fn finish(&mut self, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let mut left: Vec<_> = self.open.iter().map(|(key, group)| (group.first, key.clone())).collect();
        left.sort_unstable();
        left.into_iter().try_for_each(|(_, key)| self.hand_on(&key, sink))
    }

    fn hand_on(&mut self, key: &str, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let Some(group) = self.open.remove(key) else {
            return ControlFlow::Continue(());
        };
        self.held_bytes = self.held_bytes.saturating_sub(group.cost_bytes());
        let parts = self.gone.entry(hash_of(key)).or_default();
        *parts = parts.saturating_add(1);
        let part = *parts;
        sink.found(group.finding(&self.origin, part))
    }
}

impl Group {
    fn new(
        metric: &'static Metric,
        said: &Said,
        name: &str,
        day: &str,
        start: Effective,
        opening: &[u8],
        number: u64,
    ) -> Self {
        Self {
            metric,
            title: metrics::title_of(metric, &said.element, &said.kind),
            source: source_name(&xml::said(&said.source)),
            name: name.to_owned(),
            day: day.to_owned(),
            payload: opening.to_vec(),
            effective: start,
            codes: Vec::new(),
            first: number,
            last: number,
        }
    }

    fn add(&mut self, said: &Said, raw: &[u8], start: Effective, end_ms: i64, number: u64) {
        self.payload.extend_from_slice(raw);
        self.payload.push(b'\n');
        if start.start_ms < self.effective.start_ms {
            self.effective = Effective { end_ms: self.effective.end_ms, ..start };
        }
        self.effective.end_ms = self.effective.end_ms.max(end_ms);
        self.last = number;
        let metric = metrics::metric_of(&said.element, &said.kind);
        let kind = if said.kind.is_empty() { &said.element } else { &said.kind };
        let known = |code: &Code| code.code == *kind || metric.code == Some(code.code.as_str());
        if self.codes.len() < CODES_MAX && !self.codes.iter().any(known) {
            let code = metrics::code_of(metric, kind, &said.unit);
            if !self.codes.contains(&code) {
                self.codes.push(code);
            }
        }
    }

    /// What it holds, in bytes: its payload, its names here and in the key, and some 512 of structure.
    fn cost_bytes(&self) -> usize {
        let names = self.source.len() + self.title.len() + self.name.len();
        self.payload.capacity() + 2 * names + 512
    }

    /// Days that wait for other types come last, then the one that was added to last.
    fn rank(&self) -> (bool, u64) {
        (metrics::is_whole(self.metric), self.last)
    }

    fn finding(mut self, origin: &str, part: u32) -> Finding {
        self.payload.extend_from_slice(b"</HealthData>\n");
        self.payload.shrink_to_fit();
        let Self { metric, title, source, name, day, .. } = self;
        let (spoken, id) = match part {
            1 => (String::new(), String::new()),
            part => (format!(", part {part}"), format!("/part-{part}")),
        };
        let facts = Facts {
            kind: format!("daily/{}", metric.kind),
            categories: metric.category.into_iter().map(str::to_owned).collect(),
            codes: self.codes,
            effective: Some(self.effective),
            title: clean(&format!("{title}, {source}, {day}{spoken}"), TITLE_BYTES_MAX),
            media_type: MEDIA_TYPE.to_owned(),
            source_id: Some(format!("apple-health/{}/{}/{day}{id}", segment(&name), segment(&source))),
            replaces_same_source: true,
            ..Facts::default()
        };
        let origin = format!("{origin} {name} {day}");
        Finding { bytes: Body::Memory(self.payload), facts, origin }
    }
}

/// Who measured, of what an element says; what Apple leaves out was measured by a phone of Apple.
pub(super) fn source_name(said: &str) -> String {
    match clean(said, SOURCE_BYTES_READ_MAX) {
        name if name.is_empty() => "Apple Health".to_owned(),
        name => name,
    }
}

/// A part of a `source_id`: without slashes, and bounded.
fn segment(text: &str) -> String {
    let escaped = clean(text, usize::MAX).replace('%', "%25").replace('/', "%2F");
    if escaped.len() <= SOURCE_BYTES_MAX {
        return escaped;
    }
    let hash = blake3::hash(text.as_bytes()).to_hex();
    hash.as_str().to_owned()
}

fn hash_of(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
