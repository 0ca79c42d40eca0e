//! Sync on demand: what `karte sync` waits for, and what it says in the end.
//!
//! A sync does nothing itself: it marks what is wanted, and duties ([`super::peers`]) do the rest. It ends for a
//! party when nothing is under way with it any more.

use super::getting::{Got, Run};
use super::rows::GotState;
use super::{Effect, Engine, Ticket};
use crate::failure::{Failure, Kind};
use karte_protocol::id::{DeviceId, GrantId, PartyId};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A running sync.
pub(super) struct SyncRun {
    pub(super) ticket: Ticket,
    pub(super) staff: String,
    pub(super) parties: BTreeMap<PartyId, Option<Result<(), Failure>>>,
}

impl Engine {
    pub(super) fn start_sync(&mut self, ticket: Ticket, contact: Option<&str>, staff: &str) {
        let planned = match self.may_greet() {
            true => self.plan_sync(contact),
            false => self.require_sound().and_then(|()| self.plan_sync(contact)),
        };
        match planned {
            Err(failure) => self.answer(ticket, Err(failure)),
            Ok(parties) => {
                let run = SyncRun {
                    ticket,
                    staff: staff.to_owned(),
                    parties: parties.iter().map(|party| (*party, None)).collect(),
                };
                self.syncs.push(run);
                parties.into_iter().for_each(|party| self.sync_party(party, staff));
            }
        }
    }

    fn plan_sync(&self, contact: Option<&str>) -> Result<Vec<PartyId>, Failure> {
        let Some(text) = contact else {
            let own = Some(self.me.party).filter(|_| !self.other_devices().is_empty());
            let contacts = self.contacts.iter().filter(|(_, contact)| contact.row.known);
            let known: Vec<PartyId> = own.into_iter().chain(contacts.map(|(party, _)| *party)).collect();
            if known.is_empty() {
                return Err(Failure::usage("there is no contact to sync with")
                    .next("`karte contact add CARD` adds one."));
            }
            return Ok(known);
        };
        Ok(vec![self.find_contact(text)?])
    }

    fn sync_party(&mut self, party: PartyId, staff: &str) {
        for got in self.got.values_mut().filter(|got| got.row.holder == party) {
            got.run = Run::default();
            got.wanted = got.is_live();
        }
        let stranger = self.logs.get(&party).into_iter().flat_map(|held| held.state.devices.keys());
        let stranger: Vec<DeviceId> =
            stranger.copied().filter(|device| self.peers.contains_key(device)).collect();
        let greeted = self.greeted_devices(party);
        for device in &greeted {
            if let Some(state) = self.peers.get_mut(device) {
                state.ask_anew(staff);
            }
        }
        if !greeted.is_empty() {
            return;
        }
        if let Some(device) = stranger.first() {
            // Connected, and not taken as a contact so far: ask again.
            if let Some(state) = self.peers.get_mut(device) {
                state.greet_again();
            }
        } else if self.dial(party) {
            self.is_being_called(party);
        } else if !self.call_stewards(party) {
            let failure =
                Failure::new(Kind::Unreachable, format!("no address of {} is known", self.name_of(party)))
                    .next("Ask for a fresh card while its node is running, and add it again.");
            self.end_sync_of(party, Err(failure));
        }
    }

    pub(super) fn end_sync_of(&mut self, party: PartyId, result: Result<(), Failure>) {
        for run in &mut self.syncs {
            if let Some(open @ None) = run.parties.get_mut(&party) {
                *open = Some(result.clone());
            }
        }
    }

