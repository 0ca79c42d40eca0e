//! The DICOM room as stories: files go in, records, previews and refusals come out.

use std::collections::BTreeMap;
use std::io::Read;

use proptest::prelude::*;

use super::scan::{DEPTH_MAX, Pixels};
use super::series::PREVIEW_FRAMES_MAX;
use super::*;
use crate::import::error::ImportError;
use crate::import::facts::{Body, Finding};

mod real;
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the writer is shared with the journeys; here a part of it is used"
)]
#[path = "../../../../tests/src/dicom.rs"]
mod synthetic;

use synthetic::{DataSet, ITEM, ITEM_END, Phantom, SEQUENCE_END, Syntax, UNDEFINED};

/// What two passes over some files came to.
#[derive(Default)]
struct Ran {
    found: Vec<Finding>,
    previews: Vec<Finding>,
    refused: Vec<(String, ImportError)>,
    not_shown: Vec<(String, PixelFault)>,
    headers: BTreeMap<String, Header>,
}

/// As an import does it: two passes, and nothing between them but the survey.
fn run(items: &[(String, Vec<u8>)]) -> Ran {
    let (mut ran, mut survey) = (Ran::default(), Survey::default());
    for (key, (_, bytes)) in (0..).zip(items) {
        if let Ok(header) = read(bytes) {
            survey.add(key, &header).unwrap();
        }
    }
    let arrangement = survey.arrange();
    let mut previews = Previews::new(&arrangement);
    for (key, (name, bytes)) in (0..).zip(items) {
        match read(bytes) {
            Ok(header) => {
                let body = Body::Memory(bytes.clone());
                ran.found.push(finding(&header, body, arrangement.placed(key), name));
                if previews.wants(key) {
                    let fed = previews.feed(key, &header, &mut &bytes[..], name);
                    ran.previews.extend(fed.finding);
                    ran.not_shown.extend(fed.not_shown.into_iter().map(|fault| (name.clone(), fault)));
                }
                ran.headers.insert(name.clone(), header);
            }
            Err(reason) => ran.refused.push((name.clone(), reason)),
        }
    }
    ran.previews.extend(previews.finish());
    ran
}

fn read(bytes: &[u8]) -> Result<Header, ImportError> {
    Header::read(&mut &bytes[..], bytes.len() as u64)
}

fn reason(bytes: &[u8]) -> String {
    read(bytes).expect_err("this file is refused").to_string()
}

fn body(finding: &Finding) -> &[u8] {
    match &finding.bytes {
        Body::Memory(bytes) => bytes,
        _ => panic!("tests hold their files in memory"),
    }
}

fn slices(phantom: Phantom, syntax: Syntax) -> Vec<(String, Vec<u8>)> {
    (0..phantom.slices).map(|index| (format!("{index:03}.dcm"), phantom.slice(index, syntax))).collect()
}

const HEAD: Phantom = Phantom { slices: 40, side: 64, seed: 7 };

#[test]
fn a_series_becomes_records_in_the_order_of_the_body() {
    let mut items = slices(HEAD, Syntax::ExplicitLittle);
    items.reverse();
    let ran = run(&items);
    assert_eq!((ran.found.len(), ran.refused.len(), ran.not_shown.len()), (40, 0, 0));
    for (finding, (name, bytes)) in ran.found.iter().zip(&items) {
        let group = finding.facts.group.clone().unwrap();
        assert_eq!(body(finding), bytes, "byte for byte");
        assert_eq!(format!("{:03}.dcm", group.position.unwrap()), *name, "from the neck upwards");
        assert_eq!(group.study, HEAD.study_uid());
        assert_eq!(group.series, Some(HEAD.series_uid()));
    }
    let facts = &ran.found[39].facts;
    assert_eq!((facts.kind.as_str(), facts.media_type.as_str()), ("dicom/CT", "application/dicom"));
    assert_eq!(facts.title, "CT head: Phantom, image 1 of 40");
    assert_eq!(facts.codes.iter().map(|code| code.code.as_str()).collect::<Vec<_>>(), ["CT", "69536005"]);
    assert_eq!(facts.categories, ["imaging"]);
    let at = facts.effective.unwrap();
    assert_eq!((at.start_ms, at.end_ms, at.offset_min), (1_709_162_130_250, 1_709_162_130_250, 540));
    let said = format!("{:?} {:?}", ran.found[0].facts, ran.previews[0].facts);
    assert!(!said.contains("Mori") && !said.contains("Hana"), "no label says whose it is");
}

