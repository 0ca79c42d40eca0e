//! A recovery from its terms to its end: made by whoever needs it, signed by the keepers, journaled, then sent.
//!
//! The same road is gone by a new device that takes a lost one's place and by a device that changes the set of keys:
//! both are a Recover by the present keys (SPEC rule 6). What waits for approvals is a row, so that a stop loses none.

use super::super::rows::{KeySetRow, META, NamedKey, PendingRow, TOP};
use super::super::{Effect, Engine};
use crate::command::NewRecovery;
use crate::failure::{Failure, Kind};
use crate::recovery;
use karte_protocol::entry::{Act, Device, Entry, Recover, RecoverTerms};
use karte_protocol::id::{Digest, GrantId, PartyId};
use karte_protocol::keys::RecoverySeed;
use karte_protocol::recovery::{Approval, KeyNote, RecoveryRequest, RecoveryText};
use karte_protocol::signed::{By, Verified};
use karte_protocol::time::UnixMs;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The [`PendingRow`]. Of one device alone: no backup has it.
pub(in crate::engine) const PENDING: &[u8] = b"recovery under way";
/// The [`KeySetRow`] of the present generation.
const SET: &[u8] = b"recovery keys";
/// There after a recovery by a device that held nothing: readers are asked for the openings of the own grants.
pub(super) const BEREFT: &[u8] = b"openings are lost";
/// Most keys in a set. 16: a family and its clinics; a request still fits one QR code.
const KEYS_MAX: usize = 16;

impl Engine {
    fn pending(&self) -> Result<Option<PendingRow>, Failure> {
        self.row(META, TOP, PENDING)
    }

    pub(in crate::engine) fn key_set(&self) -> Result<Option<KeySetRow>, Failure> {
        self.row(META, TOP, SET)
    }

    // --- changing the keys

    /// Commits to other recovery keys. By the present key, if that one is in the keystore and enough; else the
    /// keepers of the present ones are asked.
    pub(in crate::engine) fn set_up_recovery(&mut self, new: &NewRecovery) -> Result<Vec<Value>, Failure> {
        self.require_clock()?;
        self.require_sound()?;
        let set = self.new_set(new)?;
        let commitments: Vec<Digest> = set.keys.iter().map(|key| key.commitment).collect();
        let terms = self.terms_of(self.live_devices(), commitments, new.threshold);
        let alone = self.signs_alone();
        if new.dry_run {
            return Ok(vec![json!({
                "dry_run": true,
                "generation": terms.r#gen,
                "threshold": new.threshold,
                "keys": set.keys.iter().map(|key| key.keeper.clone()).collect::<Vec<_>>(),
                "grants_given_again": self.counting().len(),
                "approvals_needed": if alone.is_some() { 0 } else { self.mine().log.recovery_set().1 },
            })]);
        }
        let mut pending = PendingRow { terms, approvals: vec![], set: Some(set), at_ms: self.now };
        if let Some(seed) = alone {
            pending.approvals.push(Approval::sign(&pending.terms, &seed, None)?);
        }
        self.put(META, TOP, PENDING, &pending)?;
        self.end_or_wait(pending)
    }

