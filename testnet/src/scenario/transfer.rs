//! Transfers through a bad network: cut, flipped, killed at either end, and a link that flaps.
//!
//! What is sent again is measured, not computed: the same transfer goes through an honest proxy first, and what the
//! disturbed one needed beyond that, divided by the disturbances, is their price. It includes handshakes and the
//! state that is exchanged again after each. What a single one costs, [`super::singles`] shows.

use super::material::Material;
use super::pair::{Pair, SOON};
use super::singles::Singles;
use super::stage::{Stage, unlike};
use super::{Options, Outcome};
use crate::proxy::{Fault, Link, State, Way};
use serde_json::{Value, json};
use std::io;
use std::time::{Duration, Instant};

/// What a disturbance may cost, in bytes: one slice of a payload (SPEC section 10).
const AGAIN_BYTES_MAX: u64 = 1 << 20;
/// Times that each transfer is disturbed.
const TIMES: u64 = 10;
/// A flip comes within this part of the file after the one before, so that ten fit.
const FLIP_SPREAD: u64 = 16;
/// Small records of a transfer.
const SMALL: u64 = 500;
/// Bytes in a second where something must happen in the middle of a transfer: 16 MiB.
const MIDDLE_RATE: u64 = 16 << 20;
/// The same where the link flaps: 2 MiB, so that a transfer lasts over several flaps.
const FLAP_RATE: u64 = 2 << 20;
/// How the link goes down, for how long, and how long it is up once something has passed again. 2 s: shorter than
/// the pings that watch over a connection. 12 s: longer.
const FLAPS: [(State, Duration); 6] = [
    (State::Silent, Duration::from_secs(2)),
    (State::Refusing, Duration::from_secs(2)),
    (State::Silent, Duration::from_secs(12)),
    (State::Refusing, Duration::from_secs(5)),
    (State::Silent, Duration::from_secs(2)),
    (State::Refusing, Duration::from_secs(2)),
];
const UP: Duration = Duration::from_secs(2);
/// How long after the link is up again something must pass: "within seconds".
const RECONNECT_MAX: Duration = Duration::from_secs(10);
/// How often the counter of the proxy is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(1);

/// One kind of transfer under one kind of disturbance.
struct Trial {
    what: String,
    bytes: u64,
    /// From the holder, undisturbed and disturbed.
    calm: u64,
    passed: u64,
    times: u64,
    connections: u64,
    is_equal: bool,
    took: Duration,
}

/// Connections cut at planned bytes.
pub(super) fn cuts(stage: &Stage, options: &Options) -> io::Result<Outcome> {
    let (times, mut trials) = (options.times(TIMES), Vec::new());
    let big = Material::file(stage, "cuts", options.size_bytes())?;
    let calm = calm(stage, "cuts-calm", &big)?;
    trials.push(planned(stage, "halves", times, &big, calm, |_, time| big.bytes - (big.bytes >> time))?);
    trials.push(planned(stage, "anywhere", times, &big, calm, |dice, _| dice.below(big.bytes))?);
    let small = Material::values(stage, "cuts", 0, options.small(SMALL))?;
    let calm = self::calm(stage, "cuts-calm-small", &small)?;
    trials.push(planned(stage, "small", times, &small, calm, |dice, _| dice.below(small.bytes))?);
    let singles = Singles::new(stage, options, "cut", Fault::Cut, times)?;
    Ok(singles.into_outcome(judged("cut", &trials, &[]), AGAIN_BYTES_MAX))
}

/// Bits changed on the way: the connection must end, and nothing wrong may be kept.
pub(super) fn flips(stage: &Stage, options: &Options) -> io::Result<Outcome> {
    let big = Material::file(stage, "flips", options.size_bytes())?;
    let calm = calm(stage, "flips-calm", &big)?;
    let trial = flipped(stage, &big, calm)?;
    // A flip that ended no connection was believed by somebody.
    let ended_all = trial.connections > trial.times;
    let mut outcome =
        judged("flip", std::slice::from_ref(&trial), &[("each_flip_ended_its_connection", ended_all)]);
    if !ended_all {
        outcome.sentence = format!(
            "{} flips, but only {} connections: a changed byte was accepted",
            trial.times, trial.connections
        );
    }
    let singles = Singles::new(stage, options, "flip", Fault::Flip, options.times(TIMES))?;
    Ok(singles.into_outcome(outcome, AGAIN_BYTES_MAX))
}

