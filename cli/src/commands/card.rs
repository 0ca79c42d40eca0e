use crate::error::Error;
use crate::output;
use crate::session::Session;
use crate::view;
use karte_node::command::Command;
use karte_node::failure::Failure;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// Show your card
///
/// A card is what others need to find you and to check your signatures: your party, its devices, a name, and
/// addresses. It is no secret. Give it away as text or as a QR code; the other side takes it with `karte contact
/// add`. The addresses are those the node listens on, so make the card while `karte run` is running.
#[derive(clap::Args, Debug)]
#[command(after_long_help = "Examples:\n  \
    karte card --qr\n  \
    karte card --json | jq -r .card")]
pub(crate) struct Args {
    /// Draw it as a QR code too
    #[arg(long)]
    qr: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<(), Error> {
    shown(session, Command::Card, args.qr)
}

/// Shows what a command gives that has a card in it.
pub(crate) fn shown(session: &Session, command: Command, qr: bool) -> Result<(), Error> {
    if session.json {
        return session.show(command, view::card);
    }
    let items = session.items(command)?;
    output::print(&view::card(&items))?;
    if qr {
        let text = items.iter().find_map(|item| item.get("card")?.as_str()).unwrap_or_default();
        output::print(&draw(text)?)?;
    }
    Ok(())
}

/// A text as a QR code.
pub(crate) fn draw(text: &str) -> Result<String, Failure> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).map_err(|error| {
        Failure::failed(format!("the text does not fit a QR code: {error}")).next("Give it as text instead.")
    })?;
    let width = code.width() + 2 * QUIET_MODULES;
    match view::terminal_width() {
        Some(terminal) if usize::from(terminal) < width => {
            Err(Failure::failed(format!("the QR code is {width} columns wide, the terminal {terminal}"))
                .next("Widen the window or make its letters smaller, or give the text of the card instead."))
        }
        is_terminal => Ok(painted(&code, is_terminal.is_some())),
    }
}

/// Empty modules around a QR code (ISO/IEC 18004, 9.1).
const QUIET_MODULES: usize = 4;

/// Black on white whatever the terminal's colours are: many readers do not read an inverted code.
fn painted(code: &QrCode, is_terminal: bool) -> String {
    let image = code.render::<Dense1x2>().quiet_zone(true).module_dimensions(1, 1).build();
    if !is_terminal {
        return image;
    }
    image.lines().map(|line| format!("\u{1b}[30;107m{line}\u{1b}[0m\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_card_fits_a_code() {
        let card = format!("karte:{}", "a".repeat(2_894));
        let drawn = draw(&card).unwrap();
        assert_eq!(drawn.lines().count(), (177 + 2 * QUIET_MODULES).div_ceil(2));
        assert!(draw(&"a".repeat(3_000)).is_err());
    }
}
