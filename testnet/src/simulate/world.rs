//! The world: engines, a heap of what is to happen, and how effects travel.
//!
//! Time is a number; it jumps to the next event. The fate of a message follows from the seed, its two ends and how
//! many went before it, so that leaving out one deed does not change all others.

use super::model::Fact;
use super::node::Node;
use super::phone::Phone;
use super::plan::{CLINICS, DAYS, Moment, NAMES, PATIENTS, Plan, STEWARD};
use super::story::Story;
use crate::faults::dice::{Dice, index};
use crate::world::SeededChance;
use karte_node::command::Command;
use karte_node::engine::{Answer, Duty, Effect, FetchEnd, Input, Policy, Serving};
use karte_node::failure::Failure;
use karte_node::store::Store;
use karte_protocol::id::{DeviceId, EntryId, GrantId, PartyId, RecordId};
use karte_protocol::message::Fetch;
use karte_protocol::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, UnixMs};
use karte_protocol::variants::{self, Variant};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// The true time at which every run begins: 2026-06-01T00:00:00Z, above the release date.
pub const BEGIN_MS: UnixMs = 1_780_272_000_000;
/// How often a node is told that time passed.
const TICK_MS: i64 = 12 * HOUR_MS;
/// What the steward keeps for a patient at most: more than any writes in a run.
const QUOTA_BYTES: u64 = 1 << 30;
/// How long a request waits for its answer.
const TIMEOUT_MS: i64 = 30 * SECOND_MS;

/// Something that will happen.
pub enum Event {
    /// The next deed of the plan.
    Step(usize),
    /// A node is told that time passed.
    Tick(usize),
    /// A node that went down starts.
    Start(usize),
    /// A node is told something, if the connection it comes by still stands.
    Feed(usize, Option<u64>, Box<Input>),
    /// An answer arrives.
    Answer(u64, Result<Vec<u8>, String>),
    /// A stream goes on.
    Next(u64),
    /// A connection ends.
    Close(u64),
    /// An insider of a clinic hangs up on a patient.
    HangsUp(usize, usize),
    /// A clock is set right.
    ClockBack(usize, i64),
}

struct InFlight {
    conn: u64,
    asker: usize,
    peer: DeviceId,
    duty: Duty,
}

struct Stream {
    conn: u64,
    server: usize,
    reader: usize,
    /// Under which grant; of a stream without a session, what its want-list names instead.
    grant: GrantId,
    /// Between a holder and its reader or steward, for what the holder owns.
    is_own: bool,
    lengths: BTreeMap<RecordId, u64>,
    items: VecDeque<Serving>,
    missing: Vec<RecordId>,
}

/// What is wrong with the way between two nodes, and until when.
pub struct Weather {
    /// Either end.
    pub pair: (usize, usize),
    /// Until when.
    pub until_ms: UnixMs,
    /// Nothing passes.
    pub cut: bool,
    /// Messages that are lost, of 100.
    pub loss: u64,
    /// The longest delay.
    pub delay_ms: i64,
    /// Requests arrive twice.
    pub doubles: bool,
}

/// A record, as its author meant it.
pub struct Written {
    /// Its name.
    pub id: RecordId,
    /// Whom it is about.
    pub subject: PartyId,
    /// `vital-signs`, else `laboratory`.
    pub vital: bool,
    /// What it says.
    pub text: String,
    /// Ciphertext.
    pub payload: Vec<u8>,
    /// Length and hash of the plaintext.
    pub plain: (u64, karte_protocol::id::Digest),
}

/// A grant, as its holder meant it.
#[derive(Debug, Clone)]
pub struct Meant {
    /// Its name.
    pub id: GrantId,
    /// Who gave.
    pub holder: PartyId,
    /// In which generation.
    pub generation: u32,
    /// To whom.
    pub reader: PartyId,
    /// About whom.
    pub subject: PartyId,
    /// Laboratory values alone.
    pub labs_only: bool,
    /// Its time.
    pub from_ms: UnixMs,
    /// Its end.
    pub until_ms: UnixMs,
    /// Its offline limit.
    pub offline_ms: i64,
}

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

