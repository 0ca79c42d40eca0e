//! Other people's vectors: what the parts below us must do, checked through our own doors where there is one.
//!
//! The folder is `KARTE_VECTORS`, by default `shared/data/vectors` beside the workspace. Without it every test
//! here says `skipped` and passes: the vectors are large and belong to their authors.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_protocol::chance::OsChance;
use karte_protocol::encoding;
use karte_protocol::entry::Entry;
use karte_protocol::id::{digest, hex};
use karte_protocol::keys::SealingKey;
use karte_protocol::seal::{FileKey, open, open_with};
use karte_protocol::signed::{Signed, SignedError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Digest;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The folder `name` of the vectors, if it is there. That it is not is a failure only where the folder was named and
/// nothing may be skipped.
fn vectors(name: &str) -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let given = std::env::var_os("KARTE_VECTORS").map(PathBuf::from);
    let may_skip = given.is_none() || std::env::var_os("KARTE_NO_SKIP").is_none();
    let folder = given.unwrap_or_else(|| here.join("../../shared/data/vectors")).join(name);
    if !folder.is_dir() {
        assert!(may_skip, "KARTE_VECTORS names a folder without {}", folder.display());
        println!("skipped: no folder {}", folder.display());
        return None;
    }
    Some(folder)
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("reads")).expect("JSON")
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| {
        let digit = char::from(byte).to_digit(16).expect("hexadecimal");
        u8::try_from(digit).expect("below 16")
    };
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("expected a text {name}"))
}

/// `verify_strict` as `keys.rs` calls it (that function is the crate's own, so here beside it). Where it and the lenient
/// rule of RFC 8032 differ is told; Wycheproof has such cases only in its later versions.
#[test]
fn wycheproof_ed25519() {
    let Some(folder) = vectors("wycheproof") else {
        return;
    };
    let (mut valid, mut invalid, mut stricter) = (0, 0, vec![]);
    for group in json(folder.join("ed25519_test.json"))["testGroups"].as_array().expect("groups") {
        let key: [u8; 32] = unhex(text(&group["publicKey"], "pk")).try_into().expect("32 bytes");
        let key = ed25519_dalek::VerifyingKey::from_bytes(&key);
        for test in group["tests"].as_array().expect("tests") {
            let message = unhex(text(test, "msg"));
            let signature = ed25519_dalek::Signature::from_slice(&unhex(text(test, "sig")));
            let verified = |verify: fn(
                &ed25519_dalek::VerifyingKey,
                &[u8],
                &ed25519_dalek::Signature,
            ) -> Result<(), ed25519_dalek::SignatureError>| {
                signature.as_ref().is_ok_and(|signature| {
                    key.as_ref().is_ok_and(|key| verify(key, &message, signature).is_ok())
                })
            };
            let strict = verified(|key, message, signature| key.verify_strict(message, signature));
            let lenient = verified(ed25519_dalek::Verifier::verify);
            let named = format!("test {}: {}", test["tcId"], test["comment"]);
            match text(test, "result") {
                "valid" if strict => valid += 1,
                // What the strict rule refuses and RFC 8032 allows: named, and never the other way round.
                "valid" | "acceptable" => stricter.push(named.clone()),
                _ => {
                    assert!(!strict, "{named} was accepted");
                    invalid += 1;
                }
            }
            assert!(lenient || !strict, "{named}: strict takes what RFC 8032 does not");
        }
    }
    println!(
        "{valid} valid accepted, {invalid} invalid refused; valid and refused by the strict rule: {stricter:?}"
    );
    assert!(valid > 0 && invalid > 0);
    assert!(stricter.is_empty(), "SPEC section 2 names none: {stricter:?}");
}

/// Whatever our subset of CBOR can say.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Any {
    Bool(bool),
    Uint(u64),
    Int(i64),
    Text(String),
    Bytes(serde_bytes::ByteBuf),
    List(Vec<Any>),
    Map(BTreeMap<String, Any>),
}

