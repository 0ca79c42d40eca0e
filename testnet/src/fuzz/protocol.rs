//! The decoders of what other nodes send: every signed kind, messages, slices, and what is sealed, before and after it
//! is opened. Seeds are the files of `protocol/vectors`, accepted and refused.

use super::Target;
use karte_protocol::backup::BackupList;
use karte_protocol::bao::verify_slice;
use karte_protocol::card::{self, Card};
use karte_protocol::consent::{Accept, Library, Receipt, Release, Status};
use karte_protocol::encoding;
use karte_protocol::entry::Entry;
use karte_protocol::grant::{OPENING_BYTES_MAX, Opening};
use karte_protocol::id::{Digest, EntryId, PartyId, RecordId, hex};
use karte_protocol::identity::PartyLog;
use karte_protocol::keys::{Recipient, SealingKey};
use karte_protocol::label::{self, Label};
use karte_protocol::message::{Bytes, Fetch, Frame, Request, Response};
use karte_protocol::request::AccessRequest;
use karte_protocol::seal::{self, FileKey};
use karte_protocol::shelf::{self, Segment, ShelfHead};
use karte_protocol::signed::{Signed, Statement, Verified};
use serde::Serialize;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest seed, in bytes. What only shows a bound is longer, and copying it is all the time there is.
const SEED_BYTES_MAX: usize = 20 * 1024;
/// Most that is opened, in bytes.
const OPENED_BYTES_MAX: usize = 256 * 1024;
/// Around a payload: the envelope of SPEC section 2.
const ENVELOPE: &[u8] = &[0xd2, 0x84, 0x43, 0xa1, 0x01, 0x27, 0xa0];

/// Heads, lengths and names that a CBOR decoder may stumble over.
const CBOR: &[&[u8]] = &[
    b"\xa0",
    b"\xa1",
    b"\x80",
    b"\x40",
    b"\x60",
    b"\xf4",
    b"\xf5",
    b"\xf6",
    b"\xf7",
    b"\x9f",
    b"\xbf",
    b"\x5f",
    b"\x7f",
    b"\xff",
    b"\xd8\x2a",
    b"\xf9\x7c\x00",
    b"\xfb\x3f\xf0\0\0\0\0\0\0",
    b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x1b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x3b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\x9a\xff\xff\xff\xff",
    b"\xba\xff\xff\xff\xff",
    b"\x58\x20",
    b"\x58\x40",
    b"\x67version\x01",
    b"\x64kind",
    b"\x62by",
    b"\x64body",
    b"\x65party",
    b"\x63gen",
    b"\x66device",
    b"\x63seq",
    b"\x64prev",
    b"\x63act",
    b"\x67records",
    &[0x81; 300],
    &[0xa1; 300],
];
const AGE: &[&[u8]] = &[
    b"age-encryption.org/v1\n",
    b"-> X25519 ",
    b"-> karte-local\n\n",
    b"-> ",
    b"--- ",
    b"---",
    b"\n",
    b"\n\n",
    b" ",
    b"=",
    &[b'A'; 64],
];
const TEXT: &[&[u8]] =
    &[b"karte:", b"karte1", b"KARTE1", b"AGE-SECRET-KEY-1", b"age1", b"1", b"q", b"_", b"-", b" \n", b"\0"];

/// Of the identity of 32 bytes 7: made once with [`seal::seal_to`], for age draws chance of its own.
const AGE_FILE: &str = "6167652d656e6372797074696f6e2e6f72672f76310a2d3e20583235353139206e2f694852613253487039375165485a\
    6c4a6e32334f32314b7834526c5a75644e6c4254504e67794558630a59575355394d70685430716d6c7431364a423677\
    31374e757648305575396d3566443977697371386448410a2d2d2d202b7368615134714135564255566279654661644f\
    6b59633752662f37524c7057535756536a48314f4478450ac9dcd2ff9fdba87ff384cc5735cda78fba39cfae5e94dae6\
    48b12f31495fc9259113e72737253b556b0b0d1d";

