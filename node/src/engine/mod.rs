//! The engine: everything a node decides, as one machine. `handle(input, now) -> effects`.
//!
//! Participants: the own user ([`Command`]), peers (control messages, fetches), the clock ([`Input::Tick`]).
//! Goals: no socket, no await, no clock of its own; the same code runs under the simulator. What it writes goes
//! to a [`Store`]; whoever drives it commits the store **before** any effect is carried out, so that nothing is
//! said or sent that could be lost.
//! Non-goals: bytes of payloads. Those go between [`crate::store::Blobs`] and the network, in `runtime`.
//!
//! | file | concern |
//! |---|---|
//! | `rows` | what is kept, under which names |
//! | `people` | contacts, cards, logs |
//! | `heard` | statuses: the own one, and what others were heard to say |
//! | `library` | own records, and selecting among all |
//! | `giving` | grants this party gave: offer, shelve, revoke |
//! | `serving` | sessions of readers, and what goes out under them |
//! | `getting` | grants this party received: accept, verify what arrives |
//! | `sources` | whom to ask for what was handed over, one device or several |
//! | `lacking` | what was handed over and is not here, and what is asked for from whom |
//! | `reading` | opening under a received grant, receipts, and its end |
//! | `devices` | the devices of the own party: inviting, removing, and what they tell each other |
//! | `peers` | connections, and what is due to whom |
//! | `requests` | asking for grants, and answering who asks |
//! | `clock` | the time floor: what a wrong clock may not do, and how one is forgotten |
//! | `sync` | `karte sync`: what it waits for and says |
//! | `audit` | who did what, told to the own user |
//! | `timeline` | the life of one record, or of all, in order |
//! | `export` | what is written out whole: records, consents, receipts |
//! | `steward` | keeping for others, and being kept for |
//! | `standing` | whether this device may sign: not from an older copy |
//! | `holdings` | what should be on the disk, and how what is lost comes back |
//! | `recover` | a new generation: keys and their keepers, approvals, what is given again |
//! | `snapshot` | the rows of a backup |
//! | `reload` | back to what the store holds, when the disk is full |

mod audit;
mod clock;
mod devices;
mod export;
mod getting;
mod giving;
mod heard;
mod holdings;
mod labels;
mod lacking;
mod library;
mod peers;
mod people;
mod reading;
mod recover;
mod reload;
mod requests;
mod rows;
mod select;
mod serving;
mod snapshot;
mod sources;
mod standing;
mod steward;
mod sync;
mod timeline;

use crate::command::{Command, Filter};
use crate::failure::{Failure, Kind};
use crate::keystore::{Keyring, Keys};
use crate::store::{Batch, Store, StoreError, Table};
use getting::Got;
use giving::Given;
use karte_protocol::chance::Chance;
use karte_protocol::consent::Status;
use karte_protocol::encoding;
use karte_protocol::entry::{Act, Device, Entry, Genesis};
use karte_protocol::id::{DeviceId, Digest, EntryId, GrantId, PartyId, RecordId};
use karte_protocol::identity::{LogError, PartyLog, State};
use karte_protocol::keys::{Recipient, RecoverySeed};
use karte_protocol::label::Label;
use karte_protocol::message::{Fetch, Frame};
use karte_protocol::seal::FileKey;
use karte_protocol::shelf::Handed;
use karte_protocol::signed::{By, Signed, Verified};
use karte_protocol::time::UnixMs;
use peers::{Peer, Redial};
use people::Contact;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use sync::SyncRun;

pub use devices::{Joining, keep_joined};
pub use export::{Export, Exported, Proof};
pub use holdings::{Harm, Inventory};
pub use labels::Arrival;
pub(crate) use labels::{Authors, author_of, judge};
pub use library::NewRecord;
pub use peers::Duty;
pub(crate) use recover::disputed;
pub use recover::{recover, wait_for_acceptance};
pub use reload::{denied, full};
pub(crate) use select::{effective_day, effective_text};
pub use snapshot::RowSink;
pub(crate) use snapshot::{ENTRIES_TABLE, OWN_TABLE};
pub use steward::Errand;

/// Names a command until it is answered.
pub type Ticket = u64;
/// Names a peer's request until it is replied to.
pub type RequestId = u64;
/// Names a payload stream that a peer opened.
pub type StreamId = u64;

