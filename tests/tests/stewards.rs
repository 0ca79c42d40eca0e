//! Stewards in a small world: what they keep, whom they serve, and when they stop.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it is surprised"
)]

use karte_node::command::{Command, NewGrant};
use karte_node::engine::{Answer, Harm, Input, Policy};
use karte_node::failure::Kind;
use karte_protocol::consent::Status;
use karte_protocol::id::RecordId;
use karte_protocol::message::{Request, Response};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS};
use karte_testnet::cast::{BY_HAND, CLINIC, DAEMON, lab, list, observations_to, open, sync};
use karte_testnet::world::World;
use serde_json::Value;

const OFFLINE_MS: i64 = 7 * DAY_MS;

fn offer(quota_bytes: u64) -> Command {
    Command::StewardOffer { contact: "hana".into(), quota_bytes, for_ms: 365 * DAY_MS }
}

fn give(world: &mut World, grant: NewGrant) -> String {
    world.items("hana", Command::GrantAdd(grant)).unwrap()[0]["id"].as_str().unwrap().to_owned()
}

/// Hana knows a clinic and a pharmacy that would keep for her; the two do not know each other.
fn introduced(clinic: Policy) -> World {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    world.add("clinic", clinic).unwrap();
    world.add("pharmacy", DAEMON).unwrap();
    world.introduce("hana", "clinic").unwrap();
    // The pharmacy asks its owner about everybody: it lets hana in, and nobody else.
    world.take_card("pharmacy", "hana").unwrap();
    world.introduce("hana", "pharmacy").unwrap();
    world.pass(1);
    world
}

struct Story {
    world: World,
    grant: String,
    records: Vec<RecordId>,
}

/// Two records are granted to the clinic and kept at the pharmacy; the clinic has none of them yet, because it was
/// away from hana since it said yes.
fn kept(clinic: Policy) -> Story {
    let mut world = introduced(clinic);
    let grant = give(&mut world, observations_to("clinic"));
    world.items("pharmacy", offer(1 << 30)).unwrap();
    world.items("hana", Command::StewardAdd { contact: "pharmacy".into() }).unwrap();
    world.pass(1);
    world.items("hana", sync("clinic")).unwrap();
    world.cut("hana", "clinic");
    let hana = world.party("hana");
    let drafts = ["creatinine 612 umol/L", "potassium 6.1 mmol/L"];
    let records =
        drafts.iter().map(|text| world.write("hana", hana, &lab(text, world.now)).unwrap()).collect();
    world.items("hana", sync("pharmacy")).unwrap();
    Story { world, grant, records }
}

/// Hana's node is off from here on.
fn gone(world: &mut World) {
    world.cut("hana", "clinic");
    world.cut("hana", "pharmacy");
}

fn texts(world: &mut World, at: &str, records: &[RecordId]) -> Vec<String> {
    let mut texts = Vec::new();
    for record in records {
        let Answer::Open(opening) = world.command(at, open(record)).unwrap() else { panic!("an opening") };
        texts.push(world.plaintext(at, &opening).unwrap());
    }
    texts
}

fn keeping(world: &mut World) -> Value {
    let items = world.items("pharmacy", Command::StewardKeeping).unwrap();
    items.first().cloned().unwrap_or_default()
}

fn has_all(world: &World, at: &str, records: &[RecordId]) -> bool {
    records.iter().all(|record| world.has_payload(at, record))
}

#[test]
fn a_reader_gets_from_the_steward_what_the_absent_holder_granted() {
    let Story { mut world, records, .. } = kept(BY_HAND);
    assert!(has_all(&world, "pharmacy", &records), "the steward fetched the payloads: {:?}", world.notices);
    gone(&mut world);
    world.pass(HOUR_MS);
    assert_eq!(world.items("clinic", list()).unwrap().len(), 0, "the clinic has nothing yet");
    world.items("clinic", sync("hana")).unwrap();
    let read = texts(&mut world, "clinic", &records);
    assert_eq!(read, ["creatinine 612 umol/L", "potassium 6.1 mmol/L"], "byte for byte");
}

