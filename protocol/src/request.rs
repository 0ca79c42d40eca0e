//! Access requests: a party asks another for a grant. Asking gives nothing; whoever is asked signs a Grant, or does
//! not. As text `karte-request:…`, also as a QR code.

use crate::card::{self, CardError, Introduced};
use crate::encoding;
use crate::grant::{Bound, Onward, Scope, Window, kind_is_below};
use crate::id::{PartyId, Salt};
use crate::limits::{
    GRANT_MS_MAX, REQUEST_CHARS_MAX, REQUEST_MS_MAX, REQUEST_SCOPE_BYTES_MAX, TEXT_BYTES_MAX,
};
use crate::message::Bytes;
use crate::signed::{Signed, SignedError, Statement, Verified};
use crate::time::UnixMs;
use base64::Engine;
use serde::{Deserialize, Serialize};

/// What the text of a request begins with.
const PREFIX: &str = "karte-request:";

/// "Let us read these records, for this." Signed by a device of the party that asks. Its kind is not `request`, so that
/// nobody takes it for a control message of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRequest {
    /// Who is asked.
    pub to: PartyId,
    /// Whose records.
    pub subject: PartyId,
    /// Which of them.
    pub scope: Scope,
    /// HL7 v3 PurposeOfUse.
    pub purpose: String,
    /// Legal basis.
    pub basis: String,
    /// How long the grant should count from when it is given, in milliseconds.
    pub duration_ms: i64,
    /// How long the reader wants to read on without fresh word from the holder, in milliseconds.
    pub offline_ms: i64,
    /// Whether the reader wants to take records into its own.
    pub onward: Onward,
    /// Why, in the asker's own words.
    pub reason: String,
    /// Two requests for the same are two.
    pub nonce: Salt,
    /// The asker's clock. It can be answered for [`REQUEST_MS_MAX`] from then.
    pub at_ms: UnixMs,
}

impl Statement for AccessRequest {
    const KIND: &'static str = "access-request";
    fn check(&self) -> Result<(), &'static str> {
        self.scope
            .check()
            .map_err(|_| "expected a scope that names kinds or records, with lists of at most 500 items")?;
        let scope_bytes = encoding::encode(&self.scope).map_or(usize::MAX, |bytes| bytes.len());
        if scope_bytes > REQUEST_SCOPE_BYTES_MAX {
            return Err("expected a scope of at most 8,192 bytes");
        }
        if [&self.purpose, &self.basis].iter().any(|code| code.is_empty() || code.len() > 60) {
            return Err("expected a purpose and a basis of 1 to 60 bytes");
        }
        if self.duration_ms <= 0 || self.duration_ms > GRANT_MS_MAX {
            return Err("expected a duration of more than 0 and at most 366 days");
        }
        if self.offline_ms < 0 || self.offline_ms > GRANT_MS_MAX {
            return Err("expected an offline limit from 0 to 366 days");
        }
        if self.reason.len() > TEXT_BYTES_MAX {
            return Err("expected a reason of at most 500 bytes");
        }
        Ok(())
    }
}

/// What is given in answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Which records.
    pub scope: Scope,
    /// How long the grant counts, in milliseconds.
    pub duration_ms: i64,
    /// Its offline limit, in milliseconds.
    pub offline_ms: i64,
    /// What the reader may do beyond reading.
    pub onward: Onward,
}

/// Where an answer would give more than was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wider {
    /// Kinds that were not asked for.
    #[error("the kind {0} was not asked for")]
    Kind(String),
    /// Every kind, where some were asked for.
    #[error("a list of {0} was asked for, and none would cover all")]
    All(&'static str),
    /// A category that was not asked for.
    #[error("the category {0} was not asked for")]
    Category(String),
    /// A code that was not asked for.
    #[error("the code {0} was not asked for")]
    Code(String),
    /// A record that was not asked for by its id.
    #[error("the record {0} was not asked for")]
    Record(String),
    /// A longer window of time.
    #[error("the time {0} that was asked for begins later or ends earlier")]
    Window(&'static str),
    /// An instant against a wall clock: which is wider depends on where a record was made.
    #[error("the time {0} was asked for by another clock: with an offset or `Z`, or without")]
    Clock(&'static str),
    /// A longer grant.
    #[error("a shorter time was asked for")]
    Duration,
    /// A longer offline limit.
    #[error("a shorter offline limit was asked for")]
    Offline,
    /// Keeping, where reading was asked for.
    #[error("keeping was not asked for")]
    Onward,
}

impl AccessRequest {
    /// Until when it can be answered, exclusive.
    pub fn ends_ms(&self) -> UnixMs {
        self.at_ms.saturating_add(REQUEST_MS_MAX)
    }

    /// What was asked for, whole.
    pub fn wish(&self) -> Offered {
        Offered {
            scope: self.scope.clone(),
            duration_ms: self.duration_ms,
            offline_ms: self.offline_ms,
            onward: self.onward,
        }
    }

    /// That an answer gives nothing beyond what was asked: whatever `offered` covers, the request covers.
    pub fn allows(&self, offered: &Offered) -> Result<(), Wider> {
        is_within(&offered.scope, &self.scope)?;
        if offered.duration_ms > self.duration_ms {
            return Err(Wider::Duration);
        }
        if offered.offline_ms > self.offline_ms {
            return Err(Wider::Offline);
        }
        match (self.onward, offered.onward) {
            (Onward::No, Onward::Keep) => Err(Wider::Onward),
            _ => Ok(()),
        }
    }
}

/// That a scope covers no record beyond another, decided list by list: what cannot be seen to be narrower is refused.
pub fn is_within(given: &Scope, asked: &Scope) -> Result<(), Wider> {
    let kind = outside("kinds", &given.kinds, &asked.kinds, |wide, kind| kind_is_below(kind, wide))?;
    let category = outside("categories", &given.categories, &asked.categories, |wide, one| wide == one)?;
    let code = outside("codes", &given.codes, &asked.codes, |wide, code| wide.matches(code))?;
    let record = outside("records", &given.records, &asked.records, |wide, one| wide == one)?;
    match (kind, category, code, record) {
        (Some(kind), ..) => Err(Wider::Kind(kind.clone())),
        (_, Some(category), ..) => Err(Wider::Category(category.clone())),
        (_, _, Some(code), _) => Err(Wider::Code(code.code.clone())),
        (.., Some(record)) => Err(Wider::Record(record.to_hex())),
        (None, None, None, None) => window_within(given.window, asked.window),
    }
}

/// The first of a list that nothing of the other covers.
fn outside<'a, T>(
    what: &'static str,
    given: &'a [T],
    asked: &[T],
    covers: impl Fn(&T, &T) -> bool,
) -> Result<Option<&'a T>, Wider> {
    if asked.is_empty() {
        return Ok(None);
    }
    if given.is_empty() {
        return Err(Wider::All(what));
    }
    Ok(given.iter().find(|item| !asked.iter().any(|wide| covers(wide, item))))
}

