//! What a reader gets first, in a small world: urgent records, previews, and a series from its middle on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it is surprised"
)]

use karte_node::command::{Command, Filter, NewGrant};
use karte_protocol::id::RecordId;
use karte_protocol::label::{Group, Label};
use karte_protocol::message::{Fetch, Request};
use karte_protocol::time::DAY_MS;
use karte_testnet::cast::{CLINIC, DAEMON, lab, list, sync};
use karte_testnet::world::{Draft, World};

fn slice_at(position: u32) -> impl FnOnce(Label) -> Label {
    let group = Group {
        study: "1.2.3".into(),
        series: Some("1.2.3.4".into()),
        instance: Some(format!("1.2.3.4.{position}")),
        position: Some(position),
    };
    move |label| Label { kind: "dicom/CT".into(), group: Some(group), ..label }
}

fn urgent(label: Label) -> Label {
    Label { urgency: Some("stat".into()), ..label }
}

/// A hospital that gives all it has to a clinic, and cannot reach it yet.
fn apart() -> World {
    let mut world = World::new();
    world.add("hospital", DAEMON).unwrap();
    world.add("specialist", CLINIC).unwrap();
    world.introduce("hospital", "specialist").unwrap();
    let everything = NewGrant {
        contact: "specialist".into(),
        scope: Filter { kinds: vec!["dicom".into(), "fhir".into()], ..Filter::default() },
        purpose: "TREAT".into(),
        basis: "consent".into(),
        expires_ms: 90 * DAY_MS,
        offline_ms: 7 * DAY_MS,
        ..NewGrant::default()
    };
    world.command("hospital", Command::GrantAdd(everything)).unwrap();
    world.cut("hospital", "specialist");
    world
}

fn write(world: &mut World, text: &str, more: impl FnOnce(Label) -> Label) -> RecordId {
    let (hospital, now) = (world.party("hospital"), world.now);
    world
        .write_labelled("hospital", hospital, &Draft { category: "imaging", ..lab(text, now) }, more)
        .unwrap()
}

/// They meet again; what the specialist asked for since.
fn lists_after_meeting(world: &mut World) -> Vec<Fetch> {
    world.wanted.clear();
    world.heal("hospital", "specialist");
    world.command("specialist", sync("hospital")).unwrap();
    world.wanted.iter().map(|(_, _, fetch)| fetch.clone()).collect()
}

fn names(fetch: &Fetch) -> Vec<RecordId> {
    fetch.wants.iter().map(|want| want.record).collect()
}

#[test]
fn a_preview_comes_first_then_what_is_no_image_then_the_series_from_its_middle_on() {
    let mut world = apart();
    let slices: Vec<RecordId> =
        (0..7).map(|at| write(&mut world, &format!("slice {at}"), slice_at(at))).collect();
    let report = write(&mut world, "report", |label| label);
    let preview =
        write(&mut world, "preview", |label| Label { kind: "dicom/preview".into(), ..slice_at(0)(label) });
    let lists = lists_after_meeting(&mut world);
    assert_eq!(lists.len(), 1, "one list");
    let found = names(&lists[0]);
    assert_eq!(found[..2], [preview, report]);
    // Each was shelved by itself, as a middle: in the order it came.
    assert_eq!(found[2..], slices);
    assert_eq!(world.items("specialist", list()).unwrap().len(), 9);
}

#[test]
fn a_series_that_is_shelved_at_once_is_spread() {
    let mut world = World::new();
    world.add("hospital", DAEMON).unwrap();
    world.add("specialist", CLINIC).unwrap();
    world.introduce("hospital", "specialist").unwrap();
    // The slices come as the scanner sent them, which is no order.
    let order = [6, 2, 0, 5, 3, 1, 4];
    let mut slices = [RecordId::from([0; 32]); 7];
    for at in order {
        slices[at as usize] = write(&mut world, &format!("slice {at}"), slice_at(at));
    }
    let scope = Filter { kinds: vec!["dicom".into()], ..Filter::default() };
    let grant = NewGrant {
        contact: "specialist".into(),
        scope,
        purpose: "TREAT".into(),
        basis: "consent".into(),
        expires_ms: DAY_MS,
        offline_ms: DAY_MS,
        ..NewGrant::default()
    };
    world.command("hospital", Command::GrantAdd(grant)).unwrap();
    let found: Vec<usize> = world
        .wanted
        .iter()
        .flat_map(|(_, _, fetch)| names(fetch))
        .map(|record| slices.iter().position(|slice| *slice == record).unwrap())
        .collect();
    assert_eq!(found[0], 3, "the middle: {found:?}");
    assert_eq!([found[1].min(found[2]), found[1].max(found[2])], [1, 5], "then the quarters: {found:?}");
    assert_eq!(found.len(), 7);
}

#[test]
fn what_is_urgent_is_asked_for_by_itself_and_first() {
    let mut world = apart();
    write(&mut world, "potassium 4.1 mmol/L", |label| label);
    let stat = write(&mut world, "potassium 7.9 mmol/L", urgent);
    write(&mut world, "sodium 140 mmol/L", |label| label);
    let lists = lists_after_meeting(&mut world);
    assert_eq!(lists.len(), 2, "a list for what is urgent, and one for the rest");
    assert!(lists[0].urgent && !lists[1].urgent);
    assert_eq!(names(&lists[0]), [stat]);
    assert_eq!(lists[1].wants.len(), 2);
}

#[test]
fn news_bring_the_segments_they_tell_of() {
    let mut world = apart();
    world.heal("hospital", "specialist");
    world.command("specialist", sync("hospital")).unwrap();
    world.sent.clear();
    write(&mut world, "lactate 4.4 mmol/L", |label| label);
    assert_eq!(world.items("specialist", list()).unwrap().len(), 1, "it came by itself");
    let requests = world.sent.iter().filter_map(|(_, _, body)| Request::from_bytes(body).ok());
    let asked = requests.filter(|request| matches!(request, Request::Segments { .. })).count();
    assert_eq!(asked, 0, "nothing had to be asked for");
}

#[test]
fn a_session_brings_the_segments_that_follow_those_the_reader_has() {
    let mut world = apart();
    write(&mut world, "lactate 4.4 mmol/L", |label| label);
    world.sent.clear();
    assert_eq!(lists_after_meeting(&mut world).len(), 1);
    let asked = |world: &World| {
        let requests = world.sent.iter().filter_map(|(_, _, body)| Request::from_bytes(body).ok());
        requests.filter(|request| matches!(request, Request::Segments { .. })).count()
    };
    assert_eq!(asked(&world), 0, "nothing had to be asked for");
    world.cut("hospital", "specialist");
    write(&mut world, "lactate 2.0 mmol/L", |label| label);
    assert_eq!(lists_after_meeting(&mut world).len(), 1, "what came in between, and not the rest again");
    assert_eq!(asked(&world), 0, "nor at the next meeting");
    assert_eq!(world.items("specialist", list()).unwrap().len(), 2);
}
