//! Recovery keys: those that others keep for this party, and those that this party keeps for others.
//!
//! For: asking a contact for a key, saying yes to one that asks, and making the kept key when it is needed. Not for:
//! signing with it ([`super::approve`]).

use super::super::rows::{KEEPERS, KEPT_KEYS, KeeperRow, KeptKey, KeptKeyRow, TOP};
use super::super::{Engine, peers::Duty};
use crate::failure::Failure;
use karte_protocol::id::{DeviceId, Digest, PartyId};
use karte_protocol::keys::{RecoverySeed, SealingKey};
use karte_protocol::message::Response;
use karte_protocol::recovery::{KeyNote, RecoveryText};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What a kept key's base is derived for.
const CONTEXT: &str = "karte v1 recovery keys kept for others";

impl Engine {
    /// Contacts that were asked for a key and have not given one.
    pub(super) fn load_keepers(&self) -> Result<BTreeSet<PartyId>, Failure> {
        let rows = self.rows::<KeeperRow>(KEEPERS, TOP)?;
        let waiting = rows.into_iter().filter(|(_, row)| row.commitment.is_none());
        Ok(waiting.filter_map(|(party, _)| PartyId::from_slice(&party)).collect())
    }

    /// Asks contacts to keep a key for this party, and tells who has said yes.
    pub(in crate::engine) fn ask_keepers(&mut self, contacts: &[String]) -> Result<Vec<Value>, Failure> {
        let mut views = Vec::new();
        for text in contacts {
            let party = self.find_contact(text)?;
            let row = match self.row::<KeeperRow>(KEEPERS, TOP, party.as_bytes())? {
                Some(row) => row,
                None => {
                    let row = KeeperRow { asked_ms: self.now, commitment: None };
                    self.put(KEEPERS, TOP, party.as_bytes(), &row)?;
                    self.recovering.waits_for.insert(party);
                    row
                }
            };
            views.push(json!({
                "contact": self.name_of(party),
                "party": party.to_string(),
                "answer": if row.commitment.is_some() { "yes" } else { "asked" },
            }));
        }
        Ok(views)
    }

    pub(in crate::engine) fn key_duties(&self, party: PartyId) -> Option<Duty> {
        self.recovering.waits_for.contains(&party).then_some(Duty::RecoveryKey)
    }

    /// The answer to our asking.
    pub(in crate::engine) fn take_recovery_key(
        &mut self,
        peer: DeviceId,
        commitment: Digest,
    ) -> Result<(), Failure> {
        let Some(party) = self.peers.get(&peer).and_then(|state| state.party) else { return Ok(()) };
        if !self.recovering.waits_for.remove(&party) {
            return Ok(());
        }
        let row = KeeperRow { asked_ms: self.now, commitment: Some(commitment) };
        self.put(KEEPERS, TOP, party.as_bytes(), &row)?;
        let name = self.name_of(party);
        self.notice(format!("{name} keeps a recovery key for you: `karte recovery setup` commits to it"));
        Ok(())
    }

    /// The commitment of a contact's key, once it has said yes.
    pub(super) fn keepers_commitment(&self, party: PartyId) -> Result<Option<Digest>, Failure> {
        Ok(self.row::<KeeperRow>(KEEPERS, TOP, party.as_bytes())?.and_then(|row| row.commitment))
    }

    // --- for others

    /// A contact asks this party to keep a key. Until its user says yes the answer is no, and the user is told.
    pub(in crate::engine) fn asked_for_a_key(&mut self, from: PartyId) -> Result<Response, Failure> {
        let row = self.row::<KeptKeyRow>(KEPT_KEYS, TOP, from.as_bytes())?;
        if let Some(seed) =
            row.as_ref().and_then(|row| row.made.as_ref()).and_then(|made| self.kept_seed(from, made))
        {
            return Ok(Response::RecoveryKey { commitment: seed.commitment() });
        }
        if row.is_none_or(|row| row.asked_ms.is_none()) {
            let row = KeptKeyRow { asked_ms: Some(self.now), made: None };
            self.put(KEPT_KEYS, TOP, from.as_bytes(), &row)?;
            let name = self.name_of(from);
            self.notice(format!(
                "{name} asks you to keep a recovery key: it could help {name} back after a loss, and open nothing. `karte recovery trust {name}` says yes"
            ));
        }
        Ok(Response::Denied)
    }

