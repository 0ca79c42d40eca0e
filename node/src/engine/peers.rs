//! Connections, and what is due to whom.
//!
//! Reconciliation, not event handlers: after every step [`Engine::advance_all`] looks at what each greeted peer
//! still lacks or owes, and sends that. One request of a kind is under way at a time; what failed is tried again
//! after a pause.

use super::getting::introduce;
use super::select::time_text;
use super::steward::{Errand, Errands};
use super::sync::SyncRun;
use super::{Effect, Engine, RequestId};
use crate::failure::{Failure, Kind};
use karte_protocol::consent::{Receipt, Release, Status};
use karte_protocol::entry::Entry;
use karte_protocol::id::{DeviceId, GrantId, ObjectId, PartyId};
use karte_protocol::limits::{CLOCK_SKEW_MS_MAX, LEASE_MS_MAX};
use karte_protocol::message::{self, Bytes, Request, Response};
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
    /// Ask for access.
    Ask(ObjectId),
    /// Say what became of a request.
    Answer(ObjectId),
    /// Hand over receipts.
    Receipts,
    /// Ask a contact to keep a recovery key for our party.
    RecoveryKey,
    /// Ask a reader for openings of our grants that we have lost.
    Openings,
    /// What is due between a holder, its steward and its readers.
    Steward(Errand),
    /// Ask for entries of our own log that we lack.
    OwnLog,
    /// Ask a reader for own payloads that we have lost.
    Recall(GrantId),
    /// Ask another own device what there is.
    Own,
    /// Fetch own records from another own device.
    OwnFetch,
    /// Tell a device that was removed that it was.
    Farewell,
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
    /// Our card has other entries than the one that was said: it is said again, for contacts to keep and to hand on.
    hello_due: bool,
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
    pub(super) deaf_until_ms: UnixMs,
    /// How far an own device's feed goes, by its last word.
    pub(super) own_there: Option<u64>,
    /// How far we have told it that ours goes.
    pub(super) own_told: Option<u64>,
    /// Its last Status, if it is an own device: it may name entries that are still to come.
    pub(super) own_status: Option<Verified<Status>>,
    /// It was of this party and has ended: it is told so.
    pub(super) farewell: Option<PartyId>,
    /// Whose chain of a shelf it serves: its own, or as a steward that of a holder's device.
    pub(super) reads: BTreeMap<GrantId, DeviceId>,
    /// Acceptances that it has confirmed on this connection.
    pub(super) accept_told: BTreeSet<GrantId>,
    /// Who asks, for releases.
    pub(super) staff: String,
    /// What stewards have to do with it.
    pub(super) errands: Errands,
}

