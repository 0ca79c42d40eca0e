//! Transfer syntaxes: how a data set is written (PS3.5 section 10, PS3.6 annex A).
//!
//! For: which of four ways of writing the elements a syntax has, and which codec its frames. Not for: values.

/// How elements are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    pub(super) explicit: bool,
    pub(super) big_endian: bool,
}

pub(super) const IMPLICIT_LITTLE: Encoding = Encoding { explicit: false, big_endian: false };
pub(super) const EXPLICIT_LITTLE: Encoding = Encoding { explicit: true, big_endian: false };
pub(super) const EXPLICIT_BIG: Encoding = Encoding { explicit: true, big_endian: true };

/// How the bytes of a frame are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Native,
    Rle,
    /// Baseline and lossless JPEG.
    Jpeg,
    Jpeg2000,
    /// Named, kept, not decoded.
    None(&'static str),
}

/// What is known of a transfer syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Syntax {
    pub(super) encoding: Encoding,
    pub(super) deflated: bool,
    pub(super) codec: Codec,
}

/// The syntaxes by their last components, below 1.2.840.10008.1.2; `None` for a private or unknown one.
pub(super) fn known(uid: &str) -> Option<Syntax> {
    let rest = uid.strip_prefix("1.2.840.10008.1.2")?;
    let plain = |encoding| Some(Syntax { encoding, deflated: false, codec: Codec::Native });
    let framed = |codec| Some(Syntax { encoding: EXPLICIT_LITTLE, deflated: false, codec });
    match rest {
        "" => plain(IMPLICIT_LITTLE),
        ".1" => plain(EXPLICIT_LITTLE),
        ".2" => plain(EXPLICIT_BIG),
        ".1.99" => Some(Syntax { encoding: EXPLICIT_LITTLE, deflated: true, codec: Codec::Native }),
        ".5" => framed(Codec::Rle),
        ".4.50" | ".4.57" | ".4.70" => framed(Codec::Jpeg),
        // Process 2 and 4 may have 8 bits, which the decoder reads; with 12 bits the decoder itself refuses.
        ".4.51" => framed(Codec::Jpeg),
        ".4.90" | ".4.91" => framed(Codec::Jpeg2000),
        ".4.95" => {
            Some(Syntax { encoding: EXPLICIT_LITTLE, deflated: true, codec: Codec::None("JPIP, deflated") })
        }
        _ => framed(Codec::None(name(rest))),
    }
}

fn name(rest: &str) -> &'static str {
    match rest {
        ".4.80" => "JPEG-LS, lossless",
        ".4.81" => "JPEG-LS, near-lossless",
        ".4.53" => "JPEG process 6 and 8, retired",
        ".4.55" => "JPEG process 10 and 12, retired",
        ".4.92" | ".4.93" => "JPEG 2000, part 2",
        ".4.94" => "JPIP",
        ".4.110" | ".4.111" | ".4.112" => "JPEG XL",
        ".4.201" | ".4.202" | ".4.203" => "High-Throughput JPEG 2000",
        _ if rest.starts_with(".4.10") => "video",
        _ => "without a decoder",
    }
}
