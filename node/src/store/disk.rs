//! The store on disk: journal (the authority), witness (what of it was acknowledged), view (for lookups).
//!
//! For: the order in which the three are written. Not for: their formats, each in its own file; nor for opening
//! ([`super::open`]), giving space back ([`super::compact`]) or damage ([`super::salvage`], [`super::check`]).
//!
//! ```text
//! lock                  the owner's process id, locked while open; its inode tells a copy
//! journal/NNNNNN.log    segments of sealed frames, one frame for each commit
//! witness.0, witness.1  end of what was acknowledged, first segment that counts, time floor, place
//! view/N/               sled
//! clean                 position, totals and hash of the view, there only after a clean close
//! reserve               space for denials on a full disk
//! damaged-N/            files that a salvage replaced
//! ```
//! A write is kept in memory (the pending delta). A commit appends it to the journal and syncs, writes the
//! witness and syncs, and only then is it acknowledged. Committed rows wait in memory (the recent delta) until
//! there are enough of them to be worth sled's while, and then a thread brings them into the view while commits go
//! on ([`super::applier`]); a full disk makes them wait longer. A crash between any
//! two steps loses nothing that was acknowledged: a frame the witness does not cover is kept if whole and cut
//! off if torn, and the view is remade.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::applier::Applying;
use super::delta::{Batch, Delta};
use super::journal::{Append, Journal};
use super::place::{self, Place};
use super::reserve::{self, Reserve};
use super::sealing::Keys;
use super::view::{self, View};
use super::witness::{Testimony, Witness};
use super::{Stats, Store, StoreError, Table, VisitItem, VisitRow, open};

/// Committed rows that are worth bringing into the view, in bytes. 4 MiB: sorted, some thousand rows cost sled half
/// of what they cost one by one. Twice as much may wait while others are under way; then commits wait for those: a
/// burst of 30,000 rows waits for nothing, and both together are no more than sled's cache.
pub(super) const RECENT_BYTES: usize = 4 << 20;
/// What may be given back with a reserve's worth of a group: its frame's head, seal and segment header.
const FRAME_EXTRA_BYTES: u64 = 8 << 10;

/// A [`Store`] in a folder, all of it sealed under a [`StoreKey`](super::StoreKey).
pub struct Disk {
    pub(super) dir: PathBuf,
    pub(super) keys: Arc<Keys>,
    pub(super) journal: Journal,
    pub(super) witness: Witness,
    /// What was in `recent` and is on its way into the view. Declared before the view: given up before it is closed.
    pub(super) applying: Option<Applying>,
    /// `None` when the disk has no room for it, or when it could not be remade.
    pub(super) view: Option<View>,
    /// Whether all rows are in `recent`: what there is instead of a view.
    pub(super) is_in_memory: bool,
    /// The number of the newest view's folder.
    pub(super) view_number: u64,
    /// Size of the view when it was last copied, and the sealed rows that were in it then; 0 before that.
    pub(super) fresh: (u64, u64),
    /// Length of the last base, and what it was estimated at: both 0 before the first.
    pub(super) base_bytes: (u64, u64),
    /// Committed, or not journaled, and not yet in the view.
    pub(super) recent: Delta,
    /// [`RECENT_BYTES`]; tests want a view that is brought up to date all the time.
    pub(super) recent_bytes: usize,
    pub(super) pending: Delta,
    pub(super) reserve: Reserve,
    pub(super) here: Place,
    pub(super) time_floor_ms: u64,
    pub(super) commits: u64,
    pub(super) poisoned: bool,
    /// Compaction is not tried before the store has grown to this, in bytes, after it failed.
    pub(super) compact_from: u64,
    /// Released last: fields are dropped in order, and the view still writes when it is dropped.
    pub(super) lock: Option<Lock>,
}

/// The locked file. Unlocked by name and not only closed: a child that was forked and has not yet called exec
/// has the descriptor too, and would keep the lock.
pub(super) struct Lock(pub(super) File);

impl Drop for Lock {
    fn drop(&mut self) {
        // The system unlocks it too, only perhaps later.
        let _ = self.0.unlock();
    }
}

impl Disk {
    /// Whether the folder seems to have been copied: see [`super::place`] for what that can tell. Two copies
    /// that both write would each sign as the same device, so the caller should ask before it signs anything.
    pub fn is_copy(&self) -> bool {
        place::differ(&self.witness.says.place, &self.here)
    }

    /// Accepts that the store lives here now. Durable when it returns.
    pub fn adopt_copy(&mut self) -> Result<(), StoreError> {
        self.check_alive()?;
        self.testify(Testimony { place: self.here, ..self.witness.says })
    }

