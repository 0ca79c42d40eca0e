//! Compaction: a journal of exactly the live rows, and a view without sled's leftovers.
//!
//! For: giving space back, and deciding when. Not for: opening or damage, which use [`write_base`] too.
//!
//! All in one go, at the end of the commit that made the waste pass its bound: 100,000 rows take about a second
//! here, and bounded steps between commits would need two journals that both grow meanwhile. It happens
//! after as many bytes of waste as an eighth of the live data, so it costs a bounded share of all writing.
//!
//! Every step leaves a store that opens: the new segments are strays until the witness names them; once both
//! its files do, the old ones are strays. Strays are deleted at the next start.

use std::path::Path;
use std::sync::Arc;

use super::delta::Delta;
use super::disk::{Disk, free_bytes};
use super::journal::Journal;
use super::sealing::Keys;
use super::survey::segment_path;
use super::view::{self, FREE_BYTES_MIN, View};
use super::witness::Testimony;
use super::{StoreError, open};

/// Waste that is always allowed, in bytes. 1 MiB: below it nobody minds, and sled needs half of it.
const WASTE_BYTES_MIN: u64 = 1 << 20;
/// Waste that starts a compaction, as a part of what is live: an eighth, so that journal and view stay below
/// 1.2 times of what they are when fresh.
const WASTE_PARTS: u64 = 8;
/// The same when closing, where nobody waits: a sixteenth.
const WASTE_PARTS_CLOSING: u64 = 16;
/// Rows of one frame of a base, in bytes. 1 MiB: what a salvage loses with one spoiled page.
const PART_BYTES: usize = if cfg!(all(test, debug_assertions)) { 2 << 10 } else { 1 << 20 };
/// What a sealed row of the view costs beside what it costs in a base: its secret name (33) and its own seal
/// (40), less what CBOR spends on a parent of its own (4).
const ROW_EXTRA_BYTES: u64 = 69;
/// What a fresh view takes for one sealed byte, in halves: 2.5, rounded up from 1.9 measured; only before the
/// first is measured in place.
const VIEW_HALVES: u64 = 5;

impl Disk {
    /// Rewrites the journal so that it holds exactly the live rows, and remakes the view. What is written and
    /// not yet committed stays.
    ///
    /// # Errors
    /// `Full` when there is no room for both beside the old ones: nothing changed. Others as in `commit`.
    pub fn compact(&mut self) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        self.compact_parts(true, true)
    }

    pub(super) fn compact_if_wasteful(&mut self) {
        self.compact_beyond(WASTE_PARTS);
    }

    pub(super) fn compact_before_close(&mut self) {
        self.compact_beyond(WASTE_PARTS_CLOSING);
    }

    fn compact_beyond(&mut self, parts: u64) {
        let Some(view) = &self.view else { return };
        let is_much = |waste: u64, live: u64| waste > (live / parts).max(WASTE_BYTES_MIN);
        let journal = is_much(self.wasted_journal_bytes(), self.live_journal_bytes());
        let of_view = is_much(self.wasted_view_bytes(view.seen_bytes()), self.fresh_view_bytes());
        let size = self.journal.bytes().saturating_add(view.seen_bytes());
        if !(journal || of_view) || size < self.compact_from {
            return;
        }
        self.compact_from = 0;
        if let Err(error) = self.compact_parts(journal, of_view) {
            // The disk may have no room for it: not again before the store has grown by another eighth.
            self.compact_from = size.saturating_add(size / WASTE_PARTS);
            tracing::debug!(%error, "the store was not compacted");
        }
    }

    /// What the live rows would take in a fresh journal, about.
    pub(super) fn live_journal_bytes(&self) -> u64 {
        let waiting = self.waiting_bytes();
        let Some(view) = &self.view else { return waiting };
        // Rows of one parent share its name in a base: the last one tells by how much the estimate is off.
        let (base, estimated) = self.base_bytes;
        let rows = in_proportion(base, estimate(view), estimated);
        rows.saturating_add(waiting)
    }

    pub(super) fn wasted_journal_bytes(&self) -> u64 {
        self.journal.bytes().saturating_sub(self.live_journal_bytes())
    }

    /// What the view would take if it were made now, about.
    fn fresh_view_bytes(&self) -> u64 {
        let (disk, rows) = self.fresh;
        let now = self.view.as_ref().map_or(0, |view| view.totals().bytes);
        if rows < WASTE_BYTES_MIN {
            return (now.saturating_mul(VIEW_HALVES) / 2).saturating_add(WASTE_BYTES_MIN);
        }
        in_proportion(disk, now, rows)
    }

    pub(super) fn wasted_view_bytes(&self, view_bytes: u64) -> u64 {
        view_bytes.saturating_sub(self.fresh_view_bytes())
    }

    fn compact_parts(&mut self, journal: bool, of_view: bool) -> Result<(), StoreError> {
        self.apply_recent()?;
        let live = self.view.as_ref().map_or(0, |view| view.totals().bytes);
        let journal_bytes = if journal { live.saturating_add(live / 8) } else { 0 };
        let view_bytes = if of_view { live.saturating_mul(VIEW_HALVES) / 2 } else { 0 };
        let needed = journal_bytes.saturating_add(view_bytes).saturating_add(FREE_BYTES_MIN);
        if free_bytes(&self.dir) < needed {
            return Err(StoreError::Full { doing: "compacting the store" });
        }
        if of_view {
            self.renew_view()?;
        }
        if journal { self.renew_journal() } else { Ok(()) }
    }

    /// Copies the rows, sealed as they are, into a fresh view.
    fn renew_view(&mut self) -> Result<(), StoreError> {
        let Some(old) = &self.view else { return Ok(()) };
        let number = view::fresh_number(self.view_number);
        let fresh = View::create(&open::view_path(&self.dir, number), Arc::clone(&self.keys))?;
        let copied = old.rows(&mut |row| fresh.take_row(row)).and_then(|()| fresh.settled_bytes());
        let size = match copied {
            Ok(size) => size,
            Err(error) => {
                fresh.destroy()?;
                return Err(error);
            }
        };
        self.view_number = number;
        self.fresh = (size, fresh.totals().bytes);
        if let Some(old) = self.view.replace(fresh) {
            // What cannot be deleted now is at the next start.
            let _ = old.destroy();
        }
        Ok(())
    }

    fn renew_journal(&mut self) -> Result<(), StoreError> {
        let Some(view) = &self.view else { return Ok(()) };
        let (segment, commit) = (self.journal.end().segment.saturating_add(1), self.journal.end().commit);
        let fresh = write_base(&self.dir, &self.keys, view, segment, commit, self.journal.skips_sync)?;
        let says = Testimony { base: fresh.base(), position: fresh.end(), ..self.witness.says };
        self.poisoned = true;
        self.witness.write_both(&self.keys, says)?;
        self.poisoned = false;
        self.base_bytes = (fresh.bytes(), estimate(view));
        std::mem::replace(&mut self.journal, fresh).give_up();
        Ok(())
    }
}

