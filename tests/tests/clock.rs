//! SPEC rule 9 in a small world: a clock that stood in 2099 once, and the way out.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it is surprised"
)]

use karte_node::command::{Command, Filter};
use karte_node::failure::Failure;
use karte_protocol::consent::Accept;
use karte_protocol::id::RecordId;
use karte_protocol::message::Request;
use karte_protocol::shelf::{Chain, ShelfHead};
use karte_protocol::signed::{By, Signed, Verified};
use karte_protocol::time::{DAY_MS, HOUR_MS};
use karte_testnet::cast::{CLINIC, DAEMON, observations_to};
use karte_testnet::world::{Draft, World};

/// 2099-01-01.
const IN_2099: i64 = 4_070_908_800_000;

fn write(world: &mut World, text: &str) -> RecordId {
    let (hana, at_ms) = (world.party("hana"), world.now);
    let draft = Draft { kind: "fhir/Observation", category: "laboratory", code: "1", at_ms, text };
    world.write("hana", hana, &draft).unwrap()
}

fn sync(world: &mut World, at: &str, with: &str) -> Result<(), Failure> {
    world.items(at, Command::Sync { contact: Some(with.into()), staff: "nurse".into() }).map(drop)
}

fn open(world: &mut World, at: &str, id: &RecordId) -> Result<(), Failure> {
    let open = Command::RecordOpen { id: id.to_hex(), age: false, staff: "Dr Sato".into() };
    world.command(at, open).map(drop)
}

fn clock(world: &mut World, at: &str) -> String {
    world.items(at, Command::ClockShow).unwrap()[0]["state"].as_str().unwrap().to_owned()
}

/// A patient and a clinic, and a grant whose record has come.
fn granted() -> (World, String, RecordId) {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    world.add("clinic", CLINIC).unwrap();
    world.introduce("hana", "clinic").unwrap();
    let record = write(&mut world, "creatinine 612 umol/L");
    let grant = world.items("hana", Command::GrantAdd(observations_to("clinic"))).unwrap()[0]["id"].clone();
    open(&mut world, "clinic", &record).unwrap();
    (world, grant.as_str().unwrap().to_owned(), record)
}

/// What a node does under a clock of 2099, without anybody else being told of that time.
fn in_2099(world: &mut World, what: impl FnOnce(&mut World)) {
    let true_now = std::mem::replace(&mut world.now, IN_2099);
    what(world);
    world.now = true_now;
}

#[test]
fn a_holder_whose_clock_stood_in_2099_revokes_only_until_it_is_reset() {
    let (mut world, grant, _) = granted();
    world.cut("hana", "clinic");
    in_2099(&mut world, |world| {
        write(world, "written in 2099");
    });
    assert_eq!(clock(&mut world, "hana"), "behind");
    let refused = world.items("hana", Command::GrantAdd(observations_to("clinic"))).unwrap_err();
    assert!(refused.message.contains("2099-01-01") && refused.message.contains("2026-"), "{refused}");
    assert!(refused.next.unwrap().contains("karte clock reset --i-set-the-clock"));
    world.heal("hana", "clinic");
    write(&mut world, "potassium 6.1 mmol/L");
    let _ = sync(&mut world, "clinic", "hana");
    let there = world.items("clinic", Command::RecordList(Filter::default())).unwrap();
    assert_eq!(there.len(), 1, "it serves nothing");
    world.items("hana", Command::GrantRevoke { id: grant, reason: String::new() }).unwrap();

    let reset = world.items("hana", Command::ClockReset).unwrap();
    assert_eq!(reset[0]["state"], "right");
    world.items("hana", Command::GrantAdd(observations_to("clinic"))).unwrap();
    sync(&mut world, "clinic", "hana").unwrap();
    let there = world.items("clinic", Command::RecordList(Filter::default())).unwrap();
    assert_eq!(there.len(), 3, "all of it under the new grant: {:?}", world.notices);
}

#[test]
fn a_reader_whose_clock_was_reset_opens_only_after_fresh_word() {
    let (mut world, _, record) = granted();
    world.cut("hana", "clinic");
    // Its clock jumps by five days: within the offline limit, beyond it once the clock is right and two days pass.
    world.now += 5 * DAY_MS;
    open(&mut world, "clinic", &record).unwrap();
    world.now -= 5 * DAY_MS;
    let refused = open(&mut world, "clinic", &record).unwrap_err();
    assert!(refused.message.contains("clock"), "{refused}");
    world.items("clinic", Command::ClockReset).unwrap();
    let refused = open(&mut world, "clinic", &record).unwrap_err();
    assert!(refused.message.contains("offline limit"), "setting a clock back prolongs nothing: {refused}");
    let copy = world.copy("clinic");
    assert!(copy.iter().all(|row| row.0 != karte_node::store::Table(18)), "no Status is kept");
    world.heal("hana", "clinic");
    sync(&mut world, "clinic", "hana").unwrap();
    open(&mut world, "clinic", &record).unwrap();
}

#[test]
fn a_reset_is_no_way_to_set_the_clock_back() {
    let (mut world, _, _) = granted();
    let floor = world.items("hana", Command::ClockShow).unwrap()[0]["floor"].clone();
    world.items("hana", Command::ClockReset).unwrap();
    assert_eq!(world.items("hana", Command::ClockShow).unwrap()[0]["floor"], floor, "nothing was behind");
    // Before this program was made no clock is right, whatever its user says.
    world.now = 1_700_000_000_000;
    let refused = world.items("hana", Command::ClockReset).unwrap_err();
    assert!(refused.message.contains("2023-"), "{refused}");
    assert_eq!(clock(&mut world, "hana"), "behind");
}

#[test]
fn a_holders_head_of_the_future_does_not_spoil_its_later_ones() {
    let (mut world, grant, _) = granted();
    // What hana's node says while her clock, and hers alone, is two hours ahead.
    let mut accepts = world.sent.iter().filter_map(|(.., body)| match Request::from_bytes(body) {
        Ok(Request::Accept { accept }) => Signed::<Accept>::from_bytes(accept.into_vec()).verify().ok(),
        _ => None,
    });
    let accept = accepts.next_back().unwrap().id();
    let (keys, grant) = (world.keys("hana"), grant.parse().unwrap());
    let device = keys.device.device();
    let chains = vec![Chain { device, segments: 1, last: None }];
    let head = ShelfHead { grant, accept, chains, issued_ms: world.now + 2 * HOUR_MS };
    let by = By { party: Some(world.party("hana")), r#gen: 0, device };
    let head = Verified::sign(head, by, &keys.device).unwrap();
    let news =
        Request::News { grant, head: head.bytes().to_vec().into(), segments: vec![] }.to_bytes().unwrap();
    world.raw_request("hana", "clinic", news).unwrap();
    write(&mut world, "sodium 138 mmol/L");
    sync(&mut world, "clinic", "hana").unwrap();
    let there = world.items("clinic", Command::RecordList(Filter::default())).unwrap();
    assert_eq!(there.len(), 2, "{:?}", world.notices);
}
