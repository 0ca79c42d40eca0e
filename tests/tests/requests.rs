//! A clinic asks, a patient answers, in a small world: the product's engine, no sockets, time as we like it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it is surprised"
)]

use karte_node::command::{Approval, Command, Filter, NewRequest};
use karte_node::failure::Kind;
use karte_protocol::chance::Chance;
use karte_protocol::grant::{Onward, Scope};
use karte_protocol::id::PartyId;
use karte_protocol::message::{Request, Response};
use karte_protocol::request::AccessRequest;
use karte_protocol::signed::{By, Verified};
use karte_protocol::time::{DAY_MS, HOUR_MS};
use karte_testnet::cast::{CLINIC, DAEMON};
use karte_testnet::world::{Draft, SeededChance, World};
use serde_json::Value;

/// A patient and a clinic that know each other, and three records.
fn introduced() -> World {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    world.add("clinic", CLINIC).unwrap();
    world.introduce("hana", "clinic").unwrap();
    write(&mut world, "fhir/Observation", "laboratory", "2160-0", "creatinine 612 umol/L");
    write(&mut world, "fhir/Observation", "vital-signs", "29463-7", "weight 62 kg");
    write(&mut world, "dicom/CT", "imaging", "CT", "abdomen");
    world
}

fn sync(world: &mut World) {
    let sync = Command::Sync { contact: Some("clinic".into()), staff: "hana".into() };
    world.items("hana", sync).unwrap();
}

fn write(world: &mut World, kind: &str, category: &str, code: &str, text: &str) {
    let (hana, at_ms) = (world.party("hana"), world.now);
    world.write("hana", hana, &Draft { kind, category, code, at_ms, text }).unwrap();
}

fn kinds(kinds: &[&str]) -> Filter {
    Filter { kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(), ..Filter::default() }
}

fn asking(scope: Filter) -> NewRequest {
    NewRequest {
        contact: "hana".into(),
        scope,
        purpose: "TREAT".into(),
        basis: "consent".into(),
        onward_keep: false,
        expires_ms: 90 * DAY_MS,
        offline_ms: 7 * DAY_MS,
        reason: "before dialysis in Penang".into(),
    }
}

fn ask(world: &mut World, scope: Filter) -> String {
    id(&world.items("clinic", Command::RequestAdd(asking(scope))).unwrap()[0])
}

fn id(item: &Value) -> String {
    item["id"].as_str().unwrap().to_owned()
}

fn all_of(id: &str) -> Approval {
    Approval { id: id.into(), ..Approval::default() }
}

fn approve(world: &mut World, approval: Approval) -> Result<Vec<Value>, karte_node::failure::Failure> {
    world.items("hana", Command::RequestApprove(approval))
}

fn state(world: &mut World, at: &str, id: &str) -> String {
    world.items(at, Command::RequestShow { id: id.into() }).unwrap()[0]["state"].as_str().unwrap().to_owned()
}

fn titles(world: &mut World, at: &str) -> Vec<String> {
    let items = world.items(at, Command::RecordList(Filter::default())).unwrap();
    let mut titles: Vec<String> =
        items.iter().map(|item| item["title"].as_str().unwrap().to_owned()).collect();
    titles.sort();
    titles
}

#[test]
fn the_patient_sees_who_asks_for_what_and_which_records_that_would_be() {
    let mut world = introduced();
    let id = ask(&mut world, kinds(&["fhir"]));
    let listed = world.items("hana", Command::RequestList).unwrap();
    assert_eq!(listed.len(), 1, "it came by itself: {:?}", world.notices);
    let shown = &world.items("hana", Command::RequestShow { id: id.clone() }).unwrap()[0];
    assert_eq!(shown["state"], "waiting");
    assert_eq!(shown["from"], world.party("clinic").to_string());
    assert_eq!((&shown["from_name"], &shown["contact"]), (&"clinic".into(), &"known".into()));
    assert_eq!(shown["reason"], "before dialysis in Penang");
    assert_eq!(shown["would_cover_records"], 2, "the CT is not asked for: {shown}");
    assert_eq!(shown["would_cover_kinds"]["fhir/Observation"], 2);

    let dry = approve(&mut world, Approval { dry_run: true, ..all_of(&id) }).unwrap();
    let sum = dry.last().unwrap();
    assert_eq!((sum["records"].as_u64(), sum["kinds"]["fhir/Observation"].as_u64()), (Some(2), Some(2)));
    let dry: Vec<&str> = dry.iter().filter_map(|item| item["title"].as_str()).collect();
    let mut dry: Vec<String> = dry.into_iter().map(str::to_owned).collect();
    dry.sort();
    assert_eq!(dry, ["creatinine 612 umol/L", "weight 62 kg"]);
    assert!(world.items("hana", Command::GrantList).unwrap().is_empty(), "a dry run signs nothing");
    assert_eq!(state(&mut world, "hana", &id), "waiting");

    let grant = &approve(&mut world, all_of(&id)).unwrap()[0];
    assert_eq!(grant["request"], id.as_str());
    assert_eq!(titles(&mut world, "clinic"), dry, "exactly what the dry run told");
    let told = &world.items("clinic", Command::RequestShow { id: id.clone() }).unwrap()[0];
    assert_eq!((&told["state"], &told["grant"]), (&"approved".into(), &grant["id"]));
}

