//! Salvage: opening what was refused, by accepting a loss that is told exactly.
//!
//! For: keeping every frame that still proves itself, before and behind the damage, and saying what is missing.
//! Not for: anything that can be mended without loss; [`super::open`] does that.
//!
//! A frame carries its own number and the hash before it in what its tag covers, so those behind the damage
//! prove themselves and their places. All that is whole is gathered in a view, written as a new base, and the
//! witness names that; the damaged files are kept in `damaged-N`. Until the witness is written the store is as
//! it was, so an interrupted salvage is simply started again.

use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compact::{delete_segments, write_base};
use super::disk::Disk;
use super::files;
use super::format::{Header, Position, VERSION, VERSION_OLD, header_bytes};
use super::journal;
use super::open::{self, RESERVE_BYTES, gather, has_old_witness, view_path};
use super::place;
use super::reserve::Reserve;
use super::sealing::{Keys, StoreKey};
use super::survey::{self, Gap, Scope, Source, Survey, segment_name, segment_path};
use super::view::{self, View};
use super::witness::{self, Testimony, Witness};
use super::{StoreError, io_error};

/// Gaps that are told one by one. 1,000: a report somebody may read.
const MISSING_MAX: usize = 1_000;
/// Folders of damaged files that are kept. 4: each may be as large as the journal.
const DAMAGED_MAX: usize = 4;
const DAMAGED: &str = "damaged-";

/// What a salvage kept, and exactly what it could not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Salvage {
    /// Whole frames, all kept.
    pub kept_frames: u64,
    /// Rows in the new journal.
    pub kept_rows: u64,
    /// What is lost, at most 1,000 places; empty if nothing is known to be.
    pub missing: Vec<Missing>,
    /// Places of loss beyond those.
    pub missing_more: u64,
    /// Whether commits may be lost behind the last whole frame that nobody can count, because the witness is
    /// lost too. The time floor is then 0.
    pub tail_unknown: bool,
    /// Whether rows may be back that a lost commit had deleted, or have an older value that a lost commit had
    /// replaced. Entries are only ever added, so a revocation is never undone this way; it can only be missing.
    pub may_resurrect: bool,
    /// Where the damaged files are now; `None` if the store was whole and nothing was changed.
    pub moved_to: Option<PathBuf>,
}

impl Salvage {
    /// Whether anything acknowledged is, or may be, lost.
    pub fn loses(&self) -> bool {
        self.tail_unknown || self.missing.iter().any(Missing::loses)
    }
}

/// One place of loss.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    /// Which file.
    pub file: String,
    /// Where the unreadable bytes begin.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
    /// What was expected there.
    pub what: &'static str,
    /// The numbers of the lost commits, where that can be told (format 1 has no numbers).
    pub commits: Option<RangeInclusive<u64>>,
    /// Whether rows of the base are lost: any row written before the last compaction may be among them.
    pub rows_of_base: bool,
    /// Whether it is of format 1, where any of it may be lost commits.
    uncounted: bool,
}

impl Missing {
    /// Whether commits or rows are lost here, and not only bytes that could be derived again.
    pub fn loses(&self) -> bool {
        self.commits.is_some() || self.rows_of_base || self.uncounted
    }

    pub(super) fn new(gap: &Gap, version: u16) -> Self {
        Self {
            file: segment_name(gap.segment),
            offset: gap.offset,
            bytes: gap.bytes,
            what: gap.what,
            commits: gap.commits.clone(),
            rows_of_base: gap.in_base,
            uncounted: version == VERSION_OLD,
        }
    }
}

