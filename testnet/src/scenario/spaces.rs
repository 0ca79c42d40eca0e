//! Machines of their own for the nodes of a scenario: network namespaces, joined by bridges, slowed by `tc`, hidden
//! behind routers that masquerade, closed by firewalls.
//!
//! Needs root, `ip`, `tc` and `nft` (Linux). What is made here goes when its value is dropped. Not for: files; all
//! machines see one file system.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Burst and queue of a slowed cable: two packets, and how long one may wait. 400 ms: a home router's buffer.
const TBF_BURST: &str = "3kb";
const TBF_LATENCY: &str = "400ms";

/// A bridge, and the names and numbers of what hangs on it. Dropped, it goes.
#[derive(Debug)]
pub(super) struct Network {
    bridge: String,
    /// Short, because names of interfaces have at most 15 letters.
    tag: String,
    /// The first three numbers of its addresses.
    prefix: String,
}

/// A network namespace. Dropped, it goes, and its cables with it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) space: String,
    /// On the first network it was plugged into.
    pub(super) address: String,
    // Cables go before what they hang on.
    _network: Arc<Network>,
}

/// Whether this machine can make namespaces; else why not.
pub(super) fn possible() -> Result<(), String> {
    let space = format!("kt{:x}p", std::process::id());
    let made = run("ip", &["netns", "add", &space]);
    // It may not be there.
    let _ = run("ip", &["netns", "del", &space]);
    made.map_err(|error| {
        format!("network namespaces cannot be made here (they need root and `ip`): {error}")
    })?;
    for tool in ["tc", "nft"] {
        let found = Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.map_err(|_| format!("`{tool}` is not here: apt-get install iproute2 nftables"))?;
    }
    Ok(())
}

impl Network {
    /// A bridge of its own, which is 254 in its network on this machine too.
    pub(super) fn new() -> io::Result<Arc<Self>> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let network = Self {
            bridge: format!("kt{process:x}b{number}"),
            tag: format!("{process:x}n{number}"),
            // Several processes and networks side by side do not meet; benchmarking addresses (RFC 2544).
            prefix: format!("198.{}.{}", 18 + (process >> 8) % 2, (process * 7 + number) % 256),
        };
        run("ip", &["link", "add", &network.bridge, "type", "bridge"])?;
        run("ip", &["addr", "add", &format!("{}/24", network.here()), "dev", &network.bridge])?;
        run("ip", &["link", "set", &network.bridge, "up"])?;
        Ok(Arc::new(network))
    }

    /// The address of this machine on it.
    pub(super) fn here(&self) -> String {
        format!("{}.254", self.prefix)
    }

    fn address(&self, number: u8) -> String {
        format!("{}.{number}", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = run("ip", &["link", "del", &self.bridge]);
    }
}

impl Machine {
    /// A machine with one cable; `number` is its place on the network, 1 to 253.
    pub(super) fn new(network: &Arc<Network>, number: u8) -> io::Result<Arc<Self>> {
        let machine = Self {
            space: format!("kt{}-{number}", network.tag),
            address: network.address(number),
            _network: network.clone(),
        };
        run("ip", &["netns", "add", &machine.space])?;
        machine.ip(&["link", "set", "lo", "up"])?;
        machine.plug(network, number, "eth0")?;
        Ok(Arc::new(machine))
    }

    /// A further cable, to another network.
    pub(super) fn plug(&self, network: &Network, number: u8, inside: &str) -> io::Result<()> {
        let outside = format!("v{}{number}", network.tag);
        let peer = ["type", "veth", "peer", "name", inside, "netns", &self.space];
        run("ip", &[&["link", "add", &outside], &peer[..]].concat())?;
        run("ip", &["link", "set", &outside, "master", &network.bridge, "up"])?;
        self.ip(&["addr", "add", &format!("{}/24", network.address(number)), "dev", inside])?;
        self.ip(&["link", "set", inside, "up"])
    }

    /// Sends what is for elsewhere to `router`.
    pub(super) fn route_by(&self, router: &str) -> io::Result<()> {
        self.ip(&["route", "add", "default", "via", router])
    }

    /// What it sends over a cable goes no faster: a rate as `tc` takes it (`1mbit`).
    pub(super) fn slow(&self, inside: &str, rate: &str) -> io::Result<()> {
        let shape = ["tbf", "rate", rate, "burst", TBF_BURST, "latency", TBF_LATENCY];
        run("tc", &[&["-n", &self.space, "qdisc", "add", "dev", inside, "root"], &shape[..]].concat())
    }

    /// Makes it a router that hides who is behind it: what leaves by `outside` bears its own address, and only
    /// answers come in.
    pub(super) fn masquerade(&self, outside: &str) -> io::Result<()> {
        self.inside("sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"])?;
        let rules = format!(
            "table ip karte {{
               chain out {{ type nat hook postrouting priority srcnat; oifname \"{outside}\" masquerade; }}
               chain through {{ type filter hook forward priority filter; policy drop;
                 oifname \"{outside}\" accept; ct state established,related accept; }}
             }}"
        );
        self.inside("nft", &[&rules])
    }

    /// Makes its firewall let out nothing but TCP to port 443, and in nothing but answers.
    pub(super) fn only_443(&self) -> io::Result<()> {
        let rules = "table inet karte {
            chain out { type filter hook output priority filter; policy drop;
              oifname \"lo\" accept; tcp dport 443 accept; ct state established accept; }
            chain in { type filter hook input priority filter; policy drop;
              iifname \"lo\" accept; ct state established accept; }
        }";
        self.inside("nft", &[rules])
    }

    /// A program that runs on it. `ip` becomes the program, so that its process id is the program's.
    pub(super) fn program(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space]).arg(program);
        command
    }

    fn ip(&self, words: &[&str]) -> io::Result<()> {
        run("ip", &[&["-n", &self.space], words].concat())
    }

    fn inside(&self, program: &str, words: &[&str]) -> io::Result<()> {
        run("ip", &[&["netns", "exec", &self.space, program], words].concat())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Those who ran on it have ended: nodes are dropped before their machines.
        let _ = run("ip", &["netns", "del", &self.space]);
    }
}

fn run(program: &str, words: &[&str]) -> io::Result<()> {
    let done = Command::new(program).args(words).stdin(Stdio::null()).output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("`{program} {}` failed: {}", words.join(" "), said.trim())))
}
