//! The bytes of the journal: segment headers and frames, of this format (2) and of the one before it (1).
//!
//! For: encoding, decoding, checksums, and finding the one flipped bit. Not for files or their order.
//!
//! ```text
//! header 1  "KARTEJNL" | version u16 | kind u16 | store id 16 | key check 32 | crc32                 64 bytes
//! header 2  the same up to the key check | segment u64 | base u64 | commit u64 | previous chain 32 | crc32   120
//! frame 1   "KFRM" | length u32 | crc32 | previous chain 32 | nonce 24, ciphertext, tag 16
//! frame 2   "KFR2" | length u32 | crc32 | commit u64 | part u32 | previous chain 32 | nonce 24, ciphertext, tag 16
//! ```
//! Numbers are little-endian. `length` counts from the nonce; the crc covers all but the magic and itself. The
//! chain is the blake3 of a segment's header, then of each whole frame. `base` is the number of the first
//! segment of this chain of segments; `commit` in a header counts the commits before it. Frames of a base have
//! a `part`, counted from 1, the last with [`LAST_PART`] set, and the number of the commit they stand for;
//! a commit's frame has part 0. The AAD is `segment ‖ offset ‖ commit ‖ part ‖ previous chain` (1: `offset ‖
//! previous chain`), so a frame proves itself and its place without the frames before it.

use super::delta::DELTA_BYTES_MAX;
use super::files::take;
use super::sealing::{Keys, SEAL_BYTES};
use super::{StoreError, VALUE_BYTES_MAX};

/// The format that is written.
pub(super) const VERSION: u16 = 2;
/// The format before it: one file, no commit numbers.
pub(super) const VERSION_OLD: u16 = 1;
/// Set in the part of a base's last frame.
pub(super) const LAST_PART: u32 = 1 << 31;

const HEADER_MAGIC: [u8; 8] = *b"KARTEJNL";
const KIND_JOURNAL: u16 = 1;
/// Longest body, in bytes: a full delta, sealed.
const BODY_BYTES_MAX: usize = DELTA_BYTES_MAX + VALUE_BYTES_MAX + SEAL_BYTES;
/// Longest frame, in bytes: no torn tail can be longer, because a commit waits for the one before.
pub(super) const FRAME_BYTES_MAX: usize = 64 + BODY_BYTES_MAX;
/// Where a frame's checksum is, in both versions: bytes 8 to 11.
const CRC_AT: usize = 8;

/// A place between two frames of the journal, with the hash of all before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Position {
    /// Commits before it, since the store was made.
    pub(super) commit: u64,
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) chain: [u8; 32],
}

impl Position {
    /// `commit ‖ segment ‖ offset ‖ chain`, wherever a position is kept.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(56);
        for number in [self.commit, self.segment, self.offset] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.chain);
        bytes
    }

    pub(super) fn take(bytes: &mut &[u8]) -> Option<Self> {
        let mut number = || take(bytes).map(u64::from_le_bytes);
        let (commit, segment, offset) = (number()?, number()?, number()?);
        Some(Self { commit, segment, offset, chain: take(bytes)? })
    }

    /// Whether it is the same place, whatever came before.
    pub(super) fn is_at(&self, segment: u64, offset: u64) -> bool {
        (self.segment, self.offset) == (segment, offset)
    }
}

/// What the first bytes of a segment say. Everything in it follows from the frames before: a damaged header
/// can be written again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) version: u16,
    pub(super) store_id: [u8; 16],
    pub(super) check: [u8; 32],
    pub(super) segment: u64,
    pub(super) base: u64,
    pub(super) commit: u64,
    pub(super) previous: [u8; 32],
}

/// Length of a header, in bytes.
pub(super) const fn header_bytes(version: u16) -> usize {
    if version == VERSION_OLD { 64 } else { 120 }
}

/// Length of a frame before its body, in bytes.
const fn head_bytes(version: u16) -> usize {
    if version == VERSION_OLD { 44 } else { 56 }
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = HEADER_MAGIC.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(KIND_JOURNAL.to_le_bytes());
        bytes.extend(self.store_id);
        bytes.extend(self.check);
        if self.version != VERSION_OLD {
            for number in [self.segment, self.base, self.commit] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(self.previous);
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// `None` when it is not a whole header of a version known here.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let version = version_of(bytes)?;
        let mut rest = bytes.get(12..)?;
        let (store_id, check) = (take(&mut rest)?, take(&mut rest)?);
        let mut header = Self { version, store_id, check, segment: 1, base: 1, commit: 0, previous: [0; 32] };
        if version != VERSION_OLD {
            let mut number = || take(&mut rest).map(u64::from_le_bytes);
            (header.segment, header.base, header.commit) = (number()?, number()?, number()?);
            header.previous = take(&mut rest)?;
        }
        // Whole is what would be written again.
        bytes.starts_with(&header.encode()).then_some(header)
    }

    /// The same, after turning back the one bit that makes it whole.
    pub(super) fn mend(bytes: &[u8]) -> Option<Self> {
        let mut bytes = bytes.get(..header_bytes(VERSION).min(bytes.len()))?.to_vec();
        (0..bytes.len().saturating_mul(8)).find_map(|bit| {
            flip(&mut bytes, bit);
            let found = Self::decode(&bytes);
            flip(&mut bytes, bit);
            found
        })
    }
}

