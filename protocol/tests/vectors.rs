//! The files in `vectors/`: what a second implementation must take and what it must refuse.
//!
//! One vector, one failure, one name. A file is header lines (`expect`, `kind`, `layer`, `id`, `comment`, and
//! for sealed things their keys), a blank line, and the bytes in hexadecimal. `KARTE_WRITE_VECTORS=1` writes the
//! folder anew out of fixed seeds; without it the tests check that the folder says what the code does.
//! Signing is deterministic, so the files are stable; what age made is random and is kept as it once came out.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

mod people;

use ed25519_dalek::Signer;
use karte_protocol::backup::BackupList;
use karte_protocol::bao::{Tree, verify_slice};
use karte_protocol::card::Card;
use karte_protocol::consent::{Accept, Deed, Library, Receipt, Release, Status};
use karte_protocol::encoding::{self, EncodingError};
use karte_protocol::entry::{Act, Device, Entry, Genesis, Recover, RecoverTerms};
use karte_protocol::grant::{
    Bound, GrantError, OPENING_BYTES_MAX, Onward, Opened, Opening, Reader, Scope, Window, commitment,
    scope_hash,
};
use karte_protocol::id::{DeviceId, ObjectId, PartyId, RecordId, Salt, digest, hex};
use karte_protocol::identity::Head;
use karte_protocol::keys::SealingKey;
use karte_protocol::label::{Code, Effective, Group, Label, open_label, seal_label};
use karte_protocol::message::{Fetch, Frame, Hello, Request, Response, SegmentAndKeys, Want};
use karte_protocol::own::{OwnItem, ReceivedState, join_proof};
use karte_protocol::seal::{self, FileKey};
use karte_protocol::shelf::{Chain, Segment, Shelf, ShelfHead};
use karte_protocol::signed::{Signed, SignedError, Statement, Verified};
use karte_protocol::time::{DAY_MS, HOUR_MS};
use people::{NOW_MS, Writer, digest_of, id_of, log_of, recovery};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Vectors that must be refused and that the code still takes. Each is a fault; taking it off this list is part
/// of the repair.
const STILL_TAKEN: &[&str] = &[];

/// Vectors that are not made twice the same: they are written once and then kept.
const KEPT: &[&str] = &["sealed_label", "sealed_label_changed", "payload", "payload_truncated"];

/// One file: its header lines in order, and its bytes.
#[derive(Debug, Clone, PartialEq)]
struct Vector {
    headers: Vec<(String, String)>,
    bytes: Vec<u8>,
}

impl Vector {
    fn accept(kind: &str, id: Option<String>, comment: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let mut vector = Self {
            headers: vec![("expect".into(), "accept".into()), ("kind".into(), kind.into())],
            bytes: bytes.into(),
        };
        if let Some(id) = id {
            vector = vector.with("id", &id);
        }
        vector.with("comment", comment)
    }

    fn refuse(kind: &str, layer: &str, comment: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            headers: vec![("expect".into(), "refuse".into()), ("kind".into(), kind.into())],
            bytes: bytes.into(),
        }
        .with("layer", layer)
        .with("comment", comment)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name)?;
        Some(&found.1)
    }

    fn header(&self, name: &str) -> &str {
        self.get(name).unwrap_or_else(|| panic!("expected the header {name}"))
    }

    fn to_text(&self) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let digits = hex(&self.bytes);
        let lines: Vec<&str> = digits
            .as_bytes()
            .chunks(96)
            .map(|line| std::str::from_utf8(line).expect("hexadecimal"))
            .collect();
        format!("{headers}\n{}\n", lines.join("\n"))
    }

    fn from_text(text: &str) -> Self {
        let (headers, body) = text.split_once("\n\n").expect("a blank line");
        let headers = headers
            .lines()
            .map(|line| line.split_once(": ").expect("name: value"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self { headers, bytes: unhex(body) }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => panic!("expected lower-case hexadecimal"),
        })
        .collect();
    assert!(digits.len().is_multiple_of(2), "an even number of digits");
    digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
}

// --- reading

/// The id and what is else stated, or the layer that refused.
fn judge(vector: &Vector) -> Result<Option<String>, &'static str> {
    let bytes = &vector.bytes[..];
    match vector.header("kind") {
        "entry" => signed_id::<Entry>(bytes),
        "status" => signed_id::<Status>(bytes),
        "accept" => signed_id::<Accept>(bytes),
        "release" => signed_id::<Release>(bytes),
        "receipt" => signed_id::<Receipt>(bytes),
        "library" => signed_id::<Library>(bytes),
        "backup-list" => signed_id::<BackupList>(bytes),
        "segment" => signed_id::<Segment>(bytes),
        "shelf-head" => signed_id::<ShelfHead>(bytes),
        "label" => signed_id::<Label>(bytes),
        "card" => signed_id::<Card>(bytes),
        "opening" => {
            let opening: Opening = encoding::decode(bytes, OPENING_BYTES_MAX).map_err(encoding_layer)?;
            let open = opening.verify().map_err(grant_layer)?;
            Ok(Some(open.id().to_hex()))
        }
        "request" => Request::from_bytes(bytes).map(|_| None).map_err(encoding_layer),
        "response" => Response::from_bytes(bytes).map(|_| None).map_err(encoding_layer),
        "fetch" => Fetch::from_bytes(bytes).map(|_| None).map_err(encoding_layer),
        "frame" => Frame::from_bytes(bytes).map(|_| None).map_err(encoding_layer),
        "slice" => {
            let record: RecordId = vector.header("record").parse().expect("a record id");
            let number = |name| vector.header(name).parse::<u64>().expect("a number");
            let got = verify_slice(record, number("bytes"), number("offset"), bytes).map_err(|_| "slice")?;
            Ok(Some(digest(&got).to_hex()))
        }
        "sealed-label" => {
            let opened = open_label(bytes, &file_key(vector)).map_err(|_| "seal")?;
            Ok(Some(opened.label.id().to_hex()))
        }
        "payload" => {
            let mut plaintext = Vec::new();
            let mut reader = seal::open(bytes, &file_key(vector)).map_err(|_| "seal")?;
            std::io::Read::read_to_end(&mut reader, &mut plaintext).map_err(|_| "seal")?;
            assert_eq!(hex(&plaintext), vector.header("plaintext"));
            Ok(Some(digest(bytes).to_hex()))
        }
        other => panic!("unknown kind {other}"),
    }
}

fn file_key(vector: &Vector) -> FileKey {
    let bytes = unhex(vector.header("file-key"));
    FileKey::from_bytes(&bytes.try_into().expect("16 bytes"))
}

fn signed_id<T: Statement>(bytes: &[u8]) -> Result<Option<String>, &'static str> {
    match Signed::<T>::from_bytes(bytes).verify() {
        Ok(verified) => Ok(Some(verified.id().to_hex())),
        Err(error) => Err(signed_layer(&error)),
    }
}

fn signed_layer(error: &SignedError) -> &'static str {
    match error {
        SignedError::TooLarge(_) | SignedError::Bound(_) => "bounds",
        SignedError::NotCose(_) => "cose",
        SignedError::Encoding(error) => encoding_layer(error.clone()),
        SignedError::Kind { .. } | SignedError::Version(_) => "kind",
        SignedError::Signature => "signature",
    }
}

fn encoding_layer(error: EncodingError) -> &'static str {
    match error {
        EncodingError::TooLarge { .. } => "bounds",
        _ => "canonical",
    }
}

