//! A method's JSON Schema and the files that it refers to, read only if nobody untrusted could have written them.

use super::error::{ConfigError, ConfigErrorKind};
use super::tree::json_place;
use super::trust::{check_trusted, read_trusted};
use crate::json::parse_strict;
use crate::text::quote;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Limit for the bytes of one schema file.
const MAX_BYTES: u64 = 1 << 20;
/// Limit for the files of one schema.
const MAX_FILES: usize = 32;
/// Limit for the nesting in a schema file.
const MAX_DEPTH: usize = 100;
/// The only supported dialect.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// A method's schema with all its files.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The method's own file.
    pub path: PathBuf,
    /// Its name in `files`.
    pub root: String,
    /// The documents by path relative to the schema folder. Each document's root `$id` is removed: references are relative to
    /// the file.
    pub files: BTreeMap<String, Value>,
}

/// Reads `<dir>/<method>.json` and the files that its `$ref`s name in the same directory. `None` if the folder has no such
/// file; a missing folder is an error.
/// References must stay in the directory: no `..`, absolute path, URL or symbolic link that leads out.
pub fn load_schema(dir: &Path, method: &str) -> Result<Option<Schema>, ConfigError> {
    let root = format!("{method}.json");
    let path = dir.join(&root);
    let mut files = BTreeMap::new();
    let mut todo = vec![root.clone()];
    // a missing folder is an error: otherwise a typo in its name would silently disable all schemas
    let home = check_trusted(dir)?.real;
    while let Some(name) = todo.pop() {
        if files.contains_key(&name) {
            continue;
        }
        let file = dir.join(&name);
        if files.len() == MAX_FILES {
            return Err(invalid(&path, format!("consists of more than {MAX_FILES} files; merge some of them")));
        }
        let (trusted, bytes) = match read_trusted(&file, MAX_BYTES) {
            Ok(read) => read,
            // the path differs if the file is a dangling link
            Err(error) if error.kind == ConfigErrorKind::NotFound && error.path == home.join(&root) => return Ok(None),
            Err(error) => return Err(error),
        };
        if !trusted.real.starts_with(&home) {
            return Err(invalid(
                &file,
                format!("leads out of the schema folder to {}; copy the file into the folder", trusted.real.display()),
            ));
        }
        let mut document = parse_strict(&bytes, MAX_DEPTH)
            .map_err(|error| ConfigError::at(&file, json_place(&bytes, &error), error.message))?;
        if let Value::Object(object) = &mut document {
            object.shift_remove("$id");
        }
        let mut references = Vec::new();
        scan(&document, &file, &mut references)?;
        for reference in references {
            todo.push(resolve(&name, &reference).ok_or_else(|| {
                invalid(
                    &file,
                    format!("$ref {} leaves the schema folder; expected a file in it, or \"#/…\"", quote(&reference)),
                )
            })?);
        }
        files.insert(name, document);
    }
    Ok(Some(Schema { path, root, files }))
}

fn invalid(path: &Path, message: String) -> ConfigError {
    ConfigError::new(ConfigErrorKind::Invalid, path, message)
}

/// Collects references to other files and refuses other dialects. A `$ref` inside `const` or `enum` is data, but
/// treating it as a reference is only stricter.
fn scan(value: &Value, file: &Path, references: &mut Vec<String>) -> Result<(), ConfigError> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| scan(item, file, references)),
        Value::Object(object) => object.iter().try_for_each(|(key, value)| match (key.as_str(), value) {
            ("$schema", Value::String(dialect)) if dialect.trim_end_matches('#') != DIALECT => {
                Err(invalid(file, format!("$schema {} is not supported; expected {DIALECT:?}", quote(dialect))))
            }
            ("$ref" | "$dynamicRef", Value::String(reference)) => {
                let target = reference.split('#').next().unwrap_or_default();
                if !target.is_empty() {
                    references.push(target.to_owned());
                }
                Ok(())
            }
            _ => scan(value, file, references),
        }),
        _ => Ok(()),
    }
}

/// The path of `reference` in the file `from`, relative to the directory; `None` if it is not a plain relative path.
fn resolve(from: &str, reference: &str) -> Option<String> {
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if !reference.split('/').all(plain) {
        return None;
    }
    let directory = from.rfind('/').map_or("", |slash| &from[..=slash]);
    Some(format!("{directory}{reference}"))
}
