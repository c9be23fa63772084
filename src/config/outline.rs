//! The line of each key and list item in the file, for messages.

use super::tree::{Data, Key, Node, SourceFile};
use std::fmt;

/// The file's tables, keys and list items with their lines, as they were written.
#[derive(Clone)]
pub struct Outline {
    source: SourceFile,
    root: Node,
}

/// Without the text: it may contain credentials.
impl fmt::Debug for Outline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outline")
    }
}

impl Outline {
    pub(super) fn new(source: SourceFile, root: Node) -> Self {
        Outline { source, root }
    }

    /// The file's text, byte for byte.
    pub(super) fn text(&self) -> &str {
        self.source.text()
    }

    /// The 1-based line of the key at `path`, such as `["egress", "pip", "client"]`. `None` if the file does not have it.
    #[must_use]
    pub fn line(&self, path: &[&str]) -> Option<usize> {
        self.find(path).map(|(at, _)| self.source.place(at).0)
    }

    /// The lines of the items of the list at `path`; empty if it is not a list.
    #[must_use]
    pub fn items(&self, path: &[&str]) -> Vec<usize> {
        match self.find(path).map(|(_, node)| &node.value) {
            Some(Data::Array(items)) => items.iter().map(|item| self.source.place(item.at).0).collect(),
            _ => Vec::new(),
        }
    }

    /// The keys of the table at `path`, in the order of the file; empty if it is not a table.
    #[must_use]
    pub fn keys(&self, path: &[&str]) -> Vec<(&str, usize)> {
        match self.find(path).map(|(_, node)| &node.value) {
            Some(Data::Table(entries)) => {
                entries.iter().map(|(key, _)| (key.name.as_str(), self.source.place(key.at).0)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The last key's offset, and its value.
    fn find(&self, path: &[&str]) -> Option<(usize, &Node)> {
        path.iter().try_fold((self.root.at, &self.root), |(_, node), name| match &node.value {
            Data::Table(entries) => {
                entries.iter().find(|(key, _)| key.name == *name).map(|(Key { at, .. }, value)| (*at, value))
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn lines_of_tables_keys_and_items() {
        let toml = "a = 1\n[egress.x]\nhosts = [\n  \"p\",\n\n  \"q\",\n]\n[plugins.X]\nenv = { A = \"1\" }\n";
        let json = "{\"a\":\n1, \"egress\": {\"x\": {\"hosts\": [\n\"p\",\n \"q\"]}}}";
        let outline = |text: &str, is_json: bool| {
            let source = SourceFile::new(Path::new("/c"), text.as_bytes().to_vec()).unwrap();
            let root = if is_json { source.parse_json() } else { source.parse_toml() }.unwrap();
            Outline::new(source, root)
        };
        let (toml, json) = (outline(toml, false), outline(json, true));
        assert_eq!(toml.items(&["egress", "x", "hosts"]), [4, 6]);
        assert_eq!(json.items(&["egress", "x", "hosts"]), [3, 4]);
        assert_eq!(toml.line(&["egress", "x"]), Some(2));
        assert_eq!(toml.line(&["egress", "x", "hosts"]), Some(3));
        assert_eq!(toml.line(&["plugins", "X", "env", "A"]), Some(9));
        assert_eq!(toml.keys(&["egress", "x"]), [("hosts", 3)]);
        assert_eq!(toml.keys(&[]), [("a", 1), ("egress", 2), ("plugins", 8)]);
        for path in [&["b"][..], &["a", "b"], &["egress", "x", "hosts", "0"]] {
            assert_eq!((toml.line(path), toml.items(path), toml.keys(path)), (None, vec![], vec![]), "{path:?}");
        }
        assert!(!format!("{toml:?}").contains("env"));
    }
}
