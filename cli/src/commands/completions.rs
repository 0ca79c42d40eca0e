use super::Cli;
use crate::error::Error;
use crate::output;
use clap::CommandFactory;
use clap_complete::Shell;

/// Print a script that completes commands in your shell
///
/// The script is printed; where to put it depends on the shell.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Example:\n  \
    karte completions bash > ~/.local/share/bash-completion/completions/karte")]
pub(crate) struct Args {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "karte", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