/// The version a header claims, if it is one of ours.
fn version_of(bytes: &[u8]) -> Option<u16> {
    claimed_version(bytes).filter(|version| [VERSION, VERSION_OLD].contains(version))
}

/// The version a header claims, known here or not.
pub(super) fn claimed_version(mut bytes: &[u8]) -> Option<u16> {
    (take::<8>(&mut bytes)? == HEADER_MAGIC).then_some(())?;
    take(&mut bytes).map(u16::from_le_bytes)
}

/// A frame whose checksum is right; not yet opened.
pub(super) struct Frame<'a> {
    version: u16,
    /// 0 in version 1.
    pub(super) commit: u64,
    pub(super) part: u32,
    pub(super) previous: [u8; 32],
    pub(super) body: &'a [u8],
    /// With its head, in bytes.
    pub(super) length: u64,
    pub(super) chain: [u8; 32],
}

impl Frame<'_> {
    /// The plaintext, if the frame was sealed for this place.
    pub(super) fn open(&self, keys: &Keys, segment: u64, offset: u64) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        let place = (segment, offset);
        keys.journal.open(&aad(self.version, place, self.commit, self.part, &self.previous), self.body)
    }
}

fn aad(version: u16, place: (u64, u64), commit: u64, part: u32, previous: &[u8; 32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(60);
    if version != VERSION_OLD {
        bytes.extend(place.0.to_le_bytes());
    }
    bytes.extend(place.1.to_le_bytes());
    if version != VERSION_OLD {
        bytes.extend(commit.to_le_bytes());
        bytes.extend(part.to_le_bytes());
    }
    bytes.extend(previous);
    bytes
}

pub(super) const fn magic(version: u16) -> [u8; 4] {
    if version == VERSION_OLD { *b"KFRM" } else { *b"KFR2" }
}

/// Seals a frame of the present version for the place `at`; `commit` is its own number.
pub(super) fn seal_frame(
    keys: &Keys,
    at: &Position,
    commit: u64,
    part: u32,
    plain: &[u8],
) -> Result<Vec<u8>, StoreError> {
    let bytes = plain.len().saturating_add(SEAL_BYTES);
    let too_large = StoreError::TooLarge { what: "frame", expected: BODY_BYTES_MAX, got: bytes };
    let Some(length) = u32::try_from(bytes).ok().filter(|_| bytes <= BODY_BYTES_MAX) else {
        return Err(too_large);
    };
    let mut frame = Vec::with_capacity(head_bytes(VERSION).saturating_add(bytes));
    frame.extend(magic(VERSION));
    frame.extend(length.to_le_bytes());
    // The checksum's place: it covers what follows.
    frame.extend([0; 4]);
    frame.extend(commit.to_le_bytes());
    frame.extend(part.to_le_bytes());
    frame.extend(at.chain);
    let aad = aad(VERSION, (at.segment, at.offset), commit, part, &at.chain);
    keys.journal.seal_onto(&mut frame, &aad, plain)?;
    let (head, covered) = frame.split_at_mut(CRC_AT + 4);
    let (_, checksum) = head.split_at_mut(CRC_AT);
    checksum.copy_from_slice(&crc(length, covered).to_le_bytes());
    Ok(frame)
}

/// How long the frame at the start of `bytes` says it is, with its head; `None` when no frame is so long.
pub(super) fn frame_bytes(version: u16, bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(take(&mut bytes.get(4..)?)?) as usize;
    (length <= BODY_BYTES_MAX).then(|| length.saturating_add(head_bytes(version)))
}

/// Reads the frame at the start of `bytes`, or says why there is none.
pub(super) fn parse(version: u16, bytes: &[u8]) -> Result<Frame<'_>, &'static str> {
    let cut = "frame is cut short";
    if bytes.len() < head_bytes(version) {
        return Err(cut);
    }
    if !bytes.starts_with(&magic(version)) {
        return Err("expected the start of a frame");
    }
    let length = frame_bytes(version, bytes).ok_or("frame is longer than any commit")?;
    let whole = bytes.get(..length).ok_or(cut)?;
    let (stored, computed) = crcs(whole).ok_or(cut)?;
    if stored != computed {
        return Err("frame does not match its checksum");
    }
    split(version, whole).ok_or(cut)
}

fn split(version: u16, whole: &[u8]) -> Option<Frame<'_>> {
    let mut rest = whole.get(CRC_AT + 4..)?;
    let (mut commit, mut part) = (0, 0);
    if version != VERSION_OLD {
        (commit, part) = (u64::from_le_bytes(take(&mut rest)?), u32::from_le_bytes(take(&mut rest)?));
    }
    let previous = take(&mut rest)?;
    let (length, chain) = (whole.len() as u64, blake3::hash(whole).into());
    Some(Frame { version, commit, part, previous, body: rest, length, chain })
}

