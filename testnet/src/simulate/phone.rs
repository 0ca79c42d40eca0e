//! A patient's second device, which was stolen: what it signs and whom it tells.
//!
//! A seam: until engines take in devices themselves, the owner enrols and removes it by entries that the scenario
//! signs with the owner's keys ([`World::signs_at_home`]).

use super::plan::{NAMES, STEWARD, Theft};
use super::world::{Meant, World};
use karte_node::engine::Input;
use karte_node::store::{Batch, Store, Table};
use karte_protocol::card::Card;
use karte_protocol::chance::Chance;
use karte_protocol::consent::Status;
use karte_protocol::encoding;
use karte_protocol::entry::{Act, Device, Entry, Recover, RecoverTerms};
use karte_protocol::grant::{self, Onward, Opened, Opening, Reader, Scope};
use karte_protocol::id::{DeviceId, EntryId, GrantId, PartyId};
use karte_protocol::identity::Head;
use karte_protocol::keys::{DeviceKey, RecoverySeed, SealingKey};
use karte_protocol::limits::LEASE_MS_MAX;
use karte_protocol::message::{Bytes, Hello, Request};
use karte_protocol::seal;
use karte_protocol::signed::{By, Signed, Verified};
use karte_protocol::time::{DAY_MS, MINUTE_MS};

/// The device and what its thief knows.
pub struct Phone {
    key: DeviceKey,
    sealing: SealingKey,
    generation: u32,
    named_by: EntryId,
    /// The identity entries of its party, as of the theft.
    identity: Vec<Vec<u8>>,
    /// Its own chain, in order; of a fork, the branch it goes on from.
    chain: Vec<Verified<Entry>>,
    /// What it signed and has not told everybody.
    all: Vec<Vec<u8>>,
}

impl Phone {
    /// Its key.
    pub fn device(&self) -> DeviceId {
        self.key.device()
    }

    /// The seq of its last entry; none if it signed none.
    pub fn last_seq(&self) -> Option<u64> {
        self.chain.last().map(|entry| entry.seq)
    }

