//! SPEC section 7, access requests: their bounds, their text, and that an answer is never wider than the question.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

mod people;

use karte_protocol::card::Card;
use karte_protocol::grant::{Bound, Onward, Scope, Window};
use karte_protocol::id::{PartyId, RecordId, Salt, digest};
use karte_protocol::identity::PartyLog;
use karte_protocol::label::{Code, Effective, Label};
use karte_protocol::request::{AccessRequest, Offered, RequestError, Wider, from_text, is_within, to_text};
use karte_protocol::signed::{Signed, SignedError, Statement, Verified};
use karte_protocol::time::{DAY_MS, HOUR_MS};
use people::{NOW_MS, Writer};
use proptest::prelude::*;
use serde_bytes::ByteBuf;

fn asking() -> AccessRequest {
    AccessRequest {
        to: PartyId::from([1; 32]),
        subject: PartyId::from([1; 32]),
        scope: Scope {
            kinds: vec!["fhir/Observation".into()],
            categories: vec!["laboratory".into()],
            codes: vec![Code { system: "http://loinc.org".into(), code: "2160-0".into() }],
            window: Some(Window { from: Some(Bound::Local(0)), until: None }),
            records: vec![],
        },
        purpose: "TREAT".into(),
        basis: "consent".into(),
        duration_ms: 90 * DAY_MS,
        offline_ms: 7 * DAY_MS,
        onward: Onward::No,
        reason: "dialysis in Penang in March".into(),
        nonce: Salt::from([2; 32]),
        at_ms: NOW_MS,
    }
}

/// A clinic that asks: its device, its card.
fn clinic() -> (Writer, Verified<Card>) {
    let mut desk = Writer::named("desk");
    let genesis = desk.begins(&[], 1);
    let log: PartyLog = people::log_of([&genesis]);
    let card = Card {
        name: "Sakura Clinic".into(),
        kind: "clinic".into(),
        addresses: vec!["/ip4/192.0.2.1/udp/4001/quic-v1".into()],
        identity: log.identity_entries().iter().map(|entry| ByteBuf::from(entry.bytes())).collect(),
        at_ms: NOW_MS,
    };
    let card = Verified::sign(card, desk.by(), &desk.key).expect("signs");
    (desk, card)
}

fn signed(body: AccessRequest, by: &Writer) -> Verified<AccessRequest> {
    Verified::sign(body, by.by(), &by.key).expect("signs")
}

#[test]
fn every_field_of_a_request_has_a_bound() {
    let asked = asking();
    assert_eq!(asked.check(), Ok(()));
    let changed = |change: &dyn Fn(&mut AccessRequest)| {
        let mut asked = asking();
        change(&mut asked);
        asked.check()
    };
    let wrong: [&dyn Fn(&mut AccessRequest); 11] = [
        &|asked| asked.scope = Scope::default(),
        &|asked| asked.scope.kinds = vec!["a".into(); 501],
        &|asked| asked.scope.kinds = vec!["a".repeat(8_192)],
        &|asked| asked.purpose.clear(),
        &|asked| asked.basis = "b".repeat(61),
        &|asked| asked.duration_ms = 0,
        &|asked| asked.duration_ms = 366 * DAY_MS + 1,
        &|asked| asked.offline_ms = -1,
        &|asked| asked.offline_ms = 366 * DAY_MS + 1,
        &|asked| asked.reason = "r".repeat(501),
        &|asked| asked.scope.records = vec![RecordId::from([1; 32]); 400],
    ];
    for (number, change) in wrong.iter().enumerate() {
        assert!(changed(*change).is_err(), "case {number} is over a bound");
    }
    assert_eq!(changed(&|asked| asked.reason = "r".repeat(500)), Ok(()));
    assert_eq!(changed(&|asked| asked.offline_ms = 0), Ok(()));
}

