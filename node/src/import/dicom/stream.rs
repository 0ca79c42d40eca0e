//! The bytes of a file as the scan sees them: once through, counted, hashed, and inflated where they are deflated.
//!
//! For: reading and skipping within bounds, holding one buffer. Not for: what the bytes mean.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::DeflateDecoder;

use super::fault::DicomFault;
use crate::import::error::ImportError;

/// The buffer, in bytes. 64 KiB: few reads a slice, nothing beside the bounds.
const BUFFER_BYTES: usize = 64 * 1024;

/// How far any data set may inflate, in bytes. 64 MiB: a blank image deflates 1000 to 1, and that much is skipped
/// through in a tenth of a second.
const INFLATED_FREE_BYTES: u64 = 64 * 1024 * 1024;

/// How far a larger one may inflate, in times its length. 100: clinical images reach 10.
const INFLATED_RATIO_MAX: u64 = 100;

/// And at most, in bytes. 2 GiB: four times the largest multi-frame images met, and deflated ones are small.
const INFLATED_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// A reader that hashes what goes through it.
pub(super) struct Hashed<'r> {
    inner: &'r mut dyn Read,
    hasher: blake3::Hasher,
    count: u64,
}

impl<'r> Hashed<'r> {
    pub(super) fn new(inner: &'r mut dyn Read) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), count: 0 }
    }

    /// Read to the end; the hash and the number of all bytes.
    fn finish(mut self) -> io::Result<([u8; 32], u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((*self.hasher.finalize().as_bytes(), self.count))
    }
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.count += count as u64;
        Ok(count)
    }
}

/// What was read ahead, and then the rest of a file.
type Rest<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

enum Input<R: Read> {
    Plain(Rest<R>),
    Inflated(DeflateDecoder<Rest<R>>),
}

/// A data set's bytes, at an offset, with a known end.
pub(super) struct Stream<R: Read> {
    input: Input<R>,
    /// Bytes before this point: of the file, or of the inflated data set.
    at: u64,
    /// No byte stands here or after.
    end: u64,
}

impl<R: Read> Stream<R> {
    /// The rest of a file of `length` bytes, of which `ahead` was read from byte `at` on.
    pub(super) fn plain(ahead: Vec<u8>, inner: R, at: u64, length: u64) -> Self {
        let rest = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(ahead).chain(inner));
        Self { input: Input::Plain(rest), at, end: length }
    }

    /// The same where the rest is deflated: offsets count inflated bytes, from 0.
    pub(super) fn inflated(ahead: Vec<u8>, inner: R, at: u64, length: u64) -> Self {
        Self::plain(ahead, inner, at, length).inflate_rest(length)
    }

    /// A plain stream, from where it stands on, as a deflated one.
    pub(super) fn inflate_rest(self, length: u64) -> Self {
        let end = inflated_end(length.saturating_sub(self.at));
        match self.input {
            Input::Plain(rest) => Self { input: Input::Inflated(DeflateDecoder::new(rest)), at: 0, end },
            Input::Inflated(_) => self,
        }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// No element reaches beyond this offset.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Fill `buffer` as far as there are bytes; how far.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ImportError> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.read_some(rest) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) => return Err(self.fault(&error)),
            }
        }
        self.advance(done as u64)?;
        Ok(done)
    }

    /// Exactly `N` bytes.
    pub(super) fn take<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], ImportError> {
        let mut bytes = [0; N];
        let done = self.fill(&mut bytes)?;
        if done == N { Ok(bytes) } else { Err(DicomFault::Ends { offset: self.at, expected }.into()) }
    }

    /// The next `count` bytes in memory; the caller has bounded `count`.
    pub(super) fn value(&mut self, count: usize) -> Result<Vec<u8>, ImportError> {
        let mut bytes = vec![0; count];
        let done = self.fill(&mut bytes)?;
        if done == count { Ok(bytes) } else { Err(self.ends()) }
    }

    /// Pass over `count` bytes.
    pub(super) fn skip(&mut self, count: u64) -> Result<(), ImportError> {
        let mut left = count;
        while left > 0 {
            let done = self.pass(left)?;
            if done == 0 {
                return Err(self.ends());
            }
            self.advance(done)?;
            left -= done;
        }
        Ok(())
    }

    /// Whether nothing but zero bytes follow, to the end.
    pub(super) fn only_zeros_follow(&mut self) -> Result<bool, ImportError> {
        let mut buffer = [0; 4096];
        loop {
            let done = self.fill(&mut buffer)?;
            if buffer.iter().take(done).any(|byte| *byte != 0) {
                return Ok(false);
            }
            if done < buffer.len() {
                return Ok(true);
            }
        }
    }

    fn ends(&self) -> ImportError {
        DicomFault::Ends { offset: self.at, expected: "the rest of a value" }.into()
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.input {
            Input::Plain(rest) => rest.read(buffer),
            Input::Inflated(inflate) => inflate.read(buffer),
        }
    }

    /// Skip what is buffered, or up to a buffer of inflated bytes.
    fn pass(&mut self, most: u64) -> Result<u64, ImportError> {
        let passed = match &mut self.input {
            Input::Plain(rest) => rest.fill_buf().map(|buffered| buffered.len()).map(|buffered| {
                let count = usize::try_from(most).unwrap_or(usize::MAX).min(buffered);
                rest.consume(count);
                count
            }),
            Input::Inflated(inflate) => {
                let mut buffer = [0; 16 * 1024];
                let count = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
                buffer.get_mut(..count).map_or(Ok(0), |part| inflate.read(part))
            }
        };
        passed.map(|count| count as u64).map_err(|error| self.fault(&error))
    }

    fn advance(&mut self, count: u64) -> Result<(), ImportError> {
        self.at = self.at.saturating_add(count);
        match self.input {
            Input::Inflated(_) if self.at > self.end => {
                Err(DicomFault::InflatesTooFar { max: self.end }.into())
            }
            _ => Ok(()),
        }
    }

    fn fault(&self, error: &io::Error) -> ImportError {
        match self.input {
            Input::Plain(_) => ImportError::Unreadable { got: error.to_string() },
            Input::Inflated(_) => DicomFault::Inflate { fault: error.to_string() }.into(),
        }
    }

    fn into_inner(self) -> R {
        let rest = match self.input {
            Input::Plain(rest) => rest,
            Input::Inflated(inflate) => inflate.into_inner(),
        };
        rest.into_inner().into_inner().1
    }
}

/// Where a data set of `deflated` bytes ends at the latest.
fn inflated_end(deflated: u64) -> u64 {
    deflated.saturating_mul(INFLATED_RATIO_MAX).clamp(INFLATED_FREE_BYTES, INFLATED_BYTES_MAX)
}

impl Stream<Hashed<'_>> {
    /// Read whatever is left; the hash and the number of all bytes of the file.
    pub(super) fn finish(self) -> Result<([u8; 32], u64), ImportError> {
        Ok(self.into_inner().finish()?)
    }
}
