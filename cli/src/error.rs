//! How a command ends badly: the sentence, the next step, and the exit code.

use karte_node::failure::{Failure, Kind};
use serde_json::json;
use std::io;
use std::process::ExitCode;

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Error {
    /// Something to tell.
    Failure(Failure),
    /// Whoever read our output has stopped reading (`karte record list | head`). That is no failure.
    NobodyReads,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::NobodyReads,
            // Said by `out_file::Guard`: what would act on a terminal.
            io::ErrorKind::InvalidData => Failure::usage(error.to_string())
                .next("Use -o FILE, or `-o -` to have them on the screen all the same.")
                .into(),
            _ => Self::Failure(Failure::failed(format!("the output cannot be written: {error}"))),
        }
    }
}

/// A usage error in clap's words, as a failure.
pub(crate) fn usage(error: &clap::Error) -> Error {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let message = first.trim_start_matches("error: ");
    Failure::usage(message)
        .next("`karte help` shows the commands, `karte COMMAND --help` one of them.")
        .into()
}

/// Tells the user, and gives the exit code.
pub(crate) fn report(error: &Error, json: bool) -> ExitCode {
    let Error::Failure(failure) = error else {
        return ExitCode::SUCCESS;
    };
    eprintln!("{}", if json { object(failure) } else { sentence(failure) });
    ExitCode::from(exit_code(failure.kind))
}

fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Failed => 1,
        Kind::Usage => 2,
        Kind::Refused => 3,
        Kind::Unreachable => 4,
        Kind::Damaged => 5,
    }
}

fn object(failure: &Failure) -> String {
    json!({ "error": failure.message, "kind": failure.kind, "next": failure.next }).to_string()
}

/// `Error: there is no contact "sakura".` and, on a line of its own, what to do now.
fn sentence(failure: &Failure) -> String {
    let message = crate::view::clean(&failure.message);
    let ended = message.ends_with(['.', '!', '?']);
    let first = format!("Error: {message}{}", if ended { "" } else { "." });
    match &failure.next {
        Some(next) => format!("{first}\n{}", crate::view::clean(next)),
        None => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_ends_with_the_next_step() {
        let failure = Failure::refused("grant abc was revoked").next("Ask for a new one.");
        assert_eq!(sentence(&failure), "Error: grant abc was revoked.\nAsk for a new one.");
        assert_eq!(
            object(&failure),
            r#"{"error":"grant abc was revoked","kind":"refused","next":"Ask for a new one."}"#
        );
    }

    #[test]
    fn exit_codes_are_the_numbers_of_the_kinds() {
        for kind in [Kind::Failed, Kind::Usage, Kind::Refused, Kind::Unreachable, Kind::Damaged] {
            assert_eq!(u32::from(exit_code(kind)), kind as u32);
        }
    }
}
