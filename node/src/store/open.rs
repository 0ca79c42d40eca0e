//! Opening a store: what is there, is it whole, can it be mended without loss, and where is the view.
//!
//! For: the order of the checks, each with a named outcome ([`Opened`]). Not for: losses; those are refused, and
//! [`super::salvage`] accepts them.
//!
//! 1. lock; 2. keys, from any segment header or the witness; 3. witness; 4. the whole journal, frame by frame;
//! 5. mending: flipped bits turned back, headers written again, or the whole journal from a clean view; 6. the
//!    torn tail is cut off, strays are deleted; 7. the view, as it was closed or made anew; 8. the reserve.
//!
//! Nothing is deleted before everything that replaces it is durable, and nothing is changed before step 5.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compact::{delete_segments, write_base};
use super::delta::Delta;
use super::disk::{Disk, LOCK, Lock, RECENT_BYTES};
use super::files::{self, take};
use super::format::{Position, VERSION, VERSION_OLD, header_bytes};
use super::journal::{self, Journal};
use super::place::{self, Place};
use super::reserve::{self, Reserve};
use super::sealing::{Keys, StoreKey};
use super::survey::{self, DIR, Found, Scope, Survey, segment_name, segment_path};
use super::view::{self, Totals, View};
use super::witness::{self, Reading, Testimony, Witness};
use super::{StoreError, io_error};

/// The folder of views.
const VIEW: &str = "view";
pub(super) const CLEAN: &str = "clean";
const CLEAN_MAGIC: [u8; 8] = *b"KARTECL2";
/// The clean marker, in bytes: magic 8, number 8, position 56, totals 32, fresh sizes 16, hash of the view 32,
/// MAC 32. Longer ones are not ours.
const CLEAN_BYTES: usize = 184;
/// Rows gathered before they are written to a new view, in bytes. 32 MiB: sorted runs of 100,000 rows.
const GATHER_BYTES: usize = 32 << 20;

/// What opening found.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Opened {
    /// No store was there: one was made.
    New,
    /// The view was as the last close left it.
    Clean,
    /// The view was clean but older than the journal, as after restoring it from a copy.
    CaughtUp {
        /// Commits applied to it.
        frames: u64,
    },
    /// The view was remade from the journal, as after a crash. Unjournaled tables are empty.
    Rebuilt {
        /// Frames in the journal.
        frames: u64,
    },
    /// The store was written by an older version and is now of the present one. Unjournaled tables are empty.
    Migrated {
        /// The format it had.
        from: u16,
        /// Commits that were in it.
        frames: u64,
    },
    /// Something was damaged, and was mended without any loss.
    Repaired {
        /// Each repair, in plain words, with its file.
        what: Vec<String>,
    },
}

impl Disk {
    /// Opens the store in `dir`, or makes one. Reads and verifies the whole journal; a full disk does not stop
    /// it (the reserve is given back, or the view is held in memory).
    ///
    /// # Errors
    /// `Locked`, `WrongKey`, `Version`; `Damaged` when something acknowledged is lost; `Io`.
    pub fn open(dir: &Path, key: StoreKey) -> Result<(Self, Opened), StoreError> {
        let lock = take_lock(dir)?;
        let opened = match open_locked(dir, &key, &lock) {
            // All of it: what needs space now is needed to open at all.
            Err(StoreError::Full { .. }) if Reserve::open(dir).give(u64::MAX) => {
                open_locked(dir, &key, &lock)
            }
            opened => opened,
        };
        let (mut disk, opened) = opened?;
        disk.lock = Some(lock);
        disk.reserve.fill();
        Ok((disk, opened))
    }

    /// The same, but commits are acknowledged without waiting for the disk: **a store that loses**. Only so
    /// that a test of crashes can show that it would see a loss.
    #[cfg(feature = "faults")]
    pub fn open_without_sync(dir: &Path, key: StoreKey) -> Result<(Self, Opened), StoreError> {
        let (mut disk, opened) = Self::open(dir, key)?;
        disk.journal.skips_sync = true;
        Ok((disk, opened))
    }
}

