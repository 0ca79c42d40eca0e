//! An imaging series over 1 Mbit/s and 200 ms: how soon the reader has something to look at.
//!
//! Holder and reader are machines of their own whose cables are slowed by `tc tbf`; the proxy between them holds every
//! byte back for half of a round trip each way. TCP ends at the proxy, so its own slow start has no share in this.

use super::material::Material;
use super::node::{Node, Run, tcp, text};
use super::pair::befriend;
use super::spaces::{Machine, Network};
use super::stage::{LOOK_EVERY, Stage, unlike};
use super::{Options, Outcome};
use crate::proxy::{Link, Proxy, Way};
use serde_json::{Value, json};
use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use zip::ZipArchive;

/// The link, as `tc` takes it.
const RATE: &str = "1mbit";
const ROUND_TRIP: Duration = Duration::from_millis(200);
/// The series: about 3.3 MB, half a minute over this link.
const SLICES: u32 = 100;
const SIDE: u16 = 128;
/// The bars, in seconds from the end of the import.
const FIRST_S_MAX: f64 = 2.0;
const PREVIEW_S_MAX: f64 = 10.0;
/// Files in the preview: its head and the pictures.
const FILES: usize = 33;
/// How long the whole series may take: four times what the link needs.
const SERIES_MAX: Duration = Duration::from_secs(120);
/// Where the daemons listen on their machines.
const PORT: u16 = 4747;

pub(super) fn slow_link(stage: &Stage, _: &Options) -> io::Result<Outcome> {
    let network = Network::new()?;
    let machines = [Machine::new(&network, 1)?, Machine::new(&network, 2)?];
    for machine in &machines {
        machine.slow("eth0", RATE)?;
    }
    let [at_holder, at_reader] = &machines;
    let mut holder = Node::new(stage, "hana", false)?.on(at_holder);
    let mut reader = Node::new(stage, "sakura", true)?.on(at_reader);
    let address = |text: &str, port| parsed(text).map(|ip| SocketAddr::new(ip, port));
    let at = address(&at_holder.address, PORT)?;
    let link = Link { delay: ROUND_TRIP / 2, bytes_per_s: None };
    let proxy = Proxy::start_at(address(&network.here(), 0)?, at, link)?;
    holder.start(Run { listen: vec![tcp(at)], announce: vec![proxy.multiaddress()], ..Run::default() })?;
    reader.start(Run::default())?;
    befriend(stage, &holder, &reader)?;

    let series = Material::series(stage, "series", SLICES, SIDE)?;
    let before = proxy.passed(Way::FromTarget);
    let imported = holder.imports(&series.path)?;
    let begun = Instant::now();
    let (preview, _) = stage.looking_every(LOOK_EVERY, "the preview arrives", SERIES_MAX, || {
        Ok(reader.lists()?.into_iter().find(|record| record["kind"] == "dicom/preview"))
    })?;
    let preview_s = begun.elapsed().as_secs_f64();
    let there = reader.count()?;
    let first_bytes = first_picture_bytes(&holder, &reader, &preview)?;
    stage.say(&format!("the whole preview after {preview_s:.1} s, with {there} records in all"));
    super::pair::arrives(stage, &reader, series.records(), SERIES_MAX)?;
    let series_s = begun.elapsed().as_secs_f64();
    let is_equal = series.is_all_of(&reader)?;
    // A record is readable when it is whole, so the first picture is usable when the last one is.
    let first_s = preview_s;
    let held = is_equal && first_s <= FIRST_S_MAX && preview_s <= PREVIEW_S_MAX;
    let passed = proxy.passed(Way::FromTarget) - before;
    Ok(Outcome::new(
        held,
        format!(
            "{SLICES} slices ({} kB) over {RATE}, {} ms: from the end of the import, first picture usable after \
             {first_s:.1} s (bar {FIRST_S_MAX} s), the preview of 32 whole after {preview_s:.1} s (bar \
             {PREVIEW_S_MAX} s), the series after {series_s:.1} s; equal: {is_equal}",
            series.bytes / 1000,
            ROUND_TRIP.as_millis()
        ),
        json!({ "first_picture_s": first_s, "preview_s": preview_s, "series_s": series_s, "equal": is_equal,
                "import_s": imported.as_secs_f64(), "bytes": series.bytes, "preview_bytes": preview["bytes"], "first_picture_bytes": first_bytes,
                "passed": passed, "rate": RATE, "round_trip_s": ROUND_TRIP.as_secs_f64(),
                "partly_readable": false }),
    ))
}

/// All pictures are in the reader's preview, byte for byte as the holder has it. How many of its bytes must be there
/// before the first picture is.
fn first_picture_bytes(holder: &Node<'_>, reader: &Node<'_>, preview: &Value) -> io::Result<u64> {
    let id = text(Some(preview), "id")?;
    let book = reader.opens(&id)?;
    if book != holder.opens(&id)? {
        return Err(unlike("the preview differs at the reader"));
    }
    let mut zip = ZipArchive::new(Cursor::new(book)).map_err(io::Error::other)?;
    if zip.len() != FILES {
        return Err(unlike(format!("expected {FILES} files in the preview, got {}", zip.len())));
    }
    let first = zip.by_index(1).map_err(io::Error::other)?;
    let start = first.data_start().ok_or_else(|| unlike("the first picture stands nowhere"))?;
    Ok(start + first.compressed_size())
}

fn parsed(text: &str) -> io::Result<std::net::IpAddr> {
    text.parse().map_err(|_| unlike(format!("expected an IP address, got {text:?}")))
}
