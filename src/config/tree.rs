//! TOML and JSON as one tree with the place of each key and value.

use super::error::ConfigError;
use crate::json::{StrictError, parse_strict};
use crate::text::{quote, shorten};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Limit for the nesting of tables and lists.
const MAX_DEPTH: usize = 64;

/// A value and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Byte offset in the file.
    pub at: usize,
    pub value: Data,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Null,
    Bool(bool),
    /// A number beyond `i128` is a [`Data::Float`]; no key accepts it.
    Integer(i128),
    Float(f64),
    String(String),
    /// TOML's dates and times, as written.
    Datetime(String),
    Array(Vec<Node>),
    Table(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub at: usize,
    pub name: String,
}

impl Data {
    /// The value, for messages.
    pub fn describe(&self) -> String {
        match self {
            Data::Null => "null".to_owned(),
            Data::Bool(value) => value.to_string(),
            Data::Integer(value) => value.to_string(),
            Data::Float(value) => value.to_string(),
            Data::String(value) => quote(value),
            Data::Datetime(value) => value.clone(),
            Data::Array(_) => "a list".to_owned(),
            Data::Table(_) => "a table".to_owned(),
        }
    }
}

/// The text of a configuration file, for places.
#[derive(Clone)]
pub(super) struct SourceFile {
    pub path: PathBuf,
    text: String,
    /// Where each line starts: places are looked up for every grant key.
    lines: Vec<usize>,
}

impl SourceFile {
    pub fn new(path: &Path, bytes: Vec<u8>) -> Result<Self, ConfigError> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(SourceFile::of(path, text)),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
                let source = SourceFile::of(path, text);
                Err(source.error(valid, "bytes that are not UTF-8; save the file as UTF-8"))
            }
        }
    }

    fn of(path: &Path, text: String) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        SourceFile { path: path.to_owned(), text, lines }
    }

    /// The text itself.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// 1-based line, and column in characters.
    pub fn place(&self, at: usize) -> (usize, usize) {
        let at = at.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= at);
        let before = self.text.get(self.lines[line - 1]..at).unwrap_or_default();
        (line, 1 + before.chars().count())
    }

    pub fn error(&self, at: usize, message: impl Into<String>) -> ConfigError {
        ConfigError::at(&self.path, self.place(at), message)
    }

    pub fn parse_toml(&self) -> Result<Node, ConfigError> {
        let table = DeTable::parse(&self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            self.error(at, shorten(&error.message().replace('\n', "; "), 400))
        })?;
        let at = table.span().start;
        Ok(Node { at, value: self.toml_table(table.get_ref(), MAX_DEPTH).map_err(|at| self.too_deep(at))? })
    }

    fn too_deep(&self, at: usize) -> ConfigError {
        self.error(at, format!("nested deeper than {MAX_DEPTH} levels"))
    }

    /// `Err` is the place where `depth` was exceeded.
    fn toml_table(&self, table: &DeTable<'_>, depth: usize) -> Result<Data, usize> {
        let mut entries = Vec::with_capacity(table.len());
        for (key, value) in table {
            let at = key.span().start;
            let left = depth.checked_sub(1).ok_or(at)?;
            entries.push((Key { at, name: key.get_ref().clone().into_owned() }, self.toml_value(value, left)?));
        }
        // in the order of the file, so that the first mistake is reported first
        entries.sort_by_key(|(key, _)| key.at);
        Ok(Data::Table(entries))
    }

    fn toml_value(&self, value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, usize> {
        let at = value.span().start;
        let value = match value.get_ref() {
            DeValue::String(text) => Data::String(text.clone().into_owned()),
            DeValue::Boolean(value) => Data::Bool(*value),
            DeValue::Datetime(value) => Data::Datetime(value.to_string()),
            DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(value) => Data::Integer(value),
                Err(_) => Data::Float(f64::INFINITY),
            },
            DeValue::Float(number) => Data::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Array(items) => {
                let left = depth.checked_sub(1).ok_or(at)?;
                Data::Array(items.iter().map(|item| self.toml_value(item, left)).collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => self.toml_table(table, depth)?,
        };
        Ok(Node { at, value })
    }

    pub fn parse_json(&self) -> Result<Node, ConfigError> {
        // finds all errors, with their place; then the second parse cannot fail
        parse_strict(self.text.as_bytes(), MAX_DEPTH).map_err(|error| self.json_error(&error))?;
        let raw: &RawValue =
            serde_json::from_str(&self.text).map_err(|error| self.json_error(&StrictError::from_serde(&error)))?;
        self.json_value(raw).map_err(|error| self.json_error(&StrictError::from_serde(&error)))
    }

    fn json_error(&self, error: &StrictError) -> ConfigError {
        ConfigError::at(&self.path, json_place(self.text.as_bytes(), error), error.message.clone())
    }

    /// Where `part`, a slice of the text, starts in it.
    fn offset(&self, part: &str) -> usize {
        (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }

    /// `serde_json` has no spans, but a raw value is a slice of the parsed text.
    fn json_value(&self, raw: &RawValue) -> Result<Node, serde_json::Error> {
        let text = raw.get();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let value = serde::Deserializer::deserialize_any(&mut deserializer, JsonVisitor { source: self, text })?;
        Ok(Node { at: self.offset(text), value })
    }
}

/// Where `error` is in `bytes`: 1-based line, and column in characters (`serde_json` counts bytes).
pub(super) fn json_place(bytes: &[u8], error: &StrictError) -> (usize, usize) {
    let number = error.line.max(1);
    let line = bytes.split(|byte| *byte == b'\n').nth(number - 1).unwrap_or_default();
    let before = &line[..error.column.saturating_sub(1).min(line.len())];
    // each byte of a character except the first starts with the bits 10
    (number, 1 + before.iter().filter(|byte| **byte & 0xc0 != 0x80).count())
}

struct JsonVisitor<'s, 't> {
    source: &'s SourceFile,
    text: &'t str,
}

struct JsonNode<'s>(&'s SourceFile);

impl<'de> DeserializeSeed<'de> for JsonNode<'_> {
    type Value = Node;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let raw: &'de RawValue = serde::Deserialize::deserialize(deserializer)?;
        self.0.json_value(raw).map_err(serde::de::Error::custom)
    }
}

