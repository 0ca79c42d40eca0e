//! What happened: lines for people, and a hash of every event for the proof that one seed is one run.

use super::world::BEGIN_MS;
use karte_protocol::time::{DAY_MS, HOUR_MS, MINUTE_MS, UnixMs};

/// The story of a run.
#[derive(Default)]
pub struct Story {
    lines: Vec<String>,
    hasher: blake3::Hasher,
}

impl Story {
    /// A line, with its time.
    pub fn tell(&mut self, now: UnixMs, what: String) {
        self.hasher.update(&now.to_be_bytes()).update(what.as_bytes());
        let ms = now - BEGIN_MS;
        let (day, hour, minute) = (ms / DAY_MS, ms % DAY_MS / HOUR_MS, ms % HOUR_MS / MINUTE_MS);
        self.lines.push(format!("day {day:>2} {hour:02}:{minute:02}  {what}"));
    }

    /// An event that is in the hash alone.
    pub fn mark(&mut self, now: UnixMs, at: usize, label: &str) {
        self.hasher.update(&now.to_be_bytes()).update(&(at as u64).to_be_bytes()).update(label.as_bytes());
    }

    /// All lines.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}
