//! `upm list`: the configured plugins and their methods.

use super::terminal::escape;
use crate::config::{self, EntrySpec};
use crate::types::{Code, Failure};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// Text or JSON for stdout.
///
/// # Errors
/// A configuration that cannot be used, or a plugin that it does not name.
pub fn run(config: Option<&Path>, plugin: Option<&str>, as_json: bool) -> Result<String, Failure> {
    let config = config::load(config)?;
    if let Some(name) = plugin.filter(|name| !config.plugins.contains_key(*name)) {
        let known: Vec<&str> = config.plugins.keys().map(String::as_str).collect();
        return Err(Failure::new(
            Code::PluginNotAllowed,
            format!(
                "{}: not a plugin of {}; it names: {}",
                name.escape_default(),
                config.path.display(),
                known.join(", ")
            ),
        ));
    }
    let listed = config.plugins.values().filter(|found| plugin.is_none_or(|name| name == found.name));
    if as_json {
        let plugins: Vec<Value> = listed
            .map(|found| {
                let (kind, entry) = entry(&found.entry);
                json!({ "name": found.name, kind: entry, "allowed_methods": found.allowed_methods, "line": found.line })
            })
            .collect();
        return Ok(format!("{}\n", json!({ "config": config.path, "plugins": plugins })));
    }
    let mut text = String::new();
    for found in listed {
        let (kind, entry) = entry(&found.entry);
        // Writing to a String cannot fail.
        writeln!(text, "{}  ({kind} {})", found.name, escape(&entry, false)).expect("a string grows");
        writeln!(text, "    {}", found.allowed_methods.join("  ")).expect("a string grows");
    }
    Ok(text)
}

fn entry(entry: &EntrySpec) -> (&'static str, String) {
    match entry {
        EntrySpec::Module(module) => ("module", module.clone()),
        EntrySpec::Exec(path) => ("exec", path.path.display().to_string()),
    }
}
