//! The journal: a chain of append-only segments of sealed frames, one for each commit. It is the authority.
//!
//! For: appending, rotating, replaying, and writing a new base. Not for: finding damage ([`super::survey`] does)
//! nor looking anything up (the view does).
//!
//! A chain begins either with commit 1 or with a *base*: the rows that all commits so far add up to, in frames
//! of their own. Compaction writes such a chain beside the old one; the witness then names it, and only then
//! the old one is deleted.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::delta::{DELTA_BYTES_MAX, Delta};
use super::files;
use super::format::{self, Header, LAST_PART, Position, VERSION, VERSION_OLD};
use super::sealing::{Keys, StoreKey};
use super::survey::{self, DIR, Source, segment_name, segment_path};
use super::{StoreError, final_error, io_error};

/// When a segment is full, in bytes. 8 MiB: damage and reading again are bounded, and a store of a thousand
/// grants needs one. A segment may pass it by one frame.
/// Tests of damage want many.
const SEGMENT_BYTES_MAX: u64 = if cfg!(all(test, debug_assertions)) { 4 << 10 } else { 8 << 20 };

/// The open journal.
pub(super) struct Journal {
    dir: PathBuf,
    keys: Arc<Keys>,
    /// The segment that is written to, open.
    file: File,
    base: u64,
    end: Position,
    /// Length of the full segments before it.
    full_bytes: u64,
    /// Only so that a test of tests can show what an unsynced journal loses.
    pub(super) skips_sync: bool,
    /// Makes the next write stop half way, or the next sync fail: only tests can set it.
    #[cfg(test)]
    pub(super) fault: Option<io::ErrorKind>,
    /// The fault ends when this file has become smaller than the reserve.
    #[cfg(test)]
    pub(super) room_after: Option<PathBuf>,
}

/// What became of a frame that could not be appended.
pub(super) enum Append {
    /// The journal is as before: it can be tried again.
    Refused(StoreError),
    /// Part of it may be in the file.
    Torn(StoreError),
}

/// Finds the keys of an existing store, or says that the key is wrong.
pub(super) fn unlock(dir: &Path, key: &StoreKey) -> Result<Keys, StoreError> {
    let (mut is_wrong_key, mut newer) = (false, None);
    let listed = survey::segments(dir)?;
    for segment in &listed {
        let mut source = Source::open(dir, *segment)?;
        let bytes = source.read(0, format::header_bytes(VERSION))?;
        if let Some(header) = Header::decode(bytes).or_else(|| Header::mend(bytes)) {
            let keys = Keys::derive(key, header.store_id);
            if keys.check() == header.check {
                return Ok(keys);
            }
            is_wrong_key = true;
        } else if let Some(got) = format::claimed_version(bytes).filter(|version| *version > VERSION) {
            newer = Some(StoreError::Version { file: segment_name(*segment), expected: VERSION, got });
        }
    }
    // No header says it; the witness does, and proves it with its MAC.
    for store_id in super::witness::store_ids(dir)? {
        let keys = Keys::derive(key, store_id);
        if super::witness::read(dir, &keys)?.newest.is_some() {
            return Ok(keys);
        }
    }
    if is_wrong_key {
        return Err(StoreError::WrongKey);
    }
    let file = segment_name(listed.first().copied().unwrap_or(1));
    Err(newer.unwrap_or(StoreError::Damaged {
        file,
        offset: 0,
        what: "no header of the journal and no witness can be read",
    }))
}

impl Journal {
    /// Starts a new chain in a fresh segment, which comes after `commit` commits.
    pub(super) fn begin(dir: &Path, keys: Arc<Keys>, segment: u64, commit: u64) -> Result<Self, StoreError> {
        let place = Position { commit, segment, offset: 0, chain: [0; 32] };
        let (file, end) = make_segment(dir, &keys, segment, place).map_err(io_error("making the journal"))?;
        Ok(Self::at(dir, keys, file, segment, end, 0))
    }

    /// Opens a chain that was surveyed and found whole, to go on at `end`.
    pub(super) fn resume(dir: &Path, keys: Arc<Keys>, base: u64, end: Position) -> Result<Self, StoreError> {
        let doing = "opening the journal";
        let file = files::private().open(segment_path(dir, end.segment)).map_err(io_error(doing))?;
        let mut full_bytes = 0u64;
        for segment in base..end.segment {
            let bytes = std::fs::metadata(segment_path(dir, segment)).map_err(io_error(doing))?.len();
            full_bytes = full_bytes.saturating_add(bytes);
        }
        Ok(Self::at(dir, keys, file, base, end, full_bytes))
    }

