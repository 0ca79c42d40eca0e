//! The commands, one a file: Args, then `run`. The doc comment of the Args is the help.

mod add;
mod audit;
mod backup;
mod card;
mod clock;
mod completions;
mod contact;
mod demo;
mod device;
mod export;
mod grant;
mod import;
mod init;
mod keys;
mod peers;
mod record;
mod recovery;
mod request;
mod run;
mod status;
mod steward;
mod stop;
mod store;
mod sync;
mod terms;
mod timeline;
mod trend;

use crate::error::Error;
use crate::session::Session;
use std::path::PathBuf;

/// What `--version` prints. A program in which rules can be broken on purpose says so.
const VERSION: &str = match karte_node::HAS_WRONG_VARIANTS {
    true => concat!(env!("CARGO_PKG_VERSION"), " with wrong variants, for the simulator: not for use"),
    false => env!("CARGO_PKG_VERSION"),
};

/// Share health records from node to node, under consents you can see and end
///
/// Every party runs one node: a patient, a clinic, a partner abroad. A node keeps its records encrypted, hands
/// them to the readers its owner has granted them to, and to nobody else. There is no server in between.
///
/// A first walk: `karte init` makes a node, `karte run` lets it listen, `karte card` introduces it to others,
/// `karte import` brings records in, `karte grant add` lets a contact read some of them, and `karte audit list`
/// tells what became of them. `karte demo` shows all of it, with three nodes on this machine.
///
/// Commands work through the running node (`karte run`) if there is one; otherwise they open the store themselves.
#[derive(clap::Parser, Debug)]
#[command(name = "karte", version = VERSION, max_term_width = 100)]
#[command(after_long_help = "Exit codes:\n  \
    0 done   1 failed   2 usage   3 refused (no consent)   4 not reachable   5 store damaged\n\n\
    Set KARTE_LOG (for example to karte_node=debug) to see on stderr what the node does.")]
pub(crate) struct Cli {
    /// The folder of the node [default: $XDG_DATA_HOME/karte or ~/.local/share/karte]
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        value_name = "DIR",
        env = "KARTE_HOME",
        hide_env_values = true
    )]
    home: Option<PathBuf>,
    /// Print results as JSON, one object a line, and nothing else
    ///
    /// An error is one object on stderr: {"error": ..., "kind": ..., "next": ...}.
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub(crate) json: bool,
    /// Read the passphrase from this open file descriptor, one line
    ///
    /// Without it the service credential `karte-passphrase` is used if there is one (systemd's LoadCredential),
    /// else the terminal asks. A passphrase is never taken from arguments or the environment, where other
    /// programs could read it.
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "N")]
    passphrase_fd: Option<u32>,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Init(init::Args),
    Card(card::Args),
    #[command(subcommand)]
    Contact(contact::Command),
    #[command(subcommand)]
    Device(device::Command),
    Run(run::Args),
    Stop(stop::Args),
    Status(status::Args),
    Peers(peers::Args),
    Import(import::Args),
    #[command(subcommand)]
    Record(record::Command),
    Trend(trend::Args),
    Timeline(timeline::Args),
    #[command(subcommand)]
    Grant(grant::Command),
    #[command(subcommand)]
    Request(request::Command),
    #[command(subcommand)]
    Steward(steward::Command),
    Sync(sync::Args),
    #[command(subcommand)]
    Audit(audit::Command),
    #[command(subcommand)]
    Keys(keys::Command),
    #[command(subcommand)]
    Clock(clock::Command),
    #[command(subcommand)]
    Store(store::Command),
    #[command(subcommand)]
    Backup(backup::Command),
    #[command(subcommand)]
    Recovery(recovery::Command),
    Demo(demo::Args),
    Completions(completions::Args),
}

