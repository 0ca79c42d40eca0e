//! DICOM items within an import: the pass before, which learns where each image lies in its series, and what comes of
//! each image when its turn comes.
//!
//! For: opening an item again and again, on disk or held. Not for: reading DICOM; that is `dicom`.

use std::fs::File;
use std::io::{Cursor, Read};
use std::ops::ControlFlow;

use super::dicom::{self, Arrangement, Header, Looks, Previews, Survey};
use super::error::ImportError;
use super::item::Item;
use super::meter::Counter;
use super::sink::Sink;
use super::walk::{Step, Walk};
use super::{Format, Options};

/// Learns the order of every series among the items. Nothing else is read than what looks like DICOM.
pub(super) fn arrange(walk: &Walk, options: &Options) -> Arrangement {
    let (mut survey, mut key) = (Survey::default(), 0);
    if options.format == Format::Auto {
        // Its own counter: progress belongs to the pass that imports.
        let _ = walk.each(&Counter::default(), &mut |step| {
            if let Step::Item(mut item) = step {
                // What cannot be read now is refused by name when its turn comes; so is one instance too many.
                if let Ok(Some(header)) = header_of(&mut item, options) {
                    let _ = survey.add(key, &header);
                }
                key += 1;
            }
            ControlFlow::Continue(())
        });
    }
    survey.arrange()
}

/// The header of an item that is DICOM. An error is for one that says it is and cannot be read.
pub(super) fn header_of(item: &mut Item<'_>, options: &Options) -> Result<Option<Box<Header>>, ImportError> {
    let looks = dicom::looks(item.head());
    if looks == Looks::No {
        return Ok(None);
    }
    let length = match item.path() {
        Some(_) => item.length.unwrap_or_default(),
        None => item.hold(options.limits.entry_bytes_max)?.len() as u64,
    };
    match (again(item, options).and_then(|mut reader| Header::read(&mut *reader, length)), looks) {
        (Ok(header), _) => Ok(Some(Box::new(header))),
        (Err(reason), Looks::Signed) => Err(reason),
        (Err(_), _) => Ok(None),
    }
}

/// The images of an import while they go by.
pub(super) struct Images<'a> {
    arrangement: &'a Arrangement,
    previews: Previews<'a>,
    /// The item at hand, by the number that both passes give it.
    pub(super) key: u64,
}

impl<'a> Images<'a> {
    pub(super) fn new(arrangement: &'a Arrangement) -> Self {
        Self { arrangement, previews: Previews::new(arrangement), key: 0 }
    }

    /// An image as a record, and the preview of its series if it was the last one needed for it.
    pub(super) fn found(
        &mut self,
        header: &Header,
        mut item: Item<'_>,
        options: &Options,
        sink: &mut Sink<'_>,
    ) -> ControlFlow<()> {
        let origin = item.origin.clone();
        let mut preview = None;
        if self.previews.wants(self.key) {
            // A picture that cannot be shown is kept all the same.
            if let Ok(mut reader) = again(&mut item, options) {
                let fed = self.previews.feed(self.key, header, &mut *reader, &origin);
                for fault in &fed.not_shown {
                    tracing::info!(%origin, %fault, "a picture is not in the preview of its series");
                }
                preview = fed.finding;
            }
        }
        match item.body(options.limits.entry_bytes_max) {
            Ok(body) => {
                sink.found(dicom::finding(header, body, self.arrangement.placed(self.key), &origin))?
            }
            Err(reason) => sink.refused(&origin, reason)?,
        }
        preview.map_or(ControlFlow::Continue(()), |preview| sink.found(preview))
    }

    /// Previews of series of which some pictures could not be read.
    pub(super) fn finish(self, sink: &mut Sink<'_>) -> ControlFlow<()> {
        self.previews.finish().into_iter().try_for_each(|preview| sink.found(preview))
    }
}

/// The item from its first byte, without using it up.
fn again<'r>(item: &'r mut Item<'_>, options: &Options) -> Result<Box<dyn Read + 'r>, ImportError> {
    match item.path() {
        Some(path) => Ok(Box::new(File::open(path)?)),
        None => Ok(Box::new(Cursor::new(item.hold(options.limits.entry_bytes_max)?))),
    }
}
