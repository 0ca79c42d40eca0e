//! Apple Health exports: one record for each metric, source and local day.
//!
//! Participants: `export.xml`, on its own or in `export.zip`. Goals: a record's payload holds the exact bytes of its
//! elements, in order, inside a small `<HealthData>` of ours, so the original stays the truth; memory is bounded for
//! an export of any size; the same file gives the same records. Non-goals: values (see [`observations`]), charts,
//! and `export_cda.xml`, which says the same again and is kept as a document.
//!
//! A day is the local day that an element's start is written in. A metric is one HealthKit type, but for a blood
//! pressure and a day's food, whose several types are one whole.

mod element;
mod groups;
mod metrics;
mod observations;
#[cfg(test)]
mod tests;
mod units;

use std::io::BufRead;
use std::ops::ControlFlow;

use self::groups::{Groups, Room, Taken};
pub use self::observations::observations;
use super::error::ImportError;
use super::sink::Sink;
use super::sniff::root_name;
use super::xml::Children;

/// What these records travel as.
pub(super) const MEDIA_TYPE: &str = "application/xml; format=apple-health";

/// The root of an export.
const ROOT: &str = "HealthData";

/// How often progress is told, in elements: 4,096, about 1 MiB.
const PROGRESS_ELEMENTS: u64 = 4096;

/// Whether a file that starts with `head` is an export. Its name is translated on the phone, so it is not asked.
pub(super) fn claims(head: &[u8]) -> bool {
    root_name(head) == Some(ROOT)
}

/// Read a whole export. What stands before a fault of syntax is read; what is wrong with one element costs that one.
pub(super) fn read(reader: impl BufRead, origin: &str, sink: &mut Sink<'_>) -> ControlFlow<()> {
    read_within(Room::default(), reader, origin, sink)
}

fn read_within(room: Room, reader: impl BufRead, origin: &str, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let mut children = match Children::open(reader, ROOT) {
        Ok(children) => children,
        Err(reason) => return sink.refused(origin, reason),
    };
    let locale = children.root.iter().find(|(name, _)| name == "locale").map(|(_, value)| value.clone());
    let mut groups = Groups::new(origin, locale.as_deref(), room);
    let mut said = element::Said::default();
    for number in 1_u64.. {
        said.clear();
        match children.next(&mut |part| said.hear(&part)) {
            Ok(Some(child)) => {
                let taken = match child.fault {
                    None => groups.take(&said, child.raw, number),
                    Some(reason) => Err(reason),
                };
                match taken {
                    Ok(Taken::Kept) => {}
                    Ok(Taken::Skipped) => sink.totals.elements_skipped += 1,
                    Err(reason @ ImportError::TooManyDays { .. }) => {
                        groups.finish(sink)?;
                        return sink.refused(origin, reason);
                    }
                    Err(reason) => sink.refused(&format!("{origin} element {number}"), reason)?,
                }
                groups.make_room(sink)?;
            }
            Ok(None) => return groups.finish(sink),
            Err(reason) => {
                groups.finish(sink)?;
                return sink.refused(origin, reason);
            }
        }
        if number % PROGRESS_ELEMENTS == 0 {
            sink.advanced()?;
        }
    }
    ControlFlow::Continue(())
}
