//! Noise over a socket that is read in large pieces.
//!
//! libp2p-noise 0.47 reads 8 KiB at a time: a quarter of a million system calls for 2 GiB. A buffer below it takes what the socket
//! has, up to [`READ_BYTES`]. Nothing changes on the wire, and writing goes through as it is.

use futures::io::{AsyncRead, AsyncWrite, BufReader};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::noise;

/// Bytes read from a socket at once, held by each TCP connection. 128 KiB: two of Noise's largest messages, and 48 MiB for as
/// many connections as `Limits` lets there be.
const READ_BYTES: usize = 128 * 1024;

/// Noise as libp2p has it, reading through a buffer.
#[derive(Clone)]
pub(super) struct Buffered(noise::Config);

/// For one device's key.
///
/// # Errors
/// If the handshake's own key cannot be signed.
pub(super) fn buffered_noise(key: &Keypair) -> Result<Buffered, noise::Error> {
    Ok(Buffered(noise::Config::new(key)?))
}

impl UpgradeInfo for Buffered {
    type Info = <noise::Config as UpgradeInfo>::Info;
    type InfoIter = <noise::Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<T> for Buffered {
    type Output = <noise::Config as InboundConnectionUpgrade<BufReader<T>>>::Output;
    type Error = <noise::Config as InboundConnectionUpgrade<BufReader<T>>>::Error;
    type Future = <noise::Config as InboundConnectionUpgrade<BufReader<T>>>::Future;

    fn upgrade_inbound(self, socket: T, info: Self::Info) -> Self::Future {
        self.0.upgrade_inbound(BufReader::with_capacity(READ_BYTES, socket), info)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<T> for Buffered {
    type Output = <noise::Config as OutboundConnectionUpgrade<BufReader<T>>>::Output;
    type Error = <noise::Config as OutboundConnectionUpgrade<BufReader<T>>>::Error;
    type Future = <noise::Config as OutboundConnectionUpgrade<BufReader<T>>>::Future;

    fn upgrade_outbound(self, socket: T, info: Self::Info) -> Self::Future {
        self.0.upgrade_outbound(BufReader::with_capacity(READ_BYTES, socket), info)
    }
}
