//! Other people's vectors: what the parts below us must do, checked through our own doors where there is one.
//!
//! The folder is `KARTE_VECTORS`, by default `shared/data/vectors` beside the workspace. Without it every test
//! here says `skipped` and passes: the vectors are large and belong to their authors.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_protocol::encoding;
use karte_protocol::entry::Entry;
use karte_protocol::id::{digest, hex};
use karte_protocol::keys::SealingKey;
use karte_protocol::seal::open_with;
use karte_protocol::signed::{Signed, SignedError};
use serde_json::Value;
use sha2::Digest;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folder `name` of the vectors, if it is there.
fn vectors(name: &str) -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::var_os("KARTE_VECTORS")
        .map_or_else(|| here.join("../../shared/data/vectors"), PathBuf::from)
        .join(name);
    if !folder.is_dir() {
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

/// `verify_strict` as `keys.rs` calls it (that function is the crate's own, so here beside it).
#[test]
fn wycheproof_ed25519() {
    let Some(folder) = vectors("wycheproof") else {
        return;
    };
    let mut counted = 0;
    for group in json(folder.join("ed25519_test.json"))["testGroups"].as_array().expect("groups") {
        let key: [u8; 32] = unhex(text(&group["publicKey"], "pk")).try_into().expect("32 bytes");
        let key = ed25519_dalek::VerifyingKey::from_bytes(&key);
        for test in group["tests"].as_array().expect("tests") {
            let message = unhex(text(test, "msg"));
            let good = ed25519_dalek::Signature::from_slice(&unhex(text(test, "sig")))
                .is_ok_and(|sig| key.as_ref().is_ok_and(|key| key.verify_strict(&message, &sig).is_ok()));
            assert_eq!(good, text(test, "result") == "valid", "test {}: {}", test["tcId"], test["comment"]);
            counted += 1;
        }
    }
    println!("{counted} vectors");
    assert!(counted > 0);
}

/// What RFC 8949 calls a value of these types, and does not write in its shortest form, none of our types takes.
#[test]
fn cbor_appendix_a() {
    let Some(folder) = vectors("cbor") else { return };
    let takers: [fn(&[u8]) -> bool; 8] = [
        |bytes| encoding::decode::<u64>(bytes, 100).is_ok(),
        |bytes| encoding::decode::<i64>(bytes, 100).is_ok(),
        |bytes| encoding::decode::<bool>(bytes, 100).is_ok(),
        |bytes| encoding::decode::<String>(bytes, 100).is_ok(),
        |bytes| encoding::decode::<serde_bytes::ByteBuf>(bytes, 100).is_ok(),
        |bytes| encoding::decode::<Vec<u64>>(bytes, 100).is_ok(),
        |bytes| encoding::decode::<BTreeMap<String, String>>(bytes, 100).is_ok(),
        |bytes| encoding::decode::<BTreeMap<String, u64>>(bytes, 100).is_ok(),
    ];
    let (mut taken, mut refused) = (0, 0);
    for test in json(folder.join("appendix_a.json")).as_array().expect("tests") {
        let bytes = unhex(text(test, "hex"));
        let is_taken = takers.iter().any(|takes| takes(&bytes));
        let is_shortest = test["roundtrip"] == true;
        assert!(is_shortest || !is_taken, "{} is not the canonical form", test["hex"]);
        let is_float = bytes[0] >> 5 == 7 && (0xf9..=0xfb).contains(&bytes[0]);
        assert!(!(is_float && is_taken), "{} is a float", test["hex"]);
        *(if is_taken { &mut taken } else { &mut refused }) += 1;
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken > 20);
}

/// Good COSE_Sign1 objects of others are refused: one object has one form.
#[test]
fn cose_examples_are_not_our_form() {
    let Some(folder) = vectors("cose") else { return };
    let mut counted = 0;
    for file in std::fs::read_dir(folder).expect("lists") {
        let path = file.expect("is listed").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let example = json(path.clone());
        let bytes = unhex(example["output"]["cbor"].as_str().unwrap_or_default());
        if bytes.first() == Some(&0xd2) {
            let refused = Signed::<Entry>::from_bytes(bytes).verify().expect_err("refused");
            assert!(matches!(refused, SignedError::NotCose(_)), "{}: {refused}", path.display());
            counted += 1;
        }
    }
    println!("{counted} examples refused");
    assert!(counted > 0);
}

#[test]
fn blake3_test_vectors() {
    let Some(folder) = vectors("blake3") else { return };
    let cases = json(folder.join("test_vectors.json"));
    let cases = cases["cases"].as_array().expect("cases");
    for case in cases {
        let length = usize::try_from(case["input_len"].as_u64().expect("a length")).expect("small");
        let input: Vec<u8> = (0..=250u8).cycle().take(length).collect();
        assert_eq!(digest(&input).to_hex(), text(case, "hash")[..64], "{length} bytes");
    }
    println!("{} vectors", cases.len());
}

/// The age testkit, through the function that opens offers, libraries and segment keys.
#[test]
fn age_testkit() {
    let Some(folder) = vectors("age") else { return };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for file in std::fs::read_dir(folder).expect("lists") {
        let path = file.expect("is listed").path();
        let bytes = std::fs::read(&path).expect("reads");
        let end = bytes.windows(2).position(|two| two == b"\n\n").expect("a blank line");
        let headers = std::str::from_utf8(&bytes[..end]).expect("text");
        let headers: Vec<(&str, &str)> = headers.lines().filter_map(|line| line.split_once(": ")).collect();
        let all = |name: &str| -> Vec<&str> {
            headers.iter().filter(|(header, _)| *header == name).map(|(_, value)| *value).collect()
        };
        let has = |name: &str| !all(name).is_empty();
        let not_ours = if has("armored") {
            Some("does not apply: armor, which we never read")
        } else if has("passphrase") {
            Some("does not apply: passphrase, which no signed or sent thing uses")
        } else if all("identity").iter().any(|text| text.starts_with("AGE-SECRET-KEY-PQ-")) {
            Some("does not apply: post-quantum, a later version")
        } else if has("compressed") {
            Some("not run: the file is packed with zlib, which this crate does not have")
        } else {
            None
        };
        if let Some(reason) = not_ours {
            *counts.entry(reason).or_default() += 1;
            continue;
        }
        let keys: Vec<SealingKey> = all("identity")
            .iter()
            .map(|text| SealingKey::from_age(text).expect("an X25519 identity"))
            .collect();
        let opened = open_with(&bytes[end + 2..], &keys.iter().collect::<Vec<_>>(), 1 << 26);
        match all("expect")[0] {
            "success" => {
                let plaintext = opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                assert_eq!(hex(&sha2::Sha256::digest(&plaintext)), all("payload")[0], "{}", path.display());
                *counts.entry("opened").or_default() += 1;
            }
            _ => {
                assert!(opened.is_err(), "{} must not open", path.display());
                *counts.entry("refused").or_default() += 1;
            }
        }
    }
    println!("{counts:#?}");
    assert!(counts.contains_key("opened") && counts.contains_key("refused"));
}
