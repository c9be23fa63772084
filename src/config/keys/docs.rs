//! The table of keys for the documents.

use super::Grant;
use crate::keys::{Key, Unit};
use crate::units;
use serde_json::Value;

/// The table in README.md.
#[must_use]
pub fn markdown() -> String {
    let row = |(key, built_in): (Key, Option<String>)| {
        let built_in = built_in.map_or_else(|| "–".to_owned(), |text| format!("`{text}`"));
        format!("| `{}` | {built_in} | {} |\n", key.name(), key.doc())
    };
    "| key | built-in | meaning |\n|---|---|---|\n".to_owned() + &built_in().map(row).collect::<String>()
}

/// The list in upm_config(5).
#[must_use]
pub fn mdoc() -> String {
    let mut page = ".Bl -tag -width Ds\n".to_owned();
    for (key, built_in) in built_in() {
        let value = built_in.map_or_else(String::new, |text| format!(" No = {}", argument(&text)));
        page += &format!(".It Ic {}{value}\n", key.name());
        page += &without_links(key.doc()).split(". ").map(sentence).collect::<String>();
    }
    page + ".El\n"
}

/// Each key with its built-in value, if it has one, as written in the configuration.
fn built_in() -> impl Iterator<Item = (Key, Option<String>)> {
    let grant = serde_json::to_value(Grant::built_in()).unwrap_or_default();
    Key::ALL.iter().map(move |key| {
        let text = match (&grant[key.name()], key.unit()) {
            (Value::Null, _) => None,
            (Value::Number(bytes), Some(Unit::Bytes)) => {
                bytes.as_u64().map(|bytes| format!("\"{}\"", units::size_text(bytes)))
            }
            (value, _) => Some(value.to_string()),
        };
        (*key, text)
    })
}

/// `[text](address)` as `text`.
fn without_links(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some((before, link)) = rest.split_once("](") {
        let (head, label) = before.rsplit_once('[').unwrap_or((before, ""));
        text = text + head + label;
        rest = link.split_once(')').map_or("", |(_, after)| after);
    }
    text + rest
}

/// A sentence as lines of mdoc(7): code and pages become macros on separate lines.
fn sentence(markdown: &str) -> String {
    let (first, rest) = markdown.split_at(markdown.chars().next().map_or(0, char::len_utf8));
    let text = format!("{}{}.", first.to_uppercase(), rest.trim_end_matches('.'));
    let mut lines: Vec<String> = Vec::new();
    for (at, part) in text.split('`').enumerate() {
        if at % 2 == 1 {
            let name = if Key::named(part).is_some() { "Ic" } else { "Ql" };
            lines.push(format!(".{name} {}", argument(part)));
            continue;
        }
        for word in part.split_whitespace() {
            match (reference(word), lines.last_mut()) {
                (Some(reference), _) => lines.push(reference),
                // After a macro, a punctuation mark is its last argument.
                (None, Some(line)) if !line.starts_with('.') || word.chars().all(|c| ".,;:".contains(c)) => {
                    *line = format!("{line} {word}");
                }
                _ => lines.push(word.to_owned()),
            }
        }
    }
    lines.join("\n") + "\n"
}

/// `inotify(7),` as a macro.
fn reference(word: &str) -> Option<String> {
    let (page, rest) = word.split_once('(')?;
    let (section, marks) = rest.split_once(')')?;
    let known = !page.is_empty() && section.len() == 1 && section.bytes().all(|b| b.is_ascii_digit());
    let marks: String = marks.chars().map(|c| format!(" {c}")).collect();
    known.then(|| format!(".Xr {page} {section}{marks}"))
}

/// A value as arguments of a macro.
fn argument(text: &str) -> String {
    text.replace('\\', "\\e").replace('"', "\\(dq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_of_markdown_is_lines_of_mdoc() {
        for (markdown, mdoc) in [
            ("of each file written", "Of each file written.\n"),
            ("below a `write` path they are read-only", "Below a\n.Ic write\npath they are read-only.\n"),
            ("not `UPM_*`", "Not\n.Ql UPM_* .\n"),
            ("`0` is none, as `\"a\"`; else", ".Ql 0\nis none, as\n.Ql \\(dqa\\(dq ;\nelse.\n"),
            (
                "watch by inotify(7), all of it, with chown(1)",
                "Watch by\n.Xr inotify 7 ,\nall of it, with\n.Xr chown 1 .\n",
            ),
        ] {
            assert_eq!(sentence(markdown), mdoc, "{markdown}");
        }
        assert_eq!(without_links("a [b c](#d), [e](f.md#g)"), "a b c, e");
    }
}
