//! Several devices of one party in a small world: joining, telling each other, serving for each other, and ending.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it is surprised"
)]

use karte_node::command::{Command, Filter};
use karte_node::engine::{Answer, Policy};
use karte_protocol::consent::Status;
use karte_protocol::entry::{Act, Device, Entry};
use karte_protocol::id::{Digest, PartyId, RecordId};
use karte_protocol::keys::DeviceKey;
use karte_protocol::message::{Request, Response};
use karte_protocol::own::{Invite, OwnItem, join_proof};
use karte_protocol::signed::{By, Signed, Verified};
use karte_protocol::time::{DAY_MS, HOUR_MS, SECOND_MS};
use karte_testnet::cast::{CLINIC, DAEMON, lab, observations_to, open, sync};
use karte_testnet::world::World;
use serde_json::Value;

/// Hana's laptop, and a clinic that she knows.
fn introduced() -> World {
    let mut world = World::new();
    world.add("laptop", DAEMON).unwrap();
    world.add("clinic", CLINIC).unwrap();
    world.introduce("laptop", "clinic").unwrap();
    world
}

/// The same, with her telephone beside it.
fn with_phone() -> World {
    let mut world = introduced();
    world.add_device("phone", "laptop", DAEMON).unwrap();
    world.pass(SECOND_MS);
    world
}

fn give(world: &mut World, from: &str) -> Result<String, karte_node::failure::Failure> {
    let items = world.items(from, Command::GrantAdd(observations_to("clinic")))?;
    Ok(items[0]["id"].as_str().unwrap().to_owned())
}

