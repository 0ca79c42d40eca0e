//! Several sources at once in a small world: a holder and its steward share the work, and one that is bad does no harm.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails where it is surprised")]

use karte_node::command::Command;
use karte_node::engine::Policy;
use karte_protocol::id::RecordId;
use karte_protocol::label::Label;
use karte_protocol::time::{MINUTE_MS, SECOND_MS};
use karte_testnet::cast::{BY_HAND, CLINIC, DAEMON, lab, list, observations_to, sync};
use karte_testnet::world::World;
use std::collections::BTreeSet;

/// Records that wait for the clinic, and bytes of each: 140 MiB, more than two want-lists and enough for a third.
const RECORDS: usize = 160;
const BYTES: usize = 900 << 10;

/// Hana has granted the clinic much while it was away, and the pharmacy keeps all of it. The clinic and Hana can meet from now on.
fn waiting(clinic: Policy) -> (World, Vec<RecordId>) {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    world.add("clinic", clinic).unwrap();
    world.add("pharmacy", DAEMON).unwrap();
    world.introduce("hana", "clinic").unwrap();
    world.take_card("pharmacy", "hana").unwrap();
    world.introduce("hana", "pharmacy").unwrap();
    world.pass(1);
    let given = world.items("hana", Command::GrantAdd(observations_to("clinic"))).unwrap();
    world.items("clinic", sync("hana")).unwrap();
    let offer =
        Command::StewardOffer { contact: "hana".into(), quota_bytes: 1 << 30, for_ms: 365 * 86_400_000 };
    world.items("pharmacy", offer).unwrap();
    world.items("hana", Command::StewardAdd { contact: "pharmacy".into() }).unwrap();
    world.pass(1);
    assert_eq!(given.len(), 1);
    world.items("hana", sync("clinic")).unwrap();
    world.cut("hana", "clinic");
    let hana = world.party("hana");
    let mut write = |n: usize| {
        let text = format!("{n} {}", "x".repeat(BYTES));
        let draft = lab(&text, world.now);
        world.write_labelled("hana", hana, &draft, |label| Label { title: "much".into(), ..label }).unwrap()
    };
    let records = (0..RECORDS).map(&mut write).collect();
    world.items("hana", sync("pharmacy")).unwrap();
    world.wanted.clear();
    (world, records)
}

/// The clinic meets Hana, who is slow to answer, and turns to the pharmacy for help.
fn begins_to_read(world: &mut World) {
    world.idles("hana");
    world.heal("hana", "clinic");
    world.command("clinic", sync("hana")).map(drop).unwrap_err();
}

/// What the clinic asked a node for, in order.
fn asked(world: &World, of: &str) -> Vec<RecordId> {
    let lists = world.wanted.iter().filter(|(from, to, _)| from == "clinic" && to == of);
    lists.flat_map(|(_, _, fetch)| fetch.wants.iter().map(|want| want.record)).collect()
}

fn has_all(world: &World, records: &[RecordId]) -> bool {
    records.iter().all(|record| world.has_payload("clinic", record))
}

fn named(world: &World, name: &str) -> usize {
    let told = world.notices.iter().filter(|(at, text)| at == "clinic" && text.contains("sent wrong bytes"));
    told.filter(|(_, text)| text.contains(name)).count()
}

#[test]
fn a_holder_and_its_steward_share_the_work() {
    let (mut world, records) = waiting(BY_HAND);
    begins_to_read(&mut world);
    world.wakes("hana");
    assert!(has_all(&world, &records));
    assert_eq!(world.items("clinic", list()).unwrap().len(), RECORDS);
    let (near, far) = (asked(&world, "hana"), asked(&world, "pharmacy"));
    assert!(!near.is_empty() && !far.is_empty(), "{} and {}", near.len(), far.len());
    let all: BTreeSet<RecordId> = near.iter().chain(&far).copied().collect();
    assert_eq!((all.len(), near.len() + far.len()), (RECORDS, RECORDS), "nothing is asked for twice");
}

#[test]
fn a_steward_that_sends_wrong_bytes_is_named_and_dropped_and_does_no_harm() {
    let (mut world, records) = waiting(BY_HAND);
    world.lies("pharmacy");
    begins_to_read(&mut world);
    world.wakes("hana");
    assert!(has_all(&world, &records));
    let told = world.items("clinic", sync("hana")).unwrap();
    assert_eq!(told[0]["reason"], serde_json::Value::Null, "the sync did not fail: {told:?}");
    let pharmacy = world.keys("pharmacy").device.device();
    assert_eq!(named(&world, &pharmacy.short()), 1, "{:?}", world.notices);
    let once = asked(&world, "pharmacy").len();
    assert!(once > 0 && once < 40, "one list, and no other: {once}");
    world.pass(MINUTE_MS);
    assert_eq!(asked(&world, "pharmacy").len(), once);
}

#[test]
fn a_holder_that_sends_wrong_bytes_is_named_and_its_steward_brings_all() {
    let (mut world, records) = waiting(CLINIC);
    world.lies("hana");
    world.heal("hana", "clinic");
    (0..10).for_each(|_| world.pass(30 * SECOND_MS));
    assert!(has_all(&world, &records), "{:?}", world.notices);
    assert!(named(&world, "hana") >= 1, "{:?}", world.notices);
}

#[test]
fn a_steward_that_is_slow_is_relieved() {
    let (mut world, records) = waiting(CLINIC);
    world.idles("pharmacy");
    begins_to_read(&mut world);
    world.wakes("hana");
    let kept = asked(&world, "pharmacy");
    assert!(
        !kept.is_empty() && !has_all(&world, &records),
        "the pharmacy has part of it, and does not answer"
    );
    world.pass(3 * SECOND_MS);
    assert!(has_all(&world, &records), "the holder was asked for it in the end");
}

#[test]
fn a_steward_goes_on_when_the_holder_goes() {
    let (mut world, records) = waiting(BY_HAND);
    begins_to_read(&mut world);
    assert!(!asked(&world, "pharmacy").is_empty() && !has_all(&world, &records));
    world.cut("hana", "clinic");
    assert!(has_all(&world, &records), "{:?}", world.notices);
}