fn open_locked(dir: &Path, key: &StoreKey, lock: &Lock) -> Result<(Disk, Opened), StoreError> {
    if is_new(dir)? {
        return create(dir, key, lock);
    }
    let keys = Arc::new(journal::unlock(dir, key)?);
    let reading = witness::read(dir, &keys)?;
    let here = place::here(dir, &lock.0, &keys);
    match reading.newest {
        Some((turn, says)) => open_present(dir, keys, here, &reading, turn, says),
        None if has_old_witness(dir)? => migrate(dir, keys, here),
        None => Err(blind()),
    }
}

/// What can be said when neither witness can be read: all of it may be there, and nobody knows.
pub(super) fn blind() -> StoreError {
    let [file, _] = witness::NAMES.map(str::to_owned);
    StoreError::Damaged { file, offset: 0, what: "neither of the two witness files can be read" }
}

pub(super) fn has_old_witness(dir: &Path) -> Result<bool, StoreError> {
    dir.join(witness::OLD_NAME).try_exists().map_err(io_error("looking for the witness"))
}

/// Whether no store was ever finished here. The witness is made last, so without it only an empty first
/// segment is innocent.
pub(super) fn is_new(dir: &Path) -> Result<bool, StoreError> {
    for name in witness::NAMES.into_iter().chain([witness::OLD_NAME]) {
        if dir.join(name).try_exists().map_err(io_error("looking for the witness"))? {
            return Ok(false);
        }
    }
    let listed = survey::segments(dir)?;
    let first = listed.first().map(|segment| std::fs::metadata(segment_path(dir, *segment)));
    let bytes = first.transpose().map_err(io_error("looking for the journal"))?.map_or(0, |file| file.len());
    if listed.iter().all(|segment| *segment == 1) && bytes <= header_bytes(VERSION) as u64 {
        return Ok(true);
    }
    let [file, _] = witness::NAMES.map(str::to_owned);
    Err(StoreError::Damaged { file, offset: 0, what: "missing beside a journal with commits" })
}

fn create(dir: &Path, key: &StoreKey, lock: &Lock) -> Result<(Disk, Opened), StoreError> {
    let mut store_id = [0; 16];
    getrandom::fill(&mut store_id).map_err(StoreError::Random)?;
    let keys = Arc::new(Keys::derive(key, store_id));
    let journal = Journal::begin(dir, Arc::clone(&keys), 1, 0)?;
    // The names of the folder and of the lock too: by its inode a copy is told.
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let synced = lock.0.sync_all().and_then(|()| files::sync_dir(dir));
    let synced = synced.and_then(|()| parent.map_or(Ok(()), files::sync_dir));
    synced.map_err(io_error("making the store's folder"))?;
    let place = place::here(dir, &lock.0, &keys);
    let says = Testimony { base: 1, position: journal.end(), time_floor_ms: 0, place };
    let witness = Witness::create(dir, &keys, says)?;
    let found = find_view(dir, &keys, &journal, None)?;
    Ok((assemble(dir, keys, journal, witness, found, place), Opened::New))
}

fn open_present(
    dir: &Path,
    keys: Arc<Keys>,
    here: Place,
    reading: &Reading,
    turn: u64,
    says: Testimony,
) -> Result<(Disk, Opened), StoreError> {
    let marker = read_clean_marker(dir, &keys)?;
    let mut is_seen = false;
    let mut look = |found: &Found<'_>| {
        is_seen |= marker.as_ref().is_some_and(|marker| marker.at == found.end);
        Ok(())
    };
    let scope = Scope { dir, keys: &keys, version: VERSION, base: says.base, witness: Some(says.position) };
    let survey = survey::walk(&scope, &mut look)?;
    // An interrupted making of the store has only the first.
    let is_young = turn == 0 && survey.frames == 0;
    let mut what: Vec<String> = reading.damage.iter().map(|(file, how)| format!("{file}: {how}")).collect();
    what.retain(|_| !is_young);

    let covering = marker
        .filter(|marker| is_seen || survey.start == marker.at || marker.at.commit >= says.position.commit);
    if let Some(gap) = survey.gaps.first() {
        // A view that was closed clean at the very end has every row that the journal had.
        let marker = covering.filter(|marker| marker.at.commit >= says.position.commit);
        let mut marker = marker.ok_or_else(|| gap.error())?;
        let view = open_copy(dir, &keys, &mut marker).ok_or_else(|| gap.error())?;
        what.extend(survey.gaps.iter().map(|gap| {
            let (name, offset) = (segment_name(gap.segment), gap.offset);
            format!("{name}: damaged at byte {offset} ({}), written again from the view", gap.what)
        }));
        return repair_from_view(dir, keys, here, reading, marker, view, what);
    }
    if let (true, Some((segment, offset))) = (reading.is_half_blind, survey.tail) {
        // Perhaps the witness that is lost had seen what lies there.
        let what = "an unreadable commit behind a damaged witness";
        return Err(StoreError::Damaged { file: segment_name(segment), offset, what });
    }
    let witness = Witness::resume(dir, &keys, reading)?.ok_or_else(blind)?;
    what.extend(mend(dir, &survey)?);
    let (journal, witness) = settle(dir, &keys, &survey, witness)?;
    let at_end = covering.filter(|marker| is_seen || marker.at == survey.start);
    let found = find_view(dir, &keys, &journal, at_end)?;
    let opened = match what.is_empty() {
        true => found.opened.clone(),
        false => Opened::Repaired { what },
    };
    Ok((assemble(dir, keys, journal, witness, found, here), opened))
}

