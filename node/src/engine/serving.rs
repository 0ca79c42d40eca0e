//! Serving: sessions that readers open, and what goes out under them.
//!
//! For: SPEC rule 7 on every request and again while a stream runs. Not for: what lies on the shelves
//! ([`super::giving`]).

use super::devices::Place;
use super::rows::{LABELS, RELEASES, SEGMENTS, SHELVED, TOP};
use super::{Effect, Engine, Serving, StreamId, decode_row};
use crate::failure::Failure;
use karte_protocol::consent::{Accept, Release};
use karte_protocol::decide::{self, Clause, Denial};
use karte_protocol::grant::OpenGrant;
use karte_protocol::id::{DeviceId, GrantId, PartyId, RecordId};
use karte_protocol::limits::{MESSAGE_BYTES_MAX, WANTS_MAX};
use karte_protocol::message::{Fetch, Frame, Response, SegmentAndKeys};
use karte_protocol::shelf::ShelfHead;
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::MINUTE_MS;
use std::collections::BTreeSet;

/// Bytes of segments in one answer: the rest of a MiB is for the envelope.
const SEGMENTS_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;
/// Bytes of segments that go with news. 256 KiB: one full segment with its keys; more is worth a question.
const NEWS_BYTES_MAX: usize = 256 * 1024;
/// Releases of one connection in one minute. 60: a person syncs less, a program needs no more.
const RELEASES_A_MINUTE_MAX: u32 = 60;

/// A segment with its keys, and the length of its row in bytes.
type SizedSegment = (usize, SegmentAndKeys);
/// Reads the segment with a number from where a shelf lies; none beyond its end.
type ReadSegment<'a> = &'a dyn Fn(&Engine, u64) -> Result<Option<SizedSegment>, Failure>;

/// A grant that this device can serve under.
struct Served<'a> {
    holder: PartyId,
    open: &'a OpenGrant,
    accept: Option<&'a Verified<Accept>>,
    segments: u64,
}

impl Engine {
    /// A reader's request for a session. The Release is kept before anything is said: it is the audit.
    pub(super) fn release(
        &mut self,
        peer: DeviceId,
        from: PartyId,
        bytes: &[u8],
    ) -> Result<Response, Failure> {
        // Before anything is looked at: beyond the limit a good signature must not be told from a bad one.
        if !self.may_ask_again(peer) {
            return Ok(Response::Denied);
        }
        let Ok(release) = Signed::<Release>::from_bytes(bytes).verify() else {
            self.refuse(from, None, "a release whose signature is wrong")?;
            return Ok(Response::Denied);
        };
        let (id, since) = (release.grant, release.since);
        let unseen = self.store.get(RELEASES, id.as_bytes(), release.id().as_bytes())?.is_none();
        let fresh = (unseen || wrong!(ReleaseReplayed)) && decide::is_fresh(&release, self.now);
        let decision = if fresh {
            self.may_release(peer, from, &release)
        } else {
            Err(Denial { grant: id, clause: Clause::Request })
        };
        if let Err(denial) = decision {
            self.refuse(from, Some(id), &denial.clause.to_string())?;
            return Ok(Response::Denied);
        }
        let Some((holder, head)) = self.head_to_serve(id)? else {
            return Ok(Response::Denied);
        };
        self.put_bytes(RELEASES, id.as_bytes(), release.id().as_bytes(), release.bytes().to_vec())?;
        match holder == self.me.party {
            true => self.touch(Place::Release { grant: id, id: release.id() })?,
            false => self.owe(holder, release.id(), id)?,
        }
        if let Some(state) = self.peers.get_mut(&peer) {
            state.told.insert(id, head.chains.iter().map(|chain| chain.segments).sum());
            state.serving.insert(id, release);
        }
        let segments = self.news_segments(id, since)?;
        // Live: it was decided on just now.
        let Some(status) = self.latest.get(&holder) else { return Ok(Response::Denied) };
        let (status, head) = (status.bytes().to_vec().into(), head.bytes().to_vec().into());
        Ok(Response::Session { status, head, segments })
    }