    fn new_set(&self, new: &NewRecovery) -> Result<KeySetRow, Failure> {
        let mut keys = Vec::new();
        if let Some(words) = &new.words {
            keys.push(NamedKey { commitment: words.commitment, keeper: "words".into() });
        }
        for text in &new.contacts {
            let party = self.find_contact(text)?;
            let keeper = self.name_of(party);
            let commitment = self.keepers_commitment(party)?.ok_or_else(|| {
                Failure::refused(format!("{keeper} has not said yes yet to keeping a key for you")).next(
                    format!("Ask {keeper} to run `karte recovery trust {}`, then repeat this.", self.me.name),
                )
            })?;
            keys.push(NamedKey { commitment, keeper });
        }
        for text in &new.keys {
            let note = KeyNote::from_text(text)?;
            if note.party != self.me.party {
                return Err(Failure::usage("a recovery key was made for another party").next(format!(
                    "Its keeper makes one for you: `karte recovery key --for {}`.",
                    self.me.party
                )));
            }
            keys.push(NamedKey { commitment: note.commitment, keeper: "key".into() });
        }
        let different: BTreeSet<&Digest> = keys.iter().map(|key| &key.commitment).collect();
        if keys.is_empty() || keys.len() > KEYS_MAX || different.len() != keys.len() {
            return Err(Failure::usage(format!(
                "expected 1 to {KEYS_MAX} different recovery keys, got {}",
                different.len()
            ))
            .next("Name them: --words, --contact NAME, --key karte-key:…"));
        }
        if new.threshold == 0 || usize::from(new.threshold) > keys.len() {
            return Err(Failure::usage(format!(
                "expected a threshold of 1 to {}, got {}: so many of the keys must sign",
                keys.len(),
                new.threshold
            )));
        }
        Ok(KeySetRow { keys, words_to: new.words.as_ref().map(|words| words.sealing.clone()) })
    }

    /// The seed in the keystore, if one signature by it is a recovery.
    fn signs_alone(&self) -> Option<RecoverySeed> {
        let (set, threshold) = self.mine().log.recovery_set();
        self.keys.recovery.seed().filter(|seed| threshold == 1 && set.contains(&seed.commitment()))
    }

    /// This device, then the party's other live ones.
    fn live_devices(&self) -> Vec<Device> {
        let others = self.mine().state.devices.iter().filter(|(device, _)| **device != self.device());
        let others =
            others.map(|(device, recipients)| Device { device: *device, recipients: recipients.clone() });
        std::iter::once(self.own_device()).chain(others).collect()
    }

    fn own_device(&self) -> Device {
        Device { device: self.device(), recipients: vec![self.keys.sealing.recipient()] }
    }

    fn terms_of(&self, devices: Vec<Device>, next_recovery: Vec<Digest>, threshold: u8) -> RecoverTerms {
        let r#gen = self.mine().state.generation.saturating_add(1);
        RecoverTerms { party: self.me.party, r#gen, devices, next_recovery, threshold }
    }

    // --- a new device

    /// The request of a device that no entry names. The set of keys stays: who could change it is not here yet.
    pub(in crate::engine) fn start_recovery(&mut self) -> Result<Vec<Value>, Failure> {
        if self.mine().state.disputed {
            return Err(disputed());
        }
        if self.mine().state.has_device(&self.device()) {
            return Err(Failure::usage("this device speaks for its party: there is nothing to recover")
                .next("`karte recovery setup` changes the keys; a new device begins in an empty --home."));
        }
        let generation = self.mine().state.generation.saturating_add(1);
        let pending = match self.pending()?.filter(|pending| pending.terms.r#gen == generation) {
            Some(pending) => pending,
            None => {
                let (set, threshold) = self.mine().log.recovery_set();
                if threshold == 0 || set.is_empty() {
                    return Err(Failure::refused(
                        "this party committed to no recovery key: nobody can bring it back",
                    )
                    .next("Make a new node, and give its card to your contacts in person."));
                }
                let terms = self.terms_of(vec![self.own_device()], set.to_vec(), threshold);
                let pending = PendingRow { terms, approvals: vec![], set: None, at_ms: self.now };
                self.put(META, TOP, PENDING, &pending)?;
                pending
            }
        };
        Ok(vec![self.view_pending(&pending)?])
    }

    // --- approvals

    /// Takes approvals and keeps them; at the threshold the recovery is signed, journaled and over.
    pub(in crate::engine) fn finish_recovery(&mut self, approvals: &[String]) -> Result<Vec<Value>, Failure> {
        let mut pending = self.pending()?.ok_or_else(|| {
            Failure::usage("no recovery is under way here")
                .next("`karte recovery start CARD` in a new --home begins one; it may also be done already: `karte status`.")
        })?;
        self.require_timely(&pending)?;
        for text in approvals {
            self.take_approval(&mut pending, text)?;
            self.put(META, TOP, PENDING, &pending)?;
        }
        let (got, need) = (pending.approvals.len(), usize::from(self.mine().log.recovery_set().1));
        if got < need {
            return Err(Failure::refused(format!("{got} of {need} approvals are here: this is no recovery yet"))
                .next("What is here is kept. Give the request to another keeper (`karte recovery start` shows it again), then repeat this with its approval."));
        }
        self.end_or_wait(pending)
    }

    /// Another recovery of the same generation would dispute the one that is already there.
    fn require_timely(&self, pending: &PendingRow) -> Result<(), Failure> {
        let state = &self.mine().state;
        match state.generation.saturating_add(1) == pending.terms.r#gen && !state.disputed {
            true => Ok(()),
            false if state.disputed => Err(disputed()),
            false => Err(Failure::refused(format!(
                "this party was recovered meanwhile: generation {} has begun, and these terms are for {}",
                state.generation, pending.terms.r#gen
            ))
            .next("If that was you, go on with that device. If not, its keepers must look who asked them.")),
        }
    }

