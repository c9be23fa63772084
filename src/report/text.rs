//! Untrusted text made harmless: which characters a terminal or a log reader may act on, and how they are shown.
#![forbid(unsafe_code)]

use std::fmt::Write;

/// True for a character that a terminal acts on or that hides or reorders what stands around it: C0 and C1 controls,
/// DEL, line and paragraph separators, the bidirectional controls, and characters that draw nothing (Unicode's
/// `Default_Ignorable_Code_Point` without the plain variation selectors, which only choose a glyph's form).
#[must_use]
pub fn is_control(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text with every [`is_control`] character written out (`\x1b`, `\u{202e}`). With `lines`, newline and tab stay.
#[must_use]
pub fn escape(text: &str, lines: bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        push_escaped(&mut safe, c, lines);
    }
    safe
}

/// Tells stderr one line, where anybody still reads it: the answer is what counts, and `eprintln!` panics when the pipe, or
/// the journal's stream, is gone.
pub fn complain(message: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    drop(std::io::stderr().write_all(format!("upm: {message}\n").as_bytes()));
}

/// One character of [`escape`].
pub(crate) fn push_escaped(safe: &mut String, c: char, lines: bool) {
    if !is_control(c) || (lines && matches!(c, '\n' | '\t')) {
        safe.push(c);
        return;
    }
    // Writing to a String cannot fail.
    let _ = match c {
        '\n' => safe.write_str("\\n"),
        '\t' => safe.write_str("\\t"),
        '\r' => safe.write_str("\\r"),
        c if u32::from(c) < 0x100 => write!(safe, "\\x{:02x}", u32::from(c)),
        c => write!(safe, "\\u{{{:x}}}", u32::from(c)),
    };
}

/// The text escaped and cut to at most `limit` characters, with `…` where something is missing: for sentences that
/// quote what a caller or a plugin wrote.
#[must_use]
pub fn quote(text: &str, limit: usize) -> String {
    let mut quoted = String::new();
    let mut characters = text.chars();
    for c in characters.by_ref().take(limit) {
        push_escaped(&mut quoted, c, false);
    }
    if characters.next().is_some() {
        quoted.push('…');
    }
    quoted
}

/// Rendered JSON with every control character beyond ASCII written as `\uXXXX`.
///
/// It stays the same JSON: outside strings JSON has no such characters, and `serde_json` has escaped C0 inside them.
#[must_use]
pub fn escape_json(document: &str) -> String {
    let mut safe = String::with_capacity(document.len());
    for c in document.chars() {
        if u32::from(c) >= 0x7f && is_control(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn controls_and_invisible_characters_are_written_out() {
        let hostile = "a\x1b[2J\x07\u{9b}31m\u{202e}x\u{200b}\u{7f}\u{feff}\u{e0041}é漢🦀";
        assert_eq!(escape(hostile, false), "a\\x1b[2J\\x07\\x9b31m\\u{202e}x\\u{200b}\\x7f\\u{feff}\\u{e0041}é漢🦀");
        assert_eq!(escape("a\r\n\tb", false), "a\\r\\n\\tb");
        assert_eq!(escape("a\r\n\tb", true), "a\\r\n\tb");
    }

    #[test]
    fn quotes_are_bounded() {
        assert_eq!(quote(&"A".repeat(10_000), 5), "AAAAA…");
        assert_eq!(quote("AAAAA", 5), "AAAAA");
        assert_eq!(quote("é\n", 2), "é\\n");
    }

    #[test]
    fn json_for_a_terminal_says_the_same() {
        let value = json!({"k\u{9b}": "a\x1b\u{7f}\u{85}\u{202e}\u{2066}\u{e0041}\u{2028}é🦀\"\\"});
        let rendered = escape_json(&serde_json::to_string(&value).unwrap());
        assert_eq!(rendered, r#"{"k\u009b":"a\u001b\u007f\u0085\u202e\u2066\udb40\udc41\u2028é🦀\"\\"}"#);
        assert_eq!(serde_json::from_str::<Value>(&rendered).unwrap(), value);
    }

    proptest::proptest! {
        #[test]
        fn no_control_survives(text in ".*") {
            proptest::prop_assert!(!escape(&text, false).chars().any(is_control));
            let json = serde_json::to_string(&text).unwrap();
            let safe = escape_json(&json);
            proptest::prop_assert!(!safe.chars().any(is_control));
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), text);
        }
    }
}
