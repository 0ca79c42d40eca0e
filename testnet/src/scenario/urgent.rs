//! Urgent records while a large file is on its way: how soon they are at the reader, and what of the file goes first.
//!
//! Twice: from process to process over loopback, as fast as the machine goes; and through the proxy at 16 MiB/s, where
//! what waits between the two (in their sockets, their muxers, their queues) is what an urgent record waits behind. The
//! time runs from the holder's word that the record is durable there to the reader's word that it is durable here: it
//! includes news, want-list, payload, label and two fsyncs. Records with which nothing is under way are measured before.

use super::node::{Node, Run, free_port, tcp, text};
use super::pair::{self, Pair};
use super::slope::percentile;
use super::stage::{Stage, unlike};
use super::{Options, Outcome};
use crate::proxy::{Link, Proxy, Way};
use crate::told::{Arrived, imported, watch};
use serde_json::{Value, json};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Urgent records of each lane, and how many are sent before the file.
const RECORDS: u64 = 20;
const CALM: u64 = 5;
/// Bytes of one: a laboratory result.
const RECORD_BYTES: usize = 1_200;
/// The bar, in milliseconds.
const OVERTAKES_MS_MAX: f64 = 100.0;
/// Bytes in a second of the slow lane: 16 MiB.
const SLOW_RATE: u64 = 16 << 20;
/// How much longer the file is where nothing slows it. 16 times: 1 GiB, two seconds and more.
const FAST_TIMES: u64 = 16;
/// How long a record, or the rest of the file, may take before the scenario is broken off.
const ARRIVES_MAX: Duration = Duration::from_secs(60);
/// Pause before each record, at most: the file is at full speed again.
const PAUSE_MS_MAX: u64 = 50;

/// Holder and reader with a way between them.
struct Lane<'a> {
    name: &'static str,
    stage: &'a Stage,
    holder: &'a Node<'a>,
    /// Between them, if it is that lane.
    proxy: Option<&'a Proxy>,
    arrivals: Receiver<Arrived>,
    /// Urgent records so far.
    sent: u64,
    /// The file's record, once it is imported, and when it was whole at the reader.
    bulk: String,
    whole: Option<Instant>,
}

/// What came of a lane.
struct Measured {
    name: &'static str,
    /// Milliseconds from durable to durable, with nothing else under way.
    calm: Vec<f64>,
    /// The same while the file was on its way.
    busy: Vec<f64>,
    /// What passed the proxy meanwhile, in bytes.
    ahead: Vec<f64>,
    /// How fast the file went, in bytes a second; what was measured in between included.
    bulk_rate: f64,
}

pub(super) fn urgent(stage: &Stage, options: &Options) -> io::Result<Outcome> {
    let lanes = [fast(stage, options)?, slow(stage, options)?];
    let held = lanes.iter().all(Measured::holds);
    let sentence: Vec<String> = lanes.iter().map(Measured::sentence).collect();
    let numbers = lanes.iter().map(|lane| (lane.name.to_owned(), lane.numbers())).collect();
    Ok(Outcome::new(
        held,
        format!("{}; bar: none above {OVERTAKES_MS_MAX} ms", sentence.join("; ")),
        Value::Object(numbers),
    ))
}

/// From process to process.
fn fast(stage: &Stage, options: &Options) -> io::Result<Measured> {
    let mut holder = Node::new(stage, "fast-hana", false)?;
    let mut reader = Node::new(stage, "fast-sakura", true)?;
    holder.start(Run { listen: vec![tcp(free_port()?)], ..Run::default() })?;
    reader.start(Run::default())?;
    pair::befriend(stage, &holder, &reader)?;
    let bytes = options.size_bytes() as u64 * FAST_TIMES;
    Lane::new("loopback", stage, (&holder, &reader), None)?.measured(options, bytes)
}

/// Through the proxy.
fn slow(stage: &Stage, options: &Options) -> io::Result<Measured> {
    let link = Link { delay: Duration::ZERO, bytes_per_s: Some(SLOW_RATE) };
    let pair = Pair::new(stage, "slow", link)?;
    let nodes = (&pair.holder, &pair.reader);
    Lane::new("16 MiB/s", stage, nodes, Some(&pair.proxy))?.measured(options, options.size_bytes() as u64)
}

impl<'a> Lane<'a> {
    fn new(
        name: &'static str,
        stage: &'a Stage,
        (holder, reader): (&'a Node<'a>, &'a Node<'a>),
        proxy: Option<&'a Proxy>,
    ) -> io::Result<Self> {
        Ok(Self {
            name,
            stage,
            holder,
            proxy,
            arrivals: watch(reader.home())?,
            sent: 0,
            bulk: String::new(),
            whole: None,
        })
    }

