//! The witness: two small files that say how much of the journal was acknowledged, written in turn.
//!
//! For: telling a torn tail (never acknowledged, cut off) from damage (refused), naming the first segment that
//! counts, and keeping the time floor and the place. Not for: proving that the whole folder is not an older
//! copy; nothing inside the folder could.
//!
//! Two files and not one, so that a lost or truncated file, a torn write or a spoiled page leaves the other,
//! which is at most one commit behind. One flipped bit is turned back: there are 1,472 and the MAC tells which.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::files::{self, take};
use super::format::Position;
use super::place::{PLACE_BYTES, Place};
use super::sealing::Keys;
use super::{StoreError, final_error, io_error};

/// The two files; a write of turn `n` goes to the one with index `n % 2`.
pub(super) const NAMES: [&str; 2] = ["witness.0", "witness.1"];
/// The one file of format 1, with two slots.
pub(super) const OLD_NAME: &str = "witness";
const MAGIC: [u8; 8] = *b"KARTEWI2";
const OLD_MAGIC: [u8; 8] = *b"KARTEWIT";
/// Distance of the two slots of format 1, in bytes.
const OLD_STRIDE: u64 = 4096;
/// Longest content of a file, in bytes: magic 8, turn 8, base 8, position 56, time floor 8, place 48, store id
/// 16, MAC 32.
const BYTES: usize = 184;
/// The same of a slot of format 1: magic 8, turn 8, offset 8, chain 32, time floor 8, store id 16, MAC 32.
const OLD_BYTES: usize = 112;

/// What a witness says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Testimony {
    /// The number of the first segment that counts.
    pub(super) base: u64,
    /// The end of what was acknowledged.
    pub(super) position: Position,
    pub(super) time_floor_ms: u64,
    pub(super) place: Place,
}

/// The open witness.
pub(super) struct Witness {
    files: [File; 2],
    turn: u64,
    pub(super) says: Testimony,
}

/// What is on the disk.
pub(super) struct Reading {
    /// The newest that could be read, and its turn.
    pub(super) newest: Option<(u64, Testimony)>,
    /// Files that are not as they were written: "missing", "cut short" and the like; mended ones too.
    pub(super) damage: Vec<(&'static str, &'static str)>,
    /// Whether a file could not be read, even by turning back one bit: perhaps it was the newer.
    pub(super) is_half_blind: bool,
    /// Whether both files name the same base.
    agrees: bool,
}

/// Reads both files, changing nothing.
pub(super) fn read(dir: &Path, keys: &Keys) -> Result<Reading, StoreError> {
    let mut reading = Reading { newest: None, damage: Vec::new(), is_half_blind: false, agrees: true };
    let mut bases = Vec::new();
    for (index, name) in NAMES.into_iter().enumerate() {
        let bytes = files::read_at_most(&dir.join(name), BYTES).map_err(io_error("reading the witness"))?;
        let parsed = bytes.as_deref().and_then(|bytes| parse(keys, bytes));
        let belongs = |turn: u64| usize::try_from(turn % 2) == Ok(index);
        let mended = || bytes.as_deref().and_then(|bytes| mend(keys, bytes));
        let found = parsed.or_else(|| {
            reading.damage.push((name, if bytes.is_none() { "missing" } else { "does not match its MAC" }));
            mended()
        });
        let Some((turn, says)) = found.filter(|(turn, _)| belongs(*turn)) else {
            reading.is_half_blind = true;
            continue;
        };
        bases.push(says.base);
        if reading.newest.is_none_or(|(newest, _)| newest < turn) {
            reading.newest = Some((turn, says));
        }
    }
    reading.agrees = bases.first() == bases.last() && !reading.is_half_blind;
    Ok(reading)
}

impl Witness {
    /// Makes both files, which from then on say that the store exists.
    pub(super) fn create(dir: &Path, keys: &Keys, says: Testimony) -> Result<Self, StoreError> {
        for (turn, name) in (0..).zip(NAMES) {
            files::replace(dir, name, &encode(keys, turn, &says)).map_err(io_error("making the witness"))?;
        }
        Self::open(dir, 1, says)
    }

    /// Opens what was read. Files that are damaged, or name another base, are written again.
    pub(super) fn resume(dir: &Path, keys: &Keys, reading: &Reading) -> Result<Option<Self>, StoreError> {
        let Some((mut turn, says)) = reading.newest else { return Ok(None) };
        for (name, _) in &reading.damage {
            let own = NAMES.get(usize::from(!turn.is_multiple_of(2))) == Some(name);
            let turn = if own { turn } else { turn.saturating_add(1) };
            files::replace(dir, name, &encode(keys, turn, &says)).map_err(io_error("mending the witness"))?;
        }
        if !reading.damage.is_empty() {
            turn = read(dir, keys)?.newest.map_or(turn, |(turn, _)| turn);
        }
        let mut witness = Self::open(dir, turn, says)?;
        if !reading.agrees && reading.damage.is_empty() {
            witness.write(keys, says)?;
        }
        Ok(Some(witness))
    }

