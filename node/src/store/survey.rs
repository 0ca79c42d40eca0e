//! The survey: walks the segments of a journal, and tells what is whole, what can be mended, and what is lost.
//!
//! For: opening, checking and salvaging, which all ask the same. Not for changing anything on the disk.
//!
//! What the witness covers was acknowledged: a frame in there that is not whole is a [`Gap`], unless one
//! flipped bit explains it (a [`Patch`]). Behind the witness lies at most the one commit that was under way: it
//! counts if it is whole, and is a torn [`tail`](Survey::tail) if not. A whole frame behind an unreadable one
//! shows that the witness is stale, and then that is a gap too.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::format::{self, FRAME_BYTES_MAX, Frame, Header, LAST_PART, Position, VERSION_OLD};
use super::sealing::Keys;
use super::{StoreError, io_error};

/// The journal's folder.
pub(super) const DIR: &str = "journal";
/// Bytes read at once when frames are small. 1 MiB: few system calls.
const WINDOW_BYTES: usize = 1 << 20;

pub(super) fn segment_name(segment: u64) -> String {
    format!("{DIR}/{segment:06}.log")
}

pub(super) fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(segment_name(segment))
}

/// The numbers of all segments in the folder, rising.
pub(super) fn segments(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let doing = "listing the journal";
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir.join(DIR)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(io_error(doing))?,
    };
    for entry in entries {
        let name = entry.map_err(io_error(doing))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok());
        // Only names that we would write.
        found.extend(number.filter(|number| segment_name(*number).ends_with(name.to_str().unwrap_or("/"))));
    }
    found.sort_unstable();
    Ok(found)
}

/// Which segments to walk, and what was acknowledged of them.
pub(super) struct Scope<'a> {
    pub(super) dir: &'a Path,
    pub(super) keys: &'a Keys,
    pub(super) version: u16,
    /// The first segment of the chain.
    pub(super) base: u64,
    /// `None`: nobody knows, so all of it counts as acknowledged.
    pub(super) witness: Option<Position>,
}

/// A whole frame.
pub(super) struct Found<'a> {
    pub(super) frame: &'a Frame<'a>,
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// Where it ends; the commit is its own number.
    pub(super) end: Position,
}

/// Called with every whole frame, in order.
pub(super) type Visit<'a> = dyn FnMut(&Found<'_>) -> Result<(), StoreError> + 'a;

/// Something acknowledged that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) what: &'static str,
    /// Lost commits, where that can be told.
    pub(super) commits: Option<RangeInclusive<u64>>,
    /// Whether rows of the base are lost, made in any earlier commit.
    pub(super) in_base: bool,
}

/// Bytes to write to make a segment whole again; none: it ends here.
#[derive(Debug)]
pub(super) struct Patch {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) what: &'static str,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Behind the last whole frame.
    pub(super) end: Position,
    pub(super) start: Position,
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) gaps: Vec<Gap>,
    pub(super) patches: Vec<Patch>,
    /// Where a torn commit begins that was never acknowledged: segment and offset.
    pub(super) tail: Option<(u64, u64)>,
    /// Segments of this chain, rising.
    pub(super) segments: Vec<u64>,
    /// Segments that belong to no chain: left by an interrupted rotation or compaction, or already replaced.
    pub(super) strays: Vec<u64>,
    /// Whether the base is whole: all its parts up to the last are there.
    pub(super) base_is_whole: bool,
}

/// Walks one chain of segments.
pub(super) fn walk(scope: &Scope<'_>, visit: &mut Visit<'_>) -> Result<Survey, StoreError> {
    let mut walk = Walk { scope, visit, at: None, last: (0, 0), open_gap: false, survey: Survey::default() };
    walk.run()?;
    Ok(walk.survey)
}

struct Walk<'a, 'b> {
    scope: &'a Scope<'a>,
    visit: &'a mut Visit<'b>,
    /// Where we are and what the next frame must follow; `None` behind a gap.
    at: Option<Position>,
    /// Number and part of the last whole frame.
    last: (u64, u32),
    /// Whether the newest gap does not know yet what comes after it.
    open_gap: bool,
    survey: Survey,
}

impl Walk<'_, '_> {
    fn run(&mut self) -> Result<(), StoreError> {
        let listed = segments(self.scope.dir)?;
        let newest = listed.last().copied().unwrap_or(0);
        let until = self.scope.witness.map_or(newest, |witness| witness.segment);
        let mut number = self.scope.base;
        while number <= until || (listed.contains(&number) && self.belongs(number)?) {
            if listed.contains(&number) {
                self.segment(number)?;
            } else {
                self.gap(number, 0, 0, "file is missing");
            }
            number = number.saturating_add(1);
        }
        self.survey.strays =
            listed.into_iter().filter(|number| !self.survey.segments.contains(number)).collect();
        self.finish();
        Ok(())
    }