fn grant_layer(error: GrantError) -> &'static str {
    match error {
        GrantError::Encoding(error) => encoding_layer(error),
        GrantError::Signed(error) => signed_layer(&error),
        GrantError::NotGrant => "kind",
        GrantError::Commitment | GrantError::Scope => "commitment",
        GrantError::Bound(_) => "bounds",
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn held() -> BTreeMap<String, Vector> {
    std::fs::read_dir(folder())
        .expect("the folder is there")
        .map(|file| file.expect("is listed").path())
        .filter(|path| path.extension().is_none() && path.is_file())
        .map(|path| {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("text");
            (name, Vector::from_text(&text))
        })
        .collect()
}

#[test]
fn every_vector_is_taken_or_refused_as_it_says() {
    let held = held();
    assert!(held.len() > 80, "the folder holds {} vectors", held.len());
    for (name, vector) in held {
        let judged = judge(&vector);
        if STILL_TAKEN.contains(&name.as_str()) {
            assert!(judged.is_ok(), "{name} is refused now: take it off STILL_TAKEN");
            continue;
        }
        match vector.header("expect") {
            "accept" => {
                let id = judged.unwrap_or_else(|layer| panic!("{name} was refused in the layer {layer}"));
                assert_eq!(id.as_deref(), vector.get("id"), "the id of {name}");
            }
            "refuse" => assert_eq!(judged.err(), Some(vector.header("layer")), "{name}"),
            other => panic!("{name} expects {other}"),
        }
    }
}

// --- writing

#[test]
fn the_folder_holds_what_the_code_writes() {
    let mut made = made();
    let writing = std::env::var("KARTE_WRITE_VECTORS").as_deref() == Ok("1");
    if writing {
        for (name, vector) in &made {
            let path = folder().join(name);
            if !KEPT.contains(&name.as_str()) || !path.exists() {
                std::fs::write(path, vector.to_text()).expect("writes");
            }
        }
    }
    let mut held = held();
    made.retain(|name, _| !KEPT.contains(&name.as_str()));
    held.retain(|name, _| !KEPT.contains(&name.as_str()));
    let names = |vectors: &BTreeMap<String, Vector>| vectors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&held),
        names(&made),
        "run with KARTE_WRITE_VECTORS=1, and delete what is no longer made"
    );
    for (name, vector) in made {
        assert!(held.get(&name) == Some(&vector), "{name} is not what the code writes");
    }
}

fn made() -> BTreeMap<String, Vector> {
    let mut vectors = BTreeMap::new();
    let cast = Cast::new();
    objects(&cast, &mut vectors);
    openings(&cast, &mut vectors);
    messages(&cast, &mut vectors);
    envelopes(&cast, &mut vectors);
    payloads(&cast, &mut vectors);
    bounds(&cast, &mut vectors);
    sealed(&cast, &mut vectors);
    vectors
}

type Vectors = BTreeMap<String, Vector>;

fn put(vectors: &mut Vectors, name: &str, vector: Vector) {
    let before = vectors.insert(name.to_owned(), vector);
    assert!(before.is_none(), "two vectors are called {name}");
}

/// Aiko (phone, laptop) and a clinic (desk).
struct Cast {
    phone: Writer,
    desk: Writer,
    aiko: PartyId,
    clinic: PartyId,
    entries: Vec<(&'static str, &'static str, Verified<Entry>)>,
    scope: Scope,
    opened: Opened,
    granting: Verified<Entry>,
    salt: Salt,
    scope_salt: Salt,
}

fn salt(word: &str) -> Salt {
    Salt::from(*digest_of(word).as_bytes())
}

fn record(word: &str) -> RecordId {
    RecordId::from(*digest_of(word).as_bytes())
}

fn object(word: &str) -> ObjectId {
    ObjectId::from(*digest_of(word).as_bytes())
}

fn device(byte: u8) -> DeviceId {
    DeviceId::from([byte; 32])
}

impl Cast {
    fn new() -> Self {
        let words = recovery("Aiko's words");
        let (mut phone, mut laptop) = (Writer::named("Aiko's phone"), Writer::named("Aiko's laptop"));
        let mut desk = Writer::named("the clinic's desk");
        let clinic_begins = desk.begins(&[], 1);
        let clinic = log_of([&clinic_begins]).party();
        let genesis = phone.begins(&[&words], 1);
        let aiko = log_of([&genesis]).party();
        let adding = phone.adds(&mut laptop);
        let scope = Scope {
            kinds: vec!["fhir".into(), "daily/steps".into()],
            categories: vec!["laboratory".into()],
            codes: vec![Code { system: "http://loinc.org".into(), code: "2160-0".into() }],
            window: Some(Window {
                from: Some(Bound::Local(1_735_689_600_000)),
                until: Some(Bound::Instant(NOW_MS)),
            }),
            records: vec![],
        };
        let opened = Opened {
            reader: Reader::Party(clinic),
            subject: aiko,
            scope_hash: scope_hash(&salt("scope"), &scope).expect("encodes"),
            purpose: "TREAT".into(),
            basis: "consent".into(),
            not_before_ms: NOW_MS,
            not_after_ms: NOW_MS + 90 * DAY_MS,
            offline_ms: 7 * DAY_MS,
            onward: Onward::No,
            conditions: vec![],
        };
        let granting =
            phone.writes(Act::Grant { commitment: commitment(&salt("grant"), &opened).expect("encodes") });
        let revoking = phone.writes(Act::Revoke { grant: id_of(&granting), reason: "moved away".into() });
        let stewarding = phone.writes(Act::AddSteward { party: clinic, devices: vec![desk.key.device()] });
        let unstewarding = phone.writes(Act::RemoveSteward { party: clinic });
        let one = laptop.would_write(people::granting("one branch"));
        let other = laptop.grants("the other branch");
        let proving = phone.writes(Act::Fork {
            device: laptop.key.device(),
            one: one.bytes().to_vec(),
            other: other.bytes().to_vec(),
        });
        let removing = phone.removes(&laptop, 0);
        let recovering = recovering(aiko, &words);
        Self {
            entries: vec![
                ("entry_genesis", "a party begins; by has no party, the body no prev", genesis),
                ("entry_add_device", "a second device", adding),
                ("entry_grant", "a commitment; opening_whole opens it", granting.clone()),
                ("entry_revoke", "its end", revoking),
                ("entry_add_steward", "a steward with one device", stewarding),
                ("entry_remove_steward", "its end", unstewarding),
                ("entry_fork", "the two entries of one seq", proving),
                ("entry_remove_device", "the device that forked ends", removing),
                ("entry_recover", "generation 1, signed by the committed key", recovering),
            ],
            phone,
            desk,
            aiko,
            clinic,
            scope,
            opened,
            granting,
            salt: salt("grant"),
            scope_salt: salt("scope"),
        }
    }

    fn genesis(&self) -> &Verified<Entry> {
        &self.entries[0].2
    }

    fn opening(&self) -> Opening {
        Opening {
            entry: self.granting.bytes().to_vec(),
            salt: self.salt,
            opened: self.opened.clone(),
            scope_salt: Some(self.scope_salt),
            scope: Some(self.scope.clone()),
        }
    }

    fn status(&self) -> Status {
        Status {
            of: self.aiko,
            r#gen: 0,
            heads: vec![Head { device: self.phone.key.device(), seq: 2, id: self.granting.id().into() }],
            identity: digest_of("identity"),
            issued_ms: NOW_MS,
            lease_ms: HOUR_MS,
        }
    }

    fn accept(&self) -> Accept {
        Accept {
            grant: id_of(&self.granting),
            reader: self.clinic,
            n: 1,
            recipient: Writer::named("the clinic's reading key").sealing.recipient(),
        }
    }

