//! Recovery: a new generation of the own party, begun by a new device with the keys that were committed before.
//!
//! For: SPEC rule 6, on rows that came from a backup. Not for: where seed and rows come from ([`crate::backup`]).

use super::rows::{ENTRIES, GOT, GotRow, GotState, TOP};
use super::{Engine, decode_row};
use crate::failure::{Failure, Kind};
use crate::keystore::Keys;
use crate::store::{Batch, Store};
use karte_protocol::encoding;
use karte_protocol::entry::{Act, Device, Entry, Recover, RecoverTerms};
use karte_protocol::id::{EntryId, GrantId};
use karte_protocol::identity::PartyLog;
use karte_protocol::keys::RecoverySeed;
use karte_protocol::signed::{By, Signed, Verified};
use karte_protocol::time::UnixMs;
use serde_json::Value;
use std::ops::ControlFlow;

/// Signs and keeps the Recover that makes the device of `keys` the party's only one, with `keys.recovery` committed
/// for the next time. Durable when this returns. Grants that the party gave are over then; those it received wait to
/// be accepted anew, because their reading keys are nowhere but in the old device.
pub fn recover(
    store: &mut dyn Store,
    genesis: &[u8],
    keys: &Keys,
    seeds: &[&RecoverySeed],
    now: UnixMs,
) -> Result<(), Failure> {
    let log = own_log(store, genesis)?;
    let device = Device { device: keys.device.device(), recipients: vec![keys.sealing.recipient()] };
    let next_recovery: Vec<_> = keys.recovery.iter().map(RecoverySeed::commitment).collect();
    let threshold = u8::from(!next_recovery.is_empty());
    let generation = log.state().generation + 1;
    let terms = RecoverTerms {
        party: log.party(),
        r#gen: generation,
        devices: vec![device],
        next_recovery,
        threshold,
    };
    let act = Act::Recover(Recover::sign(terms, seeds)?);
    let by = By { party: Some(log.party()), r#gen: generation, device: keys.device.device() };
    let entry = Verified::sign(Entry { seq: 0, prev: None, at_ms: now, act }, by, &keys.device)?;
    let mut after = log.clone();
    after.add(entry.clone()).map_err(|_| {
        Failure::new(Kind::Failed, "the recovery key is not the one that this party committed to")
            .next("Use a newer backup, or the one that holds the latest recovery key.")
    })?;
    let mut batch = Batch::default();
    let id = EntryId::from(entry.id());
    batch.put(ENTRIES, log.party().as_bytes(), id.as_bytes(), entry.bytes().to_vec());
    store.write(super::reload::urgent(batch))?;
    wait_for_acceptance(store)?;
    Ok(store.commit()?)
}

/// The own log as a store holds it.
fn own_log(store: &dyn Store, genesis: &[u8]) -> Result<PartyLog, Failure> {
    let genesis = Signed::<Entry>::from_bytes(genesis.to_vec()).verify()?;
    let mut log = PartyLog::start(genesis).map_err(|error| Failure::failed(error.to_string()))?;
    let mut entries = Vec::new();
    store.scan(ENTRIES, log.party().as_bytes(), &mut |_, bytes| {
        entries.extend(Signed::<Entry>::from_bytes(bytes.to_vec()).verify());
        ControlFlow::Continue(())
    })?;
    entries.sort_by_key(|entry| (entry.by().r#gen, !entry.act.is_identity(), entry.seq));
    // An AddDevice may stand behind one that it needs: as often as there are entries is always enough.
    loop {
        let before = entries.len();
        entries.retain(|entry| log.add(entry.clone()).is_err());
        if entries.len() == before || entries.is_empty() {
            return Ok(log);
        }
    }
}

/// Grants that were accepted are accepted anew at the next start, with fresh reading keys.
fn wait_for_acceptance(store: &mut dyn Store) -> Result<(), Failure> {
    let mut rows: Vec<(Vec<u8>, GotRow)> = Vec::new();
    let mut failed = None;
    store.scan(GOT, TOP, &mut |grant, value| match decode_row(value) {
        Ok(row) => {
            rows.push((grant.to_vec(), row));
            ControlFlow::Continue(())
        }
        Err(failure) => {
            failed = Some(failure);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)?;
    for (grant, mut row) in rows {
        if row.state != GotState::Accepted {
            continue;
        }
        row.state = GotState::Offered;
        row.delivered = false;
        row.forget_chains();
        (row.receipts, row.receipt_last) = (0, None);
        let mut batch = Batch::default();
        batch.put(GOT, TOP, &grant, encoding::encode(&row)?);
        store.write(batch)?;
    }
    Ok(())
}

impl Engine {
    /// Grants that were accepted before a recovery: yes again, from this device.
    pub(super) fn accept_anew(&mut self) -> Result<(), Failure> {
        if !self.is_sound() || self.is_clock_behind() {
            return Ok(());
        }
        let waiting: Vec<(GrantId, bool)> = self
            .got
            .iter()
            .filter(|(_, got)| got.row.state == GotState::Offered && got.accept.is_some())
            .filter(|(_, got)| self.now < got.open.opened.not_after_ms)
            .map(|(id, got)| (*id, got.row.adopt))
            .collect();
        waiting.into_iter().try_for_each(|(id, adopt)| self.accept(id, adopt))
    }

    /// Grants this party gave that its recovery ended and that would still count otherwise.
    pub fn ended_by_recovery(&self) -> Vec<Value> {
        self.recovered_from().into_iter().map(|id| self.view_given(id)).collect()
    }

    /// Gives all of them again: same reader, scope, purpose and end. Gives the new grants.
    pub fn give_again(&mut self) -> Result<Vec<Value>, Failure> {
        let mut views = Vec::new();
        for id in self.recovered_from() {
            views.extend(self.regrant(id)?);
        }
        self.commit()?;
        Ok(views)
    }
}