    /// What can be served under a grant: one of the own party, or one that is kept for its holder.
    fn served(&self, grant: &GrantId) -> Option<Served<'_>> {
        if let Some(given) = self.given.get(grant) {
            let (open, segments) = (&given.open, given.row.segments);
            return Some(Served { holder: self.me.party, open, accept: given.accept.as_ref(), segments });
        }
        let (holder, open, accept, segments) = self.kept_grant(grant)?;
        Some(Served { holder, open, accept: Some(accept), segments })
    }

    /// The ShelfHead that a session begins with: the own one anew, a kept one as the holder signed it.
    pub(super) fn head_to_serve(
        &self,
        grant: GrantId,
    ) -> Result<Option<(PartyId, Verified<ShelfHead>)>, Failure> {
        if let Some(head) = self.shelf_head(grant)? {
            return Ok(Some((self.me.party, head)));
        }
        let Some(served) = self.served(&grant) else { return Ok(None) };
        let Some(bytes) = self.kept_head(&grant) else { return Ok(None) };
        Ok(Some((served.holder, Signed::<ShelfHead>::from_bytes(bytes).verify()?)))
    }

    /// Segments of a shelf that is served here.
    pub(super) fn segments_served(&self, grant: &GrantId) -> u64 {
        self.served(grant).map_or(0, |served| served.segments)
    }

    /// Counts releases, each of which is a row for ever.
    fn may_ask_again(&mut self, peer: DeviceId) -> bool {
        let minute = self.now / MINUTE_MS;
        let Some(state) = self.peers.get_mut(&peer) else { return false };
        if state.releases.0 != minute {
            state.releases = (minute, 0);
        }
        state.releases.1 += 1;
        state.releases.1 <= RELEASES_A_MINUTE_MAX
    }

    /// SPEC rule 7, with what is held now.
    fn may_release(
        &mut self,
        peer: DeviceId,
        from: PartyId,
        release: &Verified<Release>,
    ) -> Result<(), Denial> {
        let grant = release.grant;
        let unknown = Denial { grant, clause: Clause::NotCounting };
        if self.is_clock_behind() {
            return Err(Denial { grant, clause: Clause::Clock });
        }
        let (of, offline_ms, heard_ms) = self
            .served(&grant)
            .map(|served| {
                let heard_ms = self.heard_of_ms(served.holder, &served.open.entry);
                (served.holder, served.open.opened.offline_ms, heard_ms)
            })
            .ok_or(unknown.clone())?;
        // The holder's Status is renewed when its lease runs low: by this device, its own or its steward's.
        let renewed = match of == self.me.party {
            true => self.own_status().map(drop),
            false => self.vouch(of, heard_ms, offline_ms),
        };
        let stale = Denial { grant, clause: Clause::HolderStatus };
        renewed.map_err(|_| self.explain(stale, heard_ms, offline_ms))?;
        let served = self.served(&grant).ok_or(unknown.clone())?;
        let holder = self.logs.get(&of).ok_or(unknown.clone())?;
        let reader = self.logs.get(&from).ok_or(unknown)?;
        decide::serve(&decide::Serving {
            now_ms: self.now,
            grant,
            opened: Some(&served.open.opened),
            holder: (&holder.log, &holder.state),
            holder_status: self.latest.get(&of),
            holder_heard_ms: heard_ms,
            reader: (&reader.log, &reader.state),
            reader_status: self.latest.get(&from),
            accept: served.accept,
            release,
            peer,
            this: self.device(),
        })
        .map_err(|denial| self.explain(denial, heard_ms, offline_ms))
    }

    /// Whether the running session of a peer under a grant still stands; if not, it ends here.
    fn session_stands(&mut self, peer: DeviceId, grant: GrantId) -> Result<(), Denial> {
        let none = Denial { grant, clause: Clause::Request };
        let state = self.peers.get(&peer).ok_or(none.clone())?;
        let (from, release) = match (state.party, state.serving.get(&grant)) {
            (Some(from), Some(release)) => (from, release.clone()),
            _ => return Err(none),
        };
        let decision = self.may_release(peer, from, &release);
        if decision.is_err()
            && let Some(state) = self.peers.get_mut(&peer)
        {
            state.serving.remove(&grant);
        }
        decision
    }

    pub(super) fn segments(
        &mut self,
        peer: DeviceId,
        grant: GrantId,
        from: u64,
    ) -> Result<Response, Failure> {
        if let Some(holder) = self.holder_asking(peer, grant) {
            // Its own shelf, for a new device of the holder: no grant is needed for what is its own.
            return self.segments_from(from, &|engine, seq| engine.kept_segment(holder.as_bytes(), seq));
        }
        if let Err(denial) = self.session_stands(peer, grant) {
            self.refuse_peer(peer, Some(grant), &denial.clause.to_string())?;
            if wrong!(DeniedDiffers) && self.given.contains_key(&grant) {
                return Ok(Response::Segments { segments: vec![] });
            }
            return Ok(Response::Denied);
        }
        match self.given.contains_key(&grant) {
            true => self.segments_from(from, &|engine, seq| engine.given_segment(grant, seq)),
            false => self.segments_from(from, &|engine, seq| engine.kept_segment(grant.as_bytes(), seq)),
        }
    }

    fn given_segment(&self, grant: GrantId, seq: u64) -> Result<Option<SizedSegment>, Failure> {
        let row = self.store.get(SEGMENTS, grant.as_bytes(), &seq.to_be_bytes())?;
        row.map(|row| Ok((row.len(), decode_row(&row)?))).transpose()
    }

    /// What a shelf has beyond what its reader was told of or says it holds, as far as that is little enough to go with the
    /// word of it.
    pub(super) fn news_segments(&self, grant: GrantId, from: u64) -> Result<Vec<SegmentAndKeys>, Failure> {
        let mut segments = Vec::new();
        let mut bytes = 0;
        for seq in from..self.segments_served(&grant) {
            let found = match self.given.contains_key(&grant) {
                true => self.given_segment(grant, seq)?,
                false => self.kept_segment(grant.as_bytes(), seq)?,
            };
            let Some((row_bytes, both)) = found else { break };
            bytes += row_bytes;
            if bytes > NEWS_BYTES_MAX {
                break;
            }
            segments.push(both);
        }
        Ok(segments)
    }

    /// As many segments as fit into an answer.
    fn segments_from(&self, from: u64, segment: ReadSegment<'_>) -> Result<Response, Failure> {
        let mut segments = Vec::new();
        let mut bytes = 0;
        for seq in from.. {
            let Some((row_bytes, both)) = segment(self, seq)? else { break };
            bytes += row_bytes + 16;
            if bytes > SEGMENTS_BYTES_MAX && !segments.is_empty() {
                break;
            }
            segments.push(both);
        }
        Ok(Response::Segments { segments })
    }

    /// A reader's want-list on a stream.
    pub(super) fn fetch_asked(
        &mut self,
        peer: DeviceId,
        stream: StreamId,
        body: &[u8],
    ) -> Result<(), Failure> {
        let names_each_once = |fetch: &Fetch| {
            let records: BTreeSet<&RecordId> = fetch.wants.iter().map(|want| &want.record).collect();
            records.len() == fetch.wants.len() && records.len() <= WANTS_MAX
        };
        let fetch = Fetch::from_bytes(body).ok().filter(names_each_once);
        let Some(fetch) = fetch else {
            self.out.push(Effect::Finish(stream, Frame::Denied));
            return Ok(());
        };
        if fetch.back || fetch.keep || fetch.grant == self.own_fetch() {
            return self.asked_without_session(peer, stream, &fetch);
        }
        if let Err(denial) = self.session_stands(peer, fetch.grant) {
            self.refuse_peer(peer, Some(fetch.grant), &denial.clause.to_string())?;
            self.out.push(Effect::Finish(stream, Frame::Denied));
            return Ok(());
        }
        let mut items = Vec::new();
        for want in &fetch.wants {
            items.push(self.serving_of(fetch.grant, want)?);
        }
        self.streams.insert(stream, (peer, fetch.grant));
        self.out.push(Effect::Serve(stream, items, fetch.urgent));
        Ok(())
    }

    /// The holder asks its reader for what it has lost; the steward its holder for what it keeps, or the other way
    /// round; a device another of its party for what that one has.
    fn asked_without_session(
        &mut self,
        peer: DeviceId,
        stream: StreamId,
        fetch: &Fetch,
    ) -> Result<(), Failure> {
        let items = match (fetch.back, fetch.keep) {
            (false, false) => self.giving_own(peer, fetch)?,
            (true, false) => self.giving_back(peer, fetch)?,
            (false, true) if self.may_hand_over(peer, fetch.grant) => self.handed_over(peer, fetch)?,
            (false, true) => self.taken_back(peer, fetch)?,
            _ => None,
        };
        match items {
            Some(items) => {
                self.streams.insert(stream, (peer, fetch.grant));
                self.out.push(Effect::Serve(stream, items, fetch.urgent));
            }
            None => self.out.push(Effect::Finish(stream, Frame::Denied)),
        }
        Ok(())
    }

    /// What is sent for one want; a record that is not on the shelf is announced with length 0 and no label,
    /// exactly like one that does not exist.
    fn serving_of(&self, grant: GrantId, want: &karte_protocol::message::Want) -> Result<Serving, Failure> {
        let record = want.record;
        if let Some((holder, ..)) = self.kept_grant(&grant).filter(|_| !self.given.contains_key(&grant)) {
            return self.kept_serving(holder, grant.as_bytes(), want);
        }
        let shelved = self.store.get(SHELVED, grant.as_bytes(), record.as_bytes())?.is_some();
        let row = if shelved { self.own_row(&record)? } else { None };
        let Some(row) = row else {
            return Ok(Serving { record, payload_bytes: 0, from: 0, label: None });
        };
        let label = if want.label { self.store.get(LABELS, TOP, record.as_bytes())? } else { None };
        Ok(Serving { record, payload_bytes: row.payload_bytes, from: want.from, label })
    }

    /// Decided again with each batch of a stream, about one MiB, and every second (rule 7).
    pub(super) fn may_serve(&mut self, stream: StreamId) -> Result<(), Failure> {
        let go = match self.streams.get(&stream).copied() {
            Some((peer, grant)) if grant == self.own_fetch() => self.may_give_own(peer),
            Some((peer, grant)) if self.got.contains_key(&grant) => self.may_give_back(peer, grant),
            Some((peer, entry))
                if self.may_hand_over(peer, entry) || self.holder_asking(peer, entry).is_some() =>
            {
                true
            }
            Some((peer, grant)) => self.session_stands(peer, grant).is_ok(),
            None => false,
        };
        if !go {
            self.streams.remove(&stream);
        }
        self.out.push(Effect::Go(stream, go));
        Ok(())
    }

    /// Cuts every stream and session under a grant.
    pub(super) fn end_serving(&mut self, grant: GrantId) {
        for peer in self.peers.values_mut() {
            peer.serving.remove(&grant);
        }
        let cut: Vec<StreamId> =
            self.streams.iter().filter(|(_, (_, of))| *of == grant).map(|(stream, _)| *stream).collect();
        for stream in cut {
            self.streams.remove(&stream);
            self.out.push(Effect::Go(stream, false));
        }
    }
}
