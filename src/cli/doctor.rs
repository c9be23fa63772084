//! `upm doctor`: renders what `crate::doctor` tried.

use super::options::{Config, Json};
use super::print::show_with;
use crate::doctor::{self, Trial};
use crate::text::escape;
use crate::types::Failure;
use serde_json::json;
use std::path::Path;

const AFTER: &str = "\
Exit status:
  0     Every layer holds
  1     A layer is missing: calls are refused
  125   The answer is not known
";

/// Check what this host offers for each layer of the sandbox
///
/// Each layer is tried on this host, with what must work and what must not. It prints what is missing, and what an
/// administrator can do. With a configuration, its audit sinks, its `landlock_min_abi` and, as root, the file
/// systems of its granted paths are checked too. With --json every act that was tried is listed.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
#[command(verbatim_doc_comment, after_help = AFTER)]
pub(super) struct Args {
    #[command(flatten)]
    pub config: Config,
    #[command(flatten)]
    pub json: Json,
}

/// Prints text or JSON, and gives the exit status. `before` is what kept the engine from starting.
pub(super) fn run(args: &Args, before: Option<Failure>) -> i32 {
    show_with(Ok(tried(args.config.file.as_deref(), args.json.json, before)))
}

/// Text or JSON for stdout (`before` is what kept the engine from starting), and the exit status: 0 every layer holds, 1 one does not, 125 if this cannot be determined.
fn tried(config: Option<&Path>, as_json: bool, before: Option<Failure>) -> (String, i32) {
    let trials = doctor::run(config, before);
    let good = trials.iter().all(|trial| trial.holds == Some(true));
    let status = match trials.iter().any(|trial| trial.holds == Some(false)) {
        _ if good => 0,
        true => 1,
        false => 125,
    };
    if as_json {
        return (format!("{}\n", json!({ "ok": good, "layers": trials, "kernel": doctor::kernel() })), status);
    }
    let mut text = String::new();
    for Trial { layer, holds, found, remedy, .. } in &trials {
        let mark = match holds {
            Some(true) => "ok     ",
            Some(false) => "MISSING",
            None => "unknown",
        };
        text.push_str(&format!("{mark}  {layer:<13}  {}\n", escape(found, false)));
        if let Some(remedy) = remedy {
            text.push_str(&format!("                        {}\n", escape(remedy, false)));
        }
    }
    text.push_str(match status {
        0 => "every layer holds here\n",
        1 => "calls are refused here until every layer holds\n",
        _ => "not every layer could be tried\n",
    });
    (text, status)
}