#[test]
fn a_preview_is_small_and_the_same_each_time_with_the_middle_first() {
    let items = slices(HEAD, Syntax::ExplicitLittle);
    let mut backwards = items.clone();
    backwards.reverse();
    let (one, two) = (run(&items), run(&backwards));
    let [preview] = &one.previews[..] else { panic!("one series, one preview") };
    assert_eq!(body(preview), body(&two.previews[0]), "in whatever order the files come");
    assert!(body(preview).len() < 300_000);
    assert_eq!(preview.facts.kind, "dicom/preview");
    assert_eq!(preview.facts.title, "Preview of CT head, 40 images");
    assert_eq!(preview.facts.derived_from.len(), PREVIEW_FRAMES_MAX as usize);
    assert_eq!(preview.facts.sensitivity, [""; 0]);

    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(body(preview))).unwrap();
    let names: Vec<_> =
        (0..zip.len()).map(|at| zip.by_index(at).unwrap().name().unwrap().into_owned()).collect();
    assert_eq!(names[..4], ["preview.json", "016.jpg", "015.jpg", "017.jpg"]);
    let first = zip.by_index(1).unwrap();
    let end = first.data_start().unwrap() + first.size();
    assert!(end < 250_000, "at 1 Mbit/s the middle slice is there within 2 s");
    drop(first);
    let brightness: Vec<_> = (0..32).map(|slot| middle(&mut zip, &format!("{slot:03}.jpg"))).collect();
    // JPEG moves a grey by two or three.
    assert!(brightness.windows(4).all(|run| run[0] < run[3]), "the phantom's signal: {brightness:?}");
}

/// The brain of a picture: a pixel in its middle.
fn middle(zip: &mut zip::ZipArchive<std::io::Cursor<&[u8]>>, name: &str) -> u8 {
    let mut jpeg = Vec::new();
    zip.by_name(name).unwrap().read_to_end(&mut jpeg).unwrap();
    let mut decoder = jpeg_decoder::Decoder::new(&jpeg[..]);
    let pixels = decoder.decode().unwrap();
    let info = decoder.info().unwrap();
    assert_eq!((info.width, info.height), (64, 64), "a small slice is not enlarged");
    // A quarter from the left: 5x5 pixels against the noise.
    let brain = (30..35_usize).flat_map(|row| (20..25_usize).map(move |column| row * 64 + column));
    u8::try_from(brain.map(|at| u32::from(pixels[at])).sum::<u32>() / 25).unwrap()
}

#[test]
fn three_ways_of_writing_show_the_same_picture() {
    let preview = |syntax| {
        let ran = run(&slices(Phantom { slices: 3, ..HEAD }, syntax));
        let zip = zip::ZipArchive::new(std::io::Cursor::new(body(&ran.previews[0]).to_vec()));
        let mut jpeg = Vec::new();
        zip.unwrap().by_name("002.jpg").unwrap().read_to_end(&mut jpeg).unwrap();
        jpeg
    };
    let little = preview(Syntax::ExplicitLittle);
    assert_eq!(preview(Syntax::ImplicitLittle), little);
    assert_eq!(preview(Syntax::ExplicitBig), little);
}

#[test]
fn captures_of_a_screen_are_flagged_whatever_they_say() {
    let capture = |class: &str, burned_in: &str| {
        let mut set = DataSet::new(Syntax::ExplicitLittle);
        set.text(0x0008_0016, "UI", class).text(0x0008_0018, "UI", "2.25.1").text(0x0008_0060, "CS", "CT");
        set.text(0x0008_103E, "LO", &"x".repeat(400)).text(0x0028_0301, "CS", burned_in);
        let facts = finding(&read(&set.file()).unwrap(), Body::Memory(Vec::new()), None, "x").facts;
        assert_eq!(facts.title.ends_with("(may have text burned in)"), !facts.sensitivity.is_empty());
        facts.sensitivity
    };
    assert_eq!(capture("1.2.840.10008.5.1.4.1.1.7", "NO"), ["BURNED-IN"]);
    assert_eq!(capture("1.2.840.10008.5.1.4.1.1.7.4", ""), ["BURNED-IN"]);
    assert_eq!(capture("1.2.840.10008.5.1.4.1.1.2", "YES"), ["BURNED-IN"]);
    assert_eq!(capture("1.2.840.10008.5.1.4.1.1.2", "NO"), [""; 0]);
    assert_eq!(capture("1.2.840.10008.5.1.4.1.1.77.1", ""), [""; 0], "another class that only starts alike");
}

