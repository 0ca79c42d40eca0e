//! `config.toml`: how this node acts by itself. Written by `karte init`, read at every start, edited by hand.

use crate::failure::Failure;
use crate::network::RelayFor;
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "config.toml";
/// Where a daemon listens unless told otherwise: QUIC first, TCP for networks that drop UDP. 4747: unassigned.
const LISTEN: [&str; 2] = ["/ip4/0.0.0.0/udp/4747/quic-v1", "/ip4/0.0.0.0/tcp/4747"];

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