    /// The own user's yes: makes the key, or tells of the one that is there. `known`: only for a contact.
    pub(in crate::engine) fn keep_key_for(&mut self, text: &str, known: bool) -> Result<Vec<Value>, Failure> {
        let party = match (self.find_contact(text), text.trim().parse::<PartyId>()) {
            (Ok(party), _) => party,
            (Err(_), Ok(party)) if !known => party,
            (Err(failure), _) => return Err(failure),
        };
        if party == self.me.party {
            return Err(Failure::usage("a key for this party is of no use on its own device").next(
                "Keep it on a device of somebody else, or print words: `karte recovery setup --words`.",
            ));
        }
        let row = self.row::<KeptKeyRow>(KEPT_KEYS, TOP, party.as_bytes())?;
        let asked_ms = row.as_ref().and_then(|row| row.asked_ms);
        let made = match row.and_then(|row| row.made) {
            Some(made) => made,
            None => {
                let library = self.keys.library.last().map(SealingKey::recipient);
                let library = library.ok_or_else(|| Failure::failed("the keystore holds no library key"))?;
                let made = KeptKey { salt: self.chance.salt(), library, at_ms: self.now };
                let row = KeptKeyRow { asked_ms, made: Some(made.clone()) };
                self.put(KEPT_KEYS, TOP, party.as_bytes(), &row)?;
                made
            }
        };
        let seed = self.kept_seed(party, &made).ok_or_else(lost)?;
        let note = KeyNote::new(party, seed.commitment());
        Ok(vec![json!({
            "party": party.to_string(),
            "name": self.name_of(party),
            "key": note.to_text()?,
            "kept_since": super::super::select::time_text(made.at_ms),
        })])
    }

    /// The key kept for a party whose hash is in `set`.
    pub(super) fn key_for(&self, party: PartyId, set: &[Digest]) -> Result<RecoverySeed, Failure> {
        let row = self.row::<KeptKeyRow>(KEPT_KEYS, TOP, party.as_bytes())?;
        let made = row.and_then(|row| row.made).ok_or_else(|| {
            Failure::refused(format!("no recovery key is kept here for {}", self.name_of(party)))
                .next("Whoever has the printed words approves with --words; else another keeper must.")
        })?;
        let seed = self.kept_seed(party, &made).ok_or_else(lost)?;
        match set.contains(&seed.commitment()) {
            true => Ok(seed),
            false => Err(Failure::refused(format!(
                "the key kept here for {} is not one of those it committed to",
                self.name_of(party)
            ))
            .next("The set was changed since, or never set up with this key: ask another keeper.")),
        }
    }

    /// `keyed_hash(derive_key(CONTEXT, library key), party ‖ salt)`; none if that library key is not here.
    fn kept_seed(&self, party: PartyId, made: &KeptKey) -> Option<RecoverySeed> {
        let library = self.keys.library.iter().find(|key| key.recipient() == made.library)?;
        let base = library.derive(CONTEXT);
        let mut hasher = blake3::Hasher::new_keyed(&base);
        hasher.update(party.as_bytes()).update(made.salt.as_bytes());
        let seed = zeroize::Zeroizing::new(*hasher.finalize().as_bytes());
        Some(RecoverySeed::from_seed(&seed))
    }
}

fn lost() -> Failure {
    Failure::failed("the library key that this recovery key is made of is not here any more")
        .next("Another keeper must help; later the set should be changed.")
}