#[test]
fn a_reader_that_runs_turns_to_the_steward_by_itself() {
    let Story { mut world, records, .. } = kept(CLINIC);
    gone(&mut world);
    for _ in 0..10 {
        world.pass(MINUTE_MS);
    }
    assert_eq!(texts(&mut world, "clinic", &records).len(), 2, "without any command: {:?}", world.notices);
}

#[test]
fn a_steward_is_called_while_a_call_to_the_holder_is_not_answered() {
    let Story { mut world, records, .. } = kept(BY_HAND);
    world.cut("hana", "pharmacy");
    world.silence("hana", "clinic");
    let unanswered = world.command("clinic", sync("hana"));
    assert!(unanswered.is_err(), "it waits for hana");
    world.pass(SECOND_MS);
    assert_eq!(world.items("clinic", list()).unwrap().len(), 0, "a second is not long");
    world.pass(3 * SECOND_MS);
    assert_eq!(texts(&mut world, "clinic", &records).len(), 2, "{:?}", world.notices);
}

#[test]
fn the_holder_is_asked_first_where_it_can_be_reached() {
    let Story { mut world, .. } = kept(BY_HAND);
    world.heal("hana", "clinic");
    world.pass(MINUTE_MS);
    world.sent.clear();
    world.items("clinic", sync("hana")).unwrap();
    assert_eq!(world.items("clinic", list()).unwrap().len(), 2);
    assert!(
        !world.sent.iter().any(|(from, to, _)| from == "clinic" && to == "pharmacy"),
        "no need for a steward"
    );
}

#[test]
fn a_steward_can_read_nothing_and_is_told_no_name() {
    let Story { mut world, records, .. } = kept(BY_HAND);
    gone(&mut world);
    world.items("clinic", sync("hana")).unwrap();
    assert_eq!(world.items("pharmacy", list()).unwrap().len(), 0, "no record shows");
    assert!(world.command("pharmacy", open(records[0])).is_err(), "no record opens");
    let contacts = world.items("pharmacy", Command::ContactList).unwrap();
    assert_eq!(contacts.len(), 1, "the reader is no contact of the steward: {contacts:?}");
    let has = |bytes: &[u8], word: &[u8]| bytes.windows(word.len()).any(|part| part == word);
    let mut heard = world.sent.iter().filter(|(_, to, _)| to == "pharmacy");
    let told = heard.find(|(_, _, bytes)| {
        ["clinic", "creatinine", "2160-0", "laboratory", "nurse", "fhir"].iter().any(|word| {
            has(bytes, word.as_bytes()) && !matches!(Request::from_bytes(bytes), Ok(Request::Release { .. }))
        })
    });
    assert!(told.is_none(), "nothing of it was said to the steward: {told:?}");
    for row in world.copy("pharmacy") {
        for word in ["creatinine", "2160-0", "laboratory", "fhir/"] {
            assert!(!has(&row.3, word.as_bytes()), "{word} in table {:?}", row.0);
        }
    }
}

#[test]
fn what_overtakes_the_answer_to_a_greeting_is_not_denied() {
    let Story { mut world, .. } = kept(BY_HAND);
    gone(&mut world);
    world.items("clinic", sync("hana")).unwrap();
    world.heal("hana", "pharmacy");
    world.replies_late("pharmacy");
    world.replied.clear();
    world.items("hana", sync("pharmacy")).unwrap();
    let told = world.replied.iter().filter(|(from, to, _)| from == "hana" && to == "pharmacy");
    let told: Vec<Response> = told.map(|(_, _, body)| Response::from_bytes(body).unwrap()).collect();
    assert!(!told.is_empty(), "the pharmacy tells what it served");
    assert!(!told.contains(&Response::Denied), "{told:?}");
}

