//! Nodes that nobody can call: both behind routers that masquerade, and a clinic whose firewall lets out TCP to port
//! 443 and nothing else. A relay stands in the middle; a CT must come whole.

use super::material::Material;
use super::node::{Node, Run, text};
use super::pair::befriend;
use super::spaces::{Machine, Network};
use super::stage::{Stage, unlike};
use super::{Options, Outcome};
use karte_node::network::peer_text;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the relay listens: the port that every firewall lets out.
const RELAY_PORT: u16 = 443;
/// A CT: about 26 MB.
const SLICES: u32 = 50;
const SIDE: u16 = 512;
/// How long a node may take until it has its place at the relay, and the CT until it is whole.
const RESERVED_MAX: Duration = Duration::from_secs(30);
/// How long hole punching is waited for before the CT is sent. It may fail; then the relay carries.
const PUNCHED_MAX: Duration = Duration::from_secs(10);
const CT_MAX: Duration = Duration::from_secs(180);

/// By which way two nodes are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Direct,
    Relayed,
}

/// A patient and a clinic, each behind a router of their own.
pub(super) fn nat(stage: &Stage, _: &Options) -> io::Result<Outcome> {
    let world = World::new(stage)?;
    let (_router_of_patient, patient) = world.behind_router()?;
    let (_router_of_clinic, clinic) = world.behind_router()?;
    world.ct_comes(&patient, &clinic, "both behind a NAT")
}

/// A patient behind a router, and a clinic whose firewall lets out nothing but TCP to port 443.
pub(super) fn port_443(stage: &Stage, _: &Options) -> io::Result<Outcome> {
    let world = World::new(stage)?;
    let (_router, patient) = world.behind_router()?;
    let clinic = world.machine()?;
    clinic.only_443()?;
    world.ct_comes(&patient, &clinic, "the clinic with TCP 443 alone")
}

/// The public network with a relay on it.
struct World<'a> {
    stage: &'a Stage,
    // Nodes before machines before networks: in this order they are dropped.
    relay: Node<'a>,
    relay_address: String,
    public: Arc<Network>,
    places: std::cell::Cell<u8>,
}

impl<'a> World<'a> {
    fn new(stage: &'a Stage) -> io::Result<Self> {
        let public = Network::new()?;
        let machine = Machine::new(&public, 1)?;
        let mut relay = Node::new(stage, "relay", true)?.on(&machine);
        let help = relay.tries(&["run", "--help"])?;
        if !String::from_utf8_lossy(&help.out).contains("--relay") {
            return Err(unlike("this karte cannot relay: `karte run` has no --relay"));
        }
        let listen = format!("/ip4/{}/tcp/{RELAY_PORT}", machine.address);
        relay.start(Run { listen: vec![listen.clone()], more: vec!["--relay".into()], ..Run::default() })?;
        let peer = peer_of(&relay)?;
        let relay_address = format!("{listen}/p2p/{peer}");
        Ok(Self { stage, relay, relay_address, public, places: std::cell::Cell::new(2) })
    }

    /// A machine on the public network.
    fn machine(&self) -> io::Result<Arc<Machine>> {
        Machine::new(&self.public, self.place())
    }

    /// A router on the public network, and a machine on a network of its own behind it.
    fn behind_router(&self) -> io::Result<(Arc<Machine>, Arc<Machine>)> {
        let inside = Network::new()?;
        let router = Machine::new(&inside, 1)?;
        router.plug(&self.public, self.place(), "wan")?;
        router.masquerade("wan")?;
        let machine = Machine::new(&inside, 2)?;
        machine.route_by(&router.address)?;
        Ok((router, machine))
    }

    fn place(&self) -> u8 {
        self.places.replace(self.places.get() + 1)
    }

    /// Patient and clinic meet over the relay, and a CT comes whole.
    fn ct_comes(&self, patient: &Arc<Machine>, clinic: &Arc<Machine>, what: &str) -> io::Result<Outcome> {
        let mut holder = Node::new(self.stage, "hana", false)?.on(patient);
        let mut reader = Node::new(self.stage, "sakura", true)?.on(clinic);
        for (node, machine) in [(&mut holder, patient), (&mut reader, clinic)] {
            let listen = ["tcp/4747", "udp/4747/quic-v1"];
            let listen = listen.map(|transport| format!("/ip4/{}/{transport}", machine.address)).to_vec();
            node.start(Run {
                listen,
                more: vec!["--via".into(), self.relay_address.clone()],
                ..Run::default()
            })?;
        }
        for node in [&holder, &reader] {
            // A relay carries for its contacts.
            node.knows(&self.relay)?;
            self.relay.knows(node)?;
        }
        let (_, reserved) = self.stage.until("the card names the relay", RESERVED_MAX, || {
            let card = holder.does(&["card"])?;
            let has = card.first().is_some_and(|card| card["addresses"].to_string().contains("p2p-circuit"));
            Ok(has.then_some(()))
        })?;
        self.stage.say(&format!("a place at the relay after {:.1} s", reserved.as_secs_f64()));
        befriend(self.stage, &holder, &reader)?;
        let punched = self.stage.until("a direct connection", PUNCHED_MAX, || {
            Ok((path_to(&reader, &holder.name)? == Some(Path::Direct)).then_some(()))
        });
        match punched {
            Err(error) if error.kind() != io::ErrorKind::TimedOut => return Err(error),
            punched => self.stage.say(if punched.is_ok() { "directly connected" } else { "over the relay" }),
        }
        let series = Material::series(self.stage, "ct", SLICES, SIDE)?;
        let begun = Instant::now();
        holder.imports(&series.path)?;
        super::pair::arrives(self.stage, &reader, series.records(), CT_MAX)?;
        let seconds = begun.elapsed().as_secs_f64();
        let is_equal = series.is_all_of(&reader)?;
        let path = match path_to(&reader, &holder.name)? {
            Some(Path::Direct) => "directly",
            Some(Path::Relayed) => "through the relay",
            None => "over a connection that is gone",
        };
        Ok(Outcome::new(
            is_equal,
            format!(
                "{what}: a CT of {SLICES} slices ({} MB) {path} in {seconds:.1} s; equal: {is_equal}",
                series.bytes / 1_000_000
            ),
            json!({ "path": path, "seconds": seconds, "bytes": series.bytes, "equal": is_equal,
                    "reserved_s": reserved.as_secs_f64() }),
        ))
    }
}

/// The libp2p name of a node's device.
fn peer_of(node: &Node<'_>) -> io::Result<String> {
    let device = text(node.does(&["card"])?.first(), "device")?;
    let bytes = (0..device.len()).step_by(2).map(|at| u8::from_str_radix(device.get(at..at + 2)?, 16).ok());
    let key: Option<Vec<u8>> = bytes.collect();
    let key = key.and_then(|key| <[u8; 32]>::try_from(key).ok());
    key.and_then(|key| peer_text(&key))
        .ok_or_else(|| unlike(format!("expected a device key, got {device:?}")))
}

/// How the reader is connected with the holder now; nothing if it is not.
fn path_to(reader: &Node<'_>, holder: &str) -> io::Result<Option<Path>> {
    let peers = reader.does(&["peers"])?;
    let places: Vec<String> =
        peers.iter().map(Value::to_string).filter(|peer| peer.contains(holder)).collect();
    let is_direct = places.iter().any(|place| !place.contains("p2p-circuit"));
    Ok(match places.is_empty() {
        true => None,
        false if is_direct => Some(Path::Direct),
        false => Some(Path::Relayed),
    })
}