    /// Deletes the view and remakes it from the journal; returns the number of frames. What is written and not
    /// yet committed stays; unjournaled tables come back empty. Without room for a view it is held in memory.
    pub fn rebuild(&mut self) -> Result<u64, StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        // What was under way is in the journal, or need not be kept.
        self.applying = None;
        if let Some(view) = self.view.take() {
            // Its rows are nowhere until the next step is done, and reads say so.
            self.is_in_memory = false;
            view.destroy()?;
        }
        self.remake_view()
    }

    /// Makes a view from the journal where there is none, or holds its rows in memory.
    fn remake_view(&mut self) -> Result<u64, StoreError> {
        self.view_number = view::fresh_number(self.view_number);
        let path = open::view_path(&self.dir, self.view_number);
        match open::build_view(&path, &self.keys, &self.journal) {
            Ok((view, frames)) => {
                self.fresh = (0, 0);
                (self.view, self.is_in_memory) = (Some(view), false);
                Ok(frames)
            }
            Err(StoreError::Full { .. } | StoreError::View { .. }) => {
                let (mut rows, frames) = open::load(&self.journal)?;
                rows.absorb(std::mem::take(&mut self.recent));
                (self.recent, self.is_in_memory) = (rows, true);
                Ok(frames)
            }
            Err(error) => Err(error),
        }
    }

    fn check_alive(&self) -> Result<(), StoreError> {
        if self.poisoned { Err(StoreError::Poisoned) } else { Ok(()) }
    }

    fn append(&mut self) -> Result<(), StoreError> {
        match self.journal.append(&self.pending) {
            Ok(()) => Ok(()),
            Err(Append::Refused(error)) => Err(error),
            Err(Append::Torn(error)) => {
                self.poisoned = true;
                Err(error)
            }
        }
    }

    /// Appends a group that must be recorded: a full disk is given of the reserve until it fits.
    fn append_urgent(&mut self) -> Result<(), StoreError> {
        let needed = (self.pending.size_bytes() as u64).saturating_add(FRAME_EXTRA_BYTES);
        loop {
            match self.append() {
                Err(StoreError::Full { .. }) if self.reserve.give(needed) => {}
                result => return result,
            }
        }
    }

    /// Syncs what was appended, then lets the witness say so.
    fn make_durable(&mut self) -> Result<(), StoreError> {
        // Until both are done nobody knows what is on the disk.
        self.poisoned = true;
        self.journal.sync()?;
        self.poisoned = false;
        let (position, time_floor_ms) = (self.journal.end(), self.time_floor_ms);
        self.testify(Testimony { position, time_floor_ms, ..self.witness.says })
    }

    /// Writes the witness; if that fails nobody knows what it says.
    fn testify(&mut self, says: Testimony) -> Result<(), StoreError> {
        self.poisoned = true;
        self.witness.write(&self.keys, says)?;
        self.poisoned = false;
        Ok(())
    }

    /// Refuses an ordinary group while the view could not take it: sled must never see the disk fill under it.
    fn check_room(&mut self) -> Result<(), StoreError> {
        if self.view.is_none() {
            self.restore_view();
        }
        let Some(_) = &self.view else {
            return Err(StoreError::Full { doing: "making room for the view" });
        };
        self.let_view_have_room();
        self.has_room_for_pending()
    }

    /// Waits for rows under way where this group might take the room they need, or where part of them is counted
    /// twice: as rows that wait, and as space that is no longer free.
    fn let_view_have_room(&mut self) {
        if self.applying.is_some() && self.has_room_for_pending().is_err() {
            let _ = self.finish_applying(true);
        }
    }

    fn has_room_for_pending(&self) -> Result<(), StoreError> {
        let waiting = self.waiting_bytes().saturating_add(self.pending.size_bytes() as u64);
        view::check_room(&self.dir, waiting)
    }

    /// Committed rows that the view does not have yet, about.
    pub(super) fn waiting_bytes(&self) -> u64 {
        let under_way = self.applying.as_ref().map_or(0, |applying| applying.rows().size_bytes());
        self.recent.size_bytes().saturating_add(under_way) as u64
    }

    /// What can be done after the acknowledgement. Nothing in here may fail the commit: all of it is tried
    /// again later, and the journal has every row.
    fn tidy(&mut self) {
        let _ = self.finish_applying(false);
        if self.recent.size_bytes() >= self.recent_bytes {
            // Without room they wait longer.
            let _ = self.start_applying();
        }
        self.heal();
        self.reserve.fill();
        self.compact_if_wasteful();
    }

    fn is_readable(&self) -> bool {
        self.view.as_ref().map_or(self.is_in_memory, View::is_sound)
    }

    /// The view to look into, or none because all is in memory.
    fn view(&self) -> Result<Option<&View>, StoreError> {
        if self.view.is_none() && !self.is_in_memory {
            return Err(StoreError::View { what: "it could not be remade".to_owned() });
        }
        Ok(self.view.as_ref())
    }

    /// Remakes a view that failed. If even that fails, reads say so, and the next start tries again.
    fn heal(&mut self) {
        if self.is_readable() {
            return;
        }
        if let Err(error) = self.rebuild() {
            tracing::warn!(%error, "the view could not be remade");
        }
    }

    /// Goes back to a view on the disk when there is room again.
    fn restore_view(&mut self) {
        let room = view::check_room(&self.dir, self.recent.size_bytes() as u64);
        if room.is_err() || self.remake_view().is_err() {
            return;
        }
        // What the journal has is in the view now; the rest is applied with it.
        let _ = self.apply_recent();
    }

    /// Lets committed rows be brought into the view while commits go on. `Full` when there is no room, or no view.
    fn start_applying(&mut self) -> Result<(), StoreError> {
        self.finish_applying(self.recent.size_bytes() >= self.recent_bytes.saturating_mul(2))?;
        if self.applying.is_some() {
            return Ok(());
        }
        self.view_with_room()?;
        let rows = std::mem::take(&mut self.recent);
        self.applying = self.view.as_ref().map(|view| view.start_applying(rows)).transpose()?;
        Ok(())
    }

    /// Hears of the end of what is under way, or waits for it. When it failed, the view is remade before it is read.
    fn finish_applying(&mut self, waits: bool) -> Result<(), StoreError> {
        let Some(applying) = &self.applying else { return Ok(()) };
        let done = if waits { Some(applying.wait()) } else { applying.poll() };
        let Some(done) = done else { return Ok(()) };
        self.applying = None;
        self.view.as_ref().map_or(Ok(()), |view| view.finish(done))
    }

    /// Brings committed rows into the view, all of them before it returns. `Full` when there is no room, or no view.
    pub(super) fn apply_recent(&mut self) -> Result<(), StoreError> {
        self.finish_applying(true)?;
        self.view_with_room()?.apply(&self.recent)?;
        self.recent = Delta::default();
        Ok(())
    }

    /// The view, if there is one, and room to bring committed rows into it.
    fn view_with_room(&self) -> Result<&View, StoreError> {
        let doing = "bringing commits into the view";
        let view = self.view.as_ref().ok_or(StoreError::Full { doing })?;
        if !self.recent.is_empty() {
            view::check_room(&self.dir, self.recent.size_bytes() as u64)?;
        }
        Ok(view)
    }

    /// What is in memory and not, or perhaps not, in the view; the last word first.
    fn layers(&self) -> impl Iterator<Item = &Delta> {
        let under_way = self.applying.as_ref().map(Applying::rows);
        [&self.pending, &self.recent].into_iter().chain(under_way).filter(|layer| !layer.is_empty())
    }
}

