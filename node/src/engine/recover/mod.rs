//! Recovery: a new generation of a party, begun with keys that it committed to before (SPEC rule 6).
//!
//! | file | concern |
//! |---|---|
//! | `keys` | keys that contacts keep for this party, and that it keeps for them |
//! | `pending` | terms, approvals, and the one signed entry that they amount to |
//! | `approve` | a keeper's yes |
//! | `again` | grants given again, also those of which everything was lost |
//! | here | a recovery on rows that came from a backup; what everybody is told of one |

mod again;
mod approve;
mod keys;
mod pending;

pub(super) use pending::PENDING;
pub(crate) use pending::disputed;

use super::rows::{ENTRIES, GOT, GotRow, GotState, TOP};
use super::{Engine, decode_row};
use crate::failure::{Failure, Kind};
use crate::keystore::Keys;
use crate::store::{Batch, Store};
use karte_protocol::encoding;
use karte_protocol::entry::{Act, Device, Entry, Recover, RecoverTerms};
use karte_protocol::id::{EntryId, GrantId, PartyId};
use karte_protocol::identity::PartyLog;
use karte_protocol::keys::RecoverySeed;
use karte_protocol::signed::{By, Signed, Verified};
use karte_protocol::time::UnixMs;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// What the engine remembers of recoveries between two steps.
#[derive(Default)]
pub(super) struct Recovering {
    /// Contacts that were asked for a key and have not answered.
    waits_for: BTreeSet<PartyId>,
    /// This device began with nothing: readers are asked for the openings of the own grants.
    bereft: bool,
    /// Readers who have handed back all they hold, since this node was started.
    asked: BTreeSet<PartyId>,
    /// The last opening that each has handed back.
    openings_after: BTreeMap<PartyId, GrantId>,
}

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
    let next_recovery: Vec<_> = keys.recovery.seed().iter().map(RecoverySeed::commitment).collect();
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
pub fn wait_for_acceptance(store: &mut dyn Store) -> Result<(), Failure> {
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
    /// What is remembered of it.
    pub(super) fn load_recovering(&mut self) -> Result<(), Failure> {
        self.recovering = Recovering {
            waits_for: self.load_keepers()?,
            bereft: self.load_bereft()?,
            ..Recovering::default()
        };
        Ok(())
    }

    /// After new entries of a party: its contacts are told when it was recovered, and its old devices, when it was them.
    pub(super) fn tell_of_recovery(
        &mut self,
        of: PartyId,
        before: Option<(u32, bool)>,
    ) -> Result<(), Failure> {
        let Some((generation, was_disputed)) = before else { return Ok(()) };
        let Some(state) = self.logs.get(&of).map(|held| &held.state) else { return Ok(()) };
        let (begun, disputed) = (state.generation > generation, state.disputed && !was_disputed);
        if of == self.me.party {
            if (begun || disputed) && !self.is_sound() {
                self.end_here();
                let failure = self.require_sound().err();
                self.notice(failure.map(|failure| failure.message).unwrap_or_default());
            }
            return Ok(());
        }
        if begun || disputed {
            self.forget_ended_devices(of);
        }
        if !self.is_known(of) {
            return Ok(());
        }
        let name = self.name_of(of);
        if disputed {
            self.notice(format!(
                "two recoveries of {name} compete: everything of it is denied. Ask {name} in person; a new card is a new party"
            ));
        } else if begun {
            // A device that begins with nothing has no offer of ours any more.
            self.offer_again(of)?;
            self.notice(match self.is_change_of_keys(of) {
                true => format!("{name} changed its recovery keys: what it had granted is over, and given again by itself"),
                false => format!(
                    "{name} was recovered: a new device speaks for it, and what it had granted is over. Ask {name} by another way whether it was them"
                ),
            });
        }
        Ok(())
    }

    /// Whether a device that spoke for the party before began its present generation.
    fn is_change_of_keys(&self, of: PartyId) -> bool {
        let Some(held) = self.logs.get(&of) else { return false };
        let entries = held.log.in_order();
        let begins = |entry: &&&Verified<Entry>| {
            entry.by().r#gen == held.state.generation && matches!(entry.act, Act::Recover(_))
        };
        let by = entries.iter().find(begins).map(|entry| entry.by().device);
        entries.iter().any(|entry| entry.by().r#gen < held.state.generation && Some(entry.by().device) == by)
    }

    /// Generation of a party and whether it is disputed, as last worked out.
    pub(super) fn generation_of(&self, of: PartyId) -> Option<(u32, bool)> {
        self.logs.get(&of).map(|held| (held.state.generation, held.state.disputed))
    }

    /// When a party's present generation began, if it was a recovery.
    pub(super) fn recovered_ms(&self, of: PartyId) -> Option<UnixMs> {
        self.began_ms(of)
    }

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
}
