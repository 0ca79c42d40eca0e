//! `config.toml`: how this node acts by itself. Written by `karte init`, read at every start, edited by hand.

use crate::failure::Failure;
use crate::network::{Multiaddr, RelayFor};
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "config.toml";
/// Where a daemon listens unless told otherwise: TCP, which is called first, and QUIC where TCP is blocked and through NATs.
/// 4747: unassigned.
const LISTEN: [&str; 2] = ["/ip4/0.0.0.0/udp/4747/quic-v1", "/ip4/0.0.0.0/tcp/4747"];

/// Addresses that are announced. 8: what a card holds (SPEC section 10).
const ANNOUNCED_MAX: usize = 8;
/// Length of one, in bytes. 300: what a card holds.
const ADDRESS_BYTES_MAX: usize = 300;

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What people call this node; part of its card.
    pub name: String,
    /// `patient`, `clinic` or `partner`.
    pub kind: String,
    /// What it says yes to by itself.
    #[serde(default)]
    pub accept: Accept,
    /// Where it listens.
    #[serde(default)]
    pub network: Network,
}

/// What the node says yes to by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Accept {
    /// Strangers who knock become contacts at once.
    pub contacts: bool,
    /// Offered grants are accepted at once.
    pub grants: bool,
    /// What arrives about the own party through such a grant becomes its own.
    pub adopt: bool,
}

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Multiaddresses.
    pub listen: Vec<String>,
    /// Multiaddresses for the card instead of those: where a router forwards from. Those it listens on, if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub announce: Vec<String>,
    /// Relays to keep a place at, so that contacts reach this node behind a NAT: addresses with `/p2p/DEVICE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<String>,
    /// Whether this node is a relay for others.
    #[serde(skip_serializing_if = "is_false")]
    pub relay: bool,
    /// For whom: `contacts` or `anyone`.
    #[serde(skip_serializing_if = "is_default")]
    pub relay_for: RelayWhom,
    /// Whether it announces itself on the local network; if not said, a patient does not, and others do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdns: Option<bool>,
}

/// Whom a relay serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayWhom {
    /// The contacts of this node may reserve a place.
    #[default]
    Contacts,
    /// Everybody may.
    Anyone,
}

impl RelayWhom {
    fn whom(self) -> RelayFor {
        match self {
            Self::Contacts => RelayFor::Contacts,
            Self::Anyone => RelayFor::Anyone,
        }
    }
}

impl Network {
    /// Whom this node relays for.
    pub(crate) fn relays_for(&self) -> RelayFor {
        if self.relay { self.relay_for.whom() } else { RelayFor::Nobody }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_default(value: &RelayWhom) -> bool {
    *value == RelayWhom::default()
}

impl Default for Network {
    fn default() -> Self {
        Self {
            listen: LISTEN.map(str::to_owned).to_vec(),
            announce: vec![],
            relays: vec![],
            relay: false,
            relay_for: RelayWhom::default(),
            mdns: None,
        }
    }
}

impl Settings {
    /// Whether it announces itself on the local network. What is announced is the device's key, by which everybody there
    /// would know it again: a patient does not do so in a café unless told to; a clinic is where it says it is.
    pub(crate) fn announces(&self) -> bool {
        self.network.mdns.unwrap_or(self.kind != "patient")
    }

    /// Reads them.
    pub fn load(home: &Path) -> Result<Self, Failure> {
        let path = home.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::failed(format!("{} cannot be read: {error}", path.display()))
                .next("`karte init` writes it; restore it or write name and kind by hand.")
        })?;
        toml::from_str(&text).map_err(|error| {
            Failure::usage(format!("{} is not understood: {error}", path.display()))
                .next("Correct that line; README.md lists what may stand there.")
        })
    }

    /// Writes them.
    pub fn save(&self, home: &Path) -> Result<(), Failure> {
        let head = "# How this node acts by itself. Edit with any editor; a running daemon reads it at its next start.\n";
        let text = toml::to_string(self).map_err(|error| Failure::failed(error.to_string()))?;
        std::fs::write(home.join(FILE), format!("{head}{text}"))
            .map_err(|error| Failure::failed(format!("the settings cannot be written: {error}")))
    }
}

/// Addresses to announce, if a card can carry them.
pub(crate) fn announced(addresses: Vec<String>) -> Result<Vec<String>, Failure> {
    // With a peer id it would be taken for the address of a steward.
    let is_place = |address: Multiaddr| address.iter().next().is_some();
    let is_own = |text: &str| text.parse().is_ok_and(is_place) && !text.contains("/p2p/");
    let fits = |text: &String| text.len() <= ADDRESS_BYTES_MAX && is_own(text);
    if let Some(text) = addresses.iter().find(|text| !fits(text)) {
        let shown: String = text.chars().take(ADDRESS_BYTES_MAX).collect();
        return Err(Failure::usage(format!("expected an address to announce, got {shown:?}"))
            .next("Write it as a multiaddress without a peer id: /ip4/203.0.113.7/tcp/4747"));
    }
    if addresses.len() > ANNOUNCED_MAX {
        let found = addresses.len();
        return Err(Failure::usage(format!(
            "expected at most {ANNOUNCED_MAX} addresses to announce, got {found}"
        ))
        .next("A card has no room for more; name those that most people can reach."));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_card_can_carry_is_announced() {
        let good =
            || vec!["/ip4/203.0.113.7/tcp/4747".to_owned(), "/dns4/node.example/udp/4747/quic-v1".to_owned()];
        assert_eq!(announced(good()).unwrap(), good());
        assert_eq!(announced(vec![]).unwrap(), Vec::<String>::new());
        let long = format!("/dns4/{}/tcp/4747", "a".repeat(300));
        let of_peer = "/ip4/203.0.113.7/tcp/4747/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        for bad in ["203.0.113.7:4747", "", of_peer, &long] {
            let refused = announced(vec![bad.to_owned()]).unwrap_err();
            assert!(refused.next.is_some_and(|next| next.contains("/ip4/")), "{bad}");
        }
        let many = vec!["/ip4/203.0.113.7/tcp/4747".to_owned(); 9];
        assert!(announced(many).unwrap_err().message.contains("at most 8"));
    }

    #[test]
    fn settings_of_before_announce_nothing_and_keep_what_they_say() {
        let home = tempfile::tempdir().unwrap();
        let before = "name = \"hana\"\nkind = \"patient\"\n[network]\nlisten = []\n";
        std::fs::write(home.path().join(FILE), before).unwrap();
        let mut settings = Settings::load(home.path()).unwrap();
        assert_eq!(settings.network, Network { listen: vec![], ..Network::default() });
        settings.network.announce = vec!["/ip4/203.0.113.7/tcp/4747".to_owned()];
        settings.save(home.path()).unwrap();
        assert_eq!(Settings::load(home.path()).unwrap(), settings);
    }
}