#[test]
fn an_approval_gives_less_and_never_more() {
    let mut world = introduced();
    let id = ask(&mut world, kinds(&["fhir"]));
    let wider: [(Approval, &str); 5] = [
        (Approval { scope: kinds(&["fhir", "dicom"]), ..all_of(&id) }, "the kind dicom was not asked for"),
        (Approval { expires_ms: Some(91 * DAY_MS), ..all_of(&id) }, "a shorter time"),
        (Approval { offline_ms: Some(8 * DAY_MS), ..all_of(&id) }, "a shorter offline limit"),
        (Approval { scope: kinds(&["fhirx"]), ..all_of(&id) }, "the kind fhirx"),
        (Approval { scope: kinds(&["fhirx"]), dry_run: true, ..all_of(&id) }, "the kind fhirx"),
    ];
    for (approval, named) in wider {
        let refused = approve(&mut world, approval).unwrap_err();
        assert_eq!(refused.kind, Kind::Usage);
        assert!(refused.message.contains(named), "{refused}");
    }
    assert!(world.items("hana", Command::GrantList).unwrap().is_empty(), "nothing was given");
    let narrow = Approval {
        scope: Filter { categories: vec!["laboratory".into()], ..Filter::default() },
        expires_ms: Some(HOUR_MS),
        offline_ms: Some(0),
        ..all_of(&id)
    };
    let grant = &approve(&mut world, narrow).unwrap()[0];
    assert_eq!(grant["scope"]["kinds"][0], "fhir", "what is not narrowed is as asked");
    assert_eq!(titles(&mut world, "clinic"), ["creatinine 612 umol/L"]);
    world.pass(2 * HOUR_MS);
    assert!(titles(&mut world, "clinic").is_empty(), "it counted for an hour");
    assert!(approve(&mut world, all_of(&id)).unwrap_err().message.contains("approved already"));
}

#[test]
fn what_is_held_back_from_an_approval_does_not_go() {
    let mut world = introduced();
    let id = ask(&mut world, kinds(&["fhir", "dicom"]));
    let approval = Approval { exclude: vec!["29463-7".into(), "dicom".into()], ..all_of(&id) };
    approve(&mut world, approval).unwrap();
    assert_eq!(titles(&mut world, "clinic"), ["creatinine 612 umol/L"]);
}

#[test]
fn a_declined_request_is_told_and_a_silent_one_ends_by_itself() {
    let mut world = introduced();
    let (declined, silent) = (ask(&mut world, kinds(&["fhir"])), ask(&mut world, kinds(&["dicom"])));
    let decline = Command::RequestDecline { id: declined.clone(), reason: "ask my daughter".into() };
    world.items("hana", decline).unwrap();
    let told = &world.items("clinic", Command::RequestShow { id: declined.clone() }).unwrap()[0];
    assert_eq!((&told["state"], &told["answer"]), (&"declined".into(), &"ask my daughter".into()));
    assert!(approve(&mut world, all_of(&declined)).is_err(), "a no is a no");
    assert_eq!(state(&mut world, "clinic", &silent), "waiting");
    world.pass(31 * DAY_MS);
    assert_eq!(state(&mut world, "clinic", &silent), "expired");
    assert_eq!(approve(&mut world, all_of(&silent)).unwrap_err().kind, Kind::Refused);
    assert!(world.items("hana", Command::GrantList).unwrap().is_empty());
}

