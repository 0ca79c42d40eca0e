//! Exchange at the speed of the wire: Karte against what users pick instead, in one run, side by side.
//!
//! The works: W1 a CT study of 1,000 files, W2 10,000 small records, W3 one file of 2 GiB, W4 a single record. Every
//! side is real processes on loopback, started here and ended here; the sides run in turn within each round, so that
//! whatever else the machine does meets all of them, and ratios are paired by round. Not for: absolute numbers, which
//! are the machine's; nor for links that are slow or break (`testnet run`).
//!
//! ```text
//! process   what is started, ended      meter   what it costs       files   what is moved
//! karte ssh sendme raw tools            the sides
//! transfer  W1 W2 W3 and import         small   W4                  rounds  turns, medians, bars     table
//! ```

mod build;
mod files;
mod karte;
mod meter;
mod process;
pub mod raw;
mod rounds;
mod sendme;
mod small;
mod ssh;
mod table;
mod tools;
mod transfer;

use files::Shape;
use karte::{Maker, Transport};
use process::Keeper;
use rounds::Outcome;
use serde_json::{Value, json};
use ssh::Ssh;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use tools::Tools;
use transfer::{Files, Work};

/// The bench command.
#[derive(clap::Args)]
pub struct BenchArgs {
    /// What is moved: w1 a study of 1,000 files, w2 10,000 records, w3 one file of 2 GiB, w4 single records
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Chosen::W1, Chosen::W2, Chosen::W3, Chosen::W4])]
    work: Vec<Chosen>,
    /// Rounds of each side, after one that does not count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Only Karte and raw libp2p, none of the programs that users pick instead
    #[arg(long = "self")]
    alone: bool,
    /// Also show what each process of a side cost
    #[arg(long)]
    profile: bool,
    /// A fraction of each work; bars are then told but say little
    #[arg(long, default_value_t = 1.0, value_parser = fraction)]
    scale: f64,
    /// Exit code 1 if a bar does not hold
    #[arg(long)]
    strict: bool,
    /// How Karte's daemons reach each other
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    transport: Transport,
    /// The `karte` that is measured. Default: the one beside this program, built first if cargo runs this
    #[arg(long)]
    karte: Option<PathBuf>,
    /// Where folders are made, about 10 GB of a real disk. Default: the temporary folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// All contents follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the numbers, as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Chosen {
    W1,
    W2,
    W3,
    W4,
}

fn fraction(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && *number <= 1.0);
    number.ok_or_else(|| "expected a fraction above 0 and at most 1, such as 0.1".to_owned())
}

/// What all works share.
struct Bench {
    keeper: Keeper,
    /// Everything is made in here, and goes with it.
    folder: PathBuf,
    karte: PathBuf,
    /// What it says of its version.
    version: String,
    testnet: PathBuf,
    tools: Tools,
    /// No program but ours is run, whatever is installed.
    alone: bool,
    transport: Transport,
    rounds: u32,
    scale: f64,
    seed: u64,
}

/// Runs it. True if it ran, or, where that is asked, if all bars held.
pub fn run(args: &BenchArgs) -> io::Result<bool> {
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&base)?;
    // Made before the processes and removed after them.
    let scratch = tempfile::Builder::new().prefix("karte-bench-").tempdir_in(base)?;
    let folder = scratch.path().to_owned();
    if folder.to_string_lossy().contains(['\'', '"']) {
        return Err(io::Error::other(
            "expected a folder without quotes in its name: ssh is told of it. Use --dir.",
        ));
    }
    if files::is_memory(&folder)? {
        eprintln!(
            "{} is kept in memory, where fsync costs nothing: --dir names a real disk",
            folder.display()
        );
    }
    let keeper = Keeper::new(&folder)?;
    let karte = build::karte(args.karte.as_deref())?;
    let bench = Bench {
        version: keeper.run(Command::new(&karte).arg("--version"))?.out.trim().to_owned(),
        keeper,
        folder,
        karte,
        testnet: std::env::current_exe()?,
        tools: if args.alone { Tools::default() } else { Tools::find() },
        alone: args.alone,
        transport: args.transport,
        rounds: args.rounds,
        scale: args.scale,
        seed: args.seed,
    };
    let mut outcomes = Vec::new();
    for chosen in [Chosen::W1, Chosen::W2, Chosen::W3, Chosen::W4] {
        if !args.work.contains(&chosen) {
            continue;
        }
        bench.works(chosen, &mut |outcome| {
            if !args.json {
                println!("{}", table::of(&outcome, args.profile));
            }
            outcomes.push(outcome);
        })?;
    }
    let held = outcomes.iter().all(Outcome::all_held);
    println!("{}", if args.json { bench.json(&outcomes).to_string() } else { bench.last_line(held) });
    Ok(held || !args.strict)
}

