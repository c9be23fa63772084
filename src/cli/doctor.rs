//! `upm doctor`: renders what `host::doctor` tried.

use crate::host::doctor::{self, Trial};
use serde_json::json;

/// Text or JSON for stdout, and whether every layer holds.
#[must_use]
pub fn run(as_json: bool) -> (String, bool) {
    let trials = doctor::run();
    let good = trials.iter().all(|trial| trial.holds);
    if as_json {
        return (format!("{}\n", json!({ "ok": good, "layers": trials, "kernel": doctor::kernel() })), good);
    }
    let mut text = String::new();
    for Trial { layer, holds, found, remedy } in &trials {
        let mark = if *holds { "ok     " } else { "MISSING" };
        text.push_str(&format!("{mark}  {layer:<13}  {found}\n"));
        if let Some(remedy) = remedy {
            text.push_str(&format!("                        {remedy}\n"));
        }
    }
    text.push_str(if good { "every layer holds here\n" } else { "calls are refused here until every layer holds\n" });
    (text, good)
}
