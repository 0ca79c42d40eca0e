//! The vocabulary of a node's own user: what can be commanded, and what comes back.
//!
//! For: the control socket and the command line, which say the same whether a daemon runs or not. Not for:
//! peers; they speak `karte_protocol::message`.

use crate::failure::Failure;
use karte_protocol::id::Digest;
use karte_protocol::keys::Recipient;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Who and how this node is.
    Status,
    /// Who is connected.
    Peers,
    /// The own card.
    Card,
    /// Takes a card (`karte:…`) or a pending contact (its party id or alias).
    ContactAdd {
        /// The card, or who knocked.
        card: String,
        /// What to call it here.
        alias: Option<String>,
    },
    /// All contacts.
    ContactList,
    /// Forgets a contact.
    ContactRemove {
        /// Which.
        contact: String,
    },
    /// A contact's card as it was last met.
    ContactCard {
        /// Which.
        contact: String,
    },
    /// Asks contacts to keep a recovery key for this party, and tells who does.
    RecoveryAsk {
        /// Which.
        contacts: Vec<String>,
    },
    /// Keeps a recovery key for another party.
    RecoveryTrust {
        /// A contact, or a party id.
        party: String,
        /// Only for a contact.
        known: bool,
    },
    /// Commits to other recovery keys.
    RecoverySetup(Box<NewRecovery>),
    /// The request of a device that waits for its recovery.
    RecoveryStart,
    /// Shows a request; with its check code, signs it with the key that is kept here.
    RecoveryApprove {
        /// `karte-recover:…`.
        request: String,
        /// What its asker has told by another way.
        code: Option<String>,
    },
    /// Takes approvals; enough of them end the recovery.
    RecoveryFinish {
        /// `karte-approval:…`, each.
        approvals: Vec<String>,
    },
    /// Gives grants again that a recovery ended; without a choice lists them.
    RecoveryGrants {
        /// Their ids or the beginnings of them.
        grants: Vec<String>,
        /// All of them.
        all: bool,
    },
    /// The present recovery keys, and what is under way.
    RecoveryShow,
    /// Lets one new device join this party.
    DeviceInvite {
        /// For how long the invitation is answered, in milliseconds.
        for_ms: i64,
    },
    /// The devices of this party.
    DeviceList,
    /// Ends a device of this party.
    DeviceRemove {
        /// Its id or the beginning of it.
        device: String,
        /// Its last entry that counts; all that is held whole if absent.
        last_valid_seq: Option<u64>,
    },
    /// Brings files in.
    Import {
        /// Absolute paths of files and folders.
        paths: Vec<PathBuf>,
        /// `auto`, `fhir` or `document`.
        format: String,
        /// Whom they are about; the own party if absent.
        subject: Option<String>,
        /// How particular formats are read.
        #[serde(default)]
        how: HowToRead,
    },
    /// Writes a record by hand.
    RecordAdd(Box<NewEntry>),
    /// Lists records.
    RecordList(Filter),
    /// One record.
    RecordShow {
        /// Its id or the beginning of it.
        id: String,
    },
    /// Opens a record: the plaintext follows as data.
    RecordOpen {
        /// Its id or the beginning of it.
        id: String,
        /// `header ‖ payload` for this device's age identity instead of the plaintext.
        age: bool,
        /// Who opens, for the receipt.
        staff: String,
    },
    /// Opens all that is selected and writes it out: an object that names each file, followed by its bytes as data.
    RecordExport {
        /// Which records.
        filter: Filter,
        /// `folder`, `bundle`, `ndjson` or `dicom`.
        form: String,
        /// Who opens, for receipts.
        staff: String,
    },
    /// A value over time, from every record that has it.
    Trend(Box<TrendQuery>),
    /// The life of one record, or what there is of each day.
    Timeline {
        /// Its id or the beginning of it; the whole chart if absent.
        id: Option<String>,
        /// Which records, if no id is given.
        #[serde(default)]
        filter: Filter,
    },
    /// Takes a received record into the own records.
    RecordAdopt {
        /// Its id or the beginning of it.
        id: String,
    },
    /// Lets a contact read.
    GrantAdd(NewGrant),
    /// The standing return grant: what is written here about a contact goes home to it.
    GrantReturn {
        /// Whom it is about and who reads.
        contact: String,
        /// Which kind of record.
        kind: String,
    },
    /// All grants, given and received.
    GrantList,
    /// One grant.
    GrantShow {
        /// Its id or the beginning of it.
        id: String,
    },
    /// The signed entry of a grant, as data.
    GrantCose {
        /// Its id or the beginning of it.
        id: String,
    },
    /// Says yes to an offered grant.
    GrantAccept {
        /// Its id or the beginning of it.
        id: String,
        /// Whether what arrives about the own party becomes its own.
        adopt: bool,
    },
    /// Says no to an offered grant.
    GrantDecline {
        /// Its id or the beginning of it.
        id: String,
    },
    /// Ends a grant.
    GrantRevoke {
        /// Its id or the beginning of it.
        id: String,
        /// Why.
        reason: String,
    },
    /// Asks a contact for a grant.
    RequestAdd(NewRequest),
    /// Takes a request that came as text.
    RequestTake {
        /// `karte-request:…`
        text: String,
    },
    /// All requests, sent and received.
    RequestList,
    /// One request.
    RequestShow {
        /// Its id or the beginning of it.
        id: String,
    },
    /// Gives what a request asks for, or less.
    RequestApprove(Approval),
    /// Says no to a request.
    RequestDecline {
        /// Its id or the beginning of it.
        id: String,
        /// Why, for the asker to see.
        reason: String,
    },
    /// What the clock says, and what time this node has already seen.
    ClockShow,
    /// Forgets the time floor and what was heard of others: the clock was wrong, and is right now.
    ClockReset,
    /// Names a contact this party's steward.
    StewardAdd {
        /// Which.
        contact: String,
    },
    /// The own stewards.
    StewardList,
    /// Ends a steward.
    StewardRemove {
        /// Which.
        contact: String,
    },
    /// Says that this node keeps for a contact.
    StewardOffer {
        /// For whom.
        contact: String,
        /// Most bytes of payloads.
        quota_bytes: u64,
        /// How long from now, in milliseconds.
        for_ms: i64,
    },
    /// Keeps no longer for a contact.
    StewardEnd {
        /// For whom.
        contact: String,
    },
    /// What is kept for others.
    StewardKeeping,
    /// Exchanges everything with one contact or all.
    Sync {
        /// Which; all if absent.
        contact: Option<String>,
        /// Who asks, for the release.
        staff: String,
    },
    /// Tells of records as they arrive, until nobody listens. Only a daemon can.
    Watch,
    /// What happened to the own records.
    AuditList,
    /// This device's age identity, as data.
    KeysExport,
    /// Reads everything, and tells what is missing or damaged.
    StoreCheck,
    /// Remakes the view from the journal.
    StoreRebuild,
    /// Brings back from contacts what is lost.
    StoreRepair {
        /// Which contact; all if absent.
        from: Option<String>,
    },
    /// Sizes and counts.
    StoreStats,
    /// Deletes payloads that nothing needs.
    StoreGc,
    /// The folder was moved, and no other copy of it runs.
    StoreAdoptCopy,
    /// Writes a backup.
    BackupCreate {
        /// Absolute path of a folder or of one file.
        target: PathBuf,
        /// age recipients.
        to: Vec<String>,
        /// Or a passphrase.
        passphrase: Option<Secret>,
    },
    /// Ends the daemon in order.
    Stop,
}

