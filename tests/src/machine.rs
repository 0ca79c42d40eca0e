//! Machines of their own for the nodes of a story: network namespaces, joined by one bridge.
//!
//! For: that nothing goes by loopback, and that a cable can be pulled. Needs root and `ip`; where namespaces cannot be
//! made the story says so and runs on this machine. Not for: files; all machines see one file system.

use crate::say;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A network namespace with one address.
#[derive(Debug)]
pub struct Machine {
    /// Its address on the bridge.
    pub address: String,
    space: String,
    cable: String,
    // Cables go before what they hang on.
    _bridge: Arc<Bridge>,
    _router: Option<Arc<Machine>>,
}

/// What machines are joined by. Dropped, it goes.
#[derive(Debug)]
struct Bridge(String);

impl Machine {
    /// So many machines on a network of their own; none, and said so, where they cannot be made.
    pub fn several(count: u8) -> Option<Vec<Arc<Self>>> {
        // Names of interfaces are short, and stories run side by side: in one process, and in several.
        static STORIES: AtomicU32 = AtomicU32::new(0);
        let story = STORIES.fetch_add(1, Ordering::Relaxed);
        let tag = format!(
            "{:x}{}",
            std::process::id(),
            char::from(b'a' + u8::try_from(story % 26).unwrap_or_default())
        );
        let net = (std::process::id() * 7 + story) % 250;
        let bridge = Arc::new(Bridge(format!("kb{tag}")));
        let made = ip(&["link", "add", &bridge.0, "type", "bridge"]) && ip(&["link", "set", &bridge.0, "up"]);
        let machines: Option<Vec<_>> =
            made.then(|| (1..=count).map(|number| Self::new(&bridge, &tag, net, number)).collect()).flatten();
        if machines.is_none() {
            say!("no network namespaces here (they need root, CAP_NET_ADMIN and ip): on loopback instead");
        }
        machines
    }

    fn new(bridge: &Arc<Bridge>, tag: &str, net: u32, number: u8) -> Option<Arc<Self>> {
        let machine = Self {
            address: format!("10.77.{net}.{number}"),
            space: format!("kn{tag}-{number}"),
            cable: format!("kv{tag}{number}"),
            _bridge: bridge.clone(),
            _router: None,
        };
        let (space, cable, inside) = (&machine.space, &machine.cable, "eth0");
        let plugged = ip(&["netns", "add", space])
            && ip(&["link", "add", cable, "type", "veth", "peer", "name", inside, "netns", space])
            && ip(&["link", "set", cable, "master", &bridge.0, "up"])
            && ip(&["-n", space, "addr", "add", &format!("{}/24", machine.address), "dev", inside])
            && ip(&["-n", space, "link", "set", inside, "up"])
            && ip(&["-n", space, "link", "set", "lo", "up"]);
        plugged.then(|| Arc::new(machine))
    }

    /// A machine that hides behind `router`, which masquerades: nobody reaches it who was not called by it. None where
    /// `nft` or the kernel refuse that.
    pub fn behind(router: &Arc<Self>) -> Option<Arc<Self>> {
        let machine = Self {
            address: "192.168.7.2".to_owned(),
            space: format!("{}h", router.space),
            cable: "lan".to_owned(),
            _bridge: router._bridge.clone(),
            _router: Some(router.clone()),
        };
        let (space, outside, inside) = (&machine.space, &router.space, "eth0");
        let cable = ["link", "add", &machine.cable, "type", "veth", "peer", "name", inside, "netns", space];
        let is_plugged = ip(&["netns", "add", space])
            && ip(&[&["-n", outside], &cable[..]].concat())
            && ip(&["-n", outside, "addr", "add", "192.168.7.1/24", "dev", &machine.cable])
            && ip(&["-n", outside, "link", "set", &machine.cable, "up"])
            && ip(&["-n", space, "addr", "add", "192.168.7.2/24", "dev", inside])
            && ip(&["-n", space, "link", "set", inside, "up"])
            && ip(&["-n", space, "link", "set", "lo", "up"])
            && ip(&["-n", space, "route", "add", "default", "via", "192.168.7.1"]);
        let rules = "table ip karte {
            chain out { type nat hook postrouting priority srcnat; oifname \"eth0\" masquerade; }
            chain through { type filter hook forward priority filter; policy drop;
              oifname \"eth0\" accept; ct state established,related accept; }
            chain in { type filter hook input priority filter; policy drop;
              iifname \"lo\" accept; ct state established,related accept; }
        }";
        let hides = is_plugged
            && router.inside(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])
            && router.inside(&["nft", rules]);
        hides.then(|| Arc::new(machine))
    }

    /// From now on its firewall lets out nothing but TCP to port 443, and in nothing but answers. Says whether it could.
    pub fn lets_out_only_443(&self) -> bool {
        self.inside(&[
            "nft",
            "table inet karte {
                chain out { type filter hook output priority filter; policy drop;
                  oifname \"lo\" accept; tcp dport 443 accept; }
                chain in { type filter hook input priority filter; policy drop;
                  iifname \"lo\" accept; ct state established accept; }
            }",
        ])
    }

    /// Runs a word of the system on it.
    fn inside(&self, words: &[&str]) -> bool {
        ip(&[&["netns", "exec", &self.space], words].concat())
    }

    /// A program that runs on it.
    pub fn program(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space]).arg(program);
        command
    }

    /// Pulls its cable, or puts it back.
    pub fn plug(&self, plugged: bool) {
        assert!(ip(&["link", "set", &self.cable, if plugged { "up" } else { "down" }]), "the cable is ours");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The cable goes with the namespace.
        ip(&["netns", "del", &self.space]);
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        ip(&["link", "del", &self.0]);
    }
}

fn ip(words: &[&str]) -> bool {
    let done = Command::new("ip")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    done.is_ok_and(|status| status.success())
}