    fn release(&self) -> Release {
        Release {
            grant: id_of(&self.granting),
            accept: object("accept"),
            to: self.phone.key.device(),
            purpose: "TREAT".into(),
            staff: "Dr. Sato".into(),
            since: 0,
            nonce: salt("nonce"),
            at_ms: NOW_MS,
        }
    }

    fn receipt(&self) -> Receipt {
        Receipt {
            grant: id_of(&self.granting),
            accept: object("accept"),
            what: Deed::Opened,
            records: vec![record("one")],
            staff: "Dr. Sato".into(),
            purpose: "TREAT".into(),
            at_ms: NOW_MS,
            seq: 1,
            prev: Some(object("receipt before")),
        }
    }

    fn segment(&self) -> Segment {
        Segment {
            shelf: Shelf::Granted { grant: id_of(&self.granting), accept: object("accept") },
            seq: 1,
            prev: Some(object("segment before")),
            records: vec![record("one"), record("two")],
            withdrawn: vec![record("zero")],
            keys_hash: digest_of("keys"),
        }
    }

    fn shelf_head(&self) -> ShelfHead {
        ShelfHead {
            grant: id_of(&self.granting),
            accept: object("accept"),
            chains: vec![Chain {
                device: self.phone.key.device(),
                segments: 2,
                last: Some(object("segment")),
            }],
            issued_ms: NOW_MS,
        }
    }

    fn label(&self) -> Label {
        Label {
            subject: self.aiko,
            kind: "fhir/Observation".into(),
            categories: vec!["laboratory".into()],
            codes: vec![Code { system: "http://loinc.org".into(), code: "2160-0".into() }],
            effective: Some(Effective { start_ms: NOW_MS, end_ms: NOW_MS, offset_min: -300 }),
            title: "Creatinine 0.9 mg/dL (クレアチニン)".into(),
            media_type: "application/fhir+json".into(),
            bytes: 20,
            hash: digest(b"creatinine 62 umol/L"),
            full_url: Some("urn:uuid:9e5ed7ab-4c4b-4c8e-8d1f-0a3d1a1e6f10".into()),
            source_id: Some("Observation/1".into()),
            profiles: vec!["http://hl7.org/fhir/StructureDefinition/bodyweight".into()],
            replaces: vec![record("draft")],
            derived_from: vec![record("original")],
            sensitivity: vec!["R".into()],
            urgency: Some("routine".into()),
            group: Some(Group {
                study: "1.2.3".into(),
                series: Some("1.2.3.4".into()),
                instance: Some("1.2.3.4.5".into()),
                position: Some(0),
            }),
            case: Some(digest_of("case")),
        }
    }

    /// Every field that may be absent is.
    fn short_label(&self) -> Label {
        Label {
            categories: vec![],
            codes: vec![],
            effective: None,
            full_url: None,
            source_id: None,
            profiles: vec![],
            replaces: vec![],
            derived_from: vec![],
            sensitivity: vec![],
            urgency: None,
            group: None,
            case: None,
            ..self.label()
        }
    }

    fn card(&self) -> Card {
        Card {
            name: "Aiko Tanaka".into(),
            kind: "patient".into(),
            addresses: vec!["/ip4/192.0.2.1/udp/4001/quic-v1".into()],
            identity: vec![ByteBuf::from(self.genesis().bytes())],
            at_ms: NOW_MS,
        }
    }

    fn library(&self) -> Library {
        Library {
            n: 1,
            recipient: Writer::named("Aiko's library").sealing.recipient(),
            wraps: b"in place of an age file".to_vec(),
        }
    }

    fn entry(&self, act: Act) -> Entry {
        Entry { seq: 1, prev: Some(self.genesis().id().into()), at_ms: NOW_MS, act }
    }

    /// Signed by Aiko's phone, without the checks that refuse it: for what must be refused.
    fn unchecked<T: Statement>(&self, body: &T) -> Vec<u8> {
        cose(&self.phone, &payload_of(&self.phone, T::KIND, tree(body)).bytes())
    }
}

fn recovering(party: PartyId, words: &karte_protocol::keys::RecoverySeed) -> Verified<Entry> {
    let mut phone = Writer::named("Aiko's new phone");
    phone.party = Some(party);
    phone.generation = 1;
    let terms = RecoverTerms {
        party,
        r#gen: 1,
        devices: vec![phone.device()],
        next_recovery: vec![recovery("Aiko's next words").commitment()],
        threshold: 1,
    };
    let key = ed25519_dalek::SigningKey::from_bytes(&words.signing_key().expose_seed());
    let signature = key.sign(&encoding::encode(&terms).expect("encodes")).to_bytes();
    phone.writes(Act::Recover(Recover {
        terms,
        reveals: vec![words.signing_key().device()],
        signatures: vec![ByteBuf::from(signature)],
    }))
}

/// One vector of every kind that is signed.
fn objects(cast: &Cast, vectors: &mut Vectors) {
    for (name, comment, entry) in &cast.entries {
        put(vectors, name, Vector::accept("entry", Some(entry.id().to_hex()), comment, entry.bytes()));
    }
    accepted(vectors, "status", "a lease of an hour", &cast.phone, cast.status());
    accepted(vectors, "accept", "by the reader's device", &cast.desk, cast.accept());
    accepted(vectors, "release", "by the reader's device", &cast.desk, cast.release());
    accepted(vectors, "receipt", "the second of its chain", &cast.desk, cast.receipt());
    let mut first = cast.receipt();
    (first.seq, first.prev, first.what) = (0, None, Deed::Stopped);
    first.records.clear();
    accepted(vectors, "receipt_first", "without records, without prev", &cast.desk, first);
    accepted(vectors, "segment", "of a granted shelf", &cast.phone, cast.segment());
    let own = Segment {
        shelf: Shelf::Own { library: 1 },
        seq: 0,
        prev: None,
        records: vec![record("one")],
        withdrawn: vec![],
        keys_hash: digest_of("keys"),
    };
    accepted(vectors, "segment_own", "the first of the own shelf", &cast.phone, own);
    accepted(vectors, "shelf_head", "one chain of two segments", &cast.phone, cast.shelf_head());
    accepted(vectors, "label", "every field is there", &cast.phone, cast.label());
    accepted(vectors, "label_short", "every field that may be absent is", &cast.phone, cast.short_label());
    accepted(vectors, "card", "with a Genesis and one address", &cast.phone, cast.card());
    accepted(
        vectors,
        "library",
        "wraps are any bytes here; in use, an age file",
        &cast.phone,
        cast.library(),
    );
    let list = BackupList {
        part: 2,
        prev: Some(object("list 1")),
        list: digest_of("list"),
        at_ms: 1_780_000_000_000,
    };
    accepted(vectors, "backup_list", "the second part of a backup", &cast.phone, list);
}

fn accepted<T: Statement>(vectors: &mut Vectors, name: &str, comment: &str, signer: &Writer, body: T) {
    let signed = Verified::sign(body, signer.by(), &signer.key).expect("signs");
    put(vectors, name, Vector::accept(T::KIND, Some(signed.id().to_hex()), comment, signed.bytes()));
}

