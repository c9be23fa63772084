//! Names and values that others chose, made fit to stand in a message.
#![forbid(unsafe_code)]

/// Characters of a foreign name or value that a message shows.
const SHOWN: usize = 80;

/// `text` in double quotes, escaped to printable ASCII (so that look-alike letters and terminal escapes show as
/// what they are) and cut after 80 characters with the number of characters it had.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    let mut rest = text.chars();
    for c in rest.by_ref().take(SHOWN) {
        quoted.extend(c.escape_default());
    }
    let cut = rest.count();
    if cut > 0 {
        quoted.push('…');
    }
    quoted.push('"');
    if cut > 0 {
        quoted.push_str(&format!(" ({} characters)", SHOWN + cut));
    }
    quoted
}

/// `text` without control characters and without Unicode's direction marks, cut after `limit` characters: for
/// sentences that others' libraries made out of foreign values.
pub fn shorten(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == limit {
            out.push('…');
            break;
        }
        if c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// `path` as one word of a POSIX shell, for the commands that messages tell people to run.
pub fn shell(path: &std::path::Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", shorten(&text, 4096).replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped_and_cut() {
        assert_eq!(quote("a\n\u{1b}[31m\"Р"), r#""a\n\u{1b}[31m\"\u{420}""#);
        assert_eq!(quote(&"x".repeat(10_000)), format!("\"{}…\" (10000 characters)", "x".repeat(80)));
        assert_eq!(shorten("a\u{1b}b\u{202e}é", 10), "a\\u{1b}b\\u{202e}é");
        assert_eq!(shorten("abcdef", 3), "abc…");
    }

    #[test]
    fn commands_survive_odd_paths() {
        assert_eq!(shell("/a/b-c.d".as_ref()), "/a/b-c.d");
        assert_eq!(shell("/a b/it's".as_ref()), r"'/a b/it'\''s'");
        assert_eq!(shell("-rf".as_ref()), "'-rf'");
    }
}