#[test]
fn a_stranger_learns_nothing_from_a_steward() {
    let Story { mut world, grant, .. } = kept(BY_HAND);
    world.add("stranger", CLINIC).unwrap();
    let denied = Response::Denied.to_bytes().unwrap();
    let hana = world.party("hana");
    let device = world.keys("stranger").device.device();
    world.connect_forged("pharmacy", device);
    let asks = [
        Request::Keeping,
        Request::Segments { grant: grant.parse().unwrap(), from: 0 },
        Request::Log { of: hana, have: vec![] },
    ];
    for ask in asks {
        let reply = world.raw_request("stranger", "pharmacy", ask.to_bytes().unwrap());
        assert_eq!(reply.as_ref(), Some(&denied), "{ask:?}");
    }
}

#[test]
fn a_revocation_that_reaches_the_steward_ends_serving_there() {
    let Story { mut world, grant, .. } = kept(BY_HAND);
    world.items("hana", Command::GrantRevoke { id: grant.clone(), reason: String::new() }).unwrap();
    let after = keeping(&mut world);
    assert_eq!(after["grants"], 0, "the steward heard it and keeps the shelf no longer: {after}");
    gone(&mut world);
    let refused = world.items("clinic", sync("hana")).err().unwrap();
    assert_eq!(refused.kind, Kind::Refused, "the log that the steward gave says why: {refused}");
    assert_eq!(world.items("clinic", list()).unwrap().len(), 0);
    let grants = world.items("clinic", Command::GrantList).unwrap();
    assert_eq!(grants[0]["state"], "ended", "and the reader's own node ends it");
}

#[test]
fn a_revocation_reaches_a_steward_by_way_of_a_reader() {
    let Story { mut world, grant, .. } = kept(BY_HAND);
    gone(&mut world);
    world.items("clinic", sync("hana")).unwrap();
    // Clinic and pharmacy are connected; hana comes back for the clinic alone.
    world.heal("hana", "clinic");
    world.items("hana", sync("clinic")).unwrap();
    assert_eq!(keeping(&mut world)["grants"], 1);
    world.items("hana", Command::GrantRevoke { id: grant, reason: String::new() }).unwrap();
    assert_eq!(keeping(&mut world)["grants"], 0, "the clinic passed it on: {:?}", world.notices);
}

#[test]
fn a_steward_that_hears_nothing_stops_at_the_bound_and_stays_stopped_after_a_restart() {
    let Story { mut world, records, .. } = kept(BY_HAND);
    gone(&mut world);
    world.pass(OFFLINE_MS - HOUR_MS);
    assert!(world.items("clinic", sync("hana")).is_ok(), "an hour before the bound it serves");
    world.cut("clinic", "pharmacy");
    world.heal("clinic", "pharmacy");
    world.pass(2 * HOUR_MS);
    let late = world.items("clinic", sync("hana"));
    assert!(late.is_err(), "past the bound it serves nothing: {late:?}");
    world.start_from("pharmacy", world.copy("pharmacy"), false).unwrap();
    let again = world.items("clinic", sync("hana"));
    assert!(again.is_err(), "a restart does not begin it anew: {again:?}");
    let refused = world.items("pharmacy", Command::AuditList).unwrap();
    assert!(
        refused.iter().any(|line| line["note"].as_str().is_some_and(|note| note.contains("offline limit"))),
        "{refused:?}"
    );
    assert!(has_all(&world, "pharmacy", &records), "nothing is lost by it");
    // One fresh word of the holder and it serves again.
    world.heal("hana", "pharmacy");
    world.items("hana", sync("pharmacy")).unwrap();
    world.cut("hana", "pharmacy");
    world.items("clinic", sync("hana")).unwrap();
}

/// The Statuses of hana that came with sessions at the pharmacy.
fn vouched(world: &World) -> Vec<Verified<Status>> {
    let hana = world.party("hana");
    let replied = world.replied.iter().filter(|(from, ..)| from == "pharmacy");
    let statuses = replied.filter_map(|(_, _, bytes)| match Response::from_bytes(bytes) {
        Ok(Response::Session { status, .. }) => Signed::<Status>::from_bytes(status.into_vec()).verify().ok(),
        _ => None,
    });
    statuses.filter(|status| status.of == hana).collect()
}

