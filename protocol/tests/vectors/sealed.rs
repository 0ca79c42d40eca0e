//! Slices, payloads and sealed labels.

use crate::cast::Cast;
use crate::vector::Vector;
use crate::{Vectors, put};
use karte_protocol::bao::{Outline, piece_value};
use karte_protocol::id::{RecordId, digest, hex};
use karte_protocol::label::seal_label;
use karte_protocol::seal;
use karte_protocol::signed::Verified;

/// Slices, payloads and sealed labels.
pub(crate) fn sealed(cast: &Cast, vectors: &mut Vectors) {
    let payload: Vec<u8> = (0..=250u8).cycle().take(16 * 1024 + 1).collect();
    let id: RecordId = blake3::hash(&payload).into();
    let mut slice = Vec::new();
    Outline::of_small(id, payload.len() as u64).slice(0, &payload, &mut slice).expect("encodes");
    assert_eq!(slice.len(), 64 + payload.len(), "one tree node, then two chunk groups");
    let mib = 1 << 20;
    let large: Vec<u8> = (0..=250u8).cycle().take(4 * mib).collect();
    let pieces = large.chunks(mib).zip((0..).step_by(mib)).map(|(piece, offset)| piece_value(offset, piece));
    let outline = Outline::of(blake3::hash(&large).into(), 4 << 20, pieces.collect()).expect("hashes");
    let mut full = Vec::new();
    outline.slice(1 << 20, &large[mib..2 * mib], &mut full).expect("encodes");
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
