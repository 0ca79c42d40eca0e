//! The devices of the own party: who they are, how they end, and whether this one has heard the others lately.
//!
//! | file | concern |
//! |---|---|
//! | `join` | inviting a device, and what the new one keeps |
//! | `feed` | what there is to tell the others, numbered |
//! | `items` | things told: made here, taken there |
//! | `records` | own records that another device has |
//! | `meeting` | greeting an own device, the own log, the last word to a removed one |
//!
//! For: SPEC section 5 in the engine, and the own side of rule 7. Not for: what entries mean; that is
//! `karte_protocol::identity`.

mod feed;
mod items;
mod join;
mod meeting;
mod records;

pub(super) use feed::Place;
pub use join::{Joining, keep_joined};

use super::rows::{DEVICE_HEARD, DEVICES, META, TOP};
use super::select::time_text;
use super::{Engine, find_id};
use crate::failure::Failure;
use karte_protocol::entry::Act;
use karte_protocol::id::{DeviceId, RecordId};
use karte_protocol::keys::{Recipient, SealingKey};
use karte_protocol::shelf::Handed;
use karte_protocol::time::{MINUTE_MS, UnixMs};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// When this device last held all that another of its party holds; a row of [`META`].
const SYNCED: &[u8] = b"synced";
/// Whom the library is sealed to beside the live devices; a row of [`META`].
const RECOVERY: &[u8] = b"library recovery";
/// How old the kept time of a sync may be before a newer one replaces it, in milliseconds. 10 minutes: what a power
/// cut may take from the offline limit, for one row in that time.
const KEEP_SYNCED_EVERY_MS: i64 = 10 * MINUTE_MS;

/// What this engine knows of the other devices of its party.
#[derive(Default)]
pub(super) struct Own {
    feed: feed::Feed,
    /// Own records that another device's shelf names and this device lacks.
    missing: BTreeMap<RecordId, Handed>,
    /// Those of them that a connected device did not have.
    absent: BTreeMap<DeviceId, BTreeSet<RecordId>>,
    /// Segments of other devices that a third is not told of before their records are here.
    untold: BTreeSet<Place>,
    synced_ms: Option<UnixMs>,
    synced_kept_ms: Option<UnixMs>,
    /// Library keys that the published statement wraps, oldest first.
    library: Vec<SealingKey>,
}

impl Engine {
    pub(super) fn load_own(&mut self) -> Result<(), Failure> {
        self.own.synced_ms = self.row(META, TOP, SYNCED)?;
        self.own.synced_kept_ms = self.own.synced_ms;
        self.load_feed()?;
        self.load_missing()?;
        self.load_library()
    }

    /// Live devices of the own party beside this one.
    pub(super) fn other_devices(&self) -> Vec<DeviceId> {
        let this = self.device();
        self.mine().state.devices.keys().filter(|device| **device != this).copied().collect()
    }

    pub(super) fn is_own_device(&self, device: &DeviceId) -> bool {
        *device != self.device() && self.mine().state.has_device(device)
    }

    // --- rule 7, the holder's own side

    /// When this device last held all that the party had said: now if it is the only one; else when another device
    /// was last heard, or last gave all it holds.
    pub(super) fn own_heard_ms(&self) -> Option<UnixMs> {
        if self.other_devices().is_empty() {
            return Some(self.now);
        }
        let told =
            self.words_of(self.me.party).into_iter().rfind(|status| status.by().device != self.device());
        // What is dated ahead vouches for no more than now.
        told.map(|status| status.issued_ms).max(self.own.synced_ms).map(|heard_ms| heard_ms.min(self.now))
    }

    /// How long this device may go on vouching without its siblings, in milliseconds: the shortest offline limit of
    /// the grants that count. None: nobody relies on it.
    fn own_bound_ms(&self) -> Option<i64> {
        let live = self.given.iter().filter(|(id, given)| self.standing(**id, &given.open.opened).is_none());
        live.map(|(_, given)| given.open.opened.offline_ms).min()
    }

    /// Whether this device may say "these are all heads": not while it has been without its siblings for longer than
    /// a grant allows, for one of them may have revoked.
    pub(super) fn may_vouch(&self) -> bool {
        match (self.own_heard_ms(), self.own_bound_ms()) {
            // New in the party: it has not heard yet what the others said before.
            (None, _) => false,
            (Some(_), None) => true,
            (Some(heard_ms), Some(bound_ms)) => self.now <= heard_ms.saturating_add(bound_ms),
        }
    }

    pub(super) fn require_vouching(&self) -> Result<(), Failure> {
        if self.may_vouch() {
            return Ok(());
        }
        Err(Failure::refused("this device was without the party's other devices for longer than a grant allows, so it vouches for nothing until it has met one of them")
            .next("Start another of your devices, or `karte device remove` one that is lost. `karte device list` shows them."))
    }

    /// All that another own device holds is held here, as of now.
    pub(super) fn synced(&mut self, with: DeviceId) -> Result<(), Failure> {
        let vouched = self.may_vouch();
        self.own.synced_ms = Some(self.now);
        let stale = self.own.synced_kept_ms.is_none_or(|kept| kept + KEEP_SYNCED_EVERY_MS <= self.now);
        if stale || !vouched {
            self.own.synced_kept_ms = Some(self.now);
            let now = self.now;
            self.put(META, TOP, SYNCED, &now)?;
            self.put(DEVICES, with.as_bytes(), DEVICE_HEARD, &now)?;
        }
        if !vouched {
            self.owe_everybody_a_status();
        }
        Ok(())
    }

    // --- the own user

