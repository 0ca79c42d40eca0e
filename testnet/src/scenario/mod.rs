//! `testnet run`: real nodes in processes of their own, under the networks and the neighbours that nodes meet.
//!
//! For: the sentences of acceptance that no bench can show, each a scenario with a bar. Not for: speed against other
//! programs, nor for rules of consent under attack, which `simulate` tries without sockets.
//!
//! | file | concern |
//! |---|---|
//! | `stage` | folder, seed, bounded waiting, Ctrl-C |
//! | `node` | a daemon and commands given to it |
//! | `pair` | holder and reader with a [`crate::proxy`] between them |
//! | `material` | what is sent, and whether it came |
//! | `spaces` | network namespaces, slow cables, NAT, firewalls |
//! | `transfer`, `singles` | cuts, flips, kills, a flapping link |
//! | `sources` | a holder and its steward at once, and a steward that sends wrong bytes |
//! | `slow_link` | an imaging series over 1 Mbit/s |
//! | `urgent` | an urgent record while a long one is on its way |
//! | `nat` | nodes behind routers and firewalls, with a relay |
//! | `churn` | many nodes that come and go, and a revocation |
//! | `hostile`, `attackers` | thousands of hostile connections |
//! | `endurance`, `slope` | whether a daemon grows |

mod attackers;
mod churn;
mod endurance;
mod hostile;
mod material;
mod nat;
mod node;
mod pair;
mod singles;
mod slope;
mod slow_link;
mod sources;
mod spaces;
mod stage;
mod transfer;
mod urgent;

use serde_json::{Value, json};
use stage::Stage;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Run real nodes through a bad network or among bad neighbours
#[derive(clap::Args)]
#[command(after_long_help = "Examples:\n  \
    testnet run --list\n  \
    testnet run cuts --seed 7\n  \
    testnet run endurance --minutes 2 --json\n  \
    testnet run all")]
pub struct Run {
    /// Its name, or all
    #[arg(required_unless_present = "list", value_parser = known)]
    scenario: Option<String>,
    /// Only say which there are
    #[arg(long)]
    list: bool,
    /// All choices follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave the folders of the nodes, with their logs
    #[arg(long)]
    keep: bool,
    /// Size of the file that is sent, in MiB
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..=4096))]
    size: u16,
    /// Do everything a tenth as often: for a first look
    #[arg(long)]
    brief: bool,
    /// Length of `endurance`, in minutes; halves are possible
    #[arg(long, default_value_t = 15.0)]
    minutes: f64,
    /// Connections of `hostile`
    #[arg(long, default_value_t = 8_000)]
    connections: u32,
    /// Nodes of `churn`
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u8).range(10..=64))]
    nodes: u8,
    /// The program that is tried. Default: `karte` of the same build, built if need be
    #[arg(long, value_name = "FILE")]
    karte: Option<PathBuf>,
    /// Where the folders are made. Default: the temporary folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The numbers of each as one JSON object in a line, those of the last in the last
    #[arg(long)]
    json: bool,
}

/// What scenarios are told.
#[derive(Debug, Clone)]
struct Options {
    karte: PathBuf,
    dir: Option<PathBuf>,
    seed: u64,
    keep: bool,
    json: bool,
    size_mib: u16,
    is_brief: bool,
    minutes: f64,
    connections: u32,
    nodes: u8,
}

impl Options {
    /// Bytes of the file that is sent.
    fn size_bytes(&self) -> usize {
        usize::from(self.size_mib) << 20
    }

    /// A number of records, or a few of them.
    fn small(&self, count: u64) -> u64 {
        if self.is_brief { count / 10 } else { count }
    }

    /// How often something is done.
    fn times(&self, times: u64) -> u64 {
        if self.is_brief { times.min(4) } else { times }
    }
}

/// What came of a scenario.
struct Outcome {
    /// Whether its bar held; nothing if it could not be run here.
    held: Option<bool>,
    sentence: String,
    numbers: Value,
}

impl Outcome {
    fn new(held: bool, sentence: String, numbers: Value) -> Self {
        Self { held: Some(held), sentence, numbers }
    }

    /// It did not come to its end.
    fn failed(error: &io::Error) -> Self {
        Self::new(false, format!("broken off: {error}"), json!({ "error": error.to_string() }))
    }

    /// It needs something that is not here.
    fn skipped(why: String) -> Self {
        Self { held: None, numbers: json!({ "skipped": why }), sentence: format!("not run: {why}") }
    }
}

/// A scenario.
struct Scenario {
    name: &'static str,
    /// What it is for, in one line.
    about: &'static str,
    needs_spaces: bool,
    play: fn(&Stage, &Options) -> io::Result<Outcome>,
}

