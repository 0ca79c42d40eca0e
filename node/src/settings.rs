//! `config.toml`: how this node acts by itself. Written by `karte init`, read at every start, edited by hand.

use crate::failure::Failure;
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
    /// Multiaddresses for the card instead of those: where a router forwards from. Those it listens on, if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub announce: Vec<String>,
}

impl Default for Network {
    fn default() -> Self {
        Self { listen: LISTEN.map(str::to_owned).to_vec(), announce: vec![] }
    }
}

impl Settings {
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