/// What the engine is told.
pub enum Input {
    /// The own user commands.
    Command(Ticket, Box<Command>),
    /// Whom does the own user mean?
    Subject(Ticket, Option<String>),
    /// Which of these plaintexts are own records already, and which records are the newest of these sources?
    AreKnown(Ticket, PartyId, Wanted),
    /// Permission to open every record that is selected, as this person.
    OpenMany(Ticket, Box<Filter>, String),
    /// What a record's label says, and permission to read its values.
    ShowRecord(Ticket, String),
    /// The same, with the consents and receipts around the own records.
    Export(Ticket, Box<Filter>, String),
    /// Records that were imported and sealed; their payloads are durable.
    Records(Ticket, Vec<NewRecord>),
    /// Addresses this node can be reached at.
    Listening(Vec<String>),
    /// A device of a contact, or an own one, announces these addresses on the local network; none: no longer.
    Nearby(DeviceId, Vec<String>),
    /// A connected device is at another address now: directly, and no longer over a relay.
    Rerouted(DeviceId, String),
    /// A connection began.
    Connected {
        /// The device at its other end.
        peer: DeviceId,
        /// Where it is.
        address: String,
        /// Whether we called.
        dialled: bool,
    },
    /// The last connection to a device ended.
    Disconnected(DeviceId),
    /// A party could not be reached.
    DialFailed(PartyId, String),
    /// A peer asks.
    Request(DeviceId, RequestId, Vec<u8>),
    /// A peer answered, or did not.
    Answered(DeviceId, Duty, Result<Vec<u8>, String>),
    /// A peer wants payloads on a stream.
    FetchAsked(DeviceId, StreamId, Vec<u8>),
    /// A running stream asks whether it may go on.
    MayServe(StreamId),
    /// A stream that we serve ended.
    ServeEnded(StreamId),
    /// Payloads are here and durable, each with its sealed label.
    Arrived(DeviceId, GrantId, Vec<Arrival>),
    /// How far the payload is that is being received under a grant, in bytes; 0 when it is whole.
    Receiving(DeviceId, GrantId, u64),
    /// A fetch ended; these records did not come.
    FetchEnded(DeviceId, GrantId, Vec<RecordId>, FetchEnd),
    /// What should be on the disk?
    Inventory(Ticket),
    /// These payloads are not what they should be; `true`: forget that they were held, so that they are fetched.
    Lost(Ticket, Vec<(RecordId, Harm)>, bool),
    /// These are whole again.
    Found(Ticket, Vec<RecordId>),
    /// Which of these payloads does nothing need?
    Unneeded(Ticket, Vec<RecordId>),
    /// The rows of a backup.
    Snapshot(Ticket, RowSink),
    /// Counts of rows, for sizes.
    Counts(Ticket),
    /// Time passed.
    Tick,
}

/// How a fetch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchEnd {
    /// All that was asked was answered.
    Whole,
    /// The holder said no.
    Denied,
    /// The connection broke, or this side could not write.
    Broken(String),
    /// Wrong bytes came: which part of which record, in words.
    Wrong(String),
}

/// What is to be done. Carried out only after the store is committed.
pub enum Effect {
    /// The command's answer.
    Answer(Ticket, Result<Answer, Failure>),
    /// Progress of a command.
    Progress {
        /// The command.
        ticket: Ticket,
        /// Payload bytes so far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// Connect to one of a party's devices.
    Dial {
        /// The party.
        party: PartyId,
        /// Its devices.
        devices: Vec<DeviceId>,
        /// Where they were last.
        addresses: Vec<String>,
        /// The same by device, as far as each has said itself where it is.
        at: BTreeMap<DeviceId, Vec<String>>,
    },
    /// These devices are known from now on: contacts', own ones, and who is met for a steward's sake.
    Know(Vec<DeviceId>),
    /// Ask a peer; its answer comes back with the duty.
    Request(DeviceId, Duty, Vec<u8>),
    /// Answer a peer.
    Reply(RequestId, Vec<u8>),
    /// Send these records on a stream; `true`: other streams to the same device rest meanwhile.
    Serve(StreamId, Vec<Serving>, bool),
    /// Send one frame and end the stream.
    Finish(StreamId, Frame),
    /// Go on, or not, with a stream.
    Go(StreamId, bool),
    /// Fetch payloads and labels; what to expect for each want.
    Fetch(DeviceId, Fetch, Vec<Expected>),
    /// Stop fetching under a grant, from one device or from all.
    StopFetch(GrantId, Option<DeviceId>),
    /// Delete payloads that nothing needs.
    Drop(Vec<RecordId>),
    /// Who signs here, and the own identity entries, from now on: they travel with every label.
    Signs(By, Vec<Vec<u8>>),
    /// Tell the own user, if somebody watches.
    Notice(String),
    /// A record came under a grant, and is durable.
    Arrived(GrantId, RecordId),
    /// The daemon should end.
    Stop,
    /// The store failed: nothing further may be promised.
    Fatal(Failure),
}

/// What a want-list's record must be.
pub struct Expected {
    /// Length of its payload.
    pub bytes: u64,
    /// What opens its label, if it may be opened here: then it is judged as it comes.
    pub handed: Option<Handed>,
}

impl Expected {
    /// A payload that is kept for others.
    pub(crate) fn of(bytes: u64) -> Self {
        Self { bytes, handed: None }
    }
}

impl From<Handed> for Expected {
    fn from(handed: Handed) -> Self {
        Self { bytes: handed.bytes, handed: Some(handed) }
    }
}

/// One record to serve on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// The record.
    pub record: RecordId,
    /// Length of its payload.
    pub payload_bytes: u64,
    /// From where on.
    pub from: u64,
    /// Its sealed label, if that is wanted.
    pub label: Option<Vec<u8>>,
}

