//! FHIR dates as windows of Unix time.
//!
//! For: the dateTime, date and instant grammars of <https://hl7.org/fhir/R4/datatypes.html> and Period. Not for:
//! Timing, and not for guessing a zone: a date without an offset is taken in UTC, with offset 0.

use jiff::civil::{Date, date};

use super::facts::Effective;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// Largest offset, in minutes: 14 hours, the easternmost in use (Kiribati) and the bound in FHIR.
const OFFSET_MIN_MAX: i64 = 14 * 60;

/// A dateTime, date or instant; `None` where it is not one.
pub(crate) fn point(text: &str) -> Option<Effective> {
    match text.split_once('T') {
        None => day_or_longer(text),
        Some((day, clock)) => instant(exact_day(day)?, clock),
    }
}

/// A time as Apple Health writes it (`2024-06-10 08:00:00 +0900`), or a point of the grammar above.
pub(super) fn apple(text: &str) -> Option<Effective> {
    let Some((day, rest)) = text.split_once(' ') else {
        return point(text);
    };
    let (clock, offset) = rest.split_once(' ')?;
    let (sign, offset) = (offset.get(..1)?, offset.get(1..)?);
    let (hours, minutes) = (digits(offset.get(..2)?, 2)?, digits(offset.get(2..)?, 2)?);
    let offset_min = hours * 60 + minutes;
    let sign = match sign {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    if minutes > 59 || offset_min > OFFSET_MIN_MAX {
        return None;
    }
    moment(exact_day(day)?, clock, sign * offset_min)
}

/// A Period of two points, either of which may be missing; one that ends before it starts states nothing.
pub(crate) fn period(start: Option<&str>, end: Option<&str>) -> Option<Effective> {
    let (start, end) = (start.map(point), end.map(point));
    let (start, end) = match (start, end) {
        (Some(start), Some(end)) => (start?, end?),
        (Some(only), None) | (None, Some(only)) => (only?, only?),
        (None, None) => return None,
    };
    let in_order = start.start_ms < end.end_ms || start.start_ms == end.start_ms;
    in_order.then_some(Effective { end_ms: end.end_ms, ..start })
}

fn day_or_longer(text: &str) -> Option<Effective> {
    let (first, last) = match text.len() {
        4 => {
            let first = calendar(text, "01", "01")?;
            (first, first.last_of_year())
        }
        7 => {
            let (year, month) = text.split_once('-')?;
            let first = calendar(year, month, "01")?;
            (first, first.last_of_month())
        }
        _ => (exact_day(text)?, exact_day(text)?),
    };
    Some(Effective { start_ms: midnight_ms(first), end_ms: midnight_ms(last) + DAY_MS, offset_min: 0 })
}

fn exact_day(text: &str) -> Option<Date> {
    let (year, rest) = text.split_once('-')?;
    let (month, day) = rest.split_once('-')?;
    calendar(year, month, day)
}

fn calendar(year: &str, month: &str, day: &str) -> Option<Date> {
    let year = i16::try_from(digits(year, 4)?).ok().filter(|year| *year > 0)?;
    let (month, day) = (i8::try_from(digits(month, 2)?).ok()?, i8::try_from(digits(day, 2)?).ok()?);
    Date::new(year, month, day).ok()
}

/// Days are counted without a zone, so every date of the grammar has a number (9999-12-31 too).
fn midnight_ms(day: Date) -> i64 {
    day.duration_since(date(1970, 1, 1)).as_hours() / 24 * DAY_MS
}

fn instant(day: Date, text: &str) -> Option<Effective> {
    let (clock, offset_min) = split_offset(text)?;
    moment(day, clock, offset_min)
}

fn moment(day: Date, clock: &str, offset_min: i64) -> Option<Effective> {
    let start_ms = midnight_ms(day) + clock_ms(clock)? - offset_min * MINUTE_MS;
    Some(Effective { start_ms, end_ms: start_ms, offset_min: i16::try_from(offset_min).ok()? })
}

/// The clock and the offset. FHIR demands an offset; a time without one is met in the wild and taken as UTC.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix('Z') {
        return Some((clock, 0));
    }
    let Some(at) = text.find(['+', '-']) else {
        return Some((text, 0));
    };
    let (clock, offset) = text.split_at_checked(at)?;
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let offset_min = digits(hours, 2)? * 60 + digits(minutes, 2).filter(|minutes| *minutes < 60)?;
    (offset_min <= OFFSET_MIN_MAX).then_some((clock, sign * offset_min))
}