    pub(super) fn settle_syncs(&mut self) {
        let waiting: BTreeSet<PartyId> = self
            .syncs
            .iter()
            .flat_map(|run| run.parties.iter().filter(|(_, end)| end.is_none()).map(|(party, _)| *party))
            .collect();
        for party in waiting {
            let mut greeted = self.greeted_devices(party);
            if greeted.is_empty() {
                greeted.extend(self.standin_for(party));
            }
            let idle =
                |device: &DeviceId| self.peers.get(device).is_some_and(|state| state.outstanding.is_empty());
            if !greeted.is_empty() && greeted.iter().all(idle) && !self.is_being_read(party) {
                self.end_sync_of(party, Ok(()));
            }
        }
        let (done, open): (Vec<SyncRun>, Vec<SyncRun>) = std::mem::take(&mut self.syncs)
            .into_iter()
            .partition(|run| run.parties.values().all(Option::is_some));
        self.syncs = open;
        for run in done {
            let answer = self.sync_answer(&run);
            self.answer(run.ticket, answer.map(super::Answer::Items));
        }
    }

    /// One object for each grant read from, then the sum. A failure only if nothing at all worked.
    fn sync_answer(&self, run: &SyncRun) -> Result<Vec<Value>, Failure> {
        let mut views = Vec::new();
        // That another own device is off is no failure of a sync that met somebody.
        let own_alone = run.parties.len() == 1;
        let counts = |party: &PartyId| own_alone || *party != self.me.party;
        let ends = run.parties.iter().filter(|(party, _)| counts(party)).filter_map(|(_, end)| end.as_ref());
        let mut failures: Vec<Failure> = ends.filter_map(|end| end.clone().err()).collect();
        for (id, got) in &self.got {
            let took_part = matches!(run.parties.get(&got.row.holder), Some(Some(Ok(()))));
            let relevant = got.is_live() || got.run.denied || got.run.broken.is_some();
            if !took_part || !relevant {
                continue;
            }
            let failure = self.run_failure(*id);
            views.push(json!({
                "grant": id.to_hex(),
                "holder": got.row.holder.to_string(),
                "holder_name": self.name_of(got.row.holder),
                "received": got.run.received,
                "bytes": got.run.bytes,
                "refused": got.run.refused,
                "missing": got.missing.len(),
                "reason": failure.as_ref().map(|failure| failure.message.clone()),
            }));
            failures.extend(failure);
        }
        let worked = run.parties.values().any(|end| matches!(end, Some(Ok(()))));
        let all_failed = !failures.is_empty() && (!worked || failures.len() >= views.len().max(1));
        if all_failed && let Some(failure) = failures.into_iter().next() {
            return Err(failure);
        }
        if let Some(over) = self.only_ended(run) {
            return Err(over);
        }
        if views.is_empty() {
            views.push(json!({ "grant": null, "received": 0, "bytes": 0, "refused": 0, "missing": 0, "reason": null }));
        }
        Ok(views)
    }

    /// Somebody asked for who lets this node read nothing any more, and to whom it gives nothing either.
    fn only_ended(&self, run: &SyncRun) -> Option<Failure> {
        let theirs: Vec<(&GrantId, &Got)> =
            self.got.iter().filter(|(_, got)| run.parties.contains_key(&got.row.holder)).collect();
        let nothing_live = run.parties.keys().all(|party| !self.has_live_grants_with(*party));
        let open = theirs.iter().any(|(_, got)| got.row.state != GotState::Ended);
        let ended = theirs.last().map(|(id, _)| **id)?;
        if nothing_live && !open { self.run_failure(ended) } else { None }
    }

    /// Progress of every sync that waits for this grant.
    pub(super) fn tell_progress(&mut self, id: GrantId) {
        let Some(got) = self.got.get(&id) else { return };
        let holder = got.row.holder;
        let done = got.run.bytes + got.run.underway.values().sum::<u64>();
        let total = got.run.bytes + got.missing.bytes();
        let tickets: Vec<Ticket> =
            self.syncs.iter().filter(|run| run.parties.contains_key(&holder)).map(|run| run.ticket).collect();
        for ticket in tickets {
            self.out.push(Effect::Progress { ticket, done, total });
        }
    }
}