/// A world.
pub struct World {
    /// The true time.
    pub now: UnixMs,
    /// Its seed.
    pub seed: u64,
    /// All nodes, by number.
    pub nodes: Vec<Node>,
    /// The rule that all nodes break.
    pub variant: Option<Variant>,
    /// Who breaks one in every run of this seed.
    pub rogue: Option<usize>,
    /// Which node runs as which device.
    pub devices: BTreeMap<DeviceId, usize>,
    /// Second devices of patients, in the hands of thieves.
    pub phones: BTreeMap<usize, Phone>,
    /// Every entry that was seen anywhere.
    pub facts: BTreeMap<EntryId, Fact>,
    /// Recoveries that were made with the keys for it.
    pub right: BTreeSet<EntryId>,
    /// Devices whose chain may fork: stolen, or started from an old copy.
    pub may_fork: BTreeSet<DeviceId>,
    /// What is written, in order.
    pub records: Vec<Written>,
    /// What is granted, in order.
    pub grants: Vec<Meant>,
    /// What is in the way.
    pub weather: Vec<Weather>,
    /// What happened, in words and as a hash.
    pub story: Story,
    /// The first broken invariant.
    pub broken: Option<Violation>,
    /// Inputs that engines handled.
    pub steps: u64,
    /// Plaintexts that were opened under grants.
    pub opened: u64,
    /// Sessions that the steward opened in the name of a patient.
    pub stood_in: u64,
    events: BTreeMap<(UnixMs, u64), Event>,
    conns: BTreeMap<(usize, usize), u64>,
    in_flight: BTreeMap<u64, InFlight>,
    streams: BTreeMap<u64, Stream>,
    answers: BTreeMap<u64, Result<Answer, Failure>>,
    sent: BTreeMap<(usize, usize), u64>,
    next: u64,
}

impl World {
    /// Eight parties that know each other.
    pub fn new(plan: &Plan, variant: Option<Variant>) -> Result<Self, Failure> {
        variants::choose(None);
        variants::remember_signatures();
        let mut world = Self {
            now: BEGIN_MS,
            seed: plan.seed,
            nodes: vec![],
            variant,
            rogue: plan.rogue,
            devices: BTreeMap::new(),
            phones: BTreeMap::new(),
            facts: BTreeMap::new(),
            right: BTreeSet::new(),
            may_fork: BTreeSet::new(),
            records: vec![],
            grants: vec![],
            weather: vec![],
            story: Story::default(),
            broken: None,
            steps: 0,
            opened: 0,
            stood_in: 0,
            events: BTreeMap::new(),
            conns: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            streams: BTreeMap::new(),
            answers: BTreeMap::new(),
            sent: BTreeMap::new(),
            next: 1,
        };
        for (at, name) in NAMES.into_iter().enumerate() {
            let policy = policy_of(at);
            let node = Node::born(plan.seed, name, policy, BEGIN_MS)?;
            world.devices.insert(node.device(), at);
            world.nodes.push(node);
            world.feed(at, Input::Listening(vec![name.into()]));
            world.at(
                BEGIN_MS + TICK_MS + i64::try_from(at).unwrap_or_default() * 97 * MINUTE_MS,
                Event::Tick(at),
            );
        }
        world.introduce();
        for (nth, step) in plan.steps.iter().enumerate() {
            world.at(BEGIN_MS + step.at_ms, Event::Step(nth));
        }
        Ok(world)
    }

    fn introduce(&mut self) {
        let cards: Vec<String> = (0..self.nodes.len()).map(|at| self.card_text(at)).collect();
        for patient in PATIENTS {
            for other in CLINICS.chain([STEWARD]) {
                for (who, whom) in [(patient, other), (other, patient)] {
                    let add =
                        Command::ContactAdd { card: cards[whom].clone(), alias: Some(NAMES[whom].into()) };
                    let _ = self.command(who, add);
                }
            }
            let contact = NAMES[patient].to_owned();
            let offer = Command::StewardOffer { contact, quota_bytes: QUOTA_BYTES, for_ms: 60 * DAY_MS };
            if let Some(Err(failure)) = self.command(STEWARD, offer) {
                self.breaks("start", format!("{} offers nothing: {failure}", NAMES[STEWARD]));
            }
        }
    }

