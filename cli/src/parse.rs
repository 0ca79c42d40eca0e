//! Values of arguments that clap does not know.

use jiff::{Span, SpanRelativeTo};
use karte_node::failure::Failure;
use std::io::Read;

/// Longest card or request that is read, in bytes: above the protocol's own bounds, so that the node says what is wrong.
const TEXT_BYTES_MAX: u64 = 16 * 1024;

/// The text of a card or request; `-` reads it from the standard input.
pub(crate) fn text_or_stdin(text: String, what: &str) -> Result<String, Failure> {
    if text != "-" {
        return Ok(text);
    }
    let mut text = String::new();
    std::io::stdin().take(TEXT_BYTES_MAX).read_to_string(&mut text).map_err(|error| {
        Failure::usage(format!("the {what} cannot be read from the standard input: {error}"))
    })?;
    Ok(text.trim().to_owned())
}

/// A length of time such as `90d`, `12h`, `2w` or `30m`, in milliseconds.
pub(crate) fn duration_ms(text: &str) -> Result<i64, String> {
    let wrong = || "expected a length of time such as 30m, 12h, 90d or 2w".to_owned();
    let span: Span = text.parse().map_err(|_| wrong())?;
    // A month has no fixed length, and a permission must not depend on where the calendar is.
    let relative = SpanRelativeTo::days_are_24_hours();
    let total_ms = span.to_duration(relative).map_err(|_| wrong())?.as_millis();
    i64::try_from(total_ms).ok().filter(|ms| *ms > 0).ok_or_else(wrong)
}

/// A size such as `10GB`, `500MB` or `1.5TB`, in bytes; thousands, as disks are sold.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 5] =
        [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1)];
    let wrong = || "expected a size such as 500MB, 10GB or 1.5TB".to_owned();
    let upper = text.trim().to_ascii_uppercase();
    let unit = UNITS.iter().find_map(|(name, unit)| Some((upper.strip_suffix(name)?.trim(), *unit)));
    let (number, unit) = unit.ok_or_else(wrong)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(part) || part.len() > 3 {
        return Err(wrong());
    }
    let thousandths = format!("{whole}{part:0<3}").parse::<u64>().map_err(|_| wrong())?;
    let bytes = u128::from(thousandths) * u128::from(unit) / 1_000;
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// A number of days such as `90d` or `12w`, at most a century.
pub(crate) fn days(text: &str) -> Result<u32, String> {
    const DAY_MS: i64 = 24 * 3_600_000;
    let days = duration_ms(text)? / DAY_MS;
    u32::try_from(days)
        .ok()
        .filter(|days| (1..=36_525).contains(days))
        .ok_or_else(|| "expected a number of days such as 30d, 12w or 365d, at most 36525d".to_owned())
}

/// Who sits at this machine, for releases and receipts.
pub(crate) fn staff_or_user(staff: Option<String>) -> String {
    staff.or_else(|| whoami::username().ok()).unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        assert_eq!(duration_ms("90d"), Ok(90 * 24 * 3_600_000));
        assert_eq!(duration_ms("2w"), Ok(14 * 24 * 3_600_000));
        assert_eq!(duration_ms("12h"), Ok(12 * 3_600_000));
        assert_eq!(duration_ms("30m"), Ok(30 * 60_000));
        assert_eq!(duration_ms("1d 12h"), Ok(36 * 3_600_000));
        assert_eq!(duration_ms("5s"), Ok(5_000));
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("10GB"), Ok(10_000_000_000));
        assert_eq!(bytes("1.5 tb"), Ok(1_500_000_000_000));
        assert_eq!(bytes("500MB"), Ok(500_000_000));
        assert_eq!(bytes("700B"), Ok(700));
        for text in ["", "10", "GB", "-1GB", "1.GB", "0GB", "1e3GB", "99999999999TB", "1.2345GB"] {
            assert!(bytes(text).is_err(), "{text:?} was taken for a size");
        }
    }

    #[test]
    fn what_is_no_length_of_time_is_refused() {
        for text in ["", "90", "soon", "0d", "-3d", "3d ago", "1mo", "1y", "99999999999d"] {
            assert!(duration_ms(text).is_err(), "{text:?} was taken for a length of time");
        }
    }
}
