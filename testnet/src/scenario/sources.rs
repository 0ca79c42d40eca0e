//! Much is read from a holder and its steward at once; then from a steward that sends wrong bytes.
//!
//! Each has a line of its own, a proxy at [`RATE`], and the first transfer is from the holder alone: what a second source
//! is worth shows as the ratio of the two times.

use super::material::Material;
use super::node::{Node, Run, free_port, tcp};
use super::pair::{EVERYTHING, SOON, WHOLE_MAX, acquaint, arrives, grant};
use super::stage::{Stage, unlike};
use super::{Options, Outcome};
use crate::proxy::{Link, Proxy, Way};
use serde_json::json;
use std::io;

/// Bytes in a second from each source. 24 MiB: slower than any machine, so that the lines are the limit.
const RATE: u64 = 24 << 20;
/// Files that are sent, each an eighth of `--size`: 24 of 8 MiB. More than the holder is asked for at once (SPEC section 9).
const FILES: u64 = 24;
const FILE_PART: usize = 8;
/// The least that each of two equal sources should bring, of all. A quarter: the second one is called when the first has begun.
const SHARE_MIN: f64 = 0.25;
/// What may be sent beyond the payloads, of their bytes: labels, proofs, messages, and nothing twice.
const BEYOND_MAX: f64 = 0.05;
/// What a bad source may send before it is dropped, in bytes. 8 MiB: what lies in buffers on its way.
const SPOILED_MAX: u64 = 8 << 20;

/// A holder, its steward, and a reader that is not there yet.
struct Trio<'a> {
    stage: &'a Stage,
    pharmacy: Node<'a>,
    sakura: Node<'a>,
    /// Kept to the end: dropped, its daemon is killed.
    hana: Node<'a>,
    to_hana: Proxy,
    to_pharmacy: Proxy,
}

/// What a transfer took.
struct Taken {
    seconds: f64,
    from_holder: u64,
    from_steward: u64,
}

impl<'a> Trio<'a> {
    /// All of `material` is with holder and steward, granted to the reader, and none of it with the reader.
    fn new(stage: &'a Stage, name: &str, material: &Material) -> io::Result<Self> {
        let line = Link { bytes_per_s: Some(RATE), ..Link::default() };
        let (at_hana, at_pharmacy) = (free_port()?, free_port()?);
        let (to_hana, to_pharmacy) = (Proxy::start(at_hana, line)?, Proxy::start(at_pharmacy, line)?);
        let behind = |at, proxy: &Proxy| Run {
            listen: vec![tcp(at)],
            announce: vec![proxy.multiaddress()],
            ..Run::default()
        };
        let mut hana = Node::new(stage, &format!("{name}-hana"), false)?;
        let mut pharmacy = Node::new(stage, &format!("{name}-pharmacy"), true)?;
        let mut sakura = Node::new(stage, &format!("{name}-sakura"), true)?;
        hana.start(behind(at_hana, &to_hana))?;
        pharmacy.start(behind(at_pharmacy, &to_pharmacy))?;
        sakura.start(Run::default())?;
        acquaint(&hana, &pharmacy)?;
        acquaint(&hana, &sakura)?;
        grant(stage, &hana, &sakura, EVERYTHING)?;
        pharmacy.does(&["steward", "offer", &hana.name, "--quota", "10GB", "--for", "90d"])?;
        hana.does(&["steward", "add", &pharmacy.name])?;
        hana.does(&["sync", &pharmacy.name])?;
        // The reader hears of the steward, then goes.
        hana.does(&["sync", &sakura.name])?;
        sakura.stop()?;
        hana.imports(&material.path)?;
        stage.until("the steward keeps all of it", WHOLE_MAX, || {
            let kept = pharmacy.does(&["steward", "keeping"])?;
            let is_all =
                |kept: &serde_json::Value| kept["records"] == material.records() && kept["missing"] == 0;
            Ok(kept.first().is_some_and(is_all).then_some(()))
        })?;
        Ok(Self { stage, pharmacy, sakura, hana, to_hana, to_pharmacy })
    }