    fn card_text(&mut self, at: usize) -> String {
        match self.command(at, Command::Card) {
            Some(Ok(Answer::Items(items))) => {
                items.first().and_then(|card| card["card"].as_str()).unwrap_or_default().to_owned()
            }
            _ => String::new(),
        }
    }

    /// Until nothing more is to happen before `until_ms`, or an invariant broke.
    pub fn run_until(&mut self, until_ms: UnixMs, plan: &Plan) {
        while self.broken.is_none() {
            let Some(((at_ms, _), _)) = self.events.first_key_value().filter(|((at, _), _)| *at <= until_ms)
            else {
                self.now = until_ms;
                return;
            };
            self.now = *at_ms;
            if let Some((_, event)) = self.events.pop_first() {
                self.happen(event, plan);
            }
        }
    }

    fn happen(&mut self, event: Event, plan: &Plan) {
        match event {
            Event::Step(nth) => {
                let Some(step) = plan.steps.get(nth) else { return };
                self.do_deed(step.deed);
            }
            Event::Tick(at) => {
                self.feed(at, Input::Tick);
                self.after(TICK_MS, Event::Tick(at));
            }
            Event::Start(at) => self.start(at, false),
            Event::Feed(at, conn, input) => {
                if conn.is_none_or(|conn| self.is_open(conn)) {
                    self.feed(at, *input);
                }
            }
            Event::Answer(id, result) => {
                if let Some(waits) = self.in_flight.remove(&id) {
                    self.feed(waits.asker, Input::Answered(waits.peer, waits.duty, result));
                }
            }
            Event::Next(stream) => self.go_on(stream),
            Event::Close(conn) => self.close(conn),
            Event::HangsUp(clinic, patient) => {
                // A network tells of a peer's last connection alone: the clinic itself may have called meanwhile.
                if self.conn(clinic, patient).is_none() {
                    self.feed(patient, Input::Disconnected(self.nodes[clinic].device()));
                }
            }
            Event::ClockBack(at, by_ms) => {
                self.nodes[at].off_ms -= by_ms;
                self.story.tell(self.now, format!("{}'s clock is set right", NAMES[at]));
            }
        }
    }

    // --- time and chance

    /// Something happens at a time.
    pub fn at(&mut self, at_ms: UnixMs, event: Event) {
        let number = self.number();
        self.events.insert((at_ms, number), event);
    }

    /// Something happens after a while.
    pub fn after(&mut self, ms: i64, event: Event) {
        self.at(self.now + ms, event);
    }

    /// A number that was not used before.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Chance for something that happens once.
    pub fn chance(&mut self, what: &str) -> SeededChance {
        let number = self.number();
        SeededChance::new(&format!("{} {what} {number}", self.seed))
    }

    /// What a node's clock shows.
    pub fn clock(&self, at: usize) -> UnixMs {
        self.now + self.nodes[at].off_ms
    }

    fn dice(&mut self, from: usize, to: usize) -> Dice {
        let count = self.sent.entry((from, to)).or_default();
        *count += 1;
        Dice::new("fate", &[self.seed, from as u64, to as u64, *count])
    }

    fn weather_of(&self, one: usize, other: usize) -> impl Iterator<Item = &Weather> {
        let now = self.now;
        self.weather.iter().filter(move |weather| {
            weather.until_ms > now && [weather.pair, (weather.pair.1, weather.pair.0)].contains(&(one, other))
        })
    }

    /// Nothing passes between two nodes.
    pub fn is_cut(&self, one: usize, other: usize) -> bool {
        self.weather_of(one, other).any(|weather| weather.cut)
    }

    /// How long a message takes; none if it is lost.
    fn delay(&mut self, from: usize, to: usize) -> Option<i64> {
        let mut dice = self.dice(from, to);
        let loss = self.weather_of(from, to).map(|weather| weather.loss).max().unwrap_or_default();
        let most = self.weather_of(from, to).map(|weather| weather.delay_ms).max().unwrap_or_default();
        if dice.chance(loss) || self.is_cut(from, to) {
            return None;
        }
        let base = 20 + i64::try_from(dice.below(180)).unwrap_or_default();
        let slow = dice.chance(50) && most > 0;
        let more = if slow { i64::try_from(dice.below(most.unsigned_abs())).unwrap_or_default() } else { 0 };
        Some(base + more)
    }

