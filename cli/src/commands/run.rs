use crate::error::Error;
use crate::output;
use crate::session::Session;
use crate::view;
use karte_node::access::{self, Serve};
use serde_json::Value;

/// Run the node: listen, serve what is granted, receive what is offered
///
/// Stays in the foreground until Ctrl-C, SIGTERM or `karte stop`, and then ends in order. While it runs, the other
/// commands work through it. Connected readers get new records within moments, and a revocation stops them at once.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte run\n  \
    karte run --listen /ip4/0.0.0.0/udp/4711/quic-v1 --listen /ip4/0.0.0.0/tcp/4711\n  \
    karte run --relay --listen /ip4/0.0.0.0/tcp/443\n  \
    karte run --via /ip4/203.0.113.7/tcp/443/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN\n  \
    karte run --announce /ip4/203.0.113.7/tcp/4747")]
pub(crate) struct Args {
    /// Listen here; may be given several times [default: the settings, which begin with UDP and TCP 4747]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Put this address on the card instead of those it listens on; may be given several times
    ///
    /// For a node behind a router that forwards a port to it: others must call the router.
    #[arg(long, value_name = "MULTIADDR")]
    announce: Vec<String>,
    /// Keep a place at this relay, so that contacts reach this node behind a NAT; may be given several times
    ///
    /// The relay sees who talks with whom, when and how much, and nothing of what. It must know this node as a contact,
    /// unless it serves anyone.
    #[arg(long, value_name = "MULTIADDR")]
    via: Vec<String>,
    /// Be a relay for contacts who cannot be reached from outside
    ///
    /// They give the address that is printed to `--via`. For anyone: `relay_for = "anyone"` in config.toml. Listen on TCP
    /// 443 too: firewalls of clinics often let out nothing else.
    #[arg(long)]
    relay: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<(), Error> {
    session.require_node()?;
    let json = session.json;
    // A daemon outlives whoever read its first lines, so an output that is gone does not end it.
    let mut tell = |told: Value| {
        let _ =
            if json { output::print_object(told).map_err(Error::from) } else { output::print(&line(&told)) };
    };
    let Args { listen, announce, via, relay } = args;
    let serve = Serve { listen, announce, via, relay };
    Ok(access::serve(&session.home, serve, session.unlock(), &mut tell)?)
}

fn line(told: &Value) -> String {
    match told.get("notice").and_then(Value::as_str) {
        Some(notice) => view::clean(notice),
        None => format!("{}\n\nRunning. Ctrl-C ends it.", view::details(std::slice::from_ref(told))),
    }
}
