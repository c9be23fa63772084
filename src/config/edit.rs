//! A configuration change in the file's own format: as the lines to add, and as the whole new text.

use crate::types::{Change, Setting};
use serde_json::{Map, Value};
use std::fmt::Write;
use toml_edit::{DocumentMut, Item, Table, TableLike};

/// `change` as lines to add to a configuration: TOML tables, or a JSON object.
#[must_use]
pub fn lines(change: &Change, is_json: bool) -> String {
    if is_json {
        let mut root = Value::Object(Map::new());
        for setting in &change.0 {
            set_json(&mut root, setting);
        }
        return root.to_string();
    }
    let mut text = String::new();
    let mut table: Option<&[String]> = None;
    for setting in &change.0 {
        if table != Some(&setting.table) {
            let separator = if text.is_empty() { "" } else { "\n" };
            // Writing to a String cannot fail.
            writeln!(text, "{separator}[{}]", setting.table.join(".")).expect("a string grows");
            table = Some(&setting.table);
        }
        writeln!(text, "{} = {}", setting.key, value(&setting.value)).expect("a string grows");
    }
    text.truncate(text.trim_end().len());
    text
}

/// `text` with `change` applied. The rest of a TOML file stays unchanged, with its comments; JSON is formatted with two spaces.
///
/// # Errors
/// A message: the text does not parse, or has another value where a table is expected.
pub fn apply(text: &str, is_json: bool, change: &Change) -> Result<String, String> {
    if is_json {
        let mut root: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        for setting in &change.0 {
            set_json(&mut root, setting);
        }
        return pretty(&root);
    }
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
    for setting in &change.0 {
        let mut place: &mut dyn TableLike = document.as_table_mut();
        for (depth, name) in setting.table.iter().enumerate() {
            let last = depth + 1 == setting.table.len();
            let item = place.entry(name).or_insert_with(|| {
                let mut table = Table::new();
                // Only the innermost table gets a header.
                table.set_implicit(!last);
                Item::Table(table)
            });
            if let (true, Item::Table(table)) = (last, &mut *item) {
                table.set_implicit(false);
            }
            place = item
                .as_table_like_mut()
                .ok_or_else(|| format!("{} is not a table", setting.table[..=depth].join(".")))?;
        }
        let new: toml_edit::Value =
            value(&setting.value).parse().map_err(|error: toml_edit::TomlError| error.message().to_owned())?;
        match place.get_mut(&setting.key).and_then(Item::as_value_mut) {
            // Keep what surrounds the old value, such as a comment after it.
            Some(old) => {
                let decor = old.decor().clone();
                *old = new;
                *old.decor_mut() = decor;
            }
            None => drop(place.insert(&setting.key, Item::Value(new))),
        }
    }
    Ok(document.to_string())
}

/// JSON as [`apply`] formats it, to compare a changed text with.
///
/// # Errors
/// A message: the text is not JSON.
pub fn pretty_json(text: &str) -> Result<String, String> {
    let root: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    pretty(&root)
}

fn pretty(root: &Value) -> Result<String, String> {
    Ok(serde_json::to_string_pretty(root).map_err(|error| error.to_string())? + "\n")
}

/// A value as TOML.
fn value(value: &Value) -> String {
    toml::Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string())
}

fn set_json(root: &mut Value, setting: &Setting) {
    let mut place = root;
    for name in setting.table.iter().chain([&setting.key]) {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(object) = place else { return };
        place = object.entry(name.clone()).or_insert(Value::Null);
    }
    *place = setting.value.clone();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn setting(table: &str, key: &str, value: Value) -> Setting {
        Setting { table: table.split('.').map(str::to_owned).collect(), key: key.to_owned(), value }
    }

    fn change() -> Change {
        Change(vec![
            setting("egress.files", "hosts", json!(["files.example:443"])),
            setting("plugins.P.methods.run", "egress", json!(["pip", "files"])),
            setting("plugins.P.methods.run", "processes", json!(128)),
        ])
    }

    #[test]
    fn lines_of_both_formats() {
        let toml = "[egress.files]\nhosts = [\"files.example:443\"]\n\n[plugins.P.methods.run]\negress = [\"pip\", \"files\"]\nprocesses = 128";
        assert_eq!(lines(&change(), false), toml);
        assert!(toml.parse::<toml::Table>().is_ok());
        let json: Value = serde_json::from_str(&lines(&change(), true)).unwrap();
        assert_eq!(json["plugins"]["P"]["methods"]["run"]["processes"], 128);
        // the library escapes the characters of a path
        let odd = Change(vec![setting("plugins.P.methods.run", "read", json!(["/a\"b\\c\u{1}"]))]);
        assert!(lines(&odd, false).parse::<toml::Table>().is_ok(), "{}", lines(&odd, false));
    }

    #[test]
    fn the_rest_of_the_file_stays_as_it_was() {
        let text = "# mine\n[plugins.P]\nmodule = \"p\" # here\n\n[plugins.P.methods.run]\negress = [\"pip\"]  # why\n";
        let changed = apply(text, false, &change()).unwrap();
        for kept in
            ["# mine\n[plugins.P]\nmodule = \"p\" # here\n", "egress = [\"pip\", \"files\"]  # why\nprocesses = 128\n"]
        {
            assert!(changed.contains(kept), "{changed}");
        }
        assert!(changed.contains("[egress.files]\nhosts = [\"files.example:443\"]\n"), "{changed}");
        assert!(!changed.contains("[egress]\n"), "{changed}");
        let inline = "plugins = { P = { module = \"p\", methods = { run = {} } } }\n";
        let changed = apply(inline, false, &change()).unwrap();
        assert!(changed.contains("processes = 128"), "{changed}");
        assert!(apply("plugins = 3\n", false, &change()).is_err());
        let changed = apply("{\"plugins\":{\"P\":{\"module\":\"p\"}}}", true, &change()).unwrap();
        assert!(changed.starts_with("{\n  \"plugins\": {\n    \"P\": {\n      \"module\": \"p\","), "{changed}");
    }
}