/// Writes what the survey could turn back.
fn mend(dir: &Path, survey: &Survey) -> Result<Vec<String>, StoreError> {
    let doing = "mending the journal";
    let mut done = Vec::new();
    for patch in &survey.patches {
        let file = files::private().open(segment_path(dir, patch.segment)).map_err(io_error(doing))?;
        let written = if patch.bytes.is_empty() {
            file.set_len(patch.offset)
        } else {
            file.write_all_at(&patch.bytes, patch.offset)
        };
        written.and_then(|()| file.sync_all()).map_err(io_error(doing))?;
        done.push(format!("{}: {} at byte {}", segment_name(patch.segment), patch.what, patch.offset));
    }
    Ok(done)
}

/// Cuts off the torn tail, lets the witness cover what is whole, and deletes what belongs to nothing.
fn settle(
    dir: &Path,
    keys: &Arc<Keys>,
    survey: &Survey,
    mut witness: Witness,
) -> Result<(Journal, Witness), StoreError> {
    if let Some((segment, offset)) = survey.tail {
        let doing = "cutting the torn tail";
        let file = files::private().open(segment_path(dir, segment)).map_err(io_error(doing))?;
        file.set_len(offset).map_err(io_error(doing))?;
        file.sync_all().map_err(io_error(doing))?;
    }
    let journal = Journal::resume(dir, Arc::clone(keys), witness.says.base, survey.end)?;
    if survey.end != witness.says.position {
        // A whole frame that was not acknowledged: from now on it is, so it must be durable first. A sync may
        // have failed before, and then only bytes that are written again are synced again.
        journal.rewrite_from(witness.says.position)?;
        witness.write(keys, Testimony { position: survey.end, ..witness.says })?;
    }
    delete_segments(dir, &survey.strays);
    for name in
        [witness::OLD_NAME, &format!("{}.new", witness::NAMES[0]), &format!("{}.new", witness::NAMES[1])]
    {
        // Left by an interrupted migration or mending.
        files::remove(&dir.join(name)).map_err(io_error("deleting an old witness"))?;
    }
    Ok((journal, witness))
}

fn repair_from_view(
    dir: &Path,
    keys: Arc<Keys>,
    here: Place,
    reading: &Reading,
    marker: Marker,
    view: View,
    what: Vec<String>,
) -> Result<(Disk, Opened), StoreError> {
    let listed = survey::segments(dir)?;
    let next = listed.last().copied().unwrap_or(0).max(marker.at.segment).saturating_add(1);
    let journal = write_base(dir, &keys, &view, next, marker.at.commit, false)?;
    let mut witness = Witness::resume(dir, &keys, reading)?.ok_or_else(blind)?;
    witness.write_both(&keys, Testimony { base: next, position: journal.end(), ..witness.says })?;
    delete_segments(dir, &listed);
    remove_clean_marker(dir)?;
    let (number, fresh) = (marker.number, marker.fresh);
    delete_views(dir, Some(number));
    let found =
        FoundView { view: Some(view), number, fresh, recent: Delta::default(), opened: Opened::Clean };
    Ok((assemble(dir, keys, journal, witness, found, here), Opened::Repaired { what }))
}