/// What a command gives.
pub enum Answer {
    /// Objects to show.
    Items(Vec<serde_json::Value>),
    /// Whom the user meant.
    Subject(PartyId),
    /// Which plaintexts and sources are known.
    Known(Known),
    /// What a label says, and permission to read an own record.
    Shown(serde_json::Value, Option<Box<Opening>>),
    /// Permission to open several records.
    Many(Vec<Opening>),
    /// What is written out whole.
    Export(Box<Export>),
    /// How many records were new.
    Taken(u64),
    /// Permission to open a record.
    Open(Box<Opening>),
    /// Bytes to write out.
    Data(Vec<u8>),
    /// What should be on the disk.
    Inventory(Box<Inventory>),
    /// Payloads that nothing needs.
    Unneeded(Vec<RecordId>),
}

/// What an import asks about a group of findings.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// blake3 of plaintexts.
    pub plaintexts: Vec<Digest>,
    /// [`source_key`]s.
    pub sources: Vec<Digest>,
}

/// Which of the [`Wanted`] are there.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// By blake3 of the plaintext.
    pub plaintexts: BTreeMap<Digest, RecordId>,
    /// By [`source_key`]; with the length of the plaintext in bytes.
    pub sources: BTreeMap<Digest, (RecordId, u64)>,
}

/// Names what a finding is a newer state of: its kind and what its source calls it.
pub fn source_key(kind: &str, source_id: &str) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.as_bytes()).update(&[0]).update(source_id.as_bytes());
    hasher.finalize().into()
}

/// Permission to open one record, given after the receipt is written.
pub struct Opening {
    /// The record.
    pub record: RecordId,
    /// What opens it.
    pub file_key: FileKey,
    /// What must come out.
    pub label: Label,
    /// The grant it is opened under; none for an own record.
    pub grant: Option<GrantId>,
    /// Whom to write an age header for, if that was asked.
    pub recipients: Vec<Recipient>,
}

/// The settings the engine acts by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// Strangers who knock become contacts at once.
    pub accept_contacts: bool,
    /// Offered grants are accepted at once.
    pub accept_grants: bool,
    /// Own records that arrive through an automatically accepted grant are adopted.
    pub adopt: bool,
    /// Keep sessions open and fetch what is pushed: a daemon. One command alone syncs only when told to.
    pub live: bool,
}

/// Who this node is.
#[derive(Debug, Clone)]
pub struct Me {
    /// The party.
    pub party: PartyId,
    /// What people call it.
    pub name: String,
    /// `patient`, `clinic` or `partner`.
    pub kind: String,
}

pub(crate) struct Held {
    pub(crate) log: PartyLog,
    pub(crate) state: State,
    /// Entries of the log that `state` tells of.
    counted: usize,
}

impl Held {
    fn of(log: PartyLog) -> Self {
        let (state, counted) = (log.state(), log.count());
        Self { log, state, counted }
    }

    /// Adds an entry; false if it was here. The state follows if that is simple, else with [`Held::refresh`].
    fn take(&mut self, entry: Verified<Entry>) -> Result<bool, LogError> {
        let id = EntryId::from(entry.id());
        let is_current = self.counted == self.log.count();
        let is_new = self.log.add(entry)?;
        if is_new && is_current && self.log.follow(&mut self.state, &id) {
            self.counted += 1;
        }
        Ok(is_new)
    }

    fn refresh(&mut self) {
        if self.counted != self.log.count() {
            (self.state, self.counted) = (self.log.state(), self.log.count());
        }
    }
}

