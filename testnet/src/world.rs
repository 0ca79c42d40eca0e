//! A world of engines. Messages travel at once and in order unless a pair is cut off; time stands still unless
//! it is moved. The seams that scheduling, loss and crashes need are all here: an outbox of effects per node.

use crate::shared::{Rows, SharedStore};
use karte_node::command::Command;
use karte_node::engine::{
    self, Answer, Effect, Engine, FetchEnd, Input, Joining, NewRecord, Opening, Policy,
};
use karte_node::failure::Failure;
use karte_node::keystore::{Keys, MemoryKeyring, RecoverySlot};
use karte_node::store::{Blobs, MemoryBlobs, Table};
use karte_protocol::bao::{Outline, verify_slice};
use karte_protocol::chance::Chance;
use karte_protocol::entry::{Act, Entry};
use karte_protocol::id::{DeviceId, EntryId, GrantId, PartyId, RecordId, digest};
use karte_protocol::label::{Code, Effective, Label, seal_label};
use karte_protocol::message::Fetch;
use karte_protocol::rank::ORDINARY;
use karte_protocol::seal::{open_checked, seal};
use karte_protocol::shelf::Handed;
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::UnixMs;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::sync::Arc;

/// How long an invitation lasts here, in milliseconds. 1 hour.
const INVITED_MS: i64 = 3_600_000;
/// Steps after which a world that still moves is taken for one that never rests.
const STEPS_MAX: usize = 100_000;

/// Repeatable chance: blake3 in counter mode over a seed.
pub struct SeededChance(blake3::OutputReader);

impl SeededChance {
    /// From a seed.
    pub fn new(seed: &str) -> Self {
        Self(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }
}

impl Chance for SeededChance {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill(out);
    }
}

/// A node in the world.
struct Inhabitant {
    engine: Engine,
    blobs: MemoryBlobs,
    keys: Arc<Keys>,
    store: SharedStore,
    policy: Policy,
    genesis: Vec<u8>,
}

/// Nodes and what is under way between them.
pub struct World {
    /// Now, for everybody.
    pub now: UnixMs,
    nodes: BTreeMap<String, Inhabitant>,
    devices: BTreeMap<DeviceId, String>,
    /// Pairs that cannot reach each other.
    cut: BTreeSet<(String, String)>,
    /// Who gets no answer from whom, not even that there is none.
    silent: BTreeSet<(String, String)>,
    queue: VecDeque<(String, Input)>,
    answers: BTreeMap<u64, Result<Answer, Failure>>,
    replies: BTreeMap<(String, u64), (String, DeviceId, engine::Duty)>,
    streams: BTreeMap<(String, u64), (String, Fetch, Vec<u64>)>,
    /// Who changes a byte of every payload it sends.
    liars: BTreeSet<String>,
    /// Who takes want-lists and does not answer them, and which: streams and what was to go out on them.
    idlers: BTreeMap<String, Vec<(u64, Vec<engine::Serving>)>>,
    /// Whose replies come when nothing else is on its way.
    late: BTreeSet<String>,
    held: VecDeque<(String, Input)>,
    /// What nodes told their own users, in order.
    pub notices: Vec<(String, String)>,
    /// Every control message that was sent: from, to, bytes.
    pub sent: Vec<(String, String, Vec<u8>)>,
    /// Every want-list that was sent: from, to, what.
    pub wanted: Vec<(String, String, Fetch)>,
    /// Every reply that came: from, to, bytes.
    pub replied: Vec<(String, String, Vec<u8>)>,
    next: u64,
}

/// A small record of ours.
pub struct Draft<'a> {
    /// `fhir/Observation`.
    pub kind: &'a str,
    /// `laboratory`.
    pub category: &'a str,
    /// A LOINC code.
    pub code: &'a str,
    /// Effective time, milliseconds since the epoch.
    pub at_ms: UnixMs,
    /// The plaintext.
    pub text: &'a str,
}

