//! The holder's side: stewards named and ended, and what they are handed.

use super::super::people::in_one_message;
use super::super::rows::{LABELS, META, OWN_SHELF, RELEASES, SEGMENTS, StewardRow, TOP};
use super::super::select::time_text;
use super::super::{Engine, Serving, decode_row};
use super::{Duty, Errand, Manifest, Sent};
use crate::failure::Failure;
use crate::network::peer_text;
use karte_protocol::consent::Release;
use karte_protocol::encoding;
use karte_protocol::entry::Act;
use karte_protocol::id::{DeviceId, Digest, EntryId, GrantId, PartyId};
use karte_protocol::limits::MESSAGE_BYTES_MAX;
use karte_protocol::message::{
    Bytes, Fetch, Keep, Keeping, KeptGrant, KeptRecord, KeptSegment, Request, Response, SegmentAndKeys, Want,
};
use karte_protocol::seal;
use karte_protocol::shelf::Segment;
use karte_protocol::signed::Signed;
use serde_json::{Value, json};

/// Where the rows of stewards stand in the table of single things.
const STEWARDS: &[u8] = b"stewards";
/// Bytes of one Keep: the rest of a MiB is for the envelope.
const KEEP_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;

impl Engine {
    // --- the own user

    pub(in super::super) fn add_steward(&mut self, contact: &str) -> Result<Vec<Value>, Failure> {
        let steward = self.find_contact(contact)?;
        let name = self.name_of(steward);
        if self.mine().log.removes_steward(steward) {
            return Err(Failure::refused(format!("{name} was a steward and was removed: that is final"))
                .next("Choose another contact. After a recovery of this party it could be named again."));
        }
        let devices: Vec<DeviceId> = self
            .logs
            .get(&steward)
            .map(|held| {
                held.state
                    .devices
                    .keys()
                    .copied()
                    .filter(|device| peer_text(device.as_bytes()).is_some())
                    .collect()
            })
            .unwrap_or_default();
        if devices.is_empty() {
            return Err(Failure::refused(format!("no device of {name} is known"))
                .next("Ask for a fresh card, add it, and repeat the command."));
        }
        let named = self.mine().state.stewards.get(&steward);
        if !named.is_some_and(|named| devices.iter().all(|device| named.contains(device))) {
            self.append(Act::AddSteward { party: steward, devices })?;
            self.card_changed();
        }
        Ok(vec![self.view_steward(steward)?])
    }

    pub(in super::super) fn remove_steward(&mut self, contact: &str) -> Result<Vec<Value>, Failure> {
        let steward = self.find_contact_or_pending(contact)?;
        if !self.mine().state.stewards.contains_key(&steward) {
            return Err(Failure::usage(format!("{} is no steward of this party", self.name_of(steward)))
                .next("`karte steward list` shows who is."));
        }
        let entry = self.mine().log.names_steward(steward);
        self.append(Act::RemoveSteward { party: steward })?;
        self.delete(META, STEWARDS, steward.as_bytes())?;
        if let Some(entry) = entry {
            self.end_streams_of(entry.into());
        }
        for state in self.peers.values_mut().filter(|state| state.party == Some(steward)) {
            state.errands.kept = None;
            state.errands.sent = None;
        }
        self.card_changed();
        let party = steward.to_string();
        Ok(vec![json!({ "steward": self.name_of(steward), "party": party, "state": "removed" })])
    }

    pub(in super::super) fn show_stewards(&self) -> Result<Vec<Value>, Failure> {
        let stewards: Vec<PartyId> = self.mine().state.stewards.keys().copied().collect();
        stewards.into_iter().map(|steward| self.view_steward(steward)).collect()
    }

    fn view_steward(&self, steward: PartyId) -> Result<Value, Failure> {
        let told: Option<StewardRow> = self.row(META, STEWARDS, steward.as_bytes())?;
        let state = match &told {
            None => "has not said yet that it keeps",
            Some(row) if row.until_ms <= self.now => "keeps no longer",
            Some(row) if row.full => "full",
            Some(row) if row.missing > 0 => "fetching",
            Some(_) => "keeps",
        };
        let mut view = json!({
            "steward": self.name_of(steward),
            "party": steward.to_string(),
            "state": state,
            "connected": self.greeted_device(steward).is_some(),
        });
        if let (Some(row), Some(object)) = (told, view.as_object_mut()) {
            object.insert("quota_bytes".into(), json!(row.quota_bytes));
            object.insert("used_bytes".into(), json!(row.used_bytes));
            object.insert("missing".into(), json!(row.missing));
            object.insert("until".into(), json!(time_text(row.until_ms)));
            object.insert("as_of".into(), json!(time_text(row.told_ms)));
        }
        Ok(view)
    }

