//! Wrong variants: each rule broken on purpose, one at a time, so that the simulator can show that it would notice.
//!
//! Here only under the feature `variants`, which `testnet` alone asks for. In every other build [`wrong!`] is `false`
//! at compile time and nothing of this file exists. With the feature nothing is wrong either before a thread calls
//! [`choose`]; no code of the product does.

use crate::id::DeviceId;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

macro_rules! variants {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// A rule that is not kept.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Variant {
            $($(#[doc = $doc])* $name,)*
        }

        impl Variant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

variants! {
    /// Rule 1: a grant counts although entries before it are missing.
    GapTolerated = "gap-tolerated",
    /// Rule 3: a Revoke that comes before its grant is dropped.
    EarlyRevokeDropped = "early-revoke-dropped",
    /// Rule 3: denials of a device that forked or was removed do not count.
    VoidDenialsIgnored = "void-denials-ignored",
    /// Rule 3: a Revoke is not read back at a restart.
    RevocationForgotten = "revocation-forgotten",
    /// Rule 4: two entries with one seq void nothing.
    ForkIgnored = "fork-ignored",
    /// Rule 5: what a removed device signed beyond `last_valid_seq` counts.
    LastValidSeqIgnored = "last-valid-seq-ignored",
    /// Rule 5: a removed device stays live.
    RemovalIgnored = "removal-ignored",
    /// Rule 6: a recovery needs no committed key.
    RecoverWithoutThreshold = "recover-without-threshold",
    /// Rule 6: grants of older generations live on.
    OldGenerationLives = "old-generation-lives",
    /// Rule 6: of two recoveries one is simply taken.
    DisputeIgnored = "dispute-ignored",
    /// Rule 7: a Status of a removed device is taken.
    RemovedDeviceStatus = "removed-device-status",
    /// Rule 7: a Status passes although its heads are not held.
    HeadsNotHeld = "heads-not-held",
    /// Rule 7: a lease never runs out.
    LeaseIgnored = "lease-ignored",
    /// Rule 7: a Status from the future is kept.
    PostDatedKept = "post-dated-kept",
    /// Rule 7: the offline limit does not bind.
    OfflineIgnored = "offline-ignored",
    /// Rule 7: the offline limit counts from a steward's Status too.
    StewardsWordHeard = "stewards-word-heard",
    /// Rule 7: a word counts for a grant that its device did not know of.
    WordOfWhoDoesNotKnow = "word-of-who-does-not-know",
    /// Rule 7: a Release opens a session a second time.
    ReleaseReplayed = "release-replayed",
    /// Rule 7: a Release for another device is taken.
    ReleaseForAnother = "release-for-another",
    /// Rule 7: a stranger's Accept is taken.
    StrangersAccept = "strangers-accept",
    /// Rule 7: the purpose is not compared.
    PurposeIgnored = "purpose-ignored",
    /// Rule 7: a grant serves and reads after its end.
    ExpiryIgnored = "expiry-ignored",
    /// Rule 7: a session lives on after its hour.
    SessionOutlives = "session-outlives",
    /// Section 6: the holder shelves records outside the scope.
    SendsOutsideScope = "sends-outside-scope",
    /// Section 6: the reader keeps records outside the scope in sight.
    QuarantineIgnored = "quarantine-ignored",
    /// Rule 8: effects are carried out before the commit.
    SentBeforeCommit = "sent-before-commit",
    /// Rule 8: an older copy goes on signing after its first contact.
    SignsFromCopy = "signs-from-copy",
    /// Rule 9: a clock far below the time floor is believed.
    TimeFloorIgnored = "time-floor-ignored",
    /// Rule 10: the reading key outlives its grant.
    KeyKept = "key-kept",
    /// Rule 12: a log is open to every contact.
    LogForAll = "log-for-all",
    /// Section 9: a refusal tells what is refused.
    DeniedDiffers = "denied-differs",
}

thread_local! {
    static CHOSEN: Cell<Option<Variant>> = const { Cell::new(None) };
    static MADE: RefCell<Option<HashSet<[u8; 32]>>> = const { RefCell::new(None) };
}

/// From now on this thread keeps every rule but this one; none: all rules.
pub fn choose(variant: Option<Variant>) {
    CHOSEN.set(variant);
}

/// Whether this thread breaks this rule.
pub fn is_chosen(variant: Variant) -> bool {
    CHOSEN.get() == Some(variant)
}

/// Whether this thread breaks any rule.
pub fn is_any_chosen() -> bool {
    CHOSEN.get().is_some()
}

static SPOILS_SLICES: AtomicBool = AtomicBool::new(false);

/// From now on every thread of this process sends slices of payloads that are not what they say: a bad source.
pub fn spoil_slices() {
    SPOILS_SLICES.store(true, Ordering::Relaxed);
}

/// A slice as it goes out: whole, or with a bit changed after [`spoil_slices`].
pub fn as_sent(mut slice: Vec<u8>) -> Vec<u8> {
    if SPOILS_SLICES.load(Ordering::Relaxed) {
        slice.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1);
    }
    slice
}

/// This thread remembers the signatures it makes from now on, and does not work out again that they are good: a
/// simulated world verifies each of them at every node. Any other signature is verified as ever.
pub fn remember_signatures() {
    MADE.set(Some(HashSet::new()));
}

pub(crate) fn made(device: &DeviceId, message: &[u8], signature: &[u8]) {
    MADE.with_borrow_mut(|made| made.as_mut().map(|made| made.insert(mark(device, message, signature))));
}

pub(crate) fn was_made(device: &DeviceId, message: &[u8], signature: &[u8]) -> bool {
    MADE.with_borrow(|made| {
        made.as_ref().is_some_and(|made| made.contains(&mark(device, message, signature)))
    })
}

fn mark(device: &DeviceId, message: &[u8], signature: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(device.as_bytes()).update(&message.len().to_be_bytes()).update(message).update(signature);
    hasher.finalize().into()
}