    /// Whether a segment behind the witness goes on with this chain. One with half a header is a rotation
    /// that was interrupted before any frame.
    fn belongs(&self, number: u64) -> Result<bool, StoreError> {
        let mut source = Source::open(self.scope.dir, number)?;
        let bytes = source.read(0, format::header_bytes(self.scope.version))?;
        let header = Header::decode(bytes).or_else(|| Header::mend(bytes));
        Ok(self.scope.version != VERSION_OLD
            && header.is_some_and(|header| header.base == self.scope.base && header.segment == number))
    }

    /// Whether the next segment follows the last whole frame: then what lies between them belongs to nothing.
    fn goes_on_behind(&self, number: u64) -> Result<bool, StoreError> {
        let Scope { dir, version, base, .. } = *self.scope;
        let next = number.saturating_add(1);
        let Some(at) = self.at.filter(|_| version != VERSION_OLD && segment_path(dir, next).exists()) else {
            return Ok(false);
        };
        let mut source = Source::open(dir, next)?;
        let header = Header::decode(source.read(0, format::header_bytes(version))?);
        let told = header.map(|header| (header.base, header.segment, header.commit, header.previous));
        Ok(told == Some((base, next, at.commit, at.chain)))
    }

    fn segment(&mut self, number: u64) -> Result<(), StoreError> {
        self.survey.segments.push(number);
        let mut source = Source::open(self.scope.dir, number)?;
        self.survey.bytes = self.survey.bytes.saturating_add(source.length);
        let mut offset = self.header(&mut source)?;
        while offset < source.length {
            self.check_witness(number, offset);
            offset = self.frame(&mut source, offset)?;
            if self.survey.tail.is_some() {
                return Ok(());
            }
        }
        self.check_witness(number, source.length);
        if let Some(witness) = self.scope.witness.filter(|witness| witness.segment == number)
            && source.length < witness.offset
        {
            self.shorter(number, source.length, witness.offset.saturating_sub(source.length));
        }
        Ok(())
    }

    /// Bytes are missing at the end. Where the end cannot be read either, that is one gap.
    fn shorter(&mut self, segment: u64, offset: u64, missing: u64) {
        let newest = self.survey.gaps.last_mut().filter(|_| self.open_gap);
        match newest.filter(|gap| gap.segment == segment && gap.offset.saturating_add(gap.bytes) == offset) {
            Some(gap) => gap.bytes = gap.bytes.saturating_add(missing),
            None => self.gap(segment, offset, missing, "journal is shorter than the witness says"),
        }
    }

    /// Where the witness points, the chain must be the one it saw.
    fn check_witness(&mut self, number: u64, offset: u64) {
        let witness = self.scope.witness.filter(|witness| witness.is_at(number, offset));
        if let (Some(witness), Some(at)) = (witness, self.at)
            && at.chain != witness.chain
        {
            self.gap(number, offset, 0, "frames before it are not those the witness saw");
        }
    }

    /// Reads the header, or makes it anew from what is around it. Returns where frames begin.
    fn header(&mut self, source: &mut Source) -> Result<u64, StoreError> {
        let length = format::header_bytes(self.scope.version);
        let bytes = source.read(0, length)?.to_vec();
        let next = source.frame(self.scope.version, length as u64)?.to_vec();
        let next = format::parse(self.scope.version, &next).ok();
        let follows = |header: &Header| {
            let chain: [u8; 32] = blake3::hash(&header.encode()).into();
            next.as_ref().is_some_and(|frame| frame.previous == chain)
        };
        let read = Header::decode(&bytes);
        let expected = self.expected(source.number, next.as_ref().map_or(0, |frame| frame.commit));
        let header = match read {
            Some(read) if self.at.is_none() || read == expected || follows(&read) => Some(read),
            Some(_) => None,
            None => Header::mend(&bytes)
                .filter(|mended| *mended == expected || follows(mended))
                .or(Some(expected).filter(follows)),
        };
        let Some(header) = header else {
            self.gap(source.number, 0, length as u64, "header does not match its checksum");
            return Ok(length as u64);
        };
        if read.is_none() {
            let what = "header written again";
            self.patch(source.number, 0, header.encode(), what);
        } else if header != expected && self.at.is_some() {
            self.gap(source.number, 0, 0, "segment does not follow the one before");
        }
        let chain = blake3::hash(&header.encode()).into();
        let at = Position { commit: header.commit, segment: source.number, offset: length as u64, chain };
        if source.number == self.scope.base {
            self.survey.start = at;
            self.last = (header.commit, 0);
        }
        self.at = Some(at);
        self.survey.end = at;
        Ok(length as u64)
    }

