//! Cards of parties whose log is long. Law: a card always fits, and always shows the device that signed it.

mod people;

use karte_protocol::card::{self, Card};
use karte_protocol::identity::PartyLog;
use karte_protocol::limits::{CARD_CHARS_MAX, MESSAGE_BYTES_MAX, SIGNED_BYTES_MAX};
use karte_protocol::message::{self, Bytes, Request};
use karte_protocol::signed::Verified;
use people::{NOW_MS, Writer, log_of};
use proptest::prelude::*;

/// A party whose first device named `many` others, one after the other, the last of which named one more.
fn long_log(many: usize) -> (PartyLog, Writer, Writer) {
    let mut first = Writer::named("first");
    let mut entries = vec![first.begins(&[], 0)];
    let mut last = Writer::named("another");
    for number in 0..many {
        last = Writer::named(&format!("another {number}"));
        entries.push(first.adds(&mut last));
    }
    let mut late = Writer::named("late");
    entries.push(last.adds(&mut late));
    (log_of(&entries), first, late)
}

fn card_of(log: &PartyLog, by: &Writer, identity: Vec<Bytes>) -> Verified<Card> {
    let card = Card {
        name: "Hana".into(),
        kind: "patient".into(),
        addresses: vec!["/ip4/127.0.0.1/tcp/4001".into()],
        identity,
        at_ms: NOW_MS,
    };
    assert_eq!(by.party, Some(log.party()));
    Verified::sign(card, by.by(), &by.key).expect("a card that is within its bounds")
}

#[test]
fn a_card_shows_its_device_however_long_the_log_is() {
    let (log, first, late) = long_log(300);
    assert!(log.identity_entries().iter().map(|entry| entry.bytes().len()).sum::<usize>() > SIGNED_BYTES_MAX);
    for by in [&first, &late] {
        let device = by.key.device();
        let brief = card_of(&log, by, card::identity_within(&log, &device, 0));
        let text = card::to_text(&brief);
        assert!(text.len() <= CARD_CHARS_MAX, "{} characters", text.len());
        let introduced = card::from_text(&text).expect("a brief card is a card");
        assert!(introduced.log.state().has_device(&device));
        let full = card_of(&log, by, card::identity_within(&log, &device, SIGNED_BYTES_MAX - 8 * 1024));
        assert!(full.identity.len() > 100, "as many as fit");
        assert!(card::introduce(full.bytes()).is_ok(), "what is left out is left out from the end");
    }
}

#[test]
fn a_card_of_a_short_log_has_all_of_it() {
    let (log, first, _) = long_log(2);
    let all = card::identity_within(&log, &first.key.device(), SIGNED_BYTES_MAX - 8 * 1024);
    assert_eq!(all.len(), log.identity_entries().len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_fits_makes_a_message_and_little_room_is_left(lengths in prop::collection::vec(0..=SIGNED_BYTES_MAX, 0..64)) {
        let many = message::fitting(lengths.iter().copied());
        let message = |many: usize| {
            let entries = lengths.iter().take(many).map(|length| Bytes::from(vec![0; *length])).collect();
            Request::Entries { of: log_of(&[Writer::named("x").begins(&[], 0)]).party(), entries }.to_bytes()
        };
        prop_assert!(message(many).is_ok());
        let with_next: usize = lengths.iter().take(many + 1).sum();
        prop_assert!(many == lengths.len() || with_next > MESSAGE_BYTES_MAX - 80 * 1024, "much was left out");
    }
}