/// A transfer in which one bit of each connection is changed, one connection after the other.
fn flipped(stage: &Stage, material: &Material, calm: u64) -> io::Result<Trial> {
    let mut dice = stage.dice("flipped");
    let pair = Pair::new(stage, "flips", Link::default())?;
    let (before, begun) = (pair.passed(), Instant::now());
    let mut connections = pair.proxy.connections();
    for time in 1..=TIMES {
        pair.proxy.plan(
            Way::FromTarget,
            pair.passed() + dice.below(material.bytes / FLIP_SPREAD),
            Fault::Flip,
        );
        if time == 1 {
            pair.holder.imports(&material.path)?;
        }
        // The flip ends the connection, or the transfer ends before the flip.
        stage.until("the connection ends after a flip", SOON, || {
            Ok((pair.proxy.connections() > connections || pair.reader.count()? == 1).then_some(()))
        })?;
        connections = pair.proxy.connections();
    }
    pair.finished("1 file", material, Disturbed { calm, before, begun, times: pair.proxy.struck() })
}

/// `kill -9` of sender and receiver in turn.
pub(super) fn kills(stage: &Stage, options: &Options) -> io::Result<Outcome> {
    let material = Material::file(stage, "kills", options.size_bytes())?;
    let calm = calm(stage, "kills-calm", &material)?;
    let link = Link { delay: Duration::ZERO, bytes_per_s: Some(MIDDLE_RATE) };
    let mut pair = Pair::new(stage, "kills", link)?;
    let begun = Instant::now();
    let before = pair.passed();
    pair.holder.imports(&material.path)?;
    let times = options.times(TIMES);
    for time in 0..times {
        // Evenly over the transfer; what is sent again only brings the next one nearer.
        let at = before + material.bytes * (time + 1) / (times + 1);
        stage.looking_every(WATCH_EVERY, "the next part of the transfer", Duration::from_secs(60), || {
            Ok((pair.passed() >= at).then_some(()))
        })?;
        let victim = if time % 2 == 0 { &mut pair.holder } else { &mut pair.reader };
        stage.say(&format!("kill {} of {times}: {}", time + 1, victim.name));
        victim.kill9()?;
        victim.start_again()?;
    }
    let trial = pair.finished("1 file", &material, Disturbed { calm, before, begun, times })?;
    Ok(judged("kill", &[trial], &[]))
}

/// A link that goes up and down, now without a word and now with every connection ended.
pub(super) fn flapping(stage: &Stage, options: &Options) -> io::Result<Outcome> {
    let material = Material::file(stage, "flapping", options.size_bytes())?;
    let link = Link { delay: Duration::ZERO, bytes_per_s: Some(FLAP_RATE) };
    let pair = Pair::new(stage, "flapping", link)?;
    let begun = Instant::now();
    pair.holder.imports(&material.path)?;
    let mut back = Vec::new();
    for (flap, (state, down)) in FLAPS.into_iter().enumerate() {
        stage.pause(UP)?;
        pair.proxy.set(state);
        stage.pause(down)?;
        let passed = pair.passed();
        pair.proxy.set(State::Up);
        let what = format!("something passes after flap {}", flap + 1);
        let passes = || Ok((pair.passed() > passed || pair.reader.count()? == 1).then_some(()));
        let (_, after) = stage.until(&what, 6 * RECONNECT_MAX, passes)?;
        stage.say(&format!(
            "flap {} of {}, {state:?} for {down:?}: the first byte after {:.1} s",
            flap + 1,
            FLAPS.len(),
            after.as_secs_f64()
        ));
        back.push(after.as_secs_f64());
    }
    pair.arrives(1)?;
    let is_equal = material.is_all_of(&pair.reader)?;
    let slowest = back.iter().copied().fold(0.0, f64::max);
    let (bytes, took) = (material.bytes, begun.elapsed().as_secs_f64());
    Ok(Outcome::new(
        is_equal && slowest <= RECONNECT_MAX.as_secs_f64(),
        format!(
            "{} MiB over a link that was down {} times: whole and equal: {is_equal}, in {took:.1} s; the first \
             byte came at most {slowest:.1} s after the link was back (bar {} s)",
            bytes >> 20,
            FLAPS.len(),
            RECONNECT_MAX.as_secs()
        ),
        json!({ "bytes": bytes, "equal": is_equal, "seconds": took, "flaps": FLAPS.len(), "back_after_s": back,
                "back_after_s_max": slowest, "connections": pair.proxy.connections() }),
    ))
}

