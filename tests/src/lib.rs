//! The harness of the journeys: named people with homes and daemons, driven only through the `karte` command.
//!
//! For: real processes on loopback, bounded waiting, telling what was skipped or measured. Not for: knowing anything
//! of the inside; engine tests stand in `tests/circle.rs`.

#![allow(clippy::indexing_slicing, reason = "a harness: what is not as expected must fail the test")]

pub mod apple_health;
pub mod binary;
pub mod bytes;
pub mod chance;
pub mod daemon;
pub mod dicom;
pub mod home;
pub mod machine;
pub mod outside;
pub mod synthetic;
pub mod wait;

pub use daemon::Daemon;
pub use home::{Home, Manner, Told};
pub use wait::{Deadline, eventually};

/// Tells something to whoever runs the tests. Written around libtest's capture, so that numbers and skips show
/// without `--nocapture`.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => { $crate::tell(&format!($($part)*)) };
}

/// See [`say!`].
pub fn tell(line: &str) {
    use std::io::Write;
    // One write a line: tests run side by side. A closed output is nobody's failure here.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}
