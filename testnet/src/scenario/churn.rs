//! Many nodes, some of which come and go, and a revocation: how soon everybody stops who has something by that grant.
//!
//! One holder, its stewards, and readers with a grant each. In every round a tenth of the nodes is killed, those of the
//! round before come back, and in the middle of it one grant is revoked. Its reader and all stewards that are connected
//! must have stopped within the bar; nobody else may.

use super::material::Material;
use super::node::{Node, Run, free_port, tcp};
use super::pair::{EVERYTHING, SOON, acquaint, arrives};
use super::stage::{LOOK_EVERY, Stage, unlike};
use super::{Options, Outcome};
use serde_json::{Value, json};
use std::io;
use std::time::{Duration, Instant};

/// Stewards among the nodes.
const STEWARDS: usize = 3;
/// Records that everybody may read.
const RECORDS: u64 = 20;
/// Rounds, each with a revocation.
const ROUNDS: usize = 3;
/// One of so many nodes is killed in a round.
const CHURN: usize = 10;
/// The bar.
const STOP_S_MAX: f64 = 2.0;
/// How long one waits for whoever has not stopped.
const STOP_WAIT: Duration = Duration::from_secs(30);
/// How long all copies may take to be everywhere.
const SPREAD_MAX: Duration = Duration::from_secs(180);

struct Village<'a> {
    stage: &'a Stage,
    holder: Node<'a>,
    stewards: Vec<Node<'a>>,
    /// With their grants.
    readers: Vec<(Node<'a>, String)>,
    /// A record that everybody may read.
    record: String,
}

/// What came of one revocation.
struct Stopped {
    /// The reader, in seconds after the command was given.
    reader: f64,
    /// The connected stewards.
    stewards: Vec<f64>,
    /// Readers of other grants that were asked and still read.
    others: usize,
}

pub(super) fn churn(stage: &Stage, options: &Options) -> io::Result<Outcome> {
    let nodes = usize::from(options.nodes);
    let mut village = Village::new(stage, nodes)?;
    let mut dice = stage.dice("churn");
    let (mut stops, mut away) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS.min(village.readers.len()) {
        // Readers come and go; the one whose grant ends now is there, as is whoever is asked about others.
        let victims = village.killed(nodes / CHURN, round, &mut dice, &away)?;
        let returning = std::mem::replace(&mut away, victims);
        let stopped = village.revoked(round, &returning, &away)?;
        stage.say(&format!(
            "revocation {}: its reader stopped after {:.2} s, {} stewards after at most {:.2} s",
            round + 1,
            stopped.reader,
            stopped.stewards.len(),
            largest(&stopped.stewards)
        ));
        stops.push(stopped);
    }
    let slowest = stops.iter().map(|stop| stop.reader.max(largest(&stop.stewards))).fold(0.0, f64::max);
    let all_stewards: usize = stops.iter().map(|stop| stop.stewards.len()).sum();
    let others = stops.iter().all(|stop| stop.others > 0);
    Ok(Outcome::new(
        slowest <= STOP_S_MAX && all_stewards > 0 && others,
        format!(
            "{nodes} nodes, {} killed and started in each of {} rounds: after a revocation its reader and every \
             connected steward had stopped within {slowest:.2} s (bar {STOP_S_MAX} s), and nobody else had",
            nodes / CHURN,
            stops.len()
        ),
        json!({ "nodes": nodes, "rounds": stops.len(), "killed_in_a_round": nodes / CHURN, "slowest_s": slowest,
                "reader_s": stops.iter().map(|stop| stop.reader).collect::<Vec<_>>(),
                "stewards_s": stops.iter().map(|stop| stop.stewards.clone()).collect::<Vec<_>>() }),
    ))
}

impl<'a> Village<'a> {
    /// Everybody runs, and every copy is where it belongs.
    fn new(stage: &'a Stage, nodes: usize) -> io::Result<Self> {
        let mut holder = Node::new(stage, "hana", false)?;
        started(&mut holder)?;
        let mut stewards = Vec::new();
        for number in 0..STEWARDS {
            let mut steward = Node::new(stage, &format!("steward-{number}"), false)?;
            started(&mut steward)?;
            acquaint(&holder, &steward)?;
            steward.does(&["steward", "offer", &holder.name, "--quota", "1GB", "--for", "90d"])?;
            holder.does(&["steward", "add", &steward.name])?;
            holder.does(&["sync", &steward.name])?;
            stewards.push(steward);
        }
        let mut readers = Vec::new();
        for number in 0..nodes.saturating_sub(STEWARDS + 1) {
            let mut reader = Node::new(stage, &format!("reader-{number:02}"), true)?;
            started(&mut reader)?;
            acquaint(&holder, &reader)?;
            let grant = holder.grants(&reader, EVERYTHING)?;
            readers.push((reader, grant));
        }
        stage.say(&format!("{nodes} nodes run"));
        holder.imports(&Material::values(stage, "churn", 0, RECORDS)?.path)?;
        let mut village = Self { stage, holder, stewards, readers, record: String::new() };
        village.spread()?;
        let records = village.holder.lists()?;
        village.record = super::node::text(records.first(), "id")?;
        Ok(village)
    }

