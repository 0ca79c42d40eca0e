//! Connections, and what is due to whom.
//!
//! Reconciliation, not event handlers: after every step [`Engine::advance_all`] looks at what each greeted peer
//! still lacks or owes, and sends that. One request of a kind is under way at a time; what failed is tried again
//! after a pause.

use super::getting::introduce;
use super::{Effect, Engine, RequestId};
use crate::failure::{Failure, Kind};
use karte_protocol::consent::{Receipt, Release, Status};
use karte_protocol::entry::Entry;
use karte_protocol::id::{DeviceId, GrantId, ObjectId, PartyId};
use karte_protocol::limits::LEASE_MS_MAX;
use karte_protocol::message::{Bytes, Request, Response};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::{MINUTE_MS, SECOND_MS, UnixMs};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Pause before a request that failed is sent again, in milliseconds. 5 s.
const AGAIN_AFTER_MS: i64 = 5 * SECOND_MS;
/// Pause before a request that was denied is sent again, in milliseconds. 1 minute.
const DENIED_AGAIN_AFTER_MS: i64 = MINUTE_MS;
/// How long a stranger's next Hello on one connection is answered without being looked at, in milliseconds. 2 s.
const DEAF_MS: i64 = 2 * SECOND_MS;
/// Requests under way to one peer. 8 of the network's 16: room for a revocation at any time.
const OUTSTANDING_MAX: usize = 8;
/// First and longest pause between two attempts to reach a contact, in milliseconds.
const REDIAL_MS: (i64, i64) = (SECOND_MS, 5 * MINUTE_MS);
/// Own entries waiting to be pushed to one peer. Beyond it the peer asks for the log instead.
const PUSH_MAX: usize = 500;

/// What is due to a peer; names a request until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Duty {
    /// Introduce ourselves.
    Hello,
    /// Hand over new entries; denials among them.
    Entries,
    /// A fresh Status.
    Status,
    /// Ask for entries we lack.
    Log,
    /// Offer a grant.
    Offer(GrantId),
    /// Say yes to a grant.
    Accept(GrantId),
    /// Ask for a session.
    Release(GrantId),
    /// Ask for segments.
    Segments(GrantId),
    /// Fetch payloads.
    Fetch(GrantId),
    /// Say that a shelf has grown.
    News(GrantId),
    /// Hand over receipts.
    Receipts,
    /// Ask for entries of our own log that we lack.
    OwnLog,
    /// Ask a reader for own payloads that we have lost.
    Recall(GrantId),
}

/// A connected device.
#[derive(Default)]
pub(super) struct Peer {
    address: String,
    dialled: bool,
    hello_sent: bool,
    /// It answered our Hello with Denied: it does not know us yet.
    stranger: bool,
    pub(super) party: Option<PartyId>,
    /// Who it said it is, while it is no contact.
    knocking: Option<PartyId>,
    greeted: bool,
    pub(super) outstanding: BTreeSet<Duty>,
    paused: BTreeMap<Duty, UnixMs>,
    /// Own entries made since the greeting.
    to_push: Vec<Bytes>,
    pushed: usize,
    status_due: bool,
    status_told_ms: UnixMs,
    ask_log: bool,
    ask_own_log: bool,
    /// Sessions that it opened to us, and until when they last.
    pub(super) sessions: BTreeMap<GrantId, UnixMs>,
    /// Grants under which it said no, and until when they are not asked for again.
    pub(super) denied: BTreeMap<GrantId, UnixMs>,
    /// Sessions that we opened to it.
    pub(super) serving: BTreeMap<GrantId, Verified<Release>>,
    /// Segments that it was told of.
    pub(super) told: BTreeMap<GrantId, u64>,
    receipts_sent: Vec<ObjectId>,
    /// Releases in the running minute.
    pub(super) releases: (i64, u32),
    /// Until when its Hello is not looked at again.
    deaf_until_ms: UnixMs,
    /// Who asks, for releases.
    pub(super) staff: String,
}