    // --- nodes

    /// Tells a node something, commits, and carries out what it wants done.
    pub fn feed(&mut self, at: usize, input: Input) {
        let clock = self.clock(at);
        let Some(mut engine) = self.nodes[at].engine.take() else { return };
        self.steps += 1;
        let heard = self.hears(at, &input);
        self.story.mark(self.now, at, heard.label);
        let wrong = if self.rogue == Some(at) { Some(Variant::SendsOutsideScope) } else { self.variant };
        variants::choose(wrong);
        let effects = engine.handle(input, clock);
        let writes = self.nodes[at].store.stats().pending_bytes > 0;
        let moment = self.nodes[at].crash.filter(|_| writes).map(|(moment, _)| moment);
        let too_soon = wrong == Some(Variant::SentBeforeCommit);
        if moment == Some(Moment::Uncommitted) {
            variants::choose(None);
            drop(engine);
            if too_soon {
                self.carry_all(at, effects);
            }
            return self.crash(at);
        }
        engine.commit().expect("memory commits");
        variants::choose(None);
        self.nodes[at].engine = Some(engine);
        self.committed(at, &heard);
        if moment == Some(Moment::Unsaid) {
            return self.crash(at);
        }
        self.says(at, &heard, &effects);
        self.carry_all(at, effects);
    }

    /// Commands a node. None if it is down, or went down over it, or does not answer at once.
    pub fn command(&mut self, at: usize, command: Command) -> Option<Result<Answer, Failure>> {
        let ticket = self.number();
        self.feed(at, Input::Command(ticket, Box::new(command)));
        self.answers.remove(&ticket)
    }

    /// The process is killed.
    pub fn crash(&mut self, at: usize) {
        let down_ms = self.nodes[at].crash.take().map_or(SECOND_MS, |(_, down_ms)| down_ms);
        self.stop(at);
        self.story.tell(self.now, format!("{} is killed", NAMES[at]));
        self.after(down_ms, Event::Start(at));
    }

    /// A node is gone: what it had not committed too, and its connections.
    pub fn stop(&mut self, at: usize) {
        self.nodes[at].engine = None;
        self.nodes[at].store.crash();
        let node = &mut self.nodes[at];
        node.commits = 0;
        node.view.sessions.clear();
        node.view.unanswered.clear();
        let open: Vec<u64> =
            self.conns.iter().filter(|((a, b), _)| *a == at || *b == at).map(|(_, conn)| *conn).collect();
        open.into_iter().for_each(|conn| self.close(conn));
    }

    /// A node starts on its folder as it is.
    pub fn start(&mut self, at: usize, copied: bool) {
        if self.nodes[at].engine.is_some() {
            return;
        }
        let clock = self.clock(at);
        variants::choose(self.variant);
        let started = self.nodes[at].start(clock, copied);
        variants::choose(None);
        if let Err(failure) = started {
            return self.breaks("start", format!("{} does not start: {failure}", NAMES[at]));
        }
        self.devices.retain(|_, of| *of != at);
        self.devices.insert(self.nodes[at].device(), at);
        self.started(at);
        self.feed(at, Input::Listening(vec![NAMES[at].into()]));
    }

    // --- connections

    fn is_open(&self, conn: u64) -> bool {
        self.conns.values().any(|open| *open == conn)
    }

    /// The connection of two nodes.
    pub fn conn(&self, one: usize, other: usize) -> Option<u64> {
        self.conns.get(&(one.min(other), one.max(other))).copied()
    }