fn openings(cast: &Cast, vectors: &mut Vectors) {
    let grant = id_of(&cast.granting).to_hex();
    let bytes = |opening: &Opening| encoding::encode(opening).expect("encodes");
    let changed = |change: &dyn Fn(&mut Opening)| {
        let mut opening = cast.opening();
        change(&mut opening);
        bytes(&opening)
    };
    let whole =
        Vector::accept("opening", Some(grant.clone()), "as the reader gets it", bytes(&cast.opening()));
    put(vectors, "opening_whole", whole);
    let stewards = changed(&|opening| (opening.scope, opening.scope_salt) = (None, None));
    let stewards =
        Vector::accept("opening", Some(grant), "as a steward gets it: without scope and its salt", stewards);
    put(vectors, "opening_of_a_steward", stewards);

    let mut refuse = |name: &str, layer: &str, comment: &str, change: &dyn Fn(&mut Opening)| {
        put(vectors, name, Vector::refuse("opening", layer, comment, changed(change)));
    };
    refuse("opening_another_salt", "commitment", "the salt is not the one signed", &|opening| {
        opening.salt = salt("another");
    });
    refuse("opening_another_purpose", "commitment", "the grant is not the one signed", &|opening| {
        opening.opened.purpose = "HRESCH".into();
    });
    refuse("opening_another_reader", "commitment", "the reader is not the one signed", &|opening| {
        opening.opened.reader = Reader::Party(cast.aiko);
    });
    refuse("opening_another_scope", "commitment", "the scope is wider than the one signed", &|opening| {
        opening.scope.as_mut().expect("a scope").codes.clear();
    });
    refuse(
        "opening_another_scope_salt",
        "commitment",
        "the scope's salt is not the one signed",
        &|opening| {
            opening.scope_salt = Some(salt("another"));
        },
    );
    refuse(
        "opening_scope_without_its_salt",
        "commitment",
        "a scope that nothing binds to the grant",
        &|opening| {
            opening.scope_salt = None;
            opening.scope.as_mut().expect("a scope").codes.clear();
        },
    );
    refuse("opening_of_no_grant", "kind", "the entry is a Genesis", &|opening| {
        opening.entry = cast.genesis().bytes().to_vec();
    });
    refuse("opening_entry_signature_flipped", "signature", "the entry is not signed", &|opening| {
        *opening.entry.last_mut().expect("bytes") ^= 1;
    });

    let mut bound = |name: &str, comment: &str, change: &dyn Fn(&mut Opened, &mut Scope)| {
        let (mut opened, mut scope) = (cast.opened.clone(), cast.scope.clone());
        change(&mut opened, &mut scope);
        opened.scope_hash = scope_hash(&cast.scope_salt, &scope).expect("encodes");
        let commitment = commitment(&cast.salt, &opened).expect("encodes");
        let entry = Verified::sign(cast.entry(Act::Grant { commitment }), cast.phone.by(), &cast.phone.key);
        let opening = Opening {
            entry: entry.expect("signs").bytes().to_vec(),
            salt: cast.salt,
            opened,
            scope_salt: Some(cast.scope_salt),
            scope: Some(scope),
        };
        put(vectors, name, Vector::refuse("opening", "bounds", comment, bytes(&opening)));
    };
    bound("opening_over_366_days", "one millisecond over 366 days", &|opened, _| {
        opened.not_after_ms = opened.not_before_ms + 366 * DAY_MS + 1;
    });
    bound("opening_ends_before_it_begins", "it ends when it begins", &|opened, _| {
        opened.not_after_ms = opened.not_before_ms;
    });
    bound("opening_offline_negative", "the offline limit is -1", &|opened, _| opened.offline_ms = -1);
    bound("opening_purpose_empty", "no purpose", &|opened, _| opened.purpose.clear());
    bound("opening_basis_too_long", "a basis of 61 bytes", &|opened, _| opened.basis = "x".repeat(61));
    bound("opening_scope_empty", "a scope that names neither kinds nor records", &|_, scope| {
        scope.kinds.clear()
    });
    bound("opening_scope_list_too_long", "501 categories", &|_, scope| {
        scope.categories = vec!["x".into(); 501];
    });

    let mut refuse_tree = |name: &str, comment: &str, path: &[&str], value: Cbor| {
        let mut tree = tree(&cast.opening());
        *tree.at(path) = value;
        put(vectors, name, Vector::refuse("opening", "canonical", comment, tree.bytes()));
    };
    refuse_tree(
        "opening_reader_of_unknown_type",
        "a reader that is a role, which version 1 does not know",
        &["opened", "reader"],
        Cbor::map([("role", Cbor::text("stroke on call"))]),
    );
    refuse_tree(
        "opening_onward_unknown",
        "a permission that version 1 does not know",
        &["opened", "onward"],
        Cbor::text("publish"),
    );
}

/// One vector of every message.
fn messages(cast: &Cast, vectors: &mut Vectors) {
    let bytes = |word: &str| ByteBuf::from(word.as_bytes());
    let hello = || Hello { card: bytes("a signed Card"), status: bytes("a signed Status") };
    let (of, grant) = (cast.aiko, id_of(&cast.granting));
    let have = cast.status().heads;
    let requests = [
        ("hello", Request::Hello(hello())),
        ("entries", Request::Entries { of, entries: vec![bytes("a signed Entry")] }),
        ("log", Request::Log { of, have }),
        ("status", Request::Status { status: bytes("a signed Status") }),
        ("offer", Request::Offer { grant, opening: bytes("an age file") }),
        ("accept", Request::Accept { accept: bytes("a signed Accept") }),
        ("release", Request::Release { release: bytes("a signed Release") }),
        ("segments", Request::Segments { grant, from: 2 }),
        ("news", Request::News { grant, head: bytes("a signed ShelfHead") }),
        ("receipts", Request::Receipts { receipts: vec![bytes("a signed Receipt")] }),
        ("join", join_request()),
        ("own", Request::Own { from: 7, there: 3 }),
    ];
    for (name, request) in requests {
        let bytes = request.to_bytes().expect("encodes");
        put(
            vectors,
            &format!("request_{name}"),
            Vector::accept("request", None, "signed bytes are placeholders", bytes),
        );
    }
    let segments = vec![SegmentAndKeys { segment: bytes("a signed Segment"), keys: bytes("an age file") }];
    let responses = [
        ("hello", Response::Hello(hello())),
        ("done", Response::Done),
        ("entries", Response::Entries { entries: vec![bytes("a signed Entry")], more: true }),
        (
            "session",
            Response::Session { status: bytes("a signed Status"), head: bytes("a signed ShelfHead") },
        ),
        ("segments", Response::Segments { segments }),
        ("joined", joined()),
        ("own", Response::Own { items: own_items(cast), next: 9, there: 12 }),
        ("denied", Response::Denied),
    ];
    for (name, response) in responses {
        let bytes = response.to_bytes().expect("encodes");
        put(
            vectors,
            &format!("response_{name}"),
            Vector::accept("response", None, "signed bytes are placeholders", bytes),
        );
    }
    let fetch = Fetch {
        grant,
        accept: object("accept"),
        wants: vec![Want { record: record("one"), from: 1 << 20, label: true }],
        back: false,
    };
    let back = Fetch { back: true, ..fetch.clone() }.to_bytes().expect("encodes");
    let fetch = fetch.to_bytes().expect("encodes");
    put(vectors, "fetch", Vector::accept("fetch", None, "one record from its second MiB on", fetch));
    put(vectors, "fetch_back", Vector::accept("fetch", None, "the same, asked back by the holder", back));
    let frames = [
        ("label", Frame::Label { record: record("one"), label: bytes("a sealed label") }),
        (
            "slice",
            Frame::Slice { record: record("one"), offset: 1 << 20, slice: bytes("tree nodes and bytes") },
        ),
        ("missing", Frame::Missing { record: record("one") }),
        ("end", Frame::End),
        ("denied", Frame::Denied),
    ];
    for (name, frame) in frames {
        let bytes = frame.to_bytes().expect("encodes");
        put(
            vectors,
            &format!("frame_{name}"),
            Vector::accept("frame", None, "sealed bytes are placeholders", bytes),
        );
    }
    let refuse =
        |kind: &str, layer: &str, comment: &str, bytes: Vec<u8>| Vector::refuse(kind, layer, comment, bytes);
    let unknown = Cbor::map([("gossip", Cbor::map([]))]).bytes();
    put(vectors, "request_unknown", refuse("request", "canonical", "a request of a later version", unknown));
    let denied = [Response::Denied.to_bytes().expect("encodes"), vec![0]].concat();
    put(
        vectors,
        "response_trailing_byte",
        refuse("response", "canonical", "a byte after the message", denied),
    );
    let both = Cbor::map([("denied", Cbor::Null)]).bytes();
    put(
        vectors,
        "response_denied_as_map",
        refuse("response", "canonical", "denied is a text, not a map", both),
    );
    let large = Request::Status { status: ByteBuf::from(vec![0; 1024 * 1024]) };
    let error = large.to_bytes().expect_err("a megabyte and a little");
    assert!(matches!(error, EncodingError::TooLarge { .. }), "one does not write what others refuse");
}

