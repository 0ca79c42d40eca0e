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

mod bounds;
mod cast;
mod cbor;
mod envelopes;
mod judge;
mod messages;
mod objects;
mod openings;
mod payloads;
#[path = "../people.rs"]
mod people;
mod recoveries;
mod sealed;
mod vector;

use bounds::bounds;
use cast::Cast;
use envelopes::envelopes;
use judge::judge;
use messages::messages;
use objects::objects;
use openings::openings;
use payloads::payloads;
use recoveries::recoveries;
use sealed::sealed;
use std::collections::BTreeMap;
use vector::{Vector, folder, held};

/// Vectors that must be refused and that the code still takes. Each is a fault; taking it off this list is part
/// of the repair.
const STILL_TAKEN: &[&str] = &[];

/// Vectors that are not made twice the same: they are written once and then kept.
const KEPT: &[&str] = &["sealed_label", "sealed_label_changed", "payload", "payload_truncated"];

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
    recoveries(&cast, &mut vectors);
    envelopes(&cast, &mut vectors);
    payloads(&cast, &mut vectors);
    bounds(&cast, &mut vectors);
    sealed(&cast, &mut vectors);
    vectors
}

pub(crate) type Vectors = BTreeMap<String, Vector>;

pub(crate) fn put(vectors: &mut Vectors, name: &str, vector: Vector) {
    let before = vectors.insert(name.to_owned(), vector);
    assert!(before.is_none(), "two vectors are called {name}");
}

/// A device signs for others what age made only once: the kept vectors are of one payload and one label.
#[test]
fn the_kept_vectors_belong_together() {
    let held = held();
    assert_eq!(held["payload"].get("file-key"), held["sealed_label"].get("file-key"));
    assert_eq!(held["sealed_label"].get("id"), held["label"].get("id"), "the label within is the one beside");
}
