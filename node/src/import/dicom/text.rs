//! Text values: Specific Character Set (0008,0005) and code extensions (PS3.3 C.12.1.1.2, PS3.5 section 6.1.2.5).
//!
//! For: titles from descriptions, whatever script they are in. Not for: loss-free text; a byte that means nothing in
//! its set shows as U+FFFD, and the record keeps the original.

use encoding_rs::{
    BIG5, EUC_JP, EUC_KR, Encoding, GB18030, ISO_8859_2, ISO_8859_3, ISO_8859_4, ISO_8859_5, ISO_8859_6,
    ISO_8859_7, ISO_8859_8, ISO_8859_15, SHIFT_JIS, UTF_8, WINDOWS_874, WINDOWS_1252, WINDOWS_1254,
};

const ESCAPE: u8 = 0x1b;

/// What the bytes of a piece stand for.
#[derive(Clone, Copy)]
enum Set {
    Single(&'static Encoding),
    /// JIS X 0208 in the lower half of the code table: two bytes of 7 bits.
    Kanji,
    /// JIS X 0212, the same way.
    MoreKanji,
}

/// `bytes` as text, where `charsets` is the value of Specific Character Set.
pub(super) fn decode(bytes: &[u8], charsets: &str) -> String {
    let mut names = charsets.split('\\').map(str::trim);
    let first = names.next().unwrap_or_default();
    let initial = Set::Single(initial(first));
    // UTF-8 and GB 18030 have no code extensions: an escape is not one.
    if matches!(first, "ISO_IR 192" | "GB18030" | "GBK") {
        return trimmed(piece(bytes, initial));
    }
    let mut pieces = bytes.split(|byte| *byte == ESCAPE);
    let mut text = piece(pieces.next().unwrap_or_default(), initial);
    let mut set = initial;
    for rest in pieces {
        let (next, length) = designated(rest, set);
        set = next;
        text.push_str(&piece(rest.get(length..).unwrap_or_default(), set));
    }
    trimmed(text)
}

fn trimmed(text: String) -> String {
    text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned()
}

/// The set that a value starts in.
fn initial(name: &str) -> &'static Encoding {
    // ISO 2022 IR 100 is ISO_IR 100 with escapes allowed.
    let number = name.strip_prefix("ISO_IR ").or_else(|| name.strip_prefix("ISO 2022 IR ")).unwrap_or(name);
    match number {
        "101" => ISO_8859_2,
        "109" => ISO_8859_3,
        "110" => ISO_8859_4,
        "144" => ISO_8859_5,
        "127" => ISO_8859_6,
        "126" => ISO_8859_7,
        "138" => ISO_8859_8,
        "148" => WINDOWS_1254,
        "203" => ISO_8859_15,
        "166" => WINDOWS_874,
        // JIS X 0201 is the single-byte part of Shift JIS.
        "13" => SHIFT_JIS,
        "149" => EUC_KR,
        "192" => UTF_8,
        "GB18030" | "GBK" | "58" => GB18030,
        "BIG5" => BIG5,
        // Without a set it is ASCII; windows-1252 reads that, and Latin-1 where a writer forgot to say so.
        _ => WINDOWS_1252,
    }
}

/// What an escape sequence switches to (PS3.3 tables C.12-3 and C.12-4), and its length without the escape.
fn designated(rest: &[u8], now: Set) -> (Set, usize) {
    let single = |encoding, length| (Set::Single(encoding), length);
    match rest {
        [b'$', b'B' | b'@', ..] => (Set::Kanji, 2),
        [b'$', b'(', b'D', ..] => (Set::MoreKanji, 3),
        [b'$', b')', b'C', ..] => single(EUC_KR, 3),
        [b'$', b')', b'A', ..] => single(GB18030, 3),
        [b')', b'I', ..] | [b'(', b'J', ..] => single(SHIFT_JIS, 2),
        [b'-', b'A', ..] => single(WINDOWS_1252, 2),
        [b'-', b'B', ..] => single(ISO_8859_2, 2),
        [b'-', b'C', ..] => single(ISO_8859_3, 2),
        [b'-', b'D', ..] => single(ISO_8859_4, 2),
        [b'-', b'L', ..] => single(ISO_8859_5, 2),
        [b'-', b'G', ..] => single(ISO_8859_6, 2),
        [b'-', b'F', ..] => single(ISO_8859_7, 2),
        [b'-', b'H', ..] => single(ISO_8859_8, 2),
        [b'-', b'M', ..] => single(WINDOWS_1254, 2),
        [b'-', b'T', ..] => single(WINDOWS_874, 2),
        // Back to ASCII below; what stands above stays as it was, where it was something.
        [b'(', b'B', ..] => match now {
            Set::Single(encoding) => single(encoding, 2),
            Set::Kanji | Set::MoreKanji => single(WINDOWS_1252, 2),
        },
        _ => (now, 0),
    }
}

fn piece(bytes: &[u8], set: Set) -> String {
    let (encoding, bytes) = match set {
        Set::Single(encoding) => return encoding.decode_without_bom_handling(bytes).0.into_owned(),
        Set::Kanji => (EUC_JP, upper(bytes, &[])),
        Set::MoreKanji => (EUC_JP, upper(bytes, &[0x8f])),
    };
    encoding.decode_without_bom_handling(&bytes).0.into_owned()
}

/// Pairs of 7 bits as EUC has them: with the upper bit, each after `prefix`. Control characters stand alone.
fn upper(bytes: &[u8], prefix: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() * 2);
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        match after.split_first() {
            Some((second, after)) if *first > b' ' => {
                out.extend_from_slice(prefix);
                out.extend([first | 0x80, second | 0x80]);
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}