/// A device that asks to join under the secret `07…07`.
fn join_request() -> Request {
    let keys = SealingKey::from_seed(&[4; 32]);
    let device = Device { device: device(3), recipients: vec![keys.recipient()] };
    let proof = join_proof(&[7; 32], &device).expect("encodes").into();
    Request::Join { device, proof }
}

fn joined() -> Response {
    let entries =
        vec![ByteBuf::from(b"a signed Genesis".as_slice()), ByteBuf::from(b"a signed AddDevice".as_slice())];
    let recovery = vec![SealingKey::from_seed(&[5; 32]).recipient()];
    Response::Joined { entries, library: ByteBuf::from(b"a signed Library".as_slice()), recovery }
}

/// One of each.
fn own_items(cast: &Cast) -> Vec<OwnItem> {
    let bytes = |word: &str| ByteBuf::from(word.as_bytes());
    let opening = cast.opening();
    vec![
        OwnItem::Library { library: bytes("a signed Library"), recovery: vec![] },
        OwnItem::Contact {
            party: cast.aiko,
            card: Some(bytes("a signed Card")),
            alias: "sakura".into(),
            at_ms: NOW_MS,
        },
        OwnItem::Contact { party: cast.aiko, card: None, alias: String::new(), at_ms: NOW_MS },
        OwnItem::Given {
            opening: opening.clone(),
            exclude: vec!["HIV".into()],
            accept: Some(bytes("a signed Accept")),
            delivered: true,
            at_ms: NOW_MS,
        },
        OwnItem::Received {
            opening,
            state: ReceivedState::Accepted,
            accept: Some(bytes("a signed Accept")),
            key: Some(bytes("an age file")),
            adopt: false,
            ended: String::new(),
            at_ms: NOW_MS,
        },
        OwnItem::Segment { segment: bytes("a signed Segment"), keys: bytes("an age file") },
        OwnItem::Release { release: bytes("a signed Release") },
        OwnItem::Receipt { receipt: bytes("a signed Receipt") },
    ]
}

/// What is wrong around the payload.
fn envelopes(cast: &Cast, vectors: &mut Vectors) {
    let good = cast.granting.bytes().to_vec();
    let payload = payload_of_bytes(&good);
    let signature = good[good.len() - 64..].to_vec();
    let parts = |protected: &[u8], unprotected: &[u8], payload: &[u8], signature: &[u8]| {
        [&[0xd2, 0x84], protected, unprotected, payload, signature].concat()
    };
    let (protected, empty) = ([0x43, 0xa1, 0x01, 0x27], [0xa0]);
    let signed = Cbor::Bytes(signature.clone()).bytes();
    let body = Cbor::Bytes(payload.clone()).bytes();
    assert_eq!(
        parts(&protected, &empty, &body, &signed),
        good,
        "the envelope is what the specification says"
    );
    assert_eq!(cose(&cast.phone, &payload), good, "and so are the bytes that are signed");

    let mut refuse = |name: &str, layer: &str, comment: &str, bytes: Vec<u8>| {
        put(vectors, name, Vector::refuse("entry", layer, comment, bytes));
    };
    let first = |byte: u8| [&[byte], &good[1..]].concat();
    refuse("cose_wrong_tag", "cose", "tag 17 (COSE_Mac0) in place of 18", first(0xd1));
    refuse("cose_no_tag", "cose", "an untagged COSE_Sign1", good[1..].to_vec());
    refuse("cose_tag_not_shortest", "cose", "tag 18 in two bytes", [&[0xd8, 0x12], &good[1..]].concat());
    refuse("cose_three_parts", "cose", "no signature", [&[0xd2, 0x83], &good[2..good.len() - 66]].concat());
    let kid = [0xa1, 0x04, 0x41, 0x31];
    refuse(
        "cose_unprotected_header",
        "cose",
        "a key id outside the signature",
        parts(&protected, &kid, &body, &signed),
    );
    let es256 = [0x43, 0xa1, 0x01, 0x26];
    refuse("cose_other_algorithm", "cose", "alg is -7", parts(&es256, &empty, &body, &signed));
    let two = [0x46, 0xa2, 0x01, 0x27, 0x04, 0x41, 0x31];
    refuse(
        "cose_two_protected_headers",
        "cose",
        "a key id inside the signature",
        parts(&two, &empty, &body, &signed),
    );
    refuse("cose_empty_protected_header", "cose", "no alg", parts(&[0x40], &empty, &body, &signed));
    let indefinite = [&[0x5f][..], &body, &[0xff]].concat();
    refuse(
        "cose_payload_indefinite_length",
        "cose",
        "the payload in pieces",
        parts(&protected, &empty, &indefinite, &signed),
    );
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let long = [&[0x5a][..], &length, &payload].concat();
    refuse(
        "cose_length_not_shortest",
        "cose",
        "the payload's length in four bytes",
        parts(&protected, &empty, &long, &signed),
    );
    refuse(
        "cose_payload_detached",
        "cose",
        "the payload is null",
        parts(&protected, &empty, &[0xf6], &signed),
    );
    let short = Cbor::Bytes(signature[..63].to_vec()).bytes();
    refuse("cose_signature_short", "cose", "63 bytes", parts(&protected, &empty, &body, &short));
    refuse("cose_trailing_byte", "cose", "a byte after the object", [&good[..], &[0]].concat());
    refuse("cose_truncated", "cose", "the last byte is missing", good[..good.len() - 1].to_vec());
    refuse("cose_empty", "cose", "no byte at all", vec![]);

    let resigned =
        |signature: &[u8]| parts(&protected, &empty, &body, &Cbor::Bytes(signature.to_vec()).bytes());
    let mut flipped = signature.clone();
    flipped[0] ^= 1;
    refuse("signature_bit_flipped", "signature", "one bit of R", resigned(&flipped));
    let high = [&signature[..32], &plus_order(&signature[32..])].concat();
    refuse(
        "signature_s_not_reduced",
        "signature",
        "S plus the order of the group (RFC 8032 5.1.7)",
        resigned(&high),
    );
    let stranger = cose(&cast.desk, &payload);
    refuse(
        "signature_of_another_device",
        "signature",
        "good, but of a device the payload does not name",
        stranger,
    );
    let sig_of_payload = ed25519_dalek::SigningKey::from_bytes(&cast.phone.key.expose_seed()).sign(&payload);
    let bare = resigned(&sig_of_payload.to_bytes());
    refuse("signature_over_the_payload_alone", "signature", "not over the Sig_structure", bare);
    let mut tree = payload_of(&cast.phone, "entry", tree(&*cast.granting));
    let identity = [&[1][..], &[0; 31]].concat();
    *tree.at(&["by", "device"]) = Cbor::Bytes(identity.clone());
    let weak = Cbor::Bytes([&identity[..], &[0; 32]].concat()).bytes();
    let weak = parts(&protected, &empty, &Cbor::Bytes(tree.bytes()).bytes(), &weak);
    refuse("signature_of_a_small_order_key", "signature", "the neutral point signs everything", weak);
}