#[test]
fn a_request_is_of_its_own_kind_and_every_flipped_bit_is_refused() {
    let (desk, card) = clinic();
    let request = signed(asking(), &desk);
    assert!(matches!(
        Signed::<AccessRequest>::from_bytes(card.bytes()).verify(),
        Err(SignedError::Kind { .. })
    ));
    assert!(matches!(Signed::<Card>::from_bytes(request.bytes()).verify(), Err(SignedError::Kind { .. })));
    for bit in 0..request.bytes().len() * 8 {
        let mut bytes = request.bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Signed::<AccessRequest>::from_bytes(bytes).verify().is_err(), "bit {bit}");
    }
}

#[test]
fn a_request_reads_back_through_a_mail_program_and_says_who_asks() {
    let (desk, card) = clinic();
    let request = signed(asking(), &desk);
    let text = to_text(&card, &request).expect("it fits");
    assert!(text.len() < 2_953, "the usual request fits a QR code: {} characters", text.len());
    let (first, rest) = text.split_at(100);
    let asked = from_text(&format!(" {first}\r\n\t{rest}\n")).expect("reads");
    assert_eq!(asked.from.card.name, "Sakura Clinic");
    assert_eq!(asked.request.id(), request.id());
    assert_eq!(asked.request.by().party, Some(asked.from.log.party()));
}

#[test]
fn a_text_that_was_changed_or_is_signed_by_another_is_refused() {
    let (desk, card) = clinic();
    let request = signed(asking(), &desk);
    let text = to_text(&card, &request).expect("it fits");
    assert!(matches!(from_text(&text[1..]), Err(RequestError::NotRequest)));
    assert!(matches!(from_text(&format!("karte:{}", &text[14..])), Err(RequestError::NotRequest)));
    assert!(matches!(from_text(&format!("{text}AAAA")), Err(RequestError::Damaged(_))));
    let long = format!("karte-request:{}", "A".repeat(8_192));
    assert!(matches!(from_text(&long), Err(RequestError::NotRequest)));
    let mut thief = Writer::named("thief");
    thief.party = desk.party;
    let forged = to_text(&card, &signed(asking(), &thief)).expect("it fits");
    assert!(matches!(from_text(&forged), Err(RequestError::Stranger)), "a device that is not on the card");
}

#[test]
fn what_is_wider_is_named() {
    let asked = asking();
    let offered = |change: &dyn Fn(&mut Offered)| {
        let mut offered = asked.wish();
        change(&mut offered);
        asked.allows(&offered)
    };
    assert_eq!(offered(&|_| ()), Ok(()), "in full");
    let kind = |kind: &str| vec![kind.to_owned()];
    assert_eq!(offered(&|it| it.scope.kinds = kind("fhir")), Err(Wider::Kind("fhir".into())));
    assert_eq!(offered(&|it| it.scope.kinds = vec![]), Err(Wider::All("kinds")));
    assert_eq!(offered(&|it| it.scope.kinds = kind("fhir/Observation/x")), Ok(()));
    assert_eq!(offered(&|it| it.scope.categories = kind("imaging")), Err(Wider::Category("imaging".into())));
    let bare = Code { system: String::new(), code: "2160-0".into() };
    assert_eq!(offered(&|it| it.scope.codes = vec![bare.clone()]), Err(Wider::Code("2160-0".into())));
    let until = |bound| Some(Window { from: Some(Bound::Local(0)), until: Some(bound) });
    assert_eq!(offered(&|it| it.scope.window = until(Bound::Instant(5))), Ok(()), "no end was asked for");
    assert_eq!(offered(&|it| it.scope.window = None), Err(Wider::Window("from")));
    let from = |bound| Some(Window { from: Some(bound), until: None });
    assert_eq!(offered(&|it| it.scope.window = from(Bound::Local(-1))), Err(Wider::Window("from")));
    assert_eq!(offered(&|it| it.scope.window = from(Bound::Instant(1))), Err(Wider::Clock("from")));
    assert_eq!(offered(&|it| it.duration_ms += 1), Err(Wider::Duration));
    assert_eq!(offered(&|it| it.offline_ms += 1), Err(Wider::Offline));
    assert_eq!(offered(&|it| it.onward = Onward::Keep), Err(Wider::Onward));
}

// --- the law, over every small scope and label

fn some_of(words: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(words, 0..=words.len())
        .prop_map(|words| words.into_iter().map(str::to_owned).collect())
}

