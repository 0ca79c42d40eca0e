//! The check: a deep look at every frame and file that changes nothing. Not for mending.

use std::fs::File;
use std::io;
use std::path::Path;

use super::disk::{Disk, LOCK};
use super::format::VERSION;
use super::open;
use super::place;
use super::salvage::{Missing, known};
use super::sealing::StoreKey;
use super::survey::{self, Scope, segment_name};
use super::witness;
use super::{StoreError, io_error, journal};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Gravity {
    /// As after a crash: the next start clears it away.
    Note,
    /// Damage that the next start mends without any loss.
    Repairable,
    /// Something acknowledged is lost: the next start refuses, and `Disk::salvage` keeps the rest.
    Lossy,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is.
    pub gravity: Gravity,
    /// Which file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// What, in plain words.
    pub what: String,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// Everything that is not as it should be, in the order it was met.
    pub findings: Vec<Finding>,
    /// The format of the store.
    pub version: u16,
    /// Whole frames, each opened.
    pub frames: u64,
    /// The number of the last commit.
    pub commits: u64,
    /// Size of the journal.
    pub journal_bytes: u64,
    /// Segments of the journal.
    pub segments: u64,
    /// Whether the folder seems to have been copied.
    pub is_copy: bool,
}

impl Health {
    /// Whether anything acknowledged is lost.
    pub fn loses(&self) -> bool {
        self.findings.iter().any(|finding| finding.gravity == Gravity::Lossy)
    }

    fn find(&mut self, gravity: Gravity, file: &str, offset: u64, what: impl Into<String>) {
        self.findings.push(Finding { gravity, file: file.to_owned(), offset, what: what.into() });
    }
}

impl Disk {
    /// Reads and opens every frame, the witness and the marker of a store that nobody has open, and writes
    /// nothing.
    ///
    /// # Errors
    /// `Locked`, `WrongKey`, `Version`, `Io`; `Damaged` when not even the keys can be found.
    pub fn check(dir: &Path, key: StoreKey) -> Result<Health, StoreError> {
        let lock = match File::open(dir.join(LOCK)) {
            Ok(file) => Some(open::try_lock(file)?),
            // Never opened here: a copy without its lock.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("locking the store")(error)),
        };
        let mut health = Health { version: VERSION, ..Health::default() };
        if matches!(open::is_new(dir), Ok(true)) {
            health.find(Gravity::Note, survey::DIR, 0, "no store was ever finished here");
            return Ok(health);
        }
        let keys = journal::unlock(dir, &key)?;
        let reading = witness::read(dir, &keys)?;
        let known = known(dir, &keys)?;
        health.version = known.version;
        for (file, what) in reading.damage.iter().filter(|_| known.version == VERSION) {
            let gravity = if reading.newest.is_some() { Gravity::Repairable } else { Gravity::Lossy };
            health.find(gravity, file, 0, *what);
        }
        if known.version != VERSION && known.position.is_none() {
            health.find(Gravity::Lossy, witness::OLD_NAME, 0, "neither of the two slots is valid");
        }
        if let (Some(lock), Some((_, says))) = (&lock, reading.newest) {
            health.is_copy = place::differ(&says.place, &place::here(dir, &lock.0, &keys));
        }

        let scope =
            Scope { dir, keys: &keys, version: known.version, base: known.base, witness: known.position };
        let mut unreadable = Vec::new();
        let survey = survey::walk(&scope, &mut |found| {
            if found.frame.open(&keys, found.segment, found.offset).is_none() {
                unreadable.push((found.segment, found.offset));
            }
            Ok(())
        })?;
        for (segment, offset) in unreadable {
            health.find(Gravity::Lossy, &segment_name(segment), offset, "frame does not open");
        }
        for patch in &survey.patches {
            health.find(Gravity::Repairable, &segment_name(patch.segment), patch.offset, patch.what);
        }
        let marker = open::read_clean_marker(dir, &keys)?;
        let holds = marker.as_ref().is_some_and(|marker| marker.holds(dir, &keys));
        let reaches = |commit: u64| marker.as_ref().is_some_and(|marker| marker.at.commit >= commit);
        let view_has_all = holds && known.position.is_some_and(|position| reaches(position.commit));
        for gap in &survey.gaps {
            let missing = Missing::new(gap, known.version);
            let gravity = if view_has_all { Gravity::Repairable } else { Gravity::Lossy };
            health.find(gravity, &missing.file, gap.offset, describe(&missing));
        }
        if let Some((segment, offset)) = survey.tail {
            let gravity = if reading.is_half_blind && known.version == VERSION {
                Gravity::Lossy
            } else {
                Gravity::Note
            };
            let what = "a commit that was under way and never acknowledged";
            health.find(gravity, &segment_name(segment), offset, what);
        }
        for stray in &survey.strays {
            health.find(Gravity::Note, &segment_name(*stray), 0, "left by an interrupted compaction");
        }
        if !holds {
            health.find(
                Gravity::Note,
                open::CLEAN,
                0,
                "not closed clean: the view is remade at the next start",
            );
        }
        health.frames = survey.frames;
        health.commits = survey.end.commit;
        health.journal_bytes = survey.bytes;
        health.segments = survey.segments.len() as u64;
        Ok(health)
    }
}

fn describe(missing: &Missing) -> String {
    let what = match (&missing.commits, missing.rows_of_base) {
        (Some(commits), false) => format!("commits {} to {} are lost", commits.start(), commits.end()),
        (Some(commits), true) => {
            format!("rows of the base and commits {} to {} are lost", commits.start(), commits.end())
        }
        (None, true) => "rows of the base are lost".to_owned(),
        (None, false) => "cannot be read".to_owned(),
    };
    format!("{} bytes: {} ({})", missing.bytes, what, missing.what)
}
