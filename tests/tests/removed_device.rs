//! A device that its party has removed, and that asks all the same: it takes nothing back from a steward, and nobody
//! takes anything from it. It is played by its own keys and its own old words, for it need not keep the rules.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it is surprised"
)]

use karte_node::command::Command;
use karte_protocol::consent::Accept;
use karte_protocol::id::{GrantId, ObjectId, RecordId};
use karte_protocol::message::{Fetch, Keep, Request, Response, Want};
use karte_protocol::signed::Signed;
use karte_protocol::time::{DAY_MS, MINUTE_MS, SECOND_MS};
use karte_testnet::cast::{BY_HAND, DAEMON, lab, list, observations_to, sync};
use karte_testnet::world::World;

struct Story {
    world: World,
    grant: GrantId,
    records: Vec<RecordId>,
}

/// Hana's laptop and telephone; a clinic that may read; a pharmacy that keeps two records for her.
fn kept() -> Story {
    let mut world = World::new();
    world.add("laptop", DAEMON).unwrap();
    world.add("clinic", BY_HAND).unwrap();
    world.add("pharmacy", DAEMON).unwrap();
    world.introduce("laptop", "clinic").unwrap();
    world.take_card("pharmacy", "laptop").unwrap();
    world.introduce("laptop", "pharmacy").unwrap();
    let given = world.items("laptop", Command::GrantAdd(observations_to("clinic"))).unwrap();
    let grant = given[0]["id"].as_str().unwrap().parse().unwrap();
    let offer =
        Command::StewardOffer { contact: "laptop".into(), quota_bytes: 1 << 30, for_ms: 365 * DAY_MS };
    world.items("pharmacy", offer).unwrap();
    world.items("laptop", Command::StewardAdd { contact: "pharmacy".into() }).unwrap();
    let hana = world.party("laptop");
    let texts = ["creatinine 612 umol/L", "potassium 6.1 mmol/L"];
    let records =
        texts.iter().map(|text| world.write("laptop", hana, &lab(text, world.now)).unwrap()).collect();
    world.add_device("phone", "laptop", DAEMON).unwrap();
    world.pass(SECOND_MS);
    for contact in ["pharmacy", "clinic"] {
        world.items("phone", sync(contact)).unwrap();
    }
    Story { world, grant, records }
}

/// The laptop removes the telephone, which is somewhere else.
fn removed(world: &mut World) {
    for other in ["laptop", "pharmacy", "clinic"] {
        world.cut("phone", other);
    }
    let device = world.keys("phone").device.device().to_hex();
    world.items("laptop", Command::DeviceRemove { device, last_valid_seq: None }).unwrap();
    for contact in ["pharmacy", "clinic"] {
        world.items("laptop", sync(contact)).unwrap();
    }
}

/// Sends a request as the telephone does, and gives the answer.
fn says(world: &mut World, to: &str, request: &Request) -> Response {
    let device = world.keys("phone").device.device();
    let body = request.to_bytes().unwrap();
    Response::from_bytes(&world.forged_request(to, device, body).unwrap()).unwrap()
}

/// A new connection that begins with the telephone's own Hello, as it said it before. True if it is greeted.
fn knocks(world: &mut World, at: &str) -> bool {
    let hello = world.sent.iter().rev().find_map(|(from, _, body)| match Request::from_bytes(body) {
        Ok(hello @ Request::Hello(_)) if from == "phone" => Some(hello),
        _ => None,
    });
    world.pass(MINUTE_MS);
    world.connect_forged(at, world.keys("phone").device.device());
    matches!(says(world, at, &hello.unwrap()), Response::Hello(_))
}

/// What the telephone gets of the library from the pharmacy: whether its keys, how many segments, which payloads.
#[derive(Debug, PartialEq, Eq)]
struct TakenBack {
    library: bool,
    segments: usize,
    payloads: Vec<RecordId>,
}

const NOTHING: TakenBack = TakenBack { library: false, segments: 0, payloads: vec![] };

fn takes_back(world: &mut World, records: &[RecordId]) -> TakenBack {
    let entry = world.steward_entry("laptop", "pharmacy");
    let library = match says(world, "pharmacy", &Request::Keeping) {
        Response::Keeping(keeping) => keeping.library.is_some(),
        Response::Denied => false,
        other => panic!("{other:?}"),
    };
    let segments = match says(world, "pharmacy", &Request::Segments { grant: entry, from: 0 }) {
        Response::Segments { segments } => segments.len(),
        Response::Denied => 0,
        other => panic!("{other:?}"),
    };
    let device = world.keys("phone").device.device();
    let list = wanted(entry, ObjectId::from(*entry.as_bytes()), records, true);
    TakenBack { library, segments, payloads: world.asked_on_a_stream("pharmacy", device, list) }
}