/// The engine.
pub struct Engine {
    me: Me,
    keys: Arc<Keys>,
    policy: Policy,
    store: Box<dyn Store>,
    ring: Box<dyn Keyring>,
    /// Whose labels were traced lately.
    authors: Authors,
    chance: Box<dyn Chance + Send>,
    now: UnixMs,
    addresses: Vec<String>,
    logs: BTreeMap<PartyId, Held>,
    /// The newest Status of each party whose signature was good, for leases.
    latest: BTreeMap<PartyId, Verified<Status>>,
    /// The newest of each device that passed, for offline limits.
    heard: heard::Words,
    contacts: BTreeMap<PartyId, Contact>,
    given: BTreeMap<GrantId, Given>,
    got: BTreeMap<GrantId, Got>,
    peers: BTreeMap<DeviceId, Peer>,
    streams: BTreeMap<StreamId, (DeviceId, GrantId)>,
    syncs: Vec<SyncRun>,
    requests: requests::Requests,
    /// Holders who have not confirmed all our receipts.
    owes_receipts: BTreeSet<PartyId>,
    redial: BTreeMap<PartyId, Redial>,
    /// Who is near, and who the network was told to know.
    near: peers::Near,
    /// For whom this node keeps, and which stewards it calls.
    steward: steward::Stewardship,
    /// Why nothing is signed, if so.
    halt: Option<standing::Halt>,
    /// Own records that are lost, by the grant under which a reader may have them.
    recalls: BTreeMap<GrantId, BTreeMap<RecordId, karte_protocol::shelf::Handed>>,
    /// Keys asked for, and what comes back after a recovery.
    recovering: recover::Recovering,
    own: devices::Own,
    started: &'static str,
    out: Vec<Effect>,
}

/// What a new node is made of.
pub struct Birth {
    /// COSE bytes of its Genesis.
    pub genesis: Vec<u8>,
    /// Its id.
    pub party: PartyId,
}

