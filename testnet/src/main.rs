//! `testnet`: tries the product. A subcommand is a function of the library; this file only reads arguments.

use clap::{Parser, Subcommand};
use karte_testnet::faults::{self, Kind, judge, worker};
use karte_testnet::{bench, decide_bench, denied, fuzz, growth, node, scenario, simulate, store_bench};
use std::process::ExitCode;

/// Try consent under attack, the store under faults, growth and load, and the parsers with changed files
#[derive(Parser)]
#[command(name = "testnet", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Break the store in every way a disk and a process can break, and count what is lost
    Faults(Faults),
    /// Update a bounded set of rows and payloads, and compare the folder with a fresh one
    Growth(growth::Growth),
    /// Measure exchange between two nodes against rsync, sendme, scp, age and raw libp2p
    Bench(bench::BenchArgs),
    /// Be one end of raw libp2p; started by `bench`
    #[command(hide = true)]
    RawLibp2p(bench::raw::RawLibp2p),
    /// Measure durable writes against sled alone, and how long the store takes to start
    StoreBench(store_bench::StoreBench),
    /// Measure verifying, deciding and starting over a log of many entries
    DecideBench(decide_bench::DecideBench),
    /// Ask for what is denied for five reasons, and see whether bytes or times tell them apart
    DeniedTiming(denied::DeniedTiming),
    /// Feed changed seeds to every parser, and count what panics
    Fuzz(fuzz::Fuzz),
    /// Be a daemon whose clock runs ahead, or that sends wrong bytes; started by journeys and scenarios
    #[command(hide = true)]
    Node(node::Node),
    /// Run real nodes through a bad network or among bad neighbours, and say whether the bars hold
    Run(scenario::Run),
    /// Run worlds of engines under faults and attacks, and judge every step
    Simulate(simulate::command::Simulate),
    /// Carry out a plan; started by `faults`
    #[command(hide = true)]
    FaultsWorker(worker::Work),
    /// Tell what is in folders; started by `faults`
    #[command(hide = true)]
    FaultsJudge,
}

/// The faults command.
#[derive(clap::Args)]
struct Faults {
    /// What happens: one kind, or all
    #[arg(long, default_value = "all", value_parser = kinds)]
    kind: Kinds,
    /// Trials of each kind
    #[arg(long, default_value_t = 100)]
    trials: u64,
    /// Full and failing disks: fail every call in turn, with every fault, instead of as many as there are trials
    #[arg(long, conflicts_with = "trials")]
    every_call: bool,
    /// All choices follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run only this trial, with those it builds on. `--trials` must be as it was.
    #[arg(long)]
    trial: Option<u64>,
    /// Where folders are made. Default: /dev/shm, else the temporary folder
    #[arg(long)]
    dir: Option<std::path::PathBuf>,
    /// Do something wrong on purpose, to see that it is seen
    #[arg(long)]
    sabotage: Option<Sabotage>,
    /// Tell every loss, and numbers of each kind of file
    #[arg(long, short)]
    verbose: bool,
    /// Only the numbers, as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Sabotage {
    /// The journal is never synced
    NoFsync,
}

#[derive(Clone)]
struct Kinds(Vec<Kind>);

fn kinds(text: &str) -> Result<Kinds, String> {
    if text == "all" {
        return Ok(Kinds(Kind::ALL.to_vec()));
    }
    let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
    let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    found.map(|kind| Kinds(vec![kind])).ok_or(format!("expected all or one of {}", names.join(", ")))
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Faults(args) => run_faults(&args),
        Command::Growth(args) => growth::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::RawLibp2p(args) => bench::raw::run(&args),
        Command::StoreBench(args) => store_bench::run(&args),
        Command::DecideBench(args) => decide_bench::run(&args),
        Command::DeniedTiming(args) => denied::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Node(args) => node::run(args),
        Command::Run(args) => scenario::run(&args),
        Command::Simulate(args) => simulate::command::simulate(&args),
        Command::FaultsWorker(work) => return worker::work(&work),
        Command::FaultsJudge => return judge::serve(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("testnet: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True when all bars hold.
fn run_faults(args: &Faults) -> std::io::Result<bool> {
    let mut options = faults::Options::new(&std::env::current_exe()?, args.seed, args.trials);
    options.every_call = args.every_call;
    options.only = args.trial;
    options.verbose = args.verbose;
    options.without_sync = args.sabotage.is_some();
    options.dir = args.dir.clone().unwrap_or(options.dir);
    options.progress = |kind, trials, tally| eprintln!("{}: {} of {trials}", kind.name(), tally.trials);
    faults::report(&args.kind.0, &options, args.json)
}
