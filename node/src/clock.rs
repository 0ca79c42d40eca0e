//! The clock, as an argument: tests and the simulator pass their own, the product passes [`SystemClock`].

use karte_protocol::time::UnixMs;
use std::time::SystemTime;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> UnixMs;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> UnixMs {
        SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| UnixMs::try_from(since.as_millis()).unwrap_or(UnixMs::MAX))
    }
}

/// The time that files are stamped with here, to tell how old one is. Never for permissions: whoever sets the stamp of
/// a file sets its age.
pub(crate) fn file_stamp_now() -> SystemTime {
    SystemTime::now()
}

/// What the clock on the wall of this machine's user shows, for what they write by hand and for "the last 90 days".
pub fn wall_clock() -> jiff::Zoned {
    jiff::Zoned::now()
}
