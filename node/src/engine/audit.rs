//! The audit: who did what with the own records, told to the own user.
//!
//! Three sources, none of them a log of ours that we could write as we like: Releases and Receipts that readers
//! signed, and the own chain of entries. Refused requests stand beside them.

use super::Engine;
use super::rows::{META, RECEIPTS, REFUSALS, RELEASES, RefusalRow, TOP};
use super::select::time_text;
use crate::failure::Failure;
use karte_protocol::consent::{Deed, Receipt, Release};
use karte_protocol::entry::Act;
use karte_protocol::id::{DeviceId, GrantId, PartyId, RecordId};
use karte_protocol::message::{Bytes, Response};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::{SECOND_MS, UnixMs};
use serde_json::{Value, json};

/// Refusals that are kept; the oldest give way. 10,000: months of a broken client.
const REFUSALS_MAX: u64 = 10_000;

impl Engine {
    /// Reader and holder of a grant that this node gave or keeps.
    fn parties_of(&self, grant: &GrantId) -> Option<(PartyId, PartyId)> {
        let given = self.given.get(grant).map(|given| (given.open.reader(), self.me.party));
        given.or_else(|| self.parties_of_kept(grant))
    }

    /// A reader's receipts. Accepted also after a Revoke; each only if the grant's own reader signed it, and once. One that
    /// is wrong is passed over, so that it does not hold back the others.
    pub(super) fn take_receipts(&mut self, receipts: &[Bytes]) -> Result<Response, Failure> {
        for bytes in receipts {
            let Ok(receipt) = Signed::<Receipt>::from_bytes(bytes.to_vec()).verify() else { continue };
            let grant = receipt.grant;
            let Some((reader, holder)) = self.parties_of(&grant) else { continue };
            // By whom it comes does not matter: a reader may have left it with a steward.
            let is_the_readers = receipt.is_by(reader)
                && self.logs.get(&reader).is_some_and(|held| held.state.has_device(&receipt.by().device));
            let held = self.store.get(RECEIPTS, grant.as_bytes(), receipt.id().as_bytes())?.is_some();
            if !is_the_readers || held {
                continue;
            }
            if holder != self.me.party {
                if !self.may_owe(&holder) {
                    return Ok(Response::Denied);
                }
                self.owe(holder, receipt.id(), grant)?;
            } else if matches!(receipt.what, Deed::Deleted | Deed::Kept) {
                let name = self.name_of(reader);
                self.notice(format!(
                    "{name} signed that it {} what grant {} gave",
                    deed(receipt.what),
                    grant.short()
                ));
            }
            self.put_bytes(RECEIPTS, grant.as_bytes(), receipt.id().as_bytes(), receipt.bytes().to_vec())?;
            self.touch(super::devices::Place::Receipt { grant, id: receipt.id() })?;
        }
        Ok(Response::Done)
    }

    /// Keeps a refusal for the own user. The peer is told nothing of the reason.
    pub(super) fn refuse(
        &mut self,
        party: PartyId,
        grant: Option<GrantId>,
        reason: &str,
    ) -> Result<(), Failure> {
        let count: u64 = self.row(META, TOP, b"refusals")?.unwrap_or_default();
        let last = count.checked_sub(1).map(|last| (last % REFUSALS_MAX).to_be_bytes());
        let last: Option<RefusalRow> = match last {
            Some(item) => self.row(REFUSALS, TOP, &item)?,
            None => None,
        };
        // One a second and party: a broken client must not fill the disk.
        // A row of a clock that was ahead is no reason to write none for years.
        let just_now = |at_ms: UnixMs| (0..SECOND_MS).contains(&self.now.saturating_sub(at_ms));
        let again = last.is_some_and(|row| row.party == party && just_now(row.at_ms));
        if again {
            return Ok(());
        }
        // A reason may quote what the peer asked for.
        let reason: String = reason.chars().take(200).collect();
        let row = RefusalRow { at_ms: self.now, party, grant, reason: reason.clone() };
        self.put(REFUSALS, TOP, &(count % REFUSALS_MAX).to_be_bytes(), &row)?;
        self.put(META, TOP, b"refusals", &(count + 1))?;
        let name = self.name_of(party);
        self.notice(format!("refused {name}: {reason}"));
        Ok(())
    }

