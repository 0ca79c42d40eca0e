//! Sealing: one record, encrypted once with age, and its header written when it leaves.
//!
//! ```text
//! payload  = nonce(16) ‖ STREAM[HKDF[nonce, "payload"](file key)](plaintext)      made once, hashed, stored
//! header   = age v1 header that wraps the file key for a recipient                 written on the way out
//! RecordId = blake3(payload)              header ‖ payload is a file that stock `age -d` opens
//! ```
//!
//! Source: C2SP age, sections "Header" and "Payload". Payloads are sealed and opened by [`crate::stream`]; files with a
//! header are opened by the age crate. A file key is never used for a second plaintext.

use crate::bao::{Outline, Outliner};
use crate::id::{Digest, RecordId, digest};
use crate::keys::{KeyError, Recipient, SealingKey};
use crate::stream::{CHUNK_BYTES, Opener, Piece, Pieces, StreamKey, TAG_BYTES, open_in_place};
use age_core::format::{FileKey as AgeFileKey, Stanza};
use age_core::primitives::hkdf;
use hmac::Mac;
use secrecy::{ExposeSecret, SecretBox};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// Length of a file key, in bytes (C2SP age).
pub const FILE_KEY_BYTES: usize = 16;
/// What a payload begins with, in bytes.
const NONCE_BYTES: usize = 16;

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Reading or writing failed; a payload that was changed shows here too.
    #[error("the sealed bytes cannot be read: {0}")]
    Io(#[from] io::Error),
    /// No key that we hold opens it, or it was changed.
    #[error("the sealed bytes do not open: {0}")]
    Open(String),
    /// Sealing failed.
    #[error("cannot seal: {0}")]
    Seal(String),
    /// A recipient that this version cannot seal to.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It opened, but to something else than its label says.
    #[error("expected {expected} bytes of plaintext as the label says, got {got}")]
    Length {
        /// Bytes by the label.
        expected: u64,
        /// Bytes that came out.
        got: u64,
    },
    /// It opened to other bytes than its label says (age is not key-committing).
    #[error("the plaintext is not the one its label names")]
    Hash,
}

/// The key of one payload. Sixteen bytes that never print.
pub struct FileKey(SecretBox<[u8; FILE_KEY_BYTES]>);

impl FileKey {
    /// From its bytes.
    pub fn from_bytes(bytes: &[u8; FILE_KEY_BYTES]) -> Self {
        Self(SecretBox::new(Box::new(*bytes)))
    }

    /// The bytes, for a shelf and for sealed storage.
    pub fn expose_bytes(&self) -> &[u8; FILE_KEY_BYTES] {
        self.0.expose_secret()
    }

    /// The key of this record's sealed label: `blake3.derive_key("karte v1 label key", file key)[..16]`.
    pub fn label_key(&self) -> FileKey {
        let derived = Zeroizing::new(blake3::derive_key("karte v1 label key", self.expose_bytes()));
        let mut key = Zeroizing::new([0; FILE_KEY_BYTES]);
        key.iter_mut().zip(derived.iter()).for_each(|(to, from)| *to = *from);
        Self::from_bytes(&key)
    }
}

impl Clone for FileKey {
    fn clone(&self) -> Self {
        Self::from_bytes(self.expose_bytes())
    }
}

/// Seals `plaintext` under a fresh file key; the payload goes to `payload`.
pub fn seal(plaintext: impl Read, mut payload: impl Write) -> Result<Sealed, SealError> {
    let (file_key, nonce) = fresh()?;
    let key = StreamKey::new(&file_key, &nonce)?;
    let mut written = Written::begin(&mut payload, &nonce)?;
    let (mut pieces, mut spare) = (Pieces::of(plaintext), Vec::new());
    while let Some(mut piece) = pieces.next(&mut || std::mem::take(&mut spare))? {
        piece.seal(&key)?;
        written.add(&piece.bytes)?;
        spare = piece.bytes;
    }
    written.end(file_key, &pieces)
}

