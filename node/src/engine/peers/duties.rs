//! What is due to a connected device, and the request that fulfils it.

use super::super::{Effect, Engine};
use super::Duty;
use crate::failure::Failure;
use karte_protocol::consent::Receipt;
use karte_protocol::id::{DeviceId, GrantId};
use karte_protocol::message::{self, Bytes, Request};
use karte_protocol::signed::Verified;

/// Requests under way to one peer. 8 of the network's 16: room for a revocation at any time.
const OUTSTANDING_MAX: usize = 8;

impl Engine {
    pub(in crate::engine) fn advance_all(&mut self) -> Result<(), Failure> {
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
            // A second list may follow the first: whether it may, `Lacking` knows.
            let under_way = state.outstanding.contains(&duty) && !matches!(duty, Duty::Fetch(_));
            if !waits && !crowded && !under_way {
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

    pub(super) fn mark(&mut self, peer: DeviceId, duty: Duty) {
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
        let told = head.chains.iter().map(|chain| chain.segments).sum();
        let from = self.peers.get_mut(&peer).and_then(|state| state.told.insert(grant, told)).unwrap_or(told);
        let segments = self.news_segments(grant, from)?;
        Ok(Some(Request::News { grant, head: head.bytes().to_vec().into(), segments }))
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
}