    /// Waits until every reader has every record and every steward every payload.
    fn spread(&self) -> io::Result<()> {
        let begun = Instant::now();
        for (reader, _) in &self.readers {
            arrives(self.stage, reader, RECORDS, SPREAD_MAX)?;
        }
        for steward in &self.stewards {
            self.stage.until(&format!("{} keeps it all", steward.name), SPREAD_MAX, || {
                let kept = steward.does(&["steward", "keeping"])?;
                let all = kept.first().is_some_and(|kept| {
                    kept["grants"] == self.readers.len() && kept["records"] == RECORDS && kept["missing"] == 0
                });
                Ok(all.then_some(()))
            })?;
        }
        self.stage.say(&format!("all copies are everywhere after {:.1} s", begun.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Kills some readers, other than those of this round and the ones that are away; their places.
    fn killed(
        &mut self,
        count: usize,
        round: usize,
        dice: &mut crate::faults::dice::Dice,
        away: &[usize],
    ) -> io::Result<Vec<usize>> {
        let mut victims: Vec<usize> = Vec::new();
        // The first are those whose grants end; the last is asked about others.
        let places = self.readers.len().saturating_sub(ROUNDS + 1).max(1) as u64;
        for _ in 0..20 * count {
            let place = ROUNDS + usize::try_from(dice.below(places)).unwrap_or_default();
            if victims.len() < count && !away.contains(&place) && !victims.contains(&place) {
                victims.push(place);
            }
        }
        for place in &victims {
            if let Some((reader, _)) = self.readers.get_mut(*place) {
                reader.kill9()?;
            }
        }
        self.stage.say(&format!("round {}: {} are killed", round + 1, victims.len()));
        Ok(victims)
    }

    /// Revokes the grant of one reader while others come back.
    fn revoked(&mut self, target: usize, returning: &[usize], away: &[usize]) -> io::Result<Stopped> {
        let connected = self.connected_stewards()?;
        let grants_before = self.readers.len() - target;
        let (first, rest) = self.readers.split_at_mut(target + 1);
        let (reader, grant) = first.last().ok_or_else(|| unlike("there is no reader left"))?;
        let (stage, holder, stewards, record) = (self.stage, &self.holder, &self.stewards, &self.record);
        let mut coming: Vec<&mut Node<'_>> = rest
            .iter_mut()
            .enumerate()
            .filter(|(place, _)| returning.contains(&(place + target + 1)))
            .map(|(_, (node, _))| node)
            .collect();
        let begun = Instant::now();
        let stopped = std::thread::scope(|scope| {
            let comes = scope.spawn(move || coming.iter_mut().try_for_each(|node| node.start_again()));
            let waits: Vec<_> = connected
                .iter()
                .filter_map(|place| stewards.get(*place))
                .map(|steward| scope.spawn(move || steward_stops(stage, steward, grants_before - 1, begun)))
                .collect();
            let reads = scope.spawn(move || reader_stops(stage, reader, record, begun));
            holder.revokes(grant)?;
            let stewards = waits.into_iter().map(joined).collect::<io::Result<Vec<f64>>>()?;
            let reader = joined(reads)?;
            joined(comes)?;
            Ok::<_, io::Error>((reader, stewards))
        });
        let (reader, stewards) = stopped?;
        Ok(Stopped { reader, stewards, others: self.still_reading(target, away)? })
    }

    /// Places of the stewards that the holder is connected with.
    fn connected_stewards(&self) -> io::Result<Vec<usize>> {
        let contacts = self.holder.does(&["contact", "list"])?;
        let is_connected = |name: &str| {
            contacts
                .iter()
                .any(|contact| contact["alias"] == name && contact["connected"] == Value::Bool(true))
        };
        let stewards = self.stewards.iter().enumerate();
        Ok(stewards.filter(|(_, steward)| is_connected(&steward.name)).map(|(place, _)| place).collect())
    }

    /// How many of the others still read, of the last who is there; an error if one does not.
    fn still_reading(&mut self, target: usize, away: &[usize]) -> io::Result<usize> {
        let mut asked = 0;
        for (place, (reader, _)) in self.readers.iter_mut().enumerate().skip(target + 1) {
            if !away.contains(&place) && reader.is_alive() {
                reader.opens(&self.record)?;
                asked += 1;
            }
        }
        Ok(asked)
    }
}

/// Runs it at one port, where others find it after it was killed. TCP alone: half of the sockets.
fn started(node: &mut Node<'_>) -> io::Result<()> {
    node.start(Run { listen: vec![tcp(free_port()?)], ..Run::default() })
}

/// Seconds until the reader is refused.
fn reader_stops(stage: &Stage, reader: &Node<'_>, record: &str, begun: Instant) -> io::Result<f64> {
    stage.looking_every(LOOK_EVERY, &format!("{} is refused", reader.name), STOP_WAIT, || {
        let told = reader.tries(&["record", "open", record, "-o", "-"])?;
        Ok((told.code == Some(3)).then_some(()))
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds until a steward serves by no more than so many grants.
fn steward_stops(stage: &Stage, steward: &Node<'_>, grants: usize, begun: Instant) -> io::Result<f64> {
    stage.looking_every(LOOK_EVERY, &format!("{} ends the grant", steward.name), SOON, || {
        let kept = steward.does(&["steward", "keeping"])?;
        Ok(kept.first().is_some_and(|kept| kept["grants"] == grants).then_some(()))
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    thread.join().unwrap_or_else(|_| Err(unlike("a thread panicked")))
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
