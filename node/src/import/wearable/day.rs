//! Local days and clocks, numbers as they were written, and the facts every daily record shares.
//!
//! For: what all readers of wearables need of time and number. Not for: guessing; a clock without a zone is kept as
//! written, with offset 0.

use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};
use rust_decimal::Decimal;

use crate::import::facts::{Code, Effective, Facts, TITLE_BYTES_MAX, clean};
use crate::observe::{LOINC, Observation, Source, Value};

/// Longest `source_id`, in bytes. 480: below the 500 a label allows one text.
const SOURCE_ID_BYTES_MAX: usize = 480;
/// Largest offset, in minutes: 14 hours, the easternmost in use (Kiribati).
const OFFSET_MIN_MAX: i64 = 14 * 60;

/// What a record's facts are made of.
pub(super) struct Daily<'a> {
    pub(super) kind: &'a str,
    pub(super) categories: &'a [&'a str],
    pub(super) codes: Vec<Code>,
    pub(super) title: &'a str,
    pub(super) media_type: &'a str,
    /// Vendor, device or person: what counts apart.
    pub(super) source: &'a str,
    /// `2016-04-12`; empty where no day is written.
    pub(super) day: &'a str,
    pub(super) effective: Option<Effective>,
}

impl Daily<'_> {
    pub(super) fn facts(self) -> Facts {
        let format = self.media_type.rsplit_once("format=").map_or(self.media_type, |(_, format)| format);
        let id = format!("{format}/{}/{}", self.source, self.day);
        let title = format!("{} {}", self.title, self.day);
        Facts {
            kind: self.kind.to_owned(),
            categories: self.categories.iter().map(|text| (*text).to_owned()).collect(),
            codes: self.codes,
            effective: self.effective,
            title: clean(&title, TITLE_BYTES_MAX),
            media_type: self.media_type.to_owned(),
            // Without a day two files would take each other's place.
            source_id: (!self.day.is_empty()).then(|| clean(&id, SOURCE_ID_BYTES_MAX)),
            replaces_same_source: !self.day.is_empty(),
            ..Facts::default()
        }
    }
}

/// `system|code`, or a LOINC code.
pub(super) fn code(text: &str) -> Code {
    let (system, code) = text.rsplit_once('|').unwrap_or((LOINC, text));
    Code { system: system.to_owned(), code: code.to_owned() }
}

/// An observation of a number.
pub(super) fn quantity(
    what: (&str, &str, &str),
    value: Decimal,
    effective: Effective,
    source: &Source,
) -> Observation {
    let (code_text, unit, display) = what;
    Observation {
        code: code(code_text),
        display: display.to_owned(),
        value: Value::Quantity { value, unit: unit.to_owned() },
        effective,
        source: source.clone(),
        part_of: None,
    }
}

/// An exact decimal in digits, with a sign, a point and an exponent at most.
pub(super) fn decimal(text: &str) -> Option<Decimal> {
    let text = text.trim();
    let plain = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E');
    if text.is_empty() || text.len() > 60 || !text.bytes().all(plain) {
        return None;
    }
    match text.contains(['e', 'E']) {
        true => Decimal::from_scientific(text).ok(),
        false => Decimal::from_str_exact(text).ok(),
    }
}

/// The clock a time was written by.
#[derive(Debug, Clone)]
pub(super) enum Clock {
    /// No zone and no offset: as written, with offset 0.
    Unstated,
    Offset(i64),
    Zone(TimeZone),
}

impl Clock {
    /// By `offset` or by the name of a zone; a zone this system does not know is as if none were stated.
    pub(super) fn new(offset: Option<&str>, zone: Option<&str>) -> Self {
        if let Some(minutes) = offset.and_then(offset_min) {
            return Self::Offset(minutes);
        }
        zone.and_then(|name| TimeZone::get(name).ok()).map_or(Self::Unstated, Self::Zone)
    }

    fn offset_of(&self, local: DateTime) -> i64 {
        match self {
            Self::Unstated => 0,
            Self::Offset(minutes) => *minutes,
            Self::Zone(zone) => {
                zone.to_ambiguous_timestamp(local).compatible().map_or(0, |at| minutes_of(zone.to_offset(at)))
            }
        }
    }

