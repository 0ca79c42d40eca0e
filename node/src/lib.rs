//! The node: keystore, store, engine, network, import, control socket.
//!
//! [`run`] is a daemon, [`access`] is what the command line uses. Clocks and faults are arguments: nothing in
//! here reads a clock or a switch from the environment.

/// Whether the simulator has chosen this wrong variant; `false` at compile time without the feature `variants`.
#[cfg(feature = "variants")]
macro_rules! wrong {
    ($variant:ident) => {
        karte_protocol::variants::is_chosen(karte_protocol::variants::Variant::$variant)
    };
}
#[cfg(not(feature = "variants"))]
macro_rules! wrong {
    ($variant:ident) => {
        false
    };
}

pub mod access;
pub mod backup;
pub mod clock;
pub mod command;
pub mod compose;
pub mod control;
pub mod device;
pub mod engine;
pub mod failure;
pub mod import;
pub mod keystore;
pub mod network;
pub mod observe;
pub mod recovery;
mod runtime;
pub mod settings;
pub mod store;

/// Whether this was built so that rules can be broken on purpose: for the simulator, never for use.
pub const HAS_WRONG_VARIANTS: bool = cfg!(feature = "variants");

use access::{Config, Unlock};
use clock::Clock;
use failure::Failure;
use network::RelayFor;
use runtime::{Found, Running};
use serde_json::{Value, json};
use std::sync::Arc;

/// Runs a daemon until it is told to end, by a signal or over its control socket.
///
/// Ends in order: no new commands; no new connections and no promise to a peer; work under way is committed;
/// the store is closed clean. Dropping the future instead is a crash: safe, and the next start takes longer.
pub async fn run(
    config: Config,
    clock: impl Clock,
    unlock: Unlock,
    ready: &mut dyn FnMut(Value),
) -> Result<(), Failure> {
    let running = access::start(&config, Arc::new(clock), unlock).await?;
    let node = running.node.clone();
    let mut notices = node.notices();
    let listener = control::bind(&config.home)?;
    let control = tokio::spawn(control::serve(listener, node.clone()));
    let found = node.listening_ready(config.listen.len(), config.reach.relays.len()).await;
    ready(told_of_start(&config, &running, found));
    let result = loop {
        tokio::select! {
            ended = node.ended() => break ended,
            () = access::interrupted() => break Ok(()),
            notice = notices.recv() => {
                if let Ok(text) = notice {
                    ready(json!({ "notice": text }));
                }
            }
        }
    };
    control.abort();
    // A socket that stays behind is taken for a dead daemon's and replaced.
    let _ = std::fs::remove_file(control::path(&config.home));
    result.and(running.stop().await)
}

/// What a daemon says when it is ready: where it listens and can be found, and as a relay what others give to `--via`.
fn told_of_start(config: &Config, running: &Running, found: Found) -> Value {
    let is_relay = config.reach.relay_for != RelayFor::Nobody;
    let peer = network::peer_text(running.device.as_bytes()).filter(|_| is_relay);
    let relay =
        peer.map(|peer| found.listening.iter().map(|at| format!("{at}/p2p/{peer}")).collect::<Vec<_>>());
    let relayed = Some(found.relayed).filter(|_| !config.reach.relays.is_empty());
    let told = [
        ("party", Some(json!(running.party.to_string()))),
        ("listening", Some(json!(found.listening))),
        ("relayed", relayed.map(|at| json!(at))),
        ("relay", relay.map(|at| json!(at))),
        ("control", Some(json!(control::path(&config.home).display().to_string()))),
    ];
    told.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
