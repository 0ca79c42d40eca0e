//! Recovery by keys committed in advance, in a small world: who can, who cannot, and what everybody learns of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it is surprised"
)]

use karte_node::command::{Command, Filter, NewRecovery, WordsKey};
use karte_node::engine::Answer;
use karte_node::failure::{Failure, Kind};
use karte_node::recovery::Words;
use karte_protocol::card;
use karte_protocol::entry::{Act, Entry};
use karte_protocol::id::PartyId;
use karte_protocol::message::{Request, Response};
use karte_protocol::signed::Signed;
use karte_testnet::cast::{CLINIC, DAEMON, lab, observations_to};
use karte_testnet::world::World;
use serde_json::Value;

fn text(item: &Value, name: &str) -> String {
    item[name].as_str().unwrap_or_else(|| panic!("a text {name} in {item}")).to_owned()
}

fn sync(world: &mut World, at: &str, contact: &str) -> Result<Vec<Value>, Failure> {
    world.items(at, Command::Sync { contact: Some(contact.into()), staff: String::new() })
}

fn meets(world: &mut World, one: &str, other: &str) {
    let card = text(&world.items(other, Command::Card).unwrap()[0], "card");
    world.items(one, Command::ContactAdd { card, alias: Some(other.into()) }).unwrap();
    let _ = sync(world, one, other);
}

/// Hana, her clinic and her sister, who know her.
fn three() -> World {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    world.add("clinic", CLINIC).unwrap();
    world.add("sister", CLINIC).unwrap();
    for other in ["clinic", "sister"] {
        meets(&mut world, "hana", other);
    }
    world
}

fn give(world: &mut World, at: &str, contact: &str) -> Result<String, Failure> {
    let items = world.items(at, Command::GrantAdd(observations_to(contact)))?;
    Ok(text(&items[0], "id"))
}

fn status(world: &mut World, at: &str, name: &str) -> String {
    text(&world.items(at, Command::Status).unwrap()[0], name)
}

/// Both say yes, and Hana commits to words and their keys, two of three. Gives the words.
fn sets_up(world: &mut World) -> Words {
    let contacts = vec!["clinic".to_owned(), "sister".to_owned()];
    world.items("hana", Command::RecoveryAsk { contacts: contacts.clone() }).unwrap();
    for keeper in ["clinic", "sister"] {
        world.items(keeper, Command::RecoveryTrust { party: "hana".into(), known: true }).unwrap();
        sync(world, "hana", keeper).unwrap();
    }
    let words = Words::generate().unwrap();
    let done = world.items("hana", setup(Some(words.public().unwrap()), contacts, 2)).unwrap();
    assert_eq!(done[0]["generation"], 1);
    words
}

fn setup(words: Option<WordsKey>, contacts: Vec<String>, threshold: u8) -> Command {
    Command::RecoverySetup(Box::new(NewRecovery { threshold, words, contacts, keys: vec![], dry_run: false }))
}

/// Her machine is gone; a new device begins with her card as the clinic has it. Gives request and code.
fn loses_everything(world: &mut World, new: &str) -> (String, String) {
    for other in ["clinic", "sister"] {
        world.cut("hana", other);
    }
    let item = &world.items("clinic", Command::ContactCard { contact: "hana".into() }).unwrap()[0];
    let log = card::from_text(&text(item, "card")).unwrap().log;
    let entries: Vec<Vec<u8>> = log.in_order().iter().map(|entry| entry.bytes().to_vec()).collect();
    world.add_bare_device(new, &entries, DAEMON).unwrap();
    let item = world.items(new, Command::RecoveryStart).unwrap().remove(0);
    (text(&item, "request"), text(&item, "code"))
}

fn approval(world: &mut World, keeper: &str, request: &str, code: &str) -> Result<String, Failure> {
    let approve = Command::RecoveryApprove { request: request.into(), code: Some(code.into()) };
    Ok(text(&world.items(keeper, approve)?[0], "approval"))
}

fn finish(world: &mut World, at: &str, approvals: &[&str]) -> Result<Vec<Value>, Failure> {
    let approvals = approvals.iter().map(|text| (*text).to_owned()).collect();
    world.items(at, Command::RecoveryFinish { approvals })
}

