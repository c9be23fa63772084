//! Estimates whether a schema can be expensive to check.
//!
//! A plugin's author may have written its schema. Each part of a schema is checked once against each value, but references
//! multiply: fifty definitions that each refer to the next one twice are 2^50 parts. Light schemas are checked in this
//! process, all others in a separate process with limits of processor time and memory. That process also finds out why
//! arguments do not match a light schema: the memory for errors is not estimated here.
#![forbid(unsafe_code)]

use crate::config::Schema;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// Limit for the parts of the schema times the bytes of the arguments: one or two seconds at most.
const LIGHT: u64 = 1 << 24;
/// The minimum for the bytes of arguments: compiling a schema takes time too.
const LEAST: usize = 64;
/// Limit for nested references and levels.
const DEPTH: usize = 400;
/// What a pattern counts in addition to its length.
const PATTERN: u64 = 256;
/// The same for a pattern with a counted repetition or a named character class, which compile to many states.
const LARGE_PATTERN: u64 = 4096;

/// Limit for the bytes of a compiled schema, without patterns.
const COMPILED: u64 = 32 << 20;
/// Bytes of a compiled part, as measured, in addition to [`PLACES`] times the length of its JSON pointer.
const PART: u64 = 1024;
/// See [`PART`].
const PLACES: u64 = 3;

/// Whether checking arguments of `length` bytes against `schema` is certainly cheap: in time, and if they match, in memory.
pub fn is_light(schema: &Schema, length: usize) -> bool {
    let Some(root) = schema.files.get(&schema.root).filter(|_| schema.files.len() == 1) else { return false };
    if compiled(root, 0) > COMPILED {
        return false;
    }
    let mut scale = Scale { root, known: HashMap::new(), open: HashSet::new() };
    let weight = scale.value(root, 0);
    weight.is_some_and(|weight| weight.saturating_mul(length.max(LEAST) as u64) <= LIGHT)
}

struct Scale<'s> {
    root: &'s Value,
    known: HashMap<&'s str, u64>,
    open: HashSet<&'s str>,
}

impl<'s> Scale<'s> {
    /// The number of parts with all references expanded; `None` if unknown.
    fn value(&mut self, value: &'s Value, depth: usize) -> Option<u64> {
        if depth > DEPTH {
            return None;
        }
        match value {
            Value::Array(items) => {
                items.iter().try_fold(1u64, |sum, item| Some(sum.saturating_add(self.value(item, depth + 1)?)))
            }
            Value::Object(object) => object.iter().try_fold(1u64, |sum, (key, value)| {
                let weight = match (key.as_str(), value) {
                    ("$ref", Value::String(target)) => self.reference(target, depth)?,
                    // Dynamic scopes and anchors, and keywords that evaluate their neighbours again.
                    ("$dynamicRef" | "$recursiveRef" | "$anchor" | "$dynamicAnchor" | "$id", _)
                    | ("unevaluatedItems" | "unevaluatedProperties", _) => return None,
                    ("pattern", Value::String(pattern)) => self::pattern(pattern),
                    ("patternProperties", Value::Object(patterns)) => {
                        let own = patterns.keys().map(|key| self::pattern(key)).fold(0, u64::saturating_add);
                        own.saturating_add(self.value(value, depth + 1)?)
                    }
                    _ => self.value(value, depth + 1)?,
                };
                Some(sum.saturating_add(weight))
            }),
            Value::String(text) => Some(1 + text.len() as u64 / 16),
            Value::Null | Value::Bool(_) | Value::Number(_) => Some(1),
        }
    }

    fn reference(&mut self, target: &'s str, depth: usize) -> Option<u64> {
        if let Some(weight) = self.known.get(target) {
            return Some(*weight);
        }
        let pointer = target.strip_prefix('#').filter(|pointer| !pointer.contains('%'))?;
        // A recursive reference is as deep as the arguments.
        let found = self.root.pointer(pointer).filter(|_| self.open.insert(target))?;
        let weight = self.value(found, depth + 1)?;
        self.open.remove(target);
        self.known.insert(target, weight);
        Some(weight)
    }
}

/// Bytes of the compiled schema, without patterns; `place` is the length of the JSON pointer to `value`. References to the same
/// target share it.
fn compiled(value: &Value, place: u64) -> u64 {
    let parts = match value {
        Value::Array(items) => items.iter().map(|item| compiled(item, place + 2)).fold(0, u64::saturating_add),
        Value::Object(object) => object.iter().fold(0u64, |sum, (key, value)| {
            // `not` also keeps a copy of its schema.
            let copies = if key == "not" { 2 } else { 1 };
            sum.saturating_add(compiled(value, place + 1 + key.len() as u64).saturating_mul(copies))
        }),
        _ => 0,
    };
    parts.saturating_add(PART + PLACES * place)
}

