//! Texts as QR codes on a terminal, to be read by a telephone.

use crate::view;
use karte_node::failure::Failure;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// Draws a text; `what` it is, for messages.
pub(crate) fn draw(what: &str, text: &str) -> Result<String, Failure> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).map_err(|error| {
        Failure::failed(format!("the {what} does not fit a QR code: {error}"))
            .next(format!("Give the text of the {what} instead."))
    })?;
    let width = code.width() + 2 * QUIET_MODULES;
    match view::terminal_width() {
        Some(terminal) if usize::from(terminal) < width => {
            Err(Failure::failed(format!("the QR code is {width} columns wide, the terminal {terminal}"))
                .next(format!(
                    "Widen the window or make its letters smaller, or give the text of the {what} instead."
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

    #[test]
    fn the_longest_card_fits_a_code() {
        let card = format!("karte:{}", "a".repeat(2_894));
        let drawn = draw("card", &card).unwrap();
        assert_eq!(drawn.lines().count(), (177 + 2 * QUIET_MODULES).div_ceil(2));
        assert!(draw("card", &"a".repeat(3_000)).is_err());
    }
}
