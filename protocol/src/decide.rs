//! The decision: may this record leave now, may this reader open it now.
//!
//! For: SPEC rules 7 and 10 as two pure functions over what is held, each with a [`Denial`] that names the
//! grant and the clause. The denial is for the holder's own user and log; a stranger gets one `Denied`
//! whatever the reason (silence).

use crate::consent::{Accept, Release, Status};
use crate::entry::Entry;
use crate::grant::{Opened, Reader};
use crate::id::{DeviceId, GrantId};
use crate::identity::{PartyLog, State};
use crate::limits::{CLOCK_SKEW_MS_MAX, SESSION_MS_MAX};
use crate::signed::Verified;
use crate::time::UnixMs;

/// A no, with its reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("grant {}: {clause}", grant.short())]
pub struct Denial {
    /// The grant that was asked about.
    pub grant: GrantId,
    /// The clause that is not met.
    pub clause: Clause,
}

/// The clause of rules 7 and 10 that is not met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Clause {
    /// Nothing of that name is held, or its chain is incomplete, or its device was removed or forked.
    #[error("it does not count: it is unknown here, or its log is incomplete, or its device was removed")]
    NotCounting,
    /// The holder's identity is disputed.
    #[error("the holder's identity is disputed")]
    Disputed,
    /// The holder ended it.
    #[error("it was revoked")]
    Revoked,
    /// Before its time.
    #[error("it begins later (at {not_before_ms} ms, now {now_ms} ms)")]
    NotYet {
        /// Its beginning.
        not_before_ms: UnixMs,
        /// Now.
        now_ms: UnixMs,
    },
    /// After its time.
    #[error("it has expired")]
    Expired,
    /// A condition that this version does not know.
    #[error("it carries the condition {0:?}, which this version does not know")]
    Condition(String),
    /// Asked for something else.
    #[error("it is for the purpose {granted}, and {asked} was asked")]
    Purpose {
        /// The purpose granted.
        granted: String,
        /// The purpose asked.
        asked: String,
    },
    /// No acceptance, or one of a device that is not the reader's.
    #[error("it was not accepted by a live device of its reader")]
    NotAccepted,
    /// The request is not the connection's, not for this device, or too old.
    #[error("the request is not a fresh one of the connected device to this device")]
    Request,
    /// The reader's own state is not fresh.
    #[error("the reader's status is missing, too old, or of another identity than the one held")]
    ReaderStatus,
    /// The holder's state is not fresh enough to serve.
    #[error("the holder's status is missing or its lease has run out")]
    HolderStatus,
    /// Nobody has heard from the holder for longer than it allowed.
    #[error("the holder was last heard longer ago than its offline limit allows")]
    Offline,
    /// The record was never handed over under it, or was taken back.
    #[error("the record is not on its shelf")]
    NotShelved,
    /// The deciding device's clock cannot be believed (rule 9).
    #[error("the clock of this machine is behind the time this node has already seen")]
    Clock,
    /// The reader destroyed its key.
    #[error("its reading key is gone")]
    KeyGone,
}

/// Everything rule 7 looks at.
#[derive(Clone, Copy)]
pub struct Serving<'a> {
    /// Now, by this device.
    pub now_ms: UnixMs,
    /// The grant asked about.
    pub grant: GrantId,
    /// What it says, if an opening is held.
    pub opened: Option<&'a Opened>,
    /// The holder's log and what it amounts to.
    pub holder: (&'a PartyLog, &'a State),
    /// A Status of the holder, as held.
    pub holder_status: Option<&'a Verified<Status>>,
    /// When the newest passing Status signed by a device of the holder was issued; `now` for the holder's only device.
    pub holder_heard_ms: Option<UnixMs>,
    /// The reader's log and what it amounts to.
    pub reader: (&'a PartyLog, &'a State),
    /// The reader's Status, as held.
    pub reader_status: Option<&'a Verified<Status>>,
    /// The acceptance that counts.
    pub accept: Option<&'a Verified<Accept>>,
    /// The request.
    pub release: &'a Verified<Release>,
    /// The device at the other end of the connection.
    pub peer: DeviceId,
    /// This device.
    pub this: DeviceId,
}

