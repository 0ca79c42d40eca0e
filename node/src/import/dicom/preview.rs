//! Previews: a small picture book of a series that arrives before the series does.
//!
//! For: at most 32 shrunk slices in grey, as one record derived from the instances. Not for: diagnosis; a preview
//! says so. Not for: keeping frames: one is decoded at a time, shrunk, coded, and forgotten.
//!
//! The format is a ZIP file without compression: `preview.json`, then JPEGs named by their order in the body
//! (`015.jpg`), stored from the middle slice outwards. Every desktop opens it and shows the slices in order; a browser
//! reads local headers as bytes arrive, each with its length in front, and shows the middle slice before the rest
//! is there. A contact sheet would show all or nothing, a FHIR Bundle a third more bytes in base64; a multipart
//! message streams as well, but no desktop opens it.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};

use serde_json::json;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::fault::PixelFault;
use super::finding;
use super::header::{Header, Window};
use super::picture;
use super::pixels::Frames;
use super::series::{Arrangement, Key, Pick, Plan};
use crate::import::facts::{Body, Effective, Facts, Finding, Group, TITLE_BYTES_MAX, clean};

/// Most bytes of pictures held for series that are not complete. 32 MiB: 250 series at once.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Makes previews while the second pass goes by.
#[derive(Debug)]
pub(crate) struct Previews<'a> {
    arrangement: &'a Arrangement,
    open: BTreeMap<u32, Open>,
    /// Bytes of pictures in `open`.
    held: usize,
}

/// A preview of which some pictures are there.
#[derive(Debug)]
struct Open {
    /// Pictures still to come.
    waits_for: u32,
    pictures: BTreeMap<u32, Picture>,
    facts: Facts,
    group: Option<Group>,
    subject: String,
    window: Option<Window>,
    origin: String,
}

#[derive(Debug)]
struct Picture {
    jpeg: Vec<u8>,
    width: u16,
    height: u16,
    instance: Option<String>,
    frame: u32,
    position: Option<u32>,
    blake3: [u8; 32],
}

/// What came of an item.
#[derive(Debug, Default)]
pub(crate) struct Fed {
    /// The preview that this item completed.
    pub(crate) finding: Option<Finding>,
    /// Why frames of it are not shown. The instance is kept all the same.
    pub(crate) not_shown: Vec<PixelFault>,
}

impl<'a> Previews<'a> {
    pub(crate) fn new(arrangement: &'a Arrangement) -> Self {
        Self { arrangement, open: BTreeMap::new(), held: 0 }
    }

    /// Whether [`Self::feed`] needs the bytes of an item.
    pub(crate) fn wants(&self, key: Key) -> bool {
        !self.arrangement.picks(key).is_empty()
    }

    /// Show the frames picked from an item; `reader` stands at its first byte, and is read as far as needed.
    pub(crate) fn feed(&mut self, key: Key, header: &Header, reader: &mut dyn Read, origin: &str) -> Fed {
        let arrangement = self.arrangement;
        let picks = arrangement.picks(key);
        let Some((pick, plan)) = picks.first().and_then(|pick| Some((pick, arrangement.plan(pick.series)?)))
        else {
            return Fed::default();
        };
        let waits_for = arrangement.picks_of(pick.series);
        let open = self.open.entry(pick.series).or_insert_with(|| Open::new(header, plan, waits_for, origin));
        open.note(header);
        let position = arrangement.placed(key).map(|placed| placed.position);
        let mut not_shown = Vec::new();
        let mut frames = Frames::new(header, reader);
        for pick in picks {
            let taken = match &mut frames {
                Ok(frames) => picture(header, frames, *pick, open.window, position),
                Err(fault) => Err(fault.clone()),
            };
            open.waits_for = open.waits_for.saturating_sub(1);
            match taken {
                Ok(picture) if self.held + picture.jpeg.len() <= HELD_BYTES_MAX => {
                    self.held += picture.jpeg.len();
                    open.pictures.insert(pick.slot, picture);
                }
                Ok(_) => not_shown.push(PixelFault::TooManySeries { max: HELD_BYTES_MAX }),
                Err(fault) => not_shown.push(fault),
            }
        }
        let finding = if open.waits_for == 0 { self.close(pick.series) } else { None };
        Fed { finding, not_shown }
    }

    /// The previews that wait for items that did not come (any more): what there is of them.
    pub(crate) fn finish(mut self) -> Vec<Finding> {
        let open: Vec<u32> = self.open.keys().copied().collect();
        open.into_iter().filter_map(|series| self.close(series)).collect()
    }

    fn close(&mut self, series: u32) -> Option<Finding> {
        let plan = self.arrangement.plan(series)?;
        let open = self.open.remove(&series)?;
        self.held -= open.pictures.values().map(|picture| picture.jpeg.len()).sum::<usize>();
        open.finding(plan)
    }
}