    /// The header that follows from what came before. `commit` is the number of the next frame: the first
    /// segment starts with its base's, or with commit 1.
    fn expected(&self, segment: u64, commit: u64) -> Header {
        let Scope { keys, version, base, .. } = self.scope;
        let mut header = Header {
            version: *version,
            store_id: keys.store_id,
            check: keys.check(),
            segment,
            base: *base,
            commit: self.at.map_or(if segment == 1 { 0 } else { commit }, |at| at.commit),
            previous: self.at.map_or([0; 32], |at| at.chain),
        };
        if segment == *base {
            header.previous = [0; 32];
        }
        header
    }

    /// Looks at one place and returns the next.
    fn frame(&mut self, source: &mut Source, offset: u64) -> Result<u64, StoreError> {
        let (version, number, keys) = (self.scope.version, source.number, self.scope.keys);
        let covered = self.is_covered(number, offset);
        let bytes = source.frame(version, offset)?;
        let what = match format::parse(version, bytes) {
            Ok(frame) if self.follows(&frame) => {
                // The witness's MAC covers the chain, so frames before it need not be opened here.
                let anchored = self.scope.witness.is_some() && self.survey.gaps.is_empty();
                let proven = covered && anchored;
                if !self.is_too_long(number, offset, &frame)
                    && (proven || frame.open(keys, number, offset).is_some())
                {
                    return self.found(&frame, number, offset);
                }
                "frame passes the length the witness says, or does not open"
            }
            Ok(_) => "frame does not follow the one before",
            Err(what) => what,
        };
        let rest = source.read(offset, FRAME_BYTES_MAX)?;
        let proves = |frame: &Frame<'_>| self.follows(frame) && frame.open(keys, number, offset).is_some();
        if let Some(mended) = format::mend(version, rest, &proves)
            && let Ok(frame) = format::parse(version, &mended)
        {
            let next = self.found(&frame, number, offset)?;
            self.patch(number, offset, mended, "one flipped bit turned back");
            return Ok(next);
        }
        let next = source.scan(self.scope, offset.saturating_add(1))?;
        let tail = source.length.saturating_sub(offset);
        if !covered && next.is_none() && tail <= FRAME_BYTES_MAX as u64 {
            self.survey.tail = Some((number, offset));
            return Ok(source.length);
        }
        if next.is_none() && self.goes_on_behind(number)? {
            self.patch(number, offset, Vec::new(), "bytes behind the last commit of a segment cut off");
            return Ok(source.length);
        }
        let end = next.unwrap_or(source.length);
        self.gap(number, offset, end.saturating_sub(offset), what);
        Ok(end)
    }

    fn is_covered(&self, segment: u64, offset: u64) -> bool {
        self.scope.witness.is_none_or(|witness| (segment, offset) < (witness.segment, witness.offset))
    }

    fn is_too_long(&self, segment: u64, offset: u64, frame: &Frame<'_>) -> bool {
        let end = offset.saturating_add(frame.length);
        let witness = self.scope.witness.filter(|witness| witness.segment == segment);
        witness.is_some_and(|witness| offset < witness.offset && end > witness.offset)
    }

    /// Whether a frame is the next one. Behind a gap any later one will do; its tag proves the place.
    fn follows(&self, frame: &Frame<'_>) -> bool {
        let (commit, part) = self.last;
        let Some(at) = self.at else {
            return self.scope.version == VERSION_OLD
                || (frame.commit, order(frame.part)) > (commit, order(part));
        };
        frame.previous == at.chain
            && (self.scope.version == VERSION_OLD
                || (frame.part == 0 && frame.commit == at.commit.saturating_add(1))
                || (frame.part != 0 && frame.commit == at.commit))
    }

    fn found(&mut self, frame: &Frame<'_>, segment: u64, offset: u64) -> Result<u64, StoreError> {
        let is_old = self.scope.version == VERSION_OLD;
        let commit = if is_old { self.last.0.saturating_add(1) } else { frame.commit };
        self.resume(commit, frame.part);
        let next = offset.saturating_add(frame.length);
        let end = Position { commit, segment, offset: next, chain: frame.chain };
        (self.visit)(&Found { frame, segment, offset, end })?;
        self.survey.base_is_whole |= frame.part & LAST_PART != 0;
        (self.at, self.last, self.survey.end) = (Some(end), (commit, frame.part), end);
        self.survey.frames = self.survey.frames.saturating_add(1);
        Ok(next)
    }

    fn patch(&mut self, segment: u64, offset: u64, bytes: Vec<u8>, what: &'static str) {
        self.survey.patches.push(Patch { segment, offset, bytes, what });
    }

