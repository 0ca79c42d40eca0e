//! Whom to ask for what lies on a received shelf, one device or several at once.
//!
//! One device, the *first source*, is asked for the shelf itself and for payloads in order of use: a device of the holder,
//! or a steward while none can be reached. While much is left, others of the holder and its stewards *help*: they open a
//! session too (rule 7 is theirs to decide), and are asked for payloads alone, from the end of that order. What comes is verified slice by
//! slice, so it does not matter who sends it. A helper that sends wrong bytes, says no, has not got it or is slow costs
//! its own share of the time: the others are asked for what it did not bring.
//!
//! For: duties of reading, sessions, ends of want-lists. Not for: what is left ([`super::lacking`]), nor what arrives
//! ([`super::getting`]).

use super::getting::Got;
use super::lacking::Part;
use super::peers::{Duty, Peer};
use super::{Effect, Engine, Expected, FetchEnd};
use crate::failure::Failure;
use karte_protocol::consent::Release;
use karte_protocol::id::{DeviceId, GrantId, PartyId, RecordId};
use karte_protocol::limits::SESSION_MS_MAX;
use karte_protocol::message::{Fetch, Request, Response, Want};
use karte_protocol::signed::Verified;
use karte_protocol::time::{MINUTE_MS, SECOND_MS, UnixMs};

/// How long a denied grant is not asked for again without being told to, in milliseconds. 5 minutes. The same after wrong
/// bytes.
const DENIED_FOR_MS: i64 = 5 * MINUTE_MS;
/// First pause after a stream that broke on a connection that stands, in milliseconds. 5 s; each further one is twice as
/// long, up to that of a denial.
const BROKEN_FOR_MS: i64 = 5 * SECOND_MS;
/// A session that lasts no longer than this is asked for anew, in milliseconds. 5 minutes.
const RUNS_OUT_MS: i64 = 5 * MINUTE_MS;

impl Engine {
    // --- what is due

    /// What to ask a device for under the grants of a holder, as duties.
    pub(super) fn reading_duties(&self, holder: PartyId, peer: DeviceId) -> Vec<Duty> {
        let Some(state) = self.peers.get(&peer) else { return vec![] };
        let live = self.got.iter().filter(|(_, got)| got.row.holder == holder && got.is_live());
        live.filter_map(|(id, got)| self.reading_duty(*id, got, peer, state)).collect()
    }

    fn reading_duty(&self, id: GrantId, got: &Got, peer: DeviceId, state: &Peer) -> Option<Duty> {
        let is_the_holders = state.party == Some(got.row.holder);
        // Each device of the holder has to have it, and one may not have heard it from another yet.
        let told = state.accept_told.contains(&id);
        if !got.row.delivered || (is_the_holders && !told && self.has_several_devices(got.row.holder)) {
            // An acceptance is the holder's to take: without it a steward has nothing for us.
            return is_the_holders.then_some(Duty::Accept(id));
        }
        if state.denied.get(&id).is_some_and(|until| self.now < *until) {
            return None;
        }
        if self.has_another_source(id, got.row.holder, &peer) {
            return self.duty_to_help(id, got, peer, state);
        }
        let may_be_first = is_the_holders || self.is_holder_out(id, got.row.holder);
        may_be_first.then(|| self.duty_of_first(id, got, peer, state)).flatten()
    }

    fn duty_of_first(&self, id: GrantId, got: &Got, peer: DeviceId, state: &Peer) -> Option<Duty> {
        // What a helper said of the shelf was not listened to.
        let session = state.sessions.get(&id).copied().filter(|_| !state.helping.contains(&id));
        let runs_out = session.is_none_or(|until| until < self.now + RUNS_OUT_MS);
        let chain = self.chain_read(peer, &id);
        let there = got.there.get(&chain).copied().unwrap_or_default();
        if got.wanted || (runs_out && self.policy.live) {
            Some(Duty::Release(id))
        } else if session.is_some() && there > got.row.chain(chain).segments {
            Some(Duty::Segments(id))
        } else {
            (session.is_some() && got.missing.may_ask(&peer)).then_some(Duty::Fetch(id))
        }
    }

    fn duty_to_help(&self, id: GrantId, got: &Got, peer: DeviceId, state: &Peer) -> Option<Duty> {
        if !got.missing.may_share(&peer) {
            return None;
        }
        let lasts = |until: &UnixMs| self.now + RUNS_OUT_MS <= *until;
        let helps = state.helping.contains(&id) && state.sessions.get(&id).is_some_and(lasts);
        Some(if helps { Duty::Fetch(id) } else { Duty::Release(id) })
    }

