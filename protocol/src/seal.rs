//! Sealing: one record, encrypted once with age, and its header written when it leaves.
//!
//! ```text
//! payload  = nonce(16) ‖ STREAM[HKDF[nonce, "payload"](file key)](plaintext)      made once, hashed, stored
//! header   = age v1 header that wraps the file key for a recipient                 written on the way out
//! RecordId = blake3(payload)              header ‖ payload is a file that stock `age -d` opens
//! ```
//!
//! Source: C2SP age, sections "Header" and "Payload". Sealing is [`crate::stream`], on all cores; opening is the age
//! crate's, before whose eyes a header is put that only names the key. A file key is never used for a second plaintext.

use crate::bao::{Outline, Outliner};
use crate::id::RecordId;
use crate::keys::{KeyError, Recipient, SealingKey};
use crate::stream::{Piece, Pieces, StreamKey};
use age_core::format::{FileKey as AgeFileKey, Stanza};
use age_core::primitives::hkdf;
use hmac::Mac;
use secrecy::{ExposeSecret, SecretBox};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// Length of a file key, in bytes (C2SP age).
pub const FILE_KEY_BYTES: usize = 16;
/// What a payload is longer than its plaintext by, in bytes: a nonce, and a tag for each started chunk of 64 KiB.
const NONCE_BYTES: u64 = 16;
const CHUNK_BYTES: u64 = 64 * 1024;
const TAG_BYTES: u64 = 16;

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
        let outline = self.outliner.finish();
        Ok(Sealed {
            record: outline.record(),
            payload_bytes: outline.bytes(),
            file_key,
            plaintext_bytes: pieces.plaintext_bytes,
            plaintext_hash: pieces.hash().into(),
            outline: Arc::new(outline),
        })
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
    pub plaintext_hash: crate::id::Digest,
    /// What slices of the payload are proven with.
    pub outline: Arc<Outline>,
}

/// A reader of the plaintext of `payload`. Truncation and change show as errors while reading; length and
/// hash against the label are [`open_checked`]'s.
pub fn open<R: Read>(payload: R, file_key: &FileKey) -> Result<impl Read + use<R>, SealError> {
    let header = header_of_stanzas(file_key, &[local_stanza()])?;
    let whole = io::Cursor::new(header).chain(payload);
    let decryptor = age::Decryptor::new(whole).map_err(|error| SealError::Open(error.to_string()))?;
    let opener = Opener(file_key.clone());
    decryptor
        .decrypt(std::iter::once(&opener as &dyn age::Identity))
        .map_err(|error| SealError::Open(error.to_string()))
}

/// Opens to `out` and compares length and hash with what the label says. What was written to `out` before an
/// error must not be shown to anybody.
pub fn open_checked(
    payload: impl Read,
    file_key: &FileKey,
    expected: (u64, crate::id::Digest),
    mut out: impl Write,
) -> Result<(), SealError> {
    let mut hasher = blake3::Hasher::new();
    let mut plaintext = open(payload, file_key)?;
    let got = copy(&mut plaintext, &mut out, &mut hasher)?;
    if got != expected.0 {
        return Err(SealError::Length { expected: expected.0, got });
    }
    if crate::id::Digest::from(hasher.finalize()) != expected.1 {
        return Err(SealError::Hash);
    }
    Ok(())
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
    read_bounded(open(payload, &FileKey::from_bytes(&inner))?, max)
}

/// Length of the payload of a plaintext of `plaintext_bytes`: age's overhead is exact.
pub fn payload_bytes(plaintext_bytes: u64) -> u64 {
    let chunks = plaintext_bytes.div_ceil(CHUNK_BYTES).max(1);
    NONCE_BYTES + plaintext_bytes + chunks * TAG_BYTES
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
        return Err(SealError::Open(format!("expected at most {max} bytes inside")));
    }
    Ok(plaintext)
}

fn copy(from: &mut impl Read, to: &mut impl Write, hasher: &mut blake3::Hasher) -> io::Result<u64> {
    // 64 KiB: one chunk of age's STREAM.
    let mut buffer = Zeroizing::new(vec![0; 64 * 1024]);
    let mut total = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let part = buffer.get(..read).unwrap_or_default();
        hasher.update(part);
        to.write_all(part)?;
        total += u64::try_from(read).unwrap_or_default();
    }
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

/// The stanza of a header that never leaves memory: it only tells age's reader to ask [`Opener`].
fn local_stanza() -> Stanza {
    Stanza { tag: LOCAL_TAG.into(), args: vec![], body: vec![] }
}

const LOCAL_TAG: &str = "karte-local";

struct Opener(FileKey);