/// Whether one of the layers says what a row is.
fn is_hidden(layers: &[&Delta], table: Table, parent: &[u8], item: &[u8]) -> bool {
    layers.iter().any(|layer| layer.get(table, parent, item).is_some())
}

impl Store for Disk {
    fn get(&self, table: Table, parent: &[u8], item: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        for layer in self.layers() {
            if let Some(value) = layer.get(table, parent, item) {
                return Ok(value.map(<[u8]>::to_vec));
            }
        }
        self.view()?.map_or(Ok(None), |view| view.get(table, parent, item))
    }

    fn scan(&self, table: Table, parent: &[u8], visit: &mut VisitItem<'_>) -> Result<(), StoreError> {
        let layers: Vec<&Delta> = self.layers().collect();
        let mut newer = Vec::with_capacity(layers.len());
        for layer in layers {
            let mut unless_newer = |item: &[u8], value: &[u8]| {
                if is_hidden(&newer, table, parent, item) {
                    return ControlFlow::Continue(());
                }
                visit(item, value)
            };
            if layer.scan(table, parent, &mut unless_newer).is_break() {
                return Ok(());
            }
            newer.push(layer);
        }
        let Some(view) = self.view()? else { return Ok(()) };
        view.scan(table, Some(parent), &mut |parent, item, value| {
            if is_hidden(&newer, table, parent, item) {
                ControlFlow::Continue(())
            } else {
                visit(item, value)
            }
        })
    }