impl Command {
    /// Whether it is there to end something: what must be recorded on a full disk too.
    pub fn is_denial(&self) -> bool {
        matches!(
            self,
            Self::GrantRevoke { .. }
                | Self::DeviceRemove { .. }
                | Self::StewardRemove { .. }
                | Self::RecoveryFinish { .. }
        )
    }
}

/// A secret on its way to the daemon, over the socket that only its own user can reach. It does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl Secret {
    /// Takes it.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Gives it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Which records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Kinds; a prefix covers all below it.
    pub kinds: Vec<String>,
    /// FHIR category codes.
    pub categories: Vec<String>,
    /// Codes, `system|code` or a bare code.
    pub codes: Vec<String>,
    /// Effective from, inclusive: `2015`, `2015-06-01` or an instant.
    pub from: Option<String>,
    /// Effective until, exclusive.
    pub until: Option<String>,
    /// A contact, or `me`.
    pub subject: Option<String>,
    /// Received under this grant.
    pub grant: Option<String>,
    /// Signed by this contact, or `me`.
    #[serde(default)]
    pub author: Option<String>,
    /// Also records that a fuller one has taken the place of.
    #[serde(default)]
    pub replaced: bool,
}

/// How particular formats are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HowToRead {
    /// Which person of a table that holds several; `all` keeps each apart.
    pub person: Option<String>,
    /// A built-in mapping's name, or the text of a mapping file (TOML).
    pub map: Option<String>,
    /// The folder of JSON schemas that Open mHealth data points are judged by.
    pub schemas: Option<PathBuf>,
    /// A FHIR request priority for all of it; what is not `routine` overtakes other records.
    pub urgency: Option<String>,
}