/// The bytes with the order of ed25519's group added: the same number to a lenient verifier.
fn plus_order(s: &[u8]) -> Vec<u8> {
    let order = unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut carry = 0;
    let sum = s.iter().zip(&order).map(|(a, b)| {
        let sum = u16::from(*a) + u16::from(*b) + carry;
        carry = sum >> 8;
        sum.to_le_bytes()[0]
    });
    sum.collect()
}

/// What is wrong inside the payload; every one is signed well.
fn payloads(cast: &Cast, vectors: &mut Vectors) {
    let good = || payload_of(&cast.phone, "entry", tree(&*cast.granting));
    assert_eq!(good().bytes(), payload_of_bytes(cast.granting.bytes()), "the tree is the payload");
    let mut refuse = |name: &str, layer: &str, comment: &str, payload: Vec<u8>| {
        put(vectors, name, Vector::refuse("entry", layer, comment, cose(&cast.phone, &payload)));
    };
    let changed = |path: &[&str], value: Cbor| {
        let mut tree = good();
        *tree.at(path) = value;
        tree.bytes()
    };
    let with = |path: &[&str], name: &str, value: Cbor| {
        let mut tree = good();
        tree.at(path).insert(name, value);
        tree.bytes()
    };
    refuse("payload_version_2", "kind", "a later version", changed(&["version"], Cbor::Uint(2)));
    refuse(
        "payload_kind_unknown",
        "kind",
        "a kind that version 1 does not have",
        changed(&["kind"], Cbor::text("note")),
    );
    let accept = payload_of(&cast.phone, "accept", tree(&cast.accept())).bytes();
    refuse("payload_kind_taken_for_another", "kind", "a good Accept where an entry belongs", accept);
    let relabelled = payload_of(&cast.phone, "entry", tree(&cast.accept())).bytes();
    refuse("payload_body_of_another_kind", "canonical", "an Accept that calls itself an entry", relabelled);
    refuse("payload_field_unknown", "canonical", "a fifth field", with(&[], "note", Cbor::text("x")));
    refuse(
        "payload_field_unknown_in_by",
        "canonical",
        "a fourth field of by",
        with(&["by"], "role", Cbor::text("x")),
    );
    refuse(
        "payload_field_unknown_in_body",
        "canonical",
        "a fifth field of the entry",
        with(&["body"], "note", Cbor::Uint(1)),
    );
    refuse(
        "payload_field_unknown_in_act",
        "canonical",
        "a second field of the grant",
        with(&["body", "act", "grant"], "note", Cbor::Uint(1)),
    );
    refuse(
        "payload_act_unknown",
        "canonical",
        "an act of a later version",
        changed(&["body", "act"], Cbor::map([("lend", Cbor::map([]))])),
    );
    refuse(
        "payload_two_acts",
        "canonical",
        "an act with two keys",
        with(&["body", "act"], "genesis", Cbor::map([])),
    );
    let mut missing = good();
    missing.at(&["body"]).remove("at_ms");
    refuse("payload_field_missing", "canonical", "no at_ms", missing.bytes());
    refuse("payload_null_for_absent", "canonical", "prev is null", changed(&["body", "prev"], Cbor::Null));
    let mut reversed = good();
    reversed.at(&["by"]).reverse();
    refuse(
        "payload_keys_out_of_order",
        "canonical",
        "by with its keys the other way round",
        reversed.bytes(),
    );
    let mut alphabetic = good();
    alphabetic.sort_alphabetically();
    refuse(
        "payload_keys_in_alphabetic_order",
        "canonical",
        "keys sorted by letter and not by length first",
        alphabetic.bytes(),
    );
    let mut twice = good();
    twice.at(&["by"]).repeat("gen");
    refuse("payload_key_twice", "canonical", "gen twice", twice.bytes());
    refuse(
        "payload_integer_not_shortest",
        "canonical",
        "version 1 in two bytes",
        changed(&["version"], Cbor::Raw(vec![0x18, 1])),
    );
    let text = [&[0x78, 5][..], b"entry"].concat();
    refuse(
        "payload_text_length_not_shortest",
        "canonical",
        "the length of kind in two bytes",
        changed(&["kind"], Cbor::Raw(text)),
    );
    let pieces = [&[0x7f, 0x65][..], b"entry", &[0xff]].concat();
    refuse(
        "payload_text_indefinite_length",
        "canonical",
        "kind in pieces",
        changed(&["kind"], Cbor::Raw(pieces)),
    );
    let by = good().at(&["by"]).bytes();
    let open = [&[0xbf], &by[1..], &[0xff]].concat();
    refuse(
        "payload_map_indefinite_length",
        "canonical",
        "by without a count",
        changed(&["by"], Cbor::Raw(open)),
    );
    let float = [&[0xfb][..], &1.0f64.to_be_bytes()].concat();
    refuse("payload_float", "canonical", "seq is 1.0", changed(&["body", "seq"], Cbor::Raw(float)));
    refuse(
        "payload_integer_negative",
        "canonical",
        "seq is -1",
        changed(&["body", "seq"], Cbor::Raw(vec![0x20])),
    );
    refuse(
        "payload_integer_too_large",
        "canonical",
        "at_ms is 2^63",
        changed(&["body", "at_ms"], Cbor::Uint(1 << 63)),
    );
    let short = Cbor::Bytes(vec![7; 31]);
    refuse(
        "payload_hash_short",
        "canonical",
        "a commitment of 31 bytes",
        changed(&["body", "act", "grant", "commitment"], short),
    );
    let text = Cbor::text(&digest_of("commitment").to_hex());
    refuse(
        "payload_hash_as_text",
        "canonical",
        "a commitment in hexadecimal",
        changed(&["body", "act", "grant", "commitment"], text),
    );
    let array = Cbor::Array(vec![Cbor::Uint(7); 32]);
    refuse(
        "payload_hash_as_array",
        "canonical",
        "a commitment as 32 numbers",
        changed(&["body", "act", "grant", "commitment"], array),
    );
    let tagged = [&[0xd8, 42][..], &Cbor::Bytes(vec![7; 32]).bytes()].concat();
    refuse(
        "payload_tagged",
        "canonical",
        "a commitment under tag 42",
        changed(&["body", "act", "grant", "commitment"], Cbor::Raw(tagged)),
    );
    refuse(
        "payload_text_not_utf8",
        "canonical",
        "kind is not UTF-8",
        changed(&["kind"], Cbor::Raw(vec![0x61, 0xff])),
    );
    refuse("payload_trailing_byte", "canonical", "a byte after the map", [good().bytes(), vec![0]].concat());
    refuse("payload_empty", "canonical", "no byte at all", vec![]);
    refuse("payload_is_no_map", "canonical", "an array", Cbor::Array(vec![Cbor::Uint(1)]).bytes());
    let deep = [vec![0x81; 30_000], vec![0]].concat();
    refuse(
        "payload_nested_deep",
        "canonical",
        "30,000 arrays in one another",
        with(&[], "x", Cbor::Raw(deep)),
    );
}

