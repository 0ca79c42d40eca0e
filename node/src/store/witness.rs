//! The witness: a small file that says how much of the journal was acknowledged.
//!
//! For: telling a torn tail (never acknowledged, cut off) from damage (refused), and keeping the time floor.
//! Not for: proving that the whole folder is not an older copy; nothing inside the folder could.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::files::{self, take};
use super::sealing::Keys;
use super::{StoreError, final_error, io_error};

pub(super) const NAME: &str = "witness";
const MAGIC: [u8; 8] = *b"KARTEWIT";
/// One slot's content, in bytes: magic 8, turn 8, offset 8, chain 32, time floor 8, store id 16, MAC 32.
const SLOT_BYTES: usize = 112;
/// Distance of the two slots, in bytes. 4096: a torn sector or page spoils one slot, never both.
const SLOT_STRIDE: u64 = 4096;

/// Size of the file, in bytes: two strides.
const FILE_BYTES: usize = 8192;

/// A place between two frames of the journal, with the hash of all before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Position {
    pub(super) offset: u64,
    pub(super) chain: [u8; 32],
}

impl Position {
    /// `offset u64 LE ‖ chain`, wherever a position is written or authenticated.
    pub(super) fn to_bytes(self) -> [u8; 40] {
        let mut bytes = [0; 40];
        for (to, from) in bytes.iter_mut().zip(self.offset.to_le_bytes().into_iter().chain(self.chain)) {
            *to = from;
        }
        bytes
    }

    pub(super) fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { offset: u64::from_le_bytes(take(bytes)?), chain: take(bytes)? })
    }
}

/// The open witness. Writes go to the two slots in turn, so a torn write leaves the one before.
pub(super) struct Witness {
    file: File,
    turn: u64,
    pub(super) position: Position,
    pub(super) time_floor_ms: u64,
}

impl Witness {
    /// Makes the file, which from then on says that the store exists.
    pub(super) fn create(dir: &Path, keys: &Keys, position: Position) -> Result<Self, StoreError> {
        let mut bytes = slot(keys, 0, position, 0);
        // Both slots take their space now: a full disk must not stop a commit half way.
        bytes.resize(FILE_BYTES, 0);
        files::replace(dir, NAME, &bytes).map_err(io_error("making the witness"))?;
        Self::open(dir, keys)
    }

    /// Opens the file at its newer valid slot.
    pub(super) fn open(dir: &Path, keys: &Keys) -> Result<Self, StoreError> {
        let doing = "reading the witness";
        let file = files::private().open(dir.join(NAME)).map_err(io_error(doing))?;
        let mut newest: Option<Self> = None;
        for offset in [0, SLOT_STRIDE] {
            let mut bytes = [0; SLOT_BYTES];
            // A file cut short reads as an invalid slot.
            if file.read_exact_at(&mut bytes, offset).is_err() {
                continue;
            }
            let Some((turn, position, time_floor_ms)) = read_slot(keys, &bytes) else {
                continue;
            };
            if newest.as_ref().is_none_or(|newest| newest.turn < turn) {
                let file = file.try_clone().map_err(io_error(doing))?;
                newest = Some(Self { file, turn, position, time_floor_ms });
            }
        }
        let what = "neither of the two slots is valid";
        newest.ok_or(StoreError::Damaged { file: NAME, offset: 0, what })
    }

    /// Writes and syncs the other slot. What it says must be durable before.
    pub(super) fn write(&mut self, keys: &Keys, position: Position, floor_ms: u64) -> Result<(), StoreError> {
        let turn = self.turn.saturating_add(1);
        let offset = if turn.is_multiple_of(2) { 0 } else { SLOT_STRIDE };
        let doing = "writing the witness";
        self.file.write_all_at(&slot(keys, turn, position, floor_ms), offset).map_err(final_error(doing))?;
        self.file.sync_data().map_err(final_error(doing))?;
        (self.turn, self.position, self.time_floor_ms) = (turn, position, floor_ms);
        Ok(())
    }
}

fn slot(keys: &Keys, turn: u64, position: Position, time_floor_ms: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(turn.to_le_bytes());
    bytes.extend(position.to_bytes());
    bytes.extend(time_floor_ms.to_le_bytes());
    bytes.extend(keys.store_id);
    bytes.extend(keys.mac(NAME, &bytes));
    bytes
}

fn read_slot(keys: &Keys, bytes: &[u8; SLOT_BYTES]) -> Option<(u64, Position, u64)> {
    let mut rest = bytes.as_slice();
    take::<8>(&mut rest)?;
    let turn = u64::from_le_bytes(take(&mut rest)?);
    let position = Position::take(&mut rest)?;
    let time_floor_ms = u64::from_le_bytes(take(&mut rest)?);
    // Valid is what would be written again: magic, store id and MAC are compared at once.
    (slot(keys, turn, position, time_floor_ms) == bytes).then_some((turn, position, time_floor_ms))
}