/// Rule 7: whether the holder (or its steward) may serve under this grant now. That the nonce is new, and that
/// the record is on the shelf, the caller checks.
pub fn serve(question: &Serving<'_>) -> Result<(), Denial> {
    clause_of_serving(question).map_err(|clause| Denial { grant: question.grant, clause })
}

fn clause_of_serving(question: &Serving<'_>) -> Result<(), Clause> {
    let Serving { now_ms, grant, release, .. } = *question;
    let opened = question.opened.ok_or(Clause::NotCounting)?;
    let (_, holder) = question.holder;
    let Reader::Party(named) = opened.reader;
    if named != question.reader.1.party {
        return Err(Clause::NotCounting);
    }
    standing(grant, opened, holder, now_ms)?;
    if release.purpose != opened.purpose && !wrong!(PurposeIgnored) {
        return Err(Clause::Purpose { granted: opened.purpose.clone(), asked: release.purpose.clone() });
    }
    accepted(question)?;
    requested(question)?;
    let (reader_log, reader) = question.reader;
    let reader_live = question.reader_status.is_some_and(|status| {
        is_live(status, reader, now_ms) && is_whole_identity(status, reader_log, reader)
    });
    if !reader_live {
        return Err(Clause::ReaderStatus);
    }
    let (holder_log, _) = question.holder;
    let holder_live = question
        .holder_status
        .is_some_and(|status| is_live(status, holder, now_ms) && passes(status, holder_log, holder, now_ms));
    if !holder_live {
        return Err(Clause::HolderStatus);
    }
    heard_recently(opened, question.holder_heard_ms, now_ms)
}

/// Everything rule 10 looks at.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Now, by this device.
    pub now_ms: UnixMs,
    /// The grant the record came under.
    pub grant: GrantId,
    /// What it says.
    pub opened: &'a Opened,
    /// What the holder's log amounts to, by all that is held.
    pub holder: &'a State,
    /// When the newest passing Status signed by a device of the holder that [`knows`] the grant was issued.
    pub holder_heard_ms: Option<UnixMs>,
}

/// Rule 10: whether the reader's own node may open a record under this grant now.
pub fn read(question: &Reading<'_>) -> Result<(), Denial> {
    standing(question.grant, question.opened, question.holder, question.now_ms)
        .and_then(|()| heard_recently(question.opened, question.holder_heard_ms, question.now_ms))
        .map_err(|clause| Denial { grant: question.grant, clause })
}

/// Whether a Status may be believed at all: of this party and generation, by a live device or a named steward,
/// not from the future, all its heads held.
pub fn passes(status: &Verified<Status>, log: &PartyLog, state: &State, now_ms: UnixMs) -> bool {
    status.of == state.party
        && status.r#gen == state.generation
        && !state.disputed
        && speaks_for(status, state)
        && status.issued_ms <= now_ms.saturating_add(CLOCK_SKEW_MS_MAX)
        && holds_all(status, log, state)
}

/// Whether every head a Status names is held, and everything below it: a Revoke may hide in a gap.
pub fn holds_all(status: &Status, log: &PartyLog, state: &State) -> bool {
    let whole = |device: &DeviceId, seq: u64| state.complete.get(device).is_some_and(|until| seq < *until);
    wrong!(HeadsNotHeld)
        || status.heads.iter().all(|head| log.holds(&head.id) && whole(&head.device, head.seq))
}

/// Whether a Status that passes was also signed by a device of the party itself.
pub fn is_device_signed(status: &Verified<Status>, state: &State) -> bool {
    let device = &status.by().device;
    status.is_by(state.party) && (state.has_device(device) || wrong!(RemovedDeviceStatus))
        || wrong!(StewardsWordHeard) && state.has_steward_device(device)
}

/// Whether who signed a Status that passes held the entry then: an end is named that is it, or lies behind it. Who did not
/// know a grant cannot have heard of its revocation.
pub fn knows(status: &Status, entry: &Verified<Entry>) -> bool {
    let device = entry.by().device;
    wrong!(WordOfWhoDoesNotKnow)
        || status.heads.iter().any(|head| head.device == device && head.seq >= entry.seq)
}