/// The checksum that a whole frame has, and the one it should have.
fn crcs(whole: &[u8]) -> Option<(u32, u32)> {
    let (mut head, covered) = whole.split_at_checked(CRC_AT + 4)?;
    take::<4>(&mut head)?;
    let (length, stored) = (u32::from_le_bytes(take(&mut head)?), u32::from_le_bytes(take(&mut head)?));
    Some((stored, crc(length, covered)))
}

fn crc(length: u32, covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(covered);
    hasher.finalize()
}

/// Finds the one flipped bit of the frame at the start of `bytes`, and returns the frame as it was. Only a
/// frame that `proves` itself is returned: its tag says that this bit it was.
pub(super) fn mend(version: u16, bytes: &[u8], proves: &dyn Fn(&Frame<'_>) -> bool) -> Option<Vec<u8>> {
    let is_it = |bit: usize| {
        let mut trial = bytes.to_vec();
        flip(&mut trial, bit);
        let length = parse(version, &trial).ok().filter(|frame| proves(frame))?.length;
        trial.truncate(usize::try_from(length).ok()?);
        Some(trial)
    };
    // In the magic or the length: few enough to try. A length may say anything up to the bytes there are.
    (0..64).find_map(is_it).or_else(|| suspect(version, bytes).and_then(is_it))
}

/// The bit behind the length that the checksum accuses: the CRC is linear, so the difference of the two
/// checksums is that of one bit alone, and no two bits of a frame have the same.
fn suspect(version: u16, bytes: &[u8]) -> Option<usize> {
    let whole = bytes.get(..frame_bytes(version, bytes)?)?;
    let (stored, computed) = crcs(whole)?;
    let wrong = stored ^ computed;
    if wrong.is_power_of_two() {
        return (CRC_AT * 8).checked_add(wrong.trailing_zeros() as usize);
    }
    let mut register = 0xEDB8_8320u32;
    for behind in 1..=whole.len().checked_sub(CRC_AT + 4)?.saturating_mul(8) {
        if register == wrong {
            return whole.len().saturating_mul(8).checked_sub(behind);
        }
        register = if register & 1 == 1 { (register >> 1) ^ 0xEDB8_8320 } else { register >> 1 };
    }
    None
}

/// Flips a bit; bit 0 is the lowest of the first byte, as the CRC reads them.
fn flip(bytes: &mut [u8], bit: usize) {
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::super::StoreKey;
    use super::*;

    /// Any one flipped bit of a frame is found; two are not taken for one.
    #[test]
    fn one_flipped_bit_is_turned_back_wherever_it_is() {
        let keys = Keys::derive(&StoreKey::new([1; 32]), [2; 16]);
        let at = Position { commit: 6, segment: 3, offset: 500, chain: [4; 32] };
        let whole = seal_frame(&keys, &at, 7, 0, b"the only proof that Mary said no").unwrap();
        let proves = |frame: &Frame<'_>| frame.open(&keys, 3, 500).is_some();
        // Bytes of the next frame follow.
        let file = [whole.as_slice(), &whole].concat();
        for bit in 0..whole.len() * 8 {
            let mut bad = file.clone();
            flip(&mut bad, bit);
            assert!(parse(VERSION, &bad).is_err(), "bit {bit} is noticed");
            assert_eq!(mend(VERSION, &bad, &proves).as_ref(), Some(&whole), "bit {bit}");
            flip(&mut bad, (bit + 77) % (whole.len() * 8));
            assert_eq!(mend(VERSION, &bad, &proves), None, "bits {bit} and another");
        }
        let header = Header {
            version: VERSION,
            store_id: [2; 16],
            check: keys.check(),
            segment: 9,
            base: 4,
            commit: 77,
            previous: [5; 32],
        };
        for bit in 0..header_bytes(VERSION) * 8 {
            let mut bad = [header.encode(), whole.clone()].concat();
            flip(&mut bad, bit);
            assert_eq!((Header::decode(&bad), Header::mend(&bad)), (None, Some(header)), "bit {bit}");
        }
    }
}