/// By hand: `untagged` takes a byte string for a text that it happens to spell.
impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> serde::de::Visitor<'de> for Anything {
            type Value = Any;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value of our subset")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Any, E> {
                Ok(Any::Bool(value))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Any, E> {
                Ok(Any::Uint(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Any, E> {
                Ok(Any::Int(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Any, E> {
                Ok(Any::Text(value.to_owned()))
            }
            fn visit_bytes<E>(self, value: &[u8]) -> Result<Any, E> {
                Ok(Any::Bytes(serde_bytes::ByteBuf::from(value)))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Any, A::Error> {
                std::iter::from_fn(|| items.next_element().transpose())
                    .collect::<Result<_, _>>()
                    .map(Any::List)
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut fields: A) -> Result<Any, A::Error> {
                std::iter::from_fn(|| fields.next_entry().transpose()).collect::<Result<_, _>>().map(Any::Map)
            }
        }
        deserializer.deserialize_any(Anything)
    }
}

fn is_taken(bytes: &[u8]) -> bool {
    encoding::decode::<Any>(bytes, 1_000).is_ok()
}

/// SPEC section 2, "Canonical CBOR", read from the page and not from the code: what is left behind a value of our subset.
fn past_value(bytes: &[u8]) -> Option<&[u8]> {
    let (first, rest) = bytes.split_first()?;
    if matches!(first, 0xf4 | 0xf5) {
        return Some(rest);
    }
    let (n, rest) = argument(*first, rest)?;
    let count = usize::try_from(n).ok()?;
    match first >> 5 {
        0 => Some(rest),
        1 => (n < 1 << 63).then_some(rest),
        2 => rest.get(count..),
        3 => {
            rest.split_at_checked(count).filter(|(text, _)| std::str::from_utf8(text).is_ok()).map(|at| at.1)
        }
        4 => (0..count).try_fold(rest, |rest, _| past_value(rest)),
        5 => {
            let mut last: &[u8] = &[];
            (0..count).try_fold(rest, |rest, _| {
                let after = past_value(rest).filter(|_| rest[0] >> 5 == 3)?;
                let key = &rest[..rest.len() - after.len()];
                let in_order = last < key;
                last = key;
                past_value(after).filter(|_| in_order)
            })
        }
        _ => None,
    }
}

/// The number in a head, in its shortest form.
fn argument(first: u8, rest: &[u8]) -> Option<(u64, &[u8])> {
    let size = match first & 31 {
        short @ 0..=23 => return Some((u64::from(short), rest)),
        size @ 24..=27 => 1 << (size - 24),
        _ => return None,
    };
    let (digits, rest) = rest.split_at_checked(size)?;
    let n = digits.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let least = [24, 0x100, 0x1_0000, 0x1_0000_0000][size.ilog2() as usize];
    (n >= least).then_some((n, rest))
}

/// Every example of RFC 8949 appendix A is taken exactly if it is of our subset and in its canonical form.
#[test]
fn cbor_appendix_a() {
    let Some(folder) = vectors("cbor") else { return };
    let (mut taken, mut refused) = (0, 0);
    for test in json(folder.join("appendix_a.json")).as_array().expect("tests") {
        let bytes = unhex(text(test, "hex"));
        let is_ours = past_value(&bytes).is_some_and(<[u8]>::is_empty);
        assert_eq!(is_taken(&bytes), is_ours, "{}", test["hex"]);
        assert!(!is_ours || test["roundtrip"] == true, "{} is not the canonical form", test["hex"]);
        *(if is_ours { &mut taken } else { &mut refused }) += 1;
        // The same head in each longer form.
        let (n, rest) = argument(bytes[0], &bytes[1..]).unwrap_or_default();
        let forms = [(24, 7), (25, 6), (26, 4), (27, 0)];
        for (size, from) in forms.into_iter().filter(|(size, _)| is_ours && bytes[0] & 31 < *size) {
            let longer = [&[bytes[0] & 0xe0 | size], &n.to_be_bytes()[from..], rest].concat();
            let is_number_head = bytes[0] >> 5 < 6;
            assert!(!is_number_head || !is_taken(&longer), "{} in {size} was taken", test["hex"]);
        }
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken > 20 && refused > 20);
}

fn layer_of(error: &SignedError) -> &'static str {
    match error {
        SignedError::TooLarge(_) | SignedError::Bound(_) => "bounds",
        SignedError::NotCose(_) => "cose",
        SignedError::Encoding(_) => "canonical",
        SignedError::Kind { .. } | SignedError::Version(_) => "kind",
        SignedError::Signature => "signature",
    }
}

/// Good COSE objects of others are refused, each at its envelope: one object has one form. Their Ed25519 signatures are
/// good to the part below us, over the same Sig_structure.
#[test]
fn cose_examples_are_not_our_form() {
    let Some(folder) = vectors("cose") else { return };
    let (mut layers, mut signatures) = (BTreeMap::<&str, usize>::new(), 0);
    for file in std::fs::read_dir(folder).expect("lists") {
        let path = file.expect("is listed").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let example = json(path.clone());
        let bytes = unhex(example["output"]["cbor"].as_str().unwrap_or_default());
        let refused = Signed::<Entry>::from_bytes(bytes.clone()).verify().expect_err("refused");
        println!("{}: {}", path.file_name().unwrap_or_default().display(), layer_of(&refused));
        assert_eq!(layer_of(&refused), "cose", "{}: {refused}", path.display());
        *layers.entry(layer_of(&refused)).or_default() += 1;
        let signer = &example["input"]["sign0"]["key"];
        if let (Some("Ed25519"), Some(key)) = (signer["crv"].as_str(), signer["x_hex"].as_str()) {
            let key = ed25519_dalek::VerifyingKey::from_bytes(&unhex(key).try_into().expect("32 bytes"));
            let signed = unhex(text(&example["intermediates"], "ToBeSign_hex"));
            let (_, signature) = bytes.split_last_chunk().expect("64 bytes");
            let signature = ed25519_dalek::Signature::from_bytes(signature);
            key.expect("a point").verify_strict(&signed, &signature).expect("their signature is good");
            signatures += 1;
        }
    }
    println!("refused, by layer: {layers:?}; {signatures} Ed25519 signatures verified");
    assert!(layers["cose"] > 10 && signatures > 0);
}

#[test]
fn blake3_test_vectors() {
    let Some(folder) = vectors("blake3") else { return };
    let all = json(folder.join("test_vectors.json"));
    let context = text(&all, "context_string");
    let cases = all["cases"].as_array().expect("cases");
    for case in cases {
        let length = usize::try_from(case["input_len"].as_u64().expect("a length")).expect("small");
        let input: Vec<u8> = (0..=250u8).cycle().take(length).collect();
        assert_eq!(digest(&input).to_hex(), text(case, "hash")[..64], "{length} bytes");
        let derived = hex(&blake3::derive_key(context, &input));
        assert_eq!(derived, text(case, "derive_key")[..64], "{length} bytes");
    }
    println!("{} vectors, as hash and as derived key", cases.len());
}

/// One file of the age testkit.
struct Kit {
    headers: Vec<(String, String)>,
    file: Vec<u8>,
}

impl Kit {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).expect("reads");
        let end = bytes.windows(2).position(|two| two == b"\n\n").expect("a blank line");
        let headers = std::str::from_utf8(&bytes[..end]).expect("text");
        let headers = headers.lines().filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut kit = Self { headers, file: bytes[end + 2..].to_vec() };
        if kit.get("compressed") == Some("zlib") {
            let mut unpacked = Vec::new();
            flate2::read::ZlibDecoder::new(&kit.file[..]).read_to_end(&mut unpacked).expect("unpacks");
            kit.file = unpacked;
        }
        kit
    }

    fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(header, _)| header == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    fn is_post_quantum(&self) -> bool {
        self.all("identity").iter().any(|text| text.starts_with("AGE-SECRET-KEY-PQ-"))
    }

    /// What no signed or sent thing uses, and what is refused for that: armor and passphrases.
    fn is_not_read(&self) -> Option<&'static str> {
        let armor = self.get("armored").map(|_| "refused: armor, which nothing of ours reads");
        armor.or(self.get("passphrase").map(|_| "refused: a passphrase, which nothing of ours asks for"))
    }
}

