//! Texts and lengths of time as people can read them, whatever is in them: characters that cannot be shown, names that
//! are too long.
use crate::engine::time::Span;
use quick_xml::escape::escape;
use std::borrow::Cow;
use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_width::UnicodeWidthChar;

/// The text without what XML forbids, what breaks a line, and what turns the direction of the text around it: each such
/// character is replaced by a visible one.
pub fn shown(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| visible(c) == c) { Cow::Borrowed(text) } else { text.chars().map(visible).collect() }
}

fn visible(c: char) -> char {
    match c {
        // Unicode has a picture of each of these: ␊ for a line feed.
        '\0'..='\x1f' => char::from_u32(0x2400 + c as u32).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => char::REPLACEMENT_CHARACTER,
        // Marks, embeddings, overrides and isolates of direction.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            char::REPLACEMENT_CHARACTER
        }
        '\u{feff}' | '\u{fff9}'..='\u{fffb}' => char::REPLACEMENT_CHARACTER,
        // No characters: the last two of each plane, and a block.
        _ if c as u32 & 0xfffe == 0xfffe || matches!(c, '\u{fdd0}'..='\u{fdef}') => char::REPLACEMENT_CHARACTER,
        _ if c > '\x7f' && takes_no_room(c) => char::REPLACEMENT_CHARACTER,
        _ => c,
    }
}

/// Whether nothing at all is seen of a character: names that differ in it alone would look the same. Marks are seen on
/// what they stand on; joiners and what chooses a variant are how scripts and emoji are written.
fn takes_no_room(c: char) -> bool {
    match c {
        '\u{200c}' | '\u{200d}' => false,
        // Letters of Hangul that stand for none; other letters without a width are parts of a syllable.
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' => true,
        _ => {
            let unseen = || matches!(get_general_category(c), GeneralCategory::Format | GeneralCategory::Unassigned);
            c.width() == Some(0) && unseen()
        }
    }
}

/// For the text and the attributes of XML and HTML.
pub fn xml(text: &str) -> String {
    escape(shown(text)).into_owned()
}

/// Columns of a terminal.
pub fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// At most `most` columns, the last of them an ellipsis where something is left out.
pub fn cut_to_columns(text: &str, most: usize) -> Cow<'_, str> {
    cut(text, most as f64, 1.0, |c| c.width().unwrap_or(0) as f64)
}

/// At most `most` ems wide in a sans-serif font, the end of it an ellipsis where something is left out.
pub fn cut_to_ems(text: &str, most: f64) -> Cow<'_, str> {
    cut(text, most, 1.0, ems)
}

/// The width of a text in a sans-serif font, in ems: rather too much than too little.
pub fn width_in_ems(text: &str) -> f64 {
    text.chars().map(ems).sum()
}

/// Measured on wide fonts (DejaVu Sans, Verdana) in bold; others are narrower.
fn ems(c: char) -> f64 {
    match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' => 0.4,
        'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '/' | '\\' | '-' | '"' => 0.5,
        'm' | 'W' | '%' | '@' => 1.11,
        'w' | 'M' | '+' | '<' | '>' | '=' | '~' | '#' | '&' => 0.97,
        '_' => 0.5,
        'A'..='Z' => 0.82,
        '!'..='~' => 0.71,
        _ => match c.width() {
            Some(0) | None => 0.0,
            Some(1) => {
                if c.is_alphabetic() {
                    0.85
                } else {
                    1.05
                }
            }
            Some(_) => 1.1,
        },
    }
}

/// Cuts before a character that takes room, so that marks stay with what they stand on.
fn cut(text: &str, most: f64, ellipsis: f64, width: impl Fn(char) -> f64) -> Cow<'_, str> {
    let (mut total, mut fits) = (0.0, 0);
    for (at, c) in text.char_indices() {
        let wide = width(c);
        if wide > 0.0 && total + ellipsis <= most {
            fits = at;
        }
        total += wide;
        if total > most {
            return Cow::Owned(format!("{}…", text.get(..fits).unwrap_or_default().trim_end()));
        }
    }
    Cow::Borrowed(text)
}

/// `340 ms`, `1.2 s`, `2 min 5 s`, `3 h 20 min`, `2 d 4 h`
pub fn duration(span: Span) -> String {
    let micros = span.0.clamp(0, i64::MAX / 2);
    let (millis, tenths, seconds) =
        ((micros + 500) / 1_000, (micros + 50_000) / 100_000, (micros + 500_000) / 1_000_000);
    let both = |big: i64, unit: &str, small: i64, part: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {part}"),
    };
    match (millis, seconds) {
        (0, _) => "0 s".into(),
        (..1_000, _) => format!("{millis} ms"),
        _ if tenths < 100 => format!("{}.{} s", tenths / 10, tenths % 10),
        (_, ..60) => format!("{seconds} s"),
        (_, ..3_600) => both(seconds / 60, "min", seconds % 60, "s"),
        (_, ..86_400) => both(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => both(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_read_well() {
        let lengths = [-5, 499, 999_400, 1_240_000, 9_960_000, 14_999_000, 59_900_000, 125_000_000, 12_000_000_000];
        let expected = ["0 s", "0 s", "999 ms", "1.2 s", "10 s", "15 s", "1 min", "2 min 5 s", "3 h 20 min"];
        assert_eq!(lengths.map(|micros| duration(Span(micros))), expected);
        assert!(duration(Span(i64::MAX)).ends_with(" h"));
    }

    #[test]
    fn long_texts_end_in_an_ellipsis() {
        assert_eq!(cut_to_columns("validate", 8), "validate");
        assert_eq!(cut_to_columns("validate_", 8), "validat…");
        assert_eq!(cut_to_columns("出荷準備", 5), "出荷…");
        assert_eq!(cut_to_columns("e\u{301}e\u{301}e\u{301}", 2), "e\u{301}…");
    }

    #[test]
    fn nothing_invisible_stays() {
        assert_eq!(shown("a\nb\u{7f}\u{202e}c\u{ffff}"), "a␊b␡\u{fffd}c\u{fffd}");
        let unseen = "\u{ad}\u{200b}\u{2060}\u{2064}\u{180e}\u{115f}\u{1160}\u{3164}\u{ffa0}\u{1d173}\u{e0001}\u{e0041}\u{e007f}\u{e0000}";
        for c in unseen.chars() {
            assert_eq!(shown(&format!("a{c}b")), "a\u{fffd}b", "{}", c.escape_unicode());
        }
        // Scripts, syllables, flags and families.
        for kept in [
            "می\u{200c}خواهم",
            "क्\u{200d}ष",
            "\u{1112}\u{1161}\u{11ab}",
            "👩\u{200d}🚀",
            "❤\u{fe0f}",
            "e\u{301}",
            "\u{600}1",
        ] {
            assert_eq!(shown(kept), kept);
        }
        assert_eq!(xml("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&apos;");
    }
}
