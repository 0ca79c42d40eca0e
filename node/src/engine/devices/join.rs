//! A new device of the party: invited by one that is live, taken in over a connection, and what it keeps.
//!
//! The inviter's side is the engine's. The new device has no engine yet: [`Joining`] makes its request and checks the
//! answer, [`keep_joined`] writes what its engine will open with.

use super::super::rows::{AddressRow, DEVICE_ADDRESSES, DEVICES, ENTRIES, INVITES, InviteRow, META, TOP};
use super::super::{Engine, reload};
use super::RECOVERY;
use crate::failure::{Failure, Kind};
use crate::keystore::Keys;
use crate::store::{Batch, Store};
use karte_protocol::card;
use karte_protocol::consent::Library;
use karte_protocol::encoding;
use karte_protocol::entry::{Act, Device, Entry};
use karte_protocol::id::{DeviceId, Digest, EntryId, PartyId};
use karte_protocol::identity::PartyLog;
use karte_protocol::keys::{Recipient, SealingKey};
use karte_protocol::limits::{DEVICES_MAX, MESSAGE_BYTES_MAX};
use karte_protocol::message::{Bytes, Request, Response};
use karte_protocol::own::{self, Invite};
use karte_protocol::seal;
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::{DAY_MS, UnixMs};
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// Invitations that are open at one time. 16: a person sets up one device after another.
const INVITES_MAX: usize = 16;
/// Identity entries that a new device is given, in bytes. 512 KiB: half a message; it asks for the others when it is in.
const JOINED_IDENTITY_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;
/// Longest life of an invitation, in milliseconds. 7 days: a device that comes by mail.
const INVITE_MS_MAX: i64 = 7 * DAY_MS;
/// Largest text of all library identities, in bytes. 64 KiB: some 800 of them.
const LIBRARY_BYTES_MAX: usize = 64 * 1024;

impl Engine {
    // --- the inviter

    pub(in super::super) fn invite_device(&mut self, for_ms: i64) -> Result<Vec<Value>, Failure> {
        self.require_sound()?;
        self.require_clock()?;
        if !(1..=INVITE_MS_MAX).contains(&for_ms) {
            return Err(Failure::usage("expected an invitation for at most 7 days").next("Use --for 1h."));
        }
        if self.addresses.is_empty() {
            return Err(Failure::failed("this device listens nowhere, so no new device could reach it")
                .next("Start `karte run` first, and keep it running until the new device has joined."));
        }
        self.forget_old_invites()?;
        if self.rows::<InviteRow>(INVITES, TOP)?.len() >= INVITES_MAX {
            return Err(Failure::refused(format!("{INVITES_MAX} invitations are open already"))
                .next("Use one of them, or wait until they run out."));
        }
        let until_ms = self.now.saturating_add(for_ms);
        let secret = serde_bytes::ByteArray::new(*self.chance.seed());
        let invite = Invite { card: self.card()?.bytes().to_vec().into(), secret, until_ms };
        let text = invite.to_text()?;
        let row = InviteRow { secret: invite.secret, until_ms, used_by: None };
        self.put(INVITES, TOP, invite.name().as_bytes(), &row)?;
        Ok(vec![json!({
            "invite": text.as_str(),
            "until": super::super::select::time_text(until_ms),
            "party": self.me.party.to_string(),
        })])
    }

    fn forget_old_invites(&mut self) -> Result<(), Failure> {
        let now = self.now;
        let rows = self.rows::<InviteRow>(INVITES, TOP)?;
        let old = rows.into_iter().filter(|(_, row)| now >= row.until_ms).map(|(name, _)| name);
        old.collect::<Vec<_>>().into_iter().try_for_each(|name| self.delete(INVITES, TOP, &name))
    }