/// Brings a store of format 1 into the present one: its rows become the base of a new chain. Until the new
/// witness is there the old store is untouched.
fn migrate(dir: &Path, keys: Arc<Keys>, here: Place) -> Result<(Disk, Opened), StoreError> {
    let Some((position, time_floor_ms)) = witness::read_old(dir, &keys)? else {
        let (file, what) = (witness::OLD_NAME.to_owned(), "neither of the two slots is valid");
        return Err(StoreError::Damaged { file, offset: 0, what });
    };
    // Its view and marker are of no use here, and their space may be needed.
    files::remove(&dir.join(CLEAN)).map_err(io_error("deleting the old view"))?;
    files::remove_all(&dir.join(VIEW)).map_err(io_error("deleting the old view"))?;
    let number = view::fresh_number(0);
    let view = View::create(&view_path(dir, number), Arc::clone(&keys))?;
    let scope = Scope { dir, keys: &keys, version: VERSION_OLD, base: 1, witness: Some(position) };
    let survey = gather(&scope, &view)?;
    if let Some(gap) = survey.gaps.first() {
        return Err(gap.error());
    }
    let next = survey::segments(dir)?.last().copied().unwrap_or(1).saturating_add(1);
    let journal = write_base(dir, &keys, &view, next, survey.frames, false)?;
    let says = Testimony { base: next, position: journal.end(), time_floor_ms, place: here };
    let witness = Witness::create(dir, &keys, says)?;
    let listed = survey::segments(dir)?;
    delete_segments(dir, &listed.into_iter().filter(|segment| *segment < next).collect::<Vec<_>>());
    files::remove(&dir.join(witness::OLD_NAME)).map_err(io_error("deleting an old witness"))?;
    let opened = Opened::Migrated { from: VERSION_OLD, frames: survey.frames };
    let found = FoundView { view: Some(view), number, fresh: (0, 0), recent: Delta::default(), opened };
    let opened = found.opened.clone();
    Ok((assemble(dir, keys, journal, witness, found, here), opened))
}

/// Walks a journal and applies every whole frame to a view.
pub(super) fn gather(scope: &Scope<'_>, view: &View) -> Result<Survey, StoreError> {
    let mut rows = Gatherer { view, rows: Delta::default() };
    let survey = survey::walk(scope, &mut |found| {
        let plain = found.frame.open(scope.keys, found.segment, found.offset);
        let delta = plain.and_then(|plain| Delta::decode(&plain));
        let damaged = StoreError::Damaged {
            file: segment_name(found.segment),
            offset: found.offset,
            what: "frame does not open, or is not a list of changes",
        };
        rows.add(delta.ok_or(damaged)?)
    })?;
    rows.finish()?;
    Ok(survey)
}

/// Many frames' changes, written to the view together.
struct Gatherer<'a> {
    view: &'a View,
    rows: Delta,
}

impl Gatherer<'_> {
    fn add(&mut self, delta: Delta) -> Result<(), StoreError> {
        self.rows.absorb(delta);
        if self.rows.size_bytes() >= GATHER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut self.rows);
        self.view.check_room(rows.size_bytes() as u64)?;
        self.view.apply(&rows)
    }

    fn finish(mut self) -> Result<(), StoreError> {
        self.flush()
    }
}

fn assemble(
    dir: &Path,
    keys: Arc<Keys>,
    journal: Journal,
    witness: Witness,
    found: FoundView,
    here: Place,
) -> Disk {
    Disk {
        dir: dir.to_owned(),
        keys,
        journal,
        time_floor_ms: witness.says.time_floor_ms,
        witness,
        is_in_memory: found.view.is_none(),
        applying: None,
        view: found.view,
        view_number: found.number,
        fresh: found.fresh,
        base_bytes: (0, 0),
        recent: found.recent,
        recent_bytes: RECENT_BYTES,
        pending: Delta::default(),
        reserve: Reserve::open(dir),
        here,
        commits: 0,
        poisoned: false,
        compact_from: 0,
        lock: None,
    }
}