fn pattern(pattern: &str) -> u64 {
    let large = pattern.contains('{') || pattern.contains("(?") && pattern.contains('i') || {
        let escaped = pattern.as_bytes().windows(2).filter(|pair| pair[0] == b'\\');
        escaped.into_iter().any(|pair| pair[1].is_ascii_alphanumeric())
    };
    (if large { LARGE_PATTERN } else { PATTERN }).saturating_add(16 * pattern.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn schema(document: Value) -> Schema {
        let files = BTreeMap::from([("m.json".to_owned(), document)]);
        Schema { path: "/m.json".into(), root: "m.json".into(), files }
    }

    /// `levels` definitions that each refer to the next one twice.
    fn doubling(levels: usize) -> Schema {
        let next = |n: usize| json!({"$ref": format!("#/$defs/d{n}")});
        let mut all: serde_json::Map<String, Value> =
            (0..levels).map(|n| (format!("d{n}"), json!({"allOf": [next(n + 1), next(n + 1)]}))).collect();
        all.insert(format!("d{levels}"), json!({"type": "object"}));
        schema(json!({"$defs": all, "$ref": "#/$defs/d0"}))
    }

    #[test]
    fn what_is_shipped_is_light() {
        let mut seen = 0;
        for plugin in ["hello_plugin", "pip_plugin"] {
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins").join(plugin).join("schemas");
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let document = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                assert!(is_light(&schema(document), 200), "{}", path.display());
                seen += 1;
            }
        }
        assert!(seen > 5);
    }

    /// Twenty options, and objects of five kinds.
    #[test]
    fn what_plugins_usually_have_is_light() {
        let options: serde_json::Map<String, Value> = (0..20)
            .map(|n| match n % 4 {
                0 => {
                    (format!("name_{n}"), json!({"type": "string", "pattern": "^[a-z][a-z0-9_-]*$", "maxLength": 200}))
                }
                1 => (format!("mode_{n}"), json!({"enum": ["never", "always", "auto", null]})),
                2 => (format!("count_{n}"), json!({"type": "integer", "minimum": 0, "maximum": 65535})),
                _ => (format!("tags_{n}"), json!({"type": "array", "maxItems": 50, "items": {"$ref": "#/$defs/tag"}})),
            })
            .collect();
        let kinds: Vec<Value> = (0..5)
            .map(|n| {
                let own = json!({"kind": {"const": format!("kind_{n}")}, "at": {"$ref": "#/$defs/tag"}, "with": {"type": "string"}});
                json!({"type": "object", "properties": own, "required": ["kind"], "additionalProperties": false})
            })
            .collect();
        let document = json!({
            "type": "object",
            "properties": {
                "args": {"type": "array", "maxItems": 8, "items": {"oneOf": kinds}},
                "kwargs": {"type": "object", "properties": options, "additionalProperties": false},
            },
            "$defs": {"tag": {"type": "string", "pattern": "^\\d{4}-\\d{2}-\\d{2}$"}},
        });
        assert!(is_light(&schema(document), 200));
    }

    #[test]
    fn what_takes_much_memory_when_it_is_compiled_is_not() {
        let strings = |count: usize| json!({"allOf": vec![json!({"type": "string"}); count]});
        let behind = |name: usize, count: usize| schema(json!({"properties": {"k".repeat(name): strings(count)}}));
        assert!(is_light(&behind(10, 1000), 100) && is_light(&behind(100_000, 10), 100));
        assert!(!is_light(&behind(100_000, 1000), 100), "each part stores its JSON pointer");
        let not =
            |levels: usize| schema((0..levels).fold(json!({"enum": vec![7; 1000]}), |inner, _| json!({"not": inner})));
        assert!(is_light(&not(2), 100));
        assert!(!is_light(&not(90), 100), "`not` stores a copy");
    }

    #[test]
    fn what_multiplies_or_has_no_end_is_not() {
        assert!(is_light(&doubling(3), 100));
        assert!(!is_light(&doubling(50), 100));
        assert!(is_light(&doubling(3), 100) && !is_light(&doubling(3), 1 << 20), "with the length");
        for heavy in [
            json!({"$ref": "#"}),
            json!({"$ref": "#/$defs/missing"}),
            json!({"properties": {"args": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}),
            json!({"$ref": "#name", "$defs": {"a": {"$anchor": "name"}}}),
            json!({"unevaluatedProperties": false}),
            json!({"allOf": vec![json!({"pattern": "^[a-z]{100}$"}); 100]}),
            json!({"patternProperties": (0..100).map(|n| (format!("^\\w{n}"), json!(true))).collect::<serde_json::Map<_, _>>()}),
            json!({"enum": vec!["x"; 200_000]}),
        ] {
            assert!(
                !is_light(&schema(heavy.clone()), 100),
                "{}",
                heavy.to_string().chars().take(200).collect::<String>()
            );
        }
        let mut two = doubling(1);
        two.files.insert("other.json".into(), json!({}));
        assert!(!is_light(&two, 1));
    }
}
