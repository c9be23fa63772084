//! `upm list`: the configured plugins and their methods.

use super::options::{Config, Json};
use super::print::show;
use super::values::{plugin, value};
use crate::config::{self, EntrySpec};
use crate::text::{escape, shorten};
use crate::types::{Code, Failure};
use serde_json::{Value, json};
use std::fmt::Write;

const AFTER: &str = "\
Exit status:
  0     The list is printed
  125   The configuration cannot be used
  126   The configuration does not name the plugin
";

/// List the configured plugins and their allowed methods
///
/// No plugin is run.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
#[command(verbatim_doc_comment, after_help = AFTER)]
pub(super) struct Args {
    /// Only this plugin
    #[arg(value_name = "Plugin", value_parser = value(plugin), allow_negative_numbers = true)]
    pub plugin: Option<String>,
    #[command(flatten)]
    pub config: Config,
    #[command(flatten)]
    pub json: Json,
}

/// Prints text or JSON, and gives the exit status.
pub(super) fn run(args: &Args) -> i32 {
    show(listed(args).map(|text| (text, true)))
}

/// Text or JSON for stdout.
///
/// # Errors
/// A configuration that cannot be used, or a plugin that it does not name.
fn listed(args: &Args) -> Result<String, Failure> {
    let config = config::load(args.config.file.as_deref())?;
    let plugin = args.plugin.as_deref();
    if let Some(name) = plugin.filter(|name| !config.plugins.contains_key(*name)) {
        let known: Vec<&str> = config.plugins.keys().map(String::as_str).collect();
        return Err(Failure::new(
            Code::PluginNotAllowed,
            format!("{}: not a plugin of {}; it names: {}", shorten(name, 80), config.path.display(), known.join(", ")),
        ));
    }
    let listed = config.plugins.values().filter(|found| plugin.is_none_or(|name| name == found.name));
    if args.json.json {
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
