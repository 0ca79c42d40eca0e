//! `testnet simulate`: many seeds on all cores, wrong variants, and the story of what failed.

use super::plan::Plan;
use super::{Outcome, run, shrunk, variants};
use karte_protocol::variants::Variant;
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Failures that are shrunk and told; more are counted.
const TOLD_MAX: usize = 3;
/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// Its arguments.
#[derive(clap::Args)]
pub struct Simulate {
    /// How many seeds are run with every rule kept
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Also break this rule, or each, and see that it is noticed within 1,000 seeds
    #[arg(long, value_parser = chosen)]
    variant: Option<Chosen>,
    /// Tell the story of one seed instead (with `--variant NAME`: with that rule broken)
    #[arg(long, value_name = "SEED")]
    trace: Option<u64>,
    /// Runs at a time. Default: one a core
    #[arg(long)]
    jobs: Option<usize>,
    /// Only the numbers, as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

#[derive(Clone)]
struct Chosen(Vec<Variant>);

fn chosen(text: &str) -> Result<Chosen, String> {
    if text == "all" {
        return Ok(Chosen(Variant::ALL.to_vec()));
    }
    let names: Vec<&str> = Variant::ALL.iter().map(|variant| variant.name()).collect();
    variants::named(text)
        .map(|variant| Chosen(vec![variant]))
        .ok_or_else(|| format!("expected all or one of {}", names.join(", ")))
}

/// What many runs came to.
#[derive(Default)]
pub struct Sum {
    /// Seeds that were run.
    pub seeds: u64,
    /// Inputs that engines handled.
    pub steps: u64,
    /// Plaintexts that were read under grants.
    pub opened: u64,
    /// Sessions that the steward opened in the name of a patient.
    pub stood_in: u64,
    /// Runs in which an invariant broke.
    pub broken: Vec<Outcome>,
}

/// True when no invariant broke and every variant was noticed.
pub fn simulate(args: &Simulate) -> std::io::Result<bool> {
    let wrong = args.variant.as_ref().map_or(&[][..], |chosen| chosen.0.as_slice());
    if let Some(seed) = args.trace {
        return Ok(trace(seed, wrong.first().copied()));
    }
    quiet_panics();
    let begun = Instant::now();
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let sum = seeds(args.first, args.seeds, jobs, args.json);
    for outcome in sum.broken.iter().take(TOLD_MAX) {
        tell(outcome.seed, None);
    }
    let caught = all_caught(wrong, args.first, jobs, args.json);
    let steps = sum.steps + caught.iter().map(|(_, _, steps)| steps).sum::<u64>();
    let noticed = caught.iter().filter(|(_, outcome, _)| outcome.is_some()).count();
    if !args.json {
        println!(
            "{} seeds, {} plaintexts read, {} sessions at a steward, {} violations",
            sum.seeds,
            sum.opened,
            sum.stood_in,
            sum.broken.len()
        );
    }
    let line = json!({
        "seeds": sum.seeds,
        "violations": sum.broken.len(),
        "variants": caught.len(),
        "variants_caught": noticed,
        "steps": steps,
        "seconds": begun.elapsed().as_secs_f64(),
    });
    println!("{line}");
    Ok(sum.broken.is_empty() && noticed == caught.len())
}

/// Runs seeds with every rule kept, `jobs` at a time.
pub fn seeds(first: u64, count: u64, jobs: usize, quiet: bool) -> Sum {
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    let told = Mutex::new(Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let outcome = run(&Plan::of(first.wrapping_add(number)), None);
                    add(&sum, outcome);
                    if !quiet {
                        progress(&told, &sum, count);
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap_or_default()
}

fn add(sum: &Mutex<Sum>, outcome: Outcome) {
    let Ok(mut sum) = sum.lock() else { return };
    sum.seeds += 1;
    sum.steps += outcome.steps;
    sum.opened += outcome.opened;
    sum.stood_in += outcome.stood_in;
    if let Some(broken) = &outcome.broken {
        eprintln!("seed {}: {}: {}", outcome.seed, broken.invariant, broken.what);
        sum.broken.push(outcome);
    }
}

fn progress(told: &Mutex<Instant>, sum: &Mutex<Sum>, count: u64) {
    let Ok(mut last) = told.lock() else { return };
    if last.elapsed() < PROGRESS {
        return;
    }
    *last = Instant::now();
    if let Ok(sum) = sum.lock() {
        eprintln!("{} of {count} seeds, {} violations", sum.seeds, sum.broken.len());
    }
}

/// A variant, the run that noticed it, and steps that were taken.
type Tried = (Variant, Option<Outcome>, u64);

/// Tries each variant, `jobs` at a time.
pub fn all_caught(wrong: &[Variant], first: u64, jobs: usize, quiet: bool) -> Vec<Tried> {
    let (next, done) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                    let Some(variant) = wrong.get(number).copied() else { return };
                    let (mut steps, mut runs) = (0, 0_u64);
                    let outcome = variants::caught(variant, first, variants::BUDGET, &mut |outcome| {
                        steps += outcome.steps;
                        runs += 1;
                    });
                    if !quiet || outcome.is_none() {
                        eprintln!("{}", verdict(variant, outcome.as_ref(), runs));
                    }
                    if let Ok(mut done) = done.lock() {
                        done.push((variant, outcome, steps));
                    }
                }
            });
        }
    });
    done.into_inner().unwrap_or_default()
}

fn verdict(variant: Variant, outcome: Option<&Outcome>, runs: u64) -> String {
    match outcome.and_then(|outcome| Some((outcome.seed, outcome.broken.as_ref()?))) {
        Some((seed, broken)) => format!(
            "{} {seed}: noticed in run {runs} by {}: {}",
            variant.name(),
            broken.invariant,
            broken.what
        ),
        None => format!("{}: NOT noticed in {runs} runs", variant.name()),
    }
}

/// Shrinks a failure and tells its story.
fn tell(seed: u64, variant: Option<Variant>) {
    let plan = Plan::of(seed);
    let (less, outcome) = shrunk(&plan, variant);
    eprintln!("\nseed {seed}, {} of {} deeds:", less.steps.len(), plan.steps.len());
    outcome.story.iter().for_each(|line| eprintln!("  {line}"));
    let wrong = variant.map_or(String::new(), |variant| format!(" --variant {}", variant.name()));
    eprintln!("Repeat it: cargo run --release -p testnet -- simulate --trace {seed}{wrong}");
}

fn trace(seed: u64, variant: Option<Variant>) -> bool {
    let outcome = run(&Plan::of(seed), variant);
    outcome.story.iter().for_each(|line| println!("{line}"));
    println!("{} steps, trace {}", outcome.steps, outcome.hash);
    if outcome.broken.is_some() {
        tell(seed, variant);
    }
    outcome.broken.is_none()
}

/// Panics are counted by their runs; nobody needs their backtraces.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
}