/// Bytes that the transfer takes from the holder when nothing disturbs it.
fn calm(stage: &Stage, name: &str, material: &Material) -> io::Result<u64> {
    let pair = Pair::new(stage, name, Link::default())?;
    let before = pair.passed();
    pair.holder.imports(&material.path)?;
    pair.arrives(material.records())?;
    if !material.is_all_of(&pair.reader)? {
        return Err(unlike("an undisturbed transfer brought other bytes"));
    }
    Ok(pair.passed() - before)
}

/// A transfer with cuts at bytes counted from its start.
fn planned(
    stage: &Stage,
    name: &str,
    times: u64,
    material: &Material,
    calm: u64,
    mut place: impl FnMut(&mut crate::faults::dice::Dice, u64) -> u64,
) -> io::Result<Trial> {
    let mut dice = stage.dice(name);
    let pair = Pair::new(stage, name, Link::default())?;
    let before = pair.passed();
    for time in 1..=times {
        pair.proxy.plan(Way::FromTarget, before + place(&mut dice, time), Fault::Cut);
    }
    let begun = Instant::now();
    pair.holder.imports(&material.path)?;
    pair.arrives(material.records())?;
    let what = format!("{} {}", material.records(), if material.records() == 1 { "file" } else { "records" });
    let trial =
        pair.finished(&what, material, Disturbed { calm, before, begun, times: pair.proxy.struck() })?;
    stage.say(&trial.told("cut"));
    Ok(trial)
}

/// What was counted around a transfer.
struct Disturbed {
    calm: u64,
    /// What had passed when it began.
    before: u64,
    begun: Instant,
    times: u64,
}

impl Pair<'_> {
    /// Waits for the end of a transfer and judges what came.
    fn finished(&self, what: &str, material: &Material, disturbed: Disturbed) -> io::Result<Trial> {
        let Disturbed { calm, before, begun, times } = disturbed;
        self.arrives(material.records())?;
        Ok(Trial {
            what: what.to_owned(),
            bytes: material.bytes,
            calm,
            passed: self.passed() - before,
            times,
            connections: self.proxy.connections(),
            took: begun.elapsed(),
            is_equal: material.is_all_of(&self.reader)?,
        })
    }
}

impl Trial {
    /// Bytes that each disturbance cost, on the average.
    fn again_each(&self) -> u64 {
        self.passed.saturating_sub(self.calm) / self.times.max(1)
    }

    fn held(&self) -> bool {
        // Fewer bytes than the material has would have found a way around the proxy.
        let is_through = self.passed >= self.bytes;
        is_through && self.is_equal && self.times > 0 && self.again_each() <= AGAIN_BYTES_MAX
    }

    fn told(&self, disturbance: &str) -> String {
        format!(
            "{} ({:.1} MiB), {} {disturbance}s: equal: {}, {} KiB again for each (bar {} KiB), {:.1} s",
            self.what,
            self.bytes as f64 / f64::from(1 << 20),
            self.times,
            self.is_equal,
            self.again_each() >> 10,
            AGAIN_BYTES_MAX >> 10,
            self.took.as_secs_f64()
        )
    }

    fn numbers(&self) -> Value {
        json!({ "what": self.what, "bytes": self.bytes, "passed_undisturbed": self.calm, "passed": self.passed,
                "times": self.times, "again_bytes_each": self.again_each(), "connections": self.connections,
                "equal": self.is_equal, "seconds": self.took.as_secs_f64() })
    }
}

fn judged(disturbance: &str, trials: &[Trial], also: &[(&str, bool)]) -> Outcome {
    let held = trials.iter().all(Trial::held) && also.iter().all(|(_, held)| *held);
    let sentences: Vec<String> = trials.iter().map(|trial| trial.told(disturbance)).collect();
    let mut numbers = json!({ "again_bytes_max": AGAIN_BYTES_MAX,
                              "trials": trials.iter().map(Trial::numbers).collect::<Vec<_>>() });
    if let Some(numbers) = numbers.as_object_mut() {
        numbers.extend(also.iter().map(|(name, held)| ((*name).to_owned(), json!(held))));
    }
    Outcome::new(held, sentences.join("\n"), numbers)
}