impl World {
    /// An empty world in 2026.
    pub fn new() -> Self {
        Self {
            now: 1_780_000_000_000,
            nodes: BTreeMap::new(),
            devices: BTreeMap::new(),
            cut: BTreeSet::new(),
            silent: BTreeSet::new(),
            queue: VecDeque::new(),
            answers: BTreeMap::new(),
            replies: BTreeMap::new(),
            streams: BTreeMap::new(),
            liars: BTreeSet::new(),
            idlers: BTreeMap::new(),
            late: BTreeSet::new(),
            held: VecDeque::new(),
            notices: vec![],
            sent: vec![],
            wanted: vec![],
            replied: vec![],
            next: 1,
        }
    }

    /// Adds a node.
    pub fn add(&mut self, name: &str, policy: Policy) -> Result<(), Failure> {
        let mut chance = SeededChance::new(name);
        let keys = Arc::new(Keys::generate(&mut chance));
        let birth = engine::birth(&keys, &mut chance, self.now)?;
        let store = SharedStore::default();
        let genesis = birth.genesis.clone();
        let engine = Engine::open(
            engine::Parts {
                keys: keys.clone(),
                ring: Box::new(MemoryKeyring::default()),
                store: Box::new(store.clone()),
                chance: Box::new(chance),
                genesis: birth.genesis,
                name: name.into(),
                kind: "patient".into(),
                policy,
                copied: false,
                started: "new",
            },
            self.now,
        )?;
        self.devices.insert(keys.device.device(), name.into());
        let blobs = MemoryBlobs::new();
        self.nodes.insert(name.into(), Inhabitant { engine, blobs, keys, store, policy, genesis });
        // Its address is its name.
        self.queue.push_back((name.into(), Input::Listening(vec![name.into()])));
        self.run();
        Ok(())
    }

    /// Adds a new device of a party that is somewhere in the world: it holds the entries that `log` shows, and no more.
    pub fn add_bare_device(&mut self, name: &str, log: &[Vec<u8>], policy: Policy) -> Result<(), Failure> {
        let keys = Arc::new(Keys::generate(&mut SeededChance::new(name)));
        keys.recovery.take_out();
        let store = SharedStore::default();
        let genesis = log.first().cloned().ok_or_else(|| Failure::failed("expected a Genesis"))?;
        let signed = Signed::<Entry>::from_bytes(genesis.clone()).verify()?;
        let party = PartyId::from(*signed.id().as_bytes());
        let mut rows = Rows::new();
        for bytes in log {
            let entry = Signed::<Entry>::from_bytes(bytes.clone()).verify()?;
            rows.push((Table(1), party.as_bytes().to_vec(), entry.id().as_bytes().to_vec(), bytes.clone()));
        }
        self.devices.insert(keys.device.device(), name.into());
        let node = Inhabitant {
            engine: Engine::open(
                engine::Parts {
                    keys: keys.clone(),
                    ring: Box::new(MemoryKeyring::default()),
                    store: Box::new(store),
                    chance: Box::new(SeededChance::new(name)),
                    genesis: genesis.clone(),
                    name: name.into(),
                    kind: "patient".into(),
                    policy,
                    copied: false,
                    started: "new",
                },
                self.now,
            )?,
            blobs: MemoryBlobs::new(),
            keys,
            store: SharedStore::default(),
            policy,
            genesis,
        };
        self.nodes.insert(name.into(), node);
        self.start_from(name, rows, false)
    }

    /// Adds a further device of a node's party: invited, joined, and started.
    pub fn add_device(&mut self, name: &str, of: &str, policy: Policy) -> Result<(), Failure> {
        let invited = self.items(of, Command::DeviceInvite { for_ms: INVITED_MS })?;
        let text = invited.first().and_then(|item| item["invite"].as_str()).unwrap_or_default().to_owned();
        self.join(name, of, &text, policy)
    }

