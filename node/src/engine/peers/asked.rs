//! What peers ask: every control request, decoded, admitted and answered. Whatever is not admitted is one Denied.

use super::super::getting::introduce;
use super::super::select::time_text;
use super::super::sync::SyncRun;
use super::super::{Engine, RequestId};
use super::Duty;
use crate::failure::Failure;
use karte_protocol::consent::Status;
use karte_protocol::id::{DeviceId, PartyId};
use karte_protocol::limits::CLOCK_SKEW_MS_MAX;
use karte_protocol::message::{Request, Response};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::SECOND_MS;

/// How long a stranger's next Hello on one connection is answered without being looked at, in milliseconds. 2 s.
const DEAF_MS: i64 = 2 * SECOND_MS;

/// Requests of a contact that may wait for the answer to our Hello. 16: as many as it may have under way.
const EARLY_MAX: usize = 16;

impl Engine {
    pub(in crate::engine) fn request(
        &mut self,
        peer: DeviceId,
        id: RequestId,
        body: &[u8],
    ) -> Result<(), Failure> {
        let response = match Request::from_bytes(body) {
            Ok(request) if self.is_early(peer, &request) => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.early.push((id, body.to_vec()));
                }
                return Ok(());
            }
            Ok(request) => self.respond(peer, request)?,
            Err(_) => Response::Denied,
        };
        self.reply(id, &response)
    }

    /// Whether a request has to wait for the answer to our Hello, which it may have overtaken: whoever answers a Hello
    /// has greeted by that and begins to ask, each time on a stream of its own.
    fn is_early(&self, peer: DeviceId, request: &Request) -> bool {
        let is_greeting = matches!(request, Request::Hello(_) | Request::Join { .. });
        let waits = self.peers.get(&peer).is_some_and(|state| {
            !state.greeted && state.outstanding.contains(&Duty::Hello) && state.early.len() < EARLY_MAX
        });
        !is_greeting && waits && self.party_of(&peer).is_some_and(|party| self.is_met(party))
    }

    /// Our Hello was answered, or will not be: what waited for that is looked at now.
    pub(super) fn hear_early(&mut self, peer: DeviceId) -> Result<(), Failure> {
        let early = self.peers.get_mut(&peer).map(|state| std::mem::take(&mut state.early));
        early.unwrap_or_default().into_iter().try_for_each(|(id, body)| self.request(peer, id, &body))
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
            Request::News { grant, head, segments } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.denied.remove(&grant);
                }
                self.take_head(peer, grant, &head)?;
                self.take_news(peer, grant, &segments)?;
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
    pub(super) fn greeted(&mut self, peer: DeviceId, party: PartyId, status: &[u8]) -> Result<(), Failure> {
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
        // Not with the next second: whoever begins to talk at once must not be taken for a stranger.
        self.tell_known();
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
    pub(in crate::engine) fn hear_status(&mut self, peer: DeviceId, bytes: &[u8]) -> Result<(), Failure> {
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

    pub(super) fn ask_log_of(&mut self, peer: DeviceId, of: PartyId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.errands.ask_logs.insert(of);
        }
    }

    pub(super) fn ask_log(&mut self, peer: DeviceId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.ask_log = true;
        }
    }
}

fn done_if(taken: bool) -> Response {
    if taken { Response::Done } else { Response::Denied }
}
