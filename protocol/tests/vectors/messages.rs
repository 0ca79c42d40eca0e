//! Messages and frames.

use crate::cast::{Cast, device, object, record};
use crate::cbor::Cbor;
use crate::people::{NOW_MS, digest_of, id_of};
use crate::vector::Vector;
use crate::{Vectors, put};
use karte_protocol::encoding::EncodingError;
use karte_protocol::entry::Device;
use karte_protocol::id::digest;
use karte_protocol::keys::SealingKey;
use karte_protocol::message::{
    Answer, Fetch, Frame, Hello, Keep, Keeping, KeptGrant, KeptRecord, KeptSegment, Request, Response,
    SegmentAndKeys, Want,
};
use karte_protocol::own::{OwnItem, ReceivedState, join_proof};
use serde_bytes::ByteBuf;

/// One vector of every message.
pub(crate) fn messages(cast: &Cast, vectors: &mut Vectors) {
    let bytes = |word: &str| ByteBuf::from(word.as_bytes());
    let hello = || Hello { card: bytes("a signed Card"), status: bytes("a signed Status") };
    let (of, grant) = (cast.aiko, id_of(&cast.granting));
    let have = cast.status().heads;
    let segment = || KeptSegment {
        segment: bytes("a signed Segment"),
        keys: bytes("an age file"),
        records: vec![KeptRecord { record: record("one"), bytes: 1 << 20, label_hash: digest(b"label") }],
    };
    let keep_grant = Keep::Grant {
        opening: bytes("an age file"),
        accept: bytes("a signed Accept"),
        reader: vec![bytes("a signed Entry")],
    };
    let keep_shelf = Keep::Shelf { grant, head: bytes("a signed ShelfHead"), segments: vec![segment()] };
    let keep_own = Keep::Own { library: bytes("a signed Library"), segments: vec![segment()] };
    let served = Request::Served {
        releases: vec![bytes("a signed Release")],
        receipts: vec![bytes("a signed Receipt")],
    };
    let requests = [
        ("hello", Request::Hello(hello())),
        ("entries", Request::Entries { of, entries: vec![bytes("a signed Entry")] }),
        ("log", Request::Log { of, have }),
        ("recovery_key", Request::RecoveryKey),
        ("openings", Request::Openings { after: None }),
        ("openings_after", Request::Openings { after: Some(grant) }),
        ("status", Request::Status { status: bytes("a signed Status") }),
        ("offer", Request::Offer { grant, opening: bytes("an age file") }),
        ("accept", Request::Accept { accept: bytes("a signed Accept") }),
        ("release", Request::Release { release: bytes("a signed Release") }),
        ("segments", Request::Segments { grant, from: 2 }),
        ("news", Request::News { grant, head: bytes("a signed ShelfHead"), segments: vec![] }),
        ("ask", Request::Ask { request: bytes("a signed AccessRequest") }),
        (
            "answer_approved",
            Request::Answer { request: object("request"), answer: Answer::Approved { grant } },
        ),
        (
            "answer_declined",
            Request::Answer { request: object("request"), answer: Answer::Declined { reason: "no".into() } },
        ),
        ("receipts", Request::Receipts { receipts: vec![bytes("a signed Receipt")] }),
        ("keeping", Request::Keeping),
        ("keep_grant", Request::Keep(keep_grant)),
        ("keep_shelf", Request::Keep(keep_shelf)),
        ("keep_own", Request::Keep(keep_own)),
        ("served", served),
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
    let session = |segments| {
        let (status, head) = (bytes("a signed Status"), bytes("a signed ShelfHead"));
        Response::Session { status, head, segments }
    };
    let keeping = Keeping {
        quota_bytes: 10 << 30,
        used_bytes: 1 << 20,
        until_ms: NOW_MS,
        missing: 3,
        grants: vec![KeptGrant {
            grant,
            accept: object("accept"),
            reader: digest(b"reader"),
            segments: 2,
            head: true,
        }],
        library: Some(bytes("a signed Library")),
        segments: 1,
    };
    let responses = [
        ("hello", Response::Hello(hello())),
        ("done", Response::Done),
        ("entries", Response::Entries { entries: vec![bytes("a signed Entry")], more: true }),
        ("recovery_key", Response::RecoveryKey { commitment: digest_of("a recovery key") }),
        ("openings", Response::Openings { openings: vec![bytes("an age file")], more: false }),
        ("session", session(vec![])),
        ("session_segments", session(segments.clone())),
        ("segments", Response::Segments { segments }),
        ("joined", joined()),
        ("own", Response::Own { items: own_items(cast), next: 9, there: 12 }),
        ("keeping", Response::Keeping(keeping)),
        ("full", Response::Full { quota_bytes: 10 << 30, used_bytes: 9 << 30 }),
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
        keep: false,
        urgent: false,
    };
    let back = Fetch { back: true, ..fetch.clone() }.to_bytes().expect("encodes");
    let keep = Fetch { keep: true, ..fetch.clone() }.to_bytes().expect("encodes");
    let fetch = fetch.to_bytes().expect("encodes");
    put(vectors, "fetch", Vector::accept("fetch", None, "one record from its second MiB on", fetch));
    let comment = "the same, between a holder and its steward";
    put(vectors, "fetch_keep", Vector::accept("fetch", None, comment, keep));
    put(vectors, "fetch_back", Vector::accept("fetch", None, "the same, asked back by the holder", back));
    let frames = [
        ("label", Frame::Label { record: record("one"), label: bytes("a sealed label") }),
        ("slice", Frame::Slice { record: record("one"), offset: 1 << 20 }),
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
