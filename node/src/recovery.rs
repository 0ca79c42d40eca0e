//! Recovery as people meet it: words on paper, a check code read aloud, a request looked at, a home for a new device.
//!
//! For: what needs no running node, so that words never leave the process that asks for them. Not for: what counts
//! (`karte_protocol::identity`) and what is kept (the engine).

use crate::backup::{Staging, require_free};
use crate::command::WordsKey;
use crate::engine;
use crate::failure::Failure;
use crate::keystore::{Keys, Keystore, Lock};
use crate::settings::{Accept, Settings};
use crate::store::{Batch, Disk, Store, Table};
use bip39::{Language, Mnemonic};
use karte_protocol::card::{self, Introduced};
use karte_protocol::chance::{Chance, OsChance};
use karte_protocol::entry::RecoverTerms;
use karte_protocol::id::EntryId;
use karte_protocol::identity::PartyLog;
use karte_protocol::keys::RecoverySeed;
use karte_protocol::recovery::{Approval, RecoveryRequest, RecoveryText};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::path::Path;
use zeroize::Zeroizing;

/// Words of a recovery key. 24: the 256 bits of its seed and 8 of a checksum.
pub const WORDS: usize = 24;

/// A recovery key as words (BIP39, English). It does not print; [`Words::expose`] does.
pub struct Words(Mnemonic);

impl Words {
    /// Fresh ones.
    pub fn generate() -> Result<Self, Failure> {
        let seed = OsChance.seed();
        let words = Mnemonic::from_entropy(seed.as_slice());
        words.map(Self).map_err(|error| Failure::failed(format!("no words can be made: {error}")))
    }

    /// From what a person typed: case and blanks do not matter.
    pub fn read(text: &str) -> Result<Self, Failure> {
        let text = Zeroizing::new(text.to_ascii_lowercase());
        let wrong = |what: String| {
            Failure::usage(what).next("Look again at the paper: 24 English words, in their order; the first four letters tell each.")
        };
        let count = text.split_whitespace().count();
        if count != WORDS {
            return Err(wrong(format!("expected {WORDS} words, got {count}")));
        }
        if let Some(place) =
            text.split_whitespace().position(|word| Language::English.find_word(word).is_none())
        {
            // The word itself is not said again: what it almost is, is a secret.
            return Err(wrong(format!("word {} is not in the list", place + 1)));
        }
        let words = Mnemonic::parse_in_normalized(Language::English, &text);
        words.map(Self).map_err(|_| {
            wrong("the words do not fit each other: one is another word, or two are exchanged".into())
        })
    }

    /// One after the other, for paper.
    pub fn expose(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.words()
    }

    /// The key.
    pub fn seed(&self) -> Result<RecoverySeed, Failure> {
        let (entropy, length) = self.0.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let seed: Zeroizing<[u8; 32]> = entropy
            .get(..length)
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Zeroizing::new)
            .ok_or_else(|| Failure::failed("expected words of 256 bits"))?;
        Ok(RecoverySeed::from_seed(&seed))
    }

    /// What may be known of it.
    pub fn public(&self) -> Result<WordsKey, Failure> {
        let seed = self.seed()?;
        Ok(WordsKey { commitment: seed.commitment(), sealing: seed.sealing_key().recipient() })
    }
}

/// Different places in a list of [`WORDS`] words, at random.
pub fn random_places(count: usize) -> Result<Vec<usize>, Failure> {
    let mut places: Vec<usize> = (0..WORDS).collect();
    let chance = OsChance.seed();
    // 32 bytes of chance: the little by which a remainder is uneven helps nobody guess a word.
    let picked =
        chance.iter().take(count.min(WORDS)).map(|byte| places.remove(usize::from(*byte) % places.len()));
    Ok(picked.collect())
}

/// The check code of terms, as six words to be read aloud.
pub fn check_words(terms: &RecoverTerms) -> Result<String, Failure> {
    let list = Language::English.word_list();
    let words = terms.check_code()?.map(|place| list.get(usize::from(place)).copied().unwrap_or_default());
    Ok(words.join(" "))
}

/// That the code somebody heard is that of these terms.
pub(crate) fn require_code(terms: &RecoverTerms, heard: &str) -> Result<(), Failure> {
    let heard = heard.replace('-', " ").to_ascii_lowercase();
    let heard: Vec<&str> = heard.split_whitespace().collect();
    match heard == check_words(terms)?.split(' ').collect::<Vec<_>>() {
        true => Ok(()),
        false => Err(Failure::refused("the check code is not that of this request: nothing was signed")
            .next("Ask again by voice, of the person and not of who sent the text. If it differs still, somebody changed the request on its way.")),
    }
}

/// That terms are for the generation after this log's.
pub(crate) fn require_next(terms: &RecoverTerms, log: &PartyLog, name: &str) -> Result<(), Failure> {
    let state = log.state();
    if state.disputed {
        return Err(engine::disputed());
    }
    match state.generation.checked_add(1) {
        Some(next) if next == terms.r#gen => Ok(()),
        Some(next) if next > terms.r#gen => Err(Failure::refused(format!(
            "the request is for generation {}, and {name} is in generation {} already",
            terms.r#gen, state.generation
        ))
        .next("If that recovery was theirs, there is nothing to approve. Else they begin again with the newest card: `karte contact card NAME` here prints it.")),
        _ => Err(Failure::refused(format!("the request is for generation {}, which cannot come next", terms.r#gen))
            .next("Ask for a fresh request.")),
    }
}

