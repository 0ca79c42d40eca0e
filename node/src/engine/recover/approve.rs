//! A keeper's side of a recovery: who asks, for whom, and the signature of the key that is kept here.

use super::super::Engine;
use crate::failure::Failure;
use crate::recovery;
use karte_protocol::id::PartyId;
use karte_protocol::identity::PartyLog;
use karte_protocol::recovery::{Approval, RecoveryRequest, RecoveryText};
use serde_json::{Value, json};

impl Engine {
    /// Shows a request; with the check code that its asker has told by another way, signs its terms.
    pub(in crate::engine) fn approve_recovery(
        &mut self,
        text: &str,
        code: Option<&str>,
    ) -> Result<Vec<Value>, Failure> {
        let request = RecoveryRequest::from_text(text)?;
        let party = request.terms.party;
        let log = self.newest_log(&request)?;
        recovery::require_next(&request.terms, &log, &self.name_of(party))?;
        let seed = self.key_for(party, log.recovery_set().0)?;
        let mut view = recovery::view_request(&request, &log)?;
        if let Some(object) = view.as_object_mut() {
            object.insert("contact".into(), json!(self.is_known(party).then(|| self.name_of(party))));
        }
        let Some(code) = code else { return Ok(vec![view]) };
        recovery::require_code(&request.terms, code)?;
        // A device that is no live one has no card that anybody takes.
        let card = if self.is_sound() { Some(self.card()?) } else { None };
        let approval = Approval::sign(&request.terms, &seed, card.as_ref().map(|card| card.bytes()))?;
        if let Some(object) = view.as_object_mut() {
            object.insert("approved".into(), json!(true));
            object.insert("approval".into(), json!(approval.to_text()?));
        }
        tracing::info!(party = %party, "a recovery was approved");
        Ok(vec![view])
    }

    /// What the request shows of the party and what is held here of it, together.
    fn newest_log(&self, request: &RecoveryRequest) -> Result<PartyLog, Failure> {
        let mut log = request.log()?;
        let party: PartyId = request.terms.party;
        for entry in self.logs.get(&party).map(|held| held.log.identity_entries()).unwrap_or_default() {
            // One that does not fit into this set of entries adds nothing to it.
            let _ = log.add(entry.clone());
        }
        Ok(log)
    }
}
