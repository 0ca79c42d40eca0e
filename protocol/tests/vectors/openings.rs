//! Openings: good ones, and one wrong thing in each of the others.

use crate::cast::{Cast, salt};
use crate::cbor::{Cbor, tree};
use crate::people::id_of;
use crate::vector::Vector;
use crate::{Vectors, put};
use karte_protocol::encoding;
use karte_protocol::entry::Act;
use karte_protocol::grant::{Opened, Opening, Reader, Scope, commitment, scope_hash};
use karte_protocol::signed::Verified;
use karte_protocol::time::DAY_MS;

pub(crate) fn openings(cast: &Cast, vectors: &mut Vectors) {
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