impl Peer {
    /// A sync asks for everything again, whatever was denied or failed before.
    pub(super) fn ask_anew(&mut self, staff: &str) {
        self.staff = staff.to_owned();
        self.paused.clear();
        self.denied.clear();
        self.status_due = true;
        self.ask_own_log = true;
        self.errands.ask_anew();
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Whether own entries are on their way to it.
    pub(super) fn is_pushing(&self) -> bool {
        !self.to_push.is_empty()
    }

    /// What was put off is due again.
    pub(super) fn resume(&mut self, errand: Errand) {
        self.paused.remove(&Duty::Steward(errand));
    }

    /// A fresh Status is due.
    pub(super) fn owe_a_status(&mut self) {
        self.status_due = self.greeted;
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

    /// The same connection; who is greeted on it is asked for a Hello, with a Status, once more.
    pub(super) fn greeted_anew(self) -> Self {
        let was_greeted = self.greeted;
        let mut anew = self.only_the_connection();
        if was_greeted {
            (anew.greeted, anew.party) = (false, None);
            anew.greet_again();
        }
        anew
    }

    /// What runs under our name ends; the connection stays.
    pub(super) fn end_sessions(&mut self) {
        self.serving.clear();
        self.sessions.clear();
    }

    /// It is of its party no more: nothing but the word of it.
    pub(super) fn leave(&mut self, of: PartyId) {
        self.end_sessions();
        (self.greeted, self.party, self.own_status) = (false, None, None);
        self.to_push.clear();
        self.farewell = Some(of);
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

impl Redial {
    pub(super) fn is_due(now: UnixMs) -> impl Fn(&Self) -> bool {
        move |redial| !redial.dialling && redial.next_ms <= now
    }

    pub(super) fn start(&mut self) {
        self.dialling = true;
    }
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
        self.forget_absent(&peer);
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
            self.steward_lost(peer, party, &lost);
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
            self.steward_failed(party, &failure);
            if !self.call_stewards(party) {
                self.end_sync_of(party, Err(failure));
            }
        }
    }

    /// Whether a party is being called just now.
    pub(super) fn is_dialling(&self, party: PartyId) -> bool {
        self.redial.get(&party).is_some_and(|redial| redial.dialling)
    }

    pub(super) fn is_being_called(&mut self, party: PartyId) {
        self.redial.entry(party).or_default().dialling = true;
    }

    fn jitter_ms(&mut self) -> i64 {
        let mut byte = [0; 1];
        self.chance.fill(&mut byte);
        i64::from(byte[0]) * 4
    }

    /// The party that names a device, whether it is greeted or not.
    pub(super) fn party_of(&self, device: &DeviceId) -> Option<PartyId> {
        let mut all = self.logs.iter();
        all.find(|(_, held)| held.state.has_device(device)).map(|(party, _)| *party)
    }

    /// Every connected device of a party that is greeted.
    pub(super) fn greeted_devices(&self, party: PartyId) -> Vec<DeviceId> {
        let found = self.peers.iter().filter(|(_, state)| state.greeted && state.party == Some(party));
        found.map(|(device, _)| *device).collect()
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

    /// Connections of devices that a party's recovery has ended.
    pub(super) fn forget_ended_devices(&mut self, party: PartyId) {
        let Some(state) = self.logs.get(&party).map(|held| held.state.clone()) else { return };
        for (device, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.party == Some(party)) {
            if state.disputed || !state.has_device(device) {
                peer.greeted = false;
                peer.party = None;
                peer.serving.clear();
                peer.sessions.clear();
            }
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
        let stewards: BTreeSet<PartyId> = self.mine().state.stewards.keys().copied().collect();
        for state in self.peers.values_mut().filter(|state| state.greeted) {
            let own = state.party == Some(self.me.party);
            let follows =
                own || state.party.is_some_and(|party| readers.contains(&party) || stewards.contains(&party));
            if (identity || follows) && state.to_push.len() < PUSH_MAX {
                state.to_push.push(entry.bytes().to_vec().into());
            }
            state.status_due |= follows || identity;
            state.hello_due |= identity;
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
        if let Request::Join { device, proof } = request {
            return self.join_asked(peer, device, &proof);
        }
        if let Request::Log { of, have } = &request
            && self.was_ever_its_device(&peer, *of)
        {
            // A device that was ended learns it from what ended it, and stops; nobody greets it any more.
            let (entries, more) = self.entries_beyond(*of, have);
            return Ok(Response::Entries { entries, more });
        }
        let greeted = self.peers.get(&peer).filter(|state| state.greeted).and_then(|state| state.party);
        let still = |party: &PartyId| {
            self.is_met(*party) && self.logs.get(party).is_some_and(|held| held.state.has_device(&peer))
        };
        let Some(from) = greeted.filter(still) else {
            if let Request::Entries { of, entries } = &request
                && *of == self.me.party
            {
                self.farewell_heard(peer, entries)?;
            }
            return Ok(Response::Denied);
        };
        if from != self.me.party && !self.is_known(from) && !Self::is_for_guests(&request) {
            return Ok(Response::Denied);
        }
        let needs_our_name = matches!(
            request,
            Request::Offer { .. }
                | Request::Accept { .. }
                | Request::Release { .. }
                | Request::Segments { .. }
                | Request::News { .. }
                | Request::Ask { .. }
                | Request::RecoveryKey
                | Request::Own { .. }
        );
        if needs_our_name && !self.is_sound() {
            return Ok(Response::Denied);
        }
        match request {
            Request::Hello(_) | Request::Join { .. } => Ok(Response::Denied),
            Request::Entries { of, entries } if of == from && of == self.me.party => {
                self.take_back(peer, Self::verify_entries(&entries), true)?;
                Ok(Response::Done)
            }
            Request::Own { from: number, there } if from == self.me.party => {
                self.own_asked(peer, number, there)
            }
            // Entries prove themselves: who follows a log takes them from anybody it speaks with.
            Request::Entries { of, entries } if of == from || self.follows(of) => {
                self.take_entries(of, Self::verify_entries(&entries))?;
                Ok(Response::Done)
            }
            Request::Status { status } => {
                self.hear_status(peer, &status)?;
                Ok(Response::Done)
            }
            Request::Log { of, have }
                if of == self.me.party
                    && (self.was_ever_reader(from) || self.has_steward(from, &peer) || wrong!(LogForAll)) =>
            {
                let (entries, more) = self.entries_beyond(of, &have);
                Ok(Response::Entries { entries, more })
            }
            // What we hold of the asker's own log: an older copy of it learns so that it is one.
            Request::Log { of, have } if of == from => {
                let (entries, more) = self.entries_beyond(of, &have);
                Ok(Response::Entries { entries, more })
            }
            Request::RecoveryKey => self.asked_for_a_key(from),
            Request::Openings { after } => self.hand_openings_back(from, after),
            Request::Log { of, have } if self.shared_holders(from, peer).contains(&of) => {
                let (entries, more) = self.entries_beyond(of, &have);
                Ok(Response::Entries { entries, more })
            }
            Request::Keeping => Ok(self.keeping_told(from)),
            Request::Keep(keep) => self.take_keep(from, keep),
            Request::Served { releases, receipts } => self.take_served(from, &releases, &receipts),
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
                self.take_head(peer, grant, &head)?;
                Ok(Response::Done)
            }
            Request::Ask { request } => Ok(done_if(self.take_ask(from, &request)?)),
            Request::Answer { request, answer } => Ok(done_if(self.take_verdict(from, request, answer)?)),
            Request::Receipts { receipts } => self.take_receipts(&receipts),
            // A contact that knows that this device has ended.
            Request::Entries { of, entries } if of == self.me.party => {
                self.farewell_heard(peer, &entries)?;
                Ok(Response::Denied)
            }
            Request::Entries { .. } | Request::Log { .. } | Request::Own { .. } => Ok(Response::Denied),
        }
    }

    /// Whether a known contact's log names this device, in whatever generation.
    fn was_ever_its_device(&self, peer: &DeviceId, party: PartyId) -> bool {
        self.is_known(party)
            && self.logs.get(&party).is_some_and(|held| held.log.named_devices().contains(peer))
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
        Ok(Response::Hello(self.hello_to(&peer)?))
    }

    /// Both sides know each other: from here on duties flow.
    fn greeted(&mut self, peer: DeviceId, party: PartyId, status: &[u8]) -> Result<(), Failure> {
        let has_device = self.logs.get(&party).is_some_and(|held| held.state.has_device(&peer));
        if !has_device {
            return Ok(());
        }
        let now = self.now;
        let staff = self.staff_for(party, peer);
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
        self.steward.called.remove(&party);
        self.ask_absent_again(party);
        self.hear_status(peer, status)
    }

    /// Who asked for a sync with a party, or with a holder that it stands in for.
    fn staff_for(&self, party: PartyId, peer: DeviceId) -> Option<String> {
        let mut wanted = self.helped_by(peer);
        wanted.push(party);
        let asks = |run: &&SyncRun| wanted.iter().any(|party| run.parties.contains_key(party));
        self.syncs.iter().find(asks).map(|run| run.staff.clone())
    }

    /// A Status of the peer's party, or of a holder whose log both follow; if it names heads that we lack and follow,
    /// the log is due. It is signed, so it does not matter who brings it.
    pub(super) fn hear_status(&mut self, peer: DeviceId, bytes: &[u8]) -> Result<(), Failure> {
        let Some(party) = self.peers.get(&peer).and_then(|state| state.party) else {
            return Ok(());
        };
        let Ok(status) = Signed::<Status>::from_bytes(bytes).verify() else {
            // It vouches for nothing just now; what it has signed may end something all the same.
            if party != self.me.party && self.follows(party) {
                self.ask_log(peer);
            }
            return Ok(());
        };
        if status.issued_ms > self.now.saturating_add(CLOCK_SKEW_MS_MAX) {
            let (name, theirs, ours) =
                (self.name_of(party), time_text(status.issued_ms), time_text(self.now));
            self.notice(format!("the clock of {name} says {theirs}, and this machine's {ours}: one of them is wrong, and nothing is shared"));
        }
        let of = status.of;
        if of != party && (of == self.me.party || !self.follows(of)) {
            return Ok(());
        }
        if self.has_steward(party, &peer) {
            self.ask_steward_anew(peer);
        }
        if of == self.me.party {
            return self.hear_sibling(peer, status);
        }
        if !self.take_status(of, status)? && self.follows(of) {
            match of == party {
                true => self.ask_log(peer),
                false => self.ask_log_of(peer, of),
            }
        }
        Ok(())
    }

    /// What another device of the own party says of the own log.
    fn hear_sibling(&mut self, peer: DeviceId, status: Verified<Status>) -> Result<(), Failure> {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.own_status = Some(status.clone());
        }
        let whole = self.take_status(self.me.party, status)?;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.ask_own_log |= !whole;
        }
        Ok(())
    }

    fn ask_log_of(&mut self, peer: DeviceId, of: PartyId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.errands.ask_logs.insert(of);
        }
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
        let was_stranger = duty == Duty::OwnLog && self.peers.get(&peer).is_some_and(|state| state.stranger);
        match response {
            Ok(response) => {
                if response == Response::Denied && duty != Duty::OwnLog {
                    self.wonder(peer);
                }
                self.take_answer(peer, duty, response)?;
            }
            Err(reason) => {
                tracing::debug!(?duty, reason, "a request failed");
                if !was_stranger {
                    self.is_due_again(peer, duty);
                }
            }
        }
        if was_stranger {
            self.stranger_answered(peer);
        }
        Ok(())
    }

    /// Whoever greeted us denies something: it may know of our log what we do not.
    fn wonder(&mut self, peer: DeviceId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.ask_own_log |= state.greeted;
        }
    }