impl Disk {
    /// Makes a store that was refused as `Damaged` open again, with everything in it that is whole. A store
    /// that is whole, or that opening can mend, is left as it is.
    ///
    /// # Errors
    /// `Damaged` only when not even the keys can be found: every header of the journal and both witness files
    /// are unreadable. `Locked`, `WrongKey`, `Full`, `Io` as in `open`; then nothing has changed.
    pub fn salvage(dir: &Path, key: StoreKey) -> Result<Salvage, StoreError> {
        let _lock = open::take_lock(dir)?;
        if matches!(open::is_new(dir), Ok(true)) {
            return Ok(Salvage::default());
        }
        let keys = Arc::new(journal::unlock(dir, &key)?);
        match salvage_locked(dir, &keys, &_lock) {
            Err(StoreError::Full { .. }) if Reserve::open(dir).give(RESERVE_BYTES) => {
                salvage_locked(dir, &keys, &_lock)
            }
            result => result,
        }
    }
}

/// What is known of the store before its journal is walked.
pub(super) struct Known {
    pub(super) version: u16,
    pub(super) base: u64,
    pub(super) position: Option<Position>,
    time_floor_ms: u64,
    place: Option<place::Place>,
    is_half_blind: bool,
}

/// Finds out which chain counts, with or without a witness.
pub(super) fn known(dir: &Path, keys: &Keys) -> Result<Known, StoreError> {
    let reading = witness::read(dir, keys)?;
    let mut known = Known {
        version: VERSION,
        base: 1,
        position: None,
        time_floor_ms: 0,
        place: None,
        is_half_blind: reading.is_half_blind,
    };
    if let Some((_, says)) = reading.newest {
        known.base = says.base;
        known.position = Some(says.position);
        known.time_floor_ms = says.time_floor_ms;
        known.place = Some(says.place);
        return Ok(known);
    }
    let old = has_old_witness(dir)?;
    if old || journal::version_of(dir, 1)? == VERSION_OLD {
        let says = witness::read_old(dir, keys)?;
        known.version = VERSION_OLD;
        known.position = says.map(|(position, _)| position);
        known.time_floor_ms = says.map_or(0, |(_, floor)| floor);
        known.is_half_blind = false;
        return Ok(known);
    }
    known.base = best_chain(dir, keys)?;
    Ok(known)
}

/// Without a witness: the newest chain whose base is whole, else the one with the most frames. A base that a
/// compaction had not finished has no last part, and then the chain before it is still there.
fn best_chain(dir: &Path, keys: &Keys) -> Result<u64, StoreError> {
    let mut bases = Vec::new();
    for segment in survey::segments(dir)? {
        let mut source = Source::open(dir, segment)?;
        let bytes = source.read(0, header_bytes(VERSION))?;
        let header = Header::decode(bytes).or_else(|| Header::mend(bytes));
        bases.extend(header.filter(|header| header.version == VERSION).map(|header| header.base));
    }
    bases.sort_unstable();
    bases.dedup();
    let mut best = (false, 0, bases.first().copied().unwrap_or(1));
    for base in bases {
        let scope = Scope { dir, keys, version: VERSION, base, witness: None };
        let survey = survey::walk(&scope, &mut |_| Ok(()))?;
        let is_whole = survey.base_is_whole || base == 1;
        best = best.max((is_whole, if is_whole { u64::MAX } else { survey.frames }, base));
    }
    Ok(best.2)
}

fn salvage_locked(dir: &Path, keys: &Arc<Keys>, lock: &super::disk::Lock) -> Result<Salvage, StoreError> {
    let known = known(dir, keys)?;
    let here = place::here(dir, &lock.0, keys);
    let scope = Scope { dir, keys, version: known.version, base: known.base, witness: known.position };
    let looked = survey::walk(&scope, &mut |_| Ok(()))?;
    let doubtful = known.is_half_blind && looked.tail.is_some();
    if looked.gaps.is_empty() && known.position.is_some() && !doubtful {
        return Ok(Salvage { kept_frames: looked.frames, ..Salvage::default() });
    }
    // The old views may be half the disk, and none of them is of use to a journal with gaps. The marker goes
    // first: it must not speak of a view made below.
    files::remove(&dir.join(open::CLEAN)).map_err(io_error("deleting the view"))?;
    open::delete_views(dir, None);
    let view = View::create(&view_path(dir, view::fresh_number(0)), Arc::clone(keys))?;
    let survey = gather(&scope, &view)?;
    let mut salvage = report(&survey, &known, doubtful);
    salvage.kept_rows = view.totals().rows;

    let listed = survey::segments(dir)?;
    let moved_to = keep_damaged(dir, &listed)?;
    let next = listed.last().copied().unwrap_or(0).max(survey.end.segment).saturating_add(1);
    let commit = known.position.map_or(0, |position| position.commit).max(survey.end.commit);
    let journal = write_base(dir, keys, &view, next, commit, false)?;
    let says = Testimony {
        base: next,
        position: journal.end(),
        time_floor_ms: known.time_floor_ms,
        place: known.place.unwrap_or(here),
    };
    Witness::create(dir, keys, says)?;
    delete_segments(dir, &listed);
    files::remove(&dir.join(witness::OLD_NAME)).map_err(io_error("deleting an old witness"))?;
    // The next start makes its own.
    view.destroy()?;
    salvage.moved_to = Some(moved_to);
    Ok(salvage)
}