fn window_within(given: Option<Window>, asked: Option<Window>) -> Result<(), Wider> {
    let Some(asked) = asked else { return Ok(()) };
    // Even a window without bounds keeps out records that have no time.
    let given = given.ok_or(Wider::Window("from"))?;
    bound_within("from", given.from, asked.from, |given, asked| given >= asked)?;
    bound_within("until", given.until, asked.until, |given, asked| given <= asked)
}

fn bound_within(
    name: &'static str,
    given: Option<Bound>,
    asked: Option<Bound>,
    is_inside: impl Fn(UnixMs, UnixMs) -> bool,
) -> Result<(), Wider> {
    match (given, asked) {
        (_, None) => Ok(()),
        (Some(Bound::Instant(given)), Some(Bound::Instant(asked)))
        | (Some(Bound::Local(given)), Some(Bound::Local(asked)))
            if is_inside(given, asked) =>
        {
            Ok(())
        }
        (Some(Bound::Instant(_)), Some(Bound::Local(_)))
        | (Some(Bound::Local(_)), Some(Bound::Instant(_))) => Err(Wider::Clock(name)),
        _ => Err(Wider::Window(name)),
    }
}

// --- as text

/// What the text form holds: the request, and who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Letter {
    /// The signed card of the party that asks: a stranger's request can be checked, and answered.
    card: Bytes,
    /// The signed request.
    request: Bytes,
}

/// A request whose card says who asks, and whose signature is of a device on that card.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who asks.
    pub from: Introduced,
    /// What for.
    pub request: Verified<AccessRequest>,
}

/// Why a request's text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a request.
    #[error(
        "expected a request that starts with karte-request: and has at most {REQUEST_CHARS_MAX} characters"
    )]
    NotRequest,
    /// Damaged.
    #[error("the request is damaged: {0}")]
    Damaged(String),
    /// Too much for a text.
    #[error("the request is too long for a text: expected at most {REQUEST_CHARS_MAX} characters, got {0}")]
    TooLong(usize),
    /// The request is not signed as it should be.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// The card in it is none.
    #[error("the card in the request does not say who asks: {0}")]
    Card(#[from] CardError),
    /// Signed by somebody else.
    #[error("the request is not signed by a device of the party that asks")]
    Stranger,
}

/// The text form: `karte-request:` and the base64url of canonical `{card, request}`.
pub fn to_text(
    card: &Verified<card::Card>,
    request: &Verified<AccessRequest>,
) -> Result<String, RequestError> {
    let letter = Letter { card: card.bytes().to_vec().into(), request: request.bytes().to_vec().into() };
    let bytes = encoding::encode(&letter).map_err(|error| RequestError::Damaged(error.to_string()))?;
    let text = format!("{PREFIX}{}", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes));
    if text.len() > REQUEST_CHARS_MAX {
        return Err(RequestError::TooLong(text.len()));
    }
    Ok(text)
}

/// Reads a request's text. Blanks and line breaks, as a mail program adds them, are passed over.
pub fn from_text(text: &str) -> Result<Asked, RequestError> {
    let text: String = text.split_whitespace().collect();
    let body = text.strip_prefix(PREFIX).ok_or(RequestError::NotRequest)?;
    if text.len() > REQUEST_CHARS_MAX {
        return Err(RequestError::NotRequest);
    }
    let damaged = |error: String| RequestError::Damaged(error);
    let bytes =
        base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(body).map_err(|error| damaged(error.to_string()))?;
    let letter: Letter =
        encoding::decode(&bytes, REQUEST_CHARS_MAX).map_err(|error| damaged(error.to_string()))?;
    let from = card::introduce(&letter.card)?;
    let request = Signed::<AccessRequest>::from_bytes(letter.request.to_vec()).verify()?;
    let is_theirs = request.is_by(from.log.party()) && from.log.state().has_device(&request.by().device);
    if !is_theirs {
        return Err(RequestError::Stranger);
    }
    Ok(Asked { from, request })
}
