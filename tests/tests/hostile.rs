//! Peers that mean harm, in a small world. Law: nothing a peer sends stops a node; the world panics on a failed node.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails where it is surprised"
)]

use karte_node::command::Command;
use karte_node::engine::Answer;
use karte_node::failure::Failure;
use karte_protocol::card::Card;
use karte_protocol::consent::Accept;
use karte_protocol::encoding;
use karte_protocol::entry::{Act, Device, Entry, Genesis};
use karte_protocol::grant::{self, Onward, Opened, Opening, Reader, Scope};
use karte_protocol::id::{EntryId, GrantId, PartyId, Salt};
use karte_protocol::identity::PartyLog;
use karte_protocol::keys::{DeviceKey, Recipient, SealingKey};
use karte_protocol::limits::MESSAGE_BYTES_MAX;
use karte_protocol::message::{Hello, Request, Response};
use karte_protocol::seal;
use karte_protocol::shelf::{Chain, ShelfHead};
use karte_protocol::signed::{By, Verified};
use karte_protocol::time::DAY_MS;
use karte_testnet::cast::{CLINIC, DAEMON, observations_to};
use karte_testnet::world::{Draft, World};
use std::cell::Cell;

/// A party made by hand, to say what no honest node would.
struct Forger {
    key: DeviceKey,
    party: PartyId,
    genesis: Verified<Entry>,
    /// Its newest entry.
    last: Cell<Option<EntryId>>,
}

