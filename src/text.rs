//! Text that others chose, made fit for where it is shown. One function for each place:
//!
//! - [`escape`]: a terminal or a log, whole;
//! - [`shorten`]: a sentence, at most so many characters;
//! - [`quote`]: a sentence, in double quotes, where each character must differ from others that look like it;
//! - [`shell`]: a command that the reader is to run;
//! - [`escape_json`]: JSON on a terminal, still the same JSON.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt::Write;

/// Characters that [`quote`] shows.
const QUOTED: usize = 80;

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

/// The text as [`escape`] shows one line, cut after `limit` characters with `…`.
#[must_use]
pub fn shorten(text: &(impl AsRef<OsStr> + ?Sized), limit: usize) -> String {
    let text = text.as_ref().to_string_lossy();
    let mut short = String::new();
    let mut characters = text.chars();
    for c in characters.by_ref().take(limit) {
        push_escaped(&mut short, c, false);
    }
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

/// The text in double quotes, escaped to printable ASCII (so that look-alike letters show as what they are) and cut
/// after 80 characters with the number of characters it had.
#[must_use]
pub fn quote(text: &(impl AsRef<OsStr> + ?Sized)) -> String {
    let text = text.as_ref().to_string_lossy();
    let mut quoted = String::from("\"");
    let mut rest = text.chars();
    for c in rest.by_ref().take(QUOTED) {
        quoted.extend(c.escape_default());
    }
    let cut = rest.count();
    if cut > 0 {
        quoted.push('…');
    }
    quoted.push('"');
    if cut > 0 {
        quoted.push_str(&format!(" ({} characters)", QUOTED + cut));
    }
    quoted
}

/// The text, often a path, as one word of a POSIX shell, for the commands that messages tell people to run.
#[must_use]
pub fn shell(text: &(impl AsRef<OsStr> + ?Sized)) -> String {
    let text = text.as_ref().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        text.into_owned()
    } else {
        single_quoted(&shorten(&*text, 4096))
    }
}

/// Exactly this text as one word of a POSIX shell: nothing is escaped or cut.
pub(crate) fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
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
    fn short_text_is_bounded() {
        assert_eq!(shorten(&"A".repeat(10_000), 5), "AAAAA…");
        assert_eq!(shorten("AAAAA", 5), "AAAAA");
        assert_eq!(shorten("é\n", 2), "é\\n");
    }

    #[test]
    fn quoted_text_is_ascii_and_bounded() {
        assert_eq!(quote("a\n\u{1b}[31m\"Р"), r#""a\n\u{1b}[31m\"\u{420}""#);
        assert_eq!(quote(&"x".repeat(10_000)), format!("\"{}…\" (10000 characters)", "x".repeat(80)));
    }

    #[test]
    fn commands_survive_odd_paths() {
        assert_eq!(shell("/a/b-c.d"), "/a/b-c.d");
        assert_eq!(shell("/a b/it's"), r"'/a b/it'\''s'");
        assert_eq!(shell("-rf"), "'-rf'");
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