/// A view, or the rows in memory.
struct FoundView {
    view: Option<View>,
    number: u64,
    fresh: (u64, u64),
    recent: Delta,
    opened: Opened,
}

pub(super) fn view_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(VIEW).join(number.to_string())
}

/// Opens the view the marker speaks of and catches up; or remakes it; or holds its rows in memory.
fn find_view(
    dir: &Path,
    keys: &Arc<Keys>,
    journal: &Journal,
    marker: Option<Marker>,
) -> Result<FoundView, StoreError> {
    let is_clean = marker.as_ref().is_some_and(|marker| marker.holds(dir, keys));
    let last = marker.as_ref().map_or(0, |marker| marker.number);
    // Gone for good before sled writes its first byte: should we be killed, the view is remade.
    remove_clean_marker(dir)?;
    if let Some(marker) = marker.filter(|_| is_clean)
        && let Some(view) = marker.reopen(dir, keys)
    {
        delete_views(dir, Some(marker.number));
        let mut recent = Delta::default();
        let mut frames = 0;
        if marker.at != journal.end() {
            frames = journal.replay(Some(marker.at), &mut |delta, _| {
                recent.absorb(delta);
                Ok(())
            })?;
        }
        let opened = if frames == 0 { Opened::Clean } else { Opened::CaughtUp { frames } };
        let (number, fresh) = (marker.number, marker.fresh);
        return Ok(FoundView { view: Some(view), number, fresh, recent, opened });
    }
    files::remove_all(&dir.join(VIEW)).map_err(io_error("deleting the view"))?;
    let number = view::fresh_number(last);
    match build_view(&view_path(dir, number), keys, journal) {
        Ok((view, frames)) => {
            let opened = Opened::Rebuilt { frames };
            Ok(FoundView { view: Some(view), number, fresh: (0, 0), recent: Delta::default(), opened })
        }
        Err(StoreError::Full { .. } | StoreError::View { .. }) => {
            let (recent, frames) = load(journal)?;
            let opened = Opened::Rebuilt { frames };
            Ok(FoundView { view: None, number, fresh: (0, 0), recent, opened })
        }
        Err(error) => Err(error),
    }
}

/// Deletes all views but one. What cannot be deleted is in the way of nobody; the next start tries again.
pub(super) fn delete_views(dir: &Path, but: Option<u64>) {
    let keep = but.map(|number| view_path(dir, number));
    for other in std::fs::read_dir(dir.join(VIEW)).into_iter().flatten().flatten() {
        if Some(other.path()) != keep {
            let _ = files::remove_all(&other.path());
        }
    }
}

/// A copy of the view the marker speaks of, opened: should a repair be killed, the marker still holds.
fn open_copy(dir: &Path, keys: &Arc<Keys>, marker: &mut Marker) -> Option<View> {
    if !marker.holds(dir, keys) {
        return None;
    }
    let from = view_path(dir, marker.number);
    delete_views(dir, Some(marker.number));
    marker.number = view::fresh_number(marker.number);
    view::copy(&from, &view_path(dir, marker.number)).ok()?;
    marker.reopen(dir, keys)
}

/// Makes a view of the whole journal; on an error nothing is left of it.
pub(super) fn build_view(
    path: &Path,
    keys: &Arc<Keys>,
    journal: &Journal,
) -> Result<(View, u64), StoreError> {
    let view = View::create(path, Arc::clone(keys))?;
    let mut rows = Gatherer { view: &view, rows: Delta::default() };
    let built = journal.replay(None, &mut |delta, _| rows.add(delta));
    match built.and_then(|frames| rows.finish().map(|()| frames)) {
        Ok(frames) => Ok((view, frames)),
        Err(error) => {
            // Half a view must not be asked, nor keep its space.
            view.destroy()?;
            Err(error)
        }
    }
}

/// All rows of the journal, in memory: what a disk without room for a view leaves.
pub(super) fn load(journal: &Journal) -> Result<(Delta, u64), StoreError> {
    let mut rows = Delta::default();
    let frames = journal.replay(None, &mut |delta, _| {
        rows.absorb(delta);
        Ok(())
    })?;
    Ok((rows, frames))
}

/// What the clean marker says.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Marker {
    number: u64,
    pub(super) at: Position,
    totals: Totals,
    fresh: (u64, u64),
    hash: [u8; 32],
}