/// One value over each bound.
fn bounds(cast: &Cast, vectors: &mut Vectors) {
    let oversized = cast.entry(Act::Fork { device: device(1), one: vec![0; 64 * 1024], other: vec![] });
    bound(vectors, cast, "bounds_object_too_large", "over 64 KiB", oversized);
    let genesis = |devices: Vec<Device>| {
        Act::Genesis(Genesis { salt: salt("genesis"), devices, next_recovery: vec![], threshold: 1 })
    };
    bound(vectors, cast, "bounds_genesis_no_device", "no device", cast.entry(genesis(vec![])));
    let many = vec![cast.phone.device(); 65];
    bound(vectors, cast, "bounds_genesis_65_devices", "65 devices", cast.entry(genesis(many)));
    let with_recipients = |count: usize| {
        cast.entry(Act::AddDevice(Device {
            device: device(1),
            recipients: vec![cast.phone.sealing.recipient(); count],
        }))
    };
    bound(vectors, cast, "bounds_device_no_recipient", "nobody to seal to", with_recipients(0));
    bound(vectors, cast, "bounds_device_9_recipients", "9 recipients", with_recipients(9));
    let steward = cast.entry(Act::AddSteward { party: cast.clinic, devices: vec![device(1); 65] });
    bound(vectors, cast, "bounds_steward_65_devices", "65 devices", steward);
    let reason = cast.entry(Act::Revoke { grant: id_of(&cast.granting), reason: "x".repeat(501) });
    bound(vectors, cast, "bounds_revoke_reason", "a reason of 501 bytes", reason);
    let status = |change: &dyn Fn(&mut Status)| {
        let mut status = cast.status();
        change(&mut status);
        status
    };
    bound(vectors, cast, "bounds_status_lease_zero", "a lease of 0", status(&|status| status.lease_ms = 0));
    bound(
        vectors,
        cast,
        "bounds_status_lease_long",
        "24 hours and 1 ms",
        status(&|status| status.lease_ms = DAY_MS + 1),
    );
    bound(
        vectors,
        cast,
        "bounds_status_65_heads",
        "65 heads",
        status(&|status| {
            status.heads = vec![status.heads[0].clone(); 65];
        }),
    );
    let mut release = cast.release();
    release.staff = "x".repeat(501);
    bound(vectors, cast, "bounds_release_staff", "501 bytes of staff", release);
    let mut receipt = cast.receipt();
    receipt.records = vec![record("one"); 1_001];
    bound(vectors, cast, "bounds_receipt_1001_records", "1,001 records", receipt);
    let mut segment = cast.segment();
    segment.records = vec![record("one"); 1_000];
    bound(vectors, cast, "bounds_segment_1001_records", "1,000 records and one withdrawn", segment);
    let mut head = cast.shelf_head();
    head.chains = vec![head.chains[0].clone(); 65];
    bound(vectors, cast, "bounds_shelf_head_65_chains", "65 chains", head);
    let label = |change: &dyn Fn(&mut Label)| {
        let mut label = cast.short_label();
        change(&mut label);
        label
    };
    bound(vectors, cast, "bounds_label_kind_empty", "no kind", label(&|label| label.kind.clear()));
    bound(vectors, cast, "bounds_label_title", "201 bytes", label(&|label| label.title = "x".repeat(201)));
    bound(
        vectors,
        cast,
        "bounds_label_501_categories",
        "501 categories",
        label(&|label| {
            label.categories = vec!["x".into(); 501];
        }),
    );
    let card = |change: &dyn Fn(&mut Card)| {
        let mut card = cast.card();
        change(&mut card);
        card
    };
    bound(vectors, cast, "bounds_card_name_empty", "no name", card(&|card| card.name.clear()));
    bound(
        vectors,
        cast,
        "bounds_card_name_control",
        "an escape in the name",
        card(&|card| card.name = "a\u{1b}[2J".into()),
    );
    bound(
        vectors,
        cast,
        "bounds_card_kind",
        "a kind of its own",
        card(&|card| card.kind = "hospital".into()),
    );
    bound(
        vectors,
        cast,
        "bounds_card_9_addresses",
        "9 addresses",
        card(&|card| card.addresses = vec!["/ip4/192.0.2.1".into(); 9]),
    );
    bound(
        vectors,
        cast,
        "bounds_card_address",
        "an address of 301 bytes",
        card(&|card| card.addresses = vec!["x".repeat(301)]),
    );
}

fn bound<T: Statement>(vectors: &mut Vectors, cast: &Cast, name: &str, comment: &str, body: T) {
    put(vectors, name, Vector::refuse(T::KIND, "bounds", comment, cast.unchecked(&body)));
}

/// Slices, payloads and sealed labels.
fn sealed(cast: &Cast, vectors: &mut Vectors) {
    let payload: Vec<u8> = (0..=250u8).cycle().take(16 * 1024 + 1).collect();
    let id: RecordId = blake3::hash(&payload).into();
    let tree = Tree::of(id, payload.len() as u64, &payload[..]).expect("hashes");
    let slice = tree.slice(0, &payload[..]).expect("encodes");
    assert_eq!(slice.len(), 64 + payload.len(), "one tree node, then two chunk groups");
    let mib = 1 << 20;
    let large: Vec<u8> = (0..=250u8).cycle().take(4 * mib).collect();
    let large_tree = Tree::of(blake3::hash(&large).into(), 4 << 20, &large[..]).expect("hashes");
    let full = large_tree.slice(1 << 20, &large[..]).expect("encodes");
    assert_eq!(full.len(), mib + 63 * 64 + 2 * 64, "63 nodes of its own and two levels above");
    let described = |vector: Vector, offset: u64| {
        vector
            .with("record", &id.to_hex())
            .with("bytes", &payload.len().to_string())
            .with("offset", &offset.to_string())
    };
    let accept = Vector::accept(
        "slice",
        Some(digest(&payload).to_hex()),
        "two chunk groups; the id is that of the bytes",
        slice.clone(),
    );
    put(vectors, "slice", described(accept, 0));
    let mut wrong = slice.clone();
    wrong[63] ^= 1;
    put(
        vectors,
        "slice_wrong_node",
        described(Vector::refuse("slice", "slice", "a bit of the tree node", wrong), 0),
    );
    let mut wrong = slice.clone();
    *wrong.last_mut().expect("bytes") ^= 1;
    put(
        vectors,
        "slice_wrong_byte",
        described(Vector::refuse("slice", "slice", "a bit of the last byte", wrong), 0),
    );
    let longer = [&slice[..], &[0]].concat();
    put(
        vectors,
        "slice_trailing_byte",
        described(Vector::refuse("slice", "slice", "a byte too many", longer), 0),
    );
    let shorter = slice[..slice.len() - 1].to_vec();
    put(
        vectors,
        "slice_truncated",
        described(Vector::refuse("slice", "slice", "a byte too few", shorter), 0),
    );
    let aside = Vector::refuse("slice", "slice", "it starts at no whole MiB", slice);
    put(vectors, "slice_not_aligned", described(aside, 16 * 1024));

    let plaintext = b"creatinine 62 umol/L";
    let mut payload = Vec::new();
    let made = seal::seal(&plaintext[..], &mut payload).expect("seals");
    let key = hex(made.file_key.expose_bytes());
    let accept =
        Vector::accept("payload", Some(made.record.to_hex()), "the id is the RecordId", payload.clone());
    put(vectors, "payload", accept.with("file-key", &key).with("plaintext", &hex(plaintext)));
    payload.pop();
    let refuse = Vector::refuse("payload", "seal", "the last byte of the tag is missing", payload);
    put(vectors, "payload_truncated", refuse.with("file-key", &key));

    let label = Verified::sign(cast.label(), cast.phone.by(), &cast.phone.key).expect("signs");
    let identity = [cast.genesis().bytes().to_vec()];
    let mut bytes = seal_label(&label, &identity, &made.file_key).expect("seals");
    let accept =
        Vector::accept("sealed-label", Some(label.id().to_hex()), "with a Genesis beside it", bytes.clone());
    put(vectors, "sealed_label", accept.with("file-key", &key));
    bytes[0] ^= 1;
    let refuse = Vector::refuse("sealed-label", "seal", "a bit of the wrapped key", bytes);
    put(vectors, "sealed_label_changed", refuse.with("file-key", &key));
}

