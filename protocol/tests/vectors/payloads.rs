//! What is wrong inside the payload, and signed well.

use crate::cast::Cast;
use crate::cbor::{Cbor, cose, payload_of, payload_of_bytes, tree};
use crate::people::digest_of;
use crate::vector::Vector;
use crate::{Vectors, put};

/// What is wrong inside the payload; every one is signed well.
pub(crate) fn payloads(cast: &Cast, vectors: &mut Vectors) {
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