    /// Whether a device is one of a live steward's.
    pub(in super::super) fn has_steward(&self, party: PartyId, device: &DeviceId) -> bool {
        self.mine().state.stewards.get(&party).is_some_and(|devices| devices.contains(device))
    }

    // --- handing over

    /// What a steward is to be asked or handed.
    pub(super) fn handing_errands(&self, party: PartyId, peer: DeviceId) -> Result<Vec<Errand>, Failure> {
        let Some(state) = self.peers.get(&peer).filter(|_| self.has_steward(party, &peer)) else {
            return Ok(vec![]);
        };
        // The entry that names it comes first, or it could not know that it is asked.
        if state.is_pushing() {
            return Ok(vec![]);
        }
        let Some(manifest) = &state.errands.kept else { return Ok(vec![Errand::Terms]) };
        if self.next_keep(manifest)?.is_some() {
            return Ok(vec![Errand::Keep]);
        }
        Ok(if manifest.stale { vec![Errand::Terms] } else { vec![] })
    }

    /// The steward may have changed its mind: it is asked again.
    pub(in super::super) fn ask_steward_anew(&mut self, peer: DeviceId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.resume(Errand::Terms);
            state.resume(Errand::Keep);
            if let Some(manifest) = &mut state.errands.kept {
                manifest.stale = true;
            }
        }
    }

    pub(super) fn terms_told(&mut self, peer: DeviceId, said: Keeping) -> Result<(), Failure> {
        let Some(steward) = self.peers.get(&peer).and_then(|state| state.party) else { return Ok(()) };
        let grants = said.grants.iter().map(|kept| (kept.grant, kept.clone())).collect();
        self.keep_steward_row(steward, &said, false)?;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.errands.kept = Some(Manifest { said, grants, stale: false });
        }
        Ok(())
    }

    pub(super) fn terms_denied(&mut self, peer: DeviceId) -> Result<(), Failure> {
        let now = self.now;
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        state.pause(Duty::Steward(Errand::Terms), now);
        let Some(steward) = state.party else { return Ok(()) };
        if self.row::<StewardRow>(META, STEWARDS, steward.as_bytes())?.is_some() {
            self.delete(META, STEWARDS, steward.as_bytes())?;
        }
        let name = self.name_of(steward);
        self.notice(format!(
            "{name} has not said that it keeps for you: ask it to run `karte steward offer`"
        ));
        Ok(())
    }

    pub(super) fn keep_taken(&mut self, peer: DeviceId) {
        let Some(manifest) = self.peers.get_mut(&peer).and_then(|state| {
            let sent = state.errands.sent.take()?;
            Some((sent, state.errands.kept.as_mut()?))
        }) else {
            return;
        };
        let (sent, manifest) = manifest;
        manifest.stale = true;
        match sent {
            Sent::Grant(kept) => drop(manifest.grants.insert(kept.grant, kept)),
            Sent::Shelf { grant, segments, head } => {
                if let Some(kept) = manifest.grants.get_mut(&grant) {
                    (kept.segments, kept.head) = (segments, head);
                }
            }
            Sent::Own { library, segments } => {
                manifest.said.library = Some(library);
                manifest.said.segments = segments;
            }
        }
    }

    /// It would be more than the steward said it keeps: the own user is told, and nothing here changes.
    pub(super) fn keep_full(
        &mut self,
        peer: DeviceId,
        quota_bytes: u64,
        used_bytes: u64,
    ) -> Result<(), Failure> {
        let now = self.now;
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        state.errands.sent = None;
        state.pause(Duty::Steward(Errand::Keep), now);
        let Some(steward) = state.party else { return Ok(()) };
        if let Some(said) = state.errands.kept.as_ref().map(|manifest| manifest.said.clone()) {
            self.keep_steward_row(steward, &Keeping { quota_bytes, used_bytes, ..said }, true)?;
        }
        let name = self.name_of(steward);
        let failure = Failure::refused(format!(
            "{name} keeps at most {quota_bytes} bytes and has {used_bytes}: the next records do not fit"
        ))
        .next(format!("Ask {name} for a larger quota (`karte steward offer --quota`), or add another steward. Nothing is lost here."));
        self.notice(failure.message.clone());
        self.end_sync_of(steward, Err(failure));
        Ok(())
    }

    fn keep_steward_row(&mut self, steward: PartyId, said: &Keeping, full: bool) -> Result<(), Failure> {
        let row = StewardRow {
            quota_bytes: said.quota_bytes,
            used_bytes: said.used_bytes,
            until_ms: said.until_ms,
            missing: said.missing,
            told_ms: self.now,
            full,
        };
        self.put(META, STEWARDS, steward.as_bytes(), &row)
    }

    pub(super) fn keep_request(&mut self, peer: DeviceId) -> Result<Option<Request>, Failure> {
        let Some((steward, manifest)) =
            self.peers.get(&peer).and_then(|state| Some((state.party?, state.errands.kept.as_ref()?)))
        else {
            return Ok(None);
        };
        let Some(lack) = self.next_keep(manifest)? else { return Ok(None) };
        let made = match lack {
            Lack::Grant(id) => self.keep_grant(id, steward)?,
            Lack::Shelf(id, from) => self.keep_shelf(id, from)?,
            Lack::Own(from) => self.keep_own(from)?,
        };
        let Some((keep, sent)) = made else { return Ok(None) };
        if let Some(state) = self.peers.get_mut(&peer) {
            state.errands.sent = Some(sent);
        }
        Ok(Some(Request::Keep(keep)))
    }

    /// What a steward lacks next: grants and their shelves first, for readers wait for them.
    fn next_keep(&self, manifest: &Manifest) -> Result<Option<Lack>, Failure> {
        for (id, segments) in self.live_shelves() {
            let (Some(accept), Some(identity)) = (self.accept_of_given(&id), self.reader_identity(&id))
            else {
                continue;
            };
            match manifest.grants.get(&id) {
                Some(kept) if kept.accept == accept && kept.reader == identity => {
                    if kept.segments < segments || !kept.head {
                        return Ok(Some(Lack::Shelf(id, kept.segments)));
                    }
                }
                _ => return Ok(Some(Lack::Grant(id))),
            }
        }
        let (end, _) = self.own_shelf_end()?;
        // As it stands in the store: only compared, and verified by whoever keeps it.
        let library = self.store.get(META, TOP, b"library")?.map(Bytes::from);
        let lacks = library.is_some() && (manifest.said.library != library || manifest.said.segments < end);
        Ok(lacks.then_some(Lack::Own(manifest.said.segments)))
    }

    fn reader_identity(&self, id: &GrantId) -> Option<Digest> {
        let reader = self.given.get(id)?.open.reader();
        Some(self.logs.get(&reader)?.state.identity)
    }

    fn keep_grant(&self, id: GrantId, steward: PartyId) -> Result<Option<(Keep, Sent)>, Failure> {
        let (Some(given), Some(to)) = (self.given.get(&id), self.logs.get(&steward)) else { return Ok(None) };
        let Some(accept) = &given.accept else { return Ok(None) };
        let Some(reader) = self.logs.get(&given.open.reader()) else { return Ok(None) };
        let opening = encoding::encode(&given.row.opening.for_steward())?;
        let to: Vec<_> =
            to.state.recipients().into_iter().filter(|recipient| recipient.to_age().is_ok()).collect();
        if to.is_empty() {
            return Ok(None);
        }
        let entries = reader.log.identity_entries();
        let keep = Keep::Grant {
            opening: seal::seal_to(&opening, &to)?.into(),
            accept: accept.bytes().to_vec().into(),
            reader: in_one_message(&entries),
        };
        let kept = KeptGrant {
            grant: id,
            accept: accept.id(),
            reader: reader.state.identity,
            segments: 0,
            head: false,
        };
        Ok(Some((keep, Sent::Grant(kept))))
    }

    fn keep_shelf(&self, id: GrantId, from: u64) -> Result<Option<(Keep, Sent)>, Failure> {
        let Some(head) = self.shelf_head(id)? else { return Ok(None) };
        let end = self.given.get(&id).map_or(0, |given| given.row.segments);
        let segments = self.kept_segments(id.as_bytes(), from, end)?;
        let until = from + u64::try_from(segments.len()).unwrap_or_default();
        let sent = Sent::Shelf { grant: id, segments: until, head: until >= end };
        Ok(Some((Keep::Shelf { grant: id, head: head.bytes().to_vec().into(), segments }, sent)))
    }

    fn keep_own(&self, from: u64) -> Result<Option<(Keep, Sent)>, Failure> {
        let Some(library) = self.published_library()? else { return Ok(None) };
        let (end, _) = self.own_shelf_end()?;
        let segments = self.kept_segments(OWN_SHELF, from, end)?;
        let until = from + u64::try_from(segments.len()).unwrap_or_default();
        let library = Bytes::from(library.bytes().to_vec());
        let sent = Sent::Own { library: library.clone(), segments: until };
        Ok(Some((Keep::Own { library, segments }, sent)))
    }

    /// Segments of a shelf from one on, as many as fit into a message, with what a steward must know of their records.
    fn kept_segments(&self, parent: &[u8], from: u64, end: u64) -> Result<Vec<KeptSegment>, Failure> {
        let mut segments: Vec<KeptSegment> = Vec::new();
        let mut bytes = 0;
        for seq in from..end {
            let Some(row) = self.store.get(SEGMENTS, parent, &seq.to_be_bytes())? else { break };
            let both = decode_row::<SegmentAndKeys>(&row)?;
            let segment = Signed::<Segment>::from_bytes(both.segment.to_vec()).recall()?;
            let mut records = Vec::new();
            for record in &segment.records {
                let Some(own) = self.own_row(record)? else { continue };
                records.push(KeptRecord {
                    record: *record,
                    bytes: own.payload_bytes,
                    label_hash: own.label_hash,
                });
            }
            // 120: a name, a hash and a length in CBOR.
            bytes += row.len() + 120 * records.len();
            if bytes > KEEP_BYTES_MAX && !segments.is_empty() {
                break;
            }
            segments.push(KeptSegment { segment: both.segment, keys: both.keys, records });
        }
        Ok(segments)
    }

    // --- payloads

    /// What a steward fetches: sealed labels and payloads of own records. None: it may not.
    pub(in super::super) fn handed_over(
        &self,
        peer: DeviceId,
        fetch: &Fetch,
    ) -> Result<Option<Vec<Serving>>, Failure> {
        if !self.may_hand_over(peer, fetch.grant) {
            return Ok(None);
        }
        fetch.wants.iter().map(|want| self.own_serving(want)).collect::<Result<_, _>>().map(Some)
    }

    /// Whether the entry names a live steward whose device the peer is.
    pub(in super::super) fn may_hand_over(&self, peer: DeviceId, entry: GrantId) -> bool {
        let Some(Act::AddSteward { party, .. }) =
            self.mine().log.get(&EntryId::from(entry)).map(|entry| &entry.act)
        else {
            return false;
        };
        let greeted = self.peers.get(&peer).is_some_and(|state| state.party == Some(*party));
        greeted && self.has_steward(*party, &peer) && self.is_known(*party) && self.is_sound()
    }

    pub(in super::super) fn own_serving(&self, want: &Want) -> Result<Serving, Failure> {
        let record = want.record;
        let Some(row) = self.own_row(&record)? else {
            return Ok(Serving { record, payload_bytes: 0, from: 0, label: None });
        };
        let label = match want.label {
            true => self.store.get(LABELS, TOP, record.as_bytes())?,
            false => None,
        };
        Ok(Serving { record, payload_bytes: row.payload_bytes, from: want.from, label })
    }

    // --- the audit comes home

    /// What a steward was asked and told in this party's name. Each proves itself; one that is wrong is passed over.
    pub(in super::super) fn take_served(
        &mut self,
        from: PartyId,
        releases: &[Bytes],
        receipts: &[Bytes],
    ) -> Result<Response, Failure> {
        for bytes in releases {
            let Ok(release) = Signed::<Release>::from_bytes(bytes.to_vec()).verify() else {
                continue;
            };
            let Some(reader) = self.given.get(&release.grant).map(|given| given.open.reader()) else {
                continue;
            };
            let readers = self
                .logs
                .get(&reader)
                .is_some_and(|held| held.log.named_devices().contains(&release.by().device));
            let asked_it =
                self.logs.get(&from).is_some_and(|held| held.log.named_devices().contains(&release.to));
            if !release.is_by(reader) || !readers || !asked_it {
                continue;
            }
            let (grant, id) = (release.grant, release.id());
            let held = self.store.get(RELEASES, grant.as_bytes(), id.as_bytes())?;
            if held.is_none() {
                let bytes = release.bytes().to_vec();
                self.put_bytes(RELEASES, grant.as_bytes(), id.as_bytes(), bytes)?;
            }
        }
        self.take_receipts(receipts)
    }

    /// Who served, if it was not this party itself: its name.
    pub(in super::super) fn served_by(&self, device: &DeviceId) -> Option<String> {
        let mut others = self.logs.iter().filter(|(party, _)| **party != self.me.party);
        others
            .find(|(_, held)| held.log.named_devices().contains(device))
            .map(|(party, _)| self.name_of(*party))
    }
}

/// The next thing that a steward lacks.
enum Lack {
    Grant(GrantId),
    /// From this segment on.
    Shelf(GrantId, u64),
    Own(u64),
}