/// Recovers by clinic and sister, who become the new device's contacts.
fn recovers(world: &mut World, new: &str) {
    let (request, code) = loses_everything(world, new);
    let (one, two) = (
        approval(world, "clinic", &request, &code).unwrap(),
        approval(world, "sister", &request, &code).unwrap(),
    );
    finish(world, new, &[&one, &two]).unwrap();
    for contact in ["clinic", "sister"] {
        sync(world, new, contact).unwrap();
    }
}

fn recoveries(world: &World, at: &str, party: PartyId) -> Vec<Vec<u8>> {
    let entries = world.entries_of(at, party).into_iter();
    let is_recover = |bytes: &Vec<u8>| {
        let entry = Signed::<Entry>::from_bytes(bytes.clone()).verify().unwrap();
        matches!(entry.act, Act::Recover(_))
    };
    entries.filter(is_recover).collect()
}

#[test]
fn a_keeper_answers_with_a_key_only_after_its_users_word() {
    let mut world = three();
    world.items("hana", Command::RecoveryAsk { contacts: vec!["sister".into()] }).unwrap();
    sync(&mut world, "hana", "sister").unwrap();
    assert!(
        world.notices.iter().any(|(at, told)| at == "sister" && told.contains("karte recovery trust hana"))
    );
    let refused = world.items("hana", setup(None, vec!["sister".into()], 1)).unwrap_err();
    assert!(refused.kind == Kind::Refused && refused.message.contains("sister"), "{refused}");
    let asked = Request::RecoveryKey.to_bytes().unwrap();
    let reply = world.raw_request("hana", "sister", asked.clone()).unwrap();
    assert_eq!(Response::from_bytes(&reply).unwrap(), Response::Denied);
    world.items("sister", Command::RecoveryTrust { party: "hana".into(), known: true }).unwrap();
    let reply = world.raw_request("hana", "sister", asked.clone()).unwrap();
    assert!(matches!(Response::from_bytes(&reply).unwrap(), Response::RecoveryKey { .. }));
    let clinic = world.raw_request("clinic", "sister", asked).unwrap();
    assert_eq!(Response::from_bytes(&clinic).unwrap(), Response::Denied, "a yes to one is no yes to another");
}

#[test]
fn two_of_three_bring_a_lost_party_back_and_one_does_not() {
    let mut world = three();
    let hana = world.party("hana");
    let grant = give(&mut world, "hana", "clinic").unwrap();
    let words = sets_up(&mut world);
    assert!(status(&mut world, "hana", "recovery").contains("2 of 3"));
    assert!(world.keys("hana").recovery.seed().is_none(), "the seed of a new node is taken out");
    let again = world.items("clinic", Command::GrantList).unwrap();
    assert!(again.iter().any(|item| item["id"] == grant.as_str() && item["state"] == "ended"));
    assert!(again.iter().any(|item| item["state"] == "active"), "given again at once: {again:?}");

    let (request, code) = loses_everything(&mut world, "new");
    assert_eq!(world.party("new"), hana);
    assert_eq!(status(&mut world, "new", "standing"), "waits for its recovery");
    assert!(give(&mut world, "new", "clinic").is_err(), "it signs nothing yet");
    let by_words = karte_node::recovery::approve_with_words(&request, &words, Some(&code)).unwrap();
    let by_words = text(&by_words, "approval");
    let refused = finish(&mut world, "new", &[&by_words]).unwrap_err();
    assert!(refused.kind == Kind::Refused && refused.message.contains("1 of 2"), "{refused}");
    let refused = finish(&mut world, "new", &[&by_words]).unwrap_err();
    assert!(refused.message.contains("1 of 2"), "the same one twice is one: {refused}");
    let by_clinic = approval(&mut world, "clinic", &request, &code).unwrap();
    let done = finish(&mut world, "new", &[&by_clinic]).unwrap();
    assert_eq!((&done[0]["generation"], &done[0]["grants_given_again"]), (&2.into(), &0.into()), "{done:?}");
    assert_eq!(status(&mut world, "new", "standing"), "sound");
    assert!(status(&mut world, "new", "recovery").contains("2 of 3"), "the set stays");
}