impl Peer {
    /// A sync asks for everything again, whatever was denied or failed before.
    pub(super) fn ask_anew(&mut self, staff: &str) {
        self.staff = staff.to_owned();
        self.paused.clear();
        self.denied.clear();
        self.status_due = true;
        self.ask_own_log = true;
    }

    /// Not again at once.
    pub(super) fn pause(&mut self, duty: Duty, now: UnixMs) {
        self.paused.insert(duty, now + DENIED_AGAIN_AFTER_MS);
    }

    /// What was not said while this device signed nothing is said now.
    pub(super) fn greet_once_more(&mut self) {
        self.status_due = self.greeted;
    }

    /// The same connection, with nothing under way on it and nothing promised.
    pub(super) fn only_the_connection(self) -> Self {
        Self {
            address: self.address,
            dialled: self.dialled,
            hello_sent: self.hello_sent,
            stranger: self.stranger,
            party: self.party,
            knocking: self.knocking,
            greeted: self.greeted,
            status_due: self.greeted,
            staff: self.staff,
            ..Self::default()
        }
    }

    /// Our Hello is sent again, whoever called.
    pub(super) fn greet_again(&mut self) {
        self.hello_sent = false;
        self.dialled = true;
        self.paused.remove(&Duty::Hello);
    }
}

/// When to try a contact again.
#[derive(Default, Clone, Copy)]
pub(super) struct Redial {
    next_ms: UnixMs,
    pause_ms: i64,
    dialling: bool,
}

impl Engine {
    // --- connections

    pub(super) fn connected(
        &mut self,
        peer: DeviceId,
        address: String,
        dialled: bool,
    ) -> Result<(), Failure> {
        let state = self.peers.entry(peer).or_default();
        state.address = address;
        state.dialled |= dialled;
        Ok(())
    }

    pub(super) fn disconnected(&mut self, peer: DeviceId) {
        let Some(state) = self.peers.remove(&peer) else {
            return;
        };
        self.streams.retain(|_, (device, _)| *device != peer);
        let Some(party) = state.party.or(state.knocking).or_else(|| self.party_of(&peer)) else { return };
        self.redial.insert(party, Redial::default());
        if self.greeted_device(party).is_none() {
            let lost =
                Failure::new(Kind::Unreachable, format!("the connection to {} broke", self.name_of(party)))
                    .next("Repeat `karte sync`: what has arrived is kept.");
            self.end_sync_of(party, Err(lost));
        }
    }

    pub(super) fn dial_failed(&mut self, party: PartyId, reason: &str) {
        let jitter = self.jitter_ms();
        let now = self.now;
        let entry = self.redial.entry(party).or_default();
        entry.dialling = false;
        entry.pause_ms = (entry.pause_ms * 2).clamp(REDIAL_MS.0, REDIAL_MS.1);
        entry.next_ms = now + entry.pause_ms + jitter;
        if self.greeted_device(party).is_none() {
            let failure = Failure::new(Kind::Unreachable, format!("{} cannot be reached: {reason}", self.name_of(party)))
                .next("Is its node running? `karte contact list` shows the address; ask for a fresh card if it moved.");
            self.end_sync_of(party, Err(failure));
        }
    }

    fn jitter_ms(&mut self) -> i64 {
        let mut byte = [0; 1];
        self.chance.fill(&mut byte);
        i64::from(byte[0]) * 4
    }

    /// The party that names a device, whether it is greeted or not.
    fn party_of(&self, device: &DeviceId) -> Option<PartyId> {
        let mut others = self.logs.iter().filter(|(party, _)| **party != self.me.party);
        others.find(|(_, held)| held.state.has_device(device)).map(|(party, _)| *party)
    }

    pub(super) fn greeted_device(&self, party: PartyId) -> Option<DeviceId> {
        let found = self.peers.iter().find(|(_, state)| state.greeted && state.party == Some(party));
        found.map(|(device, _)| *device)
    }

