//! Stewards: a party that keeps payloads, shelves and log for a holder that is offline, and serves its readers.
//!
//! Participants: the holder hands over ([`handing`]); the steward takes, keeps and vouches, until it ends ([`intake`],
//! [`keeping`], [`ending`]); a reader turns to it when the holder is away ([`standin`]). Goals: ciphertext and
//! statements that prove themselves, nothing else; the steward decides by the same rule as the holder
//! ([`super::serving`]). Non-goals: reading and granting: a steward has no key for the one, and its entries do not
//! count for the other.
//!
//! Reconciliation like everything between peers: the holder asks what is kept, and hands over what is lacking.

mod ending;
mod handing;
mod intake;
mod keeping;
mod standin;

pub(super) use standin::own_addresses;

use super::peers::Duty;
use super::rows::{KeepingRow, KeptRow};
use super::{Effect, Engine};
use crate::failure::Failure;
use karte_protocol::consent::{Accept, Status};
use karte_protocol::grant::OpenGrant;
use karte_protocol::id::{DeviceId, Digest, EntryId, GrantId, ObjectId, PartyId, RecordId};
use karte_protocol::message::{self, Bytes, Keeping, KeptGrant, Request, Response};
use karte_protocol::shelf::ShelfHead;
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};

/// What is due between a holder, its steward and its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Errand {
    /// Ask the steward what it keeps.
    Terms,
    /// Hand over the next part of what it lacks.
    Keep,
    /// Fetch payloads that the holder has listed.
    Pull(PartyId),
    /// Hand back what was asked and told in the holder's absence.
    Served,
    /// Pass on the newest word that a holder's own device gave.
    Word(PartyId),
    /// Ask for entries of a holder's log.
    Log(PartyId),
    /// Pass on entries of a holder's log.
    Forward(PartyId),
    /// Leave receipts for the holder.
    Receipts(PartyId),
    /// Say Hello once more: the own card has changed.
    Card,
}

/// What stewards are to this engine: those it keeps for, and the stewards of others that it calls.
#[derive(Default)]
pub(super) struct Stewardship {
    pub(super) keeping: BTreeMap<PartyId, Kept>,
    /// Holders to whom releases or receipts are to be handed back, and how many.
    pub(super) owes: BTreeMap<PartyId, usize>,
    /// Devices of stewards, and of whom: by every log that is held.
    pub(super) helpers: BTreeMap<DeviceId, BTreeSet<PartyId>>,
    /// Stewards that are being called, and for which holders.
    pub(super) called: BTreeMap<PartyId, BTreeSet<PartyId>>,
}

/// All that is kept for one holder.
pub(super) struct Kept {
    pub(super) row: KeepingRow,
    pub(super) grants: BTreeMap<GrantId, KeptShelf>,
    /// Records that are listed and not here yet: length of the payload, hash of the sealed label.
    pub(super) missing: BTreeMap<RecordId, (u64, Digest)>,
    /// Records that the holder did not have when it was asked on this connection.
    pub(super) absent: BTreeMap<RecordId, (u64, Digest)>,
    pub(super) used_bytes: u64,
    /// The entry that names this node its steward.
    pub(super) entry: Option<EntryId>,
}

/// One grant that is kept.
pub(super) struct KeptShelf {
    pub(super) row: KeptRow,
    pub(super) open: Option<OpenGrant>,
    pub(super) accept: Option<Verified<Accept>>,
    pub(super) head: Option<Verified<ShelfHead>>,
}

impl KeptShelf {
    pub(super) fn of(row: KeptRow) -> Result<Self, Failure> {
        let open = row.opening.as_ref().map(|opening| opening.verify()).transpose()?;
        let accept = row.accept.as_ref().map(|bytes| Signed::<Accept>::from_bytes(bytes.to_vec()).verify());
        let head = row.head.as_ref().map(|bytes| Signed::<ShelfHead>::from_bytes(bytes.to_vec()).verify());
        Ok(Self { open, accept: accept.transpose()?, head: head.transpose()?, row })
    }
}

/// What is known of one connection, as far as stewards go.
#[derive(Default)]
pub(super) struct Errands {
    /// What the steward at the other end keeps; asked for once, and again when something was handed over.
    pub(super) kept: Option<Manifest>,
    /// What is on its way to it.
    pub(super) sent: Option<Sent>,
    /// Holders whose log the other end should tell.
    pub(super) ask_logs: BTreeSet<PartyId>,
    /// Entries of holders that the other end may not have.
    pub(super) forwards: BTreeMap<PartyId, Vec<Bytes>>,
    /// How many of them are on their way.
    pub(super) forwarded: BTreeMap<PartyId, usize>,
    /// When the words that were passed on were given, by holder and device.
    pub(super) words: BTreeMap<PartyId, BTreeMap<DeviceId, UnixMs>>,
    /// Holders for whom all receipts are left here.
    pub(super) receipts_left: BTreeSet<PartyId>,
    /// What was handed back: releases and receipts.
    pub(super) served: Vec<ObjectId>,
    pub(super) card_due: bool,
}

