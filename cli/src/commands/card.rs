use crate::error::Error;
use crate::output;
use crate::session::Session;
use crate::view;
use karte_node::command::Command;
use karte_node::failure::Failure;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::Value;

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
    if session.json {
        return session.show(Command::Card, view::card);
    }
    let items = session.items(Command::Card)?;
    output::print(&view::card(&items))?;
    if args.qr {
        output::print(&draw(&items, "card")?)?;
    }
    Ok(())
}

/// The text that items hold under `name`, as a QR code.
pub(super) fn draw(items: &[Value], name: &str) -> Result<String, Failure> {
    let text = items.iter().find_map(|item| item.get(name)?.as_str()).unwrap_or_default();
    let code = QrCode::with_error_correction_level(text, EcLevel::L).map_err(|error| {
        Failure::failed(format!("the {name} does not fit a QR code: {error}"))
            .next(format!("Give the text of the {name} instead."))
    })?;
    let width = code.width() + 2 * QUIET_MODULES;
    match view::terminal_width() {
        Some(terminal) if usize::from(terminal) < width => {
            Err(Failure::failed(format!("the QR code is {width} columns wide, the terminal {terminal}"))
                .next(format!(
                    "Widen the window or make its letters smaller, or give the text of the {name} instead."
                )))
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
    use serde_json::json;

    #[test]
    fn the_longest_card_fits_a_code() {
        let card = format!("karte:{}", "a".repeat(2_894));
        let drawn = draw(&[json!({ "card": card })], "card").unwrap();
        assert_eq!(drawn.lines().count(), (177 + 2 * QUIET_MODULES).div_ceil(2));
        assert!(draw(&[json!({ "card": "a".repeat(3_000) })], "card").is_err());
    }
}