    fn by(&self, party: PartyId) -> By {
        By { party: Some(party), r#gen: self.generation, device: self.device() }
    }
}

impl World {
    /// The owner signs an identity entry: its node is stopped, the entry put into its rows, and it starts again.
    pub fn signs_at_home(&mut self, at: usize, act: Act) -> Option<EntryId> {
        let node = &self.nodes[at];
        let state = node.engine.as_ref()?.state_of(node.party)?;
        let device = node.device();
        if !state.has_device(&device) || node.view.is_rolled_back {
            return None;
        }
        let head = state.heads.iter().find(|head| head.device == device);
        let (seq, prev) = head.map_or((0, None), |head| (head.seq + 1, Some(head.id)));
        let entry = Entry { seq, prev, at_ms: self.clock(at), act };
        let by = By { party: Some(node.party), r#gen: state.generation, device };
        let signed = Verified::sign(entry, by, &node.keys.device).ok()?;
        let party = node.party;
        self.stop(at);
        self.put_entry(at, party, &signed);
        self.start(at, false);
        Some(signed.id().into())
    }

    fn put_entry(&mut self, at: usize, party: PartyId, entry: &Verified<Entry>) {
        let mut batch = Batch::default();
        let id = EntryId::from(entry.id());
        batch.put(Table(1), party.as_bytes(), id.as_bytes(), entry.bytes().to_vec());
        let store = &mut self.nodes[at].store;
        store.write(batch).and_then(|()| store.commit()).expect("memory takes an entry");
    }

    /// A patient adds a second device. It is stolen at once.
    pub fn enrols(&mut self, patient: usize) {
        if self.phones.contains_key(&patient) {
            return;
        }
        let mut chance = crate::world::SeededChance::new(&format!("{} phone {}", self.seed, NAMES[patient]));
        let (key, sealing) = (DeviceKey::generate(&mut chance), SealingKey::generate(&mut chance));
        let device = Device { device: key.device(), recipients: vec![sealing.recipient()] };
        self.may_fork.insert(key.device());
        let Some(named_by) = self.signs_at_home(patient, Act::AddDevice(device)) else { return };
        let Some(engine) = &self.nodes[patient].engine else { return };
        let generation = engine.signer().r#gen;
        let identity = engine.identity();
        let phone = Phone { key, sealing, generation, named_by, identity, chain: vec![], all: vec![] };
        self.phones.insert(patient, phone);
        self.story.tell(self.now, format!("{} adds a phone, and it is stolen", NAMES[patient]));
    }

    /// The party ends the phone; what it signed stays, or only its first entry does.
    pub fn removes_phone(&mut self, patient: usize, keeps: bool) {
        let Some(phone) = self.phones.get(&patient) else { return };
        let last_valid_seq = if keeps { phone.last_seq().unwrap_or_default() } else { 0 };
        let device = phone.device();
        if self.signs_at_home(patient, Act::RemoveDevice { device, last_valid_seq }).is_some() {
            let what = format!("{} removes the phone after its entry {last_valid_seq}", NAMES[patient]);
            self.story.tell(self.now, what);
        }
    }

    /// A patient names the steward.
    pub fn appoints(&mut self, patient: usize) {
        let (party, devices) = (self.nodes[STEWARD].party, vec![self.nodes[STEWARD].device()]);
        if self.signs_at_home(patient, Act::AddSteward { party, devices }).is_some() {
            self.story.tell(self.now, format!("{} makes {} its steward", NAMES[patient], NAMES[STEWARD]));
        }
    }

    /// The thief does something with the phone, at a clinic.
    pub fn steals(&mut self, patient: usize, at: usize, theft: Theft, nth: u64) {
        let Some(mut phone) = self.phones.remove(&patient) else { return };
        let told = self.theft(&mut phone, patient, at, theft, nth);
        if let Some((status, more)) = told {
            let what = format!("{}'s stolen phone at {}: {theft:?}", NAMES[patient], NAMES[at]);
            self.story.tell(self.now, what);
            self.visits(&phone, patient, at, status, more);
        }
        self.phones.insert(patient, phone);
    }

    /// What the thief says in greeting and after it.
    fn theft(
        &mut self,
        phone: &mut Phone,
        patient: usize,
        at: usize,
        theft: Theft,
        nth: u64,
    ) -> Option<(Vec<u8>, Vec<Request>)> {
        let party = self.nodes[patient].party;
        let mut more = vec![];
        let mut status = vec![];
        match theft {
            Theft::Forks => {
                let one = self.phone_signs(phone, party, revoke_nothing("one"), false)?;
                let other = self.phone_signs(phone, party, revoke_nothing("other"), true)?;
                if nth.is_multiple_of(2) {
                    // One branch here, the other at the next clinic.
                    phone.all.retain(|bytes| *bytes != other);
                    more.push(entries(party, &phone.all));
                    phone.all.retain(|bytes| *bytes != one);
                    phone.all.push(other);
                    return Some((status, more));
                }
            }
            Theft::Grants => more.extend(self.phone_grants(phone, patient, at)),
            Theft::Adds => {
                let key = DeviceKey::from_seed(blake3::hash(&nth.to_be_bytes()).as_bytes());
                self.may_fork.insert(key.device());
                let act = Act::AddDevice(Device {
                    device: key.device(),
                    recipients: vec![phone.sealing.recipient()],
                });
                self.phone_signs(phone, party, act, false)?;
            }
            Theft::RemovesOwner => {
                let device = self.nodes[patient].device();
                self.phone_signs(phone, party, Act::RemoveDevice { device, last_valid_seq: nth % 4 }, false)?;
            }
            Theft::Revokes => {
                let of_party: Vec<GrantId> =
                    self.grants.iter().filter(|meant| meant.holder == party).map(|meant| meant.id).collect();
                let grant = *of_party.get(Self::nth(nth, of_party.len()))?;
                self.phone_signs(phone, party, Act::Revoke { grant, reason: String::new() }, false)?;
            }
            Theft::Says { ahead_min } => {
                status = self.word_of(phone.by(party), &phone.key, patient, at, ahead_min)?;
            }
            Theft::BringsStewardsWord => {
                let keys = self.nodes[STEWARD].keys.clone();
                let by =
                    By { party: Some(self.nodes[STEWARD].party), r#gen: 0, device: keys.device.device() };
                let word = self.word_of(by, &keys.device, patient, at, 0)?;
                // The thief shows who the steward is, and then what it said.
                let home = self.nodes[patient].engine.as_ref()?.identity();
                let steward = Request::Status { status: word.into() };
                return Some((status, vec![entries(party, &home), steward]));
            }
            Theft::RecoversWithoutKeys => {
                let seed = RecoverySeed::from_seed(blake3::hash(&nth.to_be_bytes()).as_bytes());
                let bytes = self.phone_recovers(phone, party, &seed)?;
                more.push(entries(party, &[bytes]));
                return Some((status, more));
            }
            Theft::RecoversWithStolenWords => {
                let seed = self.nodes[patient].keys.recovery.seed()?;
                let bytes = self.phone_recovers(phone, party, &seed)?;
                let entry = Signed::<Entry>::from_bytes(bytes.clone()).verify().ok()?;
                self.right.insert(entry.id().into());
                more.push(entries(party, &[bytes]));
                return Some((status, more));
            }
        }
        more.insert(0, entries(party, &phone.all));
        Some((status, more))
    }

    /// The phone's next entry, or one beside its last.
    fn phone_signs(&mut self, phone: &mut Phone, party: PartyId, act: Act, beside: bool) -> Option<Vec<u8>> {
        if beside {
            phone.chain.pop();
        }
        let (seq, prev) = match phone.chain.last() {
            Some(last) => (last.seq + 1, EntryId::from(last.id())),
            None => (0, phone.named_by),
        };
        let entry = Entry { seq, prev: Some(prev), at_ms: self.now, act };
        let signed = Verified::sign(entry, phone.by(party), &phone.key).ok()?;
        let bytes = signed.bytes().to_vec();
        phone.all.push(bytes.clone());
        phone.chain.push(signed);
        Some(bytes)
    }

    fn phone_grants(&mut self, phone: &mut Phone, patient: usize, at: usize) -> Option<Request> {
        let (holder, reader) = (self.nodes[patient].party, self.nodes[at].party);
        let mut chance = self.chance("theft");
        let (salt, scope_salt) = (chance.salt(), chance.salt());
        let scope = Scope { kinds: vec!["fhir".into()], ..Scope::default() };
        let opened = Opened {
            reader: Reader::Party(reader),
            subject: holder,
            scope_hash: grant::scope_hash(&scope_salt, &scope).ok()?,
            purpose: "TREAT".into(),
            basis: "consent".into(),
            not_before_ms: self.now,
            not_after_ms: self.now + 30 * DAY_MS,
            offline_ms: DAY_MS,
            onward: Onward::No,
            conditions: vec![],
        };
        let commitment = grant::commitment(&salt, &opened).ok()?;
        let entry = self.phone_signs(phone, holder, Act::Grant { commitment }, false)?;
        let opening = Opening { entry, salt, opened, scope_salt: Some(scope_salt), scope: Some(scope) };
        let id = opening.verify().ok()?.id();
        self.grants.push(Meant {
            id,
            holder,
            generation: phone.generation,
            reader,
            subject: holder,
            labs_only: false,
            from_ms: self.now,
            until_ms: self.now + 30 * DAY_MS,
            offline_ms: DAY_MS,
        });
        let to = [self.nodes[at].keys.sealing.recipient()];
        let sealed = seal::seal_to(&encoding::encode(&opening).ok()?, &to).ok()?;
        Some(Request::Offer { grant: id, opening: sealed.into() })
    }

    fn phone_recovers(&self, phone: &Phone, party: PartyId, seed: &RecoverySeed) -> Option<Vec<u8>> {
        let terms = RecoverTerms {
            party,
            r#gen: phone.generation + 1,
            devices: vec![Device { device: phone.device(), recipients: vec![phone.sealing.recipient()] }],
            next_recovery: vec![],
            threshold: 0,
        };
        let act = Act::Recover(Recover::sign(terms, &[seed]).ok()?);
        let by = By { party: Some(party), r#gen: phone.generation + 1, device: phone.device() };
        let entry = Entry { seq: 0, prev: None, at_ms: self.now, act };
        Some(Verified::sign(entry, by, &phone.key).ok()?.bytes().to_vec())
    }

    /// "Nothing has changed", made to fit what the clinic holds.
    fn word_of(&self, by: By, key: &DeviceKey, patient: usize, at: usize, ahead_min: i64) -> Option<Vec<u8>> {
        let party = self.nodes[patient].party;
        let verdict = self.verdict(at, party)?;
        let held = self.held(at, party)?;
        let heads: Vec<Head> = verdict
            .whole
            .iter()
            .filter_map(|(device, whole)| {
                let seq = whole.checked_sub(1)?;
                let last = |fact: &&super::model::Fact| fact.by().device == *device && fact.seq == seq;
                let fact = held.values().find(last)?;
                Some(Head { device: *device, seq, id: fact.id().into() })
            })
            .collect();
        let status = Status {
            of: party,
            r#gen: verdict.generation,
            heads,
            identity: self.identity_of(at, party),
            issued_ms: self.now + ahead_min * MINUTE_MS,
            lease_ms: LEASE_MS_MAX,
        };
        Some(Verified::sign(status, by, key).ok()?.bytes().to_vec())
    }

    /// The phone calls a clinic, greets and says what it came for.
    fn visits(&mut self, phone: &Phone, patient: usize, at: usize, status: Vec<u8>, more: Vec<Request>) {
        let party = self.nodes[patient].party;
        let card = Card {
            name: NAMES[patient].into(),
            kind: "patient".into(),
            addresses: vec![],
            identity: phone.identity.iter().cloned().map(Bytes::from).collect(),
            at_ms: self.now,
        };
        let Ok(card) = Verified::sign(card, phone.by(party), &phone.key) else { return };
        let hello = Request::Hello(Hello { card: card.bytes().to_vec().into(), status: status.into() });
        let mut requests = vec![hello];
        requests.extend(more);
        self.calls(at, phone.device(), requests);
    }

    /// A device calls a node, asks one thing after another, and hangs up.
    pub fn calls(&mut self, at: usize, device: DeviceId, requests: Vec<Request>) {
        self.feed(at, Input::Connected { peer: device, address: "somewhere".into(), dialled: false });
        for request in requests {
            let Ok(body) = request.to_bytes() else { continue };
            let id = self.number();
            self.feed(at, Input::Request(device, id, body));
        }
        self.disconnects(at, device);
        self.feed(at, Input::Disconnected(device));
    }
}

fn entries(of: PartyId, all: &[Vec<u8>]) -> Request {
    Request::Entries { of, entries: all.iter().cloned().map(Bytes::from).collect() }
}

fn revoke_nothing(word: &str) -> Act {
    let grant = GrantId::from(*blake3::hash(word.as_bytes()).as_bytes());
    Act::Revoke { grant, reason: word.into() }
}
