//! After a recovery: grants given again, and the openings of those whose holder has lost everything.

use super::super::rows::{GivenRow, GotState};
use super::super::{Engine, peers::Duty};
use super::pending::BEREFT;
use crate::failure::Failure;
use karte_protocol::encoding;
use karte_protocol::grant::{OPENING_BYTES_MAX, Opening};
use karte_protocol::id::{EntryId, GrantId, PartyId};
use karte_protocol::keys::Recipient;
use karte_protocol::limits::MESSAGE_BYTES_MAX;
use karte_protocol::message::{Bytes, Response};
use karte_protocol::seal;
use serde_json::Value;

/// Bytes of openings in one answer: the rest of a MiB is for the envelope.
const OPENINGS_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;

impl Engine {
    /// Grants this party gave that its recovery ended and that would still count otherwise.
    pub fn ended_by_recovery(&self) -> Vec<Value> {
        self.recovered_from().into_iter().map(|id| self.view_given(id)).collect()
    }

    /// Gives all of them again: same reader, scope, purpose and end. Gives the new grants.
    pub fn give_again(&mut self) -> Result<Vec<Value>, Failure> {
        let views = self.give_chosen_again(&[], true)?;
        self.commit()?;
        Ok(views)
    }

    /// Gives chosen grants again, or all; without a choice tells which there are.
    pub(in crate::engine) fn give_chosen_again(
        &mut self,
        chosen: &[String],
        all: bool,
    ) -> Result<Vec<Value>, Failure> {
        if !all && chosen.is_empty() {
            return Ok(self.ended_by_recovery());
        }
        self.require_clock()?;
        self.require_sound()?;
        let ended = self.recovered_from();
        let wanted: Vec<GrantId> = match all {
            true => ended,
            false => {
                let find = |text: &String| {
                    super::super::find_id("grant", text, ended.iter().map(|id| (id.to_hex(), *id)))
                };
                chosen.iter().map(find).collect::<Result<_, _>>()?
            }
        };
        let mut views = Vec::new();
        for id in wanted {
            // Two that say the same are one permission: the first that is given again stands for both.
            if self.recovered_from().contains(&id) {
                views.extend(self.regrant(id)?);
            }
        }
        Ok(views)
    }

    // --- openings that were lost

    pub(in crate::engine) fn openings_duty(&self, party: PartyId) -> Option<Duty> {
        let asks = self.recovering.bereft && !self.recovering.asked.contains(&party);
        asks.then_some(Duty::Openings)
    }

    /// What is asked next of this contact.
    pub(in crate::engine) fn openings_after(&self, party: PartyId) -> Option<GrantId> {
        self.recovering.openings_after.get(&party).copied()
    }

    /// The openings of a holder's grants to this party, for its live devices: it has lost its own. Of those that its
    /// recovery ended alone: what was revoked or ran out is nobody's to bring back.
    pub(in crate::engine) fn hand_openings_back(
        &self,
        to: PartyId,
        after: Option<GrantId>,
    ) -> Result<Response, Failure> {
        let Some(holder) = self.logs.get(&to).filter(|held| !held.state.disputed) else {
            return Ok(Response::Denied);
        };
        let recipients: Vec<Recipient> =
            holder.state.recipients().into_iter().filter(|recipient| recipient.to_age().is_ok()).collect();
        let revoked = holder.log.ever_revoked();
        let theirs = self.got.iter().filter(|(id, got)| {
            got.row.holder == to
                && got.row.state != GotState::Declined
                && after.is_none_or(|after| **id > after)
                && self.now < got.open.opened.not_after_ms
                && !revoked.contains(id)
        });
        let (mut openings, mut bytes, mut more) = (Vec::new(), 0, false);
        for (_, got) in theirs {
            let plain = encoding::encode(&got.row.opening)?;
            let Ok(sealed) = seal::seal_to(&plain, &recipients) else { break };
            bytes += sealed.len() + 16;
            if bytes > OPENINGS_BYTES_MAX {
                more = true;
                break;
            }
            openings.push(Bytes::from(sealed));
        }
        Ok(Response::Openings { openings, more })
    }

    /// Openings that a reader handed back. Each proves itself: by the own device's entry, and that entry's commitment.
    pub(in crate::engine) fn take_openings(
        &mut self,
        from: PartyId,
        sealed: &[Bytes],
        more: bool,
    ) -> Result<(), Failure> {
        let before = self.openings_after(from);
        let mut taken: u64 = 0;
        for bytes in sealed {
            taken += u64::from(self.take_opening(from, bytes)?);
        }
        // Whoever says that there is more and shows no progress is not asked for ever.
        if !more || self.openings_after(from) <= before {
            self.recovering.asked.insert(from);
        }
        if taken > 0 {
            self.refresh(self.me.party);
            let name = self.name_of(from);
            self.notice(format!(
                "{name} handed back {}: `karte recovery grants` lists them",
                super::super::standing::counted(taken, "grant you had given", "grants you had given")
            ));
        }
        Ok(())
    }

    fn take_opening(&mut self, from: PartyId, sealed: &[u8]) -> Result<bool, Failure> {
        let opened = seal::open_with(sealed, &[&self.keys.sealing], OPENING_BYTES_MAX).ok();
        let opening = opened.and_then(|plain| encoding::decode::<Opening>(&plain, OPENING_BYTES_MAX).ok());
        let Some((opening, open)) =
            opening.and_then(|opening| Some((opening.clone(), opening.verify().ok()?)))
        else {
            return Ok(false);
        };
        let id = open.id();
        let is_ours = open.holder() == Some(self.me.party) && open.reader() == from && open.scope.is_some();
        let is_old = open.entry.by().r#gen < self.mine().state.generation;
        if is_ours {
            self.recovering.openings_after.insert(from, id);
        }
        if !is_ours || !is_old || self.given.contains_key(&id) {
            return Ok(false);
        }
        let at_ms = open.entry.at_ms;
        self.take_entry(self.me.party, open.entry.clone())?;
        // An entry that no device of this party signed is not in the log now.
        if !self.mine().log.holds(&EntryId::from(open.entry.id())) {
            return Ok(false);
        }
        self.take_given_back(GivenRow {
            opening,
            exclude: vec![],
            delivered: true,
            accept: None,
            segments: 0,
            last: None,
            handed_back: true,
            at_ms,
        })?;
        Ok(true)
    }

    pub(super) fn load_bereft(&self) -> Result<bool, Failure> {
        use super::super::rows::{META, TOP};
        Ok(self.row::<bool>(META, TOP, BEREFT)?.unwrap_or_default())
    }
}
