//! The network room: bytes between devices over QUIC and TCP.
//!
//! For: connections to devices known by their ed25519 key, small requests with replies, and streams of
//! frames. Not for: consent, records, or who may ask for what; every peer that proves its key may connect,
//! learns nothing from us, and costs no more than [`Limits`] say.
//!
//! How a peer is reached: `waves` orders its addresses, `relay` keeps places at relays and is one, `reach` says where we
//! can be found and who is near, `lines` prefers direct connections. What strangers may cost: `guard` and `rate`. That
//! nothing waits for what could go with it: streams are negotiated lazily (`behaviour`), and `tcp` lets little wait unsent.
//!
//! [`start`] gives a handle, [`Network`], and a channel of [`NetEvent`]s. The reader of the events may be
//! slow: then requests are refused (`NoReply` at the asker), streams are refused (the opener tries again a
//! few times, then `StreamRefused`), and `Connected` and `Disconnected` wait without being lost. A reader
//! may call the handle between two events; nothing in here waits for the reader.

mod behaviour;
mod codec;
mod device;
mod error;
mod event_loop;
mod guard;
mod heed;
mod known;
mod limits;
mod lines;
mod outbox;
mod payload;
mod rate;
mod reach;
mod relay;
mod stream;
mod tcp;
mod waves;

use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use zeroize::Zeroizing;

pub use device::{DeviceKey, device_of, peer_id_of, peer_text};
pub use error::{AddressFailure, NetError};
pub use libp2p::Multiaddr;
pub use limits::Limits;
pub use rate::Rate;
pub use relay::{RelayFor, is_relay};
pub use stream::{FrameReceiver, FrameSender, FrameStream};
pub use waves::is_relayed;

use error::without_peer;
use event_loop::{Command, EventLoop};
use known::Known;
use reach::Reach;

/// Pause before trying again to open a refused stream; grows with each try. 20 ms: a reader's short nap.
const STREAM_RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What a node needs to join.
pub struct NetConfig {
    /// The seed of the device's ed25519 key; its public key is the device's name.
    pub key: Zeroizing<[u8; 32]>,
    /// Addresses to listen on; port 0 takes a free one.
    pub listen: Vec<Multiaddr>,
    /// What we call ourselves to every peer. Name and version, nothing personal.
    pub agent: String,
    /// What peers may cost.
    pub limits: Limits,
    /// How it is found beyond its own addresses.
    pub reach: ReachConfig,
}

/// How a node is found beyond its own addresses. The default is not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReachConfig {
    /// Relays to keep a place at, each address with `/p2p/DEVICE` at its end.
    pub relays: Vec<Multiaddr>,
    /// Whom this node relays for.
    pub relay_for: RelayFor,
    /// Whether it announces itself on the local network, and looks for known devices there.
    pub mdns: bool,
}

/// What happened. Bodies are not printable on purpose.
pub enum NetEvent {
    /// We listen on this address.
    Listening(Multiaddr),
    /// Where we can be found has changed: ask for [`Network::addresses`].
    AddressesChanged,
    /// A peer's first connection. It may be over at once if the peer has no room for us.
    Connected {
        /// The peer's device.
        peer: DeviceKey,
        /// Where it is.
        address: Multiaddr,
        /// Whether we called it.
        dialled: bool,
    },
    /// A peer has a better connection than before: a direct one beside a relayed one. May be lost.
    Rerouted {
        /// The peer's device.
        peer: DeviceKey,
        /// Where it is now.
        address: Multiaddr,
    },
    /// A known device announces itself on the local network, or no longer does (no addresses). May be lost.
    Nearby {
        /// The device.
        device: DeviceKey,
        /// All addresses it announces.
        addresses: Vec<Multiaddr>,
    },
    /// A peer's last connection ended.
    Disconnected {
        /// The peer's device.
        peer: DeviceKey,
    },
    /// A peer asks.
    Request {
        /// The peer's device.
        peer: DeviceKey,
        /// What it asks.
        body: Vec<u8>,
        /// How to answer.
        reply: Reply,
    },
    /// A peer opened a stream.
    Stream {
        /// The peer's device.
        peer: DeviceKey,
        /// The stream, ready both ways.
        stream: FrameStream,
    },
}

