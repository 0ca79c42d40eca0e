//! Relays: what this node carries for others, and the places it keeps at relays itself.
//!
//! For: a relay's bounds, and who may reserve a place at it; keeping a reservation at each relay of the settings, made
//! again after a loss with growing pauses. Not for: what runs through a circuit, which is Noise from end to end: a
//! relay sees who talks with whom, when and how much.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, relay};

use super::NetError;
use super::known::Known;

/// First and longest pause before a reservation is made again, in milliseconds. One second, and one minute: who is
/// behind a NAT cannot be reached meanwhile.
const PAUSE_MS: (u64, u64) = (1_000, 60_000);

/// Whom this node relays for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelayFor {
    /// Nobody.
    #[default]
    Nobody,
    /// Devices that the node knows may reserve a place; whoever holds their card may call them there.
    Contacts,
    /// Everybody may.
    Anyone,
}

/// What a relay carries. libp2p's own numbers (128 KiB, two minutes) are for finding one another; a study must pass.
///
/// Circuits: 8 GiB lets the largest study through and ends what never ends; two hours carry that at 10 Mbit/s. 64 at
/// once, 8 of one caller. Reservations: 256, as many as a clinic's patients who are awake; each is an idle connection.
/// New ones of one device: 30 at once, then one in two minutes; circuits of one caller: 60, then one in 30 seconds. Of
/// one address, where many may sit behind one NAT: eight times that.
pub(crate) fn relay_config(whom: RelayFor, known: Known) -> relay::Config {
    let mut config = relay::Config {
        max_reservations: 256,
        max_reservations_per_peer: 2,
        reservation_duration: Duration::from_secs(60 * 60),
        reservation_rate_limiters: vec![],
        max_circuits: 64,
        max_circuits_per_peer: 8,
        max_circuit_duration: Duration::from_secs(2 * 60 * 60),
        max_circuit_bytes: 8 * 1024 * 1024 * 1024,
        circuit_src_rate_limiters: vec![],
    };
    let is_wanted = move |peer: &PeerId| whom == RelayFor::Anyone || known.contains(peer);
    // The only question that the relay asks anybody: whoever is not wanted is always over the rate.
    config.reservation_rate_limiters.push(Box::new(move |peer, _: &Multiaddr, _| is_wanted(&peer)));
    let few = |count: u32| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
    config
        .reservation_rate_per_peer(few(30), Duration::from_secs(120))
        .reservation_rate_per_ip(few(240), Duration::from_secs(15))
        .circuit_src_per_peer(few(60), Duration::from_secs(30))
        .circuit_src_per_ip(few(480), Duration::from_millis(3_750))
}

/// The relays of the settings, and how it stands with each.
pub(crate) struct Reservations(Vec<Reservation>);

/// A place at one relay.
struct Reservation {
    /// Its address, with `/p2p/…` at the end.
    relay: Multiaddr,
    state: State,
    pause: Duration,
}

enum State {
    /// Nothing is under way; to be made at this time.
    Due(Instant),
    /// Asked for.
    Asked(ListenerId),
    /// There.
    Held(ListenerId),
}

impl Reservations {
    pub(crate) fn new(relays: Vec<Multiaddr>, now: Instant) -> Self {
        let first = |relay| Reservation { relay, state: State::Due(now), pause: Duration::ZERO };
        Self(relays.into_iter().map(first).collect())
    }

    /// The relay addresses to make a reservation at now, each with its place in the list.
    pub(crate) fn due(&self, now: Instant) -> Vec<(usize, Multiaddr)> {
        let is_due = |kept: &&(usize, &Reservation)| matches!(kept.1.state, State::Due(at) if at <= now);
        let due = self.0.iter().enumerate().collect::<Vec<_>>();
        due.iter().filter(is_due).map(|(index, kept)| (*index, circuit_at(&kept.relay))).collect()
    }

    pub(crate) fn asked(&mut self, index: usize, listener: ListenerId) {
        if let Some(kept) = self.0.get_mut(index) {
            kept.state = State::Asked(listener);
        }
    }

    /// A listener has an address: if it is one of ours, the place is held. Says whether that is new.
    pub(crate) fn held(&mut self, listener: ListenerId) -> bool {
        let asked = |kept: &&mut Reservation| matches!(kept.state, State::Asked(id) if id == listener);
        let Some(kept) = self.0.iter_mut().find(asked) else { return false };
        (kept.state, kept.pause) = (State::Held(listener), Duration::ZERO);
        true
    }