#[test]
fn a_changed_request_and_a_guessed_code_are_refused() {
    let mut world = three();
    sets_up(&mut world);
    let (request, code) = loses_everything(&mut world, "new");
    let shown = Command::RecoveryApprove { request: request.clone(), code: None };
    let shown = world.items("clinic", shown).unwrap();
    assert!(shown[0]["approval"].is_null() && shown[0]["code"].is_null(), "neither is shown: {shown:?}");
    assert_eq!(shown[0]["contact"], "hana");
    let (thiefs, thiefs_code) = {
        let log: Vec<Vec<u8>> = world.entries_of("clinic", world.party("hana")).into_iter().collect();
        let genesis = log.iter().position(|bytes| {
            matches!(Signed::<Entry>::from_bytes(bytes.clone()).verify().unwrap().act, Act::Genesis(_))
        });
        let mut log = log.clone();
        log.swap(0, genesis.unwrap());
        world.add_bare_device("thief", &log, DAEMON).unwrap();
        let item = world.items("thief", Command::RecoveryStart).unwrap().remove(0);
        (text(&item, "request"), text(&item, "code"))
    };
    assert_ne!(code, thiefs_code);
    let refused = approval(&mut world, "clinic", &thiefs, &code).unwrap_err();
    assert!(refused.message.contains("check code"), "what hana reads aloud is not the thief's: {refused}");
    let stranger =
        approval(&mut world, "sister", &request, "apple apple apple apple apple apple").unwrap_err();
    assert_eq!(stranger.kind, Kind::Refused);
    let other = approval(&mut world, "clinic", &thiefs, &thiefs_code).unwrap();
    let refused = finish(&mut world, "new", &[&other]).unwrap_err();
    assert!(refused.message.contains("another request"), "{refused}");
}

#[test]
fn the_old_device_learns_that_it_is_over() {
    let mut world = three();
    sets_up(&mut world);
    recovers(&mut world, "new");
    assert!(
        world.notices.iter().any(|(at, told)| at == "clinic" && told.contains("hana was recovered")),
        "contacts are told"
    );
    for contact in ["clinic", "sister"] {
        world.heal("hana", contact);
    }
    assert_eq!(status(&mut world, "hana", "standing"), "sound", "it cannot know yet");
    let refused = sync(&mut world, "hana", "clinic").unwrap_err();
    assert!(refused.message.contains("another device speaks for it"), "{refused}");
    assert_eq!(status(&mut world, "hana", "standing"), "replaced by a recovery");
    assert!(status(&mut world, "hana", "standing_next").contains("Work with the device"));
    assert!(give(&mut world, "hana", "clinic").is_err(), "it signs nothing any more");
    let now = world.copy("hana");
    world.start_from("hana", now, false).unwrap();
    assert_eq!(status(&mut world, "hana", "standing"), "replaced by a recovery", "over a restart too");
}

/// Nobody but a device that the log names is told of the log without being greeted.
#[test]
fn a_stranger_is_not_told_of_a_log() {
    let mut world = three();
    let hana = world.party("hana");
    let stranger =
        karte_node::keystore::Keys::generate(&mut karte_testnet::world::SeededChance::new("mallory"));
    let mallory = stranger.device.device();
    world.connect_forged("clinic", mallory);
    let asked = Request::Log { of: hana, have: vec![] }.to_bytes().unwrap();
    let reply = world.forged_request("clinic", mallory, asked).unwrap();
    assert_eq!(Response::from_bytes(&reply).unwrap(), Response::Denied);
}

