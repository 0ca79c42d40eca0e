//! Export: everything that is written out whole, so that it opens elsewhere with its proofs intact.
//!
//! For: gathering records, their authors' signatures, and the consents and receipts around them. Not for: bytes of
//! payloads, or files; those are the runtime's and the command line's.

use super::rows::{LABELS, RECEIPTS, RELEASES, TOP};
use super::{Engine, Opening};
use crate::command::Filter;
use crate::failure::Failure;
use karte_protocol::id::{GrantId, PartyId};
use karte_protocol::label::open_label;
use karte_protocol::seal::FileKey;

/// Records, and what proves their history.
pub struct Export {
    /// Whose export it is.
    pub party: PartyId,
    /// COSE bytes of the own log, in order: identity entries, grants, revocations.
    pub log: Vec<Vec<u8>>,
    /// The records, oldest first.
    pub records: Vec<Exported>,
    /// Openings of grants, releases and receipts.
    pub proofs: Vec<Proof>,
}

/// One record and the proof of its author.
pub struct Exported {
    /// Permission to open it.
    pub opening: Opening,
    /// COSE bytes of its label.
    pub label: Vec<u8>,
    /// COSE bytes of its author's identity entries.
    pub identity: Vec<Vec<u8>>,
}

/// One signed statement about a grant.
pub struct Proof {
    /// `grant`, `release` or `receipt`.
    pub kind: &'static str,
    /// The grant it is about.
    pub grant: GrantId,
    /// COSE bytes; of a grant, its signed entry.
    pub cose: Vec<u8>,
    /// Of a grant: what its entry hides, canonical CBOR of the Opening.
    pub opening: Option<Vec<u8>>,
}

impl Engine {
    pub(super) fn export(&mut self, filter: &Filter, staff: &str) -> Result<Export, Failure> {
        let seen = self.selected(filter)?;
        let openings = self.openings_of(&seen, staff)?;
        let mut records = Vec::with_capacity(openings.len());
        for (seen, opening) in seen.into_iter().zip(openings) {
            let identity = self.author_identity(seen.grant, &opening)?;
            records.push(Exported { opening, label: seen.label.bytes().to_vec(), identity });
        }
        Ok(Export { party: self.me.party, log: self.own_log(), records, proofs: self.proofs()? })
    }

    fn own_log(&self) -> Vec<Vec<u8>> {
        self.mine().log.in_order().iter().map(|entry| entry.bytes().to_vec()).collect()
    }

    /// The identity entries travel within the sealed label.
    fn author_identity(&self, grant: Option<GrantId>, opening: &Opening) -> Result<Vec<Vec<u8>>, Failure> {
        let parent = grant.as_ref().map_or(TOP, |grant| grant.as_bytes());
        let Some(sealed) = self.store.get(LABELS, parent, opening.record.as_bytes())? else {
            return Ok(vec![]);
        };
        let key = FileKey::from_bytes(opening.file_key.expose_bytes());
        Ok(open_label(&sealed, &key).map(|opened| opened.identity).unwrap_or_default())
    }

    fn proofs(&self) -> Result<Vec<Proof>, Failure> {
        let mut proofs = Vec::new();
        let given = self.given.iter().map(|(id, given)| (*id, &given.row.opening));
        let got = self.got.iter().map(|(id, got)| (*id, &got.row.opening));
        for (grant, opening) in given.chain(got) {
            let inside = karte_protocol::encoding::encode(opening)?;
            proofs.push(Proof { kind: "grant", grant, cose: opening.entry.clone(), opening: Some(inside) });
            for (kind, table) in [("release", RELEASES), ("receipt", RECEIPTS)] {
                for (_, cose) in self.values(table, grant.as_bytes())? {
                    proofs.push(Proof { kind, grant, cose, opening: None });
                }
            }
        }
        Ok(proofs)
    }
}
