//! Whether this device may sign: not from a copy of the folder that others have gone on from.
//!
//! For: SPEC rule 8. Two copies of one device that both sign fork its chain, and from the fork on its grants are
//! void. A copy notices at its next contact: contacts are asked for entries of ours that we lack. Not for: undoing
//! a fork; that is a recovery's ([`super::recover`]).

use super::rows::{META, TOP};
use super::{Effect, Engine};
use crate::command::Command;
use crate::failure::Failure;
use karte_protocol::entry::{Act, Entry};
use karte_protocol::id::{DeviceId, EntryId, PartyId};
use karte_protocol::signed::Verified;
use karte_protocol::time::UnixMs;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const ROW: &[u8] = b"standing";

/// Why nothing is signed. Kept, so that a restart does not forget it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Halt {
    /// The folder lies on another machine or file system than the one it was written on.
    Copied { since_ms: UnixMs },
    /// A contact holds entries that this device signed and this folder does not know.
    RolledBack { since_ms: UnixMs, from: PartyId, entries: u64 },
}

impl Engine {
    /// What is remembered of it, and whether the store has just seen that the folder is a copy.
    pub(super) fn load_standing(&mut self, copied: bool) -> Result<(), Failure> {
        self.halt = self.row(META, TOP, ROW)?;
        if copied && self.halt.is_none() {
            self.halt_with(Halt::Copied { since_ms: self.now })?;
        }
        Ok(())
    }

    fn halt_with(&mut self, halt: Halt) -> Result<(), Failure> {
        self.put(META, TOP, ROW, &halt)?;
        self.halt = Some(halt);
        // What runs under signatures of this device ends here.
        self.end_here();
        Ok(())
    }

    /// Whether this device may sign.
    pub(super) fn is_sound(&self) -> bool {
        let state = &self.mine().state;
        self.halt.is_none() && !state.disputed && state.has_device(&self.device())
    }

    /// A copy may say who it is, so that contacts can tell it what it lacks; a rolled back one says nothing more, and one
    /// that waits for its recovery is nobody yet.
    pub(super) fn may_greet(&self) -> bool {
        !matches!(self.halt, Some(Halt::RolledBack { .. })) && !self.waits_for_recovery()
    }

    pub(super) fn require_sound(&self) -> Result<(), Failure> {
        if self.is_sound() {
            return Ok(());
        }
        Err(match &self.halt {
            Some(Halt::Copied { .. }) => Failure::failed(
                "this folder was copied or moved: nothing is signed before a contact has shown that no other copy went on",
            )
            .next("`karte sync` with a contact settles it. If you moved it and no other copy runs: `karte store adopt-copy --i-moved-it`."),
            Some(Halt::RolledBack { from, entries, .. }) => Failure::failed(format!(
                "this folder is an older copy: {} holds {entries} that this device signed and this folder does not know, so nothing is signed here any more",
                self.name_of(*from),
                entries = counted(*entries, "entry", "entries"),
            ))
            .next("Own records can still be read. `karte backup create` here and `karte backup restore` into a new folder make a new device of it."),
            None if self.mine().state.disputed => super::recover::disputed(),
            None if self.waits_for_recovery() => {
                Failure::failed("this device waits for its recovery: it signs nothing before its party's keepers have approved")
                    .next("`karte recovery start` shows the request; `karte recovery finish` takes the approvals.")
            }
            None if self.is_replaced() => {
                Failure::failed("this party was recovered: another device speaks for it, and this one signs nothing any more")
                    .next("Work with the device that took its place; own records can still be read here. If it was not you who recovered: tell your contacts in person.")
            }
            None => Failure::failed("this device was ended by its party: another device removed it")
                .next("Work with the device that took its place; own records can still be read here."),
        })
    }

