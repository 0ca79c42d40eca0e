//! What is wrong around the payload, or in the signature.

use crate::cast::Cast;
use crate::cbor::{Cbor, cose, payload_of, payload_of_bytes, tree};
use crate::vector::{Vector, unhex};
use crate::{Vectors, put};
use ed25519_dalek::Signer;

/// What is wrong around the payload.
pub(crate) fn envelopes(cast: &Cast, vectors: &mut Vectors) {
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
pub(crate) fn plus_order(s: &[u8]) -> Vec<u8> {
    let order = unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut carry = 0;
    let sum = s.iter().zip(&order).map(|(a, b)| {
        let sum = u16::from(*a) + u16::from(*b) + carry;
        carry = sum >> 8;
        sum.to_le_bytes()[0]
    });
    sum.collect()
}