    /// Writes the bytes behind `from` again, and syncs them with their names.
    pub(super) fn rewrite_from(&self, from: Position) -> Result<(), StoreError> {
        let doing = "securing the last commit";
        for segment in from.segment..=self.end.segment {
            let mut source = Source::open(&self.dir, segment)?;
            let start = if segment == from.segment { from.offset } else { 0 };
            let bytes = source.read(start, format::FRAME_BYTES_MAX)?;
            let file = files::private().open(segment_path(&self.dir, segment)).map_err(io_error(doing))?;
            file.write_all_at(bytes, start).map_err(io_error(doing))?;
            file.sync_all().map_err(io_error(doing))?;
        }
        files::sync_dir(&self.dir.join(DIR)).map_err(io_error(doing))
    }

    fn at(dir: &Path, keys: Arc<Keys>, file: File, base: u64, end: Position, full_bytes: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            keys,
            file,
            base,
            end,
            full_bytes,
            skips_sync: false,
            #[cfg(test)]
            fault: None,
            #[cfg(test)]
            room_after: None,
        }
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn end(&self) -> Position {
        self.end
    }

    pub(super) fn bytes(&self) -> u64 {
        self.full_bytes.saturating_add(self.end.offset)
    }

    pub(super) fn segments(&self) -> u64 {
        self.end.segment.saturating_sub(self.base).saturating_add(1)
    }

    /// Writes the next commit. Not durable until `sync`; when it fails for lack of space and the torn frame
    /// could be taken back, the error is `Full` and the journal is as before.
    pub(super) fn append(&mut self, delta: &Delta) -> Result<(), Append> {
        self.append_frame(self.end.commit.saturating_add(1), 0, delta)
    }

    /// Writes one part of a base, counted from 1.
    pub(super) fn append_base(&mut self, delta: &Delta, part: u32, is_last: bool) -> Result<(), StoreError> {
        let part = if is_last { part | LAST_PART } else { part };
        self.append_frame(self.end.commit, part, delta).map_err(|error| match error {
            Append::Refused(error) | Append::Torn(error) => error,
        })
    }

    fn append_frame(&mut self, commit: u64, part: u32, delta: &Delta) -> Result<(), Append> {
        if self.end.offset >= SEGMENT_BYTES_MAX {
            self.rotate().map_err(Append::Refused)?;
        }
        let too_large =
            StoreError::TooLarge { what: "commit", expected: DELTA_BYTES_MAX, got: delta.size_bytes() };
        let plain = delta.encode().ok_or(Append::Refused(too_large))?;
        let plain = zeroize::Zeroizing::new(plain);
        let frame =
            format::seal_frame(&self.keys, &self.end, commit, part, &plain).map_err(Append::Refused)?;
        if let Err(error) = self.write_all(&frame) {
            let taken_back = self.file.set_len(self.end.offset).is_ok();
            return Err(match io_error("writing the journal")(error) {
                error @ StoreError::Full { .. } if taken_back => Append::Refused(error),
                error => Append::Torn(error),
            });
        }
        self.end = Position {
            commit,
            segment: self.end.segment,
            offset: self.end.offset.saturating_add(frame.len() as u64),
            chain: blake3::hash(&frame).into(),
        };
        Ok(())
    }