    /// A contact was added: if it is knocking on an open connection, greet it there; else call it.
    pub(super) fn greet_known(&mut self, party: PartyId) -> Result<(), Failure> {
        for state in self.peers.values_mut().filter(|state| state.knocking == Some(party)) {
            state.greet_again();
        }
        self.redial.insert(party, Redial::default());
        Ok(())
    }

    pub(super) fn forget_greeting(&mut self, party: PartyId) {
        for state in self.peers.values_mut().filter(|state| state.party == Some(party)) {
            state.greeted = false;
            state.party = None;
            state.serving.clear();
            state.sessions.clear();
        }
    }

    pub(super) fn show_peers(&self) -> Vec<Value> {
        self.peers
            .iter()
            .map(|(device, state)| {
                let party = state.party.or(state.knocking);
                json!({
                    "device": device.to_hex(),
                    "party": party.map(|party| party.to_string()),
                    "name": party.map(|party| self.name_of(party)),
                    "address": state.address,
                    "direction": if state.dialled { "out" } else { "in" },
                    "state": if state.greeted { "greeted" } else if state.knocking.is_some() { "knocking" } else { "connected" },
                })
            })
            .collect()
    }

    /// New own entries go to everybody who follows the log, at once.
    pub(super) fn push_entry(&mut self, entry: &Verified<Entry>) {
        let identity = entry.act.is_identity();
        let readers: BTreeSet<PartyId> = self.given.values().map(|given| given.open.reader()).collect();
        for state in self.peers.values_mut().filter(|state| state.greeted) {
            let follows = state.party.is_some_and(|party| readers.contains(&party));
            if (identity || follows) && state.to_push.len() < PUSH_MAX {
                state.to_push.push(entry.bytes().to_vec().into());
            }
            state.status_due |= follows || identity;
        }
    }

    pub(super) fn owe_everybody_a_status(&mut self) {
        for state in self.peers.values_mut().filter(|state| state.greeted) {
            state.status_due = true;
        }
    }

    // --- requests of peers

    pub(super) fn request(&mut self, peer: DeviceId, id: RequestId, body: &[u8]) -> Result<(), Failure> {
        let response = match Request::from_bytes(body) {
            Ok(request) => self.respond(peer, request)?,
            Err(_) => Response::Denied,
        };
        self.reply(id, &response)
    }

