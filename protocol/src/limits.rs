//! Bounds of the protocol, each with its unit and reason. A receiver refuses what is larger.

/// Largest signed object, in bytes. 64 KiB: a segment of 1,000 records (34 KB) fits with room.
pub const SIGNED_BYTES_MAX: usize = 64 * 1024;
/// Largest inside of a sealed label, in bytes. 256 KiB: a label is a signed object, and its author's identity entries travel
/// beside it.
pub const SEALED_LABEL_BYTES_MAX: usize = 256 * 1024;
/// Records in one shelf segment. 1,000: the open list stays below [`SIGNED_BYTES_MAX`].
pub const SEGMENT_RECORDS_MAX: usize = 1_000;
/// Largest age file of a segment's keys, in bytes. 1,000 entries of about 140 bytes, and headroom.
pub const SEGMENT_KEYS_BYTES_MAX: usize = 256 * 1024;
/// Records named by one receipt. The same as a segment.
pub const RECEIPT_RECORDS_MAX: usize = 1_000;
/// Largest control message, in bytes. 1 MiB: three segments with their keys, or some thousand log entries.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Largest frame of a payload stream, in bytes: one slice with its tree nodes and a label.
pub const FRAME_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest slice of a payload in one frame, in bytes. 1 MiB: the most that is sent after a permission ended.
pub const SLICE_BYTES_MAX: u64 = 1024 * 1024;
/// Records in one want-list. Bounds the memory of the side that serves.
pub const WANTS_MAX: usize = 1_000;
/// Longest grant, in milliseconds. 366 days: nobody should meet a permission they have forgotten for years.
pub const GRANT_MS_MAX: i64 = 366 * crate::time::DAY_MS;
/// Longest lease of a Status, in milliseconds. 24 hours.
pub const LEASE_MS_MAX: i64 = crate::time::DAY_MS;
/// Furthest a peer's clock may run ahead of ours, in milliseconds. 10 minutes.
pub const CLOCK_SKEW_MS_MAX: i64 = 10 * crate::time::MINUTE_MS;
/// Longest life of a serving session opened by a Release, in milliseconds. 1 hour.
pub const SESSION_MS_MAX: i64 = crate::time::HOUR_MS;
/// Longest text of a card, in characters. A Genesis, some devices, five addresses; still one QR code (version 40 holds 2,953 bytes).
pub const CARD_CHARS_MAX: usize = 2_900;
/// Longest text of an access request, in characters. 8,192: a card and a request with some codes; the usual one is below
/// 2,953 and fits a QR code.
pub const REQUEST_CHARS_MAX: usize = 8_192;
/// Largest scope of an access request, in bytes. 8 KiB: some hundred codes, and a thousand waiting requests take 16 MB.
pub const REQUEST_SCOPE_BYTES_MAX: usize = 8_192;
/// How long an access request can be answered, in milliseconds. 30 days: until the next visit.
pub const REQUEST_MS_MAX: i64 = 30 * crate::time::DAY_MS;
/// Longest text of a recovery (key, request, approval), in bytes. 64 KiB: the identity entries of a party that changed
/// devices a hundred times; read from mail or a file. One that fits a QR code has at most [`CARD_CHARS_MAX`] characters.
pub const RECOVERY_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Longest text of an invitation, in characters. A card, a secret and a time.
pub const INVITE_CHARS_MAX: usize = CARD_CHARS_MAX + 200;
/// Largest plaintext of one record, in bytes. 256 TiB: far above any file, and far below where sums overflow.
pub const RECORD_BYTES_MAX: u64 = 1 << 48;
/// Longest name of a party or alias, in bytes.
pub const NAME_BYTES_MAX: usize = 100;
/// Longest title of a record, in bytes.
pub const TITLE_BYTES_MAX: usize = 200;
/// Longest free text a person writes (reason, staff), in bytes.
pub const TEXT_BYTES_MAX: usize = 500;
/// Longest list inside a label or a scope, in items.
pub const LIST_ITEMS_MAX: usize = 500;
/// Most devices in one party. A person has three; a hospital's rack fits.
pub const DEVICES_MAX: usize = 64;
/// Entries of one party that are held in one generation, in bytes. Above it the party is disputed (SPEC rule 3).
pub const LOG_BYTES_MAX: usize = 256 * 1024 * 1024;
