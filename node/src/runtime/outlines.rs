//! Outlines of large payloads, so that serving one does not begin with reading all of it.
//!
//! For: those sealed or served lately. Not for: the disk; one that is not here is made again by hashing the payload, on
//! all cores.

use super::lock;
use crate::store::{Blobs, ReadSeek};
use karte_protocol::bao::{BaoError, Outline, hash_of, piece_value};
use karte_protocol::id::{Digest, RecordId};
use karte_protocol::limits::SLICE_BYTES_MAX;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What the kept ones may take in memory, in bytes. 8 MiB: payloads of 128 GiB.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Longest file that one core hashes or seals, in bytes. 8 MiB: some milliseconds, which starting threads would cost again.
pub(super) const ALONE_BYTES_MAX: u64 = 8 << 20;

/// The outlines; the newest stand last.
#[derive(Default)]
pub(super) struct Outlines(Mutex<VecDeque<(RecordId, Arc<Outline>)>>);

impl Outlines {
    /// Of a payload that is here; made if it has to be. Blocks.
    pub(super) fn of(
        &self,
        blobs: &dyn Blobs,
        record: RecordId,
        bytes: u64,
    ) -> Result<Arc<Outline>, BaoError> {
        if bytes <= SLICE_BYTES_MAX {
            return Ok(Arc::new(Outline::of_small(record, bytes)));
        }
        let kept = lock(&self.0).iter().find(|(of, _)| *of == record).map(|(_, outline)| outline.clone());
        match kept {
            Some(outline) => Ok(outline),
            None => {
                let outline = Outline::of(record, bytes, pieces(blobs, record, bytes)?)?;
                Ok(self.keep(Arc::new(outline)))
            }
        }
    }

    /// One that came from elsewhere: from sealing.
    pub(super) fn keep(&self, outline: Arc<Outline>) -> Arc<Outline> {
        let record = outline.record();
        let mut kept = lock(&self.0);
        kept.retain(|(of, _)| *of != record);
        kept.push_back((record, outline.clone()));
        let mut bytes: usize = kept.iter().map(|(_, outline)| outline.size_bytes()).sum();
        while bytes > KEPT_BYTES_MAX && kept.len() > 1 {
            bytes -= kept.pop_front().map_or(0, |(_, outline)| outline.size_bytes());
        }
        outline
    }
}

fn pieces(blobs: &dyn Blobs, record: RecordId, bytes: u64) -> Result<Vec<[u8; 32]>, BaoError> {
    let open = || -> io::Result<Box<dyn ReadSeek + Send>> {
        let payload = blobs.open(record.as_bytes()).map_err(io::Error::other)?;
        payload.ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    Ok(values(&open, bytes)?)
}

/// The hash of a file, made on all cores if it is long.
pub(super) fn hash_of_file(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let open = || File::open(path).map(|file| Box::new(file) as Box<dyn ReadSeek + Send>);
    let hash = if bytes > ALONE_BYTES_MAX { hash_of(values(&open, bytes)?) } else { None };
    if let Some(hash) = hash {
        return Ok(hash);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file)?;
    Ok(hasher.finalize().into())
}

/// The chaining values of all MiBs: each core takes the next one that nobody has.
fn values(
    open: &(dyn Fn() -> io::Result<Box<dyn ReadSeek + Send>> + Sync),
    bytes: u64,
) -> io::Result<Vec<[u8; 32]>> {
    let count = bytes.div_ceil(SLICE_BYTES_MAX);
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let work = || -> io::Result<Vec<(u64, [u8; 32])>> {
        let mut file = open()?;
        let (mut piece, mut found) = (Vec::new(), Vec::new());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(found);
            }
            let offset = index * SLICE_BYTES_MAX;
            read_piece(file.as_mut(), offset, bytes, &mut piece)?;
            found.push((index, piece_value(offset, &piece)));
        }
    };
    let found = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let ended = |_| Err(io::Error::other("a hashing thread ended badly"));
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(ended)).collect::<io::Result<Vec<_>>>()
    })?;
    let mut found: Vec<_> = found.into_iter().flatten().collect();
    found.sort_unstable_by_key(|(index, _)| *index);
    Ok(found.into_iter().map(|(_, value)| value).collect())
}

/// The MiB of a payload of `bytes` that starts at `offset`, or what there is of the last one.
pub(super) fn read_piece(
    file: &mut (dyn ReadSeek + Send),
    offset: u64,
    bytes: u64,
    piece: &mut Vec<u8>,
) -> io::Result<()> {
    let length = SLICE_BYTES_MAX.min(bytes.saturating_sub(offset));
    // At most a MiB.
    piece.resize(usize::try_from(length).unwrap_or_default(), 0);
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(piece)
}
