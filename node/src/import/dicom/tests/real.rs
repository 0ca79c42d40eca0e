//! Real DICOM files, where the shared data are at hand, and pydicom as the judge, where there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::fault::PixelFault;
use super::super::pixels::{Frames, Samples};
use super::super::{scan, text};
use super::{Ran, body, read, run};

/// Tells something to whoever runs the tests.
fn say(line: &str) {
    println!("{line}");
}

/// A folder of the shared data; `KARTE_DATA`, or beside the workspace.
fn data(folder: &str) -> Option<PathBuf> {
    let named = std::env::var_os("KARTE_DATA").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let found = named.unwrap_or(beside).join(folder);
    if found.is_dir() {
        return Some(found);
    }
    say(&format!("skipped 1: no shared data at {}", found.display()));
    None
}

/// Every file below a folder with its path in it, sorted.
fn items(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut items = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                items.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    items.sort();
    items
}

/// What pydicom says, or `None` (told) where there is no Python with it.
fn pydicom(script: &str, folder: &Path) -> Option<Value> {
    let Some(python) = std::env::var_os("KARTE_PYTHON") else {
        say("skipped 1: KARTE_PYTHON names no python with pydicom");
        return None;
    };
    let has = Command::new(&python).args(["-c", "import pydicom"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        say("skipped 1: the python of KARTE_PYTHON has no pydicom");
        return None;
    }
    let output = Command::new(python).args(["-c", script]).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Header facts of every image, and the order of every series by an own cross product.
const FACTS: &str = r#"
import json, os, sys, warnings
import pydicom
warnings.simplefilter("ignore")
files, series = {}, {}
for at, _, names in os.walk(sys.argv[1]):
    for name in names:
        path = os.path.join(at, name)
        d = pydicom.dcmread(path, force=True)
        if str(d.file_meta.get("MediaStorageSOPClassUID", "")) == "1.2.840.10008.1.3.10":
            continue
        path = os.path.relpath(path, sys.argv[1])
        numbers = lambda tag: [float(x) for x in d[tag].value] if tag in d and d[tag].value else None
        files[path] = {
            "instance": str(d.SOPInstanceUID), "study": str(d.StudyInstanceUID), "series": str(d.SeriesInstanceUID),
            "class": str(d.SOPClassUID), "modality": str(d.Modality), "syntax": str(d.file_meta.TransferSyntaxUID),
            "rows": d.get("Rows"), "columns": d.get("Columns"), "frames": int(d.get("NumberOfFrames") or 1),
            "spacing": numbers("PixelSpacing"), "position": numbers("ImagePositionPatient"),
        }
        o, p = numbers("ImageOrientationPatient"), numbers("ImagePositionPatient")
        if o and p and "LOCALIZER" not in d.get("ImageType", []):
            n = (o[1]*o[5]-o[2]*o[4], o[2]*o[3]-o[0]*o[5], o[0]*o[4]-o[1]*o[3])
            along = round(sum(a*b for a, b in zip(n, p)), 3)
            key = str(d.SeriesInstanceUID)
            series.setdefault(key, []).append((along, int(d.InstanceNumber), str(d.SOPInstanceUID), [round(x, 2) for x in o]))
orders = {}
for key, found in series.items():
    if all(f[3] == found[0][3] for f in found):
        orders[key] = [f[2] for f in sorted(found, key=lambda f: f[:3])]
json.dump({"files": files, "orders": orders}, sys.stdout)
"#;

/// Our facts are pydicom's facts, and our order its order. How many files and series were compared.
fn agree(ran: &Ran, said: &Value) -> (usize, usize) {
    let files = said["files"].as_object().unwrap();
    assert_eq!(
        ran.headers.keys().collect::<Vec<_>>(),
        files.keys().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    );
    for (name, header) in &ran.headers {
        let told = &files[name];
        let text = |key: &str| told[key].as_str().map(str::to_owned);
        assert_eq!(header.instance, text("instance"), "{name}");
        assert_eq!(header.study, text("study"), "{name}");
        assert_eq!(header.series, text("series"), "{name}");
        assert_eq!(header.sop_class, text("class"), "{name}");
        assert_eq!(header.modality, text("modality"), "{name}");
        assert_eq!(Some(header.syntax_uid.clone()), text("syntax"), "{name}");
        let raster = header.raster.as_ref();
        assert_eq!(raster.map(|it| u64::from(it.rows)), told["rows"].as_u64(), "{name}");
        assert_eq!(raster.map(|it| u64::from(it.columns)), told["columns"].as_u64(), "{name}");
        assert_eq!(raster.map_or(1, |it| u64::from(it.frames)), told["frames"].as_u64().unwrap(), "{name}");
        let list =
            |key: &str| told[key].as_array().map(|list| list.iter().map(|it| it.as_f64().unwrap()).collect());
        assert_eq!(header.pixel_spacing.map(Vec::from), list("spacing"), "{name}");
        assert_eq!(header.position.map(Vec::from), list("position"), "{name}");
    }
    let mut ours: BTreeMap<String, BTreeMap<u32, String>> = BTreeMap::new();
    for finding in &ran.found {
        let group = finding.facts.group.clone().unwrap();
        ours.entry(group.series.unwrap())
            .or_default()
            .insert(group.position.unwrap(), group.instance.unwrap());
    }
    let orders = said["orders"].as_object().unwrap();
    for (series, order) in orders {
        let theirs: Vec<_> = order.as_array().unwrap().iter().map(|uid| uid.as_str().unwrap()).collect();
        // A series may hold pages without a place in the body behind its slices.
        let ours: Vec<_> = ours[series].values().map(String::as_str).take(theirs.len()).collect();
        assert_eq!(ours, theirs, "{series}");
    }
    (files.len(), orders.len())
}

#[test]
fn the_study_comes_in_whole_and_in_order() {
    let Some(folder) = data("ct-study") else { return };
    let unpacked = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let done = Command::new("tar").arg("-xjf").arg(&path).arg("-C").arg(unpacked.path()).status();
        if !done.is_ok_and(|status| status.success()) {
            say("skipped 1: no tar with bzip2");
            return;
        }
    }
    let items = items(unpacked.path());
    let ran = run(&items);
    assert_eq!(ran.found.len(), 118);
    let reasons: BTreeSet<_> =
        ran.refused.iter().map(|(name, reason)| (name.ends_with("/DIRFILE"), reason.to_string())).collect();
    assert_eq!((ran.refused.len(), reasons.len()), (4, 1));
    assert!(reasons.first().unwrap().0 && reasons.first().unwrap().1.contains("DICOMDIR"));
    assert_eq!(ran.not_shown, []);

    let by_title = |ending: &str| ran.previews.iter().filter(|it| it.facts.title.ends_with(ending)).count();
    assert_eq!((ran.previews.len(), by_title(" brain, 54 images"), by_title(" brain, 58 images")), (4, 1, 1));
    assert!(ran.previews.iter().all(|it| body(it).len() < 300_000));
    let flagged = |it: &&crate::import::Finding| it.facts.sensitivity == ["BURNED-IN"];
    assert_eq!(ran.found.iter().filter(flagged).count(), 5, "the secondary captures, and nothing else");
    assert!(ran.found.iter().filter(flagged).all(|it| it.origin.contains("S4010")));
    assert_eq!(ran.previews.iter().filter(flagged).count(), 1, "and the preview that shows them");
    let Some(said) = pydicom(FACTS, unpacked.path()) else { return };
    assert_eq!(agree(&ran, &said), (118, 3));
}

#[test]
fn series_of_the_file_set_agree() {
    let Some(folder) = data("dicom/series") else { return };
    let ran = run(&items(&folder));
    assert_eq!((ran.found.len(), ran.refused.len()), (34, 7), "seven DICOMDIR files");
    let Some(said) = pydicom(FACTS, &folder) else { return };
    let (files, orders) = agree(&ran, &said);
    assert_eq!(files, 34);
    say(&format!("order of {orders} series as pydicom's"));
}

/// SHA-256 of the values of a slice, as 16-bit little endian.
const SLICE: &str = "1bee432808f49770bbc30d904e3e744082b0ba41704d4943e7de5bcb3e3d72f9";

fn pixel_hash(bytes: &[u8]) -> Result<String, PixelFault> {
    let header = read(bytes).unwrap();
    let mut reader = bytes;
    let frame = Frames::new(&header, &mut reader)?.frame(0)?;
    let bytes: Vec<u8> = match frame.samples {
        Samples::Bytes(samples) => samples,
        Samples::Words(samples) => samples.iter().flat_map(|word| word.to_le_bytes()).collect(),
        Samples::Longs(samples) => samples.iter().flat_map(|word| word.to_le_bytes()).collect(),
    };
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[test]
fn one_slice_in_fifteen_transfer_syntaxes() {
    let Some(folder) = data("dicom/syntax") else { return };
    let mut slices = items(&folder);
    slices.retain(|(name, _)| name.starts_with("CTImage"));
    let ran = run(&slices);
    assert_eq!((ran.found.len(), ran.refused.len()), (15, 0));
    assert!(
        ran.found.iter().zip(&slices).all(|(finding, (_, bytes))| body(finding) == bytes),
        "byte for byte"
    );
    let outcome = |bytes: &[u8]| match pixel_hash(bytes) {
        Ok(hash) if hash == SLICE => "same".to_owned(),
        Ok(_) => "lossy".to_owned(),
        Err(fault) => fault.to_string(),
    };
    let ending =
        |name: &str| name.trim_end_matches(".dcm").rsplit_once("1.2.840.10008.1.2").unwrap().1.to_owned();
    let outcomes: BTreeMap<_, _> =
        slices.iter().map(|(name, bytes)| (ending(name), outcome(bytes))).collect();
    let expected = [
        ("", "same"),
        (".1", "same"),
        (".1.99", "same"),
        (".2", "same"),
        (".4.50", "lossy"),
        (".4.51", "not decodable here: unsupported JPEG feature: SamplePrecision(12)"),
        (
            ".4.53",
            "not decodable here: transfer syntax 1.2.840.10008.1.2.4.53 (JPEG process 6 and 8, retired)",
        ),
        (
            ".4.55",
            "not decodable here: transfer syntax 1.2.840.10008.1.2.4.55 (JPEG process 10 and 12, retired)",
        ),
        (".4.57", "same"),
        (".4.70", "same"),
        (".4.80", "not decodable here: transfer syntax 1.2.840.10008.1.2.4.80 (JPEG-LS, lossless)"),
        (".4.81", "not decodable here: transfer syntax 1.2.840.10008.1.2.4.81 (JPEG-LS, near-lossless)"),
        (".4.90", "same"),
        (".4.91", "lossy"),
        (".5", "same"),
    ];
    let outcomes: Vec<_> =
        outcomes.iter().map(|(syntax, outcome)| (syntax.as_str(), outcome.as_str())).collect();
    assert_eq!(outcomes, expected);
}

#[test]
fn every_frame_of_the_other_syntaxes_is_pydicoms() {
    let Some(folder) = data("dicom/syntax") else { return };
    let expected = [
        ("CT_small.dcm", "7a481f6ffff8"),
        ("MR_small.dcm", "88617aaa4613"),
        ("MR_small_RLE.dcm", "88617aaa4613"),
        ("MR_small_bigendian.dcm", "88617aaa4613"),
        ("MR_small_implicit.dcm", "88617aaa4613"),
        ("MR_small_jp2klossless.dcm", "88617aaa4613"),
    ];
    for (name, hash) in expected {
        let got = pixel_hash(&fs::read(folder.join(name)).unwrap()).unwrap();
        assert!(got.starts_with(hash), "{name}: {got}");
    }
}

#[test]
fn every_bad_file_is_taken_or_refused_by_name() {
    let Some(folder) = data("bad/dicom") else { return };
    let files = items(&folder);
    let outcome = |bytes: &[u8]| match read(bytes) {
        Ok(header) => format!("taken: {}", header.modality.unwrap_or_default()),
        Err(reason) => reason.to_string(),
    };
    let outcomes: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), outcome(bytes))).collect();
    let expected = [
        ("ExplVR_LitEndNoMeta.dcm", "taken: RTPLAN"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "taken: NM"),
        (
            "MR_truncated.dcm",
            "expected (7FE0,0010) at byte 1488 to be at most 8130 bytes long (all that is left), got 8192; the file is cut short or damaged",
        ),
        ("UN_sequence.dcm", "taken: "),
        ("badVR.dcm", "taken: RTDOSE"),
        ("empty_charset_LEI.dcm", "taken: "),
        (
            "meta_missing_tsyntax.dcm",
            "expected a transfer syntax (0002,0010), got none; without it and without SOP class and instance the bytes could be read in two ways",
        ),
        ("nested_priv_SQ.dcm", "taken: "),
        ("no_meta.dcm", "expected \"DICM\" at byte 128 or a data set at byte 0, got neither"),
        ("no_meta_group_length.dcm", "taken: "),
        ("reportsi_with_empty_number_tags.dcm", "taken: SR"),
        (
            "rtplan_truncated.dcm",
            "expected (300A,00B0) at byte 1410 to be at most 711 bytes long (all that is left), got 976; the file is cut short or damaged",
        ),
    ];
    assert_eq!(outcomes, expected.map(|(name, outcome)| (name, outcome.to_owned())));
}

/// Patient names of the charset files, as pydicom reads them. The product reads no names; their scripts are the
/// hardest text there is at hand.
#[test]
fn text_of_every_script_is_read() {
    let Some(folder) = data("dicom/charset") else { return };
    let expected = [
        ("chrFren.dcm", "Buc^Jérôme"),
        ("chrGreek.dcm", "Διονυσιος"),
        ("chrH31.dcm", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("chrI2.dcm", "Hong^Gildong=洪^吉洞=홍^길동"),
        ("chrJapMulti.dcm", "やまだ^たろう"),
        ("chrKoreanMulti.dcm", "김희중"),
        ("chrX1.dcm", "Wang^XiaoDong=王^小東="),
    ];
    for (name, expected) in expected {
        let bytes = fs::read(folder.join(name)).unwrap();
        let wanted = [0x0008_0005, 0x0010_0010];
        let scanned = scan::scan(&mut &bytes[..], bytes.len() as u64, &wanted, &[]).unwrap();
        let sets = scanned.values.bytes(wanted[0]).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert_eq!(
            text::decode(scanned.values.bytes(wanted[1]).unwrap(), &sets.unwrap()),
            expected,
            "{name}"
        );
    }
}
