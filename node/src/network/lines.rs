//! The connections to one peer, best first.
//!
//! For: new streams take the best one; what a relay carries is given up when there is a direct one. Not for: making or
//! closing connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use libp2p::Multiaddr;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;

use super::waves::is_quic;

/// How good a connection is; the smaller, the better. Payloads move faster over TCP than over QUIC (see `waves`), and a
/// relay is slower than both and somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Tcp,
    Quic,
    Relayed,
}

/// A port, because a route is asked for with one. 9, discard (RFC 863).
const DISCARD: u16 = 9;

/// One connection.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) id: ConnectionId,
    pub(crate) address: Multiaddr,
    kind: Kind,
    /// Our own address that it leaves from; it is dead when we lose that. None where it is not: QUIC goes on from
    /// another address, and a circuit ends with the connection to its relay.
    from: Option<IpAddr>,
}

/// The connections of a peer; of one kind the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    pub(crate) fn add(&mut self, id: ConnectionId, endpoint: &ConnectedPoint) {
        let address = place_of(endpoint);
        let kind = match () {
            () if endpoint.is_relayed() => Kind::Relayed,
            () if is_quic(&address) => Kind::Quic,
            () => Kind::Tcp,
        };
        let from = if kind == Kind::Tcp { own_address(endpoint) } else { None };
        let place = self.0.partition_point(|line| line.kind <= kind);
        self.0.insert(place, Line { id, address, kind, from });
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) {
        self.0.retain(|line| line.id != id);
    }

    pub(crate) fn best(&self) -> Option<&Line> {
        self.0.first()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Connections that left from an address of ours.
    pub(crate) fn from(&self, own: IpAddr) -> impl Iterator<Item = ConnectionId> {
        self.0.iter().filter(move |line| line.from == Some(own)).map(|line| line.id)
    }

    /// Relayed connections, while there is a direct one.
    pub(crate) fn superseded(&self) -> Vec<ConnectionId> {
        let is_direct = self.best().is_some_and(|best| best.kind != Kind::Relayed);
        let relayed = self.0.iter().filter(|line| is_direct && line.kind == Kind::Relayed);
        relayed.map(|line| line.id).collect()
    }
}

/// Where the other end is. Who came over a relay names only itself: then the relay.
pub(crate) fn place_of(endpoint: &ConnectedPoint) -> Multiaddr {
    match endpoint {
        ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => local_addr.clone(),
        endpoint => endpoint.get_remote_address().clone(),
    }
}

/// The first IP address of a multiaddress.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

/// Our own address on a connection; of one that we made, what the system's routes say now.
fn own_address(endpoint: &ConnectedPoint) -> Option<IpAddr> {
    match endpoint {
        ConnectedPoint::Listener { local_addr, .. } => ip_of(local_addr),
        ConnectedPoint::Dialer { address, .. } => source_towards(ip_of(address)?),
    }
}

/// The address that packets to `ip` leave from. Nothing is sent.
fn source_towards(ip: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((ip, DISCARD)).ok()?;
    socket.local_addr().ok().map(|own| own.ip())
}

#[cfg(test)]
mod tests {
    use libp2p::core::Endpoint;
    use libp2p::core::transport::PortUse;

    use super::*;

    fn called(address: &str) -> ConnectedPoint {
        ConnectedPoint::Dialer {
            address: address.parse().expect("an address of a test"),
            role_override: Endpoint::Dialer,
            port_use: PortUse::New,
        }
    }

    #[test]
    fn a_direct_line_is_better_than_a_relayed_one_and_ends_it() {
        let mut lines = Lines::default();
        let [relayed, quic, tcp] = [1, 2, 3].map(ConnectionId::new_unchecked);
        let relay =
            "/ip4/192.0.2.9/tcp/443/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";
        lines.add(relayed, &called(relay));
        assert_eq!(lines.superseded(), [], "it is all there is");
        lines.add(quic, &called("/ip4/192.0.2.1/udp/4747/quic-v1"));
        assert_eq!(lines.superseded(), [relayed]);
        lines.add(tcp, &called("/ip4/192.0.2.1/tcp/4747"));
        assert_eq!(lines.best().map(|line| line.id), Some(tcp), "and TCP is better than QUIC");
        lines.remove(tcp);
        lines.remove(quic);
        assert_eq!(lines.best().map(|line| line.id), Some(relayed));
        assert_eq!(lines.superseded(), [], "needed again");
    }

    #[test]
    fn a_line_dies_with_the_address_it_left_from() {
        let mut lines = Lines::default();
        let [tcp, quic] = [1, 2].map(ConnectionId::new_unchecked);
        lines.add(tcp, &called("/ip4/127.0.0.1/tcp/4747"));
        lines.add(quic, &called("/ip4/127.0.0.1/udp/4747/quic-v1"));
        let of = |own: [u8; 4]| lines.from(own.into()).collect::<Vec<_>>();
        assert_eq!(of([127, 0, 0, 1]), [tcp], "QUIC goes on from another address");
        assert_eq!(of([192, 0, 2, 1]), []);
    }
}