/// The right to answer one request. Dropping it fails the request at its asker, promptly.
pub struct Reply {
    sender: oneshot::Sender<Vec<u8>>,
    bytes_max: u32,
    /// Memory for its request, free again for others when it is answered.
    _room: Option<OwnedSemaphorePermit>,
}

/// The handle; clones share one network. It ends with [`Network::shutdown`] or the last clone.
///
/// Every method may be dropped while waiting. What was ordered may then still happen: a connection may come
/// up, a request may reach the peer.
#[derive(Clone)]
pub struct Network {
    commands: mpsc::Sender<Command>,
    limits: Limits,
}

/// Starts to listen and spawns the event loop on the current tokio runtime.
pub fn start(config: NetConfig) -> Result<(Network, mpsc::Receiver<NetEvent>), NetError> {
    let runtime = Handle::try_current().map_err(|_| NetError::NoRuntime)?;
    let relays = config.reach.relays.iter().map(relay::relay_of).collect::<Result<Vec<_>, _>>()?;
    let known = Known::new(relays);
    let mut swarm = behaviour::build_swarm(&config, &known)?;
    let listen = |address| behaviour::listen(&mut swarm, address);
    let listeners = config.listen.iter().map(listen).collect::<Result<_, _>>()?;
    let limits = config.limits;
    let (commands, command_queue) = mpsc::channel(limits.commands_queue_max.max(1));
    let (events, event_queue) = mpsc::channel(limits.events_queue_max.max(1));
    let reach = (known, Reach::new(config.reach, Instant::now()));
    runtime.spawn(EventLoop::new(swarm, listeners, limits.clone(), reach, command_queue, events).run());
    Ok((Network { commands, limits }, event_queue))
}

impl Network {
    /// Connects to a device at one of these addresses: TCP before QUIC before relays, each with a short head start.
    ///
    /// Already connected is success. An address where another device answers is put aside and the others
    /// are tried again: addresses of home networks change hands.
    pub async fn connect(&self, peer: DeviceKey, addresses: Vec<Multiaddr>) -> Result<(), NetError> {
        let (count, count_max) = (addresses.len(), self.limits.addresses_per_dial_max);
        if count > count_max {
            return Err(NetError::TooManyAddresses { count, count_max });
        }
        let peer = peer_id_of(&peer)?;
        match waves::waves(addresses) {
            // The swarm knows whether there is a connection already.
            waves if waves.is_empty() => self.dial(peer, vec![]).await,
            waves => waves::call(waves, |addresses| self.dial_wave(peer, addresses)).await,
        }
    }

    /// Asks a connected device and waits for its reply, at most `request_timeout`.
    pub async fn request(&self, peer: DeviceKey, body: Vec<u8>) -> Result<Vec<u8>, NetError> {
        let (bytes, bytes_max) = (body.len() as u64, self.limits.request_bytes_max);
        if bytes > u64::from(bytes_max) {
            return Err(NetError::RequestTooLarge { bytes, bytes_max });
        }
        let peer = peer_id_of(&peer)?;
        self.ask(|reply| Command::Request { peer, body, reply }).await?
    }

    /// Opens a stream to a connected device and waits until it was taken there.
    pub async fn open_stream(&self, peer: DeviceKey) -> Result<FrameStream, NetError> {
        self.open(peer, None).await
    }

    /// The same, and `first` is sent with the opening: it is there half a round trip from now, and the answer to it comes
    /// right behind the word that the stream was taken. A stream that was not taken has heard nothing.
    pub async fn open_stream_with(&self, peer: DeviceKey, first: &[u8]) -> Result<FrameStream, NetError> {
        self.open(peer, Some(first)).await
    }

    /// Closes all connections to a device and waits until they are closed, at most `shutdown_timeout`.
    pub async fn disconnect(&self, peer: DeviceKey) {
        let Ok(peer) = peer_id_of(&peer) else { return };
        let closed = self.ask(|done| Command::Disconnect { peer, done });
        let _ = tokio::time::timeout(self.limits.shutdown_timeout, closed).await;
    }

    /// The addresses we really listen on.
    pub async fn listeners(&self) -> Vec<Multiaddr> {
        self.ask(|reply| Command::Listeners { reply }).await.unwrap_or_default()
    }