    /// The reader comes and reads all of it.
    fn reads(&mut self, material: &Material) -> io::Result<Taken> {
        let before = (self.to_hana.passed(Way::FromTarget), self.to_pharmacy.passed(Way::FromTarget));
        self.sakura.start(Run::default())?;
        let took = arrives(self.stage, &self.sakura, material.records(), WHOLE_MAX)?;
        if !material.is_all_of(&self.sakura)? {
            return Err(unlike("other bytes came than were sent"));
        }
        Ok(Taken {
            seconds: took.as_secs_f64(),
            from_holder: self.to_hana.passed(Way::FromTarget) - before.0,
            from_steward: self.to_pharmacy.passed(Way::FromTarget) - before.1,
        })
    }
}

fn material(stage: &Stage, options: &Options) -> io::Result<Material> {
    Material::files(stage, "sources", FILES, options.size_bytes() / FILE_PART)
}

/// Holder alone, then holder and steward.
pub(super) fn sources(stage: &Stage, options: &Options) -> io::Result<Outcome> {
    let material = material(stage, options)?;
    let mut alone = Trio::new(stage, "alone", &material)?;
    alone.pharmacy.stop()?;
    let alone = alone.reads(&material)?;
    stage.say(&format!("from the holder alone: {:.1} s", alone.seconds));
    let shared = Trio::new(stage, "shared", &material)?.reads(&material)?;
    let sent = shared.from_holder + shared.from_steward;
    let least = shared.from_holder.min(shared.from_steward) as f64 / sent as f64;
    let beyond = sent as f64 / material.bytes as f64 - 1.0;
    let held = least >= SHARE_MIN && beyond <= BEYOND_MAX;
    Ok(Outcome::new(
        held,
        format!(
            "{} MiB from a holder alone in {:.1} s, with its steward in {:.1} s; the lesser share {:.0} % (bar {:.0} %), \
             {:.1} % sent beyond the payloads (bar {:.0} %)",
            material.bytes >> 20,
            alone.seconds,
            shared.seconds,
            least * 100.0,
            SHARE_MIN * 100.0,
            beyond * 100.0,
            BEYOND_MAX * 100.0
        ),
        json!({ "bytes": material.bytes, "equal": true, "alone_s": alone.seconds, "shared_s": shared.seconds,
                "ratio": alone.seconds / shared.seconds, "from_holder": shared.from_holder,
                "from_steward": shared.from_steward, "lesser_share": least, "beyond": beyond }),
    ))
}

/// The steward changes a bit of every slice.
pub(super) fn bad_source(stage: &Stage, options: &Options) -> io::Result<Outcome> {
    let material = material(stage, options)?;
    let mut trio = Trio::new(stage, "bad", &material)?;
    let run = trio.pharmacy.stop().map(|()| trio.pharmacy.run_before())?;
    trio.pharmacy.start(Run { lies: true, ..run })?;
    stage.until("the holder has its steward again", SOON, || {
        let peers = trio.hana.does(&["peers"])?;
        let greeted = |peer: &serde_json::Value| {
            peer["name"] == trio.pharmacy.name.as_str() && peer["state"] == "greeted"
        };
        Ok(peers.iter().any(greeted).then_some(()))
    })?;
    let taken = trio.reads(&material)?;
    let said = trio.sakura.has_said()?;
    let named = said.lines().filter(|line| line.contains("sent wrong bytes")).count();
    let is_tried = taken.from_steward > 1 << 20;
    let held = named > 0 && is_tried && taken.from_steward <= SPOILED_MAX;
    Ok(Outcome::new(
        held,
        format!(
            "{} MiB came whole in {:.1} s beside a steward that sends wrong bytes; it was named {named} times, and \
             sent {} KiB (bar {} KiB)",
            material.bytes >> 20,
            taken.seconds,
            taken.from_steward >> 10,
            SPOILED_MAX >> 10
        ),
        json!({ "bytes": material.bytes, "equal": true, "seconds": taken.seconds, "named": named,
                "from_holder": taken.from_holder, "from_steward": taken.from_steward }),
    ))
}