/// [`seal`] of what is in memory and already hashed: `hash` is blake3 of `plaintext`. Gives the payload too.
pub fn seal_held(plaintext: &[u8], hash: Digest) -> Result<(Sealed, Vec<u8>), SealError> {
    debug_assert!(hash == digest(plaintext), "expected the hash of this plaintext");
    let (file_key, nonce) = fresh()?;
    let key = StreamKey::new(&file_key, &nonce)?;
    let plaintext_bytes = plaintext.len() as u64;
    let room = usize::try_from(payload_bytes(plaintext_bytes)).unwrap_or_default();
    // Wiped unless it is sealed to its end. It never grows, so it leaves no plaintext elsewhere.
    let mut payload = Zeroizing::new(Vec::with_capacity(room));
    payload.extend_from_slice(&nonce);
    let empty: &[u8] = &[];
    let mut chunks = plaintext.chunks(CHUNK_BYTES).chain(plaintext.is_empty().then_some(empty)).peekable();
    let mut counter = 0;
    while let Some(chunk) = chunks.next() {
        let start = payload.len();
        payload.extend_from_slice(chunk);
        let sealed = payload.get_mut(start..).unwrap_or_default();
        let tag = key.seal_chunk(counter, chunks.peek().is_none(), sealed)?;
        payload.extend_from_slice(&tag);
        counter += 1;
    }
    let mut outliner = Outliner::default();
    outliner.update(&payload);
    let sealed = sealed_of(outliner, file_key, plaintext_bytes, hash);
    Ok((sealed, std::mem::take(&mut *payload)))
}

/// [`seal`] on all cores, for what is long: this thread reads, one writes, the others seal. In memory stand at most some
/// MiB for each core.
pub fn seal_large(plaintext: impl Read, payload: impl Write + Send) -> Result<Sealed, SealError> {
    let (file_key, nonce) = fresh()?;
    let key = StreamKey::new(&file_key, &nonce)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(SEALERS_MAX);
    let (to_seal, read) = sync_channel::<Piece>(2 * cores);
    let (to_write, sealed) = sync_channel::<Result<Piece, SealError>>(2 * cores);
    let (back, spare) = sync_channel::<Vec<u8>>(8 * cores);
    let mut pieces = Pieces::of(plaintext);
    let read = Arc::new(Mutex::new(read));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_in_order(payload, &nonce, sealed, &back));
        for _ in 0..cores {
            let (read, to_write, key) = (read.clone(), to_write.clone(), &key);
            scope.spawn(move || seal_each(&read, key, &to_write));
        }
        // Held by who works alone: when they stop, so do the others.
        drop((read, to_write));
        let mut read_all = || -> io::Result<()> {
            while let Some(piece) = pieces.next(&mut || spare.try_recv().unwrap_or_default())? {
                // A writer that failed says why.
                if to_seal.send(piece).is_err() {
                    break;
                }
            }
            Ok(())
        };
        let reading = read_all();
        drop(to_seal);
        let written = writer.join().map_err(|_| SealError::Seal("writing ended badly".into()))??;
        reading?;
        written.end(file_key, &pieces)
    })
}

/// Threads that seal one payload. 8: beyond that the disk is slower.
const SEALERS_MAX: usize = 8;

/// A file key and a nonce for one payload.
fn fresh() -> Result<(FileKey, [u8; 16]), SealError> {
    let (mut key, mut nonce) = (Zeroizing::new([0; FILE_KEY_BYTES]), [0; 16]);
    let random =
        |bytes: &mut [u8]| getrandom::fill(bytes).map_err(|error| SealError::Seal(error.to_string()));
    random(key.as_mut())?;
    random(&mut nonce)?;
    Ok((FileKey::from_bytes(&key), nonce))
}

fn seal_each(
    read: &Mutex<Receiver<Piece>>,
    key: &StreamKey,
    to_write: &SyncSender<Result<Piece, SealError>>,
) {
    loop {
        // The guard is let go before sealing.
        let next = read.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut piece) = next else { return };
        let sealed = piece.seal(key).map(|()| piece);
        if to_write.send(sealed).is_err() {
            return;
        }
    }
}

fn write_in_order<W: Write>(
    payload: W,
    nonce: &[u8; 16],
    sealed: Receiver<Result<Piece, SealError>>,
    back: &SyncSender<Vec<u8>>,
) -> Result<Written<W>, SealError> {
    let mut written = Written::begin(payload, nonce)?;
    let (mut early, mut next) = (BTreeMap::new(), 0);
    for piece in sealed {
        let piece = piece?;
        early.insert(piece.number, piece.bytes);
        while let Some(bytes) = early.remove(&next) {
            written.add(&bytes)?;
            // One that does not fit is let go.
            let _ = back.try_send(bytes);
            next += 1;
        }
    }
    Ok(written)
}

/// A payload that is being written, and its outline.
struct Written<W> {
    payload: W,
    outliner: Outliner,
}

impl<W: Write> Written<W> {
    fn begin(payload: W, nonce: &[u8; 16]) -> Result<Self, SealError> {
        let mut written = Self { payload, outliner: Outliner::default() };
        written.add(nonce)?;
        Ok(written)
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), SealError> {
        self.payload.write_all(bytes)?;
        self.outliner.update(bytes);
        Ok(())
    }