    /// A connection ends; what was under way on it failed.
    pub fn close(&mut self, conn: u64) {
        let Some(pair) = self.conns.iter().find(|(_, open)| **open == conn).map(|(pair, _)| *pair) else {
            return;
        };
        self.conns.remove(&pair);
        let waiting: Vec<u64> =
            self.in_flight.iter().filter(|(_, waits)| waits.conn == conn).map(|(id, _)| *id).collect();
        for id in waiting {
            if let Some(waits) = self.in_flight.remove(&id) {
                self.feed(
                    waits.asker,
                    Input::Answered(waits.peer, waits.duty, Err("the connection broke".into())),
                );
            }
        }
        let streams: Vec<u64> =
            self.streams.iter().filter(|(_, stream)| stream.conn == conn).map(|(id, _)| *id).collect();
        for id in streams {
            self.end_stream(id, FetchEnd::Broken("the connection broke".into()));
        }
        let (one, other) = pair;
        for (at, peer) in [(one, other), (other, one)] {
            let device = self.nodes[peer].device();
            self.disconnects(at, device);
            self.feed(at, Input::Disconnected(device));
        }
    }

    fn dial(&mut self, from: usize, party: PartyId, addresses: &[String]) {
        let to = addresses.iter().find_map(|name| NAMES.iter().position(|known| known == name));
        let to = to.filter(|to| *to != from && self.nodes[*to].engine.is_some() && !self.is_cut(from, *to));
        let Some(to) = to else {
            let failed = Input::DialFailed(party, "no way there".into());
            return self.after(SECOND_MS, Event::Feed(from, None, Box::new(failed)));
        };
        if self.conn(from, to).is_some() {
            return;
        }
        let conn = self.number();
        self.conns.insert((from.min(to), from.max(to)), conn);
        let mut dice = self.dice(from, to);
        let minutes = if dice.chance(15) { dice.between(60, 3 * 24 * 60) } else { dice.between(2, 60) };
        let (here, there) = (self.nodes[from].device(), self.nodes[to].device());
        let called = Input::Connected { peer: here, address: NAMES[from].into(), dialled: false };
        let calls = Input::Connected { peer: there, address: NAMES[to].into(), dialled: true };
        self.after(20, Event::Feed(to, Some(conn), Box::new(called)));
        self.after(21, Event::Feed(from, Some(conn), Box::new(calls)));
        self.after(i64::try_from(minutes).unwrap_or_default() * MINUTE_MS, Event::Close(conn));
    }

    // --- effects

    fn carry_all(&mut self, at: usize, effects: Vec<Effect>) {
        effects.into_iter().for_each(|effect| self.carry(at, effect));
    }

