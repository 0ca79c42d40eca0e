//! STREAM of the age format, a piece of 16 chunks at a time, so that several cores can work on one payload.
//!
//! ```text
//! key    = HKDF-SHA256[nonce, "payload"](file key)
//! chunk  = ChaCha20-Poly1305[key, counter u88 big-endian ‖ last u8](64 KiB of plaintext, or what is left) ‖ tag 16
//! ```
//! Source: C2SP age, section "Payload". The cipher is ring's: three times as fast as the one inside the age crate, which
//! opens what is made here and so remains its judge. For: sealing. Not for: headers and keys ([`crate::seal`]).

use crate::seal::{FileKey, SealError};
use age_core::primitives::hkdf;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::io::{self, Read};
use zeroize::{Zeroize, Zeroizing};

/// Plaintext in one chunk, in bytes.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// What authenticates a chunk, in bytes.
pub(crate) const TAG_BYTES: usize = 16;
/// Chunks in one piece. 16: a MiB, large enough that handing it to another core costs nothing.
const PIECE_CHUNKS: usize = 16;

/// The key of one payload's STREAM. It does not print.
pub(crate) struct StreamKey(LessSafeKey);

impl StreamKey {
    pub(crate) fn new(file_key: &FileKey, nonce: &[u8; 16]) -> Result<Self, SealError> {
        let key = Zeroizing::new(hkdf(nonce, b"payload", file_key.expose_bytes()));
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).map_err(|_| failed())?;
        Ok(Self(LessSafeKey::new(key)))
    }
}

fn failed() -> SealError {
    SealError::Seal("the cipher refused".into())
}

/// Up to 16 chunks, each with room for its tag behind it.
#[derive(Default)]
pub(crate) struct Piece {
    /// Number in its payload, from 0.
    pub(crate) number: u64,
    pub(crate) bytes: Vec<u8>,
    is_last: bool,
}

impl Piece {
    /// Plaintext of each chunk, before sealing.
    fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let chunks = self.bytes.chunks(CHUNK_BYTES + TAG_BYTES);
        chunks.map(|chunk| chunk.get(..chunk.len().saturating_sub(TAG_BYTES)).unwrap_or_default())
    }

    /// Seals it where it is.
    pub(crate) fn seal(&mut self, key: &StreamKey) -> Result<(), SealError> {
        let first = self.number.saturating_mul(PIECE_CHUNKS as u64);
        let count = self.bytes.len().div_ceil(CHUNK_BYTES + TAG_BYTES);
        let chunks = self.bytes.chunks_mut(CHUNK_BYTES + TAG_BYTES);
        for (index, (chunk, counter)) in chunks.zip(first..).enumerate() {
            let (plain, room) = chunk.split_last_chunk_mut::<TAG_BYTES>().ok_or_else(failed)?;
            let nonce = nonce(counter, self.is_last && index + 1 == count);
            let tag = key.0.seal_in_place_separate_tag(nonce, Aad::empty(), plain).map_err(|_| failed())?;
            room.copy_from_slice(tag.as_ref());
        }
        Ok(())
    }
}

/// 11 bytes of counter; a payload of 256 TiB has 2^32 chunks.
fn nonce(counter: u64, is_last: bool) -> Nonce {
    let bytes = (u128::from(counter) << 8) | u128::from(is_last);
    let mut nonce = [0; 12];
    nonce.iter_mut().zip(bytes.to_be_bytes().into_iter().skip(4)).for_each(|(to, from)| *to = from);
    Nonce::assume_unique_for_key(nonce)
}

/// Plaintext cut into pieces, and hashed. The last piece is known as such because the one behind it was empty.
pub(crate) struct Pieces<R> {
    plaintext: R,
    hasher: blake3::Hasher,
    pub(crate) plaintext_bytes: u64,
    ahead: Option<Piece>,
    number: u64,
}

impl<R: Read> Pieces<R> {
    pub(crate) fn of(plaintext: R) -> Self {
        Self { plaintext, hasher: blake3::Hasher::new(), plaintext_bytes: 0, ahead: None, number: 0 }
    }

    /// The next one, in a buffer from `spare`; none after the last.
    pub(crate) fn next(&mut self, spare: &mut dyn FnMut() -> Vec<u8>) -> io::Result<Option<Piece>> {
        let mut piece = match self.ahead.take() {
            Some(piece) => piece,
            None if self.number == 0 => self.read(spare())?,
            None => return Ok(None),
        };
        // A piece that is not full was ended by the end of the plaintext.
        if piece.bytes.len() == PIECE_CHUNKS * (CHUNK_BYTES + TAG_BYTES) {
            self.ahead = Some(self.read(spare())?).filter(|ahead| !ahead.bytes.is_empty());
        }
        piece.is_last = self.ahead.is_none();
        if piece.bytes.is_empty() {
            // Only an empty plaintext: it has one chunk, and that is empty.
            piece.bytes.resize(TAG_BYTES, 0);
        }
        Ok(Some(piece))
    }

    fn read(&mut self, mut bytes: Vec<u8>) -> io::Result<Piece> {
        bytes.clear();
        for _ in 0..PIECE_CHUNKS {
            let start = bytes.len();
            let read = (&mut self.plaintext).take(CHUNK_BYTES as u64).read_to_end(&mut bytes)?;
            if read == 0 {
                break;
            }
            self.plaintext_bytes = self.plaintext_bytes.saturating_add(read as u64);
            bytes.resize(start.saturating_add(read).saturating_add(TAG_BYTES), 0);
            if read < CHUNK_BYTES {
                break;
            }
        }
        let piece = Piece { number: self.number, bytes, is_last: false };
        for chunk in piece.chunks() {
            self.hasher.update(chunk);
        }
        self.number = self.number.saturating_add(1);
        Ok(piece)
    }

    pub(crate) fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }
}

impl<R> Drop for Pieces<R> {
    fn drop(&mut self) {
        // Plaintext that was read ahead of an error.
        if let Some(piece) = &mut self.ahead {
            piece.bytes.zeroize();
        }
    }
}
