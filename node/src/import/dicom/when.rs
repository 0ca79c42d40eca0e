//! DICOM dates and times as windows of Unix time (PS3.5 section 6.2: DA, TM, DT).
//!
//! For: what a header says about when. Not for: guessing a zone; a time without an offset is taken in UTC, as with
//! every other format here.

use crate::import::facts::Effective;
use crate::import::time;

/// A date with its time and the data set's offset (0008,0201); a time that is wrong leaves the day.
pub(super) fn date_time(date: &str, clock: Option<&str>, offset: Option<&str>) -> Option<Effective> {
    let day = day(date)?;
    let offset = offset.and_then(zone);
    clock.and_then(|clock| instant(&day, clock, offset.as_deref())).or_else(|| time::point(&day))
}

/// A value of DT: `YYYYMMDDHHMMSS.FFFFFF&ZZXX`, cut anywhere behind the year; `offset` where it has none.
pub(super) fn point(text: &str, offset: Option<&str>) -> Option<Effective> {
    let (clock, own) = match text.find(['+', '-']).and_then(|at| text.split_at_checked(at)) {
        Some((clock, own)) => (clock, Some(own)),
        None => (text, None),
    };
    let (digits, _) = clock.split_once('.').unwrap_or((clock, ""));
    match digits.len() {
        4 => time::point(digits),
        6 => time::point(&format!("{}-{}", digits.get(..4)?, digits.get(4..)?)),
        _ => {
            let (date, clock) = clock.split_at_checked(8)?;
            date_time(date, Some(clock).filter(|clock| !clock.is_empty()), own.or(offset))
        }
    }
}

/// `YYYYMMDD`, or the `YYYY.MM.DD` of before 1993, as ISO 8601.
fn day(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != '.').collect();
    match digits.len() {
        8 => Some(format!("{}-{}-{}", digits.get(..4)?, digits.get(4..6)?, digits.get(6..)?)),
        _ => None,
    }
}

/// `HHMMSS.FFFFFF`, cut anywhere behind the hour: a shorter one covers its minute or hour.
fn instant(day: &str, clock: &str, offset: Option<&str>) -> Option<Effective> {
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let digits: String = whole.chars().filter(|c| *c != ':').collect();
    let (text, covers_ms) = match digits.len() {
        2 => (format!("{digits}:00:00"), 3_600_000),
        4 => (format!("{}:{}:00", digits.get(..2)?, digits.get(2..)?), 60_000),
        6 => (format!("{}:{}:{}", digits.get(..2)?, digits.get(2..4)?, digits.get(4..)?), 0),
        _ => return None,
    };
    let fraction = if fraction.is_empty() { String::new() } else { format!(".{fraction}") };
    let start = time::point(&format!("{day}T{text}{fraction}{}", offset.unwrap_or("Z")))?;
    Some(Effective { end_ms: start.end_ms + covers_ms, ..start })
}

/// `+0900` as `+09:00`.
fn zone(text: &str) -> Option<String> {
    let (hours, minutes) = text.split_at_checked(3).filter(|_| text.len() == 5)?;
    Some(format!("{hours}:{minutes}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(found: Option<Effective>) -> Option<(i64, i64, i16)> {
        found.map(|it| (it.start_ms, it.end_ms, it.offset_min))
    }

    #[test]
    fn an_offset_moves_the_instant_and_is_kept() {
        let found = date_time("19700101", Some("090000.123456"), Some("+0900"));
        assert_eq!(window(found), Some((123, 123, 540)));
        assert_eq!(window(date_time("19700101", Some("01"), None)), Some((3_600_000, 7_200_000, 0)));
        assert_eq!(window(date_time("1970.01.01", Some("00:01"), None)), Some((60_000, 120_000, 0)));
        assert_eq!(window(date_time("19700101", Some("noon"), None)), Some((0, 86_400_000, 0)));
        assert_eq!(window(date_time("19700101", None, Some("+0900"))), Some((0, 86_400_000, 0)));
        assert_eq!(window(date_time("yesterday", Some("01"), None)), None);
    }

    #[test]
    fn a_date_time_may_be_cut_anywhere() {
        assert_eq!(window(point("19700101000001", None)), Some((1_000, 1_000, 0)));
        assert_eq!(window(point("19691231200000-0400", Some("+0900"))), Some((0, 0, -240)));
        assert_eq!(window(point("197001", None)), Some((0, 31 * 86_400_000, 0)));
        assert_eq!(window(point("1970", None)), Some((0, 365 * 86_400_000, 0)));
        assert_eq!(window(point("19", None)), None);
        assert_eq!(window(point("é1970", None)), None);
    }
}