#[test]
fn two_versions_of_one_instance_are_kept_and_named() {
    let mut items = slices(Phantom { slices: 3, ..HEAD }, Syntax::ExplicitLittle);
    items.push(("copy".into(), items[1].1.clone()));
    let quiet = run(&items);
    assert!(
        quiet.found.iter().all(|finding| !finding.facts.title.contains("versions")),
        "a copy is no version"
    );
    let last = items[3].1.len() - 1;
    items[3].1[last] ^= 1;
    let ran = run(&items);
    let titles: Vec<_> = ran.found.iter().map(|finding| finding.facts.title.as_str()).collect();
    assert_eq!(titles[0], "CT head: Phantom, image 1 of 3");
    assert_eq!(titles[1], "CT head: Phantom, image 2 of 3 (one of several versions)");
    assert_eq!(titles[3], titles[1]);
}

#[test]
fn a_lying_length_or_a_missing_delimiter_is_named() {
    let set = || {
        let mut set = DataSet::new(Syntax::ExplicitLittle);
        set.text(0x0008_0016, "UI", "1.2.840.10008.5.1.4.1.1.2").text(0x0008_0018, "UI", "2.25.1");
        set
    };
    let lying = reason(&set().head(0x0010_4000, "UT", 0x7FFF_FFFE).file());
    assert!(
        lying.starts_with("expected (0010,4000) at byte ") && lying.contains(" at most 0 bytes"),
        "{lying}"
    );
    assert!(reason(&set().head(0x0010_4000, "UT", UNDEFINED).file()).contains("to state its length"));
    assert!(
        reason(&set().head(0x0040_A730, "SQ", UNDEFINED).file())
            .contains("an element or a delimiter at byte")
    );
    let open = set().head(0x0040_A730, "SQ", UNDEFINED).mark(ITEM, UNDEFINED).mark(SEQUENCE_END, 0).file();
    assert!(
        reason(&open).starts_with("expected an element at byte ")
            && reason(&open).ends_with(", got (FFFE,E0DD)"),
        "{}",
        reason(&open)
    );
    let long = set().head(0x0040_A730, "SQ", 16).mark(ITEM, 9).text(0x0040_A160, "SH", "x").file();
    assert!(
        reason(&long).contains(" to be at most 8 bytes long (all that is left), got 9;"),
        "{}",
        reason(&long)
    );
    let bare = set().text(0x7FE0_0010, "ZZ", "").file();
    assert!(reason(&bare).contains("a value representation of PS3.5 for (7FE0,0010)"));
    let fragments = set().head(0x7FE0_0010, "OB", UNDEFINED).mark(ITEM, 0).mark(ITEM, UNDEFINED).file();
    assert!(reason(&fragments).contains("a fragment of pixel data"));
    assert_eq!(reason(b"PK\x03\x04"), "expected \"DICM\" at byte 128 or a data set at byte 0, got neither");
    let directory =
        DataSet::new(Syntax::ExplicitLittle).text(0x0008_0016, "UI", "1.2.840.10008.1.3.10").file();
    assert!(reason(&directory).contains("DICOMDIR"));
}

#[test]
fn nesting_is_bounded_and_needs_no_stack() {
    let nested = |depth: usize, syntax| {
        let mut set = DataSet::new(syntax);
        (0..depth).for_each(|_| {
            set.head(0x0040_A730, "SQ", UNDEFINED).mark(ITEM, UNDEFINED);
        });
        (0..depth).for_each(|_| {
            set.mark(ITEM_END, 0).mark(SEQUENCE_END, 0);
        });
        set.file()
    };
    for syntax in [Syntax::ExplicitLittle, Syntax::ImplicitLittle, Syntax::ExplicitBig] {
        assert!(read(&nested(DEPTH_MAX, syntax)).is_ok());
        assert_eq!(
            reason(&nested(DEPTH_MAX + 1, syntax)),
            "expected sequences at most 32 deep, got a deeper one"
        );
        assert_eq!(reason(&nested(100_000, syntax)), "expected sequences at most 32 deep, got a deeper one");
    }
}

#[test]
fn without_a_preamble_only_what_is_certain_is_taken() {
    let mut set = DataSet::new(Syntax::ImplicitLittle);
    set.text(0x0008_0016, "UI", "1.2.840.10008.5.1.4.1.1.2").text(0x0008_0018, "UI", "2.25.1");
    for syntax in [Syntax::ImplicitLittle, Syntax::ExplicitLittle, Syntax::ExplicitBig] {
        let set = HEAD.header(1, syntax);
        assert_eq!(looks(&set.bytes), Looks::Bare);
        assert_eq!(read(&set.bytes).unwrap().instance, Some(HEAD.instance_uid(1)));
    }
    let mut nameless = DataSet::new(Syntax::ExplicitLittle);
    nameless.text(0x0008_0005, "CS", "ISO_IR 100");
    assert!(reason(&nameless.bytes).contains("expected a transfer syntax"));
    assert_eq!(looks(b"\x08\x00 is a backspace"), Looks::No);
    assert_eq!(looks(&set.file()), Looks::Signed);
}