    fn carry(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Answer(ticket, answer) => drop(self.answers.insert(ticket, answer)),
            Effect::Dial { party, addresses, .. } => self.dial(at, party, &addresses),
            Effect::Request(peer, duty, body) => self.request(at, peer, duty, body),
            Effect::Reply(id, body) => self.reply(at, id, body),
            Effect::Fetch(peer, fetch, expected) => {
                let lengths: Vec<u64> = expected.iter().map(|expected| expected.bytes).collect();
                self.fetch(at, peer, &fetch, &lengths);
            }
            Effect::Serve(stream, items, _) => {
                if let Some(running) = self.streams.get_mut(&stream) {
                    running.items = items.into();
                    self.after(SECOND_MS, Event::Next(stream));
                }
            }
            Effect::Finish(stream, _) => self.end_stream(stream, FetchEnd::Denied),
            Effect::Go(stream, true) => self.send_next(stream),
            Effect::Go(stream, false) => self.end_stream(stream, FetchEnd::Denied),
            Effect::StopFetch(grant, from) => {
                let is_its =
                    |stream: &Stream| from.is_none_or(|peer| self.nodes[stream.server].device() == peer);
                let stopped =
                    |stream: &Stream| stream.reader == at && stream.grant == grant && is_its(stream);
                let ids: Vec<u64> =
                    self.streams.iter().filter(|(_, stream)| stopped(stream)).map(|(id, _)| *id).collect();
                for id in ids {
                    if let Some(stream) = self.streams.remove(&id) {
                        self.after(
                            20,
                            Event::Feed(stream.server, Some(stream.conn), Box::new(Input::ServeEnded(id))),
                        );
                    }
                }
            }
            Effect::Drop(records) => {
                for record in records {
                    self.nodes[at].blobs.remove(&record);
                }
            }
            Effect::Fatal(failure) => self.breaks("fatal", format!("{} ends: {failure}", NAMES[at])),
            Effect::Signs(..)
            | Effect::Notice(_)
            | Effect::Arrived(..)
            | Effect::Know(_)
            | Effect::Progress { .. }
            | Effect::Stop => {}
        }
    }

    fn request(&mut self, at: usize, peer: DeviceId, duty: Duty, body: Vec<u8>) {
        let to = self.devices.get(&peer).copied();
        let conn = to.and_then(|to| self.conn(at, to));
        let (Some(to), Some(conn)) = (to, conn) else {
            let failed = Input::Answered(peer, duty, Err("not connected".into()));
            return self.after(SECOND_MS, Event::Feed(at, None, Box::new(failed)));
        };
        let id = self.number();
        self.in_flight.insert(id, InFlight { conn, asker: at, peer, duty });
        let from = self.nodes[at].device();
        match self.delay(at, to) {
            Some(delay) => {
                if self.weather_of(at, to).any(|weather| weather.doubles) {
                    let again = self.number();
                    let input = Input::Request(from, again, body.clone());
                    self.after(delay + MINUTE_MS, Event::Feed(to, Some(conn), Box::new(input)));
                }
                self.after(delay, Event::Feed(to, Some(conn), Box::new(Input::Request(from, id, body))));
            }
            None => self.after(TIMEOUT_MS, Event::Answer(id, Err("timed out".into()))),
        }
    }

    fn reply(&mut self, at: usize, id: u64, body: Vec<u8>) {
        let Some(asker) = self.in_flight.get(&id).map(|waits| waits.asker) else { return };
        match self.delay(at, asker) {
            Some(delay) => self.after(delay, Event::Answer(id, Ok(body))),
            None => self.after(TIMEOUT_MS, Event::Answer(id, Err("timed out".into()))),
        }
    }

    fn fetch(&mut self, at: usize, peer: DeviceId, fetch: &Fetch, lengths: &[u64]) {
        let server = self.devices.get(&peer).copied();
        let conn = server.and_then(|server| self.conn(at, server));
        let (Some(server), Some(conn), Ok(body)) = (server, conn, fetch.to_bytes()) else {
            let ended =
                Input::FetchEnded(peer, fetch.grant, vec![], FetchEnd::Broken("not connected".into()));
            return self.after(SECOND_MS, Event::Feed(at, None, Box::new(ended)));
        };
        let stream = self.number();
        let lengths = fetch.wants.iter().map(|want| want.record).zip(lengths.iter().copied()).collect();
        let running = Stream {
            conn,
            server,
            reader: at,
            grant: fetch.grant,
            is_own: fetch.back || fetch.keep,
            lengths,
            items: VecDeque::new(),
            missing: vec![],
        };
        self.streams.insert(stream, running);
        let asked = Input::FetchAsked(self.nodes[at].device(), stream, body);
        let delay = self.delay(at, server).unwrap_or(TIMEOUT_MS);
        self.after(delay, Event::Feed(server, Some(conn), Box::new(asked)));
    }

    /// Before each record of a stream the server is asked again.
    fn go_on(&mut self, id: u64) {
        let Some(stream) = self.streams.get(&id) else { return };
        match stream.items.is_empty() {
            true => self.end_stream(id, FetchEnd::Whole),
            false => self.feed(stream.server, Input::MayServe(id)),
        }
    }

    fn send_next(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(item) = stream.items.pop_front() else { return };
        let (server, reader, conn, grant) = (stream.server, stream.reader, stream.conn, stream.grant);
        let fits = stream.lengths.get(&item.record) == Some(&item.payload_bytes);
        let here = self.nodes[server].blobs.contains(&item.record);
        match item.label.filter(|_| fits && here) {
            Some(label) => {
                self.nodes[reader].blobs.insert(item.record);
                let device = self.nodes[server].device();
                let arrived = Input::Arrived(device, grant, vec![(item.record, label).into()]);
                let delay = self.delay(server, reader).unwrap_or(SECOND_MS).min(MINUTE_MS);
                self.after(delay, Event::Feed(reader, Some(conn), Box::new(arrived)));
                self.after(delay + 1, Event::Next(id));
            }
            None => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.missing.push(item.record);
                }
                self.after(1, Event::Next(id));
            }
        }
    }

    fn end_stream(&mut self, id: u64, end: FetchEnd) {
        let Some(stream) = self.streams.remove(&id) else { return };
        let device = self.nodes[stream.server].device();
        self.feed(stream.reader, Input::FetchEnded(device, stream.grant, stream.missing, end));
        self.feed(stream.server, Input::ServeEnded(id));
    }

    /// An invariant does not hold. The first one ends the run.
    pub fn breaks(&mut self, invariant: &'static str, what: String) {
        if self.broken.is_none() {
            self.story.tell(self.now, format!("BROKEN: {invariant}: {what}"));
            self.broken = Some(Violation { invariant, what });
        }
    }

    /// Everything is healed, everybody is up and right about the time, and everybody meets everybody.
    pub fn heal(&mut self, plan: &Plan) {
        self.weather.clear();
        self.story.tell(self.now, "everything is healed".into());
        for at in 0..self.nodes.len() {
            self.nodes[at].off_ms = 0;
            self.nodes[at].crash = None;
            self.start(at, false);
        }
        // Nothing new happens from here on: what everybody must agree on has happened.
        self.events.retain(|_, event| !matches!(event, Event::ClockBack(..) | Event::Step(_)));
        // Who still waits for what was sent on a slow way gives up, as it does on a real network.
        for waits in self.in_flight.keys().copied().collect::<Vec<_>>() {
            self.after(TIMEOUT_MS, Event::Answer(waits, Err("timed out".into())));
        }
        for round in 1..=3 {
            for patient in PATIENTS {
                for clinic in CLINICS {
                    let _ = self.command(patient, sync(clinic));
                    let _ = self.command(clinic, sync(patient));
                }
            }
            // What overtook the answer to a Hello is denied, and tried again when time has passed.
            for later in [10 * SECOND_MS, 70 * SECOND_MS, 5 * MINUTE_MS] {
                let begun_ms = BEGIN_MS + DAYS * DAY_MS + (round - 1) * 5 * MINUTE_MS;
                self.run_until(begun_ms + later, plan);
                for at in 0..self.nodes.len() {
                    self.feed(at, Input::Tick);
                }
            }
        }
    }

    /// Every node's share of entries of a party.
    pub fn held(&self, at: usize, party: PartyId) -> Option<&BTreeMap<EntryId, Fact>> {
        self.nodes[at].view.held.get(&party)
    }

    /// The number of the node of a party.
    pub fn node_of(&self, party: PartyId) -> Option<usize> {
        self.nodes.iter().position(|node| node.party == party)
    }

    /// An entry, known by its id from now on.
    pub fn fact(&mut self, entry: karte_protocol::signed::Verified<karte_protocol::entry::Entry>) -> Fact {
        let fact = Rc::new(entry);
        self.facts.entry(fact.id().into()).or_insert(fact).clone()
    }

    /// A random-looking index below `len`.
    pub fn nth(nth: u64, len: usize) -> usize {
        index(nth % (len.max(1) as u64))
    }
}