    fn respond(&mut self, peer: DeviceId, request: Request) -> Result<Response, Failure> {
        if let Request::Hello(hello) = request {
            return self.hello_asked(peer, &hello.card, &hello.status);
        }
        let greeted = self.peers.get(&peer).filter(|state| state.greeted).and_then(|state| state.party);
        let still = |party: &PartyId| {
            self.is_known(*party) && self.logs.get(party).is_some_and(|held| held.state.has_device(&peer))
        };
        let Some(from) = greeted.filter(still) else {
            return Ok(Response::Denied);
        };
        let needs_our_name = matches!(
            request,
            Request::Offer { .. }
                | Request::Accept { .. }
                | Request::Release { .. }
                | Request::Segments { .. }
                | Request::News { .. }
        );
        if needs_our_name && !self.is_sound() {
            return Ok(Response::Denied);
        }
        match request {
            Request::Hello(_) => Ok(Response::Denied),
            Request::Entries { of, entries } if of == from => {
                self.take_entries(of, Self::verify_entries(&entries))?;
                Ok(Response::Done)
            }
            Request::Status { status } => {
                self.hear_status(peer, &status)?;
                Ok(Response::Done)
            }
            Request::Log { of, have }
                if of == self.me.party && (self.was_ever_reader(from) || wrong!(LogForAll)) =>
            {
                let (entries, more) = self.entries_beyond(of, &have);
                Ok(Response::Entries { entries, more })
            }
            // What we hold of the asker's own log: an older copy of it learns so that it is one.
            Request::Log { of, have } if of == from => {
                let (entries, more) = self.entries_beyond(of, &have);
                Ok(Response::Entries { entries, more })
            }
            Request::Offer { opening, .. } => {
                let taken = self.take_offer(from, &opening)?;
                self.ask_log(peer);
                Ok(done_if(taken))
            }
            Request::Accept { accept } => Ok(done_if(self.take_accept(from, &accept)?)),
            Request::Release { release } => self.release(peer, from, &release),
            Request::Segments { grant, from } => self.segments(peer, grant, from),
            Request::News { grant, head } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.denied.remove(&grant);
                }
                self.take_head(grant, &head)?;
                Ok(Response::Done)
            }
            Request::Receipts { receipts } => self.take_receipts(from, &receipts),
            Request::Entries { .. } | Request::Log { .. } => Ok(Response::Denied),
        }
    }

    fn hello_asked(&mut self, peer: DeviceId, card: &[u8], status: &[u8]) -> Result<Response, Failure> {
        let now = self.now;
        if !self.may_greet() {
            return Ok(Response::Denied);
        }
        let Some(state) = self.peers.get_mut(&peer).filter(|state| now >= state.deaf_until_ms) else {
            return Ok(Response::Denied);
        };
        // Checking a card costs some hundred signatures: a stranger gets that once in a while.
        state.deaf_until_ms = now + DEAF_MS;
        let introduced = introduce(card).filter(|introduced| introduced.card.by().device == peer);
        let Some(introduced) = introduced else {
            return Ok(Response::Denied);
        };
        let party = introduced.log.party();
        if !self.meet(introduced)? {
            if let Some(state) = self.peers.get_mut(&peer) {
                state.knocking = Some(party);
            }
            return Ok(Response::Denied);
        }
        self.greeted(peer, party, status)?;
        Ok(Response::Hello(self.hello()?))
    }

    /// Both sides know each other: from here on duties flow.
    fn greeted(&mut self, peer: DeviceId, party: PartyId, status: &[u8]) -> Result<(), Failure> {
        let has_device = self.logs.get(&party).is_some_and(|held| held.state.has_device(&peer));
        if !has_device {
            return Ok(());
        }
        let now = self.now;
        let staff =
            self.syncs.iter().find(|run| run.parties.contains_key(&party)).map(|run| run.staff.clone());
        if let Some(state) = self.peers.get_mut(&peer) {
            state.party = Some(party);
            state.greeted = true;
            state.stranger = false;
            state.deaf_until_ms = 0;
            state.status_told_ms = now;
            state.staff = staff.unwrap_or_default();
            state.ask_own_log = true;
        }
        self.redial.remove(&party);
        self.hear_status(peer, status)
    }

    /// A Status of the peer's party; if it names heads that we lack and follow, the log is due.
    pub(super) fn hear_status(&mut self, peer: DeviceId, bytes: &[u8]) -> Result<(), Failure> {
        let Some(party) = self.peers.get(&peer).and_then(|state| state.party) else {
            return Ok(());
        };
        let Ok(status) = Signed::<Status>::from_bytes(bytes).verify() else {
            return Ok(());
        };
        let whole = self.take_status(party, status)?;
        let follows = self.got.values().any(|got| got.row.holder == party);
        if !whole && follows {
            self.ask_log(peer);
        }
        Ok(())
    }

    fn ask_log(&mut self, peer: DeviceId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.ask_log = true;
        }
    }

    // --- answers of peers

    pub(super) fn answered(
        &mut self,
        peer: DeviceId,
        duty: Duty,
        answer: Result<Vec<u8>, String>,
    ) -> Result<(), Failure> {
        let Some(state) = self.peers.get_mut(&peer) else {
            return Ok(());
        };
        state.outstanding.remove(&duty);
        tracing::debug!(?peer, ?duty, bytes = answer.as_ref().map_or(0, Vec::len), "answered");
        let response = answer.and_then(|body| Response::from_bytes(&body).map_err(|error| error.to_string()));
        let pause_ms = match &response {
            Ok(Response::Denied) => Some(DENIED_AGAIN_AFTER_MS),
            Ok(_) => None,
            Err(_) => Some(AGAIN_AFTER_MS),
        };
        match pause_ms {
            Some(pause_ms) => drop(state.paused.insert(duty, self.now + pause_ms)),
            None => drop(state.paused.remove(&duty)),
        }
        match response {
            Ok(response) => self.take_answer(peer, duty, response),
            Err(reason) => {
                tracing::debug!(?duty, reason, "a request failed");
                self.is_due_again(peer, duty);
                Ok(())
            }
        }
    }

    /// What was taken for done when it was sent, and did not arrive.
    fn is_due_again(&mut self, peer: DeviceId, duty: Duty) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        match duty {
            Duty::Hello => state.hello_sent = false,
            Duty::Log => state.ask_log = true,
            Duty::OwnLog => state.ask_own_log = true,
            Duty::Status => state.status_due = true,
            Duty::News(grant) => drop(state.told.remove(&grant)),
            Duty::Release(grant) => {
                if let Some(got) = self.got.get_mut(&grant) {
                    got.wanted = true;
                }
            }
            _ => {}
        }
    }

    fn take_answer(&mut self, peer: DeviceId, duty: Duty, response: Response) -> Result<(), Failure> {
        match (duty, response) {
            (Duty::Hello, Response::Hello(hello)) => self.hello_answered(peer, &hello.card, &hello.status),
            (Duty::Hello, _) => {
                self.hello_denied(peer);
                Ok(())
            }
            (Duty::Entries, Response::Done) => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    let pushed = state.pushed.min(state.to_push.len());
                    state.to_push.drain(..pushed);
                    state.pushed = 0;
                }
                Ok(())
            }
            (Duty::Log, Response::Entries { entries, more }) => {
                let Some(party) = self.peers.get(&peer).and_then(|state| state.party) else {
                    return Ok(());
                };
                let news = self.take_entries(party, Self::verify_entries(&entries))?;
                if more && news {
                    self.ask_log(peer);
                }
                Ok(())
            }
            (Duty::OwnLog, Response::Entries { entries, more }) => {
                let news = self.take_back(peer, Self::verify_entries(&entries), more)?;
                if more
                    && news
                    && let Some(state) = self.peers.get_mut(&peer)
                {
                    state.ask_own_log = true;
                }
                Ok(())
            }
            (Duty::Offer(id), Response::Done) => self.offer_delivered(id),
            (Duty::Accept(id), Response::Done) => self.accept_delivered(id),
            (Duty::Release(id), response) => self.take_session(peer, id, response),
            (Duty::Segments(id), Response::Segments { segments }) => self.take_segments(id, &segments),
            (Duty::Segments(id), _) => {
                self.session_denied(peer, id);
                Ok(())
            }
            (Duty::Receipts, Response::Done) => {
                let Some(state) = self.peers.get_mut(&peer) else {
                    return Ok(());
                };
                let sent = std::mem::take(&mut state.receipts_sent);
                match state.party {
                    Some(party) => self.receipts_delivered(party, &sent),
                    None => Ok(()),
                }
            }
            (Duty::Status | Duty::News(_), Response::Done) => Ok(()),
            (duty, _) => {
                // An answer that does not fit, or a Denied: not again at once.
                let until = self.now + AGAIN_AFTER_MS;
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.paused.entry(duty).or_insert(until);
                }
                Ok(())
            }
        }
    }

    fn hello_answered(&mut self, peer: DeviceId, card: &[u8], status: &[u8]) -> Result<(), Failure> {
        let introduced = introduce(card).filter(|introduced| introduced.card.by().device == peer);
        let greeted = match introduced {
            Some(introduced) if self.is_known(introduced.log.party()) => {
                let party = introduced.log.party();
                self.meet(introduced)? && {
                    self.greeted(peer, party, status)?;
                    self.greeted_device(party) == Some(peer)
                }
            }
            _ => false,
        };
        if !greeted && let Some(party) = self.party_of(&peer) {
            let name = self.name_of(party);
            let failure = Failure::failed(format!("{name} answered with a card that is not its own"))
                .next("Ask for a fresh card and add it again.");
            self.end_sync_of(party, Err(failure));
        }
        Ok(())
    }

    /// The other side does not know us yet; our card waits there for its user's word.
    fn hello_denied(&mut self, peer: DeviceId) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        state.stranger = true;
        let party = self.party_of(&peer);
        if let Some(party) = party {
            let name = self.name_of(party);
            let failure = Failure::refused(format!("{name} has not taken this node as a contact yet"))
                .next(format!("Your card waits there: ask {name} to run `karte contact list` and `karte contact add`, then sync again."));
            self.end_sync_of(party, Err(failure));
        }
    }

    // --- duties

    pub(super) fn advance_all(&mut self) -> Result<(), Failure> {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.advance(peer)?;
        }
        Ok(())
    }

    fn advance(&mut self, peer: DeviceId) -> Result<(), Failure> {
        for duty in self.duties(peer)? {
            let Some(state) = self.peers.get(&peer) else {
                return Ok(());
            };
            let waits = state.paused.get(&duty).is_some_and(|until| self.now < *until);
            let crowded = state.outstanding.len() >= OUTSTANDING_MAX && duty != Duty::Entries;
            if !waits && !crowded && !state.outstanding.contains(&duty) {
                self.perform(peer, duty)?;
            }
        }
        Ok(())
    }

    fn duties(&self, peer: DeviceId) -> Result<Vec<Duty>, Failure> {
        let Some(state) = self.peers.get(&peer) else {
            return Ok(vec![]);
        };
        let (true, Some(party)) = (state.greeted, state.party) else {
            let greet = state.dialled && !state.hello_sent && self.may_greet();
            return Ok(if greet { vec![Duty::Hello] } else { vec![] });
        };
        let mut duties = Vec::new();
        if state.ask_own_log {
            duties.push(Duty::OwnLog);
        }
        if !self.is_sound() {
            return Ok(duties);
        }
        if !state.to_push.is_empty() {
            duties.push(Duty::Entries);
        }
        if state.status_due {
            duties.push(Duty::Status);
        }
        if state.ask_log {
            duties.push(Duty::Log);
        }
        duties.extend(self.offers_due(party).into_iter().map(Duty::Offer));
        duties.extend(self.reading_duties(party, peer));
        duties.extend(self.recall_duties(party));
        for (id, given) in &self.given {
            let told = state.told.get(id).copied().unwrap_or_default();
            if state.serving.contains_key(id) && given.row.segments > told {
                duties.push(Duty::News(*id));
            }
        }
        if self.owes_receipts.contains(&party) {
            duties.push(Duty::Receipts);
        }
        Ok(duties)
    }

    fn perform(&mut self, peer: DeviceId, duty: Duty) -> Result<(), Failure> {
        tracing::debug!(?peer, ?duty, "due");
        let request = match duty {
            Duty::Hello => {
                let hello = self.hello()?;
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.hello_sent = true;
                }
                Some(Request::Hello(hello))
            }
            Duty::Entries => self.entries_request(peer),
            Duty::Status => self.status_request(peer)?,
            Duty::Log => self.log_request(peer),
            Duty::OwnLog => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.ask_own_log = false;
                }
                let of = self.me.party;
                Some(Request::Log { of, have: self.ends_of(of) })
            }
            Duty::Recall(grant) => {
                if self.start_recall(peer, grant) {
                    self.mark(peer, duty);
                }
                None
            }
            Duty::Offer(grant) => {
                self.offer_of(grant)?.map(|opening| Request::Offer { grant, opening: opening.into() })
            }
            Duty::Accept(grant) => self.accept_request(grant),
            Duty::Release(grant) => self.release_request(peer, grant)?,
            Duty::Segments(grant) => {
                self.got.get(&grant).map(|got| Request::Segments { grant, from: got.row.segments })
            }
            Duty::Fetch(grant) => {
                if self.start_fetch(peer, grant) {
                    self.mark(peer, duty);
                }
                None
            }
            Duty::News(grant) => self.news_request(peer, grant)?,
            Duty::Receipts => self.receipts_request(peer)?,
        };
        if let Some(request) = request {
            self.mark(peer, duty);
            self.out.push(Effect::Request(peer, duty, request.to_bytes()?));
        }
        Ok(())
    }

    fn mark(&mut self, peer: DeviceId, duty: Duty) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.outstanding.insert(duty);
        }
    }

    fn entries_request(&mut self, peer: DeviceId) -> Option<Request> {
        let of = self.me.party;
        let state = self.peers.get_mut(&peer)?;
        state.pushed = state.to_push.len();
        Some(Request::Entries { of, entries: state.to_push.clone() })
    }

    fn status_request(&mut self, peer: DeviceId) -> Result<Option<Request>, Failure> {
        let status = self.own_status()?;
        let now = self.now;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.status_due = false;
            state.status_told_ms = now;
        }
        Ok(Some(Request::Status { status: status.bytes().to_vec().into() }))
    }

    fn log_request(&mut self, peer: DeviceId) -> Option<Request> {
        let party = self.peers.get(&peer)?.party?;
        let have = self.ends_of(party);
        self.peers.get_mut(&peer)?.ask_log = false;
        Some(Request::Log { of: party, have })
    }

    fn news_request(&mut self, peer: DeviceId, grant: GrantId) -> Result<Option<Request>, Failure> {
        let Some(head) = self.shelf_head(grant)? else {
            return Ok(None);
        };
        if let Some(state) = self.peers.get_mut(&peer) {
            state.told.insert(grant, head.chains.iter().map(|chain| chain.segments).sum());
        }
        Ok(Some(Request::News { grant, head: head.bytes().to_vec().into() }))
    }

    fn receipts_request(&mut self, peer: DeviceId) -> Result<Option<Request>, Failure> {
        let Some(party) = self.peers.get(&peer).and_then(|state| state.party) else {
            return Ok(None);
        };
        let due = self.receipts_due(party)?;
        if due.is_empty() {
            self.owes_receipts.remove(&party);
            return Ok(None);
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.receipts_sent = due.iter().map(Verified::<Receipt>::id).collect();
        }
        let receipts = due.iter().map(|receipt| Bytes::from(receipt.bytes().to_vec())).collect();
        Ok(Some(Request::Receipts { receipts }))
    }

    /// As time passes: fresh statuses, and contacts that should be connected.
    pub(super) fn renew(&mut self) -> Result<(), Failure> {
        let stale = self.now - LEASE_MS_MAX / 4;
        for state in self.peers.values_mut().filter(|state| state.greeted) {
            state.status_due |= state.status_told_ms < stale;
        }
        if !self.policy.live {
            return Ok(());
        }
        for party in self.contacts.keys().copied().collect::<Vec<_>>() {
            let due =
                self.redial.get(&party).is_none_or(|redial| !redial.dialling && redial.next_ms <= self.now);
            let connected =
                self.peers.values().any(|state| state.party == Some(party) || state.knocking == Some(party))
                    || self.is_connected_unnamed(party);
            if due && !connected && self.is_known(party) && self.dial(party) {
                self.redial.entry(party).or_default().dialling = true;
            }
        }
        Ok(())
    }

    /// A connection to one of the party's devices that is not greeted yet.
    fn is_connected_unnamed(&self, party: PartyId) -> bool {
        self.logs
            .get(&party)
            .is_some_and(|held| held.state.devices.keys().any(|device| self.peers.contains_key(device)))
    }
}

fn done_if(taken: bool) -> Response {
    if taken { Response::Done } else { Response::Denied }
}
