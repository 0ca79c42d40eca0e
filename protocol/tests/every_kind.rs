//! Laws over one sample of every kind: the vectors that are accepted.
//!
//! For: every bit, every truncation, every kind in every other kind's place. Not for: what is wrong in one field;
//! those are the vectors that are refused.

#![allow(
    dead_code,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone; the vectors' helpers serve more tests"
)]

#[path = "vectors/cbor.rs"]
mod cbor;
#[path = "vectors/judge.rs"]
mod judge;
mod people;
#[path = "vectors/vector.rs"]
mod vector;

use cbor::{Cbor, cose, parse, payload_of_bytes, tree};
use judge::judge;
use karte_protocol::backup::BackupList;
use karte_protocol::card::Card;
use karte_protocol::consent::{Accept, Library, Receipt, Release, Status};
use karte_protocol::entry::Entry;
use karte_protocol::label::Label;
use karte_protocol::request::AccessRequest;
use karte_protocol::shelf::{Segment, ShelfHead};
use karte_protocol::signed::Statement;
use people::Writer;
use std::collections::{BTreeMap, BTreeSet};
use vector::{Vector, held};

/// Every kind that is signed.
const SIGNED_KINDS: [&str; 12] = [
    Entry::KIND,
    Status::KIND,
    Accept::KIND,
    Release::KIND,
    Receipt::KIND,
    AccessRequest::KIND,
    Library::KIND,
    BackupList::KIND,
    Segment::KIND,
    ShelfHead::KIND,
    Label::KIND,
    Card::KIND,
];
/// What is not signed and yet proves itself: by a commitment, a tree of hashes or an AEAD.
const PROVEN_KINDS: [&str; 4] = ["opening", "slice", "payload", "sealed-label"];
/// What is only a shape: what is signed in it proves itself when it is taken out.
const SHAPES: [&str; 4] = ["request", "response", "fetch", "frame"];
/// The acts of an entry, as the vectors are called after them.
const ACTS: [&str; 9] = [
    "genesis",
    "add_device",
    "remove_device",
    "add_steward",
    "remove_steward",
    "recover",
    "fork",
    "grant",
    "revoke",
];

fn is_signed(vector: &Vector) -> bool {
    SIGNED_KINDS.contains(&vector.header("kind"))
}

/// The vectors that are accepted, by name.
fn samples(of: &[&str]) -> BTreeMap<String, Vector> {
    let mut samples = held();
    samples.retain(|_, vector| vector.header("expect") == "accept" && of.contains(&vector.header("kind")));
    samples
}

fn provable() -> BTreeMap<String, Vector> {
    samples(&[&SIGNED_KINDS[..], &PROVEN_KINDS[..]].concat())
}

fn with_bytes(vector: &Vector, bytes: Vec<u8>) -> Vector {
    Vector { headers: vector.headers.clone(), bytes }
}

fn taken_as(vector: &Vector, kind: &str) -> Vector {
    let mut vector = vector.clone();
    vector.headers.retain(|(name, _)| name != "kind");
    vector.with("kind", kind)
}

#[test]
fn there_is_a_sample_of_every_kind_and_every_act() {
    let samples = provable();
    let kinds: BTreeSet<&str> = samples.values().map(|vector| vector.header("kind")).collect();
    let missing: Vec<_> =
        SIGNED_KINDS.iter().chain(&PROVEN_KINDS).filter(|kind| !kinds.contains(*kind)).collect();
    assert!(missing.is_empty(), "no accepted vector of {missing:?}");
    for act in ACTS {
        assert!(samples.contains_key(&format!("entry_{act}")), "no entry that says {act}");
    }
}

#[test]
fn every_bit_flip_of_every_kind_is_refused() {
    let mut flips = BTreeMap::<String, usize>::new();
    for (name, vector) in provable() {
        for bit in 0..vector.bytes.len() * 8 {
            let mut bytes = vector.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(judge(&with_bytes(&vector, bytes)).is_err(), "{name}: bit {bit} flipped was accepted");
        }
        *flips.entry(vector.header("kind").to_owned()).or_default() += vector.bytes.len() * 8;
    }
    println!("{} bit flips, all refused: {flips:?}", flips.values().sum::<usize>());
}

#[test]
fn every_truncation_of_every_kind_is_refused_and_so_is_a_byte_more() {
    let mut cuts = 0;
    for (name, vector) in provable() {
        for until in 0..vector.bytes.len() {
            let cut = with_bytes(&vector, vector.bytes[..until].to_vec());
            assert!(judge(&cut).is_err(), "{name}: {until} bytes were accepted");
        }
        cuts += vector.bytes.len();
        let longer = with_bytes(&vector, [&vector.bytes[..], &[0]].concat());
        assert!(judge(&longer).is_err(), "{name}: a byte more was accepted");
    }
    println!("{cuts} truncations, all refused");
}

/// Three messages are the same bytes in two roles, as SPEC section 9 has them: who asked and who answers is told by the
/// direction of the stream, and nothing is signed in them but what they carry.
fn is_told_by_its_place(name: &str, kind: &str) -> bool {
    let twins = [
        ("request_hello", "response"),
        ("response_hello", "request"),
        ("response_denied", "frame"),
        ("frame_denied", "response"),
    ];
    twins.contains(&(name, kind))
}

/// The bytes of every kind, given to the decoder of every other one.
#[test]
fn no_kind_is_taken_for_another() {
    let all = [&SIGNED_KINDS[..], &SHAPES, &["opening"]].concat();
    let mut tried = 0;
    for (name, vector) in samples(&all) {
        for kind in &all {
            let judged = judge(&taken_as(&vector, kind));
            if *kind == vector.header("kind") {
                assert!(judged.is_ok(), "{name} is {kind}");
                continue;
            }
            assert!(judged.is_err() || is_told_by_its_place(&name, kind), "{name} was taken as {kind}");
            if is_signed(&vector) && SIGNED_KINDS.contains(kind) {
                assert_eq!(judged, Err("kind"), "{name} as {kind} is refused for its kind");
            }
            tried += 1;
        }
    }
    println!("{tried} pairs, all refused");
}

/// The body of every kind, signed well under the name of every other one: no two kinds have one shape.
#[test]
fn no_body_passes_under_the_name_of_another_kind() {
    let phone = Writer::named("Aiko's phone");
    for (name, vector) in samples(&SIGNED_KINDS) {
        for kind in SIGNED_KINDS {
            let payload = payload_of_bytes(&vector.bytes);
            let mut changed = parse(&mut &payload[..]);
            *changed.at(&["kind"]) = Cbor::text(kind);
            *changed.at(&["by", "device"]) = tree(&phone.key.device());
            let signed = with_bytes(&taken_as(&vector, kind), cose(&phone, &changed.bytes()));
            match kind == vector.header("kind") {
                true => assert!(judge(&signed).is_ok(), "{name}, signed by the phone"),
                false => assert_eq!(judge(&signed), Err("canonical"), "{name} under the name {kind}"),
            }
        }
    }
}