    fn end<R: Read>(self, file_key: FileKey, pieces: &Pieces<R>) -> Result<Sealed, SealError> {
        Ok(sealed_of(self.outliner, file_key, pieces.plaintext_bytes, pieces.hash().into()))
    }
}

fn sealed_of(payload: Outliner, file_key: FileKey, plaintext_bytes: u64, plaintext_hash: Digest) -> Sealed {
    let outline = payload.finish();
    Sealed {
        record: outline.record(),
        payload_bytes: outline.bytes(),
        file_key,
        plaintext_bytes,
        plaintext_hash,
        outline: Arc::new(outline),
    }
}

/// What sealing gives.
pub struct Sealed {
    /// blake3 of the payload.
    pub record: RecordId,
    /// Length of the payload in bytes.
    pub payload_bytes: u64,
    /// The key that opens it.
    pub file_key: FileKey,
    /// Length of the plaintext in bytes.
    pub plaintext_bytes: u64,
    /// blake3 of the plaintext.
    pub plaintext_hash: Digest,
    /// What slices of the payload are proven with.
    pub outline: Arc<Outline>,
}

/// A reader of the plaintext of `payload`. Truncation and change show as errors while reading; length and
/// hash against the label are [`open_checked`]'s.
pub fn open<R: Read>(mut payload: R, file_key: &FileKey) -> Result<impl BufRead + use<R>, SealError> {
    let mut nonce = [0; NONCE_BYTES];
    payload.read_exact(&mut nonce).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => too_short(),
        _ => SealError::Io(error),
    })?;
    Ok(Opener::of(payload, StreamKey::new(file_key, &nonce)?))
}

fn too_short() -> SealError {
    SealError::Open(format!("expected at least {NONCE_BYTES} bytes of nonce"))
}

/// Opens to `out` and compares length and hash with what the label says. What was written to `out` before an
/// error must not be shown to anybody.
pub fn open_checked(
    payload: impl Read,
    file_key: &FileKey,
    expected: (u64, Digest),
    mut out: impl Write,
) -> Result<(), SealError> {
    let mut hasher = blake3::Hasher::new();
    let mut plaintext = open(payload, file_key)?;
    let mut got = 0u64;
    loop {
        let part = plaintext.fill_buf()?;
        let part_bytes = part.len();
        if part_bytes == 0 {
            return expect((got, hasher.finalize().into()), expected);
        }
        hasher.update(part);
        out.write_all(part)?;
        got = got.saturating_add(part_bytes as u64);
        plaintext.consume(part_bytes);
    }
}

/// Opens a whole payload where it lies in memory, and compares as [`open_checked`] does. Gives the plaintext.
pub fn open_held(
    payload: Vec<u8>,
    file_key: &FileKey,
    expected: (u64, Digest),
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let plaintext = open_whole(payload, file_key)?;
    expect((plaintext.len() as u64, digest(&plaintext)), expected)?;
    Ok(plaintext)
}

fn open_whole(payload: Vec<u8>, file_key: &FileKey) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let mut bytes = Zeroizing::new(payload);
    let nonce = bytes.first_chunk::<NONCE_BYTES>().ok_or_else(too_short)?;
    let key = StreamKey::new(file_key, nonce)?;
    open_in_place(&key, &mut bytes, NONCE_BYTES)?;
    Ok(bytes)
}

/// Compares a plaintext's length and hash with those of its label.
fn expect(got: (u64, Digest), expected: (u64, Digest)) -> Result<(), SealError> {
    if got.0 != expected.0 {
        return Err(SealError::Length { expected: expected.0, got: got.0 });
    }
    if got.1 == expected.1 { Ok(()) } else { Err(SealError::Hash) }
}

/// The age v1 header that wraps `file_key` for each of `recipients`; `header ‖ payload` is an age file.
pub fn header(file_key: &FileKey, recipients: &[Recipient]) -> Result<Vec<u8>, SealError> {
    let age_key = age_file_key(file_key);
    let mut stanzas = Vec::new();
    for recipient in recipients {
        let (mut wrapped, _labels) = age::Recipient::wrap_file_key(&recipient.to_age()?, &age_key)
            .map_err(|error| SealError::Seal(error.to_string()))?;
        stanzas.append(&mut wrapped);
    }
    header_of_stanzas(file_key, &stanzas)
}

/// Seals a small value to recipients as an ordinary age file.
pub fn seal_to(plaintext: &[u8], recipients: &[Recipient]) -> Result<Vec<u8>, SealError> {
    let mut payload = Vec::new();
    let sealed = seal(plaintext, &mut payload)?;
    let mut file = header(&sealed.file_key, recipients)?;
    file.append(&mut payload);
    Ok(file)
}