    /// Takes in a device that shows an invitation. Whatever is wrong is one Denied.
    pub(in super::super) fn join_asked(
        &mut self,
        peer: DeviceId,
        device: Device,
        proof: &Digest,
    ) -> Result<Response, Failure> {
        if !self.is_sound() || self.is_clock_behind() || device.device != peer {
            return Ok(Response::Denied);
        }
        let Some((name, row)) = self.invite_shown(&device, proof)? else {
            return Ok(Response::Denied);
        };
        let live = self.mine().state.has_device(&peer);
        let named_before = self.mine().log.named_devices().contains(&peer);
        let sealable = device.recipients.iter().all(|recipient| recipient.to_age().is_ok());
        let room = self.mine().state.devices.len() < DEVICES_MAX;
        if !live && (named_before || !sealable || !room || device.recipients.is_empty()) {
            return Ok(Response::Denied);
        }
        if !live {
            self.begin_feed()?;
            self.append(Act::AddDevice(device))?;
            self.own_log_changed()?;
            self.synced(peer)?;
            self.notice(format!("device {} has joined", peer.short()));
        }
        self.put(INVITES, TOP, &name, &InviteRow { used_by: Some(peer), ..row })?;
        self.publish_library()?;
        let Some(library) = self.published_library()? else {
            return Ok(Response::Denied);
        };
        let entries = card::identity_within(&self.mine().log, &peer, JOINED_IDENTITY_BYTES_MAX);
        let (library, recovery) = (library.bytes().to_vec().into(), self.library_recovery()?);
        Ok(Response::Joined { entries, library, recovery })
    }

    /// The open invitation that a proof is made with: unused, or used by the same device before.
    fn invite_shown(&self, device: &Device, proof: &Digest) -> Result<Option<(Vec<u8>, InviteRow)>, Failure> {
        let shown = self.rows::<InviteRow>(INVITES, TOP)?.into_iter().find(|(_, row)| {
            let open = self.now < row.until_ms && row.used_by.is_none_or(|by| by == device.device);
            open && own::proves(&row.secret, device, proof)
        });
        Ok(shown)
    }

    // --- the library

    /// Publishes the keys of the own shelf when they are new, or when not all live devices can open them.
    pub(in super::super) fn publish_library(&mut self) -> Result<(), Failure> {
        if !self.is_sound() {
            return Ok(());
        }
        let to = self.library_readers()?;
        let published = self.published_library()?;
        let all_wrapped: Option<Digest> = self.row(META, TOP, WRAPPED)?;
        let whole = all_wrapped == Some(self.wrapped_digest(&to)?);
        if published.is_some() && whole {
            return Ok(());
        }
        // A key that the statement does not wrap yet is newer: the first, or that of a device that has recovered.
        let own =
            self.keys.library.last().filter(|key| {
                !self.own.library.iter().any(|wrapped| wrapped.expose_seed() == key.expose_seed())
            });
        let newest = own.map(SealingKey::recipient).or(published.map(|library| library.recipient.clone()));
        let Some(newest) = newest else {
            return Err(Failure::new(Kind::Damaged, "the keystore holds no library key"));
        };
        self.wrap_library(newest, &to)
    }

    /// The same keys sealed anew, after those who may open them changed.
    pub(in super::super) fn reissue_library(&mut self) -> Result<(), Failure> {
        let published = self.published_library()?;
        let newest = published.map(|library| library.recipient.clone());
        let newest = newest.or_else(|| self.keys.library.last().map(SealingKey::recipient));
        let Some(newest) = newest else { return self.publish_library() };
        let to = self.library_readers()?;
        self.wrap_library(newest, &to)
    }

    /// A fresh library key: what is shelved from now on, a device that ended cannot open.
    pub(super) fn renew_library(&mut self) -> Result<(), Failure> {
        let fresh = SealingKey::generate(self.chance.as_mut());
        let newest = fresh.recipient();
        self.own.library.push(fresh);
        let to = self.library_readers()?;
        self.wrap_library(newest, &to)
    }

    fn library_readers(&self) -> Result<Vec<Recipient>, Failure> {
        let mut to = self.mine().state.recipients();
        to.extend(self.library_recovery()?);
        to.retain(|recipient| recipient.to_age().is_ok());
        to.sort();
        to.dedup();
        Ok(to)
    }

    /// What a statement says that wraps all keys known here to all of `to`.
    fn wrapped_digest(&self, to: &[Recipient]) -> Result<Digest, Failure> {
        let mut keys: Vec<Recipient> = self.library_keys().into_iter().map(SealingKey::recipient).collect();
        keys.sort();
        Ok(karte_protocol::id::digest(&encoding::encode(&(keys, to))?))
    }

