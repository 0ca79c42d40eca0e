//! Who is in the vectors, and one good object of each kind.

use crate::cbor::{cose, payload_of, tree};
use crate::people::{self, NOW_MS, Writer, digest_of, id_of, log_of, recovery};
use ed25519_dalek::Signer;
use karte_protocol::card::Card;
use karte_protocol::consent::{Accept, Deed, Library, Receipt, Release, Status};
use karte_protocol::encoding;
use karte_protocol::entry::{Act, Entry, Recover, RecoverTerms};
use karte_protocol::grant::{Bound, Onward, Opened, Opening, Reader, Scope, Window, commitment, scope_hash};
use karte_protocol::id::{DeviceId, ObjectId, PartyId, RecordId, Salt, digest};
use karte_protocol::identity::Head;
use karte_protocol::label::{Code, Effective, Group, Label};
use karte_protocol::request::AccessRequest;
use karte_protocol::shelf::{Chain, Segment, Shelf, ShelfHead};
use karte_protocol::signed::{Statement, Verified};
use karte_protocol::time::{DAY_MS, HOUR_MS};
use serde_bytes::ByteBuf;

/// Aiko (phone, laptop) and a clinic (desk).
pub(crate) struct Cast {
    pub(crate) phone: Writer,
    pub(crate) desk: Writer,
    pub(crate) aiko: PartyId,
    pub(crate) clinic: PartyId,
    pub(crate) entries: Vec<(&'static str, &'static str, Verified<Entry>)>,
    pub(crate) scope: Scope,
    pub(crate) opened: Opened,
    pub(crate) granting: Verified<Entry>,
    pub(crate) salt: Salt,
    pub(crate) scope_salt: Salt,
}

pub(crate) fn salt(word: &str) -> Salt {
    Salt::from(*digest_of(word).as_bytes())
}

pub(crate) fn record(word: &str) -> RecordId {
    RecordId::from(*digest_of(word).as_bytes())
}

pub(crate) fn object(word: &str) -> ObjectId {
    ObjectId::from(*digest_of(word).as_bytes())
}

pub(crate) fn device(byte: u8) -> DeviceId {
    DeviceId::from([byte; 32])
}

impl Cast {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn genesis(&self) -> &Verified<Entry> {
        &self.entries[0].2
    }

    pub(crate) fn opening(&self) -> Opening {
        Opening {
            entry: self.granting.bytes().to_vec(),
            salt: self.salt,
            opened: self.opened.clone(),
            scope_salt: Some(self.scope_salt),
            scope: Some(self.scope.clone()),
        }
    }

    pub(crate) fn status(&self) -> Status {
        Status {
            of: self.aiko,
            r#gen: 0,
            heads: vec![Head { device: self.phone.key.device(), seq: 2, id: self.granting.id().into() }],
            identity: digest_of("identity"),
            issued_ms: NOW_MS,
            lease_ms: HOUR_MS,
        }
    }

    pub(crate) fn accept(&self) -> Accept {
        Accept {
            grant: id_of(&self.granting),
            reader: self.clinic,
            n: 1,
            recipient: Writer::named("the clinic's reading key").sealing.recipient(),
        }
    }

    pub(crate) fn release(&self) -> Release {
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

    pub(crate) fn receipt(&self) -> Receipt {
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

    pub(crate) fn access_request(&self) -> AccessRequest {
        AccessRequest {
            to: self.aiko,
            subject: self.aiko,
            scope: self.scope.clone(),
            purpose: "TREAT".into(),
            basis: "consent".into(),
            duration_ms: 90 * DAY_MS,
            offline_ms: 7 * DAY_MS,
            onward: Onward::No,
            reason: "before the operation".into(),
            nonce: salt("request"),
            at_ms: NOW_MS,
        }
    }

    pub(crate) fn segment(&self) -> Segment {
        Segment {
            shelf: Shelf::Granted { grant: id_of(&self.granting), accept: object("accept") },
            seq: 1,
            prev: Some(object("segment before")),
            records: vec![record("one"), record("two")],
            withdrawn: vec![record("zero")],
            keys_hash: digest_of("keys"),
        }
    }

    pub(crate) fn shelf_head(&self) -> ShelfHead {
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

    pub(crate) fn label(&self) -> Label {
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
    pub(crate) fn short_label(&self) -> Label {
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

    pub(crate) fn card(&self) -> Card {
        Card {
            name: "Aiko Tanaka".into(),
            kind: "patient".into(),
            addresses: vec!["/ip4/192.0.2.1/udp/4001/quic-v1".into()],
            identity: vec![ByteBuf::from(self.genesis().bytes())],
            at_ms: NOW_MS,
        }
    }

    pub(crate) fn library(&self) -> Library {
        Library {
            n: 1,
            recipient: Writer::named("Aiko's library").sealing.recipient(),
            wraps: b"in place of an age file".to_vec(),
        }
    }

    pub(crate) fn entry(&self, act: Act) -> Entry {
        Entry { seq: 1, prev: Some(self.genesis().id().into()), at_ms: NOW_MS, act }
    }

    /// Signed by Aiko's phone, without the checks that refuse it: for what must be refused.
    pub(crate) fn unchecked<T: Statement>(&self, body: &T) -> Vec<u8> {
        cose(&self.phone, &payload_of(&self.phone, T::KIND, tree(body)).bytes())
    }
}

pub(crate) fn recovering(party: PartyId, words: &karte_protocol::keys::RecoverySeed) -> Verified<Entry> {
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
