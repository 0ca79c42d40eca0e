//! The library in front of libc, seen from the harness: where it lies, what it is told, what it tells.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library, as `build.rs` built it. Empty where there is none (other systems than Linux).
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.so"));

/// What is done at the n-th call that writes below the folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing: calls are only counted.
    Count,
    /// The process is killed before the call.
    KillBefore,
    /// The process is killed half way through a write; after any other call.
    KillHalf,
    /// The process is killed after the call.
    KillAfter,
    /// This call fails with EIO.
    EioOnce,
    /// This call and all that follow fail with EIO.
    EioEver,
    /// This call fails with ENOSPC.
    FullOnce,
    /// From this call on the disk has so many bytes left.
    FullEver(u64),
    /// Every call is recorded.
    Trace,
}

impl Fault {
    fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Count => ("count", ""),
            Self::KillBefore => ("kill", "before"),
            Self::KillHalf => ("kill", "half"),
            Self::KillAfter => ("kill", "after"),
            Self::EioOnce => ("eio", "once"),
            Self::EioEver => ("eio", "ever"),
            Self::FullOnce => ("enospc", "once"),
            Self::FullEver(_) => ("enospc", "ever"),
            Self::Trace => ("trace", ""),
        }
    }
}

/// The library in a file, ready to be loaded.
pub struct Shim(PathBuf);

impl Shim {
    /// Writes the library into a folder of the harness.
    pub fn unpack(dir: &Path) -> std::io::Result<Self> {
        let path = dir.join("shim.so");
        if LIBRARY.is_empty() {
            return Err(std::io::Error::other("faults of the system's calls can only be made on Linux"));
        }
        std::fs::write(&path, LIBRARY)?;
        Ok(Self(path))
    }

    /// Puts the library before a command's libc. `out` takes the counters or the trace; syncs below `nosync` are
    /// swallowed.
    pub fn load(&self, command: &mut Command, dir: &Path, fault: Fault, n: u64, out: &Path) {
        let (mode, how) = fault.told();
        let room = if let Fault::FullEver(room) = fault { room } else { 0 };
        command.env("LD_PRELOAD", &self.0).env("SHIM_DIR", dir).env("SHIM_OUT", out);
        command.env("SHIM_MODE", mode).env("SHIM_HOW", how);
        command.env("SHIM_N", n.to_string()).env("SHIM_ROOM", room.to_string());
    }
}

/// How many calls were seen, and how many were failed.
pub fn counters(out: &Path) -> (u64, u64) {
    let bytes = std::fs::read(out).unwrap_or_default();
    let number =
        |at: usize| bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map(u64::from_le_bytes);
    (number(0).unwrap_or(0), number(8).unwrap_or(0))
}

/// One recorded call, in the order in which it was done.
pub struct Event {
    /// C create, D mkdir, T set length, W write, R rename, L link, U remove, S sync, A said by the worker.
    pub op: u8,
    /// The file's inode.
    pub inode: u64,
    /// Offset of a write, new length.
    pub offset: u64,
    /// The path, or the old one.
    pub path: String,
    /// The new path.
    pub to: String,
    /// What was written or said.
    pub data: Vec<u8>,
}

/// Reads a trace; one that was cut ends where it was cut.
pub fn read_trace(bytes: &[u8]) -> Vec<Event> {
    let (mut rest, mut events) = (bytes, Vec::new());
    while let Some(event) = take_event(&mut rest) {
        events.push(event);
    }
    events
}

fn take_event(rest: &mut &[u8]) -> Option<Event> {
    let (op, mut left) = rest.split_first()?;
    let [inode, offset, path, to, data] = [(); 5].map(|()| take_number(&mut left));
    let (path, to) = (take_bytes(&mut left, path?)?, take_bytes(&mut left, to?)?);
    let data = take_bytes(&mut left, data?)?.to_vec();
    *rest = left;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Event { op: *op, inode: inode?, offset: offset?, path: text(path), to: text(to), data })
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let (number, left) = rest.split_first_chunk::<8>()?;
    *rest = left;
    Some(u64::from_le_bytes(*number))
}

fn take_bytes<'a>(rest: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (bytes, left) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = left;
    Some(bytes)
}
