//! Options that more than one command has. No doc comments on the structs: clap would take them for the command's. No
//! backticks in a help line: shells read it in completions.

use super::values::{json, method, plugin, request_id, timeout, value};
use crate::call::{CallArgs, JsonSource};
use clap::ValueHint;
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

// `--config`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
pub(super) struct Config {
    /// Configuration file
    #[arg(long = "config", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
}

// `--json`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
pub(super) struct Json {
    /// Print JSON instead of text
    #[arg(long = "json", id = "as_json")]
    pub json: bool,
}

// `--project`
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
pub(super) struct Project {
    /// Directory to work on, instead of project_root; projects must allow it
    #[arg(long = "project", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub project: Option<PathBuf>,
}

// which method
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
pub(super) struct Method {
    /// A class that the configuration names; it begins with a capital letter
    #[arg(value_name = "Plugin", value_parser = value(plugin), allow_negative_numbers = true)]
    pub plugin: String,
    /// One of its allowed methods
    #[arg(value_name = "method", value_parser = value(method), allow_negative_numbers = true)]
    pub method: String,
}

// a call, wherever it is made
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
pub(super) struct Call {
    #[command(flatten)]
    pub method: Method,
    /// {"args": [...], "kwargs": {...}}, both optional; - reads it from stdin [default: {}]
    #[arg(value_name = "JSON | -", value_parser = value(json), allow_negative_numbers = true)]
    pub arguments: Option<JsonSource>,
    #[command(flatten)]
    pub config: Config,
    #[command(flatten)]
    pub project: Project,
    /// Shorten the time limit: a number and ms, s, m or h
    #[arg(long, value_name = "TIME", value_parser = value(timeout))]
    pub timeout: Option<Duration>,
    /// UUID of the answer and the audit records, instead of a new one
    #[arg(long, value_name = "UUID", value_parser = value(request_id))]
    pub request_id: Option<Uuid>,
    /// Show the plugin's stderr as it comes
    #[arg(short, long, overrides_with = "verbose")]
    pub verbose: bool,
}

impl From<Call> for CallArgs {
    fn from(call: Call) -> Self {
        CallArgs {
            config: call.config.file,
            plugin: call.method.plugin,
            method: call.method.method,
            json: call.arguments.unwrap_or(JsonSource::Default),
            project: call.project.project,
            timeout: call.timeout,
            request_id: call.request_id,
            verbose: call.verbose,
        }
    }
}