#[test]
fn requests_and_answers_wait_for_a_connection_and_survive_restarts() {
    let mut world = introduced();
    world.cut("hana", "clinic");
    let id = ask(&mut world, kinds(&["fhir"]));
    let copy = world.copy("clinic");
    world.start_from("clinic", copy, false).unwrap();
    assert_eq!(state(&mut world, "clinic", &id), "waiting");
    world.heal("hana", "clinic");
    sync(&mut world);
    assert_eq!(state(&mut world, "hana", &id), "waiting", "it came when they met: {:?}", world.notices);

    world.cut("hana", "clinic");
    world.items("hana", Command::RequestDecline { id: id.clone(), reason: String::new() }).unwrap();
    let copy = world.copy("hana");
    world.start_from("hana", copy, false).unwrap();
    assert_eq!(state(&mut world, "hana", &id), "declined");
    assert_eq!(state(&mut world, "clinic", &id), "waiting", "nobody could tell it");
    world.heal("hana", "clinic");
    sync(&mut world);
    assert_eq!(state(&mut world, "clinic", &id), "declined");
    let answers = |world: &World| {
        let sent = world.sent.iter().filter(|(from, _, _)| from == "hana");
        sent.filter(|(.., body)| matches!(Request::from_bytes(body), Ok(Request::Answer { .. }))).count()
    };
    let before = answers(&world);
    sync(&mut world);
    assert_eq!(answers(&world), before, "an answer that was taken is not sent again");
}

#[test]
fn a_strangers_request_comes_as_text_and_waits_until_it_is_a_contact() {
    let mut world = introduced();
    world.add("penang", CLINIC).unwrap();
    let card = world.items("hana", Command::Card).unwrap()[0]["card"].as_str().unwrap().to_owned();
    world.items("penang", Command::ContactAdd { card, alias: Some("hana".into()) }).unwrap();
    world.cut("hana", "penang");
    let asked = &world.items("penang", Command::RequestAdd(asking(kinds(&["fhir"])))).unwrap()[0];
    let (id, text) = (id(asked), asked["text"].as_str().unwrap().to_owned());
    assert!(text.starts_with("karte-request:"), "{text}");
    let taken = &world.items("hana", Command::RequestTake { text: text.clone() }).unwrap()[0];
    assert_eq!(
        (&taken["contact"], &taken["from"]),
        (&"pending".into(), &world.party("penang").to_string().into())
    );
    world.items("hana", Command::RequestTake { text }).unwrap();
    assert_eq!(world.items("hana", Command::RequestList).unwrap().len(), 1, "taken twice is taken once");

    let refused = approve(&mut world, all_of(&id)).unwrap_err();
    assert_eq!(refused.kind, Kind::Refused);
    assert!(refused.next.unwrap().contains("karte contact add"));
    assert!(approve(&mut world, Approval { dry_run: true, ..all_of(&id) }).is_ok(), "looking is free");
    world.items("hana", Command::ContactAdd { card: "penang".into(), alias: None }).unwrap();
    approve(&mut world, all_of(&id)).unwrap();
    world.heal("hana", "penang");
    world.items("hana", Command::Sync { contact: Some("penang".into()), staff: "hana".into() }).unwrap();
    assert_eq!(state(&mut world, "penang", &id), "approved");
    assert_eq!(titles(&mut world, "penang").len(), 2);
}

#[test]
fn a_text_for_somebody_else_or_too_old_is_refused_by_name() {
    let mut world = introduced();
    world.add("mari", DAEMON).unwrap();
    let asked = world.items("clinic", Command::RequestAdd(asking(kinds(&["fhir"])))).unwrap();
    let text = asked[0]["text"].as_str().unwrap().to_owned();
    let refused = |world: &mut World, at: &str| {
        world.items(at, Command::RequestTake { text: text.clone() }).unwrap_err().message
    };
    assert!(refused(&mut world, "mari").contains("for another party"));
    assert!(refused(&mut world, "clinic").contains("this node's own"));
    let changed = world.items("hana", Command::RequestTake { text: text.replace("AAAA", "AAAB") + "AA" });
    assert_eq!(changed.unwrap_err().kind, Kind::Usage);
    let hana = world.copy("hana");
    world.pass(31 * DAY_MS);
    let without: Vec<_> = hana.into_iter().filter(|row| row.0 != karte_node::store::Table(32)).collect();
    world.start_from("hana", without, false).unwrap();
    assert!(refused(&mut world, "hana").contains("the request ended"));
}