#[test]
fn a_steward_vouches_no_longer_than_the_holder_allowed() {
    let Story { mut world, .. } = kept(BY_HAND);
    gone(&mut world);
    let last_word_ms = world.now;
    world.pass(OFFLINE_MS - HOUR_MS);
    world.items("clinic", sync("hana")).unwrap();
    let pharmacy = world.party("pharmacy");
    let vouched = vouched(&world);
    assert!(!vouched.is_empty(), "a session came with a Status");
    for status in vouched {
        assert_eq!(status.by().party, Some(pharmacy), "signed by the steward");
        assert!(
            status.issued_ms + status.lease_ms <= last_word_ms + OFFLINE_MS,
            "not beyond the bound: {status:?}"
        );
    }
}

/// Six days after the holder's last word the steward has vouched for it, and the clinic has read by that; two days
/// later the word of the holder is too old, and the steward's own is none.
fn vouched_for_on_the_sixth_day() -> (Story, Verified<Status>) {
    let mut story = kept(BY_HAND);
    gone(&mut story.world);
    story.world.pass(6 * DAY_MS);
    story.world.items("clinic", sync("hana")).unwrap();
    assert_eq!(texts(&mut story.world, "clinic", &story.records).len(), 2);
    let status = vouched(&story.world).pop().unwrap();
    assert_eq!(status.by().party, Some(story.world.party("pharmacy")));
    story.world.pass(2 * DAY_MS);
    (story, status)
}

/// SPEC section 8: heard is the newest Status signed by a device of the holder, never a steward's.
#[test]
fn a_reader_reads_no_longer_because_a_steward_vouched() {
    let (Story { mut world, records, .. }, _) = vouched_for_on_the_sixth_day();
    let refused = world.command("clinic", open(records[0])).err().unwrap();
    assert!(refused.message.contains("offline limit"), "{refused}");
    world.heal("hana", "clinic");
    world.items("hana", sync("clinic")).unwrap();
    assert_eq!(texts(&mut world, "clinic", &records).len(), 2, "one word of the holder, and it reads again");
}

#[test]
fn a_steward_serves_no_longer_because_its_own_word_comes_back() {
    let (Story { mut world, .. }, status) = vouched_for_on_the_sixth_day();
    let heard = keeping(&mut world)["heard"].clone();
    let told = Request::Status { status: status.bytes().to_vec().into() }.to_bytes().unwrap();
    world.items("clinic", sync("hana")).unwrap_err();
    assert_eq!(world.raw_request("clinic", "pharmacy", told), Some(Response::Done.to_bytes().unwrap()));
    assert_eq!(keeping(&mut world)["heard"], heard, "the holder was not heard by it");
    world.items("clinic", sync("hana")).unwrap_err();
}

#[test]
fn a_stewards_word_is_no_word_of_another_device_of_the_holder() {
    let mut story = kept(BY_HAND);
    story.world.add_device("phone", "hana", DAEMON).unwrap();
    let Story { mut world, .. } = story;
    world.pass(MINUTE_MS);
    gone(&mut world);
    for other in ["hana", "clinic", "pharmacy"] {
        world.cut("phone", other);
    }
    world.pass(6 * DAY_MS);
    world.items("clinic", sync("hana")).unwrap();
    let status = vouched(&world).pop().unwrap();
    assert_eq!(status.by().party, Some(world.party("pharmacy")));
    world.pass(2 * DAY_MS);
    let vouches = |world: &mut World| world.items("phone", Command::Status).unwrap()[0]["vouches"].clone();
    assert_eq!(vouches(&mut world), false, "two days past the bound");
    world.heal("phone", "pharmacy");
    world.items("phone", sync("pharmacy")).unwrap();
    let told = Request::Status { status: status.bytes().to_vec().into() }.to_bytes().unwrap();
    assert_eq!(world.raw_request("pharmacy", "phone", told), Some(Response::Done.to_bytes().unwrap()));
    // It has told the phone its whole log, too: all it holds is here, and that says nothing about the laptop.
    world.pass(MINUTE_MS);
    assert_eq!(vouches(&mut world), false);
}