    /// The same, with an invitation that was made before.
    pub fn join(&mut self, name: &str, of: &str, invite: &str, policy: Policy) -> Result<(), Failure> {
        let joining = Joining::from_text(invite, self.now)?;
        let mut chance = SeededChance::new(name);
        let keys = Keys { library: vec![], recovery: RecoverySlot::default(), ..Keys::generate(&mut chance) };
        let answer = self.asks_to_join(of, keys.device.device(), joining.request(&keys)?);
        let mut store = SharedStore::default();
        engine::keep_joined(&mut store, &joining, &keys, &answer.unwrap_or_default())?;
        let (keys, genesis) = (Arc::new(keys), joining.genesis().to_vec());
        let engine = Engine::open(
            engine::Parts {
                keys: keys.clone(),
                ring: Box::new(MemoryKeyring::default()),
                store: Box::new(store.clone()),
                chance: Box::new(chance),
                genesis: genesis.clone(),
                name: joining.name().into(),
                kind: joining.kind().into(),
                policy,
                copied: false,
                started: "new",
            },
            self.now,
        )?;
        self.devices.insert(keys.device.device(), name.into());
        let blobs = MemoryBlobs::new();
        self.nodes.insert(name.into(), Inhabitant { engine, blobs, keys, store, policy, genesis });
        self.queue.push_back((name.into(), Input::Listening(vec![name.into()])));
        self.queue.push_back((name.into(), Input::Tick));
        self.run();
        Ok(())
    }

    fn asks_to_join(&mut self, of: &str, device: DeviceId, body: Vec<u8>) -> Option<Vec<u8>> {
        let id = self.number();
        let mut answer = None;
        for effect in self.handle(of, Input::Request(device, id, body)) {
            match effect {
                Effect::Reply(reply, bytes) if reply == id => answer = Some(bytes),
                effect => self.carry(of, effect),
            }
        }
        self.run();
        answer
    }

    /// A copy of a node's folder as it is now.
    pub fn copy(&self, name: &str) -> Rows {
        self.nodes[name].store.copy()
    }

    /// A node is ended, and started again from a copy of its folder: the same device, what it knew then.
    pub fn start_from(&mut self, name: &str, rows: Rows, copied: bool) -> Result<(), Failure> {
        self.disconnect(name);
        let store = SharedStore::of(rows);
        let node = self.nodes.get_mut(name).expect("the world knows its nodes");
        let parts = engine::Parts {
            keys: node.keys.clone(),
            ring: Box::new(MemoryKeyring::default()),
            store: Box::new(store.clone()),
            chance: Box::new(SeededChance::new(&format!("{name} again"))),
            genesis: node.genesis.clone(),
            name: name.into(),
            kind: "patient".into(),
            policy: node.policy,
            copied,
            started: "clean",
        };
        node.engine = Engine::open(parts, self.now)?;
        node.store = store;
        self.queue.push_back((name.into(), Input::Listening(vec![name.into()])));
        self.run();
        Ok(())
    }

    fn disconnect(&mut self, name: &str) {
        let device = self.nodes[name].keys.device.device();
        for other in self.nodes.keys().filter(|other| *other != name).cloned().collect::<Vec<_>>() {
            self.queue.push_back((other, Input::Disconnected(device)));
        }
        self.run();
    }

    /// A payload is lost at a node, behind its back.
    pub fn lose_payload(&mut self, name: &str, record: &RecordId) {
        self.nodes[name].blobs.delete(record.as_bytes()).expect("memory deletes");
    }

    /// Asks a node's engine directly.
    pub fn ask(&mut self, name: &str, input: impl FnOnce(u64) -> Input) -> Result<Answer, Failure> {
        let ticket = self.number();
        self.queue.push_back((name.into(), input(ticket)));
        self.run();
        self.answers.remove(&ticket).unwrap_or_else(|| Err(Failure::failed("no answer")))
    }