impl<'de> Visitor<'de> for JsonVisitor<'_, '_> {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Data, E> {
        Ok(Data::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Data, E> {
        Ok(Data::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Data, E> {
        Ok(Data::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Data, E> {
        Ok(Data::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Data, E> {
        // an integer too large for 64 bits arrives here as well
        Ok(self.text.trim().parse().map_or(Data::Float(value), Data::Integer))
    }

    fn visit_str<E>(self, value: &str) -> Result<Data, E> {
        Ok(Data::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Data, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(JsonNode(self.source))? {
            array.push(item);
        }
        Ok(Data::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Data, A::Error> {
        let mut table = Vec::new();
        while let Some(raw) = entries.next_key::<&'de RawValue>()? {
            let name: String = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
            let key = Key { at: self.source.offset(raw.get()), name };
            table.push((key, entries.next_value_seed(JsonNode(self.source))?));
        }
        Ok(Data::Table(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SourceFile {
        SourceFile::new(Path::new("/c"), text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn both_formats_give_the_same_tree_with_places() {
        let toml = source("\"é\" = 1\n[a]\n  b = [true, \"x\"]\n");
        let json = source("{\"é\": 1,\n\"a\": {\n  \"b\": [true, \"x\"]}}");
        let places = |source: &SourceFile, tree: Node| {
            let Data::Table(top) = tree.value else { panic!("not a table") };
            let Data::Table(a) = &top[1].1.value else { panic!("not a table") };
            let Data::Array(b) = &a[0].1.value else { panic!("not a list") };
            assert_eq!((top[0].0.name.as_str(), &top[0].1.value), ("é", &Data::Integer(1)));
            assert_eq!((&b[0].value, &b[1].value), (&Data::Bool(true), &Data::String("x".into())));
            [top[0].0.at, top[0].1.at, a[0].0.at, b[1].at].map(|at| source.place(at))
        };
        assert_eq!(places(&toml, toml.parse_toml().unwrap()), [(1, 1), (1, 7), (3, 3), (3, 14)]);
        assert_eq!(places(&json, json.parse_json().unwrap()), [(1, 2), (1, 7), (3, 3), (3, 15)]);
    }

    #[test]
    fn syntax_errors_have_places() {
        assert_eq!(source("a = 1\na = 2\n").parse_toml().unwrap_err().to_string(), "/c:2:1: duplicate key");
        assert_eq!(
            source("{\"a\":1,\n\"a\":2}").parse_json().unwrap_err().to_string(),
            "/c:2:3: the key \"a\" occurs twice"
        );
        // serde_json counts columns in bytes
        assert_eq!(source("{\"é\":1, é}").parse_json().unwrap_err().to_string(), "/c:1:9: key must be a string");
        let deep = format!("a = {}{}", "[".repeat(300), "]".repeat(300));
        assert!(source(&deep).parse_toml().is_err());
        let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
        assert_eq!(source(&deep).parse_json().unwrap_err().to_string(), "/c:1:65: nested deeper than 64 levels");
        let bytes = SourceFile::new(Path::new("/c"), b"a = 1\nb = \"\xff\"".to_vec()).err().unwrap();
        assert_eq!(bytes.to_string(), "/c:2:6: bytes that are not UTF-8; save the file as UTF-8");
    }
}