    /// Makes all frames durable. After an error nobody knows which of them are.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        #[cfg(test)]
        if let Some(kind) = self.fault.filter(|_| !self.has_room()) {
            return Err(final_error("syncing the journal")(kind.into()));
        }
        if self.skips_sync {
            return Ok(());
        }
        self.file.sync_data().map_err(final_error("syncing the journal"))
    }

    /// Opens the frames behind `from`, or all of them, in order.
    pub(super) fn replay(
        &self,
        from: Option<Position>,
        apply: &mut dyn FnMut(Delta, Position) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let first = from.map_or(self.base, |from| from.segment);
        let mut frames = 0u64;
        for segment in first..=self.end.segment {
            let mut source = Source::open(&self.dir, segment)?;
            let start = from.filter(|from| from.segment == segment).map(|from| from.offset);
            let mut at = Position {
                segment,
                offset: start.unwrap_or(format::header_bytes(VERSION) as u64),
                ..Position::default()
            };
            let until = if segment == self.end.segment { self.end.offset } else { source.length };
            while at.offset < until {
                let (delta, end) = self.read(&mut source, at)?;
                apply(delta, end)?;
                at = end;
                frames = frames.saturating_add(1);
            }
        }
        Ok(frames)
    }

    fn read(&self, source: &mut Source, at: Position) -> Result<(Delta, Position), StoreError> {
        let damaged = |what| StoreError::Damaged { file: segment_name(at.segment), offset: at.offset, what };
        let frame = format::parse(VERSION, source.frame(VERSION, at.offset)?).map_err(damaged)?;
        let plain = frame.open(&self.keys, at.segment, at.offset).ok_or(damaged("frame does not open"))?;
        let delta = Delta::decode(&plain).ok_or(damaged("frame is not a list of changes"))?;
        let offset = at.offset.saturating_add(frame.length);
        Ok((delta, Position { commit: frame.commit, segment: at.segment, offset, chain: frame.chain }))
    }

    /// Goes on in a fresh segment. What was written before is synced first: from then on only the newest
    /// segment is.
    pub(super) fn rotate(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        let segment = self.end.segment.saturating_add(1);
        let made = make_segment(&self.dir, &self.keys, self.base, Position { segment, ..self.end });
        let (file, end) = made.map_err(io_error("making a segment of the journal"))?;
        self.full_bytes = self.full_bytes.saturating_add(self.end.offset);
        (self.file, self.end) = (file, end);
        Ok(())
    }

    fn write_all(&self, frame: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(kind) = self.fault.filter(|kind| *kind == io::ErrorKind::StorageFull && !self.has_room())
        {
            self.file.write_all_at(frame.split_at(frame.len() / 2).0, self.end.offset)?;
            return Err(kind.into());
        }
        self.file.write_all_at(frame, self.end.offset)
    }

    #[cfg(test)]
    fn has_room(&self) -> bool {
        let bytes = self.room_after.as_ref().map(|path| std::fs::metadata(path).map_or(0, |file| file.len()));
        bytes.is_some_and(|bytes| bytes < super::reserve::BYTES)
    }

    /// Deletes this chain, which was given up before the witness named it. What cannot be deleted is cleared
    /// away at the next start.
    pub(super) fn give_up(self) {
        for segment in self.base..=self.end.segment {
            let _ = std::fs::remove_file(segment_path(&self.dir, segment));
        }
    }
}

/// Makes a segment that holds nothing but its header, durable with its name. `at` is where the chain stands,
/// with the new segment's number; the header goes on from its chain, or starts one if it is the base.
fn make_segment(dir: &Path, keys: &Keys, base: u64, at: Position) -> io::Result<(File, Position)> {
    let header = Header {
        version: VERSION,
        store_id: keys.store_id,
        check: keys.check(),
        segment: at.segment,
        base,
        commit: at.commit,
        previous: at.chain,
    };
    let bytes = header.encode();
    let path = segment_path(dir, at.segment);
    // A stray of the same number holds nothing that counts.
    let made = files::private().create(true).truncate(true).open(&path).and_then(|file| {
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        files::sync_dir(&dir.join(DIR))?;
        Ok(file)
    });
    if made.is_err() {
        // Half a header counts for nothing, and the disk may be full.
        let _ = std::fs::remove_file(&path);
    }
    let chain = blake3::hash(&bytes).into();
    made.map(|file| (file, Position { offset: bytes.len() as u64, chain, ..at }))
}

/// The versions a chain can have, by the header of its first segment; the present one if that cannot be read.
pub(super) fn version_of(dir: &Path, segment: u64) -> Result<u16, StoreError> {
    if !survey::segments(dir)?.contains(&segment) {
        return Ok(VERSION);
    }
    let mut source = Source::open(dir, segment)?;
    let bytes = source.read(0, format::header_bytes(VERSION))?;
    let header = Header::decode(bytes).or_else(|| Header::mend(bytes));
    Ok(header.map_or(VERSION, |header| header.version).max(VERSION_OLD))
}