    fn gap(&mut self, segment: u64, offset: u64, bytes: u64, what: &'static str) {
        self.survey.gaps.push(Gap { segment, offset, bytes, what, commits: None, in_base: false });
        (self.at, self.open_gap) = (None, true);
    }

    /// Tells the newest gap what comes after it, and so what it has swallowed.
    fn resume(&mut self, commit: u64, part: u32) {
        if !std::mem::take(&mut self.open_gap) || self.scope.version == VERSION_OLD {
            return;
        }
        let (last, last_part) = self.last;
        let in_base = self.scope.base != 1 && !self.survey.base_is_whole;
        let starts_known = self.survey.start.segment != 0;
        let (from, until) = (last.saturating_add(1), commit.saturating_sub(1));
        let Some(gap) = self.survey.gaps.last_mut() else { return };
        if part == 0 {
            gap.in_base = in_base;
            gap.commits = (from <= until && (starts_known || !in_base)).then_some(from..=until);
        } else {
            gap.in_base = in_base && order(part) != order(last_part).saturating_add(1);
        }
    }

    fn finish(&mut self) {
        let end = self.survey.end;
        if let Some(witness) = self.scope.witness {
            let reached = (end.segment, end.offset) >= (witness.segment, witness.offset);
            if !reached && self.survey.gaps.is_empty() {
                let missing = witness.offset.saturating_sub(end.offset);
                self.gap(end.segment, end.offset, missing, "journal is shorter than the witness says");
            }
            self.resume(witness.commit.saturating_add(1), 0);
        }
    }
}

/// Parts in their order, the last one last, and the commits behind a base after it.
fn order(part: u32) -> u32 {
    part & !LAST_PART
}

/// A segment's bytes, read through a window.
pub(super) struct Source {
    file: File,
    number: u64,
    pub(super) length: u64,
    window: Vec<u8>,
    at: u64,
}

impl Source {
    pub(super) fn open(dir: &Path, number: u64) -> Result<Self, StoreError> {
        let doing = "reading the journal";
        let file = File::open(segment_path(dir, number)).map_err(io_error(doing))?;
        let length = file.metadata().map_err(io_error(doing))?.len();
        Ok(Self { file, number, length, window: Vec::new(), at: 0 })
    }

    /// At most `count` bytes from `offset` on; fewer only at the end of the file.
    pub(super) fn read(&mut self, offset: u64, count: usize) -> Result<&[u8], StoreError> {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = count.min(left);
        let mut skip = usize::try_from(offset.wrapping_sub(self.at)).unwrap_or(usize::MAX);
        if self.window.get(skip..).is_none_or(|rest| rest.len() < count) {
            self.window.resize(count.max(WINDOW_BYTES.min(left)), 0);
            let read = self.file.read_exact_at(&mut self.window, offset);
            if let Err(error) = read {
                self.window.clear();
                return Err(io_error("reading the journal")(error));
            }
            (self.at, skip) = (offset, 0);
        }
        Ok(self.window.get(skip..).unwrap_or_default().get(..count).unwrap_or_default())
    }

    /// The bytes of the frame at `offset`: as many as it says it has, or as there are.
    pub(super) fn frame(&mut self, version: u16, offset: u64) -> Result<&[u8], StoreError> {
        let head = self.read(offset, 64)?;
        let length = format::frame_bytes(version, head).unwrap_or(64);
        self.read(offset, length)
    }

    /// The next whole frame at or behind `offset`.
    fn scan(&mut self, scope: &Scope<'_>, mut offset: u64) -> Result<Option<u64>, StoreError> {
        let magic = format::magic(scope.version);
        while offset < self.length {
            let window = self.read(offset, WINDOW_BYTES)?;
            let Some(skip) = window.windows(magic.len()).position(|bytes| bytes == magic) else {
                // The magic may lie across the border of two windows.
                let step = window.len().saturating_sub(magic.len().saturating_sub(1)).max(1);
                offset = offset.saturating_add(step as u64);
                if window.len() < magic.len() {
                    return Ok(None);
                }
                continue;
            };
            offset = offset.saturating_add(skip as u64);
            let number = self.number;
            let frame = format::parse(scope.version, self.frame(scope.version, offset)?);
            if frame.is_ok_and(|frame| frame.open(scope.keys, number, offset).is_some()) {
                return Ok(Some(offset));
            }
            offset = offset.saturating_add(1);
        }
        Ok(None)
    }
}

impl Gap {
    pub(super) fn error(&self) -> StoreError {
        StoreError::Damaged { file: segment_name(self.segment), offset: self.offset, what: self.what }
    }
}
