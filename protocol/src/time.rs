//! Time as the protocol sees it: milliseconds since 1970-01-01T00:00:00Z in a signed 64-bit number.
//!
//! Never read here: whoever calls passes `now`.

/// Milliseconds since the Unix epoch (UTC).
pub type UnixMs = i64;

/// One second in milliseconds.
pub const SECOND_MS: i64 = 1_000;
/// One minute in milliseconds.
pub const MINUTE_MS: i64 = 60 * SECOND_MS;
/// One hour in milliseconds.
pub const HOUR_MS: i64 = 60 * MINUTE_MS;
/// One day in milliseconds.
pub const DAY_MS: i64 = 24 * HOUR_MS;