/// What the rows of a view take in a base if every row has a parent of its own.
fn estimate(view: &View) -> u64 {
    let totals = view.totals();
    totals.bytes.saturating_sub(totals.rows.saturating_mul(ROW_EXTRA_BYTES))
}

/// `size * now / then`, in steps of 1 KiB so that nothing overflows below 16 PiB; `now` if that is less than
/// 64 KiB ago, where steps are too coarse.
fn in_proportion(size: u64, now: u64, then: u64) -> u64 {
    if then < 64 << 10 {
        return now;
    }
    (size / 1024).saturating_mul(now / 1024) / (then / 1024) * 1024
}

/// Writes the journaled rows of a view as the base of a new chain, and makes it durable. On an error nothing is
/// left of it.
pub(super) fn write_base(
    dir: &Path,
    keys: &Arc<Keys>,
    view: &View,
    segment: u64,
    commit: u64,
    skips_sync: bool,
) -> Result<Journal, StoreError> {
    let mut journal = Journal::begin(dir, Arc::clone(keys), segment, commit)?;
    journal.skips_sync = skips_sync;
    match fill_base(&mut journal, view).and_then(|()| journal.sync()) {
        Ok(()) => Ok(journal),
        Err(error) => {
            journal.give_up();
            // A sync that fails here has touched nothing that counts.
            Err(error)
        }
    }
}

fn fill_base(journal: &mut Journal, view: &View) -> Result<(), StoreError> {
    let (mut part, mut rows) = (1u32, Delta::default());
    view.rows(&mut |row| {
        if !row.is_journaled() {
            return Ok(());
        }
        if rows.size_bytes() >= PART_BYTES {
            journal.append_base(&std::mem::take(&mut rows), part, false)?;
            part = part.saturating_add(1);
        }
        let (parent, item, value) = view.open_row(row.name, row.sealed)?;
        rows.put_row(row.name.first().copied().unwrap_or_default(), parent, item, value);
        Ok(())
    })?;
    // Also when there are no rows: the last part says that the base is whole.
    journal.append_base(&rows, part, true)
}

/// Deletes segments that count no more. What cannot be deleted is a stray at the next start.
pub(super) fn delete_segments(dir: &Path, segments: &[u64]) {
    for segment in segments {
        let _ = std::fs::remove_file(segment_path(dir, *segment));
    }
}