    /// A listener closed, or could not be begun (`chance` in 0..=255 spreads the next try by up to a half). Says whether
    /// a place that was held is lost.
    pub(crate) fn lost(&mut self, listener: ListenerId, now: Instant, chance: u8) -> bool {
        let ours = |kept: &&mut Reservation| match kept.state {
            State::Asked(id) | State::Held(id) => id == listener,
            State::Due(_) => false,
        };
        let Some(kept) = self.0.iter_mut().find(ours) else { return false };
        let was_held = matches!(kept.state, State::Held(_));
        kept.put_off(now, chance);
        was_held
    }

    /// It could not even be asked for.
    pub(crate) fn failed(&mut self, index: usize, now: Instant, chance: u8) {
        if let Some(kept) = self.0.get_mut(index) {
            kept.put_off(now, chance);
        }
    }

    /// After a change of network nothing waits.
    pub(crate) fn hurry(&mut self, now: Instant) {
        for kept in &mut self.0 {
            if let State::Due(_) = kept.state {
                (kept.state, kept.pause) = (State::Due(now), Duration::ZERO);
            }
        }
    }

    /// Where this node can be called through relays, for its card.
    pub(crate) fn circuits(&self) -> Vec<Multiaddr> {
        let held = self.0.iter().filter(|kept| matches!(kept.state, State::Held(_)));
        held.map(|kept| circuit_at(&kept.relay)).collect()
    }
}

impl Reservation {
    fn put_off(&mut self, now: Instant, chance: u8) {
        let (first, longest) = (Duration::from_millis(PAUSE_MS.0), Duration::from_millis(PAUSE_MS.1));
        self.pause = (self.pause * 2).clamp(first, longest);
        let jitter = self.pause.mul_f64(f64::from(chance) / 512.0);
        self.state = State::Due(now + self.pause + jitter);
    }
}

/// A relay's address with `/p2p-circuit`.
fn circuit_at(relay: &Multiaddr) -> Multiaddr {
    relay.clone().with(Protocol::P2pCircuit)
}

/// Whether this is the address of a device that may be a relay: where it is, and `/p2p/DEVICE` at the end.
pub fn is_relay(address: &Multiaddr) -> bool {
    relay_of(address).is_ok()
}

/// The device at the end of a relay's address.
pub(crate) fn relay_of(address: &Multiaddr) -> Result<PeerId, NetError> {
    let refused = || NetError::NotRelay { address: address.clone() };
    if super::waves::is_relayed(address) || address.iter().count() < 3 {
        return Err(refused());
    }
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Ok(peer),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: &str = "/ip4/192.0.2.9/tcp/443/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn address(text: &str) -> Multiaddr {
        text.parse().expect("an address of a test")
    }

    #[test]
    fn a_lost_place_is_asked_for_again_with_growing_pauses() {
        let began = Instant::now();
        let mut kept = Reservations::new(vec![address(RELAY)], began);
        let circuit = address(&format!("{RELAY}/p2p-circuit"));
        assert_eq!(kept.due(began), [(0, circuit.clone())]);
        let listener = ListenerId::next();
        kept.asked(0, listener);
        assert!(kept.due(began).is_empty() && kept.circuits().is_empty(), "asked for, not yet there");
        assert!(kept.held(listener) && !kept.held(listener), "told once");
        assert_eq!(kept.circuits(), [circuit]);
        let mut now = began;
        let mut pauses = Vec::new();
        assert!(kept.lost(listener, now, 0), "it was there");
        for _ in 0..8 {
            let mut waited = 0;
            while kept.due(now).is_empty() {
                now += Duration::from_secs(1);
                waited += 1;
            }
            pauses.push(waited);
            kept.failed(0, now, 0);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60], "seconds");
        kept.hurry(now);
        assert_eq!(kept.due(now).len(), 1, "a new network is tried at once");
        kept.failed(0, now, 255);
        assert!(kept.due(now + Duration::from_secs(1)).is_empty(), "chance only adds");
    }

    #[test]
    fn a_relay_is_named_with_its_device() {
        assert!(relay_of(&address(RELAY)).is_ok());
        for wrong in ["/ip4/192.0.2.9/tcp/443", &format!("{RELAY}/p2p-circuit"), &RELAY[RELAY.len() - 57..]] {
            let refused = relay_of(&address(wrong));
            assert!(matches!(refused, Err(NetError::NotRelay { .. })), "{wrong}: {refused:?}");
        }
    }
}