    pub(super) fn refuse_peer(
        &mut self,
        peer: DeviceId,
        grant: Option<GrantId>,
        reason: &str,
    ) -> Result<(), Failure> {
        match self.peers.get(&peer).and_then(|state| state.party) {
            Some(party) => self.refuse(party, grant, reason),
            None => Ok(()),
        }
    }

    pub(super) fn show_audit(&self) -> Result<Vec<Value>, Failure> {
        Ok(self.audit_lines()?.into_iter().map(|(_, _, line)| line).collect())
    }

    /// Every line with its time and its number among those of one time, in order.
    pub(super) fn audit_lines(&self) -> Result<Vec<(UnixMs, u64, Value)>, Failure> {
        let mut lines: Vec<(UnixMs, u64, Value)> = Vec::new();
        for (id, given) in &self.given {
            let purpose = &given.open.opened.purpose;
            lines.push((
                given.row.at_ms,
                0,
                self.line("granted", given.row.at_ms, given.open.reader(), "", None, Some(*id), purpose),
            ));
            for (_, bytes) in self.values(RELEASES, id.as_bytes())? {
                let release = Signed::<Release>::from_bytes(bytes).verify()?;
                let party = release.by().party.unwrap_or(given.open.reader());
                let (staff, purpose) = (&release.staff, &release.purpose);
                let mut line = self.line("released", release.at_ms, party, staff, None, Some(*id), purpose);
                if release.to != self.device()
                    && let Some(steward) = self.served_by(&release.to)
                {
                    note(&mut line, &format!("served by {steward}"));
                }
                lines.push((release.at_ms, 0, line));
            }
            self.receipt_lines(*id, &mut lines)?;
        }
        for id in self.got.keys() {
            self.receipt_lines(*id, &mut lines)?;
        }
        for entry in self.mine().log.in_order() {
            if let Act::Revoke { grant, reason } = &entry.act {
                let mut line = self.line("revoked", entry.at_ms, self.me.party, "", None, Some(*grant), "");
                note(&mut line, reason);
                lines.push((entry.at_ms, 0, line));
            }
        }
        for (_, row) in self.rows::<RefusalRow>(REFUSALS, TOP)? {
            let mut line = self.line("refused", row.at_ms, row.party, "", None, row.grant, "");
            note(&mut line, &row.reason);
            lines.push((row.at_ms, 0, line));
        }
        lines.sort_by_key(|(at, seq, _)| (*at, *seq));
        Ok(lines)
    }

    fn receipt_lines(&self, id: GrantId, lines: &mut Vec<(UnixMs, u64, Value)>) -> Result<(), Failure> {
        for (_, bytes) in self.values(RECEIPTS, id.as_bytes())? {
            let receipt: Verified<Receipt> = Signed::<Receipt>::from_bytes(bytes).verify()?;
            let party = receipt.by().party.unwrap_or(self.me.party);
            let records: Vec<Option<RecordId>> = match receipt.records.as_slice() {
                [] => vec![None],
                records => records.iter().copied().map(Some).collect(),
            };
            for record in records {
                let line = self.line(
                    deed(receipt.what),
                    receipt.at_ms,
                    party,
                    &receipt.staff,
                    record,
                    Some(id),
                    &receipt.purpose,
                );
                lines.push((receipt.at_ms, receipt.seq, line));
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the columns of one line, each used once")]
    fn line(
        &self,
        event: &str,
        at: UnixMs,
        party: PartyId,
        person: &str,
        record: Option<RecordId>,
        grant: Option<GrantId>,
        purpose: &str,
    ) -> Value {
        json!({
            "at": time_text(at),
            "event": event,
            "party": party.to_string(),
            "party_name": self.name_of(party),
            "person": person,
            "application": "karte",
            "record": record.map(|record| record.to_hex()),
            "grant": grant.map(|grant| grant.to_hex()),
            "purpose": purpose,
            "note": "",
        })
    }
}

fn note(line: &mut Value, text: &str) {
    if let Some(object) = line.as_object_mut() {
        object.insert("note".into(), json!(text));
    }
}

fn deed(what: Deed) -> &'static str {
    match what {
        Deed::Opened => "opened",
        Deed::Stopped => "stopped",
        Deed::Deleted => "deleted",
        Deed::Kept => "kept",
    }
}
