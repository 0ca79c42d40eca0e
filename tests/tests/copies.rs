//! Old copies of a folder, lost payloads and recovery in a small world: nothing is forked, and what others hold
//! comes back.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it is surprised"
)]

use karte_node::command::{Command, Filter};
use karte_node::engine::{Answer, Harm, Input};
use karte_protocol::consent::Accept;
use karte_protocol::entry::Entry;
use karte_protocol::id::{DeviceId, GrantId, ObjectId, RecordId};
use karte_protocol::message::{Fetch, Request, Response, Want};
use karte_protocol::signed::Signed;
use karte_testnet::cast::{CLINIC, DAEMON, lab, observations_to, open, sync};
use karte_testnet::world::World;
use std::collections::BTreeMap;

fn introduced() -> World {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    world.add("clinic", CLINIC).unwrap();
    world.introduce("hana", "clinic").unwrap();
    world
}

fn give(world: &mut World) -> Result<String, karte_node::failure::Failure> {
    let items = world.items("hana", Command::GrantAdd(observations_to("clinic")))?;
    Ok(items[0]["id"].as_str().unwrap().to_owned())
}

fn standing(world: &mut World, name: &str) -> String {
    world.items(name, Command::Status).unwrap()[0]["standing"].as_str().unwrap().to_owned()
}

