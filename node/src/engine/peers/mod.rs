//! Connections, and what is due to whom.
//!
//! Reconciliation, not event handlers: after every step [`Engine::advance_all`] looks at what each greeted peer
//! still lacks or owes, and sends that. One request of a kind is under way at a time; what failed is tried again
//! after a pause.

mod answered;
mod asked;
mod duties;
mod near;

pub(super) use near::Near;

use super::steward::{Errand, Errands};
use super::{Engine, RequestId};
use crate::failure::{Failure, Kind};
use karte_protocol::consent::{Release, Status};
use karte_protocol::entry::Entry;
use karte_protocol::id::{DeviceId, GrantId, ObjectId, PartyId};
use karte_protocol::limits::LEASE_MS_MAX;
use karte_protocol::message::Bytes;
use karte_protocol::signed::Verified;
use karte_protocol::time::{MINUTE_MS, SECOND_MS, UnixMs};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// First and longest pause between two attempts to reach a contact, in milliseconds.
const REDIAL_MS: (i64, i64) = (SECOND_MS, 5 * MINUTE_MS);
/// How long a call may go unanswered before a holder's stewards are called, in milliseconds. 3 s: a connection over the
/// slowest link takes some round trips.
const STEWARD_AFTER_MS: i64 = 3 * SECOND_MS;
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
    /// Grants under which it helps another device that is asked first.
    pub(super) helping: BTreeSet<GrantId>,
    /// Pause in milliseconds after the next stream that breaks.
    pub(super) broken: BTreeMap<GrantId, i64>,
    /// Sessions that we opened to it.
    pub(super) serving: BTreeMap<GrantId, Verified<Release>>,
    /// Segments that it was told of.
    pub(super) told: BTreeMap<GrantId, u64>,
    receipts_sent: Vec<ObjectId>,
    /// Requests that wait for the answer to our Hello.
    early: Vec<(RequestId, Vec<u8>)>,
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

    /// Another device of the own party is told where this one is; contacts are told by their errand.
    pub(super) fn owe_own_a_hello(&mut self, me: PartyId) {
        self.hello_due |= self.greeted && self.party == Some(me);
    }

    /// A fresh Status is due.
    pub(super) fn owe_a_status(&mut self) {
        self.status_due = self.greeted;
    }

    /// Not again at once.
    pub(super) fn pause(&mut self, duty: Duty, now: UnixMs) {
        self.paused.insert(duty, now + answered::DENIED_AGAIN_AFTER_MS);
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
            early: self.early,
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
        self.helping.clear();
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
    /// Since when it is being called.
    since_ms: UnixMs,
    /// It is still being called, and its stewards are too.
    is_given_up: bool,
}

impl Redial {
    pub(super) fn is_due(now: UnixMs) -> impl Fn(&Self) -> bool {
        move |redial| !redial.dialling && redial.next_ms <= now
    }

    pub(super) fn start(&mut self, now: UnixMs) {
        (self.dialling, self.since_ms, self.is_given_up) = (true, now, false);
    }

    fn is_overdue(&self, now: UnixMs) -> bool {
        self.dialling && !self.is_given_up && now >= self.since_ms.saturating_add(STEWARD_AFTER_MS)
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
        self.source_gone(&peer, &state);
        let Some(party) = state.party.or(state.knocking).or_else(|| self.party_of(&peer)) else { return };
        self.redial.insert(party, Redial::default());
        if self.greeted_device(party).is_none() {
            let lost =
                Failure::new(Kind::Unreachable, format!("the connection to {} broke", self.name_of(party)))
                    .next("Repeat `karte sync`: what has arrived is kept.");
            self.steward_lost(peer, party, &lost);
            // A steward that helped goes on alone.
            if !(self.standin_device(party).is_some() && self.awaits_session(party)) {
                self.end_sync_of(party, Err(lost));
            }
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
        self.redial.get(&party).is_some_and(|redial| redial.dialling && !redial.is_given_up)
    }

    pub(super) fn is_being_called(&mut self, party: PartyId) {
        let now = self.now;
        self.redial.entry(party).or_default().start(now);
    }

    /// Who does not answer for long: a machine that is off says nothing, and the transport gives up only after many
    /// seconds. Its stewards are called meanwhile.
    pub(super) fn turn_to_stewards(&mut self) {
        let now = self.now;
        let overdue = self.redial.iter_mut().filter(|(_, redial)| redial.is_overdue(now));
        let parties: Vec<PartyId> = overdue
            .map(|(party, redial)| {
                redial.is_given_up = true;
                *party
            })
            .collect();
        for party in parties {
            self.call_stewards(party);
        }
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

    /// A contact was added: if it is connected, knocking or silent, greet it there; else call it.
    pub(super) fn greet_known(&mut self, party: PartyId) -> Result<(), Failure> {
        let log = self.logs.get(&party);
        let is_its = |device: &DeviceId| log.is_some_and(|held| held.state.has_device(device));
        for (device, state) in &mut self.peers {
            let is_silent = !state.greeted && state.knocking.is_none() && is_its(device);
            if state.knocking == Some(party) || is_silent {
                state.greet_again();
            }
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
                self.is_being_called(party);
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
