//! What the code says to a vector.

use crate::vector::{Vector, unhex};
use karte_protocol::backup::BackupList;
use karte_protocol::bao::verify_slice;
use karte_protocol::card::Card;
use karte_protocol::consent::{Accept, Library, Receipt, Release, Status};
use karte_protocol::encoding::{self, EncodingError};
use karte_protocol::entry::Entry;
use karte_protocol::grant::{GrantError, OPENING_BYTES_MAX, Opening};
use karte_protocol::id::{RecordId, digest, hex};
use karte_protocol::label::{Label, open_label};
use karte_protocol::message::{Fetch, Frame, Request, Response};
use karte_protocol::recovery::{Approval, KeyNote, RecoveryError, RecoveryRequest, RecoveryText};
use karte_protocol::request::AccessRequest;
use karte_protocol::seal::{self, FileKey};
use karte_protocol::shelf::{Segment, ShelfHead};
use karte_protocol::signed::{Signed, SignedError, Statement};

/// The id and what is else stated, or the layer that refused.
pub(crate) fn judge(vector: &Vector) -> Result<Option<String>, &'static str> {
    let bytes = &vector.bytes[..];
    match vector.header("kind") {
        "entry" => signed_id::<Entry>(bytes),
        "status" => signed_id::<Status>(bytes),
        "accept" => signed_id::<Accept>(bytes),
        "release" => signed_id::<Release>(bytes),
        "receipt" => signed_id::<Receipt>(bytes),
        "access-request" => signed_id::<AccessRequest>(bytes),
        "library" => signed_id::<Library>(bytes),
        "backup-list" => signed_id::<BackupList>(bytes),
        "segment" => signed_id::<Segment>(bytes),
        "shelf-head" => signed_id::<ShelfHead>(bytes),
        "label" => signed_id::<Label>(bytes),
        "card" => signed_id::<Card>(bytes),
        "opening" => {
            let opening: Opening = encoding::decode(bytes, OPENING_BYTES_MAX).map_err(encoding_layer)?;
            let open = opening.verify().map_err(grant_layer)?;
            Ok(Some(open.id().to_hex()))
        }
        "request" => Request::from_bytes(bytes).map(|_| None).map_err(encoding_layer),
        "response" => Response::from_bytes(bytes).map(|_| None).map_err(encoding_layer),
        "fetch" => Fetch::from_bytes(bytes).map(|_| None).map_err(encoding_layer),
        "frame" => Frame::from_bytes(bytes).map(|_| None).map_err(encoding_layer),
        "recovery-key" => recovery_text::<KeyNote>(bytes),
        "recovery-request" => recovery_text::<RecoveryRequest>(bytes),
        "recovery-approval" => recovery_text::<Approval>(bytes),
        "slice" => {
            let record: RecordId = vector.header("record").parse().expect("a record id");
            let number = |name| vector.header(name).parse::<u64>().expect("a number");
            let mut got = Vec::new();
            verify_slice(record, number("bytes"), number("offset"), bytes, &mut got).map_err(|_| "slice")?;
            Ok(Some(digest(&got).to_hex()))
        }
        "sealed-label" => {
            let opened = open_label(bytes, &file_key(vector)).map_err(|_| "seal")?;
            Ok(Some(opened.label.id().to_hex()))
        }
        "payload" => {
            let mut plaintext = Vec::new();
            let mut reader = seal::open(bytes, &file_key(vector)).map_err(|_| "seal")?;
            std::io::Read::read_to_end(&mut reader, &mut plaintext).map_err(|_| "seal")?;
            assert_eq!(hex(&plaintext), vector.header("plaintext"));
            Ok(Some(digest(bytes).to_hex()))
        }
        other => panic!("unknown kind {other}"),
    }
}

/// A text of a recovery.
fn recovery_text<T: RecoveryText>(bytes: &[u8]) -> Result<Option<String>, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "text")?;
    match T::from_text(text) {
        Ok(_) => Ok(None),
        Err(RecoveryError::Other { .. }) => Err("text"),
        Err(RecoveryError::Version(_)) => Err("kind"),
        Err(RecoveryError::Bound(_)) => Err("bounds"),
        Err(_) => Err("canonical"),
    }
}

pub(crate) fn file_key(vector: &Vector) -> FileKey {
    let bytes = unhex(vector.header("file-key"));
    FileKey::from_bytes(&bytes.try_into().expect("16 bytes"))
}

pub(crate) fn signed_id<T: Statement>(bytes: &[u8]) -> Result<Option<String>, &'static str> {
    match Signed::<T>::from_bytes(bytes).verify() {
        Ok(verified) => Ok(Some(verified.id().to_hex())),
        Err(error) => Err(signed_layer(&error)),
    }
}

pub(crate) fn signed_layer(error: &SignedError) -> &'static str {
    match error {
        SignedError::TooLarge(_) | SignedError::Bound(_) => "bounds",
        SignedError::NotCose(_) => "cose",
        SignedError::Encoding(error) => encoding_layer(error.clone()),
        SignedError::Kind { .. } | SignedError::Version(_) => "kind",
        SignedError::Signature => "signature",
    }
}

pub(crate) fn encoding_layer(error: EncodingError) -> &'static str {
    match error {
        EncodingError::TooLarge { .. } => "bounds",
        _ => "canonical",
    }
}

pub(crate) fn grant_layer(error: GrantError) -> &'static str {
    match error {
        GrantError::Encoding(error) => encoding_layer(error),
        GrantError::Signed(error) => signed_layer(&error),
        GrantError::NotGrant => "kind",
        GrantError::Commitment | GrantError::Scope => "commitment",
        GrantError::Bound(_) => "bounds",
    }
}