/// What a steward said that it keeps, and what it has taken since.
pub(super) struct Manifest {
    pub(super) said: Keeping,
    pub(super) grants: BTreeMap<GrantId, KeptGrant>,
    /// Something was handed over since: worth asking again.
    pub(super) stale: bool,
}

/// One Keep under way, and what the steward has when it took it.
pub(super) enum Sent {
    Grant(KeptGrant),
    Shelf { grant: GrantId, segments: u64, head: bool },
    Own { library: Bytes, segments: u64 },
}

impl Engine {
    /// Everything of this kind that is due to a greeted peer.
    pub(super) fn errands(&self, party: PartyId, peer: DeviceId) -> Result<Vec<Duty>, Failure> {
        let Some(state) = self.peers.get(&peer) else { return Ok(vec![]) };
        let mut due = Vec::new();
        if state.errands.card_due {
            due.push(Errand::Card);
        }
        due.extend(
            state
                .errands
                .forwards
                .iter()
                .filter(|(_, new)| !new.is_empty())
                .map(|(of, _)| Errand::Forward(*of)),
        );
        due.extend(state.errands.ask_logs.iter().map(|of| Errand::Log(*of)));
        for holder in self.shared_holders(party, peer) {
            if self.word_to_tell(&state.errands, holder).is_some() {
                due.push(Errand::Word(holder));
            }
        }
        due.extend(self.handing_errands(party, peer)?);
        due.extend(self.keeping_errands(party));
        let mut duties: Vec<Duty> = due.into_iter().map(Duty::Steward).collect();
        duties.extend(self.standin_duties(party, peer));
        Ok(duties)
    }