#[test]
fn the_audit_comes_home_and_names_the_steward() {
    let Story { mut world, records, .. } = kept(BY_HAND);
    gone(&mut world);
    world.items("clinic", sync("hana")).unwrap();
    texts(&mut world, "clinic", &records);
    let before = world.items("hana", Command::AuditList).unwrap().len();
    world.heal("hana", "pharmacy");
    world.pass(MINUTE_MS);
    world.items("hana", sync("pharmacy")).unwrap();
    let audit = world.items("hana", Command::AuditList).unwrap();
    assert!(audit.len() > before);
    let released: Vec<&Value> = audit
        .iter()
        .filter(|line| line["event"] == "released" && line["note"] == "served by pharmacy")
        .collect();
    assert_eq!(released.len(), 1, "{audit:?}");
    assert_eq!(released[0]["party"], world.party("clinic").to_string());
    assert_eq!(released[0]["person"], "nurse Lim");
    let opened = audit.iter().filter(|line| line["event"] == "opened").count();
    assert_eq!(opened, 2, "the receipts that the clinic left with the steward: {audit:?}");
}

#[test]
fn a_removed_steward_deletes_all_it_kept() {
    let Story { mut world, records, .. } = kept(BY_HAND);
    world.items("hana", Command::StewardRemove { contact: "pharmacy".into() }).unwrap();
    assert!(records.iter().all(|record| !world.has_payload("pharmacy", record)), "{:?}", world.notices);
    assert_eq!(keeping(&mut world), Value::Null);
    let kept: Vec<_> =
        world.copy("pharmacy").into_iter().filter(|row| (25..=30).contains(&row.0.0)).collect();
    assert!(kept.is_empty(), "no row is left: {kept:?}");
    gone(&mut world);
    assert!(world.items("clinic", sync("hana")).is_err());
    let again = world.items("hana", Command::StewardAdd { contact: "pharmacy".into() }).err().unwrap();
    assert_eq!(again.kind, Kind::Refused, "it does not come back in this generation: {again}");
}

#[test]
fn a_steward_keeps_nothing_that_it_has_not_offered_to() {
    let mut world = introduced(CLINIC);
    world.items("hana", Command::StewardAdd { contact: "pharmacy".into() }).unwrap();
    let hana = world.party("hana");
    let record = world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    assert!(!world.has_payload("pharmacy", &record));
    let state = world.items("hana", Command::StewardList).unwrap()[0]["state"].clone();
    assert_eq!(state, "has not said yet that it keeps");
    // Its word is enough: nobody has to ask again.
    world.items("pharmacy", offer(1 << 30)).unwrap();
    assert!(world.has_payload("pharmacy", &record), "{:?}", world.notices);
}

#[test]
fn more_than_the_quota_is_not_taken_and_the_holder_is_told() {
    let mut world = introduced(CLINIC);
    world.items("pharmacy", offer(100)).unwrap();
    world.items("hana", Command::StewardAdd { contact: "pharmacy".into() }).unwrap();
    let hana = world.party("hana");
    let small = world.write("hana", hana, &lab("creatinine 612 umol/L", world.now)).unwrap();
    assert!(world.has_payload("pharmacy", &small));
    let text = "potassium ".repeat(20);
    let large = world.write("hana", hana, &lab(&text, world.now)).unwrap();
    assert!(!world.has_payload("pharmacy", &large));
    let refused = world.items("hana", sync("pharmacy")).err().unwrap();
    assert_eq!(refused.kind, Kind::Refused);
    assert!(refused.message.contains("keeps at most 100 bytes"), "{refused}");
    assert_eq!(world.items("hana", Command::StewardList).unwrap()[0]["state"], "full");
    assert_eq!(world.items("hana", list()).unwrap().len(), 2, "nothing is lost at home");
    assert!(world.has_payload("pharmacy", &small), "nor there");
    world.items("pharmacy", offer(1 << 20)).unwrap();
    world.items("hana", sync("pharmacy")).unwrap();
    assert!(world.has_payload("pharmacy", &large), "a larger quota takes it");
    assert_eq!(world.items("hana", Command::StewardList).unwrap()[0]["state"], "keeps");
}

