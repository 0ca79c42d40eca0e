//! One vector of every kind that is signed.

use crate::cast::{Cast, object, record};
use crate::people::{Writer, digest_of};
use crate::vector::Vector;
use crate::{Vectors, put};
use karte_protocol::backup::BackupList;
use karte_protocol::consent::Deed;
use karte_protocol::shelf::{Segment, Shelf};
use karte_protocol::signed::{Statement, Verified};

/// One vector of every kind that is signed.
pub(crate) fn objects(cast: &Cast, vectors: &mut Vectors) {
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
    accepted(vectors, "access_request", "before any grant", &cast.desk, cast.access_request());
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

pub(crate) fn accepted<T: Statement>(
    vectors: &mut Vectors,
    name: &str,
    comment: &str,
    signer: &Writer,
    body: T,
) {
    let signed = Verified::sign(body, signer.by(), &signer.key).expect("signs");
    put(vectors, name, Vector::accept(T::KIND, Some(signed.id().to_hex()), comment, signed.bytes()));
}