    fn wrap_library(&mut self, newest: Recipient, to: &[Recipient]) -> Result<(), Failure> {
        let lines: Vec<_> = self.library_keys().into_iter().map(SealingKey::expose_age).collect();
        let text = Zeroizing::new(lines.iter().map(|line| line.as_str()).collect::<Vec<_>>().join("\n"));
        let wraps = seal::seal_to(text.as_bytes(), to)?;
        let n = self.published_library()?.map_or(0, |library| library.n + 1);
        let signed = Verified::sign(Library { n, recipient: newest, wraps }, self.by(), &self.keys.device)?;
        let wrapped = self.wrapped_digest(to)?;
        self.put_bytes(META, TOP, b"library", signed.bytes().to_vec())?;
        self.put(META, TOP, WRAPPED, &wrapped)?;
        // All of them are wrapped now: none is taken for a newer one at the next change.
        let all = self.library_keys();
        self.own.library = all.into_iter().map(|key| SealingKey::from_seed(key.expose_seed())).collect();
        self.touch(super::Place::Library)
    }

    /// The keys that the published statement wraps, opened with this device's own.
    pub(super) fn load_library(&mut self) -> Result<(), Failure> {
        self.own.library.clear();
        if let Some(library) = self.published_library()? {
            self.own.library = wrapped_keys(&library, &self.keys.sealing).unwrap_or_default();
        }
        Ok(())
    }

    /// A library statement of another own device. The highest number counts, then the smallest id; keys of either
    /// that the other lacks are published again together.
    pub(super) fn take_library(&mut self, bytes: &[u8], recovery: &[Recipient]) -> Result<(), Failure> {
        let Ok(library) = Signed::<Library>::from_bytes(bytes).verify() else { return Ok(()) };
        let ours = library.is_by(self.me.party) && self.mine().state.has_device(&library.by().device);
        let held = self.published_library()?;
        let same = held.as_ref().is_some_and(|held| held.id() == library.id());
        let Some(keys) = wrapped_keys(&library, &self.keys.sealing).filter(|_| ours && !same) else {
            return Ok(());
        };
        if !recovery.is_empty() && self.keys.recovery.seed().is_none() {
            self.put(META, TOP, RECOVERY, &recovery)?;
        }
        let wins = held.is_none_or(|held| {
            (library.n, std::cmp::Reverse(library.id())) > (held.n, std::cmp::Reverse(held.id()))
        });
        let known = |key: &SealingKey, held: &[&SealingKey]| {
            held.iter().any(|other| other.expose_seed() == key.expose_seed())
        };
        let held_keys = self.library_keys();
        let fresh: Vec<SealingKey> = keys
            .iter()
            .filter(|key| !known(key, &held_keys))
            .map(|key| SealingKey::from_seed(key.expose_seed()))
            .collect();
        let lacks = held_keys.iter().any(|held| !known(held, &keys.iter().collect::<Vec<_>>()));
        self.own.library.extend(fresh);
        if wins {
            self.put_bytes(META, TOP, b"library", library.bytes().to_vec())?;
            let wrapped = self.wrapped_digest(&self.library_readers()?)?;
            // Whether it wraps them to every live device, only its sender knows; who added a device sees to that.
            self.put(META, TOP, WRAPPED, &wrapped)?;
            self.touch(super::Place::Library)?;
        }
        if lacks || !wins {
            let newest = self.published_library()?.map(|library| library.recipient.clone());
            let to = self.library_readers()?;
            if let Some(newest) = newest.filter(|_| self.is_sound() && lacks) {
                self.wrap_library(newest, &to)?;
            }
        }
        Ok(())
    }
}

/// What the published library wraps, to whom: a row of [`META`], so that a change of devices is seen at a start.
const WRAPPED: &[u8] = b"library wrapped";

/// The library identities in a statement, if this device can open it.
fn wrapped_keys(library: &Library, sealing: &SealingKey) -> Option<Vec<SealingKey>> {
    let text = seal::open_with(&library.wraps, &[sealing], LIBRARY_BYTES_MAX).ok()?;
    let text = std::str::from_utf8(&text).ok()?;
    text.lines().map(|line| SealingKey::from_age(line).ok()).collect()
}