pub(crate) fn run(cli: Cli) -> Result<(), Error> {
    start_log(matches!(cli.command, Command::Run(_)));
    let session = Session::new(cli.home, cli.json, cli.passphrase_fd)?;
    match cli.command {
        Command::Init(args) => init::run(&session, args),
        Command::Card(args) => card::run(&session, &args),
        Command::Contact(command) => contact::run(&session, command),
        Command::Device(command) => device::run(&session, command),
        Command::Run(args) => run::run(&session, args),
        Command::Stop(args) => stop::run(&session, args),
        Command::Status(args) => status::run(&session, args),
        Command::Peers(args) => peers::run(&session, args),
        Command::Import(args) => import::run(&session, args),
        Command::Record(command) => record::run(&session, command),
        Command::Trend(args) => trend::run(&session, args),
        Command::Timeline(args) => timeline::run(&session, args),
        Command::Grant(command) => grant::run(&session, command),
        Command::Request(command) => request::run(&session, command),
        Command::Steward(command) => steward::run(&session, command),
        Command::Sync(args) => sync::run(&session, args),
        Command::Audit(command) => audit::run(&session, command),
        Command::Keys(command) => keys::run(&session, command),
        Command::Clock(command) => clock::run(&session, command),
        Command::Store(command) => store::run(&session, command),
        Command::Backup(command) => backup::run(&session, command),
        Command::Recovery(command) => recovery::run(&session, command),
        Command::Demo(args) => demo::run(&session, &args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// The node's log, to stderr: what `KARTE_LOG` asks for; without it a daemon's warnings, and nothing else.
fn start_log(is_daemon: bool) {
    use tracing_subscriber::EnvFilter;
    let asked = std::env::var("KARTE_LOG").ok();
    let wish = asked.as_deref().or(is_daemon.then_some("warn"));
    let Some(filter) = wish.and_then(|wish| EnvFilter::try_new(wish).ok()) else {
        return;
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command teaches: what it does in one line, then whole sentences; every argument says what it is.
    #[test]
    fn every_command_has_long_help() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let about = command.get_about().unwrap_or_else(|| panic!("{path} has no help")).to_string();
            let long = command.get_long_about().unwrap_or_else(|| panic!("{path} has no long help"));
            assert!(!about.ends_with('.'), "{path}: the first line has no full stop");
            assert!(long.to_string().trim_end().ends_with('.'), "{path}: the rest are whole sentences");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path}: {} has no help", argument.get_id());
            }
            for command in command.get_subcommands() {
                check(command, &path);
            }
        }
        check(&Cli::command(), "");
    }

    #[test]
    fn what_the_design_names_is_understood() {
        for line in [
            "karte init --name N --kind clinic --no-passphrase --accept-contacts --accept-grants --adopt",
            "karte --home /h --json --passphrase-fd 3 card --qr",
            "karte contact add karte:abc --as sakura",
            "karte device invite --for 15m --qr",
            "karte --home /new device join - --name N --no-passphrase --accept-grants",
            "karte device list",
            "karte device remove 3f2a --last-valid-seq 17",
            "karte run --listen /ip4/127.0.0.1/tcp/0 --listen /ip4/127.0.0.1/udp/0/quic-v1 --json",
            "karte import a b --format fhir --subject chihiro",
            "karte record list --kind fhir --category laboratory --code 2160-0 --from 2024 --until 2025-06-01 \
             --subject me --grant ab",
            "karte record open ab -o f --age --staff s --force",
            "karte grant add sakura --kind fhir/Observation --kind dicom --category laboratory --code x|y --from 2024 \
             --until 2025 --record abcd --subject me --exclude HIV --purpose TREAT --basis consent --onward keep \
             --expires 90d --offline 7d --dry-run",
            "karte grant show ab --cose -o f",
            "karte grant accept ab --adopt",
            "karte grant revoke ab --reason moved",
            "karte request add hana --kind fhir --category c --code x|y --from 2024 --until 2025 --purpose TREAT \
             --basis consent --expires 90d --offline 7d --onward no --reason r --qr",
            "karte request take karte-request:abc",
            "karte request list",
            "karte request show ab --qr",
            "karte request approve ab --dry-run --kind k --category c --code x --from 2024 --until 2025 --record abcd \
             --exclude HIV --expires 9d --offline 1h",
            "karte request decline ab --reason no",
            "karte clock show",
            "karte clock reset --i-set-the-clock",
            "karte steward add sakura",
            "karte steward offer hana --quota 1.5GB --for 90d",
            "karte steward offer hana --end",
            "karte steward keeping",
            "karte sync sakura --staff s",
            "karte audit list",
            "karte keys export --age-identity --yes",
            "karte store check",
            "karte store repair --from sakura",
            "karte store adopt-copy --i-moved-it",
            "karte backup create /b --to age1x --to age1y",
            "karte backup verify /b --identity key.txt",
            "karte --home /new backup restore b.age --backup-passphrase-fd 3 --no-passphrase --regrant --again",
            "karte contact card hana --qr",
            "karte recovery setup --threshold 2 --words --words-file w --contact a --contact b --key karte-key:x \
             --yes --dry-run",
            "karte recovery trust hana",
            "karte recovery key --for karte1x",
            "karte --home /new recovery start karte:a karte:b --words --words-fd 3 --qr --no-passphrase",
            "karte recovery approve karte-recover:x --code a-b-c-d-e-f --words --words-fd 3",
            "karte recovery finish karte-approval:a karte-approval:b --contact karte:c",
            "karte recovery grants ab --all",
            "karte recovery show",
            "karte completions bash",
            "karte demo --keep",
        ] {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_ok(), "{line}");
        }
    }
}
