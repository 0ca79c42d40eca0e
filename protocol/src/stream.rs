//! STREAM of the age format, a piece of 16 chunks at a time, so that several cores can work on one payload.
//!
//! ```text
//! key    = HKDF-SHA256[nonce, "payload"](file key)
//! chunk  = ChaCha20-Poly1305[key, counter u88 big-endian ‖ last u8](64 KiB of plaintext, or what is left) ‖ tag 16
//! ```
//! Source: C2SP age, section "Payload". The cipher is ring's: three times as fast as the one inside the age crate, which
//! remains its judge: it opens what is sealed here, and what it sealed is opened here (the tests of [`crate::seal`]).
//! For: sealing and opening. Not for: headers and keys ([`crate::seal`]).

use crate::seal::{FileKey, SealError};
use age_core::primitives::hkdf;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::io::{self, BufRead, Read};
use zeroize::{Zeroize, Zeroizing};

/// Plaintext in one chunk, in bytes.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// What authenticates a chunk, in bytes.
pub(crate) const TAG_BYTES: usize = 16;
/// A whole chunk with its tag, in bytes.
const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
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

    /// Encrypts a chunk where it is, and gives its tag.
    pub(crate) fn seal_chunk(
        &self,
        counter: u64,
        is_last: bool,
        plain: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], SealError> {
        let tag = self.0.seal_in_place_separate_tag(nonce(counter, is_last), Aad::empty(), plain);
        tag.ok().and_then(|tag| tag.as_ref().try_into().ok()).ok_or_else(failed)
    }

    /// Opens the chunk that begins at `from` of `bytes` and ends with it; gives its plaintext, which then stands at the
    /// start of `bytes`.
    fn open_chunk<'a>(
        &self,
        counter: u64,
        is_last: bool,
        bytes: &'a mut [u8],
        from: usize,
    ) -> io::Result<&'a mut [u8]> {
        let opened = self.0.open_within(nonce(counter, is_last), Aad::empty(), bytes, from..);
        let opened = opened.map_err(|_| invalid("a chunk does not open: it was changed, cut or moved"))?;
        // The age format has an empty chunk only where the whole plaintext is empty.
        if opened.is_empty() && counter > 0 { Err(invalid("the last chunk is empty")) } else { Ok(opened) }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the payload ends before its last chunk")
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
        let chunks = self.bytes.chunks(SEALED_CHUNK_BYTES);
        chunks.map(|chunk| chunk.get(..chunk.len().saturating_sub(TAG_BYTES)).unwrap_or_default())
    }

    /// Seals it where it is.
    pub(crate) fn seal(&mut self, key: &StreamKey) -> Result<(), SealError> {
        let first = self.number.saturating_mul(PIECE_CHUNKS as u64);
        let count = self.bytes.len().div_ceil(SEALED_CHUNK_BYTES);
        let chunks = self.bytes.chunks_mut(SEALED_CHUNK_BYTES);
        for (index, (chunk, counter)) in chunks.zip(first..).enumerate() {
            let (plain, room) = chunk.split_last_chunk_mut::<TAG_BYTES>().ok_or_else(failed)?;
            *room = key.seal_chunk(counter, self.is_last && index + 1 == count, plain)?;
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
        if piece.bytes.len() == PIECE_CHUNKS * SEALED_CHUNK_BYTES {
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

/// Opens a whole STREAM that begins at `from` of `bytes`. The plaintext then stands at the start, and nothing behind it.
pub(crate) fn open_in_place(key: &StreamKey, bytes: &mut Vec<u8>, mut from: usize) -> io::Result<()> {
    let sealed_bytes = bytes.len().saturating_sub(from);
    let count = sealed_bytes.div_ceil(SEALED_CHUNK_BYTES);
    if count == 0 {
        return Err(truncated());
    }
    let mut opened_bytes = 0usize;
    for (counter, left) in (0..).zip((0..count).rev()) {
        let end = from.saturating_add(SEALED_CHUNK_BYTES).min(bytes.len());
        let room = bytes.get_mut(opened_bytes..end).unwrap_or_default();
        let opened = key.open_chunk(counter, left == 0, room, from.saturating_sub(opened_bytes))?;
        opened_bytes = opened_bytes.saturating_add(opened.len());
        from = end;
    }
    bytes.truncate(opened_bytes);
    Ok(())
}

/// A STREAM that is opened as it is read. A chunk that was changed, cut or moved is an error, and so are an end before the
/// last chunk and bytes behind it; nothing of a chunk is given before its tag was checked.
pub(crate) struct Opener<R> {
    sealed: R,
    key: StreamKey,
    /// The chunk at hand: sealed, then its plaintext.
    chunk: Zeroizing<Vec<u8>>,
    /// What of its plaintext was given.
    given_bytes: usize,
    /// The sealed chunk behind it. That there is none tells which one is the last.
    ahead: Zeroizing<Vec<u8>>,
    counter: u64,
    stands: Stands,
}

/// How far an [`Opener`] is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    Before,
    Within,
    /// The chunk at hand is the last.
    AtLast,
    /// It gives nothing any more but errors: what comes next would have no beginning.
    Failed,
}

impl<R: Read> Opener<R> {
    pub(crate) fn of(sealed: R, key: StreamKey) -> Self {
        // With room from the start: a buffer that grows leaves plaintext behind.
        let buffer = || Zeroizing::new(Vec::with_capacity(SEALED_CHUNK_BYTES));
        let (chunk, ahead) = (buffer(), buffer());
        Self { sealed, key, chunk, given_bytes: 0, ahead, counter: 0, stands: Stands::Before }
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.stands, Stands::Failed) {
            Stands::Failed => return Err(invalid("opening failed before")),
            Stands::Before => fill(&mut self.sealed, &mut self.ahead)?,
            Stands::Within | Stands::AtLast => {}
        }
        std::mem::swap(&mut self.chunk, &mut self.ahead);
        self.ahead.clear();
        self.given_bytes = 0;
        let sealed_bytes = self.chunk.len();
        if sealed_bytes == 0 {
            return Err(truncated());
        }
        if sealed_bytes == SEALED_CHUNK_BYTES {
            fill(&mut self.sealed, &mut self.ahead)?;
        }
        let is_last = self.ahead.is_empty();
        let opened_bytes = self.key.open_chunk(self.counter, is_last, &mut self.chunk, 0)?.len();
        self.chunk.truncate(opened_bytes);
        self.counter = self.counter.saturating_add(1);
        self.stands = if is_last { Stands::AtLast } else { Stands::Within };
        Ok(())
    }
}

fn fill(from: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    from.take(SEALED_CHUNK_BYTES as u64).read_to_end(buffer).map(drop)
}

impl<R: Read> BufRead for Opener<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let is_given = self.given_bytes == self.chunk.len();
        if self.stands == Stands::Failed || (is_given && self.stands != Stands::AtLast) {
            self.next_chunk()?;
        }
        Ok(self.chunk.get(self.given_bytes..).unwrap_or_default())
    }

    fn consume(&mut self, bytes: usize) {
        self.given_bytes = self.given_bytes.saturating_add(bytes).min(self.chunk.len());
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