/// A record written by hand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEntry {
    /// `weight 62.4kg`, word by word; empty for a form.
    pub words: Vec<String>,
    /// A dialysis session as JSON.
    pub dialysis: Option<String>,
    /// A dialysis session by the names of its fields.
    #[serde(default)]
    pub fields: std::collections::BTreeMap<String, String>,
    /// When, RFC 3339 with the offset of the place.
    pub at: String,
    /// Whom it is about; the own party if absent.
    pub subject: Option<String>,
}

/// Which value over which time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrendQuery {
    /// A LOINC code, or a name such as `weight`.
    pub code: String,
    /// The days up to `today`; all if absent.
    pub last_days: Option<u32>,
    /// The local day it is now, `2026-03-01`.
    pub today: String,
    /// The UCUM unit to show; the one most values are written in if absent.
    pub unit: Option<String>,
    /// A contact, or `me`; whoever the records are about if absent.
    pub subject: Option<String>,
    /// Whether the drawing follows as data.
    pub svg: bool,
    /// Who reads, for receipts.
    pub staff: String,
}

/// A grant to be given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewGrant {
    /// To whom.
    pub contact: String,
    /// What it covers.
    pub scope: Filter,
    /// Exactly these records.
    pub records: Vec<String>,
    /// Kinds, categories, codes or sensitivities that are held back without a word.
    pub exclude: Vec<String>,
    /// HL7 v3 PurposeOfUse.
    pub purpose: String,
    /// Legal basis.
    pub basis: String,
    /// Whether the reader may keep what it reads.
    pub onward_keep: bool,
    /// How long it counts, in milliseconds.
    pub expires_ms: i64,
    /// How long without word from the holder.
    pub offline_ms: i64,
    /// Only say which records it would be.
    pub dry_run: bool,
}

/// A request for a grant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRequest {
    /// Who is asked.
    pub contact: String,
    /// What it is to cover; about the party that is asked unless it names another subject.
    pub scope: Filter,
    /// HL7 v3 PurposeOfUse.
    pub purpose: String,
    /// Legal basis.
    pub basis: String,
    /// Whether the reader wants to keep what it reads.
    pub onward_keep: bool,
    /// How long the grant should count, in milliseconds.
    pub expires_ms: i64,
    /// How long without word from the holder, in milliseconds.
    pub offline_ms: i64,
    /// Why, at most 500 bytes.
    pub reason: String,
}

/// A yes to a request, in full or to less of it. What is empty or absent is as it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The request's id or the beginning of it.
    pub id: String,
    /// Only this of it.
    pub scope: Filter,
    /// Only these records.
    pub records: Vec<String>,
    /// Kinds, categories, codes or sensitivities that are held back without a word.
    pub exclude: Vec<String>,
    /// How long the grant counts, in milliseconds.
    pub expires_ms: Option<i64>,
    /// How long without word from the holder, in milliseconds.
    pub offline_ms: Option<i64>,
    /// Only say which records it would be.
    pub dry_run: bool,
}

/// Recovery keys to commit to. No secret is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRecovery {
    /// How many of the keys must sign.
    pub threshold: u8,
    /// Of printed words.
    pub words: Option<WordsKey>,
    /// Contacts who keep a key.
    pub contacts: Vec<String>,
    /// `karte-key:…` of other keepers.
    pub keys: Vec<String>,
    /// Only say what would happen.
    pub dry_run: bool,
}

/// What printed words commit to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WordsKey {
    /// `blake3(recovery public key)`.
    pub commitment: Digest,
    /// The library is sealed to it.
    pub sealing: Recipient,
}

/// What comes back while a command runs. A command ends with `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// One result; what `--json` prints as one line.
    Item(serde_json::Value),
    /// How far long work is.
    Progress {
        /// What is being done.
        what: String,
        /// Done so far, in `unit`s.
        done: u64,
        /// In all; 0 when unknown.
        total: u64,
        /// `records` or `bytes`.
        unit: String,
    },
    /// Something to tell meanwhile.
    Note(String),
    /// Bytes of a data result follow outside of JSON.
    Data(u64),
    /// The end.
    Done,
    /// The end, badly.
    Failed(Failure),
}
