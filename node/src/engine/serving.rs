//! Serving: sessions that readers open, and what goes out under them.
//!
//! For: SPEC rule 7 on every request and again while a stream runs. Not for: what lies on the shelves
//! ([`super::giving`]).

use super::rows::{LABELS, RELEASES, SEGMENTS, SHELVED, TOP};
use super::{Effect, Engine, Serving, StreamId, decode_row};
use crate::failure::Failure;
use karte_protocol::consent::Release;
use karte_protocol::decide::{self, Clause, Denial};
use karte_protocol::id::{DeviceId, GrantId, PartyId, RecordId};
use karte_protocol::limits::{MESSAGE_BYTES_MAX, WANTS_MAX};
use karte_protocol::message::{Fetch, Frame, Response, SegmentAndKeys};
use karte_protocol::signed::{Signed, Verified};
use karte_protocol::time::MINUTE_MS;
use std::collections::BTreeSet;

/// Bytes of segments in one answer: the rest of a MiB is for the envelope.
const SEGMENTS_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 16 * 1024;
/// Releases of one connection in one minute. 60: a person syncs less, a program needs no more.
const RELEASES_A_MINUTE_MAX: u32 = 60;

impl Engine {
    /// A reader's request for a session. The Release is kept before anything is said: it is the audit.
    pub(super) fn release(
        &mut self,
        peer: DeviceId,
        from: PartyId,
        bytes: &[u8],
    ) -> Result<Response, Failure> {
        let Ok(release) = Signed::<Release>::from_bytes(bytes).verify() else {
            self.refuse(from, None, "a release whose signature is wrong")?;
            return Ok(Response::Denied);
        };
        let id = release.grant;
        if !self.may_ask_again(peer) {
            return Ok(Response::Denied);
        }
        let unseen = self.store.get(RELEASES, id.as_bytes(), release.id().as_bytes())?.is_none();
        let fresh = unseen && decide::is_fresh(&release, self.now);
        let decision = if fresh {
            self.may_release(peer, from, &release)
        } else {
            Err(Denial { grant: id, clause: Clause::Request })
        };
        if let Err(denial) = decision {
            self.refuse(from, Some(id), &denial.clause.to_string())?;
            return Ok(Response::Denied);
        }
        let Some(head) = self.shelf_head(id)? else {
            return Ok(Response::Denied);
        };
        self.put_bytes(RELEASES, id.as_bytes(), release.id().as_bytes(), release.bytes().to_vec())?;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.told.insert(id, head.chains.iter().map(|chain| chain.segments).sum());
            state.serving.insert(id, release);
        }
        let status = self.own_status()?;
        Ok(Response::Session { status: status.bytes().to_vec().into(), head: head.bytes().to_vec().into() })
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
        // The own Status is renewed when its lease runs low; this device is the holder's only one.
        self.own_status().map_err(|_| Denial { grant, clause: Clause::HolderStatus })?;
        let given = self.given.get(&grant).ok_or(unknown.clone())?;
        if given.open.reader() != from {
            return Err(unknown);
        }
        let reader = self.logs.get(&from).ok_or(unknown)?;
        let mine = self.mine();
        decide::serve(&decide::Serving {
            now_ms: self.now,
            grant,
            opened: Some(&given.open.opened),
            holder: (&mine.log, &mine.state),
            holder_status: self.latest.get(&self.me.party),
            holder_heard_ms: self.heard_ms(self.me.party),
            reader: (&reader.log, &reader.state),
            reader_status: self.latest.get(&from),
            accept: given.accept.as_ref(),
            release,
            peer,
            this: self.device(),
        })
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
        if let Err(denial) = self.session_stands(peer, grant) {
            self.refuse_peer(peer, Some(grant), &denial.clause.to_string())?;
            return Ok(Response::Denied);
        }
        let end = self.given.get(&grant).map_or(0, |given| given.row.segments);
        let mut segments = Vec::new();
        let mut bytes = 0;
        for seq in from..end {
            let Some(row) = self.store.get(SEGMENTS, grant.as_bytes(), &seq.to_be_bytes())? else {
                break;
            };
            bytes += row.len() + 16;
            if bytes > SEGMENTS_BYTES_MAX && !segments.is_empty() {
                break;
            }
            segments.push(decode_row::<SegmentAndKeys>(&row)?);
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
        if fetch.back {
            return self.asked_back(peer, stream, &fetch);
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
        self.out.push(Effect::Serve(stream, items));
        Ok(())
    }

    /// The holder asks its reader for what it has lost.
    fn asked_back(&mut self, peer: DeviceId, stream: StreamId, fetch: &Fetch) -> Result<(), Failure> {
        match self.giving_back(peer, fetch)? {
            Some(items) => {
                self.streams.insert(stream, (peer, fetch.grant));
                self.out.push(Effect::Serve(stream, items));
            }
            None => self.out.push(Effect::Finish(stream, Frame::Denied)),
        }
        Ok(())
    }

    /// What is sent for one want; a record that is not on the shelf is announced with length 0 and no label,
    /// exactly like one that does not exist.
    fn serving_of(&self, grant: GrantId, want: &karte_protocol::message::Want) -> Result<Serving, Failure> {
        let record = want.record;
        let shelved = self.store.get(SHELVED, grant.as_bytes(), record.as_bytes())?.is_some();
        let row = if shelved { self.own_row(&record)? } else { None };
        let Some(row) = row else {
            return Ok(Serving { record, payload_bytes: 0, from: 0, label: None });
        };
        let label = if want.label { self.store.get(LABELS, TOP, record.as_bytes())? } else { None };
        Ok(Serving { record, payload_bytes: row.payload_bytes, from: want.from, label })
    }

    /// Decided again after each batch of a stream, about one MiB. (Not yet also every second, as rule 7 asks.)
    pub(super) fn may_serve(&mut self, stream: StreamId) -> Result<(), Failure> {
        let go = match self.streams.get(&stream).copied() {
            Some((peer, grant)) if self.got.contains_key(&grant) => self.may_give_back(peer, grant),
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