/// A new device on its way into a party.
pub struct Joining {
    invite: Invite,
    party: PartyId,
    inviter: DeviceId,
    addresses: Vec<String>,
    name: String,
    kind: String,
    genesis: Vec<u8>,
}

impl Joining {
    /// From the invitation's text. Nothing is asked yet.
    pub fn from_text(text: &str, now: UnixMs) -> Result<Self, Failure> {
        let (invite, introduced) = Invite::from_text(text).map_err(|error| {
            Failure::usage(error.to_string())
                .next("Give the whole text that `karte device invite` printed on your other device.")
        })?;
        if now >= invite.until_ms {
            return Err(run_out());
        }
        let card::Introduced { card, log } = introduced;
        let genesis = log.in_order().first().map(|entry| entry.bytes().to_vec()).unwrap_or_default();
        Ok(Self {
            invite,
            party: log.party(),
            inviter: card.by().device,
            addresses: card.addresses.clone(),
            name: card.name.clone(),
            kind: card.kind.clone(),
            genesis,
        })
    }

    /// The party that is joined.
    pub fn party(&self) -> PartyId {
        self.party
    }

    /// Whom to ask.
    pub fn inviter(&self) -> DeviceId {
        self.inviter
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// What the party calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `patient`, `clinic` or `partner`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// COSE bytes of the party's Genesis.
    pub fn genesis(&self) -> &[u8] {
        &self.genesis
    }

    /// What to send to the inviter.
    pub fn request(&self, keys: &Keys) -> Result<Vec<u8>, Failure> {
        let device = device_of(keys);
        let proof = own::join_proof(&self.invite.secret, &device)?.into();
        Ok(Request::Join { device, proof }.to_bytes()?)
    }
}

fn device_of(keys: &Keys) -> Device {
    Device { device: keys.device.device(), recipients: vec![keys.sealing.recipient()] }
}

fn run_out() -> Failure {
    Failure::refused("the invitation has run out")
        .next("`karte device invite` on your other device makes a new one.")
}

/// Checks the inviter's answer and keeps what this device begins with. Durable when this returns.
pub fn keep_joined(
    store: &mut dyn Store,
    joining: &Joining,
    keys: &Keys,
    answer: &[u8],
) -> Result<(), Failure> {
    let Ok(Response::Joined { entries, library, recovery }) = Response::from_bytes(answer) else {
        return Err(Failure::refused("the other device does not take this invitation: it was used by another device, or it has run out")
            .next("`karte device list` there shows who joined; `karte device invite` makes a new invitation."));
    };
    let wrong = |what: &str| Failure::failed(format!("the other device's answer is wrong: {what}"));
    let log = log_of(joining, &entries).ok_or_else(|| wrong("its entries do not make up the party"))?;
    let state = log.state();
    if !state.has_device(&keys.device.device()) || state.disputed {
        return Err(wrong("this device is not among the party's"));
    }
    let library = Signed::<Library>::from_bytes(library.to_vec()).verify()?;
    let by_us = library.is_by(joining.party) && state.has_device(&library.by().device);
    if !by_us || wrapped_keys(&library, &keys.sealing).is_none() {
        return Err(wrong("the library's keys do not open here"));
    }
    let mut batch = Batch::default();
    for entry in log.in_order() {
        let id = EntryId::from(entry.id());
        batch.put(ENTRIES, joining.party.as_bytes(), id.as_bytes(), entry.bytes().to_vec());
    }
    batch.put(META, TOP, b"library", library.bytes().to_vec());
    batch.put(META, TOP, RECOVERY, encoding::encode(&recovery)?);
    let at = AddressRow { addresses: joining.addresses.clone(), at_ms: 0 };
    batch.put(DEVICES, joining.inviter.as_bytes(), DEVICE_ADDRESSES, encoding::encode(&at)?);
    store.write(reload::urgent(batch))?;
    Ok(store.commit()?)
}

fn log_of(joining: &Joining, entries: &[Bytes]) -> Option<PartyLog> {
    let mut verified = entries.iter().map(|bytes| Signed::<Entry>::from_bytes(bytes.to_vec()).verify());
    let mut log = PartyLog::start(verified.next()?.ok()?).ok()?;
    for entry in verified {
        log.add(entry.ok()?).ok()?;
    }
    (log.party() == joining.party).then_some(log)
}