    fn measured(mut self, options: &Options, bytes: u64) -> io::Result<Measured> {
        let mut dice = self.stage.dice(self.name);
        let (mut calm, mut busy, mut ahead) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..CALM {
            calm.push(self.overtakes()?.0);
        }
        let file = self.large(bytes)?;
        let begun = imported(self.holder.home(), &file, None)?;
        self.bulk = self.largest()?;
        while self.whole.is_none() {
            self.stage.pause(Duration::from_millis(dice.below(PAUSE_MS_MAX)))?;
            if busy.len() as u64 == options.times(RECORDS) {
                self.next("the file")?;
                continue;
            }
            let (took, passed) = self.overtakes()?;
            if self.whole.is_none() {
                busy.push(took);
                ahead.push(passed);
            }
        }
        if busy.is_empty() {
            return Err(unlike(format!("{}: the file was there before any record; give --size", self.name)));
        }
        std::fs::remove_file(&file)?;
        let bulk_s = self.whole.unwrap_or(begun).saturating_duration_since(begun).as_secs_f64();
        Ok(Measured { name: self.name, calm, busy, ahead, bulk_rate: bytes as f64 / bulk_s })
    }

    /// One urgent record: milliseconds, and bytes that passed meanwhile.
    fn overtakes(&mut self) -> io::Result<(f64, f64)> {
        let file = self.record()?;
        let acknowledged = imported(self.holder.home(), &file, Some("stat"))?;
        let before = self.passed();
        let arrived = loop {
            let arrived = self.next("an urgent record")?;
            if arrived.record != self.bulk {
                break arrived;
            }
        };
        let passed = self.passed().saturating_sub(before);
        std::fs::remove_file(&file)?;
        let took = arrived.at.saturating_duration_since(acknowledged);
        Ok((took.as_secs_f64() * 1e3, passed as f64))
    }

    /// The next that arrives; noted if it is the file.
    fn next(&mut self, what: &str) -> io::Result<Arrived> {
        let late = |_| unlike(format!("{}: {what} did not arrive in {ARRIVES_MAX:?}", self.name));
        let arrived = self.arrivals.recv_timeout(ARRIVES_MAX).map_err(late)?;
        if arrived.record == self.bulk {
            self.whole = Some(arrived.at);
        }
        Ok(arrived)
    }

    fn passed(&self) -> u64 {
        self.proxy.map_or(0, |proxy| proxy.passed(Way::FromTarget))
    }

    fn record(&mut self) -> io::Result<PathBuf> {
        self.sent += 1;
        let name = format!("{}-{}", self.name.replace('/', "-"), self.sent);
        let path = self.stage.folder().join(&name);
        std::fs::write(&path, self.stage.dice(&name).bytes(RECORD_BYTES))?;
        Ok(path)
    }

    /// Zeros: what is sent is ciphertext all the same, and takes no room before.
    fn large(&self, bytes: u64) -> io::Result<PathBuf> {
        let path = self.stage.folder().join("large");
        File::create(&path)?.set_len(bytes)?;
        Ok(path)
    }

    /// The id of the record that is longest: the file.
    fn largest(&self) -> io::Result<String> {
        let records = self.holder.lists()?;
        text(records.iter().max_by_key(|record| record["bytes"].as_u64()), "id")
    }
}

impl Measured {
    fn holds(&self) -> bool {
        percentile(&self.busy, 100) <= OVERTAKES_MS_MAX
    }

    fn sentence(&self) -> String {
        format!(
            "{}: {} urgent records while a file went at {:.0} MB/s, durable at the reader after {:.0} ms (p50), {:.0} ms \
             at most ({:.0} ms with nothing under way)",
            self.name,
            self.busy.len(),
            self.bulk_rate / 1e6,
            percentile(&self.busy, 50),
            percentile(&self.busy, 100),
            percentile(&self.calm, 50),
        )
    }

    fn numbers(&self) -> Value {
        json!({ "records": self.busy.len(), "p50_ms": percentile(&self.busy, 50), "max_ms": percentile(&self.busy, 100),
                "all_ms": self.busy, "calm_p50_ms": percentile(&self.calm, 50), "bulk_bytes_a_second": self.bulk_rate,
                "passed_before_p50_bytes": percentile(&self.ahead, 50), "passed_before_max_bytes": percentile(&self.ahead, 100) })
    }
}
