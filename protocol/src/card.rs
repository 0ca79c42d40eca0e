//! Cards: all that another party needs to check signatures and to dial. As text `karte:…`, also as a QR code.

use crate::entry::Entry;
use crate::id::{DeviceId, EntryId};
use crate::identity::{LogError, PartyLog};
use crate::limits::{CARD_CHARS_MAX, NAME_BYTES_MAX};
use crate::signed::{Signed, SignedError, Statement, Verified};
use base64::Engine;
use serde::{Deserialize, Serialize};

/// A party introduces itself. Signed by one of its devices, so that a name or an address changed on the way
/// shows; sent again in every Hello, so that addresses stay fresh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// What people call it. Its own words: compare out of band.
    pub name: String,
    /// `patient`, `clinic` or `partner`. Its own words too.
    pub kind: String,
    /// Multiaddresses, best first.
    pub addresses: Vec<String>,
    /// COSE bytes of its identity entries, Genesis first.
    pub identity: Vec<serde_bytes::ByteBuf>,
    /// When it was made, by the signer's clock; a later one replaces it.
    pub at_ms: crate::time::UnixMs,
}

impl Statement for Card {
    const KIND: &'static str = "card";
    fn check(&self) -> Result<(), &'static str> {
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || self.name.chars().any(char::is_control)
        {
            return Err("expected a name of 1 to 100 bytes without control characters");
        }
        if !["patient", "clinic", "partner"].contains(&self.kind.as_str()) {
            return Err("expected a kind that is patient, clinic or partner");
        }
        if self.addresses.len() > 8 || self.addresses.iter().any(|address| address.len() > 300) {
            return Err("expected at most 8 addresses of at most 300 bytes");
        }
        Ok(())
    }
}

/// A card that is what it says: signed by a live device of the party its entries make up.
#[derive(Debug, Clone)]
pub struct Introduced {
    /// The card.
    pub card: Verified<Card>,
    /// The party's identity entries.
    pub log: PartyLog,
}

/// Why a card was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// Not a card.
    #[error("expected a card that starts with karte: and has at most {CARD_CHARS_MAX} characters")]
    NotCard,
    /// Damaged.
    #[error("the card is damaged: {0}")]
    Damaged(String),
    /// Something in it is not signed as it should be.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// Its entries do not make up a party.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Signed by somebody else.
    #[error("the card is not signed by a device of its own party")]
    Stranger,
}

/// The text form.
pub fn to_text(card: &Verified<Card>) -> String {
    format!("karte:{}", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(card.bytes()))
}

/// Reads a card's text. Blanks and line breaks, as a mail program adds them, are passed over.
pub fn from_text(text: &str) -> Result<Introduced, CardError> {
    let text: String = text.split_whitespace().collect();
    let body = text.strip_prefix("karte:").ok_or(CardError::NotCard)?;
    if text.len() > CARD_CHARS_MAX {
        return Err(CardError::NotCard);
    }
    let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD
        .decode(body)
        .map_err(|error| CardError::Damaged(error.to_string()))?;
    introduce(&bytes)
}

/// The identity entries that go into a card of `device`: in order, those that show it to be of its party, and of the
/// others, from the first on, what fits into `bytes_max` beside them.
pub fn identity_within(log: &PartyLog, device: &DeviceId, bytes_max: usize) -> Vec<serde_bytes::ByteBuf> {
    let needed = log.shows(device);
    let mut left = bytes_max.saturating_sub(needed.iter().filter_map(|id| log.get(id)).map(length).sum());
    let mut is_cut = false;
    let mut goes = |entry: &&Verified<Entry>| {
        if needed.contains(&EntryId::from(entry.id())) {
            return true;
        }
        // What comes later may build on what was cut off.
        is_cut |= length(entry) > left;
        left = left.saturating_sub(length(entry));
        !is_cut
    };
    let entries = log.identity_entries().into_iter().filter(|entry| goes(entry));
    entries.map(|entry| serde_bytes::ByteBuf::from(entry.bytes())).collect()
}

/// In a card, in bytes: 5 are what CBOR writes before it.
fn length(entry: &Verified<Entry>) -> usize {
    entry.bytes().len().saturating_add(5)
}

/// Checks a card's bytes.
pub fn introduce(bytes: &[u8]) -> Result<Introduced, CardError> {
    let card = Signed::<Card>::from_bytes(bytes).verify()?;
    let mut entries = card.identity.iter().map(|entry| Signed::<Entry>::from_bytes(entry.to_vec()).verify());
    let genesis = entries.next().ok_or(LogError::NotGenesis)??;
    let mut log = PartyLog::start(genesis)?;
    for entry in entries {
        let entry = entry?;
        if entry.act.is_identity() {
            log.add(entry)?;
        }
    }
    if !card.is_by(log.party()) || !log.state().has_device(&card.by().device) {
        return Err(CardError::Stranger);
    }
    Ok(Introduced { card, log })
}
