//! Value representations (PS3.5 section 6.2), as far as they decide where a value ends.
//!
//! For: the shape of an element in explicit syntaxes. Not for: reading values.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vr {
    /// A length of 16 bits.
    Short,
    /// Two bytes of nothing and a length of 32 bits.
    Long,
    /// The same, holding items.
    Sequence,
    /// The same, holding who knows what; without a length it holds items written implicitly.
    Unknown,
    /// The same, and a pixel data element with it may hold fragments.
    Bytes,
}

impl Vr {
    pub(super) fn has_long_length(self) -> bool {
        self != Self::Short
    }
}

/// What the two letters say.
pub(super) fn vr(letters: [u8; 2]) -> Option<Vr> {
    match &letters {
        b"SQ" => Some(Vr::Sequence),
        b"UN" => Some(Vr::Unknown),
        b"OB" | b"OW" => Some(Vr::Bytes),
        b"OD" | b"OF" | b"OL" | b"OV" | b"SV" | b"UC" | b"UR" | b"UT" | b"UV" => Some(Vr::Long),
        b"AE" | b"AS" | b"AT" | b"CS" | b"DA" | b"DS" | b"DT" | b"FL" | b"FD" | b"IS" | b"LO" | b"LT"
        | b"PN" | b"SH" | b"SL" | b"SS" | b"ST" | b"TM" | b"UI" | b"UL" | b"US" => Some(Vr::Short),
        _ => None,
    }
}