    /// Sends a want-list from a device and gives which records would be sent, their labels with them.
    pub fn asked_on_a_stream(&mut self, at: &str, peer: DeviceId, list: Vec<u8>) -> Vec<RecordId> {
        let stream = self.number();
        let effects = self.handle(at, Input::FetchAsked(peer, stream, list));
        let items = effects.into_iter().filter_map(|effect| match effect {
            Effect::Serve(of, items, _) if of == stream => Some(items),
            _ => None,
        });
        let whole = |item: &engine::Serving| item.payload_bytes > 0 && item.label.is_some();
        items.flatten().filter(whole).map(|item| item.record).collect()
    }

    /// The signed entries of a party as a node holds them, by their bytes in its rows.
    pub fn entries_of(&self, at: &str, party: PartyId) -> BTreeSet<Vec<u8>> {
        let entries = karte_node::store::Table(1);
        let rows = self.copy(at).into_iter();
        rows.filter(|row| row.0 == entries && row.1 == party.as_bytes()).map(|row| row.3).collect()
    }

    /// A party's id.
    pub fn party(&self, name: &str) -> PartyId {
        self.nodes[name].engine.me().party
    }

    /// The entry that names a steward, as `grant` of a want-list names it.
    pub fn steward_entry(&self, holder: &str, steward: &str) -> GrantId {
        let steward = self.party(steward);
        let entries = self.entries_of(holder, self.party(holder)).into_iter();
        let mut signed = entries.filter_map(|bytes| Signed::<Entry>::from_bytes(bytes).verify().ok());
        let names =
            |entry: &Verified<Entry>| matches!(entry.act, Act::AddSteward { party, .. } if party == steward);
        let found = signed.find(names).expect("the holder has named it");
        EntryId::from(found.id()).into()
    }

    /// Commands a node, lets the world come to rest, and gives the answer.
    pub fn command(&mut self, name: &str, command: Command) -> Result<Answer, Failure> {
        let ticket = self.number();
        self.queue.push_back((name.into(), Input::Command(ticket, Box::new(command))));
        self.run();
        self.answers.remove(&ticket).unwrap_or_else(|| Err(Failure::failed("no answer")))
    }

    /// The objects a command gives.
    pub fn items(&mut self, name: &str, command: Command) -> Result<Vec<Value>, Failure> {
        match self.command(name, command)? {
            Answer::Items(items) => Ok(items),
            _ => Err(Failure::failed("expected items")),
        }
    }

    /// Seals and takes a record about `subject` at a node.
    pub fn write(&mut self, name: &str, subject: PartyId, draft: &Draft<'_>) -> Result<RecordId, Failure> {
        self.write_labelled(name, subject, draft, |label| label)
    }

    /// The same, with more in its label than a draft says.
    pub fn write_labelled(
        &mut self,
        name: &str,
        subject: PartyId,
        draft: &Draft<'_>,
        more: impl FnOnce(Label) -> Label,
    ) -> Result<RecordId, Failure> {
        let node = &self.nodes[name];
        let mut writer = node.blobs.create()?;
        let sealed = seal(draft.text.as_bytes(), &mut writer)?;
        writer.flush().map_err(|error| Failure::failed(error.to_string()))?;
        writer.finish()?;
        node.blobs.sync()?;
        let label = Label {
            categories: vec![draft.category.into()],
            codes: vec![Code { system: "http://loinc.org".into(), code: draft.code.into() }],
            effective: Some(Effective { start_ms: draft.at_ms, end_ms: draft.at_ms, offset_min: 0 }),
            ..Label::new(subject, draft.kind, draft.text, "text/plain", &sealed)
        };
        let label = Verified::sign(more(label), node.engine.signer(), &node.keys.device)?;
        let sealed_label = seal_label(&label, &node.engine.identity(), &sealed.file_key)?;
        let record = sealed.record;
        let handed = Handed {
            record,
            bytes: sealed.payload_bytes,
            file_key: sealed.file_key,
            label_hash: digest(&sealed_label),
            rank: ORDINARY,
        };
        let ticket = self.number();
        let records = vec![NewRecord { handed, label, sealed_label, source: None, replaced_by: None }];
        self.queue.push_back((name.into(), Input::Records(ticket, records)));
        self.run();
        Ok(record)
    }