#[test]
fn grants_come_back_from_readers_and_are_given_again_only_when_chosen() {
    let mut world = three();
    let hana = world.party("hana");
    let before = give(&mut world, "hana", "clinic").unwrap();
    world.items("hana", Command::GrantRevoke { id: before, reason: String::new() }).unwrap();
    sets_up(&mut world);
    let ended = Command::RecoveryGrants { grants: vec![], all: false };
    assert!(
        world.items("hana", ended).unwrap().is_empty(),
        "what was revoked before is not to be given again"
    );
    let kept = give(&mut world, "hana", "clinic").unwrap();
    let ended = give(&mut world, "hana", "sister").unwrap();
    world.items("hana", Command::GrantRevoke { id: ended.clone(), reason: String::new() }).unwrap();
    recovers(&mut world, "new");
    let list = |world: &mut World| {
        world.items("new", Command::RecoveryGrants { grants: vec![], all: false }).unwrap()
    };
    let told = list(&mut world);
    assert_eq!(
        told.iter().map(|item| text(item, "id")).collect::<Vec<_>>(),
        std::slice::from_ref(&kept),
        "not what was revoked"
    );
    assert!(text(&told[0], "note").contains("held back"), "what was excluded is not known");
    assert!(world.items("clinic", Command::GrantList).unwrap().iter().all(|grant| grant["state"] == "ended"));
    let all = Command::RecoveryGrants { grants: vec![], all: true };
    assert_eq!(world.items("new", all.clone()).unwrap().len(), 1);
    assert!(list(&mut world).is_empty() && world.items("new", all).unwrap().is_empty(), "once");
    world.write("new", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    sync(&mut world, "clinic", "hana").unwrap();
    let seen = world.items("clinic", Command::RecordList(Filter::default())).unwrap();
    assert_eq!(seen.len(), 1, "the clinic reads under the new grant: {seen:?}");
    let id = text(&seen[0], "id");
    let opened = world.command("clinic", Command::RecordOpen { id, age: false, staff: "Dr Sato".into() });
    assert!(matches!(opened, Ok(Answer::Open(_))));
}

/// What others let her read is offered to the new device again, and her yes with its key takes the old one's place.
#[test]
fn grants_received_are_offered_again_to_the_new_device() {
    let mut world = three();
    let clinic = world.party("clinic");
    let record = world.write("clinic", clinic, &lab("potassium 5.1 mmol/L", world.now)).unwrap();
    let grant = give(&mut world, "clinic", "hana").unwrap();
    sets_up(&mut world);
    world.items("hana", Command::GrantAccept { id: grant.clone(), adopt: false }).unwrap();
    sync(&mut world, "hana", "clinic").unwrap();
    let open = || Command::RecordOpen { id: record.to_string(), age: false, staff: String::new() };
    assert!(matches!(world.command("hana", open()), Ok(Answer::Open(_))));
    recovers(&mut world, "new");
    world.items("new", Command::GrantAccept { id: grant, adopt: false }).unwrap();
    sync(&mut world, "new", "clinic").unwrap();
    assert!(matches!(world.command("new", open()), Ok(Answer::Open(_))), "{:?}", world.notices);
}

/// An opening is handed to its own holder alone.
#[test]
fn openings_are_handed_back_to_their_holder_alone() {
    let mut world = three();
    give(&mut world, "hana", "clinic").unwrap();
    meets(&mut world, "sister", "clinic");
    let asked = Request::Openings { after: None }.to_bytes().unwrap();
    let handed = |world: &mut World, from: &str| {
        let reply = world.raw_request(from, "clinic", asked.clone()).unwrap();
        match Response::from_bytes(&reply).unwrap() {
            Response::Openings { openings, .. } => openings.len(),
            other => panic!("openings, got {other:?}"),
        }
    };
    assert_eq!(handed(&mut world, "hana"), 1);
    assert_eq!(handed(&mut world, "sister"), 0);
}

#[test]
fn a_recovery_survives_a_stop_at_any_point() {
    let mut world = three();
    sets_up(&mut world);
    let (request, code) = loses_everything(&mut world, "new");
    let restart = |world: &mut World| {
        let rows = world.copy("new");
        world.start_from("new", rows, false).unwrap();
    };
    restart(&mut world);
    let again = world.items("new", Command::RecoveryStart).unwrap();
    assert_eq!(text(&again[0], "request"), request, "the request is the same one");
    let one = approval(&mut world, "clinic", &request, &code).unwrap();
    finish(&mut world, "new", &[&one]).unwrap_err();
    restart(&mut world);
    assert_eq!(world.items("new", Command::RecoveryStart).unwrap()[0]["approvals"], 1, "approvals are kept");
    let two = approval(&mut world, "sister", &request, &code).unwrap();
    finish(&mut world, "new", &[&two]).unwrap();
    let hana = world.party("new");
    let signed = recoveries(&world, "new", hana);
    restart(&mut world);
    assert_eq!(recoveries(&world, "new", hana), signed, "signed once");
    assert!(finish(&mut world, "new", &[&one, &two]).is_err(), "and never again");
    for contact in ["clinic", "sister"] {
        sync(&mut world, "new", contact).unwrap();
        assert_eq!(recoveries(&world, contact, hana), signed, "what is sent are these bytes");
    }
}

/// Keepers that were fooled twice: both recoveries are valid, so neither counts.
#[test]
fn two_recoveries_are_a_dispute_and_that_is_said() {
    let mut world = three();
    let words = sets_up(&mut world);
    let (request, code) = loses_everything(&mut world, "new");
    let by = |request: &str, code: &str| {
        text(&karte_node::recovery::approve_with_words(request, &words, Some(code)).unwrap(), "approval")
    };
    let one = approval(&mut world, "clinic", &request, &code).unwrap();
    let other = {
        let log: Vec<Vec<u8>> = karte_protocol::recovery::RecoveryText::from_text(&request)
            .map(|request: karte_protocol::recovery::RecoveryRequest| {
                request.identity.iter().map(|b| b.to_vec()).collect()
            })
            .unwrap();
        world.add_bare_device("other", &log, DAEMON).unwrap();
        world.items("other", Command::RecoveryStart).unwrap().remove(0)
    };
    let second = approval(&mut world, "sister", &text(&other, "request"), &text(&other, "code")).unwrap();
    finish(&mut world, "new", &[&one, &by(&request, &code)]).unwrap();
    finish(&mut world, "other", &[&second, &by(&text(&other, "request"), &text(&other, "code"))]).unwrap();
    let _ = sync(&mut world, "new", "clinic");
    meets(&mut world, "other", "clinic");
    assert!(
        world
            .notices
            .iter()
            .any(|(at, told)| at == "clinic" && told.contains("two recoveries of hana compete")),
        "{:?}",
        world.notices
    );
    let shown = world.items("clinic", Command::ContactList).unwrap();
    assert!(
        shown
            .iter()
            .any(|contact| contact["standing"].as_str().is_some_and(|told| told.contains("disputed")))
    );
    let _ = sync(&mut world, "new", "clinic");
    assert_eq!(status(&mut world, "new", "standing"), "disputed");
    assert!(status(&mut world, "new", "standing_next").contains("new node"));
    assert!(give(&mut world, "new", "clinic").is_err());
}

#[test]
fn a_change_of_the_keys_needs_the_present_ones_and_a_keeper_offline_will_do() {
    let mut world = three();
    let words = sets_up(&mut world);
    let party = world.party("hana").to_string();
    let key = world.items("clinic", Command::RecoveryTrust { party, known: false }).unwrap();
    let new = NewRecovery { threshold: 1, keys: vec![text(&key[0], "key")], ..NewRecovery::default() };
    let asked = world.items("hana", Command::RecoverySetup(Box::new(new))).unwrap();
    let (request, code) = (text(&asked[0], "request"), text(&asked[0], "code"));
    assert_eq!(status(&mut world, "hana", "standing"), "sound", "she goes on meanwhile");
    let one = karte_node::recovery::approve_with_words(&request, &words, Some(&code)).unwrap();
    let two = approval(&mut world, "sister", &request, &code).unwrap();
    let done = finish(&mut world, "hana", &[&text(&one, "approval"), &two]).unwrap();
    assert_eq!(done[0]["generation"], 2);
    assert!(status(&mut world, "hana", "recovery").contains("1 of 1"));
    for wrong in [0, 4] {
        let new =
            NewRecovery { threshold: wrong, keys: vec![text(&key[0], "key")], ..NewRecovery::default() };
        let refused = world.items("hana", Command::RecoverySetup(Box::new(new))).unwrap_err();
        assert_eq!(refused.kind, Kind::Usage, "a threshold of {wrong}");
    }
}

#[test]
fn a_folder_of_a_newer_karte_is_refused_by_name() {
    use karte_node::store::Table;
    let mut world = three();
    let mut rows = world.copy("hana");
    let name = b"version of rows".to_vec();
    let row = rows.iter_mut().find(|row| row.0 == Table(16) && row.2 == name).expect("the version is kept");
    row.3 = vec![0x18, 99];
    let refused = world.start_from("hana", rows, false).unwrap_err();
    assert!(refused.message.contains("newer karte") && refused.next.is_some(), "{refused}");
}
