//! Sealing and opening, before the eyes of the age crate.

use super::*;
use crate::chance::OsChance;
use proptest::prelude::*;
use std::sync::OnceLock;

const CHUNK: usize = CHUNK_BYTES;

// --- the age crate, which judges what is sealed and opened here

/// Hands a file key from and to the age crate; its stanza says nothing.
#[derive(Default)]
struct Key(OnceLock<FileKey>);

fn bare() -> Stanza {
    Stanza { tag: "karte-test".into(), args: vec![], body: vec![] }
}

impl age::Identity for Key {
    fn unwrap_stanza(&self, _: &Stanza) -> Option<Result<AgeFileKey, age::DecryptError>> {
        self.0.get().map(|key| Ok(age_file_key(key)))
    }
}

impl age::Recipient for Key {
    fn wrap_file_key(
        &self,
        key: &AgeFileKey,
    ) -> Result<(Vec<Stanza>, std::collections::HashSet<String>), age::EncryptError> {
        self.0.get_or_init(|| FileKey::from_bytes(key.expose_secret()));
        Ok((vec![bare()], Default::default()))
    }
}

/// The plaintext of a payload by the age crate alone.
fn opened_by_age(payload: &[u8], file_key: &FileKey) -> Result<Vec<u8>, String> {
    let mut file = header_of_stanzas(file_key, &[bare()]).map_err(|error| error.to_string())?;
    file.extend_from_slice(payload);
    let key = Key(file_key.clone().into());
    let decryptor = age::Decryptor::new_buffered(&file[..]).map_err(|error| error.to_string())?;
    let mut opened = decryptor.decrypt(std::iter::once(&key as _)).map_err(|error| error.to_string())?;
    let mut plaintext = Vec::new();
    opened.read_to_end(&mut plaintext).map_err(|error| error.to_string())?;
    Ok(plaintext)
}

/// A payload that the age crate sealed, and its file key.
fn sealed_by_age(plaintext: &[u8]) -> (Vec<u8>, FileKey) {
    let (key, mut file) = (Key::default(), Vec::new());
    let encryptor = age::Encryptor::with_recipients(std::iter::once(&key as _)).expect("one recipient");
    let mut sealed = encryptor.wrap_output(&mut file).expect("writes");
    sealed.write_all(plaintext).expect("writes");
    sealed.finish().expect("writes");
    let header = file.windows(5).position(|at| at == b"\n--- ").expect("the end of a header") + 5;
    let end = file[header..].iter().position(|byte| *byte == b'\n').expect("a line") + 1;
    (file.split_off(header + end), key.0.into_inner().expect("a file key"))
}

/// What opening here gives, by each way there is: both must agree.
fn opened_here(payload: &[u8], file_key: &FileKey) -> Option<Vec<u8>> {
    let mut streamed = Vec::new();
    let is_whole =
        open(Dribble(payload, 0), file_key).is_ok_and(|mut opened| opened.read_to_end(&mut streamed).is_ok());
    let held = Zeroizing::new(payload.to_vec());
    let expected = (streamed.len() as u64, digest(&streamed));
    let held = open_held(held.to_vec(), file_key, expected);
    assert_eq!(held.is_ok(), is_whole, "in memory as while reading: {:?}", held.err());
    is_whole.then(|| {
        assert_eq!(*held.expect("opens"), streamed);
        streamed
    })
}

/// A reader as sockets are: it gives some bytes at a time, and now and then an interruption.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = buffer.len().min(1 + self.1 * 7_919 % 40_000);
        self.0.read(&mut buffer[..most])
    }
}

fn some(length: usize) -> Vec<u8> {
    (0..=250u8).cycle().take(length).collect()
}

/// Lengths around every edge of chunks and pieces.
fn edges() -> impl Iterator<Item = usize> {
    let few = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1];
    let pieces = [16 * CHUNK - 1, 16 * CHUNK, 16 * CHUNK + 1, 32 * CHUNK, 33 * CHUNK + 7, 100 * CHUNK];
    few.into_iter().chain(pieces)
}

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

/// In one thread, on all cores, and from memory.
#[test]
fn the_age_crate_opens_payloads_of_every_length() {
    for length in edges() {
        let plaintext = some(length);
        let (mut one, mut many) = (Vec::new(), Vec::new());
        let sealed = seal(&plaintext[..], &mut one).expect("seals");
        let on_all_cores = seal_large(&plaintext[..], &mut many).expect("seals");
        let (held, payload) = seal_held(&plaintext, digest(&plaintext)).expect("seals");
        for (sealed, payload) in [(sealed, one), (on_all_cores, many), (held, payload)] {
            assert_eq!(payload.len() as u64, payload_bytes(length as u64), "{length}");
            assert_eq!(sealed.payload_bytes, payload_bytes(length as u64), "{length}");
            assert_eq!(sealed.record, RecordId::from(blake3::hash(&payload)), "{length}");
            assert_eq!(
                (sealed.plaintext_bytes, sealed.plaintext_hash),
                (length as u64, digest(&plaintext)),
                "{length}"
            );
            assert!(opened_by_age(&payload, &sealed.file_key).as_ref() == Ok(&plaintext), "{length}");
            assert!(opened_here(&payload, &sealed.file_key).as_ref() == Some(&plaintext), "{length}");
        }
    }
}