/// Signs the Genesis of a new party with one device.
pub fn birth(keys: &Keys, chance: &mut dyn Chance, now: UnixMs) -> Result<Birth, Failure> {
    let device = Device { device: keys.device.device(), recipients: vec![keys.sealing.recipient()] };
    let next_recovery = keys.recovery.seed().iter().map(RecoverySeed::commitment).collect::<Vec<_>>();
    let threshold = u8::from(!next_recovery.is_empty());
    let genesis = Genesis { salt: chance.salt(), devices: vec![device], next_recovery, threshold };
    let entry = Entry { seq: 0, prev: None, at_ms: now, act: Act::Genesis(genesis) };
    let by = By { party: None, r#gen: 0, device: keys.device.device() };
    let signed = Verified::sign(entry, by, &keys.device)?;
    let party = PartyLog::start(signed.clone()).map_err(|error| Failure::failed(error.to_string()))?.party();
    Ok(Birth { genesis: signed.bytes().to_vec(), party })
}

/// What an engine is made of.
pub struct Parts {
    /// Secrets that do not change.
    pub keys: Arc<Keys>,
    /// Reading keys.
    pub ring: Box<dyn Keyring>,
    /// Rows.
    pub store: Box<dyn Store>,
    /// Chance.
    pub chance: Box<dyn Chance + Send>,
    /// COSE bytes of the own Genesis.
    pub genesis: Vec<u8>,
    /// What people call this node.
    pub name: String,
    /// `patient`, `clinic` or `partner`.
    pub kind: String,
    /// How it acts by itself.
    pub policy: Policy,
    /// The store was last written on another machine or file system.
    pub copied: bool,
    /// What opening the store found: `clean`, `caught up`, `rebuilt`, `repaired` or `new`.
    pub started: &'static str,
}

impl Engine {
    /// Takes up where the store ends, and does what a stop in the middle may have left undone.
    pub fn open(parts: Parts, now: UnixMs) -> Result<Self, Failure> {
        let copied = parts.copied;
        let mut engine = Self::read(parts, now)?;
        engine.write_version()?;
        if engine.is_clock_behind() {
            tracing::warn!("the clock is behind the time this node has already seen: only revoking works");
        }
        let genesis = engine.mine().log.in_order().first().map(|entry| (entry.id(), entry.bytes().to_vec()));
        let party = engine.me.party;
        if let Some((id, bytes)) = genesis
            && engine.store.get(ENTRIES, party.as_bytes(), id.as_bytes())?.is_none()
        {
            engine.put_bytes(ENTRIES, party.as_bytes(), id.as_bytes(), bytes)?;
        }
        if copied {
            engine.load_standing(copied)?;
        }
        engine.move_chains()?;
        engine.match_keys_with_grants()?;
        for holder in engine.logs.keys().copied().collect::<Vec<_>>() {
            engine.honour_ends(holder)?;
        }
        engine.end_expired()?;
        engine.drop_spent_seed()?;
        engine.settle_all_kept()?;
        engine.publish_library()?;
        engine.show_forks()?;
        engine.shelve_all()?;
        engine.accept_anew()?;
        engine.mend_reading_keys()?;
        engine.commit()?;
        Ok(engine)
    }

    /// What the store holds, and nothing done about it.
    fn read(parts: Parts, now: UnixMs) -> Result<Self, Failure> {
        let genesis = Signed::<Entry>::from_bytes(parts.genesis).verify()?;
        let log = PartyLog::start(genesis.clone()).map_err(|error| Failure::failed(error.to_string()))?;
        let party = log.party();
        let mut engine = Self {
            me: Me { party, name: parts.name, kind: parts.kind },
            keys: parts.keys,
            policy: parts.policy,
            store: parts.store,
            ring: parts.ring,
            authors: Authors::default(),
            chance: parts.chance,
            now,
            addresses: vec![],
            logs: BTreeMap::from([(party, Held::of(log))]),
            latest: BTreeMap::new(),
            heard: heard::Words::default(),
            contacts: BTreeMap::new(),
            given: BTreeMap::new(),
            got: BTreeMap::new(),
            peers: BTreeMap::new(),
            streams: BTreeMap::new(),
            syncs: vec![],
            requests: requests::Requests::default(),
            owes_receipts: BTreeSet::new(),
            redial: BTreeMap::new(),
            near: peers::Near::default(),
            steward: steward::Stewardship::default(),
            halt: None,
            recalls: BTreeMap::new(),
            recovering: recover::Recovering::default(),
            own: devices::Own::default(),
            started: parts.started,
            out: vec![],
        };
        engine.require_known_version()?;
        engine.addresses = engine.row(rows::META, rows::TOP, b"addresses")?.unwrap_or_default();
        engine.load_people()?;
        engine.load_standing(false)?;
        engine.load_given()?;
        engine.load_got()?;
        engine.load_keeping()?;
        engine.load_recalls()?;
        engine.load_requests()?;
        engine.load_recovering()?;
        engine.load_own()?;
        Ok(engine)
    }

    /// Rows of a version that this one does not know are not guessed at.
    fn require_known_version(&self) -> Result<(), Failure> {
        let written: u32 = self.row(rows::META, rows::TOP, rows::VERSION_ROW)?.unwrap_or(1);
        match written <= rows::VERSION {
            true => Ok(()),
            false => Err(Failure::failed(format!(
                "this folder was written by a newer karte: expected rows of version {} at most, got {written}",
                rows::VERSION
            ))
            .next("Open it with the version of karte that wrote it, or a later one.")),
        }
    }

    fn write_version(&mut self) -> Result<(), Failure> {
        match self.row::<u32>(rows::META, rows::TOP, rows::VERSION_ROW)? {
            Some(rows::VERSION) => Ok(()),
            _ => self.put(rows::META, rows::TOP, rows::VERSION_ROW, &rows::VERSION),
        }
    }

    /// Who this node is.
    pub fn me(&self) -> &Me {
        &self.me
    }

    /// The long-lived keys, for import and network.
    pub fn keys(&self) -> Arc<Keys> {
        self.keys.clone()
    }

    /// Who signs here.
    pub fn signer(&self) -> By {
        self.by()
    }

    /// What the entries that are held of a party amount to here.
    pub fn state_of(&self, party: PartyId) -> Option<&State> {
        self.logs.get(&party).map(|held| &held.state)
    }

    /// COSE bytes of the own identity entries: they travel with every label.
    pub fn identity(&self) -> Vec<Vec<u8>> {
        self.mine().log.identity_entries().iter().map(|entry| entry.bytes().to_vec()).collect()
    }

    /// Makes everything written durable. Effects are carried out after this, never before.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        self.store.raise_time_floor(u64::try_from(self.now).unwrap_or_default());
        self.store.commit()
    }

    /// Ends in order.
    pub fn close(self) -> Result<(), StoreError> {
        self.store.close()
    }

    /// One step.
    pub fn handle(&mut self, input: Input, now: UnixMs) -> Vec<Effect> {
        self.now = now;
        if let Err(failure) = self.step(input) {
            self.out.push(Effect::Fatal(failure));
        }
        std::mem::take(&mut self.out)
    }

    /// An error from here is the store's or the keystore's: the node must not go on. What peers and the user
    /// do wrong is answered, not returned.
    fn step(&mut self, input: Input) -> Result<(), Failure> {
        match input {
            Input::Command(ticket, command) => self.command(ticket, *command),
            Input::Subject(ticket, text) => {
                let subject = self.require_sound().and_then(|()| self.find_subject(text.as_deref()));
                self.answer(ticket, subject.map(Answer::Subject));
            }
            Input::AreKnown(ticket, subject, wanted) => {
                let known = self.known_of(subject, &wanted);
                self.answer(ticket, known.map(Answer::Known));
            }
            Input::OpenMany(ticket, filter, staff) => {
                let openings = self.open_selected(&filter, &staff);
                self.answer(ticket, openings.map(Answer::Many));
            }
            Input::ShowRecord(ticket, id) => {
                let shown = self.show_record(&id);
                self.answer(ticket, shown.map(|(view, opening)| Answer::Shown(view, opening.map(Box::new))));
            }
            Input::Export(ticket, filter, staff) => {
                let export = self.export(&filter, &staff);
                self.answer(ticket, export.map(|export| Answer::Export(Box::new(export))));
            }
            Input::Records(ticket, records) => {
                let taken = self.require_sound().and_then(|()| self.take_records(records));
                self.answer(ticket, taken.map(Answer::Taken));
            }
            Input::Listening(addresses) => self.listening(addresses)?,
            Input::Nearby(device, addresses) => self.nearby(device, addresses),
            Input::Rerouted(peer, address) => self.rerouted(peer, address),
            Input::Connected { peer, address, dialled } => self.connected(peer, address, dialled)?,
            Input::Disconnected(peer) => self.disconnected(peer),
            Input::DialFailed(party, reason) => self.dial_failed(party, &reason),
            Input::Request(peer, id, body) => self.request(peer, id, &body)?,
            Input::Answered(peer, duty, answer) => self.answered(peer, duty, answer)?,
            Input::FetchAsked(peer, stream, body) => self.fetch_asked(peer, stream, &body)?,
            Input::MayServe(stream) => self.may_serve(stream)?,
            Input::ServeEnded(stream) => {
                self.streams.remove(&stream);
            }
            Input::Arrived(peer, grant, records) => self.arrived(peer, grant, records)?,
            Input::Receiving(peer, grant, bytes) => self.receiving(peer, grant, bytes),
            Input::FetchEnded(peer, grant, missing, end) => self.fetch_ended(peer, grant, &missing, &end)?,
            Input::Inventory(ticket) => {
                let found = self.inventory();
                self.answer(ticket, found.map(|found| Answer::Inventory(Box::new(found))));
            }
            Input::Lost(ticket, payloads, mark) => {
                let views = self.take_lost(&payloads, mark);
                self.answer(ticket, views.map(Answer::Items));
            }
            Input::Found(ticket, records) => {
                let found = self.found_again(&records);
                self.answer(ticket, found.map(|()| Answer::Items(vec![])));
            }
            Input::Unneeded(ticket, records) => {
                let unneeded = records.into_iter().filter(|record| matches!(self.needs(record), Ok(false)));
                let answer = Answer::Unneeded(unneeded.collect());
                self.answer(ticket, Ok(answer));
            }
            Input::Snapshot(ticket, mut sink) => {
                let done = self.snapshot(&mut sink);
                self.answer(ticket, done.map(|()| Answer::Items(vec![])));
            }
            Input::Counts(ticket) => {
                let counts = self.count_rows();
                self.answer(ticket, counts.map(|counts| Answer::Items(vec![counts])));
            }
            Input::Tick => self.tick()?,
        }
        self.advance_all()?;
        self.settle_syncs();
        Ok(())
    }

    fn command(&mut self, ticket: Ticket, command: Command) {
        if Self::signs(&command)
            && let Err(failure) = self.require_sound()
        {
            return self.answer(ticket, Err(failure));
        }
        let items = match command {
            Command::Status => self.show_status(),
            Command::Peers => Ok(self.show_peers()),
            Command::Card => self.show_card(),
            Command::ContactAdd { card, alias } => self.add_contact(&card, alias),
            Command::ContactList => Ok(self.show_contacts()),
            Command::ContactRemove { contact } => self.remove_contact(&contact),
            Command::DeviceInvite { for_ms } => self.invite_device(for_ms),
            Command::DeviceList => self.show_devices(),
            Command::DeviceRemove { device, last_valid_seq } => self.remove_device(&device, last_valid_seq),
            Command::RecordList(filter) => self.show_records(&filter),
            Command::RecordShow { id } => self.show_record(&id).map(|(view, _)| vec![view]),
            Command::RecordOpen { id, age, staff } => {
                let opening = self.open_record(&id, age, &staff);
                return self.answer(ticket, opening.map(|opening| Answer::Open(Box::new(opening))));
            }
            Command::RecordAdopt { id } => self.adopt_by_hand(&id),
            Command::GrantAdd(grant) => self.give(&grant),
            Command::GrantReturn { contact, kind } => self.give_back(&contact, &kind),
            Command::GrantList => self.show_grants(),
            Command::GrantShow { id } => self.show_grant(&id),
            Command::GrantCose { id } => {
                let data = self.grant_cose(&id);
                return self.answer(ticket, data.map(Answer::Data));
            }
            Command::GrantAccept { id, adopt } => self.accept_by_hand(&id, adopt),
            Command::GrantDecline { id } => self.decline(&id),
            Command::GrantRevoke { id, reason } => self.revoke(&id, &reason),
            Command::RequestAdd(new) => self.add_request(&new),
            Command::RequestTake { text } => self.take_request(&text),
            Command::RequestList => Ok(self.list_requests()),
            Command::RequestShow { id } => self.show_request(&id),
            Command::RequestApprove(approval) => self.approve(&approval),
            Command::RequestDecline { id, reason } => self.decline_request(&id, &reason),
            Command::ClockShow => Ok(self.show_clock()),
            Command::ClockReset => self.reset_clock(),
            Command::Sync { contact, staff } => return self.start_sync(ticket, contact.as_deref(), &staff),
            Command::StewardAdd { contact } => self.add_steward(&contact),
            Command::StewardList => self.show_stewards(),
            Command::StewardRemove { contact } => self.remove_steward(&contact),
            Command::StewardOffer { contact, quota_bytes, for_ms } => {
                self.offer_to_keep(&contact, quota_bytes, for_ms)
            }
            Command::StewardEnd { contact } => self.end_keeping(&contact),
            Command::StewardKeeping => Ok(self.show_keeping()),
            Command::AuditList => self.show_audit(),
            Command::KeysExport => {
                let text = self.keys.sealing.expose_age();
                return self.answer(ticket, Ok(Answer::Data(text.as_bytes().to_vec())));
            }
            Command::Stop => {
                self.out.push(Effect::Stop);
                Ok(vec![])
            }
            Command::ContactCard { contact } => self.show_contact_card(&contact),
            Command::RecoveryAsk { contacts } => self.ask_keepers(&contacts),
            Command::RecoveryTrust { party, known } => self.keep_key_for(&party, known),
            Command::RecoverySetup(new) => self.set_up_recovery(&new),
            Command::RecoveryStart => self.start_recovery(),
            Command::RecoveryApprove { request, code } => self.approve_recovery(&request, code.as_deref()),
            Command::RecoveryFinish { approvals } => self.finish_recovery(&approvals),
            Command::RecoveryGrants { grants, all } => self.give_chosen_again(&grants, all),
            Command::RecoveryShow => self.show_recovery(),
            Command::Timeline { id, filter } => self.show_timeline(id.as_deref(), &filter),
            Command::StoreAdoptCopy => self.adopt_copy(),
            Command::Import { .. }
            | Command::RecordAdd(_)
            | Command::Trend(_)
            | Command::RecordExport { .. }
            | Command::StoreCheck
            | Command::StoreRebuild
            | Command::StoreRepair { .. }
            | Command::StoreStats
            | Command::StoreGc
            | Command::BackupCreate { .. }
            | Command::Watch => Err(Failure::usage("this is not the engine's work")),
        };
        self.answer(ticket, items.map(Answer::Items));
    }

    fn answer(&mut self, ticket: Ticket, answer: Result<Answer, Failure>) {
        self.out.push(Effect::Answer(ticket, answer));
    }

    fn notice(&mut self, text: impl Into<String>) {
        self.out.push(Effect::Notice(text.into()));
    }

    /// Where this node can be reached. Kept, so that a command without a daemon still prints a card that dials.
    fn listening(&mut self, addresses: Vec<String>) -> Result<(), Failure> {
        if !addresses.is_empty() && addresses != self.addresses {
            self.addresses = addresses;
            let addresses = self.addresses.clone();
            self.put(rows::META, rows::TOP, b"addresses", &addresses)?;
            // The signed word of where we are is the card: who is connected has it at once, the others are called.
            self.near.moved(self.now);
            self.card_changed();
            self.hurry_all();
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Failure> {
        self.end_expired()?;
        self.settle_all_kept()?;
        self.turn_to_stewards();
        self.relieve_slow_helpers();
        self.tell_known();
        self.renew()
    }

    // --- the own party

    fn mine(&self) -> &Held {
        self.logs.get(&self.me.party).expect("the own log is put in when the engine opens")
    }

    fn device(&self) -> DeviceId {
        self.keys.device.device()
    }

    fn by(&self) -> By {
        By { party: Some(self.me.party), r#gen: self.mine().state.generation, device: self.device() }
    }

    /// Signs the next entry of the own chain. Durable with the next commit, which comes before any effect.
    fn append(&mut self, act: Act) -> Result<Verified<Entry>, Failure> {
        if !matches!(act, Act::Revoke { .. } | Act::RemoveDevice { .. } | Act::RemoveSteward { .. }) {
            self.require_clock()?;
        }
        self.require_sound()?;
        let device = self.device();
        let head = self.mine().state.heads.iter().find(|head| head.device == device).cloned();
        let (seq, prev) = match head {
            Some(head) => (head.seq + 1, Some(head.id)),
            // A device that joined begins behind the entry that names it.
            None => (0, self.mine().log.naming(&device)),
        };
        let entry = Entry { seq, prev, at_ms: self.now, act };
        let signed = Verified::sign(entry, self.by(), &self.keys.device)?;
        self.take_entry(self.me.party, signed.clone())?;
        self.refresh(self.me.party);
        self.push_entry(&signed);
        Ok(signed)
    }

    fn take_entry(&mut self, of: PartyId, entry: Verified<Entry>) -> Result<bool, Failure> {
        let Some(held) = self.logs.get_mut(&of) else {
            return Ok(false);
        };
        let (id, bytes) = (EntryId::from(entry.id()), entry.bytes().to_vec());
        let is_denial = entry.act.is_denial();
        match held.take(entry) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => {
                tracing::debug!(party = %of, %error, "an entry was not taken");
                return Ok(false);
            }
        }
        let mut batch = Batch::default();
        batch.put(ENTRIES, of.as_bytes(), id.as_bytes(), bytes);
        self.write(if is_denial { reload::urgent(batch) } else { batch })?;
        Ok(true)
    }

    /// Works out again what a log amounts to, after entries were taken.
    fn refresh(&mut self, of: PartyId) {
        if let Some(held) = self.logs.get_mut(&of) {
            held.refresh();
        }
        self.note_stewards(of);
    }

    // --- rows

    fn put<T: Serialize>(
        &mut self,
        table: Table,
        parent: &[u8],
        item: &[u8],
        row: &T,
    ) -> Result<(), Failure> {
        let bytes = encoding::encode(row)?;
        self.put_bytes(table, parent, item, bytes)
    }

    fn put_bytes(&mut self, table: Table, parent: &[u8], item: &[u8], bytes: Vec<u8>) -> Result<(), Failure> {
        let mut batch = Batch::default();
        batch.put(table, parent, item, bytes);
        self.write(batch)
    }

    fn delete(&mut self, table: Table, parent: &[u8], item: &[u8]) -> Result<(), Failure> {
        let mut batch = Batch::default();
        batch.delete(table, parent, item);
        self.write(batch)
    }

    fn delete_all(&mut self, table: Table, parent: &[u8]) -> Result<(), Failure> {
        let mut batch = Batch::default();
        batch.delete_all(table, parent);
        self.write(batch)
    }

    fn write(&mut self, batch: Batch) -> Result<(), Failure> {
        Ok(self.store.write(batch)?)
    }

    fn row<T: Serialize + DeserializeOwned>(
        &self,
        table: Table,
        parent: &[u8],
        item: &[u8],
    ) -> Result<Option<T>, Failure> {
        self.store.get(table, parent, item)?.map(|bytes| decode_row(&bytes)).transpose()
    }

    /// All rows of one parent, decoded; sorted by item because the store has no order.
    fn rows<T: Serialize + DeserializeOwned>(
        &self,
        table: Table,
        parent: &[u8],
    ) -> Result<BTreeMap<Vec<u8>, T>, Failure> {
        let mut rows = BTreeMap::new();
        let mut failed = None;
        self.store.scan(table, parent, &mut |item, value| match decode_row(value) {
            Ok(row) => {
                rows.insert(item.to_vec(), row);
                std::ops::ControlFlow::Continue(())
            }
            Err(failure) => {
                failed = Some(failure);
                std::ops::ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(rows), Err)
    }

    /// All values of one parent as they are.
    fn values(&self, table: Table, parent: &[u8]) -> Result<Vec<Row>, Failure> {
        let mut values = Vec::new();
        self.store.scan(table, parent, &mut |item, value| {
            values.push((item.to_vec(), value.to_vec()));
            std::ops::ControlFlow::Continue(())
        })?;
        values.sort();
        Ok(values)
    }
}

use rows::ENTRIES;

/// Item and value.
type Row = (Vec<u8>, Vec<u8>);

fn decode_row<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    encoding::decode(bytes, crate::store::VALUE_BYTES_MAX).map_err(|error| {
        Failure::new(Kind::Damaged, format!("a row of the store is not what was written: {error}"))
    })
}

/// Names something by a whole id or the beginning of one.
fn find_id<'a, T: 'a>(what: &str, text: &str, ids: impl Iterator<Item = (String, T)>) -> Result<T, Failure> {
    let text = text.trim().to_ascii_lowercase();
    if text.len() < 4 {
        return Err(Failure::usage(format!("expected at least 4 characters of a {what} id, got {text:?}")));
    }
    let mut found = ids.filter(|(id, _)| id.starts_with(&text));
    match (found.next(), found.next()) {
        (Some((_, one)), None) => Ok(one),
        (Some(_), Some(_)) => Err(Failure::usage(format!("{text} names more than one {what}"))
            .next("Give more characters of the id.")),
        (None, _) => Err(Failure::usage(format!("there is no {what} {text}"))
            .next(format!("`karte {what} list` shows what there is."))),
    }
}
