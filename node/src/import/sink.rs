//! Where findings go: the caller's visitor, and the counts kept beside it.
//!
//! For: the one way out of every format. Not for: holding findings; nothing is kept after it was handed over.

use std::ops::ControlFlow;

use super::error::ImportError;
use super::facts::{Body, Facts, Finding};
use super::meter::Counter;
use super::{Event, Limits, Totals, session_sheet};

pub(super) struct Sink<'v> {
    pub(super) limits: &'v Limits,
    pub(super) totals: Totals,
    visit: &'v mut dyn FnMut(Event) -> ControlFlow<()>,
    bytes_total: u64,
    /// Counts what is read from the file on disk that is at hand.
    pub(super) read: Counter,
    /// Bytes of the files on disk before it.
    bytes_before: u64,
    /// Refusals in the current item.
    refused_here: u64,
}

impl<'v> Sink<'v> {
    pub(super) fn new(
        limits: &'v Limits,
        bytes_total: u64,
        visit: &'v mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Self {
        Self {
            limits,
            totals: Totals::default(),
            visit,
            bytes_total,
            read: Counter::default(),
            bytes_before: 0,
            refused_here: 0,
        }
    }

    pub(super) fn found(&mut self, finding: Finding) -> ControlFlow<()> {
        let origin = finding.origin.clone();
        let finding = match session_sheet::composed(finding) {
            Ok(finding) => finding,
            Err(reason) => return self.refused(&origin, reason),
        };
        self.totals.found += 1;
        (self.visit)(Event::Found(finding))
    }

    pub(super) fn found_text(&mut self, text: String, facts: Facts, origin: String) -> ControlFlow<()> {
        self.found(Finding { bytes: Body::Memory(text.into_bytes()), facts, origin })
    }

    pub(super) fn refused(&mut self, origin: &str, reason: ImportError) -> ControlFlow<()> {
        self.totals.refused += 1;
        self.refused_here += 1;
        if self.refused_here > self.limits.refusals_told_max {
            return ControlFlow::Continue(());
        }
        (self.visit)(Event::Refused { origin: origin.to_owned(), reason })
    }

    /// An item ends: what was refused beyond the bound is told as a number.
    pub(super) fn item_done(&mut self, origin: &str) -> ControlFlow<()> {
        let count = std::mem::take(&mut self.refused_here).saturating_sub(self.limits.refusals_told_max);
        if count == 0 {
            return ControlFlow::Continue(());
        }
        (self.visit)(Event::Refused { origin: origin.to_owned(), reason: ImportError::AndMore { count } })
    }

    /// Tell how far the import is, in bytes of the disk: a reader calls this now and then, whatever it unpacks.
    pub(super) fn advanced(&mut self) -> ControlFlow<()> {
        self.advanced_to(self.bytes_before.saturating_add(self.read.get()))
    }

    /// Everything at a path of `bytes` bytes has been read.
    pub(super) fn path_done(&mut self, origin: &str, bytes: u64) -> ControlFlow<()> {
        self.bytes_before = self.bytes_before.saturating_add(bytes);
        self.item_done(origin)?;
        self.advanced_to(self.bytes_before)
    }

    /// A file that grew since it was listed, or is read twice, passes neither the total nor its end.
    fn advanced_to(&mut self, bytes_done: u64) -> ControlFlow<()> {
        let bytes_done = bytes_done.max(self.totals.bytes).min(self.bytes_total);
        self.totals.bytes = bytes_done;
        (self.visit)(Event::Progress { bytes_done, bytes_total: self.bytes_total })
    }
}

/// Where a text stands, for messages, and what its surroundings say of it.
pub(super) struct Place {
    pub(super) origin: String,
    pub(super) full_url: Option<String>,
    /// How many Bundles it lies in.
    pub(super) level: u32,
    /// Lines of the file before the text.
    pub(super) lines_before: usize,
}

impl Place {
    pub(super) fn file(origin: &str) -> Self {
        Self { origin: origin.to_owned(), full_url: None, level: 0, lines_before: 0 }
    }

    pub(super) fn line(origin: &str, number: usize) -> Self {
        let lines_before = number.saturating_sub(1);
        Self { lines_before, ..Self::file(&format!("{origin} line {number}")) }
    }

    /// Entry `number` of the Bundle that stands here.
    pub(super) fn entry(&self, number: u64) -> Self {
        Self { level: self.level + 1, ..Self::file(&format!("{} entry {number}", self.origin)) }
    }

    /// A fault's line within the text becomes its line within the file.
    pub(super) fn settle(&self, reason: ImportError) -> ImportError {
        match reason {
            ImportError::Syntax { line, column, fault } => {
                ImportError::Syntax { line: line + self.lines_before, column, fault }
            }
            other => other,
        }
    }
}