impl Forger {
    fn new(seed: u8, recipient: Recipient) -> Self {
        let key = DeviceKey::from_seed(&[seed; 32]);
        let device = Device { device: key.device(), recipients: vec![recipient] };
        let genesis = Genesis {
            salt: Salt::from([seed; 32]),
            devices: vec![device],
            next_recovery: vec![],
            threshold: 0,
        };
        let entry = Entry { seq: 0, prev: None, at_ms: 0, act: Act::Genesis(genesis) };
        let genesis =
            Verified::sign(entry, By { party: None, r#gen: 0, device: key.device() }, &key).unwrap();
        let party = PartyLog::start(genesis.clone()).unwrap().party();
        let last = Cell::new(Some(genesis.id().into()));
        Self { key, party, genesis, last }
    }

    fn by(&self) -> By {
        By { party: Some(self.party), r#gen: 0, device: self.key.device() }
    }

    fn hello(&self, name: &str, at_ms: i64) -> Vec<u8> {
        let identity = vec![self.genesis.bytes().to_vec().into()];
        let card = Card {
            name: name.into(),
            kind: "patient".into(),
            addresses: vec!["nowhere".into()],
            identity,
            at_ms,
        };
        let card = Verified::sign(card, self.by(), &self.key).unwrap();
        let status = karte_protocol::consent::Status {
            of: self.party,
            r#gen: 0,
            heads: vec![],
            identity: PartyLog::start(self.genesis.clone()).unwrap().state().identity,
            issued_ms: at_ms,
            lease_ms: DAY_MS,
        };
        let status = Verified::sign(status, self.by(), &self.key).unwrap();
        Request::Hello(Hello { card: card.bytes().to_vec().into(), status: status.bytes().to_vec().into() })
            .to_bytes()
            .unwrap()
    }
}

fn recipient() -> Recipient {
    SealingKey::from_seed(&[9; 32]).recipient()
}

/// The age text of the all-zero point: every secret shared with it is zero.
fn low_order() -> Recipient {
    Recipient {
        r#type: "x25519".into(),
        key: "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z".into(),
    }
}

fn laboratory(contact: &str) -> Command {
    Command::GrantAdd(observations_to(contact))
}

fn contacts(world: &mut World, at: &str) -> Vec<String> {
    let rows = world.items(at, Command::ContactList).unwrap();
    rows.iter().map(|row| row["alias"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn no_name_on_a_strangers_card_stops_a_node() {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    let long = "Ⱥ".repeat(50);
    for (seed, name) in [(1, "Me"), (2, "karte1x"), (3, long.as_str()), (4, "!!!"), (5, "me")] {
        let forger = Forger::new(seed, recipient());
        world.connect_forged("hana", forger.key.device());
        let answer =
            world.forged_request("hana", forger.key.device(), forger.hello(name, world.now)).unwrap();
        assert_eq!(answer, Response::Denied.to_bytes().unwrap());
    }
    let aliases = contacts(&mut world, "hana");
    assert_eq!(aliases.len(), 5, "each waits under a name of its own: {aliases:?}");
    assert!(!aliases.iter().any(|alias| alias == "me" || alias.starts_with("karte1")), "{aliases:?}");
}

#[test]
fn a_stranger_who_knocks_again_and_again_writes_nothing() {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    let forger = Forger::new(1, recipient());
    world.connect_forged("hana", forger.key.device());
    let journal = |world: &mut World| world.items("hana", Command::Status).unwrap()[0]["pending"].clone();
    for knock in 0..5 {
        world.pass(10_000);
        let hello = forger.hello(&format!("name {knock}"), world.now);
        world.forged_request("hana", forger.key.device(), hello).unwrap();
    }
    assert_eq!(journal(&mut world), 1);
    let name = world.items("hana", Command::ContactList).unwrap()[0]["name"].clone();
    assert_eq!(name, "name 0", "the card that came first waits");
}

#[test]
fn a_reader_of_low_order_is_not_sealed_to() {
    let mut world = World::new();
    world.add("hana", CLINIC).unwrap();
    let forger = Forger::new(1, low_order());
    world.connect_forged("hana", forger.key.device());
    world.forged_request("hana", forger.key.device(), forger.hello("mallory", world.now)).unwrap();
    // The offer is due at once, and cannot be sealed to anybody.
    let grant = world.items("hana", laboratory("mallory")).unwrap()[0]["id"].as_str().unwrap().to_owned();
    let grant: GrantId = grant.parse().unwrap();
    let accept = Accept { grant, reader: forger.party, n: 0, recipient: low_order() };
    let accept = Verified::sign(accept, forger.by(), &forger.key).unwrap();
    let body = Request::Accept { accept: accept.bytes().to_vec().into() }.to_bytes().unwrap();
    let answer = world.forged_request("hana", forger.key.device(), body).unwrap();
    assert_eq!(answer, Response::Denied.to_bytes().unwrap());
    let hana = world.party("hana");
    let draft =
        Draft { kind: "fhir/Observation", category: "laboratory", code: "1", at_ms: world.now, text: "x" };
    world.write("hana", hana, &draft).unwrap();
}

#[test]
fn numbers_that_overflow_are_refused() {
    let mut world = World::new();
    world.add("clinic", CLINIC).unwrap();
    let forger = Forger::new(1, recipient());
    let device = forger.key.device();
    world.connect_forged("clinic", device);
    world.forged_request("clinic", device, forger.hello("mallory", world.now)).unwrap();
    let grant = offer(&mut world, &forger, "clinic");
    let chain = Chain { device, segments: u64::MAX, last: None };
    let head =
        ShelfHead { grant, accept: accept_of(), chains: vec![chain.clone(), chain], issued_ms: world.now };
    let head = Verified::sign(head, forger.by(), &forger.key).unwrap();
    let body =
        Request::News { grant, head: head.bytes().to_vec().into(), segments: vec![] }.to_bytes().unwrap();
    world.forged_request("clinic", device, body).unwrap();
    assert_eq!(contacts(&mut world, "clinic"), ["mallory"], "the clinic still stands");
}

/// Offers a grant of the forger's to a node that accepts by itself.
fn offer(world: &mut World, forger: &Forger, to: &str) -> GrantId {
    let scope = Scope { kinds: vec!["fhir".into()], ..Scope::default() };
    let (salt, scope_salt) = (Salt::from([1; 32]), Salt::from([2; 32]));
    let opened = Opened {
        reader: Reader::Party(world.party(to)),
        subject: forger.party,
        scope_hash: grant::scope_hash(&scope_salt, &scope).unwrap(),
        purpose: "TREAT".into(),
        basis: "consent".into(),
        not_before_ms: world.now,
        not_after_ms: world.now + DAY_MS,
        offline_ms: DAY_MS,
        onward: Onward::No,
        conditions: vec![],
    };
    let act = Act::Grant { commitment: grant::commitment(&salt, &opened).unwrap() };
    let entry = Entry { seq: 1, prev: Some(forger.genesis.id().into()), at_ms: world.now, act };
    let entry = Verified::sign(entry, forger.by(), &forger.key).unwrap();
    forger.last.set(Some(entry.id().into()));
    let opening = Opening {
        entry: entry.bytes().to_vec(),
        salt,
        opened,
        scope_salt: Some(scope_salt),
        scope: Some(scope),
    };
    let id = opening.verify().unwrap().id();
    let sealed =
        seal::seal_to(&encoding::encode(&opening).unwrap(), &[world.keys(to).sealing.recipient()]).unwrap();
    let body = Request::Offer { grant: id, opening: sealed.into() }.to_bytes().unwrap();
    let answer = world.forged_request(to, forger.key.device(), body).unwrap();
    assert_eq!(answer, Response::Done.to_bytes().unwrap());
    id
}

fn accept_of() -> karte_protocol::id::ObjectId {
    karte_protocol::id::ObjectId::from([7; 32])
}

#[test]
fn a_log_longer_than_a_message_stops_nobody() {
    let mut world = World::new();
    world.add("clinic", CLINIC).unwrap();
    let forger = Forger::new(1, recipient());
    let second = DeviceKey::from_seed(&[2; 32]);
    world.connect_forged("clinic", forger.key.device());
    world.forged_request("clinic", forger.key.device(), forger.hello("mallory", world.now)).unwrap();
    offer(&mut world, &forger, "clinic");
    // The offer took seq 1. Each entry ends a device that nobody has; at last the second device is named and ended.
    let mut prev = forger.last.get();
    let mut seq = 2;
    let mut next = |act: Act| {
        let entry = Entry { seq, prev, at_ms: 0, act };
        let entry = Verified::sign(entry, forger.by(), &forger.key).unwrap();
        (seq, prev) = (seq + 1, Some(entry.id().into()));
        entry
    };
    let named = next(Act::AddDevice(Device { device: second.device(), recipients: vec![recipient()] }));
    let mut entries = vec![named];
    for number in 0_u32..6_000 {
        let mut seed = [3; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        entries.push(next(Act::RemoveDevice { device: seed.into(), last_valid_seq: 0 }));
    }
    entries.push(next(Act::RemoveDevice { device: second.device(), last_valid_seq: 0 }));
    assert!(entries.iter().map(|entry| entry.bytes().len()).sum::<usize>() > MESSAGE_BYTES_MAX);
    for part in entries.chunks(2_000) {
        let entries = part.iter().map(|entry| entry.bytes().to_vec().into()).collect();
        let body = Request::Entries { of: forger.party, entries }.to_bytes().unwrap();
        let answer = world.forged_request("clinic", forger.key.device(), body).unwrap();
        assert_eq!(answer, Response::Done.to_bytes().unwrap());
    }
    // The ended device knocks, and is told so by as much of the log as one message holds.
    world.connect_forged("clinic", second.device());
    let by = By { device: second.device(), ..forger.by() };
    let identity = vec![forger.genesis.bytes().to_vec().into(), entries[0].bytes().to_vec().into()];
    let card = Card { name: "mallory".into(), kind: "patient".into(), addresses: vec![], identity, at_ms: 0 };
    let card = Verified::sign(card, by, &second).unwrap();
    let hello = Hello { card: card.bytes().to_vec().into(), status: vec![].into() };
    world.forged_request("clinic", second.device(), Request::Hello(hello).to_bytes().unwrap()).unwrap();
    world.pass(10_000);
    assert_eq!(contacts(&mut world, "clinic"), ["mallory"], "the clinic still stands");
}

#[test]
fn a_clock_that_went_back_serves_and_opens_nothing_but_still_revokes() {
    let mut world = World::new();
    world.add("hana", DAEMON).unwrap();
    world.add("clinic", CLINIC).unwrap();
    let card = world.items("clinic", Command::Card).unwrap()[0]["card"].as_str().unwrap().to_owned();
    world.items("hana", Command::ContactAdd { card, alias: Some("clinic".into()) }).unwrap();
    let sync = Command::Sync { contact: Some("clinic".into()), staff: String::new() };
    world.items("hana", sync).unwrap();
    let hana = world.party("hana");
    let draft =
        Draft { kind: "fhir/Observation", category: "laboratory", code: "1", at_ms: world.now, text: "x" };
    let record = world.write("hana", hana, &draft).unwrap();
    let grant = world.items("hana", laboratory("clinic")).unwrap()[0]["id"].as_str().unwrap().to_owned();
    let open = || Command::RecordOpen { id: record.to_hex(), age: false, staff: String::new() };
    assert!(matches!(world.command("clinic", open()), Ok(Answer::Open(_))));
    world.pass(-DAY_MS);
    let refused: Failure = world.command("clinic", open()).err().unwrap();
    assert!(refused.message.contains("clock"), "{refused}");
    let refused = world.items("hana", laboratory("clinic")).err().unwrap();
    assert!(refused.message.contains("clock"), "{refused}");
    world.items("hana", Command::GrantRevoke { id: grant, reason: String::new() }).unwrap();
    assert!(!world.has_payload("clinic", &record), "a revocation is signed and honoured all the same");
}