    /// Whose chain of a shelf is read on a connection: a device's own, or the one that a steward shows.
    pub(super) fn chain_read(&self, peer: DeviceId, id: &GrantId) -> DeviceId {
        self.peers.get(&peer).and_then(|state| state.reads.get(id)).copied().unwrap_or(peer)
    }

    fn has_several_devices(&self, party: PartyId) -> bool {
        self.logs.get(&party).is_some_and(|held| held.state.devices.len() > 1)
    }

    /// Whether no device of a holder is there, or each that is sends nothing that is of use. One that says no counts as
    /// there: a steward is not asked for what the holder refuses.
    fn is_holder_out(&self, id: GrantId, holder: PartyId) -> bool {
        let mut theirs =
            self.peers.values().filter(|state| state.is_greeted() && state.party == Some(holder));
        theirs.all(|state| {
            state.broken.contains_key(&id) && state.denied.get(&id).is_some_and(|until| self.now < *until)
        })
    }

    /// Whether another device is the first source under a grant, or being asked to be. A device of the holder gives way to
    /// none but its siblings.
    fn has_another_source(&self, id: GrantId, holder: PartyId, peer: &DeviceId) -> bool {
        let is_the_holders = self.peers.get(peer).is_some_and(|state| state.party == Some(holder));
        let others = self.peers.iter().filter(|(other, _)| *other != peer).map(|(_, state)| state);
        let rivals = others.filter(|state| !is_the_holders || state.party == Some(holder));
        rivals.into_iter().filter(|state| !state.helping.contains(&id)).any(|state| {
            state.sessions.get(&id).is_some_and(|until| self.now + RUNS_OUT_MS <= *until)
                || state.outstanding.contains(&Duty::Release(id))
                || state.outstanding.contains(&Duty::Fetch(id))
        })
    }

    /// Whether a device other than this one may still bring what lies on the shelf.
    fn has_further_source(&self, id: GrantId, peer: &DeviceId) -> bool {
        let mut others = self.peers.iter().filter(|(other, _)| *other != peer);
        others.any(|(_, state)| {
            state.sessions.contains_key(&id) && state.denied.get(&id).is_none_or(|until| *until <= self.now)
        })
    }

    // --- sessions

