//! Reads a plugin's class and methods from its source, with the interpreter that would run it, confined and without running
//! the plugin.

use super::client::{self, Patience};
use crate::config::Grant;
use crate::decide::plan::{self, ClientNeeds, Environment, Facts, PluginCode};
use crate::types::{Code, Entry, Failure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const READER: &[u8] = include_bytes!("class_reader.py");
/// The reader's directory in the sandbox.
const DIRECTORY: &str = "/run/upm/classes";
/// Time limit for the reader; importing `ast` takes 10 ms.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Oldest Python that can run a plugin: the runner uses `co_posonlyargcount`.
pub const OLDEST_PYTHON: (u64, u64) = (3, 8);

/// What was found for the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleState {
    /// Its source was read.
    Source,
    /// The interpreter finds no such module.
    Missing,
    /// A directory without `__init__.py`, which has no classes.
    Namespace,
    /// The plugin's user on the host may not read it.
    Unreadable,
    /// Compiled, or found by code of the package.
    Unknown,
}

/// What is known about the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassState {
    /// Defined by a class statement at the top level.
    There,
    /// Nothing binds the name.
    Missing,
    /// The name is a function or a literal.
    NoClass,
    /// Imported, assigned, bound conditionally or by dynamic code.
    Unknown,
}

/// What is known about an allowed method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodState {
    /// It exists.
    There,
    /// Neither the class nor its bases define it.
    Missing,
    /// A property, which cannot be called.
    Property,
    /// A class.
    Class,
    /// A literal.
    Value,
    /// Unknown.
    Unknown,
}

/// A syntax error in the source.
#[derive(Debug, Clone, Deserialize)]
pub struct Problem {
    /// 1-based.
    pub line: usize,
    /// The interpreter's message.
    pub message: String,
}

/// The reader's answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Inspection {
    /// Version of the interpreter.
    pub python: (u64, u64, u64),
    /// The module.
    pub module: ModuleState,
    /// The module's file, if there is one.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// A syntax error.
    #[serde(default)]
    pub problem: Option<Problem>,
    /// The class.
    pub class: ClassState,
    /// The line that binds its name.
    #[serde(default)]
    pub class_line: Option<usize>,
    /// The methods; empty if unknown.
    #[serde(default)]
    pub methods: BTreeMap<String, MethodState>,
    /// Parameters of `__init__` that get no value. `None` if unknown.
    #[serde(default)]
    pub lacking: Option<Vec<String>>,
    /// The offered parameters that `__init__` accepts. `None` if unknown.
    #[serde(default)]
    pub given: Option<Vec<String>>,
    /// The line of `__init__`.
    #[serde(default)]
    pub init_line: Option<usize>,
}

/// Looks for `class` and its `methods` in `module`, whose files are in `facts`.
///
/// # Errors
/// The interpreter did not answer, a layer is missing on this host, or the time limit was reached.
pub fn look(
    grant: &Grant,
    facts: &Facts,
    module: &str,
    class: &str,
    methods: &[&str],
    patience: &Patience<'_>,
) -> Result<Inspection, Failure> {
    let entry = Entry::Python { module: "class_reader".to_owned() };
    let reader = Grant {
        interpreter: grant.interpreter.clone(),
        site: false,
        run_as: grant.run_as.clone(),
        timeout: TIMEOUT,
        memory: 512 << 20,
        output: 64 << 10,
        result: 1 << 20,
        ..Grant::built_in()
    };
    // As in a call, with the files' owners and modes: this detects files that the plugin's user may not read.
    let needs = ClientNeeds { env: BTreeMap::new(), files: vec![facts.code.path.clone()] };
    let search = &facts.code.search;
    let reader_facts = Facts {
        code: PluginCode {
            path: Path::new(DIRECTORY).join("class_reader.py"),
            search: PathBuf::from(DIRECTORY),
            embedded: Some(READER),
        },
        ..facts.clone()
    };
    let environment = Environment { request_id: "", timeout: TIMEOUT, pass: &|_| None };
    let plan = plan::plan(("ClassReader", "read"), &entry, &reader, &reader_facts, Vec::new(), &needs, environment);
    let args: [Value; 4] = [json!(module), json!(search), json!(class), json!(methods)];
    let answer = client::run(&plan, &args, patience)?;
    serde_json::from_value(answer).map_err(|error| {
        Failure::new(Code::ProtocolViolation, format!("the class reader sent an invalid response: {error}"))
    })
}
