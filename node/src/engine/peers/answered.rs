//! What peers answer to our requests, and what is asked once more when they do not.

use super::super::Engine;
use super::super::getting::introduce;
use super::Duty;
use crate::failure::{Failure, Kind};
use karte_protocol::id::DeviceId;
use karte_protocol::message::Response;
use karte_protocol::time::{MINUTE_MS, SECOND_MS};

/// Pause before a request that failed is sent again, in milliseconds. 5 s.
const AGAIN_AFTER_MS: i64 = 5 * SECOND_MS;
/// Pause before a request that was denied is sent again, in milliseconds. 1 minute.
pub(super) const DENIED_AGAIN_AFTER_MS: i64 = MINUTE_MS;

impl Engine {
    pub(in crate::engine) fn answered(
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
        if duty == Duty::Hello { self.hear_early(peer) } else { Ok(()) }
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

    pub(in crate::engine) fn hello_answered(
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
}
