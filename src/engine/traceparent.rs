//! The trace that a task belongs to, as W3C Trace Context writes it: `00-<trace id>-<parent span id>-<flags>`.
//!
//! In: what is well formed, and what is kept of it. Out: who makes spans.

/// Its length in bytes, in version 00.
pub const LENGTH: usize = 55;

/// Why a text is no traceparent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    Length,
    Version,
    TraceId,
    ParentId,
    Flags,
    /// Something stands where a hyphen or the end must be.
    Separator,
}

impl Malformed {
    pub fn reason(self) -> &'static str {
        match self {
            Malformed::Length => "It is too short, or longer than its version allows.",
            Malformed::Version => "The version must be two lower-case hexadecimal digits, and not ff.",
            Malformed::TraceId => "The trace id must be 32 lower-case hexadecimal digits, not all zero.",
            Malformed::ParentId => "The parent id must be 16 lower-case hexadecimal digits, not all zero.",
            Malformed::Flags => "The flags must be two lower-case hexadecimal digits.",
            Malformed::Separator => "Version, trace id, parent id and flags must be separated by hyphens.",
        }
    }
}

/// What is kept of a traceparent. One of version 00 is kept as it is; of a later version, which may say more than this
/// one knows, the ids and the flag `sampled` count, and it goes on as version 00: so the standard wants it.
pub fn parse(text: &str) -> Result<String, Malformed> {
    let bytes = text.as_bytes();
    let field = |from: usize, to: usize| bytes.get(from..to).ok_or(Malformed::Length);
    let version = field(0, 2)?;
    if !is_hex(version) || version == b"ff" {
        return Err(Malformed::Version);
    }
    let is_known = version == b"00";
    if bytes.len() < LENGTH || (is_known && bytes.len() > LENGTH) {
        return Err(Malformed::Length);
    }
    if [2, 35, 52].into_iter().any(|place| bytes.get(place) != Some(&b'-'))
        || bytes.get(LENGTH).is_some_and(|&next| next != b'-')
    {
        return Err(Malformed::Separator);
    }
    let (trace_id, parent_id, flags) = (field(3, 35)?, field(36, 52)?, field(53, LENGTH)?);
    if !is_hex(trace_id) || is_zero(trace_id) {
        return Err(Malformed::TraceId);
    }
    if !is_hex(parent_id) || is_zero(parent_id) {
        return Err(Malformed::ParentId);
    }
    if !is_hex(flags) {
        return Err(Malformed::Flags);
    }
    if is_known {
        return Ok(text.to_owned());
    }
    // Digits only up to here, so this is a border between characters.
    let ids = text.get(2..53).ok_or(Malformed::Length)?;
    let sampled = flags.get(1).is_some_and(|digit| hex(*digit).is_some_and(|value| value & 1 == 1));
    Ok(format!("00{ids}{}", if sampled { "01" } else { "00" }))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn is_hex(digits: &[u8]) -> bool {
    digits.iter().all(|&digit| hex(digit).is_some())
}

fn is_zero(digits: &[u8]) -> bool {
    digits.iter().all(|&digit| digit == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn version_00_is_kept_as_it_is() {
        assert_eq!(parse(GOOD).as_deref(), Ok(GOOD));
        let more_flags = GOOD.replace("-01", "-ff");
        assert_eq!(parse(&more_flags), Ok(more_flags.clone()));
        assert_eq!(parse(&format!("{GOOD}-what")), Err(Malformed::Length));
        assert_eq!(parse(&GOOD[..54]), Err(Malformed::Length));
    }

    #[test]
    fn a_later_version_counts_for_what_this_one_knows() {
        let later = GOOD.replacen("00", "cc", 1);
        assert_eq!(parse(&later).as_deref(), Ok(GOOD));
        assert_eq!(parse(&format!("{later}-what-the-future-will-be")).as_deref(), Ok(GOOD));
        assert_eq!(parse(&later.replace("-01", "-fe")), Ok(GOOD.replace("-01", "-00")));
        assert_eq!(parse(&format!("{later}.what")), Err(Malformed::Separator));
        assert_eq!(parse(&GOOD.replacen("00", "ff", 1)), Err(Malformed::Version));
    }

    #[test]
    fn what_is_malformed_is_told_apart() {
        let zero_trace = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let zero_parent = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01";
        for (text, wrong) in [
            ("", Malformed::Length),
            (&GOOD.to_uppercase(), Malformed::TraceId),
            (zero_trace, Malformed::TraceId),
            (zero_parent, Malformed::ParentId),
            (&GOOD.replace("-01", "-0g"), Malformed::Flags),
            (&GOOD.replace('-', "_"), Malformed::Separator),
            (&GOOD.replacen("00", "0x", 1), Malformed::Version),
            (&GOOD.replace("b7ad", "ä7a"), Malformed::ParentId),
        ] {
            assert_eq!(parse(text), Err(wrong), "{text}");
        }
    }
}