#[test]
fn what_the_age_crate_sealed_opens_here() {
    for length in edges() {
        let plaintext = some(length);
        let (payload, file_key) = sealed_by_age(&plaintext);
        assert_eq!(payload.len() as u64, payload_bytes(length as u64), "{length}");
        assert!(opened_here(&payload, &file_key).as_ref() == Some(&plaintext), "{length}");
    }
}

/// One that is asked again after an error must not say that this was the end.
#[test]
fn a_payload_that_failed_to_open_gives_nothing_more() {
    let (payload, file_key) = sealed_by_age(&some(3 * CHUNK));
    let mut changed = payload.clone();
    changed[16 + CHUNK + 16 + 5] ^= 1;
    for payload in [&changed[..], &payload[..16 + CHUNK + 16], &payload[..payload.len() - 1]] {
        let mut opened = open(payload, &file_key).expect("has a nonce");
        let mut plaintext = Vec::new();
        assert!(opened.read_to_end(&mut plaintext).is_err());
        assert!(plaintext == some(plaintext.len()), "only chunks that opened");
        assert!(opened.read(&mut [0; 10]).is_err());
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

/// What somebody without the key may do to a payload.
#[derive(Clone, Debug)]
enum Change {
    Cut(usize),
    Append(Vec<u8>),
    Flip(usize, u8),
    /// Chunks in another order, some twice or not at all.
    Deal(Vec<usize>),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..3 * CHUNK).prop_map(Change::Cut),
        (0..40usize).prop_map(Change::Cut),
        proptest::collection::vec(any::<u8>(), 1..40).prop_map(Change::Append),
        (any::<usize>(), 1..=255u8).prop_map(|(at, bits)| Change::Flip(at, bits)),
        proptest::collection::vec(0..4usize, 0..5).prop_map(Change::Deal),
    ]
}

fn changed(payload: &[u8], change: &Change) -> Vec<u8> {
    let mut bytes = payload.to_vec();
    match change {
        Change::Cut(cut) => bytes.truncate(payload.len().saturating_sub(*cut)),
        Change::Append(more) => bytes.extend(more),
        Change::Flip(at, bits) => bytes[at % payload.len()] ^= bits,
        Change::Deal(order) => {
            let chunks: Vec<&[u8]> = payload[NONCE_BYTES..].chunks(CHUNK + TAG_BYTES).collect();
            bytes.truncate(NONCE_BYTES);
            order.iter().filter_map(|index| chunks.get(*index)).for_each(|chunk| bytes.extend(*chunk));
        }
    }
    bytes
}

/// Chunks as only a holder of the key can make them, with any lengths and marks.
fn any_chunks() -> impl Strategy<Value = Vec<(usize, bool)>> {
    let length = prop_oneof![Just(0), Just(1), Just(CHUNK - 1), Just(CHUNK), Just(CHUNK)];
    proptest::collection::vec((length, any::<bool>()), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Whatever is done to a payload, it opens here exactly when the age crate opens it, and to the same.
    #[test]
    fn a_changed_payload_opens_here_as_in_the_age_crate(
        chunks in 0..4usize, beside in -2..3isize, change in change()
    ) {
        let plaintext = some((chunks * CHUNK).saturating_add_signed(beside));
        let (payload, file_key) = sealed_by_age(&plaintext);
        let payload = changed(&payload, &change);
        prop_assert!(opened_here(&payload, &file_key) == opened_by_age(&payload, &file_key).ok());
    }

    /// The same of payloads whose chunks are marked and cut as no writer does it.
    #[test]
    fn odd_chunks_open_here_as_in_the_age_crate(chunks in any_chunks()) {
        let (file_key, nonce) = fresh().expect("chance");
        let key = StreamKey::new(&file_key, &nonce).expect("a key");
        let mut payload = nonce.to_vec();
        for ((length, is_last), counter) in chunks.into_iter().zip(0..) {
            let mut chunk = some(length);
            let tag = key.seal_chunk(counter, is_last, &mut chunk).expect("seals");
            payload.extend(chunk.iter().chain(&tag));
        }
        prop_assert!(opened_here(&payload, &file_key) == opened_by_age(&payload, &file_key).ok());
    }
}
