//! Write-behind: a long payload goes to the disk while it is still being written.
//!
//! For: a sync that has little left to wait for; the kernel alone would hold up to a tenth of the memory back. Not for:
//! durability, which is the sync's. But an error that the kernel told here it tells nobody else, so `finish` says it.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes between two flushes. 32 MiB: some 20 ms of a disk, and 64 flushes of a file of 2 GiB.
const STRIDE_BYTES: u64 = 32 << 20;

/// What of one file is still to be flushed. The thread begins with the first stride.
#[derive(Default)]
pub(super) struct Behind {
    unflushed_bytes: u64,
    flusher: Option<Flusher>,
}

struct Flusher {
    strides: SyncSender<File>,
    thread: JoinHandle<io::Result<()>>,
}

impl Behind {
    /// Called after each write.
    pub(super) fn wrote(&mut self, file: &File, bytes: u64) {
        self.unflushed_bytes = self.unflushed_bytes.saturating_add(bytes);
        if self.unflushed_bytes < STRIDE_BYTES {
            return;
        }
        // A descriptor or a thread that cannot be had now is tried for again at the next write.
        let Ok(file) = file.try_clone() else { return };
        if self.flusher.is_none() {
            self.flusher = Flusher::start();
        }
        // One that is still busy takes this stride along with the next.
        if self.flusher.as_ref().is_some_and(|flusher| flusher.strides.try_send(file).is_ok()) {
            self.unflushed_bytes = 0;
        }
    }

    /// Waits for what is being flushed; the first error of all of it.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let Some(Flusher { strides, thread }) = self.flusher.take() else { return Ok(()) };
        drop(strides);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a flushing thread ended badly")))
    }
}

impl Flusher {
    fn start() -> Option<Self> {
        let (strides, files) = sync_channel::<File>(1);
        // After an error nothing is flushed any more: the next write's stride finds nobody, and `finish` tells.
        let flush = move || files.iter().try_for_each(|file| file.sync_data());
        let thread = std::thread::Builder::new().name("write-behind".into()).spawn(flush).ok()?;
        Some(Self { strides, thread })
    }
}