    /// Where others may find us, best first: addresses that were called from outside, places at relays, then those we
    /// listen on, this machine's own last.
    pub async fn addresses(&self) -> Vec<Multiaddr> {
        self.ask(|reply| Command::Addresses { reply }).await.unwrap_or_default()
    }

    /// Says which devices are known: they have slots of their own, they may reserve a place at this relay, and what they
    /// say of our addresses counts. Places at relays are asked for only once this was said.
    pub async fn know(&self, devices: impl IntoIterator<Item = DeviceKey>) {
        let devices = devices.into_iter().filter_map(|device| peer_id_of(&device).ok()).collect();
        // A network that has shut down knows nobody.
        let _ = self.commands.send(Command::Know { devices }).await;
    }

    /// The devices we are connected to, each with the address of its best connection.
    pub async fn connected(&self) -> Vec<(DeviceKey, Multiaddr)> {
        self.ask(|reply| Command::Connected { reply }).await.unwrap_or_default()
    }

    /// Stops listening, closes the connections, ends the task, and waits for its end. Other clones of the
    /// handle then get `Closed`.
    pub async fn shutdown(self) {
        let _: Result<(), _> = self.ask(|done| Command::Shutdown { done }).await;
    }

    /// Calls these addresses, without those where another device answers.
    async fn dial_wave(&self, peer: PeerId, mut addresses: Vec<Multiaddr>) -> Result<(), NetError> {
        loop {
            match self.dial(peer, addresses.clone()).await {
                Err(NetError::WrongPeer { address }) if !put_aside(&mut addresses, &address) => {
                    return Err(NetError::WrongPeer { address });
                }
                Err(NetError::WrongPeer { .. }) => {}
                result => return result,
            }
        }
    }

    async fn dial(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> Result<(), NetError> {
        self.ask(|reply| Command::Connect { peer, addresses, reply }).await?
    }

    async fn open(&self, peer: DeviceKey, first: Option<&[u8]>) -> Result<FrameStream, NetError> {
        let peer = peer_id_of(&peer)?;
        for attempt in 1..self.limits.stream_open_attempts_max {
            match self.open_once(peer, first).await {
                Err(NetError::StreamRefused) => tokio::time::sleep(STREAM_RETRY_PAUSE * attempt).await,
                result => return result,
            }
        }
        self.open_once(peer, first).await
    }

    async fn open_once(&self, peer: PeerId, first: Option<&[u8]>) -> Result<FrameStream, NetError> {
        // A dropped reply means that the connection ended, unless the whole network did.
        let opened = self.ask(|reply| Command::Open { peer, reply }).await;
        let lost = if self.commands.is_closed() { NetError::Closed } else { NetError::ConnectionLost };
        let (stream, slot) = opened.map_err(|_| lost)??;
        let mut stream = FrameStream::new(stream, slot, self.limits.frame_bytes_max);
        let taken = async {
            let sent = match first {
                Some(frame) => stream.send(frame).await,
                None => Ok(()),
            };
            // Whether it was taken says more than that it could not be sent.
            stream.hear_ready().await?;
            sent
        };
        tokio::time::timeout(self.limits.stream_open_timeout, taken)
            .await
            .map_err(|_| NetError::StreamTimeout)??;
        Ok(stream)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, NetError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| NetError::Closed)?;
        answer.await.map_err(|_| NetError::Closed)
    }
}

impl Reply {
    /// Answers. Success means that the answer is on its way, not that it arrived.
    pub fn send(self, body: Vec<u8>) -> Result<(), NetError> {
        let (bytes, bytes_max) = (body.len() as u64, self.bytes_max);
        if bytes > u64::from(bytes_max) {
            return Err(NetError::ResponseTooLarge { bytes, bytes_max });
        }
        self.sender.send(body).map_err(|_| NetError::AskerGone)
    }
}

/// Takes an address out; says whether it was there and others are left.
fn put_aside(addresses: &mut Vec<Multiaddr>, wrong: &Multiaddr) -> bool {
    let count = addresses.len();
    addresses.retain(|address| without_peer(address.clone()) != *wrong);
    addresses.len() < count && !addresses.is_empty()
}