    fn scan_table(&self, table: Table, visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        let layers: Vec<&Delta> = self.layers().collect();
        let mut newer = Vec::with_capacity(layers.len());
        for layer in layers {
            let mut unless_newer = |parent: &[u8], item: &[u8], value: &[u8]| {
                if is_hidden(&newer, table, parent, item) {
                    return ControlFlow::Continue(());
                }
                visit(parent, item, value)
            };
            if layer.scan_table(table, &mut unless_newer).is_break() {
                return Ok(());
            }
            newer.push(layer);
        }
        let Some(view) = self.view()? else { return Ok(()) };
        view.scan(table, None, &mut |parent, item, value| {
            if is_hidden(&newer, table, parent, item) {
                return ControlFlow::Continue(());
            }
            visit(parent, item, value)
        })
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        batch.check(true)?;
        self.check_alive()?;
        if !self.pending.has_room_for(&batch) {
            if batch.is_urgent() {
                // It cannot wait for room that the group before it does not get.
                self.pending.make_urgent();
            }
            self.commit()?;
        }
        self.pending.add(batch);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.check_alive()?;
        if self.pending.is_empty() {
            return Ok(());
        }
        if self.pending.is_urgent() {
            self.let_view_have_room();
            self.append_urgent()?;
        } else {
            self.check_room()?;
            self.append()?;
        }
        self.make_durable()?;
        self.recent.absorb(std::mem::take(&mut self.pending));
        self.commits = self.commits.saturating_add(1);
        self.tidy();
        Ok(())
    }

    fn abandon(&mut self) {
        self.pending = Delta::default();
    }

    fn write_unjournaled(&mut self, batch: Batch) -> Result<(), StoreError> {
        batch.check(false)?;
        self.check_alive()?;
        let mut delta = Delta::default();
        delta.add(batch);
        let bytes = self.recent.size_bytes().saturating_add(delta.size_bytes());
        if bytes >= self.recent_bytes {
            // With no room these rows, which may be lost, do not grow in memory without a bound.
            self.start_applying()?;
        }
        self.recent.absorb(delta);
        Ok(())
    }

    fn time_floor_ms(&self) -> u64 {
        self.time_floor_ms
    }

    fn raise_time_floor(&mut self, floor_ms: u64) {
        self.time_floor_ms = self.time_floor_ms.max(floor_ms);
    }

    fn lower_time_floor(&mut self, floor_ms: u64) -> Result<(), StoreError> {
        self.check_alive()?;
        self.time_floor_ms = self.time_floor_ms.min(floor_ms);
        let says = Testimony { time_floor_ms: self.time_floor_ms, ..self.witness.says };
        self.poisoned = true;
        self.witness.write_both(&self.keys, says)?;
        self.poisoned = false;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), StoreError> {
        self.adopt_copy()
    }

    fn stats(&self) -> Stats {
        let view_bytes = self.view.as_ref().map_or(0, View::size_bytes);
        let live = self.live_journal_bytes();
        let witness_bytes = 2 * 184;
        Stats {
            journal_bytes: self.journal.bytes(),
            commits: self.commits,
            view_bytes,
            pending_bytes: self.pending.size_bytes() as u64,
            live_bytes: live,
            reclaimable_bytes: self.wasted_journal_bytes().saturating_add(self.wasted_view_bytes(view_bytes)),
            overhead_bytes: view_bytes.saturating_add(self.reserve.bytes()).saturating_add(witness_bytes),
            segments: self.journal.segments(),
            reserve_bytes: self.reserve.bytes(),
            rows: self.view.as_ref().map_or(0, |view| view.totals().rows),
            is_view_in_memory: self.is_in_memory,
        }
    }

    fn close(mut self: Box<Self>) -> Result<(), StoreError> {
        let committed = self.commit();
        if matches!(committed, Err(StoreError::Full { .. })) {
            // Never acknowledged. What was is closed clean all the same.
            self.abandon();
        } else {
            committed.as_ref().map_err(|_| StoreError::Poisoned)?;
        }
        let says = Testimony { time_floor_ms: self.time_floor_ms, ..self.witness.says };
        if says != self.witness.says {
            self.testify(says)?;
        }
        // Without room the view is left as after a crash: the next start remakes it.
        if self.apply_recent().is_ok() {
            self.compact_before_close();
            open::close_view(*self)?;
        }
        committed
    }
}

/// The store's folder has this file while it is open.
pub(super) const LOCK: &str = "lock";

/// Free bytes where a store is.
pub(super) fn free_bytes(dir: &Path) -> u64 {
    reserve::free_bytes(dir)
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "applier_tests.rs"]
mod applier_tests;

#[cfg(test)]
#[path = "damage_tests.rs"]
mod damage_tests;

#[cfg(test)]
#[path = "measures.rs"]
mod measures;
