//! `upm check`: the whole configuration and every plugin, without running a call.

use crate::call;
use crate::config;
use crate::decide::arguments;
use crate::host::callers;
use crate::types::Failure;
use serde::Serialize;
use serde_json::json;
use std::path::Path;

/// Something that was found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// `error`: a call would be refused. `warning`: it would not, but look at it.
    pub severity: &'static str,
    /// `Plugin.method`, or `Plugin`.
    pub subject: String,
    /// What, and what to do.
    pub message: String,
}

/// Text or JSON for stdout, and whether there is no error.
///
/// # Errors
/// A configuration that cannot be read at all.
pub fn run(config: Option<&Path>, as_json: bool) -> Result<(String, bool), Failure> {
    let config = config::load(config)?;
    let mut findings: Vec<Finding> = unknown_callers(&config, "defaults".to_owned(), &config.defaults).collect();
    for (name, plugin) in &config.plugins {
        if plugin.schemas.is_none() {
            findings.push(Finding {
                severity: "warning",
                subject: name.clone(),
                message: format!(
                    "{}:{}: no `schemas`: only the outer shape of its arguments is checked; add schemas = \"DIR\" with METHOD.json in it",
                    config.path.display(),
                    plugin.line
                ),
            });
        }
        let tables = plugin.methods.iter().map(|(method, keys)| (format!("{name}.{method}"), keys));
        for (subject, keys) in std::iter::once((name.clone(), &plugin.keys)).chain(tables) {
            findings.extend(unknown_callers(&config, subject, keys));
        }
        for method in &plugin.allowed_methods {
            let subject = format!("{name}.{method}");
            if let Err(failure) = method_is_usable(&config, name, method, &subject, &mut findings) {
                findings.push(Finding { severity: "error", subject, message: failure.message });
            }
        }
    }
    let good = findings.iter().all(|finding| finding.severity != "error");
    if as_json {
        return Ok((format!("{}\n", json!({ "config": config.path, "ok": good, "findings": findings })), good));
    }
    let mut text = String::new();
    for finding in &findings {
        text.push_str(&format!(
            "{}: {}: {}\n",
            finding.severity,
            finding.subject,
            super::terminal::escape(&finding.message, false)
        ));
    }
    let methods: usize = config.plugins.values().map(|plugin| plugin.allowed_methods.len()).sum();
    text.push_str(&format!(
        "{}: {} plugins, {methods} methods, {}\n",
        config.path.display(),
        config.plugins.len(),
        if good { "usable" } else { "not usable" }
    ));
    Ok((text, good))
}

/// Names of `callers` that this host does not know: a call by whoever they were meant for would be refused.
fn unknown_callers<'c>(
    config: &'c config::Config,
    subject: String,
    keys: &'c config::GrantKeys,
) -> impl Iterator<Item = Finding> + 'c {
    let named = keys.callers.iter().flat_map(|at| at.value.iter().map(move |spec| (at.line, spec)));
    named.filter(|(_, spec)| callers::id(spec).is_none()).map(move |(line, spec)| Finding {
        severity: "warning",
        subject: subject.clone(),
        message: format!(
            "{}:{line}: callers: {spec}: this host has none of that name, so that nobody may call by it; make it, or correct it",
            config.path.display()
        ),
    })
}

fn method_is_usable(
    config: &config::Config,
    plugin: &str,
    method: &str,
    subject: &str,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let decision = call::decide(config, plugin, method, None)?;
    if let Some(directory) = &decision.schemas {
        match config::load_schema(directory, method)? {
            Some(schema) => arguments::check_schema(&schema)?,
            None => findings.push(Finding {
                severity: "warning",
                subject: subject.to_owned(),
                message: format!(
                    "{}: has no {method}.json: only the outer shape of the arguments is checked",
                    directory.display()
                ),
            }),
        }
    }
    call::trusted_facts(&decision).map(drop)
}