impl Bench {
    fn works(&self, chosen: Chosen, done: &mut dyn FnMut(Outcome)) -> io::Result<()> {
        let work = |name, files, bytes, fsync| Work { name, shape: Shape { files, bytes }, fsync };
        match chosen {
            Chosen::W1 => {
                // A CT study: slices of 512 x 512 samples of 16 bits, with their headers.
                let work = work("w1", self.scaled(1_000), 526_000, true);
                let files = Files::make(self, &work)?;
                done(transfer::sealed(&files, &work)?);
                done(transfer::plain(&files, &work)?);
            }
            Chosen::W2 => {
                // Observations: a laboratory value as FHIR JSON.
                let work = work("w2", self.scaled(10_000), 1_200, true);
                done(transfer::sealed(&Files::make(self, &work)?, &work)?);
            }
            Chosen::W3 => {
                let work = work("w3", 1, self.scaled(2 << 30), false);
                let files = Files::make(self, &work)?;
                done(transfer::sealed(&files, &work)?);
                done(transfer::import(&files)?);
            }
            Chosen::W4 => {
                done(small::warm(self)?);
                done(small::cold(self)?);
            }
        }
        Ok(())
    }

    /// So much of a number, and never nothing.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a fraction of a number is below it, and these are far below 2^52"
    )]
    fn scaled(&self, number: u64) -> u64 {
        ((number as f64 * self.scale).round() as u64).max(1)
    }

    fn maker(&self) -> Maker {
        Maker {
            keeper: self.keeper.clone(),
            karte: self.karte.clone(),
            folder: self.folder.clone(),
            transport: self.transport,
        }
    }

    /// Why one of these programs is not run.
    fn lacks(&self, programs: &[&'static str]) -> Option<String> {
        if self.alone {
            return Some("by --self".into());
        }
        self.tools.lacks(programs).map(|program| format!("{program} is not installed"))
    }

    /// A server for `program` over ssh; or none, and why.
    fn ssh(&self, program: &'static str) -> (Option<Ssh>, Vec<String>) {
        let started = match self.lacks(&[program, "ssh", "ssh-keygen", "sshd"]) {
            Some(why) => Err(why),
            None => files::fresh(self.folder.join("ssh"))
                .and_then(|folder| Ssh::start(&self.keeper, &self.tools, &folder))
                .map_err(|error| error.to_string()),
        };
        match started {
            Ok(ssh) => (Some(ssh), vec![]),
            Err(why) => (None, vec![format!("{program} over ssh: {why}")]),
        }
    }

    /// A key of age, made once: its file and its recipient.
    fn age_key(&self) -> io::Result<(PathBuf, String)> {
        let file = self.folder.join("age.key");
        let keygen = self.tools.path("age-keygen").or_else(|_| self.tools.path("rage-keygen"))?;
        if !file.is_file() {
            self.keeper.run(Command::new(keygen).arg("-o").arg(&file))?;
        }
        let key = std::fs::read_to_string(&file)?;
        let recipient = key.split_whitespace().find(|word| word.starts_with("age1"));
        let recipient = recipient.ok_or_else(|| io::Error::other("a key of age names its recipient"))?;
        Ok((file.clone(), recipient.to_owned()))
    }

    fn json(&self, outcomes: &[Outcome]) -> Value {
        json!({
            "works": outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
            "all_bars_held": outcomes.iter().all(Outcome::all_held),
            "rounds": self.rounds,
            "scale": self.scale,
            "seed": self.seed,
            "transport": self.transport.name(),
            "karte": self.version,
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
        })
    }

    fn last_line(&self, held: bool) -> String {
        let scaled = match self.scale {
            1.0 => String::new(),
            scale => format!(" The works were scaled to {scale}, so this says little."),
        };
        let held = if held { "All bars that were run held." } else { "Not all bars held." };
        format!("{held} Karte over {}; medians of {} rounds.{scaled}", self.transport.name(), self.rounds)
    }
}