fn picture(
    header: &Header,
    frames: &mut Frames<'_>,
    pick: Pick,
    window: Option<Window>,
    position: Option<u32>,
) -> Result<Picture, PixelFault> {
    let small = picture::shrink(header, &frames.frame(pick.frame)?);
    let (instance, blake3) = (header.instance.clone(), header.blake3);
    let (width, height) = (small.width, small.height);
    Ok(Picture {
        jpeg: small.jpeg(header, window)?,
        width,
        height,
        instance,
        frame: pick.frame,
        position,
        blake3,
    })
}

impl Open {
    fn new(header: &Header, plan: &Plan, waits_for: u32, origin: &str) -> Self {
        let group = header.study.clone().map(|study| Group {
            study,
            series: header.series.clone(),
            ..Group::default()
        });
        let mut facts = finding::common(header);
        facts.effective = None;
        if !plan.shows_text {
            facts.sensitivity.clear();
        }
        Self {
            waits_for,
            pictures: BTreeMap::new(),
            facts,
            group,
            subject: finding::subject(header),
            window: picture::window(header, plan.window),
            origin: origin.to_owned(),
        }
    }

    /// The preview's time covers the instances that it shows.
    fn note(&mut self, header: &Header) {
        let Some(new) = header.effective else {
            return;
        };
        self.facts.effective = Some(match self.facts.effective {
            None => new,
            Some(old) => Effective {
                start_ms: old.start_ms.min(new.start_ms),
                end_ms: old.end_ms.max(new.end_ms),
                offset_min: old.offset_min.min(new.offset_min),
            },
        });
    }

    fn finding(self, plan: &Plan) -> Option<Finding> {
        let bytes = self.book(plan)?;
        let mut derived_from: Vec<[u8; 32]> = self.pictures.values().map(|picture| picture.blake3).collect();
        derived_from.sort_unstable();
        derived_from.dedup();
        let images = if plan.frames == 1 { "1 image".to_owned() } else { format!("{} images", plan.frames) };
        let end = format!(", {images}{}", if plan.shows_text { finding::MAY_SHOW_TEXT } else { "" });
        let start = clean(&format!("Preview of {}", self.subject), TITLE_BYTES_MAX.saturating_sub(end.len()));
        let series = self.group.as_ref().and_then(|group| group.series.clone());
        let facts = Facts {
            kind: "dicom/preview".to_owned(),
            media_type: "application/zip".to_owned(),
            title: start + &end,
            source_id: series.map(|series| format!("preview/{series}")),
            // A series of which more slices came has a fuller preview.
            replaces_same_source: true,
            group: self.group,
            derived_from,
            ..self.facts
        };
        Some(Finding { bytes: Body::Memory(bytes), facts, origin: format!("{} and its series", self.origin) })
    }

    /// The ZIP file; `None` without any picture. The same pictures give the same bytes.
    fn book(&self, plan: &Plan) -> Option<Vec<u8>> {
        let middle = i64::from(plan.slots / 2);
        let mut order: Vec<(u32, &Picture)> = self.pictures.iter().map(|(slot, it)| (*slot, it)).collect();
        order.sort_by_key(|(slot, _)| ((i64::from(*slot) - middle).abs(), *slot));
        if order.is_empty() {
            return None;
        }
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default());
        let mut write = |name: &str, bytes: &[u8]| {
            zip.start_file(name, options).ok()?;
            zip.write_all(bytes).ok()
        };
        write("preview.json", self.head(plan, &order).to_string().as_bytes())?;
        for (slot, picture) in order {
            write(&file(slot), &picture.jpeg)?;
        }
        Some(zip.finish().ok()?.into_inner())
    }

    fn head(&self, plan: &Plan, order: &[(u32, &Picture)]) -> serde_json::Value {
        let pictures: Vec<_> = order
            .iter()
            .map(|(slot, it)| {
                json!({
                    "file": file(*slot), "width": it.width, "height": it.height,
                    "instance": it.instance, "frame": it.frame, "position": it.position,
                })
            })
            .collect();
        let group = self.group.as_ref();
        json!({
            "format": "karte-preview/1",
            "note": "shrunk pictures for orientation, not for diagnosis",
            "of": self.subject,
            "study": group.map(|group| &group.study),
            "series": group.and_then(|group| group.series.as_ref()),
            "instances": plan.instances,
            "frames": plan.frames,
            "window": self.window.map(|window| json!({ "center": window.center, "width": window.width })),
            "pictures": pictures,
        })
    }
}

fn file(slot: u32) -> String {
    format!("{slot:03}.jpg")
}
