//! TCP with Noise and Yamux, as libp2p's own builder makes it, with little waiting in the system, and read in large pieces.
//!
//! For: that what is urgent does not stand behind what the system was given long ago. The send buffer of a socket grows to
//! megabytes (four, as Linux comes), and every word, a revocation among them, then waits behind a transfer for as long as
//! the line takes over that: five seconds were seen over 1 Mbit/s. What is not sent yet waits in Yamux instead, whose streams
//! take turns. Not for: how much is on its way; that is the congestion control's.

use futures::io::BufReader;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport, noise, tcp, yamux};

/// What the system may hold of a connection that it has not sent, in bytes. 128 KiB: two records of Noise, so that it is
/// never idle while the next is made; one second over 1 Mbit/s.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES_MAX: u32 = 128 << 10;

/// Bytes read from a socket at once, held by each connection. 128 KiB: two records of Noise, and 48 MiB for as many
/// connections as `Limits` lets there be. libp2p-noise 0.47 itself reads 8 KiB at a time: a quarter of a million system calls
/// for 2 GiB.
const READ_BYTES: usize = 128 << 10;

/// The transport.
pub(super) fn transport(
    key: &Keypair,
    yamux: yamux::Config,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, noise::Error> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
    let tcp = tcp.map(|stream, _| {
        hold_little(&stream);
        BufReader::with_capacity(READ_BYTES, stream)
    });
    Ok(tcp.upgrade(Version::V1Lazy).authenticate(noise::Config::new(key)?).multiplex(yamux).boxed())
}

/// Lets the system ask for more only when there is little left to send.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn hold_little(stream: &tcp::tokio::TcpStream) {
    // A connection without it works as well, only not as promptly.
    if let Err(error) = socket2::SockRef::from(&stream.0).set_tcp_notsent_lowat(UNSENT_BYTES_MAX) {
        tracing::debug!(%error, "the system holds back as much as it likes");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn hold_little(_: &tcp::tokio::TcpStream) {}