fn code(text: &str) -> Code {
    let (system, code) = text.split_once('|').unwrap_or(("", text));
    Code { system: system.into(), code: code.into() }
}

fn bound() -> impl Strategy<Value = Option<Bound>> {
    let at = (-3..4i64).prop_map(|hours| hours * HOUR_MS);
    prop_oneof![
        Just(None),
        at.clone().prop_map(|at| Some(Bound::Instant(at))),
        at.prop_map(|at| Some(Bound::Local(at))),
    ]
}

fn record(n: u8) -> RecordId {
    RecordId::from([n; 32])
}

const KINDS: &[&str] = &["fhir", "fhir/Observation", "fhir/Observation/x", "fhirx", "dicom/CT"];
const CODES: &[&str] = &["1", "a|1", "b|1", "2", "a|2"];

fn scope() -> impl Strategy<Value = Scope> {
    let window =
        prop_oneof![Just(None), (bound(), bound()).prop_map(|(from, until)| Some(Window { from, until }))];
    let records = proptest::collection::vec((0..3u8).prop_map(record), 0..3);
    (some_of(KINDS), some_of(&["laboratory", "imaging"]), some_of(CODES), window, records).prop_map(
        |(kinds, categories, codes, window, records)| Scope {
            kinds,
            categories,
            codes: codes.iter().map(|text| code(text)).collect(),
            window,
            records,
        },
    )
}

fn label() -> impl Strategy<Value = (RecordId, Label)> {
    let effective = prop_oneof![
        Just(None),
        (-4..5i64, -2..3i16).prop_map(|(hour, offset)| Some(Effective {
            start_ms: hour * HOUR_MS,
            end_ms: hour * HOUR_MS,
            offset_min: offset * 60,
        })),
    ];
    let kinds = proptest::sample::select(KINDS);
    (0..3u8, kinds, some_of(&["laboratory", "imaging"]), some_of(CODES), effective).prop_map(
        |(n, kind, categories, codes, effective)| {
            let label = Label {
                subject: PartyId::from([1; 32]),
                kind: kind.into(),
                categories,
                codes: codes.iter().map(|text| code(text)).collect(),
                effective,
                title: String::new(),
                media_type: "text/plain".into(),
                bytes: 0,
                hash: digest(b""),
                full_url: None,
                source_id: None,
                profiles: vec![],
                replaces: vec![],
                derived_from: vec![],
                sensitivity: vec![],
                urgency: None,
                group: None,
                case: None,
            };
            (record(n), label)
        },
    )
}

/// Half of the time a scope of its own, half of the time one that was made from the other by narrowing.
fn pair() -> impl Strategy<Value = (Scope, Scope)> {
    (scope(), scope(), any::<[bool; 5]>()).prop_map(|(asked, other, keep)| {
        let mut given = other;
        if keep[0] {
            given.kinds = asked.kinds.clone();
        }
        if keep[1] {
            given.categories = asked.categories.clone();
        }
        if keep[2] {
            given.codes = asked.codes.clone();
        }
        if keep[3] {
            given.window = asked.window;
        }
        if keep[4] {
            given.records = asked.records.clone();
        }
        (given, asked)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    /// Narrowing never widens: what a scope within another covers, the other covers.
    #[test]
    fn a_scope_within_another_covers_nothing_beyond_it(
        (given, asked) in pair(),
        labels in proptest::collection::vec(label(), 32),
    ) {
        if is_within(&given, &asked).is_ok() {
            for (record, label) in labels {
                prop_assert!(!given.covers(&record, &label) || asked.covers(&record, &label));
            }
        }
    }

    /// Every scope lies within itself: approving in full is always possible.
    #[test]
    fn a_scope_lies_within_itself(asked in scope()) {
        prop_assert_eq!(is_within(&asked, &asked), Ok(()));
    }

    /// Within is transitive, so a narrowed answer can be narrowed again.
    #[test]
    fn narrowing_twice_is_narrowing((a, b) in pair(), (c, _) in pair()) {
        if is_within(&a, &b).is_ok() && is_within(&b, &c).is_ok() {
            prop_assert_eq!(is_within(&a, &c), Ok(()));
        }
    }
}