/// Whether a Status is signed by a live device of the party or of its steward.
pub fn speaks_for(status: &Verified<Status>, state: &State) -> bool {
    is_device_signed(status, state) || state.has_steward_device(&status.by().device)
}

fn is_live(status: &Verified<Status>, state: &State, now_ms: UnixMs) -> bool {
    speaks_for(status, state)
        && status.issued_ms <= now_ms.saturating_add(CLOCK_SKEW_MS_MAX)
        && (wrong!(LeaseIgnored) || now_ms <= status.issued_ms.saturating_add(status.lease_ms))
}

/// Of a reader only the identity matters; its grants are none of the holder's business.
fn is_whole_identity(status: &Verified<Status>, log: &PartyLog, state: &State) -> bool {
    status.of == log.party() && status.identity == state.identity && !state.disputed
}

/// The part of both rules that is about the grant itself.
fn standing(grant: GrantId, opened: &Opened, holder: &State, now_ms: UnixMs) -> Result<(), Clause> {
    if holder.disputed {
        return Err(Clause::Disputed);
    }
    if holder.revoked.contains(&grant) {
        return Err(Clause::Revoked);
    }
    if !holder.grants.contains_key(&grant) {
        return Err(Clause::NotCounting);
    }
    if now_ms < opened.not_before_ms {
        return Err(Clause::NotYet { not_before_ms: opened.not_before_ms, now_ms });
    }
    if now_ms >= opened.not_after_ms && !wrong!(ExpiryIgnored) {
        return Err(Clause::Expired);
    }
    match opened.conditions.first() {
        Some(condition) => Err(Clause::Condition(condition.name.chars().take(60).collect())),
        None => Ok(()),
    }
}

fn accepted(question: &Serving<'_>) -> Result<(), Clause> {
    let (_, reader) = question.reader;
    let accept = question.accept.ok_or(Clause::NotAccepted)?;
    let is_the_readers = accept.grant == question.grant
        && accept.is_by(reader.party)
        && accept.reader == reader.party
        && reader.has_device(&accept.by().device)
        && !reader.disputed;
    let is_the_one_asked_under = question.release.accept == accept.id();
    if (is_the_readers || wrong!(StrangersAccept)) && is_the_one_asked_under {
        Ok(())
    } else {
        Err(Clause::NotAccepted)
    }
}

fn requested(question: &Serving<'_>) -> Result<(), Clause> {
    let Serving { now_ms, release, peer, this, .. } = *question;
    let (_, reader) = question.reader;
    let is_the_peers = release.by().device == peer && release.is_by(reader.party) && reader.has_device(&peer);
    let age_ms = now_ms.saturating_sub(release.at_ms);
    // A session lives for an hour; whether the Release was fresh when it opened one, `is_fresh` says.
    let is_in_session = (-CLOCK_SKEW_MS_MAX..=SESSION_MS_MAX + CLOCK_SKEW_MS_MAX).contains(&age_ms)
        || wrong!(SessionOutlives);
    let is_for_this = release.to == this || wrong!(ReleaseForAnother);
    if is_the_peers && is_in_session && is_for_this && release.grant == question.grant {
        Ok(())
    } else {
        Err(Clause::Request)
    }
}

/// Whether a Release may open a session: signed within ten minutes of now.
pub fn is_fresh(release: &Release, now_ms: UnixMs) -> bool {
    now_ms.saturating_sub(release.at_ms).abs() <= CLOCK_SKEW_MS_MAX
}

fn heard_recently(opened: &Opened, heard_ms: Option<UnixMs>, now_ms: UnixMs) -> Result<(), Clause> {
    match heard_ms {
        _ if wrong!(OfflineIgnored) => Ok(()),
        Some(heard_ms) if now_ms <= heard_ms.saturating_add(opened.offline_ms) => Ok(()),
        _ => Err(Clause::Offline),
    }
}
