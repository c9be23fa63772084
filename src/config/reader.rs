//! Reads values of the tree as types. Each error contains its place and what was expected.

use super::error::ConfigError;
use super::path::{PathSpec, is_reserved};
use super::tree::{Data, Key, Node, SourceFile};
use crate::text::quote;
use std::collections::BTreeSet;
use std::path::Path;

/// Limit for the items of one list, such as `read` or `hosts`: they are compared with one another.
const MAX_ITEMS: usize = 2000;

/// The configuration file that is being read.
pub(super) struct Reader<'a> {
    pub source: &'a SourceFile,
    /// Relative paths start here.
    pub dir: &'a Path,
    /// The names of `[egress.NAME]`.
    pub groups: BTreeSet<String>,
}

impl Reader<'_> {
    pub fn error(&self, at: usize, message: impl Into<String>) -> ConfigError {
        self.source.error(at, message)
    }

    pub fn line(&self, at: usize) -> usize {
        self.source.place(at).0
    }

    pub fn unknown(&self, key: &Key, table: &str, known: &[&str]) -> ConfigError {
        self.error(
            key.at,
            format!("{} is not a key of {table}; expected one of: {}", quote(&key.name), known.join(", ")),
        )
    }

    pub fn wrong(&self, node: &Node, expected: &str) -> ConfigError {
        self.error(node.at, format!("{}; expected {expected}", node.value.describe()))
    }

    pub fn table<'n>(&self, node: &'n Node, what: &str) -> Result<&'n [(Key, Node)], ConfigError> {
        match &node.value {
            Data::Table(entries) => Ok(entries),
            _ => Err(self.wrong(node, &format!("a table for {what}"))),
        }
    }

    pub fn list<'n>(&self, node: &'n Node, expected: &str) -> Result<&'n [Node], ConfigError> {
        match &node.value {
            Data::Array(items) if items.len() > MAX_ITEMS => {
                Err(self.error(node.at, format!("a list of {} items; expected at most {MAX_ITEMS}", items.len())))
            }
            Data::Array(items) => Ok(items),
            _ => Err(self.wrong(node, expected)),
        }
    }

    pub fn string<'n>(&self, node: &'n Node, expected: &str) -> Result<&'n str, ConfigError> {
        match &node.value {
            Data::String(text) => Ok(text),
            _ => Err(self.wrong(node, expected)),
        }
    }

    pub fn bool(&self, node: &Node) -> Result<bool, ConfigError> {
        match node.value {
            Data::Bool(value) => Ok(value),
            _ => Err(self.wrong(node, "true or false")),
        }
    }

    pub fn integer(&self, node: &Node, min: u64, max: u64) -> Result<u64, ConfigError> {
        match node.value {
            Data::Integer(value) => match u64::try_from(value) {
                Ok(value) if (min..=max).contains(&value) => Some(value),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| self.wrong(node, &format!("a whole number from {min} to {max}")))
    }

    pub fn word<T>(&self, node: &Node, words: &[(&str, T)]) -> Result<T, ConfigError>
    where
        T: Clone,
    {
        if let Data::String(text) = &node.value {
            if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
                return Ok(value.clone());
            }
        }
        let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        Err(self.wrong(node, &words.join(" or ")))
    }

    pub fn path(&self, node: &Node, variables: bool) -> Result<PathSpec, ConfigError> {
        let text = self.string(node, "a path in quotes")?;
        let mut spec = PathSpec::parse(text, self.dir, variables)
            .map_err(|expected| self.error(node.at, format!("{}: {expected}", quote(text))))?;
        spec.place = Some(self.source.place(node.at));
        Ok(spec)
    }

    pub fn granted_path(&self, node: &Node, variables: bool) -> Result<PathSpec, ConfigError> {
        let spec = self.path(node, variables)?;
        if spec.path.is_absolute() && is_reserved(&spec.path) {
            return Err(self.error(node.at, reserved(&spec.path.to_string_lossy())));
        }
        Ok(spec)
    }

    /// A list of unique strings that pass `check`.
    pub fn names(&self, node: &Node, expected: &str, check: impl Fn(&str) -> bool) -> Result<Vec<String>, ConfigError> {
        let mut names: Vec<String> = Vec::new();
        let mut seen = BTreeSet::new();
        for item in self.list(node, &format!("a list: {expected}"))? {
            let name = self.string(item, expected)?;
            if !check(name) {
                return Err(self.wrong(item, expected));
            }
            if !seen.insert(name) {
                return Err(self.error(item.at, format!("{} occurs twice; expected it once", quote(name))));
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }
}

/// The message that a path is never granted.
pub(super) fn reserved(text: &str) -> String {
    format!("{}: \"/\", /proc, /sys, /dev and /run are never granted; expected another path", quote(text))
}
