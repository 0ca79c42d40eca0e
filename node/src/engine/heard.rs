//! Statuses: what this device says of its own log, and what parties and their stewards were heard to say of theirs.
//!
//! For: leases (the newest word of anybody who speaks for a party) and offline limits (the newest of each of its
//! devices). Not for: what a Status must fulfil to count; that is in `karte_protocol::decide`.

use super::Engine;
use super::rows::{HEARD, TOP};
use crate::failure::Failure;
use karte_protocol::consent::Status;
use karte_protocol::decide;
use karte_protocol::entry::Entry;
use karte_protocol::id::{DeviceId, PartyId};
use karte_protocol::identity::{Head, State};
use karte_protocol::limits::{CLOCK_SKEW_MS_MAX, DEVICES_MAX, LEASE_MS_MAX};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::{MINUTE_MS, UnixMs};
use std::collections::BTreeMap;

/// How old a kept Status may be before a newer one that names the same ends replaces it, in milliseconds. 10 minutes:
/// what a power cut may take from a reader's offline limit, for one row in that time.
const KEEP_HEARD_EVERY_MS: i64 = 10 * MINUTE_MS;

/// A word of one device of a party.
pub(super) struct Heard {
    status: Verified<Status>,
    /// When the one that is kept in the store was issued.
    kept_ms: UnixMs,
    /// What that one names: one that names more counts for more grants.
    kept_heads: Vec<Head>,
}

/// The newest word of each device that was heard, by party: one device may know of a grant that another has not met.
#[derive(Default)]
pub(super) struct Words(BTreeMap<PartyId, BTreeMap<DeviceId, Heard>>);

impl Words {
    fn of(&self, party: PartyId) -> impl Iterator<Item = &Verified<Status>> {
        self.0.get(&party).into_iter().flatten().map(|(_, heard)| &heard.status)
    }

    fn by(&self, party: PartyId, device: &DeviceId) -> Option<&Heard> {
        self.0.get(&party)?.get(device)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes over what another held; of one device the newer word.
    pub(super) fn take_over(&mut self, other: Self) {
        for (party, words) in other.0 {
            let here = self.0.entry(party).or_default();
            for (device, heard) in words {
                let is_newer =
                    here.get(&device).is_none_or(|held| held.status.issued_ms < heard.status.issued_ms);
                if is_newer {
                    here.insert(device, heard);
                }
            }
        }
    }
}

impl Engine {
    pub(super) fn load_heard(&mut self) -> Result<(), Failure> {
        for (_, bytes) in self.values(HEARD, TOP)? {
            let Ok(status) = Signed::<Status>::from_bytes(bytes).verify() else { continue };
            self.take_status(status.of, status)?;
        }
        Ok(())
    }

    /// "These are all my heads, as of now." Made anew when a head changed or a quarter of the lease has gone.
    pub(super) fn own_status(&mut self) -> Result<Verified<Status>, Failure> {
        self.require_sound()?;
        self.require_vouching()?;
        let state = &self.mine().state;
        let heads = heads_to_tell(state);
        if let Some(status) = self.latest.get(&self.me.party)
            && status.heads == heads
            && status.identity == state.identity
            && (0..LEASE_MS_MAX / 4).contains(&(self.now - status.issued_ms))
        {
            return Ok(status.clone());
        }
        let status = Status {
            of: self.me.party,
            r#gen: state.generation,
            heads,
            identity: state.identity,
            issued_ms: self.now,
            lease_ms: LEASE_MS_MAX,
        };
        let signed = Verified::sign(status, self.by(), &self.keys.device)?;
        self.latest.insert(self.me.party, signed.clone());
        Ok(signed)
    }

    /// Takes a Status of a party. True if all its heads are held; if not, the log should be asked for.
    pub(super) fn take_status(&mut self, of: PartyId, status: Verified<Status>) -> Result<bool, Failure> {
        let Some(held) = self.logs.get(&of) else { return Ok(true) };
        let from_the_future = status.issued_ms > self.now.saturating_add(CLOCK_SKEW_MS_MAX);
        if status.of != of || (from_the_future && !wrong!(PostDatedKept)) {
            return Ok(true);
        }
        let device = status.by().device;
        let newer = |old: Option<&Verified<Status>>| old.is_none_or(|old| old.issued_ms <= status.issued_ms);
        let whole = decide::holds_all(&status, &held.log, &held.state);
        let heard = decide::passes(&status, &held.log, &held.state, self.now)
            && decide::is_device_signed(&status, &held.state)
            && newer(self.heard.by(of, &device).map(|heard| &heard.status));
        // What an own device says counts as heard; what this one says itself is never taken from others.
        let own = of == self.me.party;
        let latest = !own && decide::speaks_for(&status, &held.state) && newer(self.latest.get(&of));
        if own && (device == self.device() || !heard) {
            return Ok(whole);
        }
        if own {
            self.heard_own(device, status.issued_ms)?;
        }
        if heard {
            self.keep_heard(of, &status)?;
        }
        if latest {
            self.latest.insert(of, status);
        }
        Ok(whole)
    }