    pub(super) fn show_devices(&self) -> Result<Vec<Value>, Failure> {
        let state = &self.mine().state;
        let mut views = Vec::new();
        for device in self.mine().log.named_devices().iter().copied() {
            let this = device == self.device();
            let live = state.has_device(&device);
            let word = match () {
                () if state.forks.contains_key(&device) && live => "forked",
                () if live => "live",
                () => "removed",
            };
            let heard: Option<UnixMs> = self.row(DEVICES, device.as_bytes(), DEVICE_HEARD)?;
            let connected = self.peers.get(&device).is_some_and(|peer| peer.party == Some(self.me.party));
            views.push(json!({
                "device": device.to_hex(),
                "this": this,
                "state": word,
                "since": self.named_at(&device).map(time_text),
                "heard": if this { None } else { heard.map(time_text) },
                "connected": connected,
                "forked_at_seq": state.forks.get(&device),
                "void_from_seq": state.ends.get(&device),
            }));
        }
        Ok(views)
    }

    fn named_at(&self, device: &DeviceId) -> Option<UnixMs> {
        let log = &self.mine().log;
        log.get(&log.naming(device)?).map(|entry| entry.at_ms)
    }

    /// Own records that another device has and this one does not yet.
    pub(super) fn records_to_fetch(&self) -> usize {
        self.own.missing.len()
    }

    /// Ends a device of the party. What it granted beyond `last_valid_seq` is void for good.
    pub(super) fn remove_device(
        &mut self,
        text: &str,
        last_valid_seq: Option<u64>,
    ) -> Result<Vec<Value>, Failure> {
        self.require_sound()?;
        let state = &self.mine().state;
        let named = self.mine().log.named_devices();
        let device = find_id("device", text, named.iter().map(|device| (device.to_hex(), *device)))?;
        if device == self.device() {
            return Err(Failure::usage("this device cannot remove itself: nobody could go on from it")
                .next("Run `karte device remove` on another device of yours."));
        }
        if !state.has_device(&device) {
            return Err(Failure::usage(format!("device {} was removed before", device.short()))
                .next("`karte device list` shows which devices are live."));
        }
        let whole = state.complete.get(&device).copied().unwrap_or_default();
        // A device that has signed nothing has no last entry: 0 then, and what it signs as its first still counts.
        let last_valid_seq = last_valid_seq.unwrap_or_else(|| whole.saturating_sub(1));
        self.append(Act::RemoveDevice { device, last_valid_seq })?;
        self.own_log_changed()?;
        self.renew_library()?;
        self.accept_again_after(&device)?;
        let void = self.void_grants_of(&device);
        self.farewell(device, self.me.party);
        Ok(vec![json!({
            "removed": device.to_hex(),
            "last_valid_seq": last_valid_seq,
            "void_grants": void,
            "library": self.published_library()?.map(|library| library.n),
        })])
    }

    /// Grants given by a device that its end has made void, whether their openings are here or not.
    fn void_grants_of(&self, device: &DeviceId) -> Vec<String> {
        let held = self.mine();
        let entries = held.log.in_order().into_iter().filter(|entry| {
            let is_grant = matches!(entry.act, Act::Grant { .. });
            is_grant && entry.by().device == *device && held.state.is_void(device, entry.seq)
        });
        entries.map(|entry| entry.id().to_hex()).collect()
    }

    /// Acceptances of a device that ended serve nobody any more, and it knows their reading keys: yes again, from
    /// here, with fresh ones.
    fn accept_again_after(&mut self, device: &DeviceId) -> Result<(), Failure> {
        let due: Vec<_> = self
            .got
            .iter()
            .filter(|(_, got)| got.is_live())
            .filter(|(_, got)| got.accept.as_ref().is_some_and(|accept| accept.by().device == *device))
            .map(|(id, got)| (*id, got.row.adopt))
            .collect();
        due.into_iter().try_for_each(|(id, adopt)| self.accept_under_new_key(id, adopt))
    }

    /// Proof of every fork of the party that this device has seen and nobody has shown yet.
    pub(super) fn show_forks(&mut self) -> Result<(), Failure> {
        if !self.is_sound() {
            return Ok(());
        }
        for device in self.mine().state.forks.keys().copied().collect::<Vec<_>>() {
            let log = &self.mine().log;
            let shown = log
                .identity_entries()
                .iter()
                .any(|entry| matches!(&entry.act, Act::Fork { device: of, .. } if *of == device));
            let Some((one, other)) = log.forked_pair(&device).filter(|_| !shown) else { continue };
            let (one, other) = (one.bytes().to_vec(), other.bytes().to_vec());
            if let Err(failure) = self.append(Act::Fork { device, one, other }) {
                tracing::warn!(device = %device.short(), %failure, "a fork could not be shown");
                continue;
            }
            self.notice(format!(
                "device {} has signed two entries with one number: what it granted from there on is void",
                device.short()
            ));
        }
        Ok(())
    }

    // --- the library's keys

    /// Every library key that is known here: of the keystore, and of the published statement.
    pub(super) fn library_keys(&self) -> Vec<&SealingKey> {
        let mut keys: Vec<&SealingKey> = self.keys.library.iter().collect();
        let more = self.own.library.iter().filter(|key| {
            let same = |held: &&SealingKey| held.expose_seed() == key.expose_seed();
            !self.keys.library.iter().any(|held| same(&held))
        });
        keys.extend(more);
        keys
    }

    /// Whom the library is sealed to beside the live devices.
    pub(super) fn library_recovery(&self) -> Result<Vec<Recipient>, Failure> {
        let mut to: Vec<Recipient> = self.row(META, TOP, RECOVERY)?.unwrap_or_default();
        to.extend(self.keys.recovery.seed().map(|seed| seed.sealing_key().recipient()));
        to.extend(self.key_set()?.and_then(|set| set.words_to));
        to.sort();
        to.dedup();
        Ok(to)
    }
}