#[test]
fn an_enhanced_image_says_in_its_groups_what_others_say_at_the_top() {
    for syntax in [Syntax::ExplicitLittle, Syntax::ImplicitLittle] {
        let mut measures = DataSet::new(syntax);
        measures.text(0x0028_0030, "DS", "0.25\\0.5");
        let mut group = DataSet::new(syntax);
        group.head(0x0028_9110, "SQ", 8 + length(&measures)).mark(ITEM, length(&measures));
        group.bytes.extend_from_slice(&measures.bytes);
        let mut set = DataSet::new(syntax);
        set.text(0x0008_0016, "UI", "1.2.840.10008.5.1.4.1.1.4.1").text(0x0008_0018, "UI", "2.25.1");
        set.text(0x0028_0008, "IS", "2")
            .head(0x5200_9229, "SQ", 8 + length(&group))
            .mark(ITEM, length(&group));
        set.bytes.extend_from_slice(&group.bytes);
        assert_eq!(read(&set.file()).unwrap().pixel_spacing, Some([0.25, 0.5]), "{syntax:?}");
    }
}

fn length(set: &DataSet) -> u32 {
    u32::try_from(set.bytes.len()).unwrap()
}

#[test]
fn frames_of_one_file_are_spread_over_its_preview() {
    let mut set = Phantom { side: 8, ..HEAD }.header(0, Syntax::ExplicitLittle);
    // The writer puts elements where it is told; number of frames comes late, which no reader minds.
    set.text(0x0028_0008, "IS", "100");
    let frames = (0..100_u8).flat_map(|frame| [frame, 4].repeat(64)).collect::<Vec<_>>();
    set.put(0x7FE0_0010, "OW", &frames);
    let ran = run(&[("many".into(), set.file())]);
    assert_eq!((ran.previews.len(), ran.not_shown.len()), (1, 0));
    assert_eq!(ran.previews[0].facts.title, "Preview of CT head, 100 images");
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(body(&ran.previews[0]))).unwrap();
    let head: serde_json::Value = serde_json::from_reader(zip.by_name("preview.json").unwrap()).unwrap();
    let mut shown: Vec<_> =
        head["pictures"].as_array().unwrap().iter().map(|it| it["frame"].as_u64().unwrap()).collect();
    shown.sort_unstable();
    assert_eq!((shown.len(), shown[0], shown[31]), (32, 0, 99));
    assert!(shown.windows(2).all(|pair| (3..=4).contains(&(pair[1] - pair[0]))), "evenly: {shown:?}");
}

#[test]
fn half_a_gigabyte_of_pixels_is_passed_over() {
    let mut set = HEAD.header(0, Syntax::ExplicitLittle);
    set.head(0x7FE0_0010, "OW", 500_000_000);
    let front = set.file();
    let length = front.len() as u64 + 500_000_000;
    let mut reader = front.chain(std::io::repeat(7).take(500_000_000));
    let header = Header::read(&mut reader, length).unwrap();
    assert!(matches!(header.pixels, Pixels::Native(span) if span.length == 500_000_000));
    let short = Header::read(&mut front.chain(std::io::repeat(7).take(1_000)), length).unwrap_err();
    assert!(short.to_string().contains("the file is cut short"), "{short}");
}

#[test]
fn a_deflated_data_set_is_read_and_a_bomb_is_not() {
    let deflated = |bytes: &[u8]| {
        let mut coder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut coder, bytes).unwrap();
        synthetic::file("1.2.840.10008.1.2.1.99", &coder.finish().unwrap())
    };
    let mut set = HEAD.header(3, Syntax::ExplicitLittle);
    set.put(0x7FE0_0010, "OW", &[1; 64 * 64 * 2]);
    let ran = run(&[("deflated".into(), deflated(&set.bytes))]);
    assert_eq!((ran.previews.len(), ran.not_shown), (1, Vec::new()));
    let mut bomb = HEAD.header(3, Syntax::ExplicitLittle);
    bomb.put(0x7FE0_0010, "OW", &vec![0; 80_000_000]);
    assert!(reason(&deflated(&bomb.bytes)).contains("(7FE0,0010)"), "{}", reason(&deflated(&bomb.bytes)));
    let mut broken = deflated(&set.bytes);
    let last = broken.len() - 1;
    broken.truncate(last);
    assert!(read(&broken).is_err());
}