    fn open(dir: &Path, turn: u64, says: Testimony) -> Result<Self, StoreError> {
        let open = |name| files::private().open(dir.join(name)).map_err(io_error("opening the witness"));
        let [zero, one] = NAMES;
        Ok(Self { files: [open(zero)?, open(one)?], turn, says })
    }

    /// Writes and syncs the other file. What it says must be durable before.
    pub(super) fn write(&mut self, keys: &Keys, says: Testimony) -> Result<(), StoreError> {
        let turn = self.turn.saturating_add(1);
        let [zero, one] = &self.files;
        let file = if turn.is_multiple_of(2) { zero } else { one };
        let doing = "writing the witness";
        file.write_all_at(&encode(keys, turn, &says), 0).map_err(final_error(doing))?;
        file.sync_data().map_err(final_error(doing))?;
        (self.turn, self.says) = (turn, says);
        Ok(())
    }

    /// Writes both files, so that none names what is about to be deleted.
    pub(super) fn write_both(&mut self, keys: &Keys, says: Testimony) -> Result<(), StoreError> {
        self.write(keys, says)?;
        self.write(keys, says)
    }
}

fn encode(keys: &Keys, turn: u64, says: &Testimony) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(turn.to_le_bytes());
    bytes.extend(says.base.to_le_bytes());
    bytes.extend(says.position.to_bytes());
    bytes.extend(says.time_floor_ms.to_le_bytes());
    bytes.extend(says.place);
    bytes.extend(keys.store_id);
    bytes.extend(keys.mac("witness 2", &bytes));
    bytes
}

fn parse(keys: &Keys, bytes: &[u8]) -> Option<(u64, Testimony)> {
    let mut rest = bytes;
    take::<8>(&mut rest)?;
    let turn = u64::from_le_bytes(take(&mut rest)?);
    let base = u64::from_le_bytes(take(&mut rest)?);
    let position = Position::take(&mut rest)?;
    let time_floor_ms = u64::from_le_bytes(take(&mut rest)?);
    let says = Testimony { base, position, time_floor_ms, place: take::<PLACE_BYTES>(&mut rest)? };
    // Valid is what would be written again: magic, store id and MAC are compared at once.
    (encode(keys, turn, &says) == bytes).then_some((turn, says))
}

fn mend(keys: &Keys, bytes: &[u8]) -> Option<(u64, Testimony)> {
    let mut bytes = bytes.to_vec();
    (0..bytes.len().saturating_mul(8)).find_map(|bit| {
        let turn = |bytes: &mut Vec<u8>| bytes.get_mut(bit / 8).map(|byte| *byte ^= 1 << (bit % 8));
        turn(&mut bytes)?;
        let found = parse(keys, &bytes);
        turn(&mut bytes)?;
        found
    })
}

/// The store id that a witness names, to find the keys when every header of the journal is lost.
pub(super) fn store_ids(dir: &Path) -> Result<Vec<[u8; 16]>, StoreError> {
    let mut found = Vec::new();
    for name in NAMES {
        let bytes = files::read_at_most(&dir.join(name), BYTES).map_err(io_error("reading the witness"))?;
        let mut rest = bytes.as_deref().and_then(|bytes| bytes.get(BYTES - 48..)).unwrap_or_default();
        found.extend(take::<16>(&mut rest));
    }
    Ok(found)
}

/// Position (without a commit number: format 1 has none) and time floor of format 1; `None` if neither slot is valid or there is no file.
pub(super) fn read_old(dir: &Path, keys: &Keys) -> Result<Option<(Position, u64)>, StoreError> {
    let file = match File::open(dir.join(OLD_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io_error("reading the witness"))?,
    };
    let mut newest = None;
    for offset in [0, OLD_STRIDE] {
        let mut bytes = [0; OLD_BYTES];
        // A file cut short reads as an invalid slot.
        if file.read_exact_at(&mut bytes, offset).is_err() {
            continue;
        }
        let found = parse_old(keys, &bytes);
        newest = newest.max(found);
    }
    Ok(newest.map(|(_, offset, chain, floor)| (Position { commit: 0, segment: 1, offset, chain }, floor)))
}

/// Turn first, so that the newer slot is the greater.
fn parse_old(keys: &Keys, bytes: &[u8; OLD_BYTES]) -> Option<(u64, u64, [u8; 32], u64)> {
    let (covered, mac) = bytes.split_last_chunk::<32>()?;
    let mut rest = covered;
    let is_ours = take(&mut rest) == Some(OLD_MAGIC) && keys.mac(OLD_NAME, covered) == *mac;
    let turn = u64::from_le_bytes(take(&mut rest)?);
    let (offset, chain) = (u64::from_le_bytes(take(&mut rest)?), take(&mut rest)?);
    let time_floor_ms = u64::from_le_bytes(take(&mut rest)?);
    is_ours.then_some((turn, offset, chain, time_floor_ms))
}
