//! A full disk: the group is dropped and told so, the revocation in it is recorded all the same, the node goes on.

use super::*;
use crate::command::{Filter, NewGrant};
use crate::engine::{Policy, birth};
use crate::keystore::MemoryKeyring;
use crate::store::{Batch, Memory, Stats, Store, Table, VisitItem, VisitRow};
use karte_protocol::chance::OsChance;
use karte_protocol::time::DAY_MS;
use serde_json::Value;
use std::sync::atomic::AtomicBool;

/// What the reserve of this store takes, in bytes: the one entry of a revocation.
const RESERVE_BYTES: u64 = 900;

/// A store whose disk is full when told so.
struct Filled {
    memory: Memory,
    full: Arc<AtomicBool>,
}

impl Store for Filled {
    fn get(&self, table: Table, parent: &[u8], item: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.get(table, parent, item)
    }
    fn scan(&self, table: Table, parent: &[u8], visit: &mut VisitItem<'_>) -> Result<(), StoreError> {
        self.memory.scan(table, parent, visit)
    }
    fn scan_table(&self, table: Table, visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        self.memory.scan_table(table, visit)
    }
    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.memory.write(batch)
    }
    fn commit(&mut self) -> Result<(), StoreError> {
        if self.full.load(Ordering::SeqCst) && self.memory.stats().pending_bytes > RESERVE_BYTES {
            return Err(StoreError::Full { doing: "committing" });
        }
        self.memory.commit()
    }
    fn abandon(&mut self) {
        self.memory.abandon();
    }
    fn write_unjournaled(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.memory.write_unjournaled(batch)
    }
    fn time_floor_ms(&self) -> u64 {
        self.memory.time_floor_ms()
    }
    fn raise_time_floor(&mut self, floor_ms: u64) {
        self.memory.raise_time_floor(floor_ms);
    }
    fn lower_time_floor(&mut self, floor_ms: u64) -> Result<(), StoreError> {
        self.memory.lower_time_floor(floor_ms)
    }
    fn stats(&self) -> Stats {
        self.memory.stats()
    }
    fn close(mut self: Box<Self>) -> Result<(), StoreError> {
        self.commit()
    }
}

struct At(i64);

impl Clock for At {
    fn now_ms(&self) -> i64 {
        self.0
    }
}

const NOW: At = At(1_780_000_000_000);

fn node(name: &str, full: &Arc<AtomicBool>) -> Engine {
    let keys = Arc::new(Keys::generate(&mut OsChance));
    let genesis = birth(&keys, &mut OsChance, NOW.0).unwrap().genesis;
    let parts = engine::Parts {
        keys,
        ring: Box::new(MemoryKeyring::default()),
        store: Box::new(Filled { memory: Memory::new(), full: full.clone() }),
        chance: Box::new(OsChance),
        genesis,
        name: name.into(),
        kind: "patient".into(),
        policy: Policy::default(),
        copied: false,
        started: "new",
    };
    Engine::open(parts, NOW.0).unwrap()
}

fn grant() -> Command {
    Command::GrantAdd(NewGrant {
        contact: "clinic".into(),
        scope: Filter { kinds: vec!["fhir".into()], ..Filter::default() },
        purpose: "TREAT".into(),
        basis: "consent".into(),
        expires_ms: DAY_MS,
        offline_ms: DAY_MS,
        ..NewGrant::default()
    })
}

/// One group of commands, as the driver handles it; the answers by ticket.
fn group(engine: Engine, commands: &[Command]) -> (Engine, Vec<Result<Vec<Value>, Failure>>) {
    let mut group = Group::default();
    let mut engine = engine;
    for (ticket, command) in (1..).zip(commands) {
        group.handle(&mut engine, Input::Command(ticket, Box::new(command.clone())), &NOW);
    }
    match engine.commit() {
        Ok(()) => {}
        Err(StoreError::Full { .. }) => engine = group.without_room(engine, &NOW).unwrap(),
        Err(error) => panic!("{error}"),
    }
    let mut answers: Vec<(Ticket, Result<Vec<Value>, Failure>)> = group
        .out
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Answer(ticket, Ok(Answer::Items(items))) => Some((ticket, Ok(items))),
            Effect::Answer(ticket, Err(failure)) => Some((ticket, Err(failure))),
            _ => None,
        })
        .collect();
    answers.sort_by_key(|(ticket, _)| *ticket);
    (engine, answers.into_iter().map(|(_, answer)| answer).collect())
}

#[test]
fn whatever_ends_something_is_tried_once_more_on_a_full_disk() {
    let full = Arc::new(AtomicBool::new(false));
    let mut hana = node("hana", &full);
    let mut group = Group::default();
    let denials = [
        Command::GrantRevoke { id: "0".into(), reason: String::new() },
        Command::DeviceRemove { device: "0".into(), last_valid_seq: None },
        Command::StewardRemove { contact: "0".into() },
        Command::RecoveryFinish { approvals: vec![] },
    ];
    for (ticket, command) in (1..).zip(denials.iter().chain([&grant(), &Command::GrantList])) {
        group.handle(&mut hana, Input::Command(ticket, Box::new(command.clone())), &NOW);
    }
    let kept: Vec<&Command> = group.denials.iter().map(|(_, command)| command).collect();
    assert_eq!(kept, denials.iter().collect::<Vec<_>>());
}

#[test]
fn a_full_disk_drops_the_group_keeps_the_revocation_and_the_node_goes_on() {
    let full = Arc::new(AtomicBool::new(false));
    let (clinic, card) = group(node("clinic", &full), &[Command::Card]);
    drop(clinic);
    let card = card[0].as_ref().unwrap()[0]["card"].as_str().unwrap().to_owned();
    let add = Command::ContactAdd { card, alias: Some("clinic".into()) };
    let (hana, answers) = group(node("hana", &full), &[add, grant()]);
    let given = answers[1].as_ref().unwrap()[0]["id"].as_str().unwrap().to_owned();

    full.store(true, Ordering::SeqCst);
    let revoke = Command::GrantRevoke { id: given.clone(), reason: "moved".into() };
    let (hana, answers) = group(hana, &[grant(), revoke]);
    let refused = answers[0].as_ref().unwrap_err();
    assert!(refused.message.starts_with("the disk is full"), "{refused}");
    assert_eq!(refused.kind, Kind::Failed);
    assert_eq!(answers[1].as_ref().unwrap()[0]["state"], "revoked", "the reserve takes a denial");

    let (hana, answers) = group(hana, &[Command::GrantList]);
    let grants = answers[0].as_ref().unwrap();
    assert_eq!(grants.len(), 1, "what found no room is in no memory either: {grants:?}");
    assert_eq!(grants[0]["state"], "revoked");
    // The same again, read from the store alone.
    let (hana, _) = hana.reload(NOW.0).unwrap();
    let (hana, answers) = group(hana, &[Command::GrantList]);
    assert_eq!(answers[0].as_ref().unwrap()[0]["state"], "revoked");

    full.store(false, Ordering::SeqCst);
    let (_, answers) = group(hana, &[grant(), Command::GrantList]);
    assert!(answers[0].is_ok(), "with room it goes on");
    assert_eq!(answers[1].as_ref().unwrap().len(), 2);
}