impl age::Identity for Opener {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<AgeFileKey, age::DecryptError>> {
        (stanza.tag == LOCAL_TAG).then(|| Ok(age_file_key(&self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::OsChance;
    use proptest::prelude::*;

    #[test]
    fn header_and_payload_are_an_age_file_for_its_recipient_alone() {
        let reader = SealingKey::generate(&mut OsChance);
        let other = SealingKey::generate(&mut OsChance);
        let file = seal_to(b"creatinine 62 umol/L", &[reader.recipient()]).expect("seals");
        assert_eq!(open_with(&file, &[&reader], 100).expect("opens").as_slice(), b"creatinine 62 umol/L");
        assert!(open_with(&file, &[&other], 100).is_err());
        assert!(open_with(&file, &[&reader], 5).is_err(), "the bound on what comes out holds");
    }

    #[test]
    fn a_payload_opens_only_to_what_its_label_names() {
        let mut payload = Vec::new();
        let sealed = seal(&b"one"[..], &mut payload).expect("seals");
        let expected = (sealed.plaintext_bytes, sealed.plaintext_hash);
        let mut out = Vec::new();
        open_checked(&payload[..], &sealed.file_key, expected, &mut out).expect("opens");
        assert_eq!(out, b"one");
        let wrong = open_checked(&payload[..], &sealed.file_key, (4, expected.1), io::sink());
        assert!(matches!(wrong, Err(SealError::Length { expected: 4, got: 3 })));
        let wrong = open_checked(&payload[..], &sealed.file_key, (3, crate::id::digest(b"two")), io::sink());
        assert!(matches!(wrong, Err(SealError::Hash)));
        payload.pop();
        assert!(open_checked(&payload[..], &sealed.file_key, expected, io::sink()).is_err(), "truncated");
    }

    #[test]
    fn a_label_key_opens_labels_and_not_payloads() {
        let key = FileKey::from_bytes(&[3; 16]);
        let bytes = seal_under(b"label", &key.label_key()).expect("seals");
        assert_eq!(open_under(&bytes, &key.label_key(), 100).expect("opens").as_slice(), b"label");
        assert!(open_under(&bytes, &key, 100).is_err());
    }

    /// Around every edge of chunks and pieces, in one thread and on all cores.
    #[test]
    fn the_age_crate_opens_payloads_of_every_length() {
        const CHUNK: usize = 64 * 1024;
        let lengths =
            [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 16 * CHUNK - 1, 16 * CHUNK, 16 * CHUNK + 1];
        for length in lengths.into_iter().chain([32 * CHUNK, 33 * CHUNK + 7, 100 * CHUNK]) {
            let plaintext: Vec<u8> = (0..=250u8).cycle().take(length).collect();
            let (mut one, mut many) = (Vec::new(), Vec::new());
            let sealed = [
                seal(&plaintext[..], &mut one).expect("seals"),
                seal_large(&plaintext[..], &mut many).expect("seals"),
            ];
            for (sealed, payload) in sealed.iter().zip([one, many]) {
                assert_eq!(payload.len() as u64, payload_bytes(length as u64), "{length}");
                assert_eq!(sealed.record, RecordId::from(blake3::hash(&payload)), "{length}");
                let expected = (length as u64, crate::id::digest(&plaintext));
                open_checked(&payload[..], &sealed.file_key, expected, io::sink()).expect("opens");
            }
        }
    }

    #[test]
    fn a_reader_or_writer_that_fails_ends_sealing_with_its_error() {
        struct Fails(usize);
        impl Read for Fails {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("no more"))?;
                Ok(buffer.len())
            }
        }
        impl Write for Fails {
            fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
                Ok(buffer.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(matches!(seal_large(Fails(1_000), io::sink()), Err(SealError::Io(_))));
        let full = seal_large(io::repeat(7).take(100 << 20), Fails(5));
        assert!(matches!(full, Err(SealError::Io(error)) if error.kind() == io::ErrorKind::StorageFull));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// The payload of any plaintext has the length that `payload_bytes` says, hashes to its RecordId and opens.
        #[test]
        fn sealing_is_undone_by_opening(plaintext in proptest::collection::vec(any::<u8>(), 0..200_000)) {
            let mut payload = Vec::new();
            let sealed = seal(&plaintext[..], &mut payload).expect("seals");
            prop_assert_eq!(sealed.payload_bytes, payload_bytes(plaintext.len() as u64));
            prop_assert_eq!(sealed.record, RecordId::from(blake3::hash(&payload)));
            let mut large = Vec::new();
            let on_all_cores = seal_large(&plaintext[..], &mut large).expect("seals");
            prop_assert_eq!(on_all_cores.record, RecordId::from(blake3::hash(&large)));
            let expected = (on_all_cores.plaintext_bytes, on_all_cores.plaintext_hash);
            open_checked(&large[..], &on_all_cores.file_key, expected, io::sink()).expect("opens");
            let mut out = Vec::new();
            open_checked(&payload[..], &sealed.file_key, (sealed.plaintext_bytes, sealed.plaintext_hash), &mut out)
                .expect("opens");
            prop_assert_eq!(out, plaintext);
        }
    }
}