    /// The plaintext that an opening gives.
    pub fn plaintext(&self, name: &str, opening: &Opening) -> Result<String, Failure> {
        let blob = self.nodes[name].blobs.open(opening.record.as_bytes())?;
        let blob = blob.ok_or_else(|| Failure::failed("the payload is not there"))?;
        let mut out = Vec::new();
        open_checked(blob, &opening.file_key, (opening.label.bytes, opening.label.hash), &mut out)?;
        String::from_utf8(out).map_err(|error| Failure::failed(error.to_string()))
    }

    /// Whether a payload lies at a node.
    pub fn has_payload(&self, name: &str, record: &RecordId) -> bool {
        matches!(self.nodes[name].blobs.len(record.as_bytes()), Ok(Some(_)))
    }

    /// Cuts two nodes off from each other.
    pub fn cut(&mut self, one: &str, other: &str) {
        self.cut.insert((one.into(), other.into()));
        self.cut.insert((other.into(), one.into()));
        for (at, peer) in [(one, other), (other, one)] {
            let device = self.nodes[peer].keys.device.device();
            self.queue.push_back((at.into(), Input::Disconnected(device)));
        }
        self.run();
    }

    /// Cuts two nodes off so that a call is not even refused: a machine that is switched off.
    pub fn silence(&mut self, one: &str, other: &str) {
        self.cut(one, other);
        self.silent.insert((one.into(), other.into()));
        self.silent.insert((other.into(), one.into()));
    }

    /// Lets two nodes reach each other again.
    pub fn heal(&mut self, one: &str, other: &str) {
        self.cut.remove(&(one.into(), other.into()));
        self.cut.remove(&(other.into(), one.into()));
    }

    /// A node changes a byte of every payload it sends from now on.
    pub fn lies(&mut self, name: &str) {
        self.liars.insert(name.into());
    }

    /// A node takes want-lists from now on, and does not answer them.
    pub fn idles(&mut self, name: &str) {
        self.idlers.insert(name.into(), vec![]);
    }

    /// It answers them now, and those to come.
    pub fn wakes(&mut self, name: &str) {
        for (stream, items) in self.idlers.remove(name).unwrap_or_default() {
            self.serve(name, stream, &items);
        }
        self.run();
    }

    /// What a node replies is overtaken from now on by all else that is on its way.
    pub fn replies_late(&mut self, name: &str) {
        self.late.insert(name.into());
    }

    /// A node is at these addresses from now on, best first.
    pub fn moves(&mut self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        self.queue.push_back((name.into(), Input::Listening(addresses)));
        self.run();
    }

    /// A node announces itself on the local network of another, at these addresses; none: no longer.
    pub fn announces(&mut self, name: &str, to: &str, addresses: &[&str]) {
        let device = self.nodes[name].keys.device.device();
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        self.queue.push_back((to.into(), Input::Nearby(device, addresses)));
        self.run();
    }