    /// Notes a word, and keeps it in the store now and then.
    fn keep_heard(&mut self, of: PartyId, status: &Verified<Status>) -> Result<(), Failure> {
        let device = status.by().device;
        let kept = self.heard.by(of, &device).map(|heard| (heard.kept_ms, heard.kept_heads.clone()));
        let (mut kept_ms, mut kept_heads) = kept.unwrap_or_default();
        let is_old = status.issued_ms >= kept_ms.saturating_add(KEEP_HEARD_EVERY_MS);
        if is_old || kept_heads != status.heads {
            (kept_ms, kept_heads) = (status.issued_ms, status.heads.clone());
            let name = [of.as_bytes().as_slice(), device.as_bytes().as_slice()].concat();
            self.put_bytes(HEARD, TOP, &name, status.bytes().to_vec())?;
        }
        self.forget_ended_words(of)?;
        let heard = Heard { status: status.clone(), kept_ms, kept_heads };
        self.heard.0.entry(of).or_default().insert(device, heard);
        Ok(())
    }

    /// A party has as many words here as it has live devices.
    fn forget_ended_words(&mut self, of: PartyId) -> Result<(), Failure> {
        let (Some(words), Some(held)) = (self.heard.0.get_mut(&of), self.logs.get(&of)) else {
            return Ok(());
        };
        let ended: Vec<DeviceId> =
            words.keys().filter(|device| !held.state.has_device(device)).copied().collect();
        words.retain(|device, _| !ended.contains(device));
        for device in ended {
            let name = [of.as_bytes().as_slice(), device.as_bytes().as_slice()].concat();
            self.delete(HEARD, TOP, &name)?;
        }
        Ok(())
    }

    /// After new entries a Status that was short of a head may pass.
    pub(super) fn recheck_status(&mut self, of: PartyId) -> Result<(), Failure> {
        match self.latest.get(&of).cloned() {
            Some(status) => self.take_status(of, status).map(drop),
            None => Ok(()),
        }
    }

    /// The words of a party that count now, oldest first.
    pub(super) fn words_of(&self, of: PartyId) -> Vec<&Verified<Status>> {
        let Some(held) = self.logs.get(&of) else { return vec![] };
        let counts = |status: &&Verified<Status>| {
            decide::passes(status, &held.log, &held.state, self.now)
                && decide::is_device_signed(status, &held.state)
        };
        let mut words: Vec<_> = self.heard.of(of).filter(counts).collect();
        words.sort_by_key(|status| status.issued_ms);
        words
    }

    /// When a device of the party last said that nothing has changed.
    pub fn heard_ms(&self, of: PartyId) -> Option<UnixMs> {
        if of == self.me.party {
            return self.own_heard_ms();
        }
        self.words_of(of).last().map(|status| status.issued_ms)
    }

    /// When a device that knows of a grant last said so: one that has not met the device which gave it cannot say that
    /// it was not revoked.
    pub(super) fn heard_of_ms(&self, of: PartyId, grant: &Verified<Entry>) -> Option<UnixMs> {
        if of == self.me.party {
            return self.own_heard_ms();
        }
        let words = self.words_of(of);
        words.into_iter().rev().find(|status| decide::knows(status, grant)).map(|status| status.issued_ms)
    }
}

/// The ends that a Status names: all of them, and of more than it may name those of live devices first.
fn heads_to_tell(state: &State) -> Vec<Head> {
    let mut heads = state.heads.clone();
    if heads.len() > DEVICES_MAX {
        heads.sort_by_key(|head| !state.has_device(&head.device));
        heads.truncate(DEVICES_MAX);
        heads.sort_by_key(|head| head.device);
    }
    heads
}
