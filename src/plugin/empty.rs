//! A plugin that only looks up one name, started like another plugin: what it looks for is what the start of the
//! interpreter and the C library's resolver always look for.

use super::{Init, call_frame};
use crate::config::Grant;
use crate::decide::plan::{self, ClientNeeds, Environment, Facts, Plan, PluginCode};
use crate::types::Entry;
use serde_json::Map;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

const SOURCE: &[u8] = include_bytes!("empty.py");
/// Its directory in the sandbox.
const DIRECTORY: &str = "/run/upm/empty";
/// Replaces other programs: it comes with the C library.
const GETENT: [&str; 3] = ["/usr/bin/getent", "hosts", "upm.invalid"];
/// Longest first line of a script (`BINPRM_BUF_SIZE`, Linux 5.1).
const SCRIPT_LINE: u64 = 256;

/// The plan and call frame of the empty plugin with the same grant: with the same interpreter for a Python plugin or a script
/// (with an empty script), otherwise a program that looks up a name.
#[must_use]
pub fn like(entry: &Entry, grant: &Grant, facts: &Facts) -> (Plan, Vec<u8>) {
    let (entry, code, argv) = match entry {
        Entry::Python { .. } => {
            let path = Path::new(DIRECTORY).join("empty.py");
            let code = PluginCode { path, search: PathBuf::from(DIRECTORY), embedded: Some(SOURCE) };
            (Entry::Python { module: "empty".to_owned() }, code, None)
        }
        Entry::Exec { path } => {
            let argv = script(path).map_or_else(
                || GETENT.map(str::to_owned).to_vec(),
                |mut words| {
                    words.push("/dev/null".to_owned());
                    words
                },
            );
            let path = PathBuf::from(GETENT[0]);
            let code = PluginCode { path: path.clone(), search: PathBuf::new(), embedded: None };
            (Entry::Exec { path }, code, Some(argv))
        }
    };
    let facts = Facts { code, ..facts.clone() };
    let environment = Environment { request_id: "", timeout: grant.timeout, pass: &|_| None };
    let needs = ClientNeeds::default();
    let mut plan = plan::plan(("Empty", "run"), &entry, grant, &facts, Vec::new(), &needs, environment);
    plan.argv = argv.unwrap_or(plan.argv);
    let policy = Map::new();
    let init = Init { project_root: Path::new("/"), cache_dir: Path::new("/tmp"), policy: &policy, fernet: false };
    let frame = call_frame(&plan, "", &[(); 0], &Map::new(), &init);
    (plan, frame)
}

/// Replaces the path of the empty plugin's compiled code by that of the module `module` in `search`.
#[must_use]
pub fn as_if(object: &str, module: &str, search: &Path) -> String {
    let top = module.split('.').next().unwrap_or(module);
    match object.strip_prefix(DIRECTORY).and_then(|rest| rest.strip_prefix("/__pycache__/empty.")) {
        Some(rest) => format!("{}/__pycache__/{top}.{rest}", search.display()),
        None => object.to_owned(),
    }
}

/// The interpreter in a `#!` line, and its argument.
fn script(path: &Path) -> Option<Vec<String>> {
    let mut line = Vec::new();
    BufReader::new(File::open(path).ok()?.take(SCRIPT_LINE)).read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8(line).ok()?;
    let (interpreter, argument) = line.strip_prefix("#!")?.trim().split_once([' ', '\t']).map_or_else(
        || (line.strip_prefix("#!").unwrap_or_default().trim(), ""),
        |(interpreter, argument)| (interpreter, argument.trim()),
    );
    let words = [interpreter, argument].into_iter().filter(|word| !word.is_empty()).map(str::to_owned);
    Some(words.collect()).filter(|words: &Vec<String>| !words.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn compiled_code_has_its_plugins_place() {
        let at = |object| super::as_if(object, "pip_plugin.plugin", std::path::Path::new("/p"));
        assert_eq!(at("/run/upm/empty/__pycache__/empty.cpython-311.pyc"), "/p/__pycache__/pip_plugin.cpython-311.pyc");
        assert_eq!(at("/etc/host.conf"), "/etc/host.conf");
    }

    #[test]
    fn the_interpreter_of_a_script() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let words = |text: &str| {
            std::fs::write(&path, text).unwrap();
            super::script(&path)
        };
        assert_eq!(words("#!/usr/bin/python3 -I\nimport os\n"), Some(vec!["/usr/bin/python3".into(), "-I".into()]));
        assert_eq!(words("#! /bin/sh\n"), Some(vec!["/bin/sh".into()]));
        assert_eq!(words("\u{7f}ELF"), None);
        assert_eq!(words("#!\n"), None);
    }
}