    /// Unix milliseconds and offset of a local time.
    fn instant(&self, local: DateTime) -> Option<(i64, i16)> {
        let offset = self.offset_of(local);
        let utc = Offset::UTC.to_timestamp(local).ok()?.as_millisecond();
        Some((utc.checked_sub(offset.checked_mul(60_000)?)?, i16::try_from(offset).ok()?))
    }

    pub(super) fn at(&self, local: DateTime) -> Option<Effective> {
        let (start_ms, offset_min) = self.instant(local)?;
        Some(Effective { start_ms, end_ms: start_ms, offset_min })
    }

    pub(super) fn day(&self, day: Date) -> Option<Effective> {
        let (start_ms, offset_min) = self.instant(day.to_datetime(jiff::civil::Time::midnight()))?;
        let (end_ms, _) = self.instant(day.tomorrow().ok()?.to_datetime(jiff::civil::Time::midnight()))?;
        Some(Effective { start_ms, end_ms, offset_min })
    }

    /// The offset and the local day of an instant.
    pub(super) fn local(&self, unix_ms: i64) -> Option<(i16, Date)> {
        let at = jiff::Timestamp::from_millisecond(unix_ms).ok()?;
        let minutes = match self {
            Self::Unstated => 0,
            Self::Offset(minutes) => *minutes,
            Self::Zone(zone) => minutes_of(zone.to_offset(at)),
        };
        let shifted = jiff::Timestamp::from_millisecond(unix_ms.checked_add(minutes * 60_000)?).ok()?;
        Some((i16::try_from(minutes).ok()?, Offset::UTC.to_datetime(shifted).date()))
    }

    /// From `start_ms` to `end_ms`, by this clock.
    pub(super) fn window(&self, start_ms: i64, end_ms: i64) -> Option<Effective> {
        let (offset_min, _) = self.local(start_ms)?;
        (end_ms >= start_ms).then_some(Effective { start_ms, end_ms, offset_min })
    }
}

/// Whole minutes: offsets with seconds ended a century ago.
fn minutes_of(offset: Offset) -> i64 {
    i64::from(offset.seconds() / 60)
}

/// `+09:00` or `Z` in minutes.
pub(super) fn offset_min(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let two = |text: &str| (text.len() == 2).then(|| text.parse::<u8>().ok())?.map(i64::from);
    let total = two(hours)? * 60 + two(minutes).filter(|minutes| *minutes < 60)?;
    (total <= OFFSET_MIN_MAX).then_some(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_day_in_a_zone_is_as_long_as_it_was() {
        let berlin = Clock::new(None, Some("Europe/Berlin"));
        let hours = |month, day| {
            let window = berlin.day(Date::new(2024, month, day).unwrap()).unwrap();
            ((window.end_ms - window.start_ms) / 3_600_000, window.offset_min)
        };
        assert_eq!([hours(3, 31), hours(10, 27), hours(7, 1)], [(23, 60), (25, 120), (24, 120)]);
        let tokyo = Clock::new(Some("+09:00"), None);
        assert_eq!(tokyo.local(1_433_052_383_000).unwrap(), (540, Date::new(2015, 5, 31).unwrap()));
    }

    #[test]
    fn numbers_are_digits_only() {
        let read = |text| decimal(text).map(|value| value.to_string());
        assert_eq!(read("52.59999847").as_deref(), Some("52.59999847"));
        assert_eq!(read(" 1.5e3 ").as_deref(), Some("1500"));
        assert_eq!([read("1_000"), read("1,5"), read(""), read("NaN")], [const { None }; 4]);
    }

    proptest! {
        #[test]
        fn numbers_and_offsets_never_panic(text in any::<String>()) {
            let _ = (decimal(&text), offset_min(&text), Clock::new(Some(&text), Some(&text)));
        }

        /// Nothing is rounded on the way in.
        #[test]
        fn a_decimal_prints_as_it_was_written(whole in 0u64..1_000_000_000_000, part in "[0-9]{1,12}") {
            let text = format!("{whole}.{part}");
            prop_assert_eq!(decimal(&text).unwrap().to_string(), text);
        }
    }
}