    /// Moves time and tells everybody.
    pub fn pass(&mut self, ms: i64) {
        self.now += ms;
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            self.queue.push_back((name, Input::Tick));
        }
        self.run();
    }

    /// Sends bytes as a control request from one connected node to another and gives the reply.
    pub fn raw_request(&mut self, from: &str, to: &str, body: Vec<u8>) -> Option<Vec<u8>> {
        let device = self.nodes[from].keys.device.device();
        let id = self.number();
        let effects = self.handle(to, Input::Request(device, id, body));
        effects.into_iter().find_map(|effect| match effect {
            Effect::Reply(reply, bytes) if reply == id => Some(bytes),
            _ => None,
        })
    }

    /// Connects a device that is no node of this world.
    pub fn connect_forged(&mut self, to: &str, device: DeviceId) {
        let input = Input::Connected { peer: device, address: "forged".into(), dialled: false };
        for effect in self.handle(to, input) {
            self.carry(to, effect);
        }
    }

    /// Sends bytes from such a device and gives the reply. What the node wants to send back is lost.
    pub fn forged_request(&mut self, to: &str, device: DeviceId, body: Vec<u8>) -> Option<Vec<u8>> {
        let id = self.number();
        let mut answer = None;
        for effect in self.handle(to, Input::Request(device, id, body)) {
            match effect {
                Effect::Reply(reply, bytes) if reply == id => answer = Some(bytes),
                Effect::Request(..) | Effect::Fetch(..) => {}
                effect => self.carry(to, effect),
            }
        }
        self.run();
        answer
    }

    /// The keys of a node, to forge with.
    pub fn keys(&self, name: &str) -> Arc<Keys> {
        self.nodes[name].keys.clone()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn handle(&mut self, name: &str, input: Input) -> Vec<Effect> {
        let now = self.now;
        let node = self.nodes.get_mut(name).expect("the world knows its nodes");
        let effects = node.engine.handle(input, now);
        node.engine.commit().expect("memory commits");
        effects
    }

    fn run(&mut self) {
        for _ in 0..STEPS_MAX {
            let Some((name, input)) = self.queue.pop_front().or_else(|| self.held.pop_front()) else {
                return;
            };
            for effect in self.handle(&name, input) {
                self.carry(&name, effect);
            }
        }
        panic!("the world does not come to rest: {:?}", self.notices.last());
    }

    fn carry(&mut self, at: &str, effect: Effect) {
        match effect {
            Effect::Answer(ticket, answer) => drop(self.answers.insert(ticket, answer)),
            Effect::Dial { party, addresses, .. } => self.dial(at, party, &addresses),
            Effect::Request(peer, duty, body) => self.request(at, peer, duty, body),
            Effect::Reply(id, body) => {
                if let Some((asker, peer, duty)) = self.replies.remove(&(at.to_owned(), id)) {
                    self.replied.push((at.into(), asker.clone(), body.clone()));
                    let answered = (asker, Input::Answered(peer, duty, Ok(body)));
                    let way = if self.late.contains(at) { &mut self.held } else { &mut self.queue };
                    way.push_back(answered);
                }
            }
            Effect::Fetch(peer, fetch, expected) => {
                let lengths = expected.iter().map(|expected| expected.bytes).collect();
                self.fetch(at, peer, fetch, lengths);
            }
            Effect::Serve(stream, items, _) => self.serve(at, stream, &items),
            Effect::Finish(stream, _) => self.end_stream(at, stream, vec![], FetchEnd::Denied),
            Effect::Drop(records) => {
                for record in records {
                    self.nodes[at].blobs.delete(record.as_bytes()).expect("memory deletes");
                }
            }
            Effect::Notice(text) => self.notices.push((at.into(), text)),
            Effect::Fatal(failure) => panic!("{at} failed: {failure}"),
            Effect::Progress { .. }
            | Effect::Arrived(..)
            | Effect::Signs(..)
            | Effect::Know(_)
            | Effect::Go(..)
            | Effect::StopFetch(..)
            | Effect::Stop => {}
        }
    }

    fn dial(&mut self, at: &str, party: PartyId, addresses: &[String]) {
        let reachable = addresses.iter().find(|name| {
            self.nodes.contains_key(*name)
                && name.as_str() != at
                && !self.cut.contains(&(at.to_owned(), (*name).clone()))
        });
        let Some(other) = reachable.cloned() else {
            if addresses.iter().any(|name| self.silent.contains(&(at.to_owned(), name.clone()))) {
                return;
            }
            self.queue.push_back((at.into(), Input::DialFailed(party, "cut off".into())));
            return;
        };
        let (here, there) = (self.nodes[at].keys.device.device(), self.nodes[&other].keys.device.device());
        let answer = Input::Connected { peer: here, address: at.into(), dialled: false };
        self.queue.push_back((other.clone(), answer));
        self.queue.push_back((at.into(), Input::Connected { peer: there, address: other, dialled: true }));
    }

    fn request(&mut self, at: &str, peer: DeviceId, duty: engine::Duty, body: Vec<u8>) {
        let Some(to) = self.devices.get(&peer).cloned() else {
            self.queue
                .push_back((at.into(), Input::Answered(peer, duty, Err("a forger does not answer".into()))));
            return;
        };
        if self.cut.contains(&(at.to_owned(), to.clone())) {
            self.queue.push_back((at.into(), Input::Answered(peer, duty, Err("cut off".into()))));
            return;
        }
        let id = self.number();
        self.sent.push((at.into(), to.clone(), body.clone()));
        self.replies.insert((to.clone(), id), (at.into(), peer, duty));
        let from = self.nodes[at].keys.device.device();
        self.queue.push_back((to, Input::Request(from, id, body)));
    }

    fn fetch(&mut self, at: &str, peer: DeviceId, fetch: Fetch, lengths: Vec<u64>) {
        let to = self.devices[&peer].clone();
        let stream = self.number();
        let body = fetch.to_bytes().expect("a want-list has bytes");
        self.wanted.push((at.into(), to.clone(), fetch.clone()));
        self.streams.insert((to.clone(), stream), (at.into(), fetch, lengths));
        let from = self.nodes[at].keys.device.device();
        self.queue.push_back((to, Input::FetchAsked(from, stream, body)));
    }

    /// Moves payloads slice by slice, with the same proofs as on the wire.
    fn serve(&mut self, at: &str, stream: u64, items: &[engine::Serving]) {
        let Some((reader, fetch, lengths)) = self.streams.get(&(at.to_owned(), stream)).cloned() else {
            return;
        };
        if let Some(held) = self.idlers.get_mut(at) {
            held.push((stream, items.to_vec()));
            return;
        }
        let (mut arrived, mut missing, mut end) = (Vec::new(), Vec::new(), FetchEnd::Whole);
        for (item, bytes) in items.iter().zip(lengths) {
            let payload = self.payload(at, &item.record);
            match (payload, &item.label) {
                (Some(payload), Some(label)) if item.payload_bytes == bytes => {
                    let (mut slice, mut plain) = (Vec::new(), Vec::new());
                    let outline = Outline::of_small(item.record, bytes);
                    outline.slice(0, &payload, &mut slice).expect("own payloads are whole");
                    if self.liars.contains(at) {
                        slice.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1);
                    }
                    if let Err(error) = verify_slice(item.record, bytes, 0, &slice, &mut plain) {
                        end = FetchEnd::Wrong(error.to_string());
                        break;
                    }
                    self.nodes[&reader].blobs.put(item.record.as_bytes(), &plain).expect("memory writes");
                    arrived.push((item.record, label.clone()).into());
                }
                _ => missing.push(item.record),
            }
        }
        let holder = self.nodes[at].keys.device.device();
        self.nodes[&reader].blobs.sync().expect("memory syncs");
        self.queue.push_back((reader, Input::Arrived(holder, fetch.grant, arrived)));
        self.end_stream(at, stream, missing, end);
    }

    fn payload(&self, at: &str, record: &RecordId) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.nodes[at].blobs.open(record.as_bytes()).ok()??.read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn end_stream(&mut self, at: &str, stream: u64, missing: Vec<RecordId>, end: FetchEnd) {
        let Some((reader, fetch, _)) = self.streams.remove(&(at.to_owned(), stream)) else {
            return;
        };
        let holder = self.nodes[at].keys.device.device();
        self.queue.push_back((reader, Input::FetchEnded(holder, fetch.grant, missing, end)));
        self.queue.push_back((at.into(), Input::ServeEnded(stream)));
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