/// What a node does by itself. One clinic runs a daemon that calls; the others and the patients are told to.
fn policy_of(at: usize) -> Policy {
    let is_patient = PATIENTS.contains(&at);
    Policy { accept_contacts: true, accept_grants: is_patient || at == 4, adopt: is_patient, live: at == 3 }
}

/// The command to sync with a node.
pub fn sync(with: usize) -> Command {
    Command::Sync { contact: Some(NAMES[with].into()), staff: "nurse".into() }
}

/// What a node was told, as far as the judge needs it.
pub struct Heard {
    /// One word for the trace.
    pub label: &'static str,
    /// Entries may have been taken in.
    pub entries: bool,
    /// What came in answer to a request for entries of the own log. What is signed in the same step is not among it.
    pub own_log: BTreeSet<EntryId>,
    /// A stream and who asks for it.
    pub stream: Option<(u64, Option<(DeviceId, Fetch)>)>,
    /// Whose Status may have come.
    pub status_of: Option<PartyId>,
}

impl World {
    /// Who reads on a stream, and under which grant; none if it needs no grant.
    pub fn reader_of(&self, stream: u64) -> Option<(DeviceId, GrantId)> {
        let stream = self.streams.get(&stream).filter(|stream| !stream.is_own)?;
        Some((self.nodes[stream.reader].device(), stream.grant))
    }
}
