//! What went wrong, for a person: a sentence, its kind (which is the exit code), and the next step.

use crate::keystore::KeystoreError;
use crate::store::StoreError;
use karte_protocol::card::CardError;
use karte_protocol::decide::{Clause, Denial};
use karte_protocol::encoding::EncodingError;
use karte_protocol::grant::GrantError;
use karte_protocol::label::LabelError;
use karte_protocol::recovery::RecoveryError;
use karte_protocol::request::{RequestError, Wider};
use karte_protocol::seal::SealError;
use karte_protocol::shelf::ShelfError;
use karte_protocol::signed::SignedError;
use serde::{Deserialize, Serialize};

/// The kinds of failure. Their numbers are the exit codes of `karte`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something else went wrong.
    Failed = 1,
    /// What was asked makes no sense.
    Usage = 2,
    /// There is no consent for it.
    Refused = 3,
    /// The other side cannot be reached.
    Unreachable = 4,
    /// The store is damaged.
    Damaged = 5,
}

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// Its kind.
    pub kind: Kind,
    /// What happened.
    pub message: String,
    /// What to do now.
    pub next: Option<String>,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), next: None }
    }

    /// Something went wrong.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// What was asked makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// There is no consent for it.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// With the next step.
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let (kind, next) = match &error {
            StoreError::Locked { .. } => {
                (Kind::Failed, "Stop the other karte, or wait until its command has ended.")
            }
            StoreError::WrongKey => {
                (Kind::Failed, "Use the keystore that belongs to this folder, or another --home.")
            }
            StoreError::Full { .. } => (
                Kind::Failed,
                "Free some disk space and repeat the command. Reading and revoking still work.",
            ),
            StoreError::Damaged { .. } => (
                Kind::Damaged,
                "`karte store repair` saves what can be saved and brings the rest back from contacts; else `karte backup restore`.",
            ),
            StoreError::Version { .. } => (Kind::Failed, "Open it with the version of karte that wrote it."),
            _ => (Kind::Failed, "Look at the disk, then repeat the command: nothing acknowledged is lost."),
        };
        Failure::new(kind, error.to_string()).next(next)
    }
}

impl From<RecoveryError> for Failure {
    fn from(error: RecoveryError) -> Self {
        let next = match &error {
            RecoveryError::Version(_) => "It was written by a newer karte: use that version, or a later one.",
            _ => "Ask for the text again, and take all of it: mail may cut or break it.",
        };
        Failure::usage(error.to_string()).next(next)
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        if denial.clause == Clause::Clock {
            return Failure::refused(denial.to_string()).next(
                "Set the clock. If it was wrong before and is right now: `karte clock reset --i-set-the-clock`.",
            );
        }
        Failure::refused(denial.to_string())
            .next("Ask the holder for a new grant, or sync if it was renewed.")
    }
}

impl From<CardError> for Failure {
    fn from(error: CardError) -> Self {
        Failure::usage(error.to_string())
            .next("Ask for the card again: `karte card` prints it, `karte card --qr` draws it.")
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Failure::usage(error.to_string())
            .next("Ask for the text again: `karte request show ID` prints it at whoever asks.")
    }
}

impl From<Wider> for Failure {
    fn from(wider: Wider) -> Self {
        Failure::usage(format!("an approval gives what was asked, or less: {wider}"))
            .next("Leave that option out; more than was asked takes a `karte grant add` of your own.")
    }
}

macro_rules! plain_failure {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Failure::failed(error.to_string())
            }
        }
    )*};
}
plain_failure!(EncodingError, SignedError, SealError, LabelError, GrantError, ShelfError, KeystoreError);