/// The age testkit, through the function that opens offers, libraries and segment keys. All but the post-quantum files
/// apply: what it says opens must open to those bytes, and all else must not open, armor and passphrases among it.
#[test]
fn age_testkit() {
    let Some(folder) = vectors("age") else { return };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("lists").map(|file| file.expect("is listed").path()).collect();
    files.sort();
    let (mut counts, mut not_yet) = (BTreeMap::<&str, usize>::new(), vec![]);
    for path in &files {
        let kit = Kit::read(path);
        if kit.is_post_quantum() {
            not_yet.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            continue;
        }
        let keys: Vec<SealingKey> = kit
            .all("identity")
            .iter()
            .map(|text| SealingKey::from_age(text).expect("an X25519 identity"))
            .chain(kit.get("passphrase").map(|_| SealingKey::generate(&mut OsChance)))
            .collect();
        let opened = open_with(&kit.file, &keys.iter().collect::<Vec<_>>(), 1 << 26);
        let outcome = match (kit.get("expect"), kit.is_not_read(), opened) {
            (Some("success"), None, Ok(plaintext)) => {
                let hash = hex(&sha2::Sha256::digest(&plaintext));
                assert_eq!(Some(hash.as_str()), kit.get("payload"), "{}", path.display());
                "opened, to the right bytes"
            }
            (Some("success"), None, Err(error)) => panic!("{}: {error}", path.display()),
            (_, _, Ok(_)) => panic!("{} must not open", path.display()),
            (_, Some(why), Err(_)) => why,
            (_, None, Err(_)) => "refused, as the testkit has it",
        };
        *counts.entry(outcome).or_default() += 1;
    }
    let run: usize = counts.values().sum();
    println!("{run} of {} files run: {counts:#?}", files.len());
    println!("{} post-quantum files not yet: {}", not_yet.len(), not_yet.join(" "));
    assert_eq!(run + not_yet.len(), files.len());
    assert!(counts.len() == 4, "each outcome is met: {counts:?}");
}

