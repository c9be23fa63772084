//! Starts plugins: the Python runner and the call frame.

pub mod classes;
pub mod client;
pub mod digest;
pub mod empty;

use crate::decide::plan::Plan;
use crate::types::Entry;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The interpreter's script in the sandbox.
pub const RUNNER: &[u8] = include_bytes!("runner.py");

/// What a plugin is constructed with.
pub struct Init<'a> {
    /// The call's project.
    pub project_root: &'a Path,
    /// The plugin's cache.
    pub cache_dir: &'a Path,
    /// `policy` of the grant.
    pub policy: &'a Map<String, Value>,
    /// Whether `cryptography.fernet` is passed.
    pub fernet: bool,
}

#[derive(Serialize)]
struct Frame<'a, A: ?Sized, K> {
    #[serde(rename = "type")]
    kind: &'a str,
    request_id: &'a str,
    plugin: &'a str,
    method: &'a str,
    args: &'a A,
    kwargs: &'a K,
    init: &'a Value,
}

/// The call frame, with its newline.
#[must_use]
pub fn call_frame(
    plan: &Plan,
    request_id: &str,
    args: &(impl Serialize + ?Sized),
    kwargs: &impl Serialize,
    init: &Init<'_>,
) -> Vec<u8> {
    let mut parameters = json!({
        "project_root": init.project_root,
        "cache_dir": init.cache_dir,
        "policy": init.policy,
        "fernet": init.fernet,
    });
    if let Entry::Python { module } = &plan.entry {
        parameters["module"] = json!(module);
        parameters["path"] = json!(plan.search);
    }
    let frame =
        Frame { kind: "call", request_id, plugin: &plan.plugin, method: &plan.method, args, kwargs, init: &parameters };
    // Writing to a vector cannot fail, nor can serializing these types.
    let mut line = serde_json::to_vec(&frame).expect("a frame can be written");
    line.push(b'\n');
    line
}
