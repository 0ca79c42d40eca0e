//! A point in time on a local clock, as FHIR writes it.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

/// Time and the offset of the clock it is told by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Unix time in milliseconds.
    pub ms: i64,
    /// Minutes east of UTC.
    pub offset_min: i16,
}

impl Moment {
    /// `2026-03-01T07:10:00+09:00`, <https://hl7.org/fhir/R4/datatypes.html#dateTime>. `None` beyond the calendar.
    pub(super) fn text(self) -> Option<String> {
        Some(self.zoned()?.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
    }

    /// When its local day began.
    pub(super) fn midnight(self) -> Option<String> {
        Some(self.zoned()?.start_of_day().ok()?.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
    }

    fn zoned(self) -> Option<Zoned> {
        let offset = Offset::from_seconds(i32::from(self.offset_min) * 60).ok()?;
        let zoned = Timestamp::from_millisecond(self.ms).ok()?.to_zoned(TimeZone::fixed(offset));
        (1..=9999).contains(&zoned.year()).then_some(zoned)
    }
}
