//! Options that `grant add`, `request add` and `request approve` share.

use super::record::ScopeArgs;
use crate::parse::duration_ms;

/// How long a grant counts if nobody says, in milliseconds. 90 days.
const EXPIRES_MS: i64 = 90 * 24 * 3_600_000;
/// How long a reader may be without word if nobody says, in milliseconds. 7 days.
const OFFLINE_MS: i64 = 7 * 24 * 3_600_000;

/// What a holder chooses to give.
#[derive(clap::Args, Debug)]
pub(crate) struct ChoiceArgs {
    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
    /// Exactly this record; may be given several times
    #[arg(long, value_name = "ID")]
    pub(crate) record: Vec<String>,
    /// Hold back what has this kind, category, code or sensitivity
    ///
    /// The reader is not told that there is such a record, nor that something is held back.
    #[arg(long, value_name = "LABEL", value_delimiter = ',')]
    pub(crate) exclude: Vec<String>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Only show which records it would cover
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// For how long.
#[derive(clap::Args, Debug)]
pub(crate) struct LimitArgs {
    /// How long it counts, at most 366 days [default: 90d, or what was asked]
    #[arg(long, value_name = "LENGTH", value_parser = duration_ms)]
    pub(crate) expires: Option<i64>,
    /// How long the reader may read on without fresh word from the holder [default: 7d, or what was asked]
    ///
    /// A revocation reaches a reader that is offline at the latest then.
    #[arg(long, value_name = "LENGTH", value_parser = duration_ms)]
    pub(crate) offline: Option<i64>,
}

impl LimitArgs {
    pub(crate) fn expires_or_default(&self) -> i64 {
        self.expires.unwrap_or(EXPIRES_MS)
    }

    pub(crate) fn offline_or_default(&self) -> i64 {
        self.offline.unwrap_or(OFFLINE_MS)
    }
}

/// About whom, what for, and by what right.
#[derive(clap::Args, Debug)]
pub(crate) struct TermsArgs {
    /// Records about this contact [default: about the party that gives]
    #[arg(long, value_name = "CONTACT")]
    pub(crate) subject: Option<String>,
    /// What for, as an HL7 PurposeOfUse code: TREAT, ETREAT, HPAYMT, HRESCH, ...
    #[arg(long, value_name = "CODE", default_value = "TREAT")]
    pub(crate) purpose: String,
    /// Why it is lawful: consent, vital-interest, legal-duty, contract
    #[arg(long, default_value = "consent")]
    pub(crate) basis: String,
    /// Whether the reader may take the records into its own
    #[arg(long, value_enum, default_value_t = Onward::No)]
    pub(crate) onward: Onward,
}

impl TermsArgs {
    pub(crate) fn keeps(&self) -> bool {
        self.onward == Onward::Keep
    }
}

#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Onward {
    /// Read while the grant counts
    No,
    /// Keep what was read, beyond the end of the grant
    Keep,
}
