//! A real daemon by a clock that runs ahead, or one that sends wrong bytes: what a node does on a day that is yet to come,
//! and among bad neighbours.
//!
//! For: journeys and scenarios over real processes. Here and not in `karte`, so that no user of the product, and nobody who can set
//! its environment, can have permissions judged by another time than the machine's.

use karte_node::access::{self, Serve};
use karte_node::clock::{Clock, SystemClock};
use karte_node::failure::Failure;
use karte_protocol::time::{DAY_MS, UnixMs};
use std::path::PathBuf;

/// The node command.
#[derive(clap::Args)]
pub struct Node {
    /// The folder of the node; without passphrase
    #[arg(long)]
    home: PathBuf,
    /// How far its clock runs ahead, in days: 20d
    #[arg(long, value_parser = days, default_value = "0d")]
    clock_ahead: i64,
    /// Change a bit of every slice of a payload it sends
    #[arg(long)]
    wrong_bytes: bool,
    /// Multiaddresses to listen on
    #[arg(long)]
    listen: Vec<String>,
}

/// The machine's clock, some milliseconds later.
struct Ahead(i64);

impl Clock for Ahead {
    fn now_ms(&self) -> UnixMs {
        SystemClock.now_ms().saturating_add(self.0)
    }
}

/// Is the daemon until it is told to end. Says what `karte run --json` says.
pub fn run(node: Node) -> std::io::Result<bool> {
    if node.wrong_bytes {
        karte_protocol::variants::spoil_slices();
    }
    let unlock = Box::new(|| Err(Failure::usage("expected a node without passphrase")));
    let mut tell = |told: serde_json::Value| println!("{told}");
    let serve = Serve { listen: node.listen, ..Serve::default() };
    access::serve_by(Ahead(node.clock_ahead), &node.home, serve, unlock, &mut tell)
        .map(|()| true)
        .map_err(|failure| std::io::Error::other(failure.to_string()))
}

/// `20d` in milliseconds.
fn days(text: &str) -> Result<i64, String> {
    let number = text.strip_suffix('d').and_then(|number| number.parse::<i64>().ok());
    let number = number.filter(|number| (0..=36_525).contains(number));
    number.map(|number| number * DAY_MS).ok_or_else(|| "expected a number of days such as 20d".to_owned())
}