/// The payloads of the same testkit, through the function that opens records: their file keys are told.
#[test]
fn age_testkit_payloads() {
    let Some(folder) = vectors("age") else { return };
    let files = std::fs::read_dir(folder).expect("lists").map(|file| file.expect("is listed").path());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (mut opened, mut refused) = (0, 0);
    for path in files.filter(|path| name(path).starts_with("stream_")) {
        let kit = Kit::read(&path);
        let key = unhex(kit.get("file key").expect("a file key"));
        let key = FileKey::from_bytes(key.as_slice().try_into().expect("16 bytes"));
        let mac = kit.file.windows(5).position(|at| at == b"\n--- ").expect("the end of a header") + 1;
        let line = kit.file[mac..].iter().position(|byte| *byte == b'\n').expect("a line") + 1;
        let mut plaintext = Vec::new();
        let result = open(&kit.file[mac + line..], &key)
            .and_then(|mut payload| Ok(payload.read_to_end(&mut plaintext).map(drop)?));
        match (kit.get("expect"), result) {
            (Some("success"), Ok(())) => {
                assert_eq!(kit.get("payload"), Some(hex(&sha2::Sha256::digest(&plaintext)).as_str()));
                opened += 1;
            }
            (Some("success"), Err(error)) => panic!("{}: {error}", name(&path)),
            (_, Ok(())) => panic!("{} must not open", name(&path)),
            (_, Err(_)) => refused += 1,
        }
    }
    assert!(opened >= 4 && refused >= 10, "{opened} opened and {refused} refused");
}