/// All of them.
pub(super) fn targets() -> io::Result<Vec<Target>> {
    let vectors = Vectors::read()?;
    let kinds = [
        signed::<Entry>(&vectors),
        signed::<Status>(&vectors),
        signed::<Accept>(&vectors),
        signed::<Release>(&vectors),
        signed::<Receipt>(&vectors),
        signed::<AccessRequest>(&vectors),
        signed::<Library>(&vectors),
        signed::<BackupList>(&vectors),
        signed::<Segment>(&vectors),
        signed::<ShelfHead>(&vectors),
        signed::<Label>(&vectors),
        signed::<Card>(&vectors),
    ];
    let messages = [
        target("request", CBOR, vectors.of("request"), |bytes| drop(Request::from_bytes(bytes))),
        target("response", CBOR, vectors.of("response"), |bytes| drop(Response::from_bytes(bytes))),
        target("fetch", CBOR, vectors.of("fetch"), |bytes| drop(Fetch::from_bytes(bytes))),
        target("frame", CBOR, vectors.of("frame"), |bytes| drop(Frame::from_bytes(bytes))),
        target("opening", CBOR, vectors.of("opening"), feed_opening),
        log(&vectors)?,
        slice(&vectors)?,
    ];
    let sealed = [
        payload(&vectors)?,
        sealed_label(&vectors)?,
        age_file(),
        label_inside(&vectors)?,
        segment_keys(&vectors)?,
    ];
    let texts = [
        target("card-text", TEXT, card_texts(&vectors)?, |bytes| {
            drop(card::from_text(&String::from_utf8_lossy(bytes)));
            drop(card::introduce(bytes));
        }),
        target("party-text", TEXT, vec![PartyId::from([7; 32]).to_string().into_bytes()], |bytes| {
            drop(String::from_utf8_lossy(bytes).parse::<PartyId>());
        }),
        target("id-text", TEXT, vec![hex(&[7; 32]).into_bytes()], |bytes| {
            drop(String::from_utf8_lossy(bytes).parse::<RecordId>());
        }),
        target("identity-text", TEXT, vec![own_key().expose_age().as_bytes().to_vec()], |bytes| {
            // As a library's wraps are: one a line.
            String::from_utf8_lossy(bytes).lines().for_each(|line| drop(SealingKey::from_age(line)));
        }),
        target("recipient-text", TEXT, vec![own_key().recipient().key.into_bytes()], |bytes| {
            let key = String::from_utf8_lossy(bytes).into_owned();
            drop(Recipient { r#type: "x25519".into(), key }.to_age());
        }),
    ];
    Ok(kinds.into_iter().chain(messages).chain(sealed).chain(texts).collect())
}

fn target(
    name: &'static str,
    words: &[&'static [u8]],
    seeds: Vec<Vec<u8>>,
    feed: impl Fn(&[u8]) + Sync + 'static,
) -> Target {
    let feed = Box::new(move |_: &Path, bytes: &[u8]| feed(bytes));
    Target { name, is_protocol: true, endings: &["bin"], seeds, words: words.to_vec(), feed }
}

/// What begins as an envelope is verified; anything else is put into a good one with a signature of zeros and read
/// without looking at that, so that what lies behind the signature is met too.
fn signed<T: Statement + 'static>(vectors: &Vectors) -> Target {
    let whole = vectors.of(T::KIND);
    let inside: Vec<_> = whole.iter().filter_map(|bytes| payload_of(bytes)).collect();
    target(T::KIND, CBOR, [whole, inside].concat(), |bytes| {
        if bytes.starts_with(&[0xd2, 0x84]) {
            drop(Signed::<T>::from_bytes(bytes).verify());
        } else {
            drop(recalled::<T>(bytes));
        }
    })
}

/// The payload of a signed object.
fn payload_of(bytes: &[u8]) -> Option<Vec<u8>> {
    let counted = bytes.strip_prefix(ENVELOPE)?;
    let head = match counted.first()? {
        0x58 => 2,
        0x59 => 3,
        _ => 1,
    };
    Some(counted.get(head..counted.len().checked_sub(66)?)?.to_vec())
}

fn recalled<T: Statement>(payload: &[u8]) -> Option<Verified<T>> {
    let length = u16::try_from(payload.len()).ok()?.to_be_bytes();
    let head: &[u8] = match length {
        [0, short @ 0..=23] => &[0x40 | short],
        [0, one] => &[0x58, one],
        [high, low] => &[0x59, high, low],
    };
    let bytes = [ENVELOPE, head, payload, &[0x58, 0x40], &[0; 64]].concat();
    Signed::<T>::from_bytes(bytes).recall().ok()
}

/// Entries of any content in a log: nobody signs these, and still nothing may stop a node.
fn log(vectors: &Vectors) -> io::Result<Target> {
    let entries: Vec<_> = vectors
        .0
        .iter()
        .filter(|vector| vector.is("entry") && vector.is_accepted)
        .filter_map(|vector| Signed::<Entry>::from_bytes(vector.bytes.clone()).verify().ok())
        .collect();
    let genesis = entries.iter().find_map(|entry| PartyLog::start(entry.clone()).ok());
    let mut whole = genesis.ok_or_else(|| missing("entry_genesis"))?;
    // Twice: who is named comes before who speaks, in one of the two.
    for entry in entries.iter().chain(&entries) {
        drop(whole.add(entry.clone()));
    }
    let before = whole.state();
    let seeds = entries.iter().filter_map(|entry| payload_of(entry.bytes())).collect();
    Ok(target("log", CBOR, seeds, move |bytes| {
        let Some(entry) = recalled::<Entry>(bytes) else { return };
        drop(PartyLog::start(entry.clone()));
        let (mut log, mut state, id) = (whole.clone(), before.clone(), EntryId::from(entry.id()));
        if log.add(entry) == Ok(true) && !log.follow(&mut state, &id) {
            let ends = log.held_ends();
            drop((log.state(), log.beyond(&ends).len(), log.identity_entries().len()));
        }
    }))
}

fn feed_opening(bytes: &[u8]) {
    if let Ok(opening) = encoding::decode::<Opening>(bytes, OPENING_BYTES_MAX) {
        drop(opening.opened.check());
        drop(opening.scope.as_ref().map(karte_protocol::grant::Scope::check));
        drop(opening.verify());
    }
}

/// The slice of a payload whose length is known, and of one whose length the input says.
fn slice(vectors: &Vectors) -> io::Result<Target> {
    let vector = vectors.named("slice")?;
    let record: RecordId = vector.header("record")?.parse().map_err(io::Error::other)?;
    let bytes: u64 = vector.header("bytes")?.parse().map_err(io::Error::other)?;
    Ok(target("slice", &[&[0; 64], b"\0", b"\xff"], vectors.of("slice"), move |input| {
        let mut plain = Vec::new();
        drop(verify_slice(record, bytes, 0, input, &mut plain));
        if let Some((length, rest)) = input.split_first_chunk() {
            drop(verify_slice(record, u64::from_le_bytes(*length), 0, rest, &mut plain));
        }
    }))
}

fn payload(vectors: &Vectors) -> io::Result<Target> {
    let key = vectors.named("payload")?.file_key()?;
    Ok(target("payload", &[b"\0", &[0; 16]], vectors.of("payload"), move |bytes| {
        if let Ok(plaintext) = seal::open(bytes, &key) {
            drop(plaintext.take(OPENED_BYTES_MAX as u64).read_to_end(&mut Vec::new()));
        }
    }))
}

fn sealed_label(vectors: &Vectors) -> io::Result<Target> {
    let key = vectors.named("sealed_label")?.file_key()?;
    Ok(target("sealed-label", &[b"\0", &[0; 32]], vectors.of("sealed-label"), move |bytes| {
        drop(label::open_label(bytes, &key));
    }))
}

fn own_key() -> SealingKey {
    SealingKey::from_seed(&[7; 32])
}

fn age_file() -> Target {
    let key = own_key();
    target("age-file", AGE, unhex(AGE_FILE).into_iter().collect(), move |bytes| {
        drop(seal::open_with(bytes, &[&key], OPENED_BYTES_MAX));
    })
}

/// As `label-inside` in SPEC.
#[derive(Serialize)]
struct Inside {
    label: Bytes,
    identity: Vec<Bytes>,
}

fn label_inside(vectors: &Vectors) -> io::Result<Target> {
    let bytes = |name: &str| vectors.named(name).map(|vector| Bytes::from(vector.bytes.clone()));
    let inside = Inside { label: bytes("label")?, identity: vec![bytes("entry_genesis")?] };
    let seed = encoding::encode(&inside).map_err(io::Error::other)?;
    Ok(target("label-inside", CBOR, vec![seed], |bytes| drop(label::read_inside(bytes))))
}

/// As an item of `segment-keys` in SPEC.
#[derive(Serialize)]
struct Handed {
    record: RecordId,
    bytes: u64,
    file_key: Bytes,
    label_hash: Digest,
}

fn segment_keys(vectors: &Vectors) -> io::Result<Target> {
    let segment = Signed::<Segment>::from_bytes(vectors.named("segment")?.bytes.clone());
    let segment = segment.verify().map_err(io::Error::other)?;
    let handed = segment.records.iter().map(|record| Handed {
        record: *record,
        bytes: 1_000,
        file_key: Bytes::from(vec![7; 16]),
        label_hash: Digest::from([7; 32]),
    });
    let seed = encoding::encode(&handed.collect::<Vec<_>>()).map_err(io::Error::other)?;
    Ok(target("segment-keys", CBOR, vec![seed], move |bytes| drop(shelf::read_keys(&segment, bytes))))
}

fn card_texts(vectors: &Vectors) -> io::Result<Vec<Vec<u8>>> {
    let bytes = &vectors.named("card")?.bytes;
    let card = Signed::<Card>::from_bytes(bytes.clone()).verify().map_err(io::Error::other)?;
    Ok(vec![card::to_text(&card).into_bytes(), bytes.clone()])
}

// --- the files of protocol/vectors

struct Vector {
    name: String,
    headers: Vec<(String, String)>,
    is_accepted: bool,
    bytes: Vec<u8>,
}

struct Vectors(Vec<Vector>);

impl Vectors {
    /// In the order of their names, so that one seed makes the same inputs everywhere.
    fn read() -> io::Result<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../protocol/vectors");
        let files = std::fs::read_dir(&folder).map_err(|error| {
            let folder = folder.display();
            io::Error::other(format!(
                "{folder} holds the seeds and cannot be read: {error}. Run this from a checkout."
            ))
        })?;
        let mut paths = files.map(|file| file.map(|file| file.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        paths.iter().map(|path| Vector::read(path)).collect::<io::Result<_>>().map(Self)
    }

    /// Seeds of a kind.
    fn of(&self, kind: &str) -> Vec<Vec<u8>> {
        let of_kind = self.0.iter().filter(|vector| vector.is(kind));
        of_kind.map(|vector| vector.bytes.clone()).filter(|bytes| bytes.len() <= SEED_BYTES_MAX).collect()
    }

    fn named(&self, name: &str) -> io::Result<&Vector> {
        self.0.iter().find(|vector| vector.name == name).ok_or_else(|| missing(name))
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::other(format!("expected a vector {name} in protocol/vectors"))
}

impl Vector {
    fn read(path: &Path) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path)?;
        let (headers, body) = text.split_once("\n\n").ok_or_else(|| missing(&name))?;
        let headers = headers.lines().filter_map(|line| line.split_once(": "));
        let headers: Vec<_> = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let is_accepted = headers.iter().any(|(name, value)| name == "expect" && value == "accept");
        let bytes = unhex(body).ok_or_else(|| missing(&name))?;
        Ok(Self { name, headers, is_accepted, bytes })
    }

    fn header(&self, name: &str) -> io::Result<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str()).ok_or_else(|| missing(&format!("{} with {name}", self.name)))
    }

    fn is(&self, kind: &str) -> bool {
        self.header("kind").is_ok_and(|found| found == kind)
    }

    fn file_key(&self) -> io::Result<FileKey> {
        let bytes = unhex(self.header("file-key")?).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        bytes.map(|bytes| FileKey::from_bytes(&bytes)).ok_or_else(|| missing("file-key of 16 bytes"))
    }
}

/// Bytes of hexadecimal digits, with line breaks among them.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .map(|letter| letter.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_takes_its_good_seeds_and_lives() {
        let targets = targets().expect("the vectors are beside");
        assert!(targets.len() > 25, "{} targets", targets.len());
        for target in &targets {
            assert!(!target.seeds.is_empty(), "{} has no seed", target.name);
            target.seeds.iter().for_each(|seed| (target.feed)(Path::new("none"), seed));
        }
    }

    #[test]
    fn the_kept_age_file_opens_and_a_payload_is_found_in_its_envelope() {
        let file = unhex(AGE_FILE).expect("hexadecimal");
        let opened = seal::open_with(&file, &[&own_key()], 100).expect("opens");
        assert_eq!(opened.as_slice(), b"segment keys");
        let vectors = Vectors::read().expect("the vectors are beside");
        for name in ["entry_grant", "label", "library"] {
            let bytes = &vectors.named(name).expect("is there").bytes;
            let payload = payload_of(bytes).expect("an envelope");
            let is_entry = recalled::<Entry>(&payload).is_some();
            assert_eq!(is_entry, name == "entry_grant", "{name}");
        }
    }
}