#[test]
fn a_frame_is_decoded_only_if_both_headers_agree() {
    let coded = |syntax: &str, data: &[u8], side: u16| {
        let mut set = Phantom { side, ..HEAD }.header(0, Syntax::ExplicitLittle);
        set.head(0x7FE0_0010, "OB", UNDEFINED).mark(ITEM, 0);
        set.mark(ITEM, u32::try_from(data.len()).unwrap());
        set.bytes.extend_from_slice(data);
        set.mark(SEQUENCE_END, 0);
        let ran = run(&[("coded".into(), synthetic::file(syntax, &set.bytes))]);
        assert_eq!(ran.found.len(), 1, "it is kept all the same");
        ran.not_shown.first().map(|(_, fault)| fault.to_string()).unwrap_or_default()
    };
    let mut siz = [&[0xFF, 0x4F, 0xFF, 0x51, 0, 41, 0, 0][..], &60_000_u32.to_be_bytes()].concat();
    siz.extend(60_000_u32.to_be_bytes());
    siz.resize(40, 0);
    siz.extend([0, 1, 15, 1, 1]);
    assert!(coded("1.2.840.10008.1.2.4.90", &siz, 64).contains("got (60000, 60000, 1, 16)"));
    assert!(coded("1.2.840.10008.1.2.4.90", &siz, 60_000).contains("expected a frame of at most"));
    assert!(coded("1.2.840.10008.1.2.4.50", b"not a jpeg", 64).contains("not decodable here"));
    assert!(coded("1.2.840.10008.1.2.5", &[2; 64], 64).contains("number of RLE segments"));
    assert_eq!(coded("1.2.840.10008.1.2.4.80", b"", 64), "", "JPEG-LS is not even picked");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever bytes of a file change, the scan ends with a header or a reason, and a header's spans lie in the file.
    #[test]
    fn a_mutated_file_is_read_or_refused(
        syntax in prop::sample::select(vec![Syntax::ExplicitLittle, Syntax::ImplicitLittle, Syntax::ExplicitBig]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        coded in any::<bool>(),
    ) {
        let mut bytes = specimen(syntax, coded);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(header) = read(&bytes) {
            let spans = match &header.pixels {
                Pixels::None => Vec::new(),
                Pixels::Native(span) => vec![*span],
                Pixels::Fragments { spans, .. } => spans.clone(),
            };
            prop_assert!(spans.iter().all(|span| span.at + span.length <= bytes.len() as u64));
            prop_assert_eq!(header.blake3, *blake3::hash(&bytes).as_bytes());
            run(&[("mutated".into(), bytes)]);
        }
    }

    /// Reading takes no more than a few passes over the bytes there are, however a file is built.
    #[test]
    fn the_scan_asks_for_each_byte_once(noise in prop::collection::vec(any::<u8>(), 0..4_000)) {
        let file = synthetic::file("1.2.840.10008.1.2.1", &noise);
        let mut reader = Counted { inner: &file, asked: 0 };
        let _outcome = Header::read(&mut reader, file.len() as u64);
        prop_assert!(reader.asked <= file.len());
    }
}

struct Counted<'a> {
    inner: &'a [u8],
    asked: usize,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.asked += count;
        Ok(count)
    }
}

/// A file with all that a structure can have, in a few hundred bytes.
fn specimen(syntax: Syntax, coded: bool) -> Vec<u8> {
    let mut set = Phantom { slices: 2, side: 4, seed: 3 }.header(1, syntax);
    if coded && syntax == Syntax::ExplicitLittle {
        set.head(0x7FE0_0010, "OB", UNDEFINED).mark(ITEM, 0).mark(ITEM, 4);
        set.bytes.extend([0xFF, 0xD8, 0xFF, 0xD9]);
        set.mark(SEQUENCE_END, 0);
        return synthetic::file("1.2.840.10008.1.2.4.70", &set.bytes);
    }
    set.head(0x0040_A730, "SQ", UNDEFINED).mark(ITEM, UNDEFINED).text(0x0040_A160, "UT", "deep");
    set.head(0x0040_A730, "SQ", 0).mark(ITEM_END, 0).mark(SEQUENCE_END, 0);
    set.put(0x7FE0_0010, "OW", &[5; 32]);
    set.file()
}