fn wanted(grant: GrantId, accept: ObjectId, records: &[RecordId], keep: bool) -> Vec<u8> {
    let wants = records.iter().map(|record| Want { record: *record, from: 0, label: true }).collect();
    Fetch { grant, accept, wants, back: false, keep, urgent: false }.to_bytes().unwrap()
}

#[test]
fn a_removed_device_gets_nothing_back_from_a_steward() {
    let Story { mut world, records, .. } = kept();
    let all = TakenBack { library: true, segments: records.len(), payloads: records.clone() };
    assert_eq!(takes_back(&mut world, &records), all, "a live device takes back what is its own");
    world.cut("phone", "pharmacy");
    assert!(knocks(&mut world, "pharmacy"), "and may come again");
    assert_eq!(takes_back(&mut world, &records), all);

    // On the connection on which it was greeted, and which it does not end.
    removed(&mut world);
    assert_eq!(takes_back(&mut world, &records), NOTHING, "the pharmacy has heard of the removal");
    let nothing = |world: &mut World, when: &str| {
        assert!(!knocks(world, "pharmacy"), "{when}: it is not greeted");
        assert_eq!(takes_back(world, &records), NOTHING, "{when}");
        let keep = Keep::Own { library: vec![1].into(), segments: vec![] };
        for request in [Request::Keep(keep), Request::Served { releases: vec![], receipts: vec![] }] {
            assert_eq!(says(world, "pharmacy", &request), Response::Denied, "{when}: {request:?}");
        }
    };
    nothing(&mut world, "on a new connection");
    world.start_from("pharmacy", world.copy("pharmacy"), false).unwrap();
    nothing(&mut world, "after a restart of the steward");

    // What is kept is there still, for the device that remains.
    let entry = world.steward_entry("laptop", "pharmacy");
    world.items("laptop", sync("pharmacy")).unwrap();
    let asked = wanted(entry, ObjectId::from(*entry.as_bytes()), &records, true);
    let laptop = world.keys("laptop").device.device();
    assert_eq!(world.asked_on_a_stream("pharmacy", laptop, asked), records);
}

#[test]
fn nobody_takes_anything_from_a_removed_device() {
    let Story { mut world, grant, records } = kept();
    // The laptop is away: the telephone serves the clinic, and has one record more than it.
    world.cut("laptop", "clinic");
    let hana = world.party("laptop");
    let more = world.write("phone", hana, &lab("urea 21 mmol/L", world.now)).unwrap();
    let name = alias(&mut world);
    world.items("clinic", sync(&name)).unwrap();
    assert_eq!(world.items("clinic", list()).unwrap().len(), 3, "a live device serves");
    let (clinic, accept) = (world.keys("clinic").device.device(), accepted(&world));
    let asked = wanted(grant, accept, &[records[0], more], false);
    assert_eq!(world.asked_on_a_stream("phone", clinic, asked.clone()).len(), 2, "in the open session too");

    world.heal("laptop", "clinic");
    removed(&mut world);
    let late = world.write("phone", hana, &lab("sodium 140 mmol/L", world.now)).unwrap();
    // The telephone has not heard of it. The clinic has, and asks it for nothing.
    world.cut("laptop", "clinic");
    world.cut("pharmacy", "clinic");
    world.heal("phone", "clinic");
    assert!(!knocks(&mut world, "clinic"), "the clinic does not greet it");
    let before = world.sent.len();
    let told = world.items("clinic", sync(&name));
    assert!(told.is_err(), "{told:?}");
    let asks = |(from, to, body): &(String, String, Vec<u8>)| {
        from == "clinic" && to == "phone" && matches!(Request::from_bytes(body), Ok(Request::Release { .. }))
    };
    assert!(!world.sent[before..].iter().any(asks), "no Release goes to it");
    assert!(!world.has_payload("clinic", &late));

    // By that meeting it has learned what it is, and serves nobody any more, not even who asks.
    let status = world.items("phone", Command::Status).unwrap();
    assert_eq!(status[0]["standing"], "removed", "{:?}", world.notices);
    assert!(world.asked_on_a_stream("phone", clinic, asked).is_empty());
    let segments = Request::Segments { grant, from: 0 }.to_bytes().unwrap();
    let denied = Response::Denied.to_bytes().unwrap();
    assert_eq!(world.raw_request("clinic", "phone", segments), Some(denied));
}

/// What the clinic calls hana.
fn alias(world: &mut World) -> String {
    world.items("clinic", Command::ContactList).unwrap()[0]["alias"].as_str().unwrap().to_owned()
}

/// The id of the Accept that the clinic signed.
fn accepted(world: &World) -> ObjectId {
    let sent = world.sent.iter().filter(|(from, ..)| from == "clinic");
    let mut accepts = sent.filter_map(|(_, _, body)| match Request::from_bytes(body) {
        Ok(Request::Accept { accept }) => Signed::<Accept>::from_bytes(accept.into_vec()).verify().ok(),
        _ => None,
    });
    accepts.next_back().unwrap().id()
}
