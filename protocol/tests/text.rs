//! SPEC sections 1 and 10: what people copy, paste and scan.
//!

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

mod people;

use bech32::primitives::iter::{ByteIterExt, Fe32IterExt};
use karte_protocol::card::{Card, CardError, from_text, introduce, to_text};
use karte_protocol::id::{EntryId, PartyId};
use karte_protocol::identity::PartyLog;
use karte_protocol::signed::Verified;
use people::{NOW_MS, Writer};
use serde_bytes::ByteBuf;

fn card_of(log: &PartyLog, signer: &Writer) -> Verified<Card> {
    let card = Card {
        name: "Aiko Tanaka".into(),
        kind: "patient".into(),
        addresses: vec!["/ip4/192.0.2.1/udp/4001/quic-v1".into()],
        identity: log.identity_entries().iter().map(|entry| ByteBuf::from(entry.bytes())).collect(),
        at_ms: NOW_MS,
    };
    Verified::sign(card, signer.by(), &signer.key).expect("signs")
}

#[test]
fn a_card_reads_back_through_a_mail_program() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let genesis = phone.begins(&[], 1);
    let adding = phone.adds(&mut laptop);
    let log = people::log_of([&genesis, &adding]);
    let text = to_text(&card_of(&log, &laptop));
    assert!(text.starts_with("karte:0o"), "the first bytes are D2 84");
    let (first, rest) = text.split_at(100);
    let introduced = from_text(&format!(" {first}\r\n\t{rest}\n")).expect("reads");
    assert_eq!(introduced.log.party(), log.party());
    assert_eq!(introduced.log.state(), log.state());
}

#[test]
fn a_card_that_was_changed_or_is_of_a_stranger_is_refused() {
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[], 1);
    let log = people::log_of([&genesis]);
    let card = card_of(&log, &phone);
    let text = to_text(&card);
    assert!(matches!(from_text(&text[1..]), Err(CardError::NotCard)));
    assert!(matches!(from_text(&format!("{text}=")), Err(CardError::Damaged(_))), "padding");
    assert!(
        matches!(from_text(&text.replace("0oRD", "0o+D")), Err(CardError::Damaged(_))),
        "another alphabet"
    );
    let long = format!("karte:{}", "A".repeat(2_900));
    assert!(matches!(from_text(&long), Err(CardError::NotCard)));
    let mut bytes = card.bytes().to_vec();
    let name = bytes.windows(4).position(|four| four == b"Aiko").expect("the name");
    bytes[name] = b'B';
    assert!(matches!(introduce(&bytes), Err(CardError::Signed(_))));
    let mut stranger = Writer::named("stranger");
    stranger.party = phone.party;
    assert!(matches!(introduce(card_of(&log, &stranger).bytes()), Err(CardError::Stranger)));
}

#[test]
fn hexadecimal_is_written_small_and_read_in_both_cases() {
    let id = EntryId::from([0xab; 32]);
    assert_eq!(id.to_string(), "ab".repeat(32));
    assert_eq!("AB".repeat(32).parse(), Ok(id));
    assert!("ab".repeat(31).parse::<EntryId>().is_err());
}

#[test]
fn a_party_id_is_bech32m_of_all_its_bytes() {
    let party = PartyId::from([7; 32]);
    let text = party.to_string();
    assert_eq!(text.len(), 64);
    assert_eq!(text.to_uppercase().parse(), Ok(party));
    let old = bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("karte").expect("a prefix"), &[7; 32]);
    assert!(old.expect("encodes").parse::<PartyId>().is_err(), "bech32 is not bech32m");
    let other = bech32::encode::<bech32::Bech32m>(bech32::Hrp::parse("carte").expect("a prefix"), &[7; 32]);
    assert!(other.expect("encodes").parse::<PartyId>().is_err(), "another prefix");
}

#[test]
fn a_party_has_one_text() {
    let mut fives: Vec<bech32::Fe32> = [7u8; 32].into_iter().bytes_to_fes().collect();
    let last = fives.pop().expect("52 of them");
    fives.push(bech32::Fe32::try_from(last.to_u8() | 1).expect("five bits"));
    let prefix = bech32::Hrp::parse("karte").expect("a prefix");
    let text: String = fives.into_iter().with_checksum::<bech32::Bech32m>(&prefix).chars().collect();
    assert_ne!(text, PartyId::from([7; 32]).to_string());
    assert!(text.parse::<PartyId>().is_err(), "{text} is a second name");
}

#[test]
fn a_card_of_three_devices_named_in_a_row_is_taken() {
    let mut phone = Writer::named("phone");
    let mut laptop = Writer::named("laptop");
    let mut tablet = Writer::named("tablet");
    let entries = [phone.begins(&[], 1), phone.adds(&mut laptop), laptop.adds(&mut tablet)];
    let log = people::log_of(&entries);
    introduce(card_of(&log, &phone).bytes()).expect("a card of its own making");
}

#[test]
fn the_code_of_a_small_card_is_one_qr_code() {
    let mut phone = Writer::named("phone");
    let genesis = phone.begins(&[], 1);
    let text = to_text(&card_of(&people::log_of([&genesis]), &phone));
    assert!(text.len() < 1_500, "{} characters", text.len());
}