impl Marker {
    fn encode(&self, keys: &Keys) -> Vec<u8> {
        let mut bytes = CLEAN_MAGIC.to_vec();
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(self.at.to_bytes());
        bytes.extend(self.totals.to_bytes());
        bytes.extend(self.fresh.0.to_le_bytes());
        bytes.extend(self.fresh.1.to_le_bytes());
        bytes.extend(self.hash);
        bytes.extend(keys.mac(CLEAN, &bytes));
        bytes
    }

    fn decode(bytes: &[u8], keys: &Keys) -> Option<Self> {
        let mut rest = bytes.get(CLEAN_MAGIC.len()..)?;
        let number = u64::from_le_bytes(take(&mut rest)?);
        let (at, totals) = (Position::take(&mut rest)?, Totals::take(&mut rest)?);
        let fresh = (u64::from_le_bytes(take(&mut rest)?), u64::from_le_bytes(take(&mut rest)?));
        let marker = Self { number, at, totals, fresh, hash: take(&mut rest)? };
        (marker.encode(keys) == bytes).then_some(marker)
    }

    fn reopen(&self, dir: &Path, keys: &Arc<Keys>) -> Option<View> {
        View::reopen(&view_path(dir, self.number), Arc::clone(keys), self.at, self.totals)
    }

    /// Whether the view is still as the marker says, byte for byte.
    pub(super) fn holds(&self, dir: &Path, keys: &Keys) -> bool {
        view::hash(&view_path(dir, self.number), keys).is_ok_and(|hash| hash == self.hash)
    }
}

/// The marker, if it is there and ours.
pub(super) fn read_clean_marker(dir: &Path, keys: &Keys) -> Result<Option<Marker>, StoreError> {
    let bytes = files::read_at_most(&dir.join(CLEAN), CLEAN_BYTES);
    let bytes = bytes.map_err(io_error("reading the clean marker"))?;
    Ok(bytes.and_then(|bytes| Marker::decode(&bytes, keys)))
}

fn remove_clean_marker(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(CLEAN);
    files::remove(&path).and_then(|()| files::sync_dir(dir)).map_err(io_error("removing the clean marker"))
}

/// Closes the view and says so in the marker, which is written last.
pub(super) fn close_view(disk: Disk) -> Result<(), StoreError> {
    let Disk { dir, keys, journal, view, view_number, fresh, lock: _lock, .. } = disk;
    let Some(view) = view else { return Ok(()) };
    let (at, totals) = (journal.end(), view.totals());
    let hash = match view.close(at) {
        Ok(hash) => hash,
        // Nothing is lost: the next start remakes it.
        Err(StoreError::View { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let marker = Marker { number: view_number, at, totals, fresh, hash };
    match files::replace(&dir, CLEAN, &marker.encode(&keys)).map_err(io_error("writing the clean marker")) {
        Err(StoreError::Full { .. }) => Ok(()),
        result => result,
    }
}

/// Locks the folder; the system unlocks it when the process dies.
pub(super) fn take_lock(dir: &Path) -> Result<Lock, StoreError> {
    files::make_dir(&dir.join(DIR)).map_err(io_error("making the store's folder"))?;
    let doing = "locking the store";
    let path = dir.join(LOCK);
    let file = files::private().create(true).truncate(false).open(path).map_err(io_error(doing))?;
    let mut lock = try_lock(file)?;
    // Only a help for whoever finds it locked, so a full disk is no reason to fail.
    let _ = lock.0.set_len(0).and_then(|()| lock.0.write_all(std::process::id().to_string().as_bytes()));
    Ok(lock)
}

pub(super) fn try_lock(mut file: File) -> Result<Lock, StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // 20 digits hold any process id. The owner may be writing it just now.
            let _ = Read::take(&mut file, 20).read_to_string(&mut pid);
            let is_pid = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
            Err(StoreError::Locked { pid: if is_pid { pid } else { "unknown".to_owned() } })
        }
        Err(TryLockError::Error(error)) => Err(io_error("locking the store")(error)),
    }
}

/// How much room salvaging and migrating may ask of the reserve.
pub(super) const RESERVE_BYTES: u64 = reserve::BYTES;