    /// The request of an errand; none if it is no request, or nothing is left to say.
    pub(super) fn errand_request(
        &mut self,
        peer: DeviceId,
        errand: Errand,
    ) -> Result<Option<Request>, Failure> {
        Ok(match errand {
            Errand::Terms => Some(Request::Keeping),
            Errand::Keep => self.keep_request(peer)?,
            Errand::Pull(holder) => {
                self.start_pull(peer, holder);
                None
            }
            Errand::Served => self.served_request(peer)?,
            Errand::Word(of) => self.word_request(peer, of),
            Errand::Log(of) => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.errands.ask_logs.remove(&of);
                }
                Some(Request::Log { of, have: self.ends_of(of) })
            }
            Errand::Forward(of) => self.forward_request(peer, of),
            Errand::Receipts(of) => self.receipts_to_leave(peer, of)?,
            Errand::Card => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.errands.card_due = false;
                }
                Some(Request::Hello(self.hello_to(&peer)?))
            }
        })
    }

    /// What came of an errand.
    pub(super) fn errand_answered(
        &mut self,
        peer: DeviceId,
        errand: Errand,
        response: Response,
    ) -> Result<(), Failure> {
        match (errand, response) {
            (Errand::Terms, Response::Keeping(keeping)) => self.terms_told(peer, keeping),
            (Errand::Terms, Response::Denied) => self.terms_denied(peer),
            (Errand::Keep, Response::Done) => {
                self.keep_taken(peer);
                Ok(())
            }
            (Errand::Keep, Response::Full { quota_bytes, used_bytes }) => {
                self.keep_full(peer, quota_bytes, used_bytes)
            }
            (Errand::Log(of), Response::Entries { entries, more }) => {
                let news = self.take_entries(of, Self::verify_entries(&entries))?;
                if more
                    && news
                    && let Some(state) = self.peers.get_mut(&peer)
                {
                    state.errands.ask_logs.insert(of);
                }
                Ok(())
            }
            (Errand::Forward(of), Response::Done) => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    let sent = state.errands.forwarded.remove(&of).unwrap_or_default();
                    let left = state.errands.forwards.entry(of).or_default();
                    left.drain(..sent.min(left.len()));
                }
                Ok(())
            }
            (Errand::Served, Response::Done) => self.served_delivered(peer),
            (Errand::Card, Response::Hello(hello)) => self.hello_answered(peer, &hello.card, &hello.status),
            (Errand::Word(_) | Errand::Receipts(_), Response::Done) => Ok(()),
            (errand, _) => {
                self.errand_failed(peer, errand);
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.pause(Duty::Steward(errand), self.now);
                }
                Ok(())
            }
        }
    }

    /// What was taken for done when it was sent, and did not arrive.
    pub(super) fn errand_failed(&mut self, peer: DeviceId, errand: Errand) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let errands = &mut state.errands;
        match errand {
            Errand::Keep => {
                errands.sent = None;
                errands.kept = None;
            }
            Errand::Log(of) => drop(errands.ask_logs.insert(of)),
            Errand::Word(of) => drop(errands.words.remove(&of)),
            Errand::Receipts(of) => drop(errands.receipts_left.remove(&of)),
            Errand::Forward(of) => drop(errands.forwarded.remove(&of)),
            Errand::Card => errands.card_due = true,
            Errand::Served => errands.served.clear(),
            Errand::Terms | Errand::Pull(_) => {}
        }
    }

    /// Holders whose log both this node and a peer follow: as steward and reader, whichever way round.
    pub(super) fn shared_holders(&self, party: PartyId, peer: DeviceId) -> Vec<PartyId> {
        let mut shared = self.helped_by(peer);
        shared.extend(
            self.steward.keeping.iter().filter(|(_, kept)| kept.has_reader(party)).map(|(holder, _)| *holder),
        );
        shared
    }

    /// Whether this node follows a party's whole log: it reads under its grants, or keeps for it.
    pub(super) fn follows(&self, of: PartyId) -> bool {
        self.got.values().any(|got| got.row.holder == of) || self.steward.keeping.contains_key(&of)
    }

    /// Whether a party may speak here: a contact; a reader for whom something is kept; a steward of a holder that this
    /// node reads from.
    pub(super) fn is_admitted(&self, party: PartyId) -> bool {
        self.is_known(party) || self.is_guest(party)
    }

    /// One who is admitted without being a contact.
    pub(super) fn is_guest(&self, party: PartyId) -> bool {
        self.steward.keeping.values().any(|kept| kept.has_reader(party))
            || self.helped_holders().any(|holder| {
                self.logs.get(holder).is_some_and(|held| held.state.stewards.contains_key(&party))
            })
    }

    /// Whether a guest may say this: what a reader and a steward say to each other.
    pub(super) fn is_for_guests(request: &Request) -> bool {
        matches!(
            request,
            Request::Hello(_)
                | Request::Entries { .. }
                | Request::Log { .. }
                | Request::Status { .. }
                | Request::Release { .. }
                | Request::Segments { .. }
                | Request::News { .. }
                | Request::Receipts { .. }
        )
    }

    /// Entries that are new here go to everybody connected who follows the same log.
    pub(super) fn forward(&mut self, of: PartyId, entries: &[Bytes]) {
        /// Entries that wait to be passed on to one peer. Beyond it the next Status shows what is lacking.
        const FORWARD_MAX: usize = 500;
        let fellows: Vec<DeviceId> = self
            .peers
            .iter()
            .filter_map(|(device, state)| Some((device, state.party?)))
            .filter(|(device, party)| *party != of && self.shared_holders(*party, **device).contains(&of))
            .map(|(device, _)| *device)
            .collect();
        for device in fellows {
            let Some(state) = self.peers.get_mut(&device) else { continue };
            let waiting = state.errands.forwards.entry(of).or_default();
            let room = FORWARD_MAX.saturating_sub(waiting.len());
            waiting.extend(entries.iter().take(room).cloned());
        }
    }

    fn forward_request(&mut self, peer: DeviceId, of: PartyId) -> Option<Request> {
        let errands = &mut self.peers.get_mut(&peer)?.errands;
        let waiting = errands.forwards.get(&of)?;
        let many = message::fitting(waiting.iter().map(|entry| entry.len()));
        let entries: Vec<Bytes> = waiting.iter().take(many).cloned().collect();
        errands.forwarded.insert(of, entries.len());
        Some(Request::Entries { of, entries })
    }

    fn word_request(&mut self, peer: DeviceId, of: PartyId) -> Option<Request> {
        let word = self.word_to_tell(&self.peers.get(&peer)?.errands, of)?;
        let (device, status, issued_ms) =
            (word.by().device, Bytes::from(word.bytes().to_vec()), word.issued_ms);
        self.peers.get_mut(&peer)?.errands.words.entry(of).or_default().insert(device, issued_ms);
        Some(Request::Status { status })
    }

    /// The oldest word of a holder's devices that was not passed on yet.
    fn word_to_tell(&self, errands: &Errands, of: PartyId) -> Option<&Verified<Status>> {
        let told = errands.words.get(&of);
        let is_new = |word: &&Verified<Status>| {
            told.and_then(|told| told.get(&word.by().device)).is_none_or(|told_ms| word.issued_ms > *told_ms)
        };
        self.words_of(of).into_iter().find(is_new)
    }

    /// Cuts the streams on which a peer fetches as steward.
    fn end_streams_of(&mut self, entry: GrantId) {
        let cut: Vec<_> =
            self.streams.iter().filter(|(_, (_, of))| *of == entry).map(|(stream, _)| *stream).collect();
        for stream in cut {
            self.streams.remove(&stream);
            self.out.push(Effect::Go(stream, false));
        }
    }
}

impl Kept {
    fn has_reader(&self, party: PartyId) -> bool {
        self.grants.values().any(|shelf| shelf.row.reader == party)
    }
}

impl Errands {
    /// A sync asks for everything again.
    pub(super) fn ask_anew(&mut self) {
        self.words.clear();
        self.receipts_left.clear();
        if let Some(manifest) = &mut self.kept {
            manifest.stale = true;
        }
    }
}