    /// Commands that put this device's name under something, as far as the command alone shows it.
    pub(super) fn signs(command: &Command) -> bool {
        match command {
            Command::GrantAdd(grant) => !grant.dry_run,
            Command::RequestApprove(approval) => !approval.dry_run,
            Command::GrantAccept { .. }
            | Command::GrantDecline { .. }
            | Command::GrantRevoke { .. }
            | Command::RequestAdd(_)
            | Command::RecoverySetup(_)
            | Command::StewardAdd { .. }
            | Command::StewardRemove { .. }
            | Command::DeviceInvite { .. }
            | Command::DeviceRemove { .. }
            | Command::RecordAdopt { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn show_standing(&self) -> &'static str {
        match &self.halt {
            None if self.is_sound() => "sound",
            None if self.mine().state.disputed => "disputed",
            None if self.waits_for_recovery() => "waits for its recovery",
            None if self.is_replaced() => "replaced by a recovery",
            None => "removed",
            Some(Halt::Copied { .. }) => "copied",
            Some(Halt::RolledBack { .. }) => "rolled back",
        }
    }

    /// It belongs to no generation yet: made by `karte recovery start`, or restored without a recovery key.
    fn waits_for_recovery(&self) -> bool {
        !self.mine().log.named_devices().contains(&self.device())
    }

    /// It belonged to an older generation.
    fn is_replaced(&self) -> bool {
        let mine = self.mine();
        let is_named = mine.log.identity_entries().into_iter().any(|entry| {
            entry.by().r#gen == mine.state.generation
                && match &entry.act {
                    Act::AddDevice(named) => named.device == self.device(),
                    Act::Recover(recover) => {
                        recover.terms.devices.iter().any(|named| named.device == self.device())
                    }
                    _ => false,
                }
        });
        mine.state.generation > 0 && !is_named
    }

    /// This device speaks for its party no more: what runs under its name ends.
    pub(super) fn end_here(&mut self) {
        for peer in self.peers.values_mut() {
            peer.serving.clear();
            peer.sessions.clear();
        }
        let cut: Vec<_> = std::mem::take(&mut self.streams).into_keys().collect();
        self.out.extend(cut.into_iter().map(|stream| Effect::Go(stream, false)));
    }

    /// The user's word that the folder was moved and nothing else runs from it.
    pub(super) fn adopt_copy(&mut self) -> Result<Vec<Value>, Failure> {
        match &self.halt {
            Some(Halt::Copied { .. }) => self.lift()?,
            Some(Halt::RolledBack { .. }) => self.require_sound()?,
            None => {}
        }
        Ok(vec![json!({ "standing": self.show_standing() })])
    }

    fn lift(&mut self) -> Result<(), Failure> {
        self.halt = None;
        self.store.settle()?;
        self.delete(META, TOP, ROW)?;
        for peer in self.peers.values_mut() {
            peer.greet_once_more();
        }
        self.publish_library()?;
        self.shelve_all()
    }

    /// What a contact holds of our own log beyond what we hold. Taken in whoever signed it; if it was this device,
    /// this folder is an older copy of it, and signs nothing more.
    pub(super) fn take_back(
        &mut self,
        peer: DeviceId,
        entries: Vec<Verified<Entry>>,
        more: bool,
    ) -> Result<bool, Failure> {
        let me = self.me.party;
        // Who was not greeted may give it too: an old device is greeted by nobody, and entries prove themselves.
        let known = self.peers.get(&peer).and_then(|state| state.party);
        let Some(from) = known.or_else(|| self.party_of(&peer)) else {
            return Ok(false);
        };
        let before = self.generation_of(me);
        let device = self.device();
        let (mut taken, mut own) = (Vec::new(), 0);
        for entry in entries {
            let unknown = !self.mine().log.holds(&EntryId::from(entry.id()));
            let by_us = entry.by().device == device;
            if unknown && self.take_entry(me, entry.clone())? {
                taken.push(entry);
                own += u64::from(by_us);
            }
        }
        if !taken.is_empty() {
            self.refresh(me);
            self.tell_of_recovery(me, before)?;
            self.latest.remove(&me);
            self.owe_everybody_a_status();
            if from != me {
                let name = self.name_of(from);
                let many = counted(taken.len() as u64, "entry", "entries");
                self.notice(format!("{many} newer than this copy came back from {name}"));
            }
            // Who follows the log hears of them from here as well: one device may be where another is not.
            taken.iter().for_each(|entry| self.push_entry(entry));
        }
        if own > 0 && !wrong!(SignsFromCopy) {
            self.roll_back(from, own)?;
        }
        if !taken.is_empty() {
            self.own_log_changed()?;
        }
        if own > 0 {
            return Ok(true);
        }
        if !more && from == me {
            self.synced(peer)?;
        }
        if !more && matches!(self.halt, Some(Halt::Copied { .. })) && self.settles(from) {
            self.lift()?;
            self.notice("no contact went on from another copy of this folder: it signs again");
        }
        Ok(!taken.is_empty())
    }

    fn roll_back(&mut self, from: PartyId, entries: u64) -> Result<(), Failure> {
        let before = match &self.halt {
            Some(Halt::RolledBack { entries, .. }) => *entries,
            _ => 0,
        };
        self.halt_with(Halt::RolledBack { since_ms: self.now, from, entries: before + entries })?;
        tracing::error!(entries, "this folder is an older copy of this device: it signs nothing more");
        self.notice("this folder is an older copy of this device: it signs nothing more");
        Ok(())
    }

    /// Whether this contact would know: a reader follows the whole log. Without any reader everybody knows as much.
    fn settles(&self, from: PartyId) -> bool {
        let has_readers =
            self.contacts.iter().any(|(party, contact)| contact.row.known && self.was_ever_reader(*party));
        from == self.me.party || self.was_ever_reader(from) || !has_readers
    }
}

pub(super) fn counted(many: u64, one: &str, more: &str) -> String {
    format!("{many} {}", if many == 1 { one } else { more })
}