/// What a keeper is shown. Not the check code: that must come from the asker's own mouth.
pub(crate) fn view_request(request: &RecoveryRequest, log: &PartyLog) -> Result<Value, Failure> {
    let terms = &request.terms;
    let (set, threshold) = log.recovery_set();
    let keeps = terms.next_recovery == set && terms.threshold == threshold;
    Ok(json!({
        "party": terms.party.to_string(),
        "name": request.name,
        "generation": terms.r#gen,
        "device": terms.devices.first().map(|device| device.device.to_hex()),
        "devices": terms.devices.len(),
        "next_keys": if keeps { "the same as now".to_owned() } else { format!("others: {} of {}", terms.threshold, terms.next_recovery.len()) },
        "approvals_needed": threshold,
        "approved": false,
    }))
}

/// Approves with printed words; no node is needed, and none learns them.
pub fn approve_with_words(request: &str, words: &Words, code: Option<&str>) -> Result<Value, Failure> {
    let request = RecoveryRequest::from_text(request)?;
    let log = request.log()?;
    require_next(&request.terms, &log, &request.name)?;
    let seed = words.seed()?;
    if !log.recovery_set().0.contains(&seed.commitment()) {
        return Err(Failure::refused("these words are not one of the keys that this party committed to")
            .next("Are they the words of this party, and of its newest `karte recovery setup`?"));
    }
    let mut view = view_request(&request, &log)?;
    let Some(code) = code else { return Ok(view) };
    require_code(&request.terms, code)?;
    let approval = Approval::sign(&request.terms, &seed, None)?.to_text()?;
    if let Some(object) = view.as_object_mut() {
        object.insert("approved".into(), json!(true));
        object.insert("approval".into(), json!(approval));
    }
    Ok(view)
}

/// The table of entries: party → entry id → COSE bytes.
const ENTRIES: Table = Table(engine::ENTRIES_TABLE);

/// Makes a home for a new device of a party whose cards these are. It waits for its recovery.
pub fn adopt(home: &Path, cards: &[String], passphrase: Option<SecretString>) -> Result<(), Failure> {
    require_free(home)?;
    let (introduced, log) = newest(cards)?;
    let staging = Staging::beside(home)?;
    let keys = Keys::generate(&mut OsChance);
    // Its keys are others': the set that the party committed to stays.
    keys.recovery.take_out();
    let (disk, _) = Disk::open(&staging.0.join("store"), keys.store_key())?;
    let mut disk: Box<dyn Store> = Box::new(disk);
    let entries = log.in_order();
    for entry in &entries {
        let mut batch = Batch::default();
        let id = EntryId::from(entry.id());
        batch.put(ENTRIES, log.party().as_bytes(), id.as_bytes(), entry.bytes().to_vec());
        disk.write(batch)?;
    }
    disk.commit()?;
    disk.close()?;
    let settings = Settings {
        name: introduced.card.name.clone(),
        kind: introduced.card.kind.clone(),
        accept: Accept { contacts: false, grants: false, adopt: false },
        network: Default::default(),
    };
    settings.save(&staging.0)?;
    let lock = passphrase.map_or(Lock::None, Lock::Passphrase);
    let genesis = entries.first().map(|entry| entry.bytes()).unwrap_or_default();
    Keystore::create(&staging.0, &keys, genesis, &lock, &mut OsChance)?;
    staging.becomes(home)
}

/// The newest of the cards, and what all of them show of the party.
fn newest(cards: &[String]) -> Result<(Introduced, PartyLog), Failure> {
    let mut introduced = cards.iter().map(|text| card::from_text(text)).collect::<Result<Vec<_>, _>>()?;
    introduced.sort_by_key(|one| one.card.at_ms);
    let newest = introduced.pop().ok_or_else(|| {
        Failure::usage("a card of the lost party is needed")
            .next("Any contact of it prints one: `karte contact card NAME`.")
    })?;
    let mut log = newest.log.clone();
    for other in introduced {
        if other.log.party() != log.party() {
            return Err(Failure::usage("the cards are of different parties")
                .next("Give cards of the lost party alone."));
        }
        for entry in other.log.in_order() {
            // What does not fit adds nothing: the log is as good as the card says.
            let _ = log.add(entry.clone());
        }
    }
    Ok((newest, log))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_to_the_same_key() {
        let words = Words::generate().unwrap();
        let written: Vec<&str> = words.expose().collect();
        assert_eq!(written.len(), WORDS);
        let again = Words::read(&format!("  {}\n", written.join("  ").to_uppercase())).unwrap();
        assert_eq!(again.seed().unwrap().expose_seed(), words.seed().unwrap().expose_seed());
        assert_eq!(again.public().unwrap(), words.public().unwrap());
    }

    /// The vector of BIP39 for 32 bytes of zeros: the words are those of the standard, not of this program.
    #[test]
    fn the_words_are_those_of_bip39() {
        let words = Words::read(&format!("{} art", ["abandon"; 23].join(" "))).unwrap();
        assert_eq!(words.seed().unwrap().expose_seed(), &[0; 32]);
    }

    #[test]
    fn wrong_words_are_refused_without_being_repeated() {
        let words = Words::generate().unwrap();
        let mut list: Vec<&str> = words.expose().collect();
        list[3] = "kartenhaus";
        let refused = Words::read(&list.join(" ")).err().unwrap();
        assert!(refused.message.contains("word 4") && !refused.message.contains("kartenhaus"), "{refused}");
        let short = Words::read("abandon art").err().unwrap();
        assert!(short.message.contains("got 2"), "{short}");
        assert!(Words::read(&["abandon"; 24].join(" ")).is_err(), "a wrong checksum");
    }
}