    pub(super) fn release_request(
        &mut self,
        peer: DeviceId,
        id: GrantId,
    ) -> Result<Option<Request>, Failure> {
        let nonce = self.chance.salt();
        let chain = self.chain_read(peer, &id);
        let holder = self.got.get(&id).map(|got| got.row.holder);
        let helps = holder.is_some_and(|holder| self.has_another_source(id, holder, &peer));
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(None) };
        match helps {
            true => state.helping.insert(id),
            false => state.helping.remove(&id),
        };
        let staff = state.staff.clone();
        let Some(got) = self.got.get_mut(&id) else {
            return Ok(None);
        };
        let Some(accept) = &got.accept else {
            return Ok(None);
        };
        got.wanted &= helps;
        let release = Release {
            grant: id,
            accept: accept.id(),
            to: peer,
            purpose: got.open.opened.purpose.clone(),
            staff: if staff.is_empty() { "karte".into() } else { staff },
            since: got.row.chain(chain).segments,
            nonce,
            at_ms: self.now,
        };
        let signed = Verified::sign(release, self.by(), &self.keys.device)?;
        Ok(Some(Request::Release { release: signed.bytes().to_vec().into() }))
    }

    pub(super) fn take_session(
        &mut self,
        peer: DeviceId,
        id: GrantId,
        response: Response,
    ) -> Result<(), Failure> {
        match response {
            Response::Session { status, head, segments } => {
                self.hear_status(peer, &status)?;
                if self.session_opened(peer, id) {
                    self.take_head(peer, id, &head)?;
                    self.take_news(peer, id, &segments)?;
                }
                Ok(())
            }
            _ => {
                self.session_denied(peer, id);
                Ok(())
            }
        }
    }

    /// The other side opened a session. Whether it is one with the first source, whose word on the shelf is listened to.
    fn session_opened(&mut self, peer: DeviceId, id: GrantId) -> bool {
        let until = self.now + SESSION_MS_MAX;
        let Some(state) = self.peers.get_mut(&peer) else { return false };
        state.sessions.insert(id, until);
        state.denied.remove(&id);
        if state.helping.contains(&id) {
            return false;
        }
        if let Some(got) = self.got.get_mut(&id) {
            got.helpers_called = false;
            std::mem::take(&mut got.absent).into_values().for_each(|handed| got.missing.insert(handed));
        }
        true
    }

    /// The other side said no. Why, it does not say; the holder's log, which we may follow, may.
    pub(super) fn session_denied(&mut self, peer: DeviceId, id: GrantId) {
        let again = self.now + DENIED_FOR_MS;
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.sessions.remove(&id);
        state.denied.insert(id, again);
        if state.helping.remove(&id) {
            return;
        }
        // Another device of the holder may say yes: this one may have been without word from it for too long.
        let holder = self.got.get(&id).map(|got| got.row.holder);
        let others = self.peers.values().filter(|state| state.is_greeted() && state.party == holder);
        let unasked = others.into_iter().any(|state| !state.denied.contains_key(&id));
        if let Some(got) = self.got.get_mut(&id) {
            got.run.denied = !unasked;
            got.wanted |= unasked;
        }
    }

    // --- want-lists

    /// The next want-list.
    pub(super) fn start_fetch(&mut self, peer: DeviceId, id: GrantId) -> bool {
        let helps = self.peers.get(&peer).is_some_and(|state| state.helping.contains(&id));
        let now = self.now;
        let Some(got) = self.got.get_mut(&id) else {
            return false;
        };
        let Some(accept) = got.accept.as_ref().map(Verified::id) else {
            return false;
        };
        let (urgent, handed) = got.missing.ask(peer, if helps { Part::Last } else { Part::Next }, now);
        let wants = handed.iter().map(|item| Want { record: item.record, from: 0, label: true }).collect();
        let fetch = Fetch { grant: id, accept, wants, back: false, keep: false, urgent };
        self.out.push(Effect::Fetch(peer, fetch, handed.into_iter().map(Expected::from).collect()));
        self.call_helpers(id);
        true
    }

    /// Stewards are called to help, once in a session, when much is left.
    fn call_helpers(&mut self, id: GrantId) {
        let Some(got) = self.got.get_mut(&id) else { return };
        if !got.missing.is_much() || std::mem::replace(&mut got.helpers_called, true) {
            return;
        }
        let holder = got.row.holder;
        if self.greeted_device(holder).is_some() && self.standin_device(holder).is_none() {
            self.dial_stewards(holder);
        }
    }

    pub(super) fn receiving(&mut self, peer: DeviceId, id: GrantId, bytes: u64) {
        if let Some(got) = self.got.get_mut(&id) {
            got.run.underway.insert(peer, bytes);
        }
        self.tell_progress(id);
    }

    pub(super) fn fetch_ended(
        &mut self,
        peer: DeviceId,
        id: GrantId,
        missing: &[RecordId],
        end: &FetchEnd,
    ) -> Result<(), Failure> {
        if let Some(holder) = self.pulled_for(&id) {
            self.pull_ended(peer, holder, missing, end);
            return Ok(());
        }
        if id == self.own_fetch() {
            self.own_fetch_ended(peer, missing, end);
            return Ok(());
        }
        if self.is_recall(&id) {
            self.recall_ended(peer, id, missing, end);
            return Ok(());
        }
        self.list_ended(peer, id, missing, end);
        Ok(())
    }

    fn list_ended(&mut self, peer: DeviceId, id: GrantId, missing: &[RecordId], end: &FetchEnd) {
        let Some(got) = self.got.get_mut(&id) else { return };
        if !got.missing.list_ended(&peer) {
            return;
        }
        if *end != FetchEnd::Whole {
            got.missing.release(&peer);
        }
        let is_over = !got.missing.is_asked(&peer) || *end != FetchEnd::Whole;
        if is_over {
            got.run.underway.remove(&peer);
            if let Some(state) = self.peers.get_mut(&peer) {
                state.outstanding.remove(&Duty::Fetch(id));
            }
        }
        match end {
            FetchEnd::Whole => self.list_answered(peer, id, missing),
            FetchEnd::Denied => self.session_denied(peer, id),
            FetchEnd::Broken(reason) => self.list_broken(peer, id, reason),
            FetchEnd::Wrong(reason) => self.wrong_bytes(peer, id, reason),
        }
    }

    /// Everything came but this.
    fn list_answered(&mut self, peer: DeviceId, id: GrantId, missing: &[RecordId]) {
        let now = self.now;
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.broken.remove(&id);
        let helps = state.helping.contains(&id);
        if helps && !missing.is_empty() {
            // A steward may be behind: it is not asked again at once.
            state.pause(Duty::Fetch(id), now);
        }
        let Some(got) = self.got.get_mut(&id) else { return };
        for record in missing {
            let Some(handed) = got.missing.remove(record) else { continue };
            if helps {
                got.missing.insert(handed);
            } else {
                // Not there any more: it is asked for again in a later session, not in this one.
                got.absent.insert(*record, handed);
                got.run.refused += 1;
            }
        }
    }

    /// The stream broke, and the connection may stand: the same again in a while.
    fn list_broken(&mut self, peer: DeviceId, id: GrantId, reason: &str) {
        let now = self.now;
        if let Some(state) = self.peers.get_mut(&peer) {
            let pause_ms = state.broken.entry(id).or_insert(BROKEN_FOR_MS);
            state.denied.insert(id, now + *pause_ms);
            *pause_ms = pause_ms.saturating_mul(2).min(DENIED_FOR_MS);
        }
        self.source_failed(peer, id, reason);
    }

    /// A device that sends wrong bytes is named, and not asked again for long. Nothing of them was kept.
    fn wrong_bytes(&mut self, peer: DeviceId, id: GrantId, reason: &str) {
        let again = self.now + DENIED_FOR_MS;
        let known = self.peers.get_mut(&peer).and_then(|state| {
            state.broken.insert(id, DENIED_FOR_MS);
            state.denied.insert(id, again)
        });
        if known.is_none_or(|until| until <= self.now) {
            let party = self.party_of(&peer).or_else(|| self.steward_of_device(&peer));
            let name = party.map_or_else(|| "an unknown party".to_owned(), |party| self.name_of(party));
            self.notice(format!(
                "{name} (device {}) sent wrong bytes under grant {}: {reason}. Nothing of them was kept; it is not \
                 asked again for {} minutes",
                peer.short(),
                id.short(),
                DENIED_FOR_MS / MINUTE_MS
            ));
        }
        self.source_failed(peer, id, reason);
    }

    /// A source is lost for a while. If another one is there, it goes on with that.
    fn source_failed(&mut self, peer: DeviceId, id: GrantId, reason: &str) {
        let helped = self.peers.get_mut(&peer).is_some_and(|state| {
            state.sessions.remove(&id);
            state.helping.remove(&id)
        });
        let others = self.has_further_source(id, &peer);
        if let Some(got) = self.got.get_mut(&id) {
            // A helper that becomes the first source asks for a session as such.
            got.wanted |= others && !helped;
            if !others && !helped {
                got.run.broken = Some(reason.to_owned());
            }
        }
    }

    // --- several sources

    /// A device is gone: what it was asked for, others are asked for.
    pub(super) fn source_gone(&mut self, peer: &DeviceId, state: &Peer) {
        for (id, got) in &mut self.got {
            got.missing.forget(peer);
            got.run.underway.remove(peer);
            let was_first = state.sessions.contains_key(id) && !state.helping.contains(id);
            let helped = self.peers.values().any(|other| other.helping.contains(id));
            got.wanted |= was_first && helped && got.missing.len() > 0;
        }
    }

    /// Whether a session under a holder's grants is still to be asked for.
    pub(super) fn awaits_session(&self, holder: PartyId) -> bool {
        self.got.values().any(|got| got.row.holder == holder && got.wanted)
    }

    /// Whether anything that a holder handed over is on its way from anywhere.
    pub(super) fn is_being_read(&self, holder: PartyId) -> bool {
        self.got.values().any(|got| got.row.holder == holder && got.missing.is_under_way())
    }

    /// A helper that takes too long is let go, and the first source asked for the rest.
    pub(super) fn relieve_slow_helpers(&mut self) {
        let now = self.now;
        for (id, got) in &mut self.got {
            let reads = |state: &Peer| state.sessions.contains_key(id) && !state.helping.contains(id);
            let first = self.peers.iter().find(|(_, state)| reads(state)).map(|(device, _)| *device);
            let Some(first) = first else { continue };
            for slow in got.missing.slow(&first, now) {
                got.missing.forget(&slow);
                got.run.underway.remove(&slow);
                if let Some(state) = self.peers.get_mut(&slow) {
                    state.outstanding.remove(&Duty::Fetch(*id));
                    state.pause(Duty::Fetch(*id), now);
                }
                self.out.push(Effect::StopFetch(*id, Some(slow)));
            }
        }
    }
}