/// A request that the product would not make, signed with the clinic's device.
fn forged(world: &World, change: impl FnOnce(&mut AccessRequest)) -> Vec<u8> {
    let mut request = AccessRequest {
        to: world.party("hana"),
        subject: world.party("hana"),
        scope: Scope { kinds: vec!["fhir".into()], ..Scope::default() },
        purpose: "TREAT".into(),
        basis: "consent".into(),
        duration_ms: DAY_MS,
        offline_ms: DAY_MS,
        onward: Onward::No,
        reason: String::new(),
        nonce: SeededChance::new("forged").salt(),
        at_ms: world.now,
    };
    change(&mut request);
    let keys = world.keys("clinic");
    let by = By { party: Some(world.party("clinic")), r#gen: 0, device: keys.device.device() };
    let signed = Verified::sign(request, by, &keys.device).unwrap();
    Request::Ask { request: signed.bytes().to_vec().into() }.to_bytes().unwrap()
}

#[test]
fn a_peer_fills_no_disk_with_requests_and_learns_nothing_from_a_no() {
    let mut world = introduced();
    let (done, denied) = (Response::Done.to_bytes().unwrap(), Response::Denied.to_bytes().unwrap());
    let mut chance = SeededChance::new("many");
    let mut bodies = Vec::new();
    for _ in 0..20 {
        let nonce = chance.salt();
        bodies.push(forged(&world, |request| request.nonce = nonce));
    }
    for body in &bodies {
        assert_eq!(world.raw_request("clinic", "hana", body.clone()).as_ref(), Some(&done));
    }
    let rows = world.copy("hana");
    assert_eq!(world.raw_request("clinic", "hana", bodies[0].clone()).as_ref(), Some(&done), "said again");
    assert_eq!(world.copy("hana"), rows, "the same request writes nothing");
    let one_more = forged(&world, |_| ());
    assert_eq!(world.raw_request("clinic", "hana", one_more.clone()).as_ref(), Some(&denied), "20 wait");
    assert_eq!(world.items("hana", Command::RequestList).unwrap().len(), 20);

    let first = id(&world.items("hana", Command::RequestList).unwrap()[0]);
    world.items("hana", Command::RequestDecline { id: first, reason: String::new() }).unwrap();
    assert_eq!(
        world.raw_request("clinic", "hana", one_more).as_ref(),
        Some(&done),
        "an answered one gives way"
    );
    assert_eq!(world.items("hana", Command::RequestList).unwrap().len(), 20);
}

#[test]
fn requests_that_are_not_what_they_say_are_denied() {
    let mut world = introduced();
    let denied = Response::Denied.to_bytes().unwrap();
    let other = PartyId::from([7; 32]);
    let now = world.now;
    let wrong: Vec<Vec<u8>> = vec![
        forged(&world, |request| request.to = other),
        forged(&world, |request| request.at_ms = now + HOUR_MS),
        forged(&world, |request| request.at_ms = now - 30 * DAY_MS),
        Request::Ask { request: b"noise".to_vec().into() }.to_bytes().unwrap(),
    ];
    for body in wrong {
        assert_eq!(world.raw_request("clinic", "hana", body).as_ref(), Some(&denied));
    }
    world.add("stranger", DAEMON).unwrap();
    let good = forged(&world, |_| ());
    assert_eq!(world.raw_request("stranger", "hana", good.clone()).as_ref(), Some(&denied));
    assert!(world.items("hana", Command::RequestList).unwrap().is_empty());
    assert_eq!(world.raw_request("clinic", "hana", good), Some(Response::Done.to_bytes().unwrap()));
}

#[test]
fn only_who_was_asked_can_answer() {
    let mut world = introduced();
    world.add("mari", DAEMON).unwrap();
    let card = world.items("clinic", Command::Card).unwrap()[0]["card"].as_str().unwrap().to_owned();
    world.items("mari", Command::ContactAdd { card, alias: None }).unwrap();
    world.items("mari", Command::Sync { contact: None, staff: "mari".into() }).unwrap();
    let id = ask(&mut world, kinds(&["fhir"]));
    let answer = karte_protocol::message::Answer::Declined { reason: "no".into() };
    let body = Request::Answer { request: id.parse().unwrap(), answer }.to_bytes().unwrap();
    world.raw_request("mari", "clinic", body.clone()).unwrap();
    assert_eq!(state(&mut world, "clinic", &id), "waiting");
    world.raw_request("hana", "clinic", body).unwrap();
    assert_eq!(state(&mut world, "clinic", &id), "declined");
}
