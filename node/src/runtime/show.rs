//! open → show: the plaintext of one record, and only after all of it was checked against its label.

use super::Out;
use super::opened::{Putting, held, payload};
use crate::engine::Opening;
use crate::failure::Failure;
use crate::store::Blobs;
use karte_protocol::seal;
use std::io::{self, Read};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Plaintext that is held in memory between check and output, in bytes. 8 MiB; a larger record is opened twice
/// instead, once to check and once to show.
const HELD_BYTES_MAX: u64 = 8 << 20;

pub(super) async fn show(
    blobs: Arc<dyn Blobs>,
    opening: Opening,
    out: mpsc::Sender<Out>,
) -> Result<(), Failure> {
    let work = tokio::task::spawn_blocking(move || show_blocking(blobs.as_ref(), &opening, &out));
    work.await.map_err(|_| Failure::failed("opening ended badly"))?
}

fn show_blocking(blobs: &dyn Blobs, opening: &Opening, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
    let expected = (opening.label.bytes, opening.label.hash);
    let as_age = !opening.recipients.is_empty();
    if !as_age && opening.label.bytes <= HELD_BYTES_MAX {
        return Putting(out).put(held(blobs, opening)?);
    }
    seal::open_checked(payload(blobs, opening)?, &opening.file_key, expected, io::sink())?;
    if as_age {
        let header = seal::header(&opening.file_key, &opening.recipients)?;
        return put_out(&mut header.as_slice().chain(payload(blobs, opening)?), out);
    }
    let mut to = Putting(out);
    Ok(seal::open_checked(payload(blobs, opening)?, &opening.file_key, expected, &mut to)?)
}

fn put_out(from: &mut dyn Read, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
    io::copy(from, &mut Putting(out))
        .map_err(|error| Failure::failed(format!("the record cannot be shown: {error}")))?;
    Ok(())
}