/// `hh:mm:ss` with any fraction, cut to milliseconds.
fn clock_ms(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
    let mut parts = whole.split(':').map(|part| digits(part, 2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let ms = fraction.map_or(Some(0), milliseconds)?;
    // Unix time has no leap second: it stays the last millisecond of its minute, so order is kept.
    let second_ms = if second == 60 { 59_999 } else { second * 1_000 + ms };
    Some((hour * 60 + minute) * MINUTE_MS + second_ms)
}

fn milliseconds(fraction: &str) -> Option<i64> {
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    format!("{fraction:0<3.3}").parse().ok()
}

/// A number of exactly `count` ASCII digits.
fn digits(text: &str, count: usize) -> Option<i64> {
    let right = text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    right.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(text: &str) -> Option<(i64, i64, i16)> {
        point(text).map(|e| (e.start_ms, e.end_ms, e.offset_min))
    }

    #[test]
    fn a_date_covers_what_it_states() {
        assert_eq!(window("1970"), Some((0, 365 * DAY_MS, 0)));
        assert_eq!(window("1972-02"), Some((761 * DAY_MS, 790 * DAY_MS, 0)), "a leap February has 29 days");
        assert_eq!(window("1969-12-31"), Some((-DAY_MS, 0, 0)));
        assert_eq!(window("9999").map(|w| w.1), Some(253_402_300_800_000), "the last year has an end");
    }

    #[test]
    fn an_instant_keeps_its_offset() {
        assert_eq!(window("1970-01-01T08:00:00+08:00"), Some((0, 0, 480)));
        assert_eq!(window("1969-12-31T20:30:00.1239-03:30"), Some((123, 123, -210)));
        assert_eq!(window("1970-01-01T00:00:01"), Some((1_000, 1_000, 0)), "no offset is read as UTC");
        assert_eq!(window("1970-01-01T00:00:60Z"), Some((59_999, 59_999, 0)), "a leap second stays in order");
    }

    #[test]
    fn a_time_of_apple_health_keeps_its_offset() {
        let window = |text: &str| apple(text).map(|e| (e.start_ms, e.end_ms, e.offset_min));
        assert_eq!(window("1970-01-01 09:00:01 +0900"), Some((1_000, 1_000, 540)));
        assert_eq!(window("1969-12-31 20:30:00 -0330"), Some((0, 0, -210)));
        assert_eq!(window("1970-01-02"), Some((DAY_MS, 2 * DAY_MS, 0)), "a day's summary");
        for wrong in [
            "1970-01-01 09:00:01",
            "1970-01-01 09:00:01 0900",
            "1970-01-01 09:00:01 +0960",
            "1970-01-01  +0900",
        ] {
            assert_eq!(window(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_not_a_date_is_none() {
        let wrong = [
            "",
            "x",
            "70",
            "0000",
            "1970-1",
            "1970-13",
            "1970-02-30",
            "1970-01-01T",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+15:00",
            "+970",
            "1970-01-01T00:00:00é",
            "1970-01-01T00:00:00+é:00",
            "１９７０",
            "1970-01-01 00:00:00Z",
            "1970-01-01-01",
            "1970-01-01T00:00:00:00Z",
        ];
        for text in wrong {
            assert_eq!(window(text), None, "{text}");
        }
    }

    #[test]
    fn a_period_spans_its_points() {
        let span = |start, end| period(start, end).map(|e| (e.start_ms, e.end_ms));
        assert_eq!(span(Some("1970-01-01"), Some("1970-01-02")), Some((0, 2 * DAY_MS)));
        assert_eq!(span(Some("1970-01-01"), None), Some((0, DAY_MS)), "an open end states no end");
        assert_eq!(span(Some("1971"), Some("1970")), None);
        assert_eq!(span(Some("1970"), Some("soon")), None);
        assert_eq!(span(None, None), None);
    }
}