/// Opens a small age file with any of `keys`; at most `max` bytes of plaintext.
pub fn open_with(file: &[u8], keys: &[&SealingKey], max: usize) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let identities: Vec<age::x25519::Identity> = keys.iter().map(|key| key.to_age()).collect();
    let decryptor = age::Decryptor::new_buffered(file).map_err(|error| SealError::Open(error.to_string()))?;
    let reader = decryptor
        .decrypt(identities.iter().map(|identity| identity as &dyn age::Identity))
        .map_err(|error| SealError::Open(error.to_string()))?;
    read_bounded(reader, max)
}

/// Seals a small value under a key that is used for it alone.
pub fn seal_under(plaintext: &[u8], key: &FileKey) -> Result<Vec<u8>, SealError> {
    // age offers no way to choose the file key, so the value is sealed under a fresh one, and that one is
    // wrapped in front of it: `header(32 bytes of AEAD) ‖ payload` without a second cipher of our own.
    let mut payload = Vec::new();
    let sealed = seal(plaintext, &mut payload)?;
    let wrap = age_core::primitives::aead_encrypt(&wrap_key(key), sealed.file_key.expose_bytes());
    Ok([wrap, payload].concat())
}

/// Opens what [`seal_under`] sealed; at most `max` bytes of plaintext.
pub fn open_under(bytes: &[u8], key: &FileKey, max: usize) -> Result<Zeroizing<Vec<u8>>, SealError> {
    const WRAP_BYTES: usize = FILE_KEY_BYTES + 16;
    let changed = || SealError::Open("the wrapped key does not open".into());
    let (wrap, payload) = bytes.split_at_checked(WRAP_BYTES).ok_or_else(changed)?;
    let inner = Zeroizing::new(
        age_core::primitives::aead_decrypt(&wrap_key(key), FILE_KEY_BYTES, wrap).map_err(|_| changed())?,
    );
    let inner: Zeroizing<[u8; FILE_KEY_BYTES]> =
        Zeroizing::new(inner.as_slice().try_into().map_err(|_| changed())?);
    if payload.len() as u64 > payload_bytes(max as u64) {
        return Err(too_long(max));
    }
    open_whole(payload.to_vec(), &FileKey::from_bytes(&inner))
}

/// Length of the payload of a plaintext of `plaintext_bytes`: age's overhead is exact.
pub fn payload_bytes(plaintext_bytes: u64) -> u64 {
    let chunks = plaintext_bytes.div_ceil(CHUNK_BYTES as u64).max(1);
    NONCE_BYTES as u64 + plaintext_bytes + chunks * TAG_BYTES as u64
}

/// `blake3.derive_key("karte v1 wrap key", key)`. Used for one value only, so the zero nonce of age's
/// `aead_encrypt` meets each key once.
fn wrap_key(key: &FileKey) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(blake3::derive_key("karte v1 wrap key", key.expose_bytes()))
}

fn read_bounded(reader: impl Read, max: usize) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let mut plaintext = Zeroizing::new(Vec::new());
    let limit = u64::try_from(max).unwrap_or(u64::MAX);
    reader.take(limit.saturating_add(1)).read_to_end(&mut plaintext)?;
    if plaintext.len() > max {
        return Err(too_long(max));
    }
    Ok(plaintext)
}

fn too_long(max: usize) -> SealError {
    SealError::Open(format!("expected at most {max} bytes inside"))
}

fn age_file_key(file_key: &FileKey) -> AgeFileKey {
    AgeFileKey::new(Box::new(*file_key.expose_bytes()))
}

/// `header = "age-encryption.org/v1\n" ‖ stanzas ‖ "--- " ‖ base64(HMAC[HKDF["", "header"](file key)](header up to "---")) ‖ "\n"`
fn header_of_stanzas(file_key: &FileKey, stanzas: &[Stanza]) -> Result<Vec<u8>, SealError> {
    use base64::Engine;
    let mut header = b"age-encryption.org/v1\n".to_vec();
    for stanza in stanzas {
        let write = age_core::format::write::age_stanza(&stanza.tag, &stanza.args, &stanza.body);
        header =
            cookie_factory::gen_simple(write, header).map_err(|error| SealError::Seal(error.to_string()))?;
    }
    header.extend_from_slice(b"---");
    let mac_key = Zeroizing::new(hkdf(&[], b"header", file_key.expose_bytes()));
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(mac_key.as_ref())
        .map_err(|error| SealError::Seal(error.to_string()))?;
    mac.update(&header);
    header.push(b' ');
    let tag = mac.finalize().into_bytes();
    header.extend_from_slice(base64::prelude::BASE64_STANDARD_NO_PAD.encode(tag).as_bytes());
    header.push(b'\n');
    Ok(header)
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