fn report(survey: &Survey, known: &Known, doubtful: bool) -> Salvage {
    let missing: Vec<_> =
        survey.gaps.iter().take(MISSING_MAX).map(|gap| Missing::new(gap, known.version)).collect();
    let tail_unknown = known.position.is_none() || doubtful;
    let lost_commits = missing.iter().any(|missing| missing.commits.is_some() || missing.uncounted);
    Salvage {
        kept_frames: survey.frames,
        kept_rows: 0,
        missing_more: (survey.gaps.len() as u64).saturating_sub(missing.len() as u64),
        missing,
        tail_unknown,
        may_resurrect: lost_commits || tail_unknown,
        moved_to: None,
    }
}

/// Gives journal and witness files a second name in the newest `damaged-N` that an interrupted salvage left, or
/// in the next. They are deleted under their own names only when the new store is durable.
fn keep_damaged(dir: &Path, segments: &[u64]) -> Result<PathBuf, StoreError> {
    let doing = "keeping the damaged files";
    let mut numbers: Vec<u64> = std::fs::read_dir(dir)
        .map_err(io_error(doing))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix(DAMAGED)?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut files: Vec<PathBuf> = segments.iter().map(|segment| segment_path(dir, *segment)).collect();
    let names = witness::NAMES.into_iter().chain([witness::OLD_NAME]);
    files.extend(names.map(|name| dir.join(name)).filter(|path| path.exists()));
    let newest = numbers.last().map(|number| dir.join(format!("{DAMAGED}{number}")));
    let folder = match newest.filter(|folder| files.iter().any(|file| is_same(file, folder))) {
        Some(interrupted) => interrupted,
        None => dir.join(format!("{DAMAGED}{}", numbers.last().map_or(1, |number| number.saturating_add(1)))),
    };
    let kept = numbers.len().saturating_sub(DAMAGED_MAX.saturating_sub(1));
    for number in numbers.iter().take(kept).filter(|_| !folder.exists()) {
        files::remove_all(&dir.join(format!("{DAMAGED}{number}"))).map_err(io_error(doing))?;
    }
    files::make_dir(&folder).map_err(io_error(doing))?;
    for file in files.iter().filter(|file| !is_same(file, &folder)) {
        let to = folder.join(file.file_name().unwrap_or_default());
        files::remove(&to).map_err(io_error(doing))?;
        // Some file systems know no second names; then it is a copy.
        if std::fs::hard_link(file, &to).is_err() {
            std::fs::copy(file, &to).map_err(io_error(doing))?;
        }
    }
    files::sync_dir(&folder).and_then(|()| files::sync_dir(dir)).map_err(io_error(doing))?;
    Ok(folder)
}

/// Whether the folder has this very file.
fn is_same(file: &Path, folder: &Path) -> bool {
    let inode = |path: &Path| std::fs::metadata(path).ok().map(|file| file.ino());
    let other = folder.join(file.file_name().unwrap_or_default());
    inode(file).is_some() && inode(file) == inode(&other)
}
