//! Nodes that nobody can call: each behind a router of its own that masquerades, and a relay that both can call. They
//! meet over the relay, and then directly; a clinic whose firewall lets out nothing but TCP 443 has the relay alone.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::text;
use karte_tests::machine::Machine;
use karte_tests::{Daemon, Home, eventually, say, synthetic};
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const RECORDS: u64 = 300;
const CLINIC: &str = "sakura";

/// Hana and her clinic, each behind a router, and a relay on TCP and UDP 443.
struct Story {
    hana: Home,
    clinic: Home,
    clinic_is_on: Arc<Machine>,
    /// The relay's address as its daemon printed it.
    via: String,
    _relay: (Home, Daemon),
}

/// None, and said so, where the system makes no such networks.
fn hidden() -> Option<Story> {
    let hidden = Machine::several(3).and_then(|outside| {
        let (first, second) = (Machine::behind(&outside[1])?, Machine::behind(&outside[2])?);
        Some((outside, first, second))
    });
    let Some((outside, hana_is_on, clinic_is_on)) = hidden else {
        say!(
            "skipped 1: no routers here (they need root, CAP_NET_ADMIN, ip and nft: apt-get install iproute2 nftables)"
        );
        return None;
    };
    let mut relay = Home::clinic("relay").on(&outside[0]);
    relay.port = 443;
    let relaying = relay.runs_with(&["--relay"]);
    let via = relaying.addresses("relay").into_iter().find(|address| address.contains("/tcp/443/")).unwrap();
    let (hana, clinic) = (Home::patient("hana").on(&hana_is_on), Home::clinic(CLINIC).on(&clinic_is_on));
    hana.knows(&relay);
    clinic.knows(&relay);
    Some(Story { hana, clinic, clinic_is_on, via, _relay: (relay, relaying) })
}

impl Story {
    /// Both run with a place at the relay, on their cards too; Hana adds the clinic.
    fn meet(&self) -> (Daemon, Daemon) {
        let run = |home: &Home| {
            let daemon = home.runs_with(&["--via", &self.via]);
            eventually(&format!("{}'s card says its place at the relay", home.name), SOON, || {
                let addresses = home.does(&["card"])[0]["addresses"].to_string();
                addresses.contains("/p2p-circuit").then_some(())
            });
            daemon
        };
        let daemons = (run(&self.hana), run(&self.clinic));
        self.hana.knows(&self.clinic);
        eventually("they greet one another", SOON, || self.where_the_clinic_is().map(drop));
        daemons
    }

    /// At which address Hana's node is connected with the clinic's, once they have greeted.
    fn where_the_clinic_is(&self) -> Option<String> {
        let peers = self.hana.does(&["peers"]);
        let greeted = peers.iter().find(|peer| peer["name"] == CLINIC && peer["state"] == "greeted")?;
        Some(text(greeted, "address"))
    }

    /// Hana's records come to the clinic, whole.
    fn share(&self) {
        self.hana.imports(&synthetic::write(self.hana.beside("records.ndjson"), 0, RECORDS));
        self.hana.grants(&self.clinic, &["--kind", "fhir"]);
        let (_, took) = eventually("all records are at the clinic", SOON, || {
            (self.clinic.count() as u64 == RECORDS).then_some(())
        });
        let some = text(&self.clinic.lists()[0], "id");
        assert_eq!(self.clinic.opens(&some), self.hana.opens(&some), "byte for byte");
        say!("reach: {RECORDS} records {} in {took:?}", self.where_the_clinic_is().unwrap_or_default());
    }
}

#[test]
fn two_nodes_behind_routers_meet_over_a_relay_and_then_directly() {
    let Some(story) = hidden() else { return };
    let _daemons = story.meet();
    let (address, took) = eventually("a direct connection takes the relayed one's place", SOON, || {
        story.where_the_clinic_is().filter(|address| !address.contains("/p2p-circuit"))
    });
    say!("reach: directly at {address} after {took:?}");
    story.share();
}

#[test]
fn a_clinic_whose_firewall_lets_out_only_tcp_443_is_reached_over_the_relay() {
    let Some(story) = hidden() else { return };
    assert!(story.clinic_is_on.lets_out_only_443(), "nft has made a router already");
    let _daemons = story.meet();
    story.share();
    let address = story.where_the_clinic_is().unwrap_or_default();
    assert!(
        address.contains("/tcp/443/") && address.contains("/p2p-circuit"),
        "nothing else passes: {address}"
    );
}