/// A device signs for others what age made only once: the kept vectors are of one payload and one label.
#[test]
fn the_kept_vectors_belong_together() {
    let held = held();
    assert_eq!(held["payload"].get("file-key"), held["sealed_label"].get("file-key"));
    assert_eq!(held["sealed_label"].get("id"), held["label"].get("id"), "the label within is the one beside");
}

// --- CBOR as it should be and as it should not be

#[derive(Debug, Clone, PartialEq)]
enum Cbor {
    Uint(u64),
    Negative(u64),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Cbor>),
    Map(Vec<(String, Cbor)>),
    Bool(bool),
    Null,
    Raw(Vec<u8>),
}

impl Cbor {
    fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// In canonical order.
    fn map<const N: usize>(fields: [(&str, Cbor); N]) -> Self {
        let mut map = Self::Map(vec![]);
        for (name, value) in fields {
            map.insert(name, value);
        }
        map
    }

    fn bytes(&self) -> Vec<u8> {
        let all = |items: &[Cbor]| items.iter().flat_map(Cbor::bytes).collect::<Vec<u8>>();
        match self {
            Self::Uint(n) => head(0, *n),
            Self::Negative(n) => head(1, *n),
            Self::Bytes(bytes) => [head(2, bytes.len() as u64), bytes.clone()].concat(),
            Self::Text(text) => [head(3, text.len() as u64), text.as_bytes().to_vec()].concat(),
            Self::Array(items) => [head(4, items.len() as u64), all(items)].concat(),
            Self::Map(fields) => {
                let inner = fields
                    .iter()
                    .flat_map(|(name, value)| [Cbor::text(name).bytes(), value.bytes()].concat());
                [head(5, fields.len() as u64), inner.collect()].concat()
            }
            Self::Bool(value) => vec![if *value { 0xf5 } else { 0xf4 }],
            Self::Null => vec![0xf6],
            Self::Raw(bytes) => bytes.clone(),
        }
    }

    fn fields(&mut self) -> &mut Vec<(String, Cbor)> {
        match self {
            Self::Map(fields) => fields,
            other => panic!("expected a map, got {other:?}"),
        }
    }

    fn at(&mut self, path: &[&str]) -> &mut Cbor {
        path.iter().fold(self, |value, name| {
            let field = value.fields().iter_mut().find(|(field, _)| field == name);
            &mut field.unwrap_or_else(|| panic!("expected a field {name}")).1
        })
    }

    /// Where canonical order puts it.
    fn insert(&mut self, name: &str, value: Cbor) {
        self.fields().push((name.to_owned(), value));
        self.fields().sort_by_key(|(name, _)| Cbor::text(name).bytes());
    }

    fn remove(&mut self, name: &str) {
        self.fields().retain(|(field, _)| field != name);
    }

    fn reverse(&mut self) {
        self.fields().reverse();
    }

    fn repeat(&mut self, name: &str) {
        let at = self.fields().iter().position(|(field, _)| field == name).expect("a field");
        let again = self.fields()[at].clone();
        self.fields().insert(at, again);
    }

    fn sort_alphabetically(&mut self) {
        if let Self::Map(fields) = self {
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            fields.iter_mut().for_each(|(_, value)| value.sort_alphabetically());
        }
    }
}

fn head(major: u8, n: u64) -> Vec<u8> {
    let bytes = n.to_be_bytes();
    let (short, used) = match n {
        0..=23 => (bytes[7], 8),
        24..=0xff => (24, 7),
        0x100..=0xffff => (25, 6),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 0),
    };
    [&[major << 5 | short], &bytes[used..]].concat()
}

/// What the code encodes, as a tree that can be changed.
fn tree<T: serde::Serialize>(value: &T) -> Cbor {
    let bytes = encoding::encode(value).expect("encodes");
    let mut rest = &bytes[..];
    let tree = parse(&mut rest);
    assert!(rest.is_empty());
    assert_eq!(tree.bytes(), bytes, "the code's encoding is the canonical one");
    tree
}

fn parse(rest: &mut &[u8]) -> Cbor {
    let first = take(rest, 1)[0];
    if let 0xf4..=0xf6 = first {
        return [Cbor::Bool(false), Cbor::Bool(true), Cbor::Null][usize::from(first - 0xf4)].clone();
    }
    let n = match first & 31 {
        short @ 0..=23 => u64::from(short),
        size @ 24..=27 => take(rest, 1 << (size - 24)).iter().fold(0, |n, byte| n << 8 | u64::from(*byte)),
        other => panic!("unexpected length {other}"),
    };
    let count = usize::try_from(n).expect("small");
    match first >> 5 {
        0 => Cbor::Uint(n),
        1 => Cbor::Negative(n),
        2 => Cbor::Bytes(take(rest, count).to_vec()),
        3 => Cbor::Text(String::from_utf8(take(rest, count).to_vec()).expect("UTF-8")),
        4 => Cbor::Array((0..count).map(|_| parse(rest)).collect()),
        5 => Cbor::Map(
            (0..count)
                .map(|_| {
                    let Cbor::Text(name) = parse(rest) else { panic!("expected a text key") };
                    (name, parse(rest))
                })
                .collect(),
        ),
        other => panic!("unexpected major type {other}"),
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(count);
    *rest = left;
    taken
}

fn payload_of(signer: &Writer, kind: &str, body: Cbor) -> Cbor {
    Cbor::map([
        ("version", Cbor::Uint(1)),
        ("kind", Cbor::text(kind)),
        ("by", tree(&signer.by())),
        ("body", body),
    ])
}

/// The payload within a signed object.
fn payload_of_bytes(bytes: &[u8]) -> Vec<u8> {
    match parse(&mut &bytes[7..]) {
        Cbor::Bytes(payload) => payload,
        other => panic!("expected the payload, got {other:?}"),
    }
}

/// A signed object, written from the specification and without the code.
fn cose(signer: &Writer, payload: &[u8]) -> Vec<u8> {
    let payload = Cbor::Bytes(payload.to_vec()).bytes();
    let structure = [&[0x84, 0x6a][..], b"Signature1", &[0x43, 0xa1, 0x01, 0x27, 0x40], &payload].concat();
    let key = ed25519_dalek::SigningKey::from_bytes(&signer.key.expose_seed());
    let signature = key.sign(&structure).to_bytes();
    [&[0xd2, 0x84, 0x43, 0xa1, 0x01, 0x27, 0xa0][..], &payload, &[0x58, 0x40], &signature].concat()
}