/// No device has signed two entries of one seq, by all that anybody in the world holds.
fn nobody_has_forked(world: &World) {
    let party = world.party("hana");
    let all = ["hana", "clinic"].map(|at| world.entries_of(at, party)).concat_all();
    let mut seen: BTreeMap<(u32, DeviceId, u64), Vec<u8>> = BTreeMap::new();
    for bytes in all {
        let entry = Signed::<Entry>::from_bytes(bytes.clone()).verify().unwrap();
        let place = (entry.by().r#gen, entry.by().device, entry.seq);
        let first = seen.entry(place).or_insert_with(|| bytes.clone());
        assert!(*first == bytes, "two entries with seq {}", entry.seq);
    }
}

trait ConcatAll {
    fn concat_all(self) -> std::collections::BTreeSet<Vec<u8>>;
}

impl ConcatAll for [std::collections::BTreeSet<Vec<u8>>; 2] {
    fn concat_all(self) -> std::collections::BTreeSet<Vec<u8>> {
        self.into_iter().flatten().collect()
    }
}

#[test]
fn an_old_copy_notices_at_its_first_contact_and_signs_nothing_more() {
    let mut world = introduced();
    let hana = world.party("hana");
    let record = world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    give(&mut world).unwrap();
    let old = world.copy("hana");
    // She goes on: an entry that the copy does not know, and that the clinic holds.
    let second = give(&mut world).unwrap();
    world.items("hana", Command::GrantRevoke { id: second, reason: String::new() }).unwrap();
    let before = world.entries_of("clinic", hana).len();

    world.start_from("hana", old.clone(), false).unwrap();
    assert_eq!(standing(&mut world, "hana"), "sound", "it cannot know yet");
    let _ = world.items("hana", sync("clinic"));
    assert_eq!(standing(&mut world, "hana"), "rolled back", "{:?}", world.notices);
    let refused = give(&mut world).unwrap_err();
    assert!(refused.message.contains("older copy"), "{refused}");
    assert!(refused.next.unwrap().contains("karte backup restore"));
    for command in [
        Command::GrantRevoke { id: "0000".into(), reason: String::new() },
        Command::GrantAccept { id: "0000".into(), adopt: false },
        sync("clinic"),
    ] {
        let refused = world.command("hana", command).err().unwrap();
        assert!(refused.message.contains("older copy"), "{refused}");
    }
    world.write("hana", hana, &lab("potassium", world.now)).unwrap();
    let there = world.items("hana", Command::RecordList(Filter::default())).unwrap();
    assert_eq!(there.len(), 1, "nothing is taken in either: it would go on a shelf that this device signs");
    assert!(matches!(world.command("hana", open(record)), Ok(Answer::Open(_))), "own records are read on");
    assert_eq!(world.entries_of("clinic", hana).len(), before, "nothing new was signed");
    assert_eq!(world.entries_of("hana", hana).len(), before, "and what the clinic held came back");
    nobody_has_forked(&world);

    // It stays so after a restart.
    let now = world.copy("hana");
    world.start_from("hana", now, false).unwrap();
    assert_eq!(standing(&mut world, "hana"), "rolled back");
    assert!(give(&mut world).is_err());
}

#[test]
fn an_old_copy_that_has_signed_offline_notices_the_other_branch() {
    let mut world = introduced();
    give(&mut world).unwrap();
    let old = world.copy("hana");
    give(&mut world).unwrap();
    world.cut("hana", "clinic");
    world.start_from("hana", old, false).unwrap();
    // Two of its own, while it cannot know: longer than the true branch.
    give(&mut world).unwrap();
    give(&mut world).unwrap();
    world.heal("hana", "clinic");
    let _ = world.items("hana", sync("clinic"));
    assert_eq!(standing(&mut world, "hana"), "rolled back", "{:?}", world.notices);
    assert!(give(&mut world).is_err());
}

#[test]
fn a_copied_folder_signs_nothing_until_a_contact_has_shown_that_nobody_went_on() {
    let mut world = introduced();
    give(&mut world).unwrap();
    let copy = world.copy("hana");
    world.cut("hana", "clinic");
    world.start_from("hana", copy, true).unwrap();
    assert_eq!(standing(&mut world, "hana"), "copied");
    let refused = give(&mut world).unwrap_err();
    assert!(refused.next.unwrap().contains("adopt-copy"));
    world.heal("hana", "clinic");
    world.items("hana", sync("clinic")).unwrap();
    assert_eq!(standing(&mut world, "hana"), "sound", "{:?}", world.notices);
    give(&mut world).unwrap();
    nobody_has_forked(&world);
}

#[test]
fn a_copied_folder_whose_original_went_on_stays_silent_though_its_user_says_it_was_moved_later() {
    let mut world = introduced();
    give(&mut world).unwrap();
    let copy = world.copy("hana");
    give(&mut world).unwrap();
    world.start_from("hana", copy.clone(), true).unwrap();
    world.items("hana", sync("clinic")).unwrap();
    assert_eq!(standing(&mut world, "hana"), "rolled back");
    assert!(
        world.items("hana", Command::StoreAdoptCopy).is_err(),
        "a word does not undo what a contact has shown"
    );
    nobody_has_forked(&world);

    // The user's word alone, before any contact.
    world.cut("hana", "clinic");
    world.start_from("hana", copy, true).unwrap();
    world.items("hana", Command::StoreAdoptCopy).unwrap();
    assert_eq!(standing(&mut world, "hana"), "sound");
}

#[test]
fn lost_payloads_come_back_from_reader_and_holder() {
    let mut world = introduced();
    let hana = world.party("hana");
    let record = world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    give(&mut world).unwrap();
    for (at, from) in [("hana", "clinic"), ("clinic", "hana")] {
        world.lose_payload(at, &record);
        let named = world.ask(at, |ticket| Input::Lost(ticket, vec![(record, Harm::Missing)], true)).unwrap();
        let Answer::Items(named) = named else { panic!("names") };
        assert_eq!(named[0]["from"][0], from, "{named:?}");
        let Answer::Inventory(found) = world.ask(at, Input::Inventory).unwrap() else {
            panic!("an inventory")
        };
        world.items(at, sync(from)).unwrap();
        assert!(world.has_payload(at, &record), "{at} has it again; lost were {:?}", found.lost);
        let Answer::Inventory(found) = world.ask(at, Input::Inventory).unwrap() else {
            panic!("an inventory")
        };
        assert!(found.lost.is_empty() && found.faults.is_empty(), "{at}: {:?}", found.faults);
        let Answer::Open(opening) = world.command(at, open(record)).unwrap() else { panic!("an opening") };
        assert_eq!(world.plaintext(at, &opening).unwrap(), "creatinine 612 umol/L");
    }
}

/// Only the holder of a live grant may ask back, and only for what it handed over under it.
#[test]
fn nobody_but_the_holder_is_given_anything_back() {
    let mut world = introduced();
    let hana = world.party("hana");
    let record = world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    let grant = give(&mut world).unwrap();
    let holder = world.keys("hana").device.device();
    assert_eq!(asked_back(&mut world, holder, &grant, record), [record], "the holder is given it");
    let stranger =
        karte_node::keystore::Keys::generate(&mut karte_testnet::world::SeededChance::new("mallory"));
    let mallory = stranger.device.device();
    world.connect_forged("clinic", mallory);
    assert!(asked_back(&mut world, mallory, &grant, record).is_empty(), "a stranger is denied");
    let other = RecordId::from([7; 32]);
    assert!(
        asked_back(&mut world, holder, &grant, other).is_empty(),
        "what was not handed over is not there"
    );
    world.items("hana", Command::GrantRevoke { id: grant.clone(), reason: String::new() }).unwrap();
    assert!(asked_back(&mut world, holder, &grant, record).is_empty(), "nor anything after the end");
}

fn asked_back(world: &mut World, peer: DeviceId, grant: &str, record: RecordId) -> Vec<RecordId> {
    let grant: GrantId = grant.parse().unwrap();
    let accept = accepted(world, grant);
    let wants = vec![Want { record, from: 0, label: true }];
    let fetch = Fetch { grant, accept, wants, back: true, keep: false, urgent: false };
    world.asked_on_a_stream("clinic", peer, fetch.to_bytes().unwrap())
}

/// The acceptance that the clinic sent.
fn accepted(world: &World, grant: GrantId) -> ObjectId {
    let accepts = world.sent.iter().filter_map(|(_, _, body)| match Request::from_bytes(body) {
        Ok(Request::Accept { accept }) => Signed::<Accept>::from_bytes(accept.to_vec()).verify().ok(),
        _ => None,
    });
    accepts.rev().find(|accept| accept.grant == grant).unwrap().id()
}

/// A contact is told what we hold of its log, and nobody is told of another's.
#[test]
fn a_log_is_given_back_to_its_own_party_alone() {
    let mut world = introduced();
    give(&mut world).unwrap();
    let (hana, clinic) = (world.party("hana"), world.party("clinic"));
    let own = Request::Log { of: hana, have: vec![] }.to_bytes().unwrap();
    let reply = world.raw_request("hana", "clinic", own).unwrap();
    let Response::Entries { entries, more } = Response::from_bytes(&reply).unwrap() else {
        panic!("entries")
    };
    assert!(entries.len() >= 2 && !more, "Genesis and Grant");
    let others = Request::Log { of: hana, have: vec![] }.to_bytes().unwrap();
    let kept = world.raw_request("clinic", "hana", others).unwrap();
    assert!(
        matches!(Response::from_bytes(&kept).unwrap(), Response::Entries { .. }),
        "a reader follows it (rule 12)"
    );
    let third = Request::Log { of: clinic, have: vec![] }.to_bytes().unwrap();
    let denied = world.raw_request("hana", "clinic", third).unwrap();
    assert_eq!(Response::from_bytes(&denied).unwrap(), Response::Denied, "she was never its reader");
}
