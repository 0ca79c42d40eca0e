//! Opening many: each in its turn, and nothing that is not what its label says.

use super::*;
use crate::store::MemoryBlobs;
use karte_protocol::id::PartyId;
use karte_protocol::label::Label;
use karte_protocol::seal::seal;

/// A record in `blobs`, and permission to open it.
fn record(blobs: &MemoryBlobs, plaintext: &[u8]) -> Opening {
    let mut payload = Vec::new();
    let sealed = seal(plaintext, &mut payload).unwrap();
    blobs.put(sealed.record.as_bytes(), &payload).unwrap();
    let label = Label::new(PartyId::from([1; 32]), "document", "a letter", "text/plain", &sealed);
    Opening { record: sealed.record, file_key: sealed.file_key, label, grant: None, recipients: vec![] }
}

fn letters(blobs: &MemoryBlobs) -> Vec<(Vec<u8>, Opening)> {
    // More than are opened ahead; now and then one that is worth some time.
    let lengths = (0..200).map(|number| if number % 7 == 0 { 1 << 20 } else { number });
    lengths
        .map(|length| {
            let text: Vec<u8> = (0..=255u8).cycle().skip(length % 251).take(length).collect();
            (text.clone(), record(blobs, &text))
        })
        .collect()
}

#[test]
fn records_are_visited_in_their_order_each_with_its_own_bytes() {
    let blobs = MemoryBlobs::new();
    let letters = letters(&blobs);
    let mut left = letters.iter();
    each_opened(&blobs, letters.iter().map(|(_, opening)| opening), &mut |opening, plaintext| {
        let (text, expected) = left.next().unwrap();
        assert_eq!(opening.record, expected.record);
        assert!(**plaintext.as_ref().unwrap() == *text);
        Ok(())
    })
    .unwrap();
    assert!(left.next().is_none());
}

#[test]
fn a_record_too_long_to_be_held_ahead_comes_in_its_turn() {
    let blobs = MemoryBlobs::new();
    let long = vec![7; usize::try_from(ALONE_BYTES_MAX).unwrap() + 1];
    let openings = [record(&blobs, b"one"), record(&blobs, &long), record(&blobs, b"three")];
    let mut seen = Vec::new();
    each_opened(&blobs, &openings, &mut |opening, plaintext| {
        seen.push(match plaintext {
            Some(plaintext) => plaintext.len(),
            None => {
                let mut written = Vec::new();
                write_checked(&blobs, opening, &mut written)?;
                written.len()
            }
        });
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [3, long.len(), 5]);
}

#[test]
fn what_is_not_as_its_label_says_is_not_shown_and_nothing_after_it() {
    let blobs = MemoryBlobs::new();
    let mut letters = letters(&blobs);
    letters[50].1.label.hash = karte_protocol::id::digest(b"something else");
    let mut visited = 0;
    let ended = each_opened(&blobs, letters.iter().map(|(_, opening)| opening), &mut |_, _| {
        visited += 1;
        Ok(())
    });
    assert_eq!(ended.unwrap_err().message, "the plaintext is not the one its label names");
    assert_eq!(visited, 50);
}

#[test]
fn a_payload_that_is_gone_is_named() {
    let blobs = MemoryBlobs::new();
    let gone = record(&blobs, b"one");
    blobs.delete(gone.record.as_bytes()).unwrap();
    let failure = held(&blobs, &gone).unwrap_err();
    assert_eq!(failure.kind, Kind::Damaged);
    assert!(failure.message.contains(&gone.record.short()), "{failure}");
}

#[test]
fn whoever_fails_to_write_ends_the_opening() {
    let blobs = MemoryBlobs::new();
    let letters = letters(&blobs);
    let mut visited = 0;
    let ended = each_opened(&blobs, letters.iter().map(|(_, opening)| opening), &mut |_, _| {
        visited += 1;
        Err(Failure::failed("no room"))
    });
    assert_eq!((ended.unwrap_err().message.as_str(), visited), ("no room", 1));
}
