//! The own clock, and the time that is known to have passed (SPEC rule 9).
//!
//! For: a clock that was set back would let ended permissions live again, so far below the time floor only denials are
//! signed, and nothing is served or opened. And for the way out: a clock that once stood in the year 2099 leaves a floor
//! that no true clock reaches, and its own user says so. Not for: the time of others; peers never move the floor.

use super::rows::{HEARD, TOP};
use super::select::{span_text, time_text};
use super::{Effect, Engine};
use crate::failure::Failure;
use karte_protocol::limits::CLOCK_SKEW_MS_MAX;
use karte_protocol::time::UnixMs;
use serde_json::{Value, json};

/// No clock of a machine that runs this version can truly stand before this: 2026-05-01.
const RELEASED_MS: UnixMs = 1_777_593_600_000;

impl Engine {
    /// What the clock may not stand far below: the later of this version's release and the own clock at commits.
    fn time_floor_ms(&self) -> UnixMs {
        UnixMs::try_from(self.store.time_floor_ms()).unwrap_or(UnixMs::MAX).max(RELEASED_MS)
    }

    /// Whether the clock stands far behind the time floor.
    pub(super) fn is_clock_behind(&self) -> bool {
        self.now.saturating_add(CLOCK_SKEW_MS_MAX) < self.time_floor_ms() && !wrong!(TimeFloorIgnored)
    }

    pub(super) fn require_clock(&self) -> Result<(), Failure> {
        if !self.is_clock_behind() {
            return Ok(());
        }
        let (now, floor) = (time_text(self.now), time_text(self.time_floor_ms()));
        Err(Failure::failed(format!(
            "the clock of this machine says {now}, and this node has already seen {floor}: nothing is granted, served or opened, only revoking works"
        ))
        .next("If the clock is wrong, set it. If it was wrong before and is right now: `karte clock reset --i-set-the-clock`."))
    }

    pub(super) fn show_clock(&self) -> Vec<Value> {
        let behind = self.is_clock_behind();
        let by = self.time_floor_ms().saturating_sub(self.now);
        vec![json!({
            "state": if behind { "behind" } else { "right" },
            "now": time_text(self.now),
            "floor": time_text(self.time_floor_ms()),
            "behind_by": behind.then(|| span_text(by)),
            "allowed_behind": span_text(CLOCK_SKEW_MS_MAX),
        })]
    }

    /// The user's word that the clock was wrong and is right now. The floor falls to the present, and every Status goes:
    /// each was judged by the wrong clock, and with the floor gone an old one would let a reader go on that should have
    /// stopped. Who was heard counts from their next word. What ended meanwhile stays ended.
    pub(super) fn reset_clock(&mut self) -> Result<Vec<Value>, Failure> {
        if self.now.saturating_add(CLOCK_SKEW_MS_MAX) < RELEASED_MS {
            return Err(Failure::failed(format!(
                "the clock of this machine says {}, and this version of karte was made after {}",
                time_text(self.now),
                time_text(RELEASED_MS)
            ))
            .next("Set the clock first, then reset."));
        }
        if !self.is_clock_behind() {
            return Ok(self.show_clock());
        }
        self.delete_all(HEARD, TOP)?;
        // Durable before the floor falls: a crash in between must not leave old Statuses above a low floor.
        self.commit()?;
        self.store.lower_time_floor(u64::try_from(self.now).unwrap_or_default())?;
        self.latest.clear();
        self.heard.clear();
        self.forget_pauses();
        self.shelve_all()?;
        Ok(self.show_clock())
    }

    /// Pauses and sessions were reckoned by the wrong clock: connections stay, and everything on them begins anew.
    fn forget_pauses(&mut self) {
        self.redial.clear();
        self.forget_replacements();
        let cut: Vec<_> = std::mem::take(&mut self.streams).into_keys().collect();
        self.out.extend(cut.into_iter().map(|stream| Effect::Go(stream, false)));
        let peers = std::mem::take(&mut self.peers);
        self.peers = peers.into_iter().map(|(device, peer)| (device, peer.greeted_anew())).collect();
    }
}