#[test]
fn a_payload_that_was_lost_at_home_comes_back_from_the_steward() {
    let Story { mut world, records, .. } = kept(BY_HAND);
    let lost = records[0];
    world.lose_payload("hana", &lost);
    let named = world.ask("hana", |ticket| Input::Lost(ticket, vec![(lost, Harm::Missing)], true)).unwrap();
    let Answer::Items(named) = named else { panic!("names") };
    assert!(named[0]["from"].as_array().unwrap().contains(&"pharmacy".into()), "{named:?}");
    world.items("hana", sync("pharmacy")).unwrap();
    assert!(world.has_payload("hana", &lost), "{:?}", world.notices);
    assert_eq!(texts(&mut world, "hana", &[lost]), ["creatinine 612 umol/L"]);
    // A steward that ended is not asked.
    world.items("hana", Command::StewardRemove { contact: "pharmacy".into() }).unwrap();
    world.lose_payload("hana", &lost);
    let named = world.ask("hana", |ticket| Input::Lost(ticket, vec![(lost, Harm::Missing)], true)).unwrap();
    let Answer::Items(named) = named else { panic!("names") };
    assert!(!named[0]["from"].as_array().unwrap().contains(&"pharmacy".into()), "{named:?}");
}

#[test]
fn what_was_offered_ends_with_its_time() {
    let Story { mut world, records, .. } = kept(BY_HAND);
    world.cut("hana", "pharmacy");
    world.pass(366 * DAY_MS);
    assert!(records.iter().all(|record| !world.has_payload("pharmacy", record)));
    assert_eq!(keeping(&mut world), Value::Null);
}

#[test]
fn what_is_kept_survives_a_restart_of_the_steward() {
    let Story { mut world, records, .. } = kept(BY_HAND);
    gone(&mut world);
    let before = keeping(&mut world);
    world.start_from("pharmacy", world.copy("pharmacy"), false).unwrap();
    assert_eq!(keeping(&mut world), before);
    world.items("clinic", sync("hana")).unwrap();
    assert_eq!(texts(&mut world, "clinic", &records).len(), 2);
}

#[test]
fn a_steward_shows_the_own_shelf_to_a_device_of_the_holder_and_to_nobody_else() {
    let Story { mut world, records, .. } = kept(BY_HAND);
    let told = world.raw_request("hana", "pharmacy", Request::Keeping.to_bytes().unwrap()).unwrap();
    let Response::Keeping(keeping) = Response::from_bytes(&told).unwrap() else { panic!("what is kept") };
    assert!(keeping.library.is_some(), "the library key, sealed to hana's devices and her recovery");
    assert_eq!(keeping.segments, u64::try_from(records.len()).unwrap(), "a segment for each import");
    let entry = world.steward_entry("hana", "pharmacy");
    let ask = Request::Segments { grant: entry, from: 0 }.to_bytes().unwrap();
    let answer = world.raw_request("hana", "pharmacy", ask.clone()).unwrap();
    assert!(
        matches!(Response::from_bytes(&answer).unwrap(), Response::Segments { segments } if segments.len() == 2)
    );
    gone(&mut world);
    world.items("clinic", sync("hana")).unwrap();
    let denied = Response::Denied.to_bytes().unwrap();
    assert_eq!(world.raw_request("clinic", "pharmacy", ask), Some(denied));
}