fn records(world: &mut World, at: &str) -> Vec<String> {
    let items = world.items(at, Command::RecordList(Filter::default())).unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

fn reads(world: &mut World, at: &str, record: RecordId) -> Option<String> {
    match world.command(at, open(record)) {
        Ok(Answer::Open(opening)) => world.plaintext(at, &opening).ok(),
        _ => None,
    }
}

fn devices(world: &mut World, at: &str) -> Vec<Value> {
    world.items(at, Command::DeviceList).unwrap()
}

fn state_of(world: &mut World, at: &str, of: &str) -> String {
    let device = world.keys(of).device.device().to_hex();
    let all = devices(world, at);
    all.iter().find(|item| item["device"] == device).unwrap()["state"].as_str().unwrap().to_owned()
}

fn status(world: &mut World, at: &str) -> Value {
    world.items(at, Command::Status).unwrap().remove(0)
}

fn state_of_grant(world: &mut World, at: &str, id: &str) -> String {
    let items = world.items(at, Command::GrantList).unwrap();
    let found = items.iter().find(|item| item["id"] == id);
    found.map_or("absent".into(), |item| item["state"].as_str().unwrap().to_owned())
}

fn remove(of: &str, world: &World) -> Command {
    Command::DeviceRemove { device: world.keys(of).device.device().to_hex(), last_valid_seq: None }
}

// --- joining

#[test]
fn an_invitation_lets_in_one_device_once_and_not_for_ever() {
    let mut world = introduced();
    let invited = world.items("laptop", Command::DeviceInvite { for_ms: HOUR_MS }).unwrap();
    let text = invited[0]["invite"].as_str().unwrap().to_owned();
    world.join("phone", "laptop", &text, DAEMON).unwrap();
    assert_eq!(world.party("phone"), world.party("laptop"), "the same party");
    let refused = world.join("thief", "laptop", &text, DAEMON).unwrap_err();
    assert!(refused.message.contains("used by another device"), "{refused}");
    world.join("phone", "laptop", &text, DAEMON).expect("an answer that was lost is given again");
    assert_eq!(
        devices(&mut world, "laptop").len(),
        2,
        "the thief is none: {:?}",
        devices(&mut world, "laptop")
    );

    let late = world.items("laptop", Command::DeviceInvite { for_ms: HOUR_MS }).unwrap();
    let late = late[0]["invite"].as_str().unwrap().to_owned();
    world.pass(HOUR_MS);
    assert!(world.join("tablet", "laptop", &late, DAEMON).unwrap_err().message.contains("run out"));
    // Its own clock is the joiner's affair: the inviter refuses by its own.
    let asked = join_request(&late, 9, None);
    let denied = world.forged_request("laptop", asked.0, asked.1).unwrap();
    assert_eq!(Response::from_bytes(&denied).unwrap(), Response::Denied);
}

fn join_request(text: &str, seed: u8, claimed: Option<u8>) -> (karte_protocol::id::DeviceId, Vec<u8>) {
    let (invite, _) = Invite::from_text(text).unwrap();
    let device = DeviceKey::from_seed(&[seed; 32]).device();
    let claimed = claimed.map_or(device, |seed| DeviceKey::from_seed(&[seed; 32]).device());
    let recipient = karte_protocol::keys::SealingKey::from_seed(&[seed; 32]).recipient();
    let named = Device { device: claimed, recipients: vec![recipient] };
    let proof = Digest::from(join_proof(&invite.secret, &named).unwrap());
    (device, Request::Join { device: named, proof }.to_bytes().unwrap())
}

#[test]
fn whoever_has_no_invitation_is_denied() {
    let mut world = introduced();
    let text = world.items("laptop", Command::DeviceInvite { for_ms: HOUR_MS }).unwrap();
    let text = text[0]["invite"].as_str().unwrap().to_owned();
    let (device, body) = join_request(&text, 9, Some(8));
    let denied = world.forged_request("laptop", device, body).unwrap();
    assert_eq!(
        Response::from_bytes(&denied).unwrap(),
        Response::Denied,
        "for another device than the connection's"
    );
    let Request::Join { device: named, .. } = Request::from_bytes(&join_request(&text, 9, None).1).unwrap()
    else {
        panic!("a join")
    };
    let guess = Request::Join { device: named, proof: Digest::from([1; 32]) }.to_bytes().unwrap();
    let denied = world.forged_request("laptop", device, guess).unwrap();
    assert_eq!(Response::from_bytes(&denied).unwrap(), Response::Denied, "with a guessed proof");
    assert_eq!(devices(&mut world, "laptop").len(), 1);
}

// --- telling each other

#[test]
fn what_is_there_before_and_after_joining_is_on_both() {
    let mut world = introduced();
    let hana = world.party("laptop");
    let before = world.write("laptop", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    let grant = give(&mut world, "laptop").unwrap();
    world.add_device("phone", "laptop", DAEMON).unwrap();
    world.pass(SECOND_MS);
    assert_eq!(records(&mut world, "phone"), [before.to_hex()], "{:?}", world.notices);
    let after = world.write("phone", hana, &lab("potassium 6.1 mmol/L", world.now)).unwrap();
    let later = world.write("laptop", hana, &lab("urea 21 mmol/L", world.now)).unwrap();
    for at in ["laptop", "phone"] {
        for (record, text) in
            [(before, "creatinine 612 umol/L"), (after, "potassium 6.1 mmol/L"), (later, "urea 21 mmol/L")]
        {
            assert_eq!(reads(&mut world, at, record).as_deref(), Some(text), "on the {at}");
        }
        assert_eq!(state_of_grant(&mut world, at, &grant), "active", "on the {at}");
        let contacts = world.items(at, Command::ContactList).unwrap();
        assert_eq!(contacts[0]["alias"], "clinic", "on the {at}");
    }
    assert_eq!(records(&mut world, "clinic").len(), 3, "and all of it is the clinic's to read");
    // Nothing is told twice without need: the world has come to rest, and stays so.
    let said = world.sent.len();
    world.pass(SECOND_MS);
    assert_eq!(world.sent.len(), said, "{:?}", world.sent.last().map(|(from, to, _)| (from, to)));
}

#[test]
fn a_grant_given_on_one_device_is_served_by_the_other() {
    let mut world = with_phone();
    world.cut("laptop", "clinic");
    let hana = world.party("laptop");
    let record = world.write("laptop", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    give(&mut world, "laptop").unwrap();
    world.pass(SECOND_MS);
    assert_eq!(
        records(&mut world, "clinic"),
        [record.to_hex()],
        "through the telephone: {:?}",
        world.notices
    );
    assert!(reads(&mut world, "clinic", record).is_some());
    let more = world.write("laptop", hana, &lab("urea 21 mmol/L", world.now)).unwrap();
    assert!(world.has_payload("clinic", &more), "what comes in on the laptop is pushed by the telephone");
    // The audit is the party's, wherever the reader asked.
    for at in ["laptop", "phone"] {
        let audit = world.items(at, Command::AuditList).unwrap();
        let events: Vec<&str> = audit.iter().filter_map(|line| line["event"].as_str()).collect();
        assert!(events.contains(&"released") && events.contains(&"opened"), "at the {at}: {events:?}");
    }
    // And the telephone goes: the laptop serves what the telephone served, on a shelf of its own.
    world.cut("phone", "clinic");
    world.heal("laptop", "clinic");
    let last = world.write("laptop", hana, &lab("sodium 140 mmol/L", world.now)).unwrap();
    world.items("clinic", sync("hana-or-laptop")).unwrap_err();
    let contact =
        world.items("clinic", Command::ContactList).unwrap()[0]["alias"].as_str().unwrap().to_owned();
    world.items("clinic", sync(&contact)).unwrap();
    assert!(world.has_payload("clinic", &last), "{:?}", world.notices);
    assert_eq!(records(&mut world, "clinic").len(), 3, "each once, though two shelves hand them over");
}

#[test]
fn a_revocation_on_one_device_ends_serving_on_the_other_and_reaches_the_reader_through_it() {
    let mut world = with_phone();
    let hana = world.party("laptop");
    let record = world.write("laptop", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    let grant = give(&mut world, "laptop").unwrap();
    world.cut("laptop", "clinic");
    world.pass(SECOND_MS);
    assert!(world.has_payload("clinic", &record));
    world.items("laptop", Command::GrantRevoke { id: grant.clone(), reason: String::new() }).unwrap();
    assert_eq!(state_of_grant(&mut world, "phone", &grant), "revoked");
    assert!(!world.has_payload("clinic", &record), "the telephone told the clinic: {:?}", world.notices);
}

#[test]
fn a_reader_reads_on_every_device_and_stops_on_every_device() {
    let mut world = introduced();
    world.add_device("ward", "clinic", CLINIC).unwrap();
    let hana = world.party("laptop");
    let record = world.write("laptop", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    let grant = give(&mut world, "laptop").unwrap();
    world.pass(SECOND_MS);
    assert_eq!(reads(&mut world, "clinic", record).as_deref(), Some("creatinine 612 umol/L"));
    assert_eq!(
        reads(&mut world, "ward", record).as_deref(),
        Some("creatinine 612 umol/L"),
        "the ward's device has the reading key too: {:?}",
        world.notices
    );
    // The key is in no message as it is.
    for (_, _, body) in &world.sent {
        assert!(!body.windows(16).any(|window| window == b"AGE-SECRET-KEY-1"), "no key in the clear");
    }
    world.cut("ward", "laptop");
    world.items("laptop", Command::GrantRevoke { id: grant.clone(), reason: String::new() }).unwrap();
    assert!(reads(&mut world, "clinic", record).is_none());
    assert!(reads(&mut world, "ward", record).is_none(), "ended on one, ended on the other");
    assert!(!world.has_payload("ward", &record));
    assert_eq!(state_of_grant(&mut world, "ward", &grant), "ended");
}

#[test]
fn a_contact_that_is_removed_on_one_device_is_removed_on_the_other() {
    let mut world = with_phone();
    assert_eq!(world.items("phone", Command::ContactList).unwrap().len(), 1);
    world.pass(SECOND_MS);
    world.items("phone", Command::ContactRemove { contact: "clinic".into() }).unwrap();
    assert_eq!(world.items("laptop", Command::ContactList).unwrap().len(), 0, "{:?}", world.notices);
    world.pass(SECOND_MS);
    assert_eq!(world.items("phone", Command::ContactList).unwrap().len(), 0, "and does not come back");
}

// --- rule 7 with several devices

#[test]
fn a_device_kept_from_its_sibling_stops_at_the_bound_and_stays_stopped() {
    let mut world = with_phone();
    let hana = world.party("laptop");
    let record = world.write("laptop", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    give(&mut world, "laptop").unwrap();
    world.pass(SECOND_MS);
    world.cut("laptop", "phone");
    world.cut("laptop", "clinic");
    world.pass(6 * DAY_MS);
    assert_eq!(status(&mut world, "phone")["vouches"], true, "six days are within seven");
    assert!(reads(&mut world, "clinic", record).is_some(), "the telephone vouches still");
    world.pass(2 * DAY_MS);
    assert_eq!(status(&mut world, "phone")["vouches"], false);
    assert!(reads(&mut world, "clinic", record).is_some(), "its last word was within the bound");
    let said = statuses(&world, "phone").len();
    let late = world.write("phone", hana, &lab("urea 21 mmol/L", world.now)).unwrap();
    world.pass(6 * HOUR_MS);
    world.pass(7 * HOUR_MS);
    assert_eq!(statuses(&world, "phone").len(), said, "no Status is signed past the bound");
    assert!(!world.has_payload("clinic", &late), "nothing is served past the bound");
    let audit = world.items("phone", Command::AuditList).unwrap();
    let refused = audit.iter().filter(|line| line["event"] == "refused");
    let notes: Vec<&str> = refused.filter_map(|line| line["note"].as_str()).collect();
    assert!(notes.iter().any(|note| note.contains("offline limit")), "its user is told why: {notes:?}");
    // Not after a restart either.
    let rows = world.copy("phone");
    world.start_from("phone", rows, false).unwrap();
    world.pass(HOUR_MS);
    assert_eq!(status(&mut world, "phone")["vouches"], false, "a restart forgets nothing");
    assert!(!world.has_payload("clinic", &late));
    world.pass(7 * DAY_MS);
    assert!(reads(&mut world, "clinic", record).is_none(), "and so the reader stops as well");
    world.heal("laptop", "phone");
    world.pass(5 * 60 * SECOND_MS + SECOND_MS);
    assert_eq!(status(&mut world, "phone")["vouches"], true, "they have met: {:?}", world.notices);
    world.pass(10 * 60 * SECOND_MS);
    assert!(world.has_payload("clinic", &late), "and the telephone serves again: {:?}", world.notices);
}

#[test]
fn a_device_that_does_not_know_of_a_grant_prolongs_nothing_under_it() {
    let mut world = with_phone();
    let hana = world.party("laptop");
    world.cut("laptop", "phone");
    let record = world.write("laptop", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    give(&mut world, "laptop").unwrap();
    world.pass(SECOND_MS);
    assert!(reads(&mut world, "clinic", record).is_some());
    // From now on the clinic hears of the telephone alone, which has not met the laptop since.
    world.cut("laptop", "clinic");
    world.pass(6 * DAY_MS);
    assert!(reads(&mut world, "clinic", record).is_some(), "six days are within seven");
    let said = statuses(&world, "phone").len();
    world.pass(2 * DAY_MS);
    assert!(statuses(&world, "phone").len() > said, "it vouches for what it knows");
    assert!(reads(&mut world, "clinic", record).is_none(), "it cannot know whether the laptop has revoked");
    world.heal("laptop", "phone");
    world.pass(5 * 60 * SECOND_MS + SECOND_MS);
    world.pass(DAY_MS / 4 + SECOND_MS);
    assert!(reads(&mut world, "clinic", record).is_some(), "now it knows: {:?}", world.notices);
}

/// The Statuses that a node has sent by themselves or in a Hello.
fn statuses(world: &World, from: &str) -> Vec<Status> {
    let sent = world.sent.iter().filter(|(sender, ..)| sender == from);
    let bytes = sent.filter_map(|(_, _, body)| match Request::from_bytes(body) {
        Ok(Request::Status { status }) => Some(status),
        Ok(Request::Hello(hello)) => Some(hello.status),
        _ => None,
    });
    bytes
        .filter_map(|bytes| Some(Signed::<Status>::from_bytes(bytes.to_vec()).verify().ok()?.clone_body()))
        .collect()
}

trait CloneBody {
    fn clone_body(&self) -> Status;
}

impl CloneBody for Verified<Status> {
    fn clone_body(&self) -> Status {
        Status::clone(self)
    }
}

#[test]
fn a_device_that_has_just_joined_vouches_for_nothing_before_it_knows_the_log() {
    let mut world = introduced();
    give(&mut world, "laptop").unwrap();
    let invited = world.items("laptop", Command::DeviceInvite { for_ms: HOUR_MS }).unwrap();
    let text = invited[0]["invite"].as_str().unwrap().to_owned();
    // Joined, and never connected as a device of the party.
    let phone = Policy { live: false, ..DAEMON };
    world.join("phone", "laptop", &text, phone).unwrap();
    assert_eq!(status(&mut world, "phone")["vouches"], false);
    assert_eq!(status(&mut world, "laptop")["vouches"], true, "it has heard the new one at its joining");
}

// --- ending

#[test]
fn a_stolen_device_is_removed_and_what_it_granted_beyond_is_void_at_the_clinic() {
    let mut world = with_phone();
    let hana = world.party("laptop");
    let record = world.write("laptop", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    let before = give(&mut world, "phone").unwrap();
    let library = library_of(&world, "laptop");
    // Stolen: cut off from the laptop, it grants on.
    world.cut("laptop", "phone");
    let beyond = give(&mut world, "phone").unwrap();
    assert_eq!(state_of_grant(&mut world, "clinic", &beyond), "active");
    let removed = world.items("laptop", remove("phone", &world)).unwrap();
    assert_eq!(state_of(&mut world, "laptop", "phone"), "removed");
    assert_eq!(state_of_grant(&mut world, "clinic", &beyond), "ended", "{removed:?} {:?}", world.notices);
    let ended = world.items("clinic", Command::GrantShow { id: beyond }).unwrap();
    assert!(ended[0]["ended"].as_str().unwrap().contains("void"), "{ended:?}");
    assert_eq!(state_of_grant(&mut world, "clinic", &before), "active", "what it gave before stays");
    assert!(reads(&mut world, "clinic", record).is_some());
    assert!(library_of(&world, "laptop").0 > library.0, "the library has a new number");
    // The thief cannot end the laptop's word, and reads nothing new.
    world.heal("laptop", "phone");
    world.pass(6 * 60 * SECOND_MS);
    assert_eq!(
        status(&mut world, "phone")["standing"],
        "removed",
        "it has learned of it: {:?}",
        world.notices
    );
    let refused = give(&mut world, "phone").unwrap_err();
    assert!(refused.message.contains("removed it"), "{refused}");
    let later = world.write("laptop", hana, &lab("urea 21 mmol/L", world.now)).unwrap();
    world.pass(6 * 60 * SECOND_MS);
    assert!(!world.has_payload("phone", &later), "nothing new goes there");
}

/// Number of the newest library statement, and to how many it was told.
fn library_of(world: &World, at: &str) -> (u32, usize) {
    let statement =
        world.copy(at).into_iter().find(|row| row.0 == karte_node::store::Table(16) && row.2 == b"library");
    let library =
        Signed::<karte_protocol::consent::Library>::from_bytes(statement.unwrap().3).verify().unwrap();
    (library.n, library.wraps.len())
}

#[test]
fn a_removed_device_opens_no_library_key_that_comes_after() {
    let mut world = with_phone();
    let old = world.keys("phone");
    world.cut("laptop", "phone");
    world.items("laptop", remove("phone", &world)).unwrap();
    let rows = world.copy("laptop").into_iter();
    let row = rows.clone().find(|row| row.0 == karte_node::store::Table(16) && row.2 == b"library").unwrap();
    let library = Signed::<karte_protocol::consent::Library>::from_bytes(row.3).verify().unwrap();
    let opened = karte_protocol::seal::open_with(&library.wraps, &[&old.sealing], 64 * 1024);
    assert!(opened.is_err(), "the wraps are not for it");
    // And what comes later does not go back to the key that it knows.
    world.add_device("tablet", "laptop", DAEMON).unwrap();
    world.pass(SECOND_MS);
    for at in ["laptop", "tablet"] {
        let rows = world.copy(at).into_iter();
        let row =
            rows.clone().find(|row| row.0 == karte_node::store::Table(16) && row.2 == b"library").unwrap();
        let newer = Signed::<karte_protocol::consent::Library>::from_bytes(row.3).verify().unwrap();
        assert_eq!(newer.recipient, library.recipient, "at the {at}");
    }
    assert_ne!(
        Some(&library.recipient),
        world.keys("laptop").library.last().map(|key| key.recipient()).as_ref()
    );
}

#[test]
fn acceptances_of_a_removed_device_are_given_anew_with_fresh_keys() {
    let mut world = introduced();
    world.add_device("ward", "clinic", CLINIC).unwrap();
    world.pass(SECOND_MS);
    world.cut("clinic", "laptop");
    let hana = world.party("laptop");
    let record = world.write("laptop", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    give(&mut world, "laptop").unwrap();
    world.pass(SECOND_MS);
    assert!(reads(&mut world, "ward", record).is_some(), "the ward accepted: {:?}", world.notices);
    world.heal("clinic", "laptop");
    world.pass(6 * 60 * SECOND_MS);
    world.items("clinic", remove("ward", &world)).unwrap();
    world.pass(6 * 60 * SECOND_MS);
    assert!(reads(&mut world, "clinic", record).is_some(), "the clinic reads on: {:?}", world.notices);
    let later = world.write("laptop", hana, &lab("urea 21 mmol/L", world.now)).unwrap();
    world.pass(6 * 60 * SECOND_MS);
    assert!(
        reads(&mut world, "clinic", later).is_some(),
        "under an acceptance of its own: {:?}",
        world.notices
    );
    assert!(!world.has_payload("ward", &later));
}

#[test]
fn three_devices_tell_each_other_over_the_one_between() {
    let mut world = with_phone();
    let hana = world.party("laptop");
    let record = world.write("laptop", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    world.add_device("tablet", "phone", DAEMON).unwrap();
    world.cut("laptop", "tablet");
    world.pass(SECOND_MS);
    assert_eq!(
        reads(&mut world, "tablet", record).as_deref(),
        Some("creatinine 612 umol/L"),
        "{:?}",
        world.notices
    );
    let back = world.write("tablet", hana, &lab("urea 21 mmol/L", world.now)).unwrap();
    world.pass(SECOND_MS);
    assert_eq!(reads(&mut world, "laptop", back).as_deref(), Some("urea 21 mmol/L"), "{:?}", world.notices);
    let listed: Vec<usize> = ["laptop", "phone", "tablet"].map(|at| devices(&mut world, at).len()).to_vec();
    assert_eq!(listed, [3, 3, 3]);
}

// --- forks

#[test]
fn a_fork_of_an_own_device_is_proven_and_shows() {
    let mut world = with_phone();
    let old = world.copy("phone");
    give(&mut world, "phone").unwrap();
    world.pass(SECOND_MS);
    // An old copy of the telephone, alone, grants too.
    world.cut("phone", "laptop");
    world.cut("phone", "clinic");
    world.start_from("phone", old, false).unwrap();
    give(&mut world, "phone").unwrap();
    let branch = entries_of_device(&world, "phone", "phone");
    let other = entries_of_device(&world, "laptop", "phone");
    assert_ne!(branch, other, "two branches");
    world.heal("phone", "laptop");
    world.pass(6 * 60 * SECOND_MS);
    assert_eq!(status(&mut world, "phone")["standing"], "rolled back", "{:?}", world.notices);
    // The copy says nothing more; its branch comes by whoever holds it.
    let party = world.party("laptop");
    let entries = branch.iter().map(|bytes| bytes.clone().into()).collect();
    let body = Request::Entries { of: party, entries }.to_bytes().unwrap();
    world.connect_forged("laptop", world.keys("clinic").device.device());
    let _ = tell_own(&mut world, party, body);
    assert_eq!(state_of(&mut world, "laptop", "phone"), "forked", "{:?}", world.notices);
    assert_eq!(status(&mut world, "laptop")["devices_forked"].as_array().unwrap().len(), 1);
    let proofs = world.entries_of("clinic", party).into_iter().filter(|bytes| {
        let entry = Signed::<Entry>::from_bytes(bytes.clone()).verify().unwrap();
        matches!(entry.act, Act::Fork { .. })
    });
    assert_eq!(proofs.count(), 1, "the proof has spread to the clinic");
}

/// The branch is told by a third device of the party that has seen it.
fn tell_own(world: &mut World, party: PartyId, body: Vec<u8>) -> Option<Vec<u8>> {
    world.add_device("tablet", "laptop", DAEMON).unwrap();
    world.pass(SECOND_MS);
    assert_eq!(world.party("tablet"), party);
    world.raw_request("tablet", "laptop", body)
}

fn entries_of_device(world: &World, at: &str, of: &str) -> Vec<Vec<u8>> {
    let device = world.keys(of).device.device();
    let party = world.party(of);
    let mut entries: Vec<_> = world
        .entries_of(at, party)
        .into_iter()
        .map(|bytes| Signed::<Entry>::from_bytes(bytes).verify().unwrap())
        .filter(|entry| entry.by().device == device)
        .collect();
    entries.sort_by_key(|entry| entry.seq);
    entries.iter().map(|entry| entry.bytes().to_vec()).collect()
}

// --- hostile

#[test]
fn nobody_else_is_told_what_own_devices_tell_each_other() {
    let mut world = with_phone();
    let ask = Request::Own { from: 0, there: 0 }.to_bytes().unwrap();
    let reply = world.raw_request("phone", "laptop", ask.clone()).unwrap();
    let Response::Own { items, .. } = Response::from_bytes(&reply).unwrap() else { panic!("items") };
    assert!(items.iter().any(|item| matches!(item, OwnItem::Contact { .. })));
    let denied = Response::Denied.to_bytes().unwrap();
    assert_eq!(world.raw_request("clinic", "laptop", ask.clone()).unwrap(), denied, "a contact");
    let stranger = DeviceKey::from_seed(&[9; 32]).device();
    world.connect_forged("laptop", stranger);
    assert_eq!(world.forged_request("laptop", stranger, ask).unwrap(), denied, "a stranger");
}

#[test]
fn a_stranger_cannot_say_that_a_device_has_ended() {
    let mut world = with_phone();
    let forger = DeviceKey::from_seed(&[9; 32]);
    let party = world.party("laptop");
    let laptop = world.keys("laptop").device.device();
    let act = Act::RemoveDevice { device: laptop, last_valid_seq: 0 };
    let entry = Entry { seq: 0, prev: None, at_ms: world.now, act };
    let by = By { party: Some(party), r#gen: 0, device: forger.device() };
    let forged = Verified::sign(entry, by, &forger).unwrap();
    let body = Request::Entries { of: party, entries: vec![forged.bytes().to_vec().into()] };
    world.connect_forged("laptop", forger.device());
    let denied = world.forged_request("laptop", forger.device(), body.to_bytes().unwrap()).unwrap();
    assert_eq!(Response::from_bytes(&denied).unwrap(), Response::Denied);
    assert_eq!(status(&mut world, "laptop")["standing"], "sound");
}