/// Every scenario, in the order of `all`.
const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "cuts",
        about: "a file and small records over connections that are cut ten times",
        needs_spaces: false,
        play: transfer::cuts,
    },
    Scenario {
        name: "flips",
        about: "a file over a network that changes bits",
        needs_spaces: false,
        play: transfer::flips,
    },
    Scenario {
        name: "kills",
        about: "a file while sender and receiver are killed in turn",
        needs_spaces: false,
        play: transfer::kills,
    },
    Scenario {
        name: "flapping",
        about: "a file over a link that goes up and down",
        needs_spaces: false,
        play: transfer::flapping,
    },
    Scenario {
        name: "sources",
        about: "many files from a holder and its steward at once, each behind a line of its own",
        needs_spaces: false,
        play: sources::sources,
    },
    Scenario {
        name: "bad-source",
        about: "the same, but the steward changes a bit of all that it sends",
        needs_spaces: false,
        play: sources::bad_source,
    },
    Scenario {
        name: "slow-link",
        about: "an imaging series over 1 Mbit/s and 200 ms: how soon there is something to look at",
        needs_spaces: true,
        play: slow_link::slow_link,
    },
    Scenario {
        name: "urgent",
        about: "urgent records while a large file is on its way: how soon they overtake it",
        needs_spaces: false,
        play: urgent::urgent,
    },
    Scenario {
        name: "nat",
        about: "a CT between two nodes behind routers, with a relay in the middle",
        needs_spaces: true,
        play: nat::nat,
    },
    Scenario {
        name: "port-443",
        about: "a CT to a clinic whose firewall lets out TCP 443 alone",
        needs_spaces: true,
        play: nat::port_443,
    },
    Scenario {
        name: "churn",
        about: "many nodes of which a tenth comes and goes, and who stops when after a revocation",
        needs_spaces: false,
        play: churn::churn,
    },
    Scenario {
        name: "hostile",
        about: "thousands of hostile connections and a flood of streams against one daemon",
        needs_spaces: false,
        play: hostile::hostile,
    },
    Scenario {
        name: "endurance",
        about: "import, sync and rotation of records for a long time: whether a daemon grows",
        needs_spaces: false,
        play: endurance::endurance,
    },
];

/// Runs what was asked for; true when all bars held and nothing was left out.
pub fn run(args: &Run) -> io::Result<bool> {
    let Some(wanted) = args.scenario.as_deref().filter(|_| !args.list) else {
        for scenario in SCENARIOS {
            let needs = if scenario.needs_spaces { " (network namespaces: root on Linux)" } else { "" };
            println!("{:10} {}{needs}", scenario.name, scenario.about);
        }
        return Ok(true);
    };
    let options = Options {
        karte: karte(args.karte.as_deref())?,
        dir: args.dir.clone(),
        seed: args.seed,
        keep: args.keep,
        json: args.json,
        size_mib: args.size,
        is_brief: args.brief,
        minutes: args.minutes,
        connections: args.connections,
        nodes: args.nodes,
    };
    let interrupted = stage::interruption()?;
    let mut all_held = true;
    for scenario in SCENARIOS.iter().filter(|scenario| wanted == "all" || wanted == scenario.name) {
        all_held &= play(scenario, &options, &interrupted)?;
    }
    Ok(all_held)
}

/// Plays one and tells what came of it; whether its bar held.
fn play(scenario: &Scenario, options: &Options, interrupted: &Arc<AtomicBool>) -> io::Result<bool> {
    let begun = Instant::now();
    if !options.json {
        eprintln!("{}: {} (seed {})", scenario.name, scenario.about, options.seed);
    }
    let outcome = match spaces::possible() {
        Err(why) if scenario.needs_spaces => Outcome::skipped(why),
        _ => {
            let stage = Stage::new(scenario.name, options, interrupted.clone())?;
            match (scenario.play)(&stage, options) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => Outcome::failed(&error),
                outcome => outcome?,
            }
        }
    };
    let held = outcome.held == Some(true);
    if options.json {
        let mut told = json!({ "scenario": scenario.name, "seed": options.seed, "held": outcome.held });
        if let (Some(told), Value::Object(numbers)) = (told.as_object_mut(), outcome.numbers) {
            told.insert("seconds".into(), json!(begun.elapsed().as_secs_f64()));
            told.insert("numbers".into(), Value::Object(numbers));
        }
        println!("{told}");
    } else {
        println!("{}: {}", scenario.name, outcome.sentence);
        let verdict = match outcome.held {
            Some(true) => "held",
            Some(false) => "NOT HELD",
            None => "not run",
        };
        println!("{}: {verdict}, {:.1} s in all", scenario.name, begun.elapsed().as_secs_f64());
    }
    Ok(held)
}

fn known(name: &str) -> Result<String, String> {
    if name == "all" || SCENARIOS.iter().any(|scenario| scenario.name == name) {
        return Ok(name.to_owned());
    }
    let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    Err(format!("expected all or one of {}", names.join(", ")))
}

/// The program that is tried: the one given, else `karte` beside this program, which cargo makes or finds fresh.
fn karte(given: Option<&Path>) -> io::Result<PathBuf> {
    if let Some(given) = given {
        return std::path::absolute(given);
    }
    let own = std::env::current_exe()?;
    let beside = own.with_file_name("karte");
    // Under `cargo run`. Elsewhere, what lies beside is what was meant.
    if let Some(cargo) = std::env::var_os("CARGO") {
        build(&cargo, &own)?;
    }
    match beside.is_file() {
        true => Ok(beside),
        false => {
            Err(stage::unlike(format!("{} is not there; build it, or give --karte FILE", beside.display())))
        }
    }
}

/// Builds the product as users get it: alone, so that no feature of this crate comes into it.
fn build(cargo: &std::ffi::OsStr, own: &Path) -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let folder = own.parent().unwrap_or(root);
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "--package", "karte"]).current_dir(root);
    if folder.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    match command.status()?.success() {
        true => Ok(()),
        false => Err(stage::unlike("karte does not build; `cargo build -p karte` tells why")),
    }
}