    fn take_approval(&mut self, pending: &mut PendingRow, text: &str) -> Result<(), Failure> {
        let mut approval = Approval::from_text(text)?;
        if approval.terms != pending.terms.digest()? {
            return Err(Failure::refused(
                "this approval is for another request than the one that is open here",
            )
            .next("`karte recovery start` shows the request again: have that one approved."));
        }
        if !self.mine().log.approves(&pending.terms, &approval.key, &approval.signature) {
            return Err(Failure::refused("this approval is signed by no key that the party committed to")
                .next("Ask another keeper; `karte recovery approve` makes approvals."));
        }
        if let Some(introduced) = approval.introduced() {
            self.take_keeper(introduced)?;
        }
        approval.card = None;
        if pending.approvals.iter().all(|held| held.key != approval.key) {
            pending.approvals.push(approval);
        }
        Ok(())
    }

    fn end_or_wait(&mut self, pending: PendingRow) -> Result<Vec<Value>, Failure> {
        let need = usize::from(self.mine().log.recovery_set().1);
        match pending.approvals.len() >= need {
            true => self.complete(pending),
            false => Ok(vec![self.view_pending(&pending)?]),
        }
    }

    /// Signs the Recover and keeps it, once: what is sent later is always these bytes. Only when it is durable is the
    /// old seed taken out and anything else signed.
    fn complete(&mut self, pending: PendingRow) -> Result<Vec<Value>, Failure> {
        let was_live = self.mine().state.has_device(&self.device());
        let counting = self.counting();
        let PendingRow { terms, approvals, set, .. } = pending;
        let by = By { party: Some(self.me.party), r#gen: terms.r#gen, device: self.device() };
        let threshold = terms.threshold;
        let signed = approvals.iter().map(|approval| (&approval.key, &approval.signature[..]));
        let act = Act::Recover(Recover::assemble(terms, signed));
        let entry =
            Verified::sign(Entry { seq: 0, prev: None, at_ms: self.now, act }, by, &self.keys.device)?;
        if !self.take_entry(self.me.party, entry.clone())? {
            return Err(Failure::refused("these approvals do not make a recovery")
                .next("`karte recovery start` begins again with the newest card of this party."));
        }
        self.refresh(self.me.party);
        self.delete(META, TOP, PENDING)?;
        if let Some(set) = &set {
            self.put(META, TOP, SET, set)?;
        }
        if !was_live {
            self.put(META, TOP, BEREFT, &true)?;
            self.recovering.bereft = true;
        }
        self.commit()?;
        self.drop_spent_seed()?;
        self.push_entry(&entry);
        self.latest.remove(&self.me.party);
        self.out.push(Effect::Signs(self.by(), self.identity()));
        self.reissue_library()?;
        self.accept_anew()?;
        let again = if was_live { self.give_all_again(counting)? } else { vec![] };
        let mut views = vec![json!({
            "recovered": self.me.party.to_string(),
            "name": self.me.name,
            "device": self.device().to_hex(),
            "generation": self.mine().state.generation,
            "threshold": threshold,
            "keys": set.map(|set| set.keys.into_iter().map(|key| key.keeper).collect::<Vec<_>>()),
            "grants_given_again": again.len(),
        })];
        views.extend(again);
        Ok(views)
    }

    /// A seed in the keystore that the party has not committed to is of no use, and no longer a secret to keep.
    pub(in crate::engine) fn drop_spent_seed(&mut self) -> Result<(), Failure> {
        let set = self.mine().log.recovery_set().0;
        let spent = self.keys.recovery.seed().is_some_and(|seed| !set.contains(&seed.commitment()));
        if spent {
            self.ring.take_out_recovery()?;
            self.keys.recovery.take_out();
        }
        Ok(())
    }

    fn give_all_again(&mut self, grants: Vec<GrantId>) -> Result<Vec<Value>, Failure> {
        let mut views = Vec::new();
        if self.is_clock_behind() {
            return Ok(views);
        }
        for id in grants {
            views.extend(self.regrant(id)?);
        }
        Ok(views)
    }

    // --- telling

    fn view_pending(&self, pending: &PendingRow) -> Result<Value, Failure> {
        let log = &self.mine().log;
        let (set, threshold) = log.recovery_set();
        let request = RecoveryRequest::new(&self.me.name, pending.terms.clone(), log);
        Ok(json!({
            "party": self.me.party.to_string(),
            "name": self.me.name,
            "generation": pending.terms.r#gen,
            "approvals": pending.approvals.len(),
            "threshold": threshold,
            "keys": set.len(),
            "code": recovery::check_words(&pending.terms)?,
            "request": request.to_text()?,
        }))
    }

    /// The keys that can bring this party back, who keeps them as far as it is known here, and what is under way.
    pub(in crate::engine) fn show_recovery(&self) -> Result<Vec<Value>, Failure> {
        let (set, threshold) = self.mine().log.recovery_set();
        let named = self.key_set()?.map(|row| row.keys).unwrap_or_default();
        let own = self.keys.recovery.seed().map(|seed| seed.commitment());
        let keeper = |commitment: &Digest| match named.iter().find(|key| key.commitment == *commitment) {
            Some(key) => key.keeper.clone(),
            None if own == Some(*commitment) => "this keystore".into(),
            None => "unknown".into(),
        };
        let mut views = vec![json!({
            "threshold": threshold,
            "of": set.len(),
            "generation": self.mine().state.generation,
            "keepers": set.iter().map(keeper).collect::<Vec<String>>(),
            "standing": self.show_standing(),
        })];
        if let Some(pending) = self.pending()? {
            views.push(self.view_pending(&pending)?);
        }
        Ok(views)
    }

    /// `2 of 3` for `karte status`.
    pub(in crate::engine) fn recovery_summary(&self) -> String {
        let (set, threshold) = self.mine().log.recovery_set();
        match (set.len(), self.keys.recovery.seed()) {
            (0, _) => "none: this party cannot be brought back".into(),
            (_, Some(_)) => {
                "by the key in this keystore and its backups: `karte recovery setup` makes others".into()
            }
            (many, None) => format!("{threshold} of {many} keys"),
        }
    }

    /// The entry that began the present generation, for contacts and the old device: the time it was made.
    pub(super) fn began_ms(&self, of: PartyId) -> Option<UnixMs> {
        let held = self.logs.get(&of)?;
        let mut begun = held.log.in_order().into_iter().filter(|entry| matches!(entry.act, Act::Recover(_)));
        begun.rfind(|entry| entry.by().r#gen == held.state.generation).map(|entry| entry.at_ms)
    }
}

/// What is said wherever a dispute is met.
pub(crate) fn disputed() -> Failure {
    Failure::new(Kind::Refused, "two recoveries of this party compete: everybody denies everything it asks or grants")
        .next("Nobody can tell which is true, so no key undoes it. Make a new node in another --home, and give its card to your contacts in person; own records can be taken out of this one with `karte record export`.")
}
