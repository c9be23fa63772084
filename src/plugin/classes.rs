//! What a plugin's module holds, read from its source by the interpreter that would run it, confined and without running
//! anything of it.

use super::client::{self, Patience};
use crate::config::Grant;
use crate::decide::plan::{self, ClientNeeds, Code as PluginCode, Environment, Facts};
use crate::types::{Code, Entry, Failure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

const READER: &[u8] = include_bytes!("class_reader.py");
/// Where the reader lies inside.
const DIRECTORY: &str = "/run/upm/classes";
/// Time for the reader; the import of `ast` takes 10 ms.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Oldest Python that can run a plugin: the runner asks for `co_posonlyargcount`.
pub const OLDEST_PYTHON: (u64, u64) = (3, 8);

/// What was found of the module's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleState {
    /// Its source was looked at.
    Source,
    /// The interpreter finds no such module.
    Missing,
    /// A directory without `__init__.py`, which holds no class.
    Namespace,
    /// The plugin's user outside may not read it.
    Unreadable,
    /// Compiled, or found by means of the package's own.
    Unknown,
}

/// What is known of the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassState {
    /// A class statement at the top level.
    There,
    /// Nothing binds the name.
    Missing,
    /// The name is that of a function or a literal.
    NoClass,
    /// Imported, assigned, bound under a condition, or by code that binds what it likes.
    Unknown,
}

/// What is known of an allowed method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodState {
    /// It is there.
    There,
    /// Neither the class nor its bases have it.
    Missing,
    /// A property, which is not called.
    Property,
    /// A class.
    Class,
    /// A literal.
    Value,
    /// It cannot be told.
    Unknown,
}

/// Why the source is none.
#[derive(Debug, Clone, Deserialize)]
pub struct Problem {
    /// 1-based.
    pub line: usize,
    /// The interpreter's own word.
    pub message: String,
}

/// What the reader answers.
#[derive(Debug, Clone, Deserialize)]
pub struct Look {
    /// Version of the interpreter.
    pub python: (u64, u64, u64),
    /// The module.
    pub module: ModuleState,
    /// The module's file, where there is one.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// A mistake in its syntax.
    #[serde(default)]
    pub problem: Option<Problem>,
    /// The class.
    pub class: ClassState,
    /// Line of what binds its name.
    #[serde(default)]
    pub class_line: Option<usize>,
    /// Those of the methods that can be told.
    #[serde(default)]
    pub methods: BTreeMap<String, MethodState>,
    /// Parameters of `__init__` that nothing gives a value. `None` when it cannot be told.
    #[serde(default)]
    pub lacking: Option<Vec<String>>,
    /// What `__init__` takes of what is offered. `None` when it cannot be told.
    #[serde(default)]
    pub given: Option<Vec<String>>,
    /// Line of `__init__`.
    #[serde(default)]
    pub init_line: Option<usize>,
}

/// Looks for `class` and `methods` of it in `module`, whose files `facts` name.
///
/// # Errors
/// The interpreter gave no answer, a layer is missing on this host, or the time was over.
pub fn look(
    grant: &Grant,
    facts: &Facts,
    module: &str,
    class: &str,
    methods: &[&str],
    patience: &Patience<'_>,
) -> Result<Look, Failure> {
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
    // As in a call: with the owners and modes that the files have, so that what the plugin's user may not read is seen.
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
    serde_json::from_value(answer)
        .map_err(|error| Failure::new(Code::ProtocolViolation, format!("it answers what no reader does: {error}")))
}