    /// What was taken for done when it was sent, and did not arrive.
    fn is_due_again(&mut self, peer: DeviceId, duty: Duty) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        match duty {
            Duty::Hello if state.greeted => state.hello_due = true,
            Duty::Hello => state.hello_sent = false,
            Duty::Log => state.ask_log = true,
            Duty::OwnLog => state.ask_own_log = true,
            Duty::Steward(errand) => self.errand_failed(peer, errand),
            Duty::Status => state.status_due = true,
            Duty::News(grant) => drop(state.told.remove(&grant)),
            Duty::Own => state.own_told = None,
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
            (Duty::Steward(errand), response) => self.errand_answered(peer, errand, response),
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
            (Duty::RecoveryKey, Response::RecoveryKey { commitment }) => {
                self.take_recovery_key(peer, commitment)
            }
            (Duty::Openings, Response::Openings { openings, more }) => {
                match self.peers.get(&peer).and_then(|state| state.party) {
                    Some(party) => self.take_openings(party, &openings, more),
                    None => Ok(()),
                }
            }
            (Duty::Offer(id), Response::Done) => self.offer_delivered(id),
            (Duty::Accept(id), Response::Done) => self.accept_delivered(peer, id),
            (Duty::Ask(id), Response::Done) => self.ask_delivered(id),
            (Duty::Answer(id), Response::Done) => self.answer_delivered(id),
            (Duty::Own, Response::Own { items, next, there }) => self.take_own(peer, items, next, there),
            (Duty::Farewell, _) => Ok(()),
            (Duty::Release(id), response) => self.take_session(peer, id, response),
            (Duty::Segments(id), Response::Segments { segments }) => self.take_segments(peer, id, &segments),
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
                // An answer that does not fit, or a Denied: not again at once. It may have overtaken a greeting, so what
                // is asked for only once is due again.
                if matches!(duty, Duty::Log | Duty::Status) {
                    self.is_due_again(peer, duty);
                }
                let until = self.now + AGAIN_AFTER_MS;
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.paused.entry(duty).or_insert(until);
                }
                Ok(())
            }
        }
    }

    pub(super) fn hello_answered(
        &mut self,
        peer: DeviceId,
        card: &[u8],
        status: &[u8],
    ) -> Result<(), Failure> {
        let introduced = introduce(card).filter(|introduced| introduced.card.by().device == peer);
        let greeted = match introduced {
            Some(introduced) if self.is_met(introduced.log.party()) => {
                let party = introduced.log.party();
                self.meet(introduced)? && {
                    self.greeted(peer, party, status)?;
                    self.peers.get(&peer).is_some_and(|state| state.greeted)
                }
            }
            _ => false,
        };
        if !greeted && let Some(party) = self.party_of(&peer).or_else(|| self.steward_of_device(&peer)) {
            let name = self.name_of(party);
            let failure = Failure::failed(format!("{name} answered with a card that is not its own"))
                .next("Ask for a fresh card and add it again.");
            self.steward_failed(party, &failure);
            self.end_sync_of(party, Err(failure));
        }
        Ok(())
    }

    /// The other side does not know us yet; our card waits there for its user's word.
    fn hello_denied(&mut self, peer: DeviceId) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        // It may be that our party was recovered, and this device with nobody's greeting any more: asked before told.
        state.stranger = true;
        state.ask_own_log = true;
        state.paused.remove(&Duty::OwnLog);
    }

    /// A contact that does not greet us has said, or not, what it holds of our log.
    fn stranger_answered(&mut self, peer: DeviceId) {
        let steward = self.steward_of_device(&peer);
        let Some(party) = self.party_of(&peer).or(steward) else { return };
        let name = self.name_of(party);
        let failure = match self.require_sound() {
            Err(ended) => ended,
            Ok(()) => Failure::refused(format!("{name} has not taken this node as a contact yet"))
                .next(format!("Your card waits there: ask {name} to run `karte contact list` and `karte contact add`, then sync again.")),
        };
        if let Some(steward) = steward {
            let unknown = Failure::new(Kind::Unreachable, "the steward does not know this reader yet")
                .next("Try again when the holder's node is running.");
            self.steward_failed(steward, &unknown);
        }
        self.end_sync_of(party, Err(failure));
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
            if state.farewell.is_some() && self.is_sound() {
                return Ok(vec![Duty::Farewell]);
            }
            if state.stranger && state.ask_own_log {
                return Ok(vec![Duty::OwnLog]);
            }
            let greet = state.dialled && !state.hello_sent && self.may_greet();
            return Ok(if greet { vec![Duty::Hello] } else { vec![] });
        };
        let mut duties = Vec::new();
        if state.ask_own_log {
            duties.push(Duty::OwnLog);
        }
        if !self.is_sound() {
            // To hear what others have ended takes no signature.
            if state.ask_log && party != self.me.party && self.may_greet() {
                duties.push(Duty::Log);
            }
            return Ok(duties);
        }
        if !state.to_push.is_empty() {
            duties.push(Duty::Entries);
        }
        if state.hello_due {
            duties.push(Duty::Hello);
        }
        if state.status_due && self.may_vouch() {
            duties.push(Duty::Status);
        }
        if party == self.me.party {
            duties.extend(self.own_duties(peer)?);
            return Ok(duties);
        }
        if state.ask_log {
            duties.push(Duty::Log);
        }
        duties.extend(self.key_duties(party));
        duties.extend(self.openings_duty(party));
        duties.extend(self.offers_due(party).into_iter().map(Duty::Offer));
        duties.extend(self.reading_duties(party, peer));
        duties.extend(self.recall_duties(party));
        duties.extend(self.request_duties(party));
        for id in state.serving.keys() {
            let told = state.told.get(id).copied().unwrap_or_default();
            if self.segments_served(id) > told {
                duties.push(Duty::News(*id));
            }
        }
        duties.extend(self.errands(party, peer)?);
        if self.owes_receipts.contains(&party) {
            duties.push(Duty::Receipts);
        }
        Ok(duties)
    }

    fn perform(&mut self, peer: DeviceId, duty: Duty) -> Result<(), Failure> {
        tracing::debug!(?peer, ?duty, "due");
        let request = match duty {
            Duty::Hello => {
                let hello = self.hello_to(&peer)?;
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.hello_sent = true;
                    state.hello_due = false;
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
            Duty::Steward(errand) => self.errand_request(peer, errand)?,
            Duty::Recall(grant) => {
                if self.start_recall(peer, grant) {
                    self.mark(peer, duty);
                }
                None
            }
            Duty::RecoveryKey => Some(Request::RecoveryKey),
            Duty::Openings => {
                let party = self.peers.get(&peer).and_then(|state| state.party);
                party.map(|party| Request::Openings { after: self.openings_after(party) })
            }
            Duty::Offer(grant) => {
                self.offer_of(grant)?.map(|opening| Request::Offer { grant, opening: opening.into() })
            }
            Duty::Accept(grant) => self.accept_request(grant),
            Duty::Release(grant) => self.release_request(peer, grant)?,
            Duty::Segments(grant) => {
                let from =
                    self.got.get(&grant).map(|got| got.row.chain(self.chain_read(peer, &grant)).segments);
                from.map(|from| Request::Segments { grant, from })
            }
            Duty::Own => self.own_request(peer)?,
            Duty::OwnFetch => {
                if self.start_own_fetch(peer) {
                    self.mark(peer, duty);
                }
                None
            }
            Duty::Farewell => self.farewell_request(peer),
            Duty::Fetch(grant) => {
                if self.start_fetch(peer, grant) {
                    self.mark(peer, duty);
                }
                None
            }
            Duty::News(grant) => self.news_request(peer, grant)?,
            Duty::Ask(id) => self.ask_message(id),
            Duty::Answer(id) => self.answer_message(id),
            Duty::Receipts => self.receipts_request(peer)?,
        };
        let Some(request) = request else { return Ok(()) };
        match request.to_bytes() {
            Ok(bytes) => {
                self.mark(peer, duty);
                self.out.push(Effect::Request(peer, duty, bytes));
            }
            // Everything that can grow is cut to fit. Should something be left, it is not worth ending the node.
            Err(error) => {
                tracing::warn!(?duty, %error, "not sent");
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.pause(duty, self.now);
                }
            }
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
        state.pushed = message::fitting(state.to_push.iter().map(|entry| entry.len()));
        let entries = state.to_push.iter().take(state.pushed).cloned().collect();
        Some(Request::Entries { of, entries })
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
        let Some((_, head)) = self.head_to_serve(grant)? else {
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
        self.renew_own();
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

    /// A party that duties flow with: a contact, or the own one by another device.
    fn is_met(&self, party: PartyId) -> bool {
        party == self.me.party || self.is_admitted(party)
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
