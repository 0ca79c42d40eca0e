//! The texts of a recovery, which people carry.

use crate::cast::Cast;
use crate::cbor::{Cbor, tree};
use crate::people::{Writer, log_of, recovery};
use crate::vector::Vector;
use crate::{Vectors, put};
use karte_protocol::entry::RecoverTerms;
use karte_protocol::recovery::{Approval, KeyNote, RecoveryRequest, RecoveryText};

/// The texts of a recovery.
pub(crate) fn recoveries(cast: &Cast, vectors: &mut Vectors) {
    use base64::Engine;
    let log = log_of([cast.genesis()]);
    let terms = RecoverTerms {
        party: cast.aiko,
        r#gen: 1,
        devices: vec![Writer::named("Aiko's new phone").device()],
        next_recovery: vec![recovery("Aiko's words").commitment(), recovery("the clinic's key").commitment()],
        threshold: 2,
    };
    let note = KeyNote::new(cast.aiko, recovery("the clinic's key").commitment());
    let request = RecoveryRequest::new("愛子", terms.clone(), &log);
    let approval = Approval::sign(&terms, &recovery("Aiko's words"), None).expect("signs");
    let texts = [
        ("recovery_key", "recovery-key", "a commitment for a party", note.to_text()),
        (
            "recovery_request",
            "recovery-request",
            "terms, and the identity entries below them",
            request.to_text(),
        ),
        ("recovery_approval", "recovery-approval", "without a card", approval.to_text()),
    ];
    for (name, kind, comment, text) in texts {
        put(vectors, name, Vector::accept(kind, None, comment, text.expect("has a text")));
    }
    let changed = |change: &dyn Fn(&mut Cbor)| {
        let mut value = tree(&approval);
        change(&mut value);
        let body = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(value.bytes());
        format!("{}{body}", Approval::PREFIX)
    };
    let whole = changed(&|_| {});
    let refused = [
        (
            "text_of_a_request",
            "text",
            "a request where an approval is expected",
            whole.replace("approval", "recover"),
        ),
        ("text_without_prefix", "text", "no prefix", whole.replace(Approval::PREFIX, "")),
        (
            "field_unknown",
            "canonical",
            "an unknown field",
            changed(&|value| value.insert("note", Cbor::text("hi"))),
        ),
        ("field_missing", "canonical", "no signature", changed(&|value| value.remove("signature"))),
        ("not_sorted", "canonical", "fields out of order", changed(&Cbor::reverse)),
        ("version", "kind", "version 2", changed(&|value| *value.at(&["version"]) = Cbor::Uint(2))),
        (
            "signature_short",
            "bounds",
            "a signature of 63 bytes",
            changed(&|value| *value.at(&["signature"]) = Cbor::Bytes(vec![0; 63])),
        ),
    ];
    for (name, layer, comment, text) in refused {
        put(vectors, &format!("recovery_{name}"), Vector::refuse("recovery-approval", layer, comment, text));
    }
}
