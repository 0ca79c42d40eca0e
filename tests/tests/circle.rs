//! The whole circle in a small world: the product's engine, no sockets, time as we like it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it is surprised"
)]

use karte_node::command::{Command, Filter, NewGrant};
use karte_node::engine::Answer;
use karte_node::failure::Kind;
use karte_protocol::message::{Request, Response};
use karte_protocol::time::{DAY_MS, HOUR_MS};
use karte_testnet::cast::{CLINIC, DAEMON, lab, list, open, sync};
use karte_testnet::world::World;

fn laboratory_to(contact: &str) -> NewGrant {
    NewGrant {
        contact: contact.into(),
        scope: Filter {
            kinds: vec!["fhir/Observation".into()],
            categories: vec!["laboratory".into()],
            ..Filter::default()
        },
        purpose: "TREAT".into(),
        basis: "consent".into(),
        expires_ms: 90 * DAY_MS,
        offline_ms: 7 * DAY_MS,
        ..NewGrant::default()
    }
}

/// A patient and a clinic that know each other.
fn introduced() -> World {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    world.add("clinic", CLINIC).unwrap();
    world.introduce("hana", "clinic").unwrap();
    world
}

fn give(world: &mut World, from: &str, grant: NewGrant) -> String {
    world.items(from, Command::GrantAdd(grant)).unwrap()[0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_granted_arrives_opens_and_shows_in_the_audit() {
    let mut world = introduced();
    let hana = world.party("hana");
    let record = world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    let mut vital = lab("weight 62 kg", world.now);
    vital.category = "vital-signs";
    let other = world.write("hana", hana, &vital).unwrap();
    give(&mut world, "hana", laboratory_to("clinic"));
    let items = world.items("clinic", list()).unwrap();
    assert_eq!(items.len(), 1, "one laboratory record and not the weight: {items:?} {:?}", world.notices);
    assert_eq!(items[0]["id"], record.to_hex());
    assert!(!world.has_payload("clinic", &other), "nothing outside the grant came");
    let Answer::Open(opening) = world.command("clinic", open(record)).unwrap() else { panic!("an opening") };
    assert_eq!(world.plaintext("clinic", &opening).unwrap(), "creatinine 612 umol/L");
    let audit = world.items("hana", Command::AuditList).unwrap();
    let opened: Vec<_> = audit.iter().filter(|line| line["event"] == "opened").collect();
    assert_eq!(opened.len(), 1, "{audit:?}");
    assert_eq!(opened[0]["person"], "Dr Sato");
    assert_eq!(opened[0]["record"], record.to_hex());
    assert_eq!(opened[0]["purpose"], "TREAT");
}

#[test]
fn a_new_record_is_pushed_while_connected() {
    let mut world = introduced();
    give(&mut world, "hana", laboratory_to("clinic"));
    assert_eq!(world.items("clinic", list()).unwrap().len(), 0);
    let hana = world.party("hana");
    world.write("hana", hana, &lab("potassium 6.1 mmol/L", world.now)).unwrap();
    assert_eq!(world.items("clinic", list()).unwrap().len(), 1, "it came without another command");
}

#[test]
fn a_revoked_grant_ends_at_once_for_a_connected_reader() {
    let mut world = introduced();
    let hana = world.party("hana");
    let record = world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    let grant = give(&mut world, "hana", laboratory_to("clinic"));
    assert!(world.has_payload("clinic", &record));
    world.items("hana", Command::GrantRevoke { id: grant.clone(), reason: "moved away".into() }).unwrap();
    assert!(!world.has_payload("clinic", &record), "the payload is gone");
    assert_eq!(world.items("clinic", list()).unwrap().len(), 0);
    let refused = world.command("clinic", open(record)).err().unwrap();
    assert_eq!(refused.kind, Kind::Refused);
    assert!(refused.message.contains("revoked by its holder"), "the own user is told why: {refused}");
    let audit = world.items("hana", Command::AuditList).unwrap();
    let events: Vec<&str> = audit.iter().filter_map(|line| line["event"].as_str()).collect();
    for event in ["granted", "released", "revoked", "stopped", "deleted"] {
        assert!(events.contains(&event), "{event} is in the audit: {events:?}");
    }
    let grants = world.items("clinic", Command::GrantList).unwrap();
    assert_eq!(grants[0]["state"], "ended");
}

#[test]
fn a_revocation_reaches_an_absent_reader_at_its_next_contact() {
    let mut world = introduced();
    let hana = world.party("hana");
    let record = world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    let grant = give(&mut world, "hana", laboratory_to("clinic"));
    world.cut("hana", "clinic");
    world.items("hana", Command::GrantRevoke { id: grant, reason: String::new() }).unwrap();
    assert!(
        world.command("clinic", open(record)).is_ok(),
        "it cannot know yet, and its offline limit has not run out"
    );
    world.heal("hana", "clinic");
    let refused = world.items("clinic", sync("hana")).err().unwrap();
    assert_eq!(refused.kind, Kind::Refused, "{refused:?}");
    assert!(world.command("clinic", open(record)).is_err());
    assert!(!world.has_payload("clinic", &record));
    let audit = world.items("hana", Command::AuditList).unwrap();
    assert!(audit.iter().any(|line| line["event"] == "deleted"), "its receipts came: {audit:?}");
}

#[test]
fn the_offline_limit_ends_reading_and_a_fresh_word_brings_it_back() {
    let mut world = introduced();
    let hana = world.party("hana");
    let record = world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    give(&mut world, "hana", laboratory_to("clinic"));
    world.cut("hana", "clinic");
    world.pass(6 * DAY_MS);
    assert!(world.command("clinic", open(record)).is_ok(), "six days are within seven");
    world.pass(2 * DAY_MS);
    let refused = world.command("clinic", open(record)).err().unwrap();
    assert!(refused.message.contains("offline limit"), "{refused}");
    world.heal("hana", "clinic");
    world.items("clinic", sync("hana")).unwrap();
    assert!(world.command("clinic", open(record)).is_ok());
}

#[test]
fn a_grant_ends_by_itself_when_its_time_is_over() {
    let mut world = introduced();
    let hana = world.party("hana");
    let record = world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    let mut grant = laboratory_to("clinic");
    grant.expires_ms = 2 * HOUR_MS;
    give(&mut world, "hana", grant);
    assert!(world.has_payload("clinic", &record));
    world.pass(3 * HOUR_MS);
    assert!(!world.has_payload("clinic", &record));
    assert!(world.command("clinic", open(record)).is_err());
}

#[test]
fn a_clinic_writes_back_and_the_patients_standing_grant_carries_it_on() {
    let mut world = introduced();
    world.add("penang", CLINIC).unwrap();
    world.introduce("hana", "penang").unwrap();
    give(&mut world, "hana", laboratory_to("clinic"));
    let hana = world.party("hana");
    let record = world.write("penang", hana, &lab("urea reduction 71 %", world.now)).unwrap();
    let mut back = laboratory_to("hana");
    back.scope.subject = Some("hana".into());
    let id = give(&mut world, "penang", back);
    world.items("hana", Command::GrantAccept { id, adopt: true }).unwrap();
    let at_home = world.items("hana", list()).unwrap();
    assert!(at_home.iter().any(|item| item["grant"].is_null()), "adopted: {at_home:?}");
    let at_clinic = world.items("clinic", list()).unwrap();
    assert_eq!(at_clinic.len(), 1, "{:?}", world.notices);
    assert_eq!(at_clinic[0]["id"], record.to_hex(), "the same payload");
    assert_eq!(at_clinic[0]["author"], world.party("penang").to_string(), "the same author");
}

#[test]
fn strangers_and_the_unentitled_get_the_same_bytes_for_everything() {
    let mut world = introduced();
    let hana = world.party("hana");
    world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    let grant = give(&mut world, "hana", laboratory_to("clinic"));
    world.items("hana", Command::GrantRevoke { id: grant.clone(), reason: String::new() }).unwrap();
    world.add("stranger", DAEMON).unwrap();
    let denied = Response::Denied.to_bytes().unwrap();
    let id = grant.parse().unwrap();
    let absent = karte_protocol::id::GrantId::from([9; 32]);
    for grant in [id, absent] {
        let ask = Request::Segments { grant, from: 0 }.to_bytes().unwrap();
        assert_eq!(world.raw_request("clinic", "hana", ask.clone()).as_ref(), Some(&denied));
        assert_eq!(world.raw_request("stranger", "hana", ask).as_ref(), Some(&denied));
    }
    let log = Request::Log { of: hana, have: vec![] }.to_bytes().unwrap();
    assert_eq!(world.raw_request("stranger", "hana", log).as_ref(), Some(&denied));
    assert_eq!(world.raw_request("stranger", "hana", b"noise".to_vec()).as_ref(), Some(&denied));
}

#[test]
fn a_stranger_waits_until_it_is_let_in() {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    world.add("clinic", DAEMON).unwrap();
    let card = world.items("clinic", Command::Card).unwrap()[0]["card"].as_str().unwrap().to_owned();
    world.items("hana", Command::ContactAdd { card, alias: None }).unwrap();
    let refused = world.items("hana", sync("clinic")).err().unwrap();
    assert_eq!(refused.kind, Kind::Refused, "{refused:?}");
    let pending = world.items("clinic", Command::ContactList).unwrap();
    assert_eq!(pending[0]["state"], "pending");
    world.items("clinic", Command::ContactAdd { card: "hana".into(), alias: None }).unwrap();
    assert!(world.items("hana", sync("clinic")).is_ok(), "both know each other now: {:?}", world.notices);
    assert_eq!(world.items("clinic", Command::ContactList).unwrap()[0]["connected"], true);
}

#[test]
fn what_a_grant_excludes_is_held_back_without_a_word() {
    let mut world = introduced();
    let hana = world.party("hana");
    let mut hiv = lab("HIV 1 Ab positive", world.now);
    hiv.code = "7917-8";
    world.write("hana", hana, &hiv).unwrap();
    world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    let mut grant = laboratory_to("clinic");
    grant.exclude = vec!["7917-8".into()];
    let preview = NewGrant { dry_run: true, ..grant.clone() };
    assert_eq!(world.items("hana", Command::GrantAdd(preview)).unwrap().len(), 2, "one record and the sum");
    give(&mut world, "hana", grant);
    let items = world.items("clinic", list()).unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!(items[0]["title"], "creatinine 612 umol/L");
    let seen = world.items("clinic", Command::GrantList).unwrap();
    assert!(!seen[0].to_string().contains("7917-8"), "the reader is not told what is held back");
}
