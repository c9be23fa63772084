//! The call's arguments: their form, and the method's JSON Schema.

use crate::config::Schema;
use crate::json::{StrictError, parse_strict};
use crate::text::{quote, shorten};
use crate::types::{Code, Details, Failure};
use jsonschema::{Draft, PatternOptions, Registry, ValidationError};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;
use std::path::PathBuf;

/// Limit for the nesting of the whole document, including its outer braces.
pub const MAX_DEPTH: usize = 64;
/// Limit for the characters of a path in the arguments, or of a reason, in a message.
const SHOWN: usize = 400;
/// The base URI of the schema's files; nothing with this scheme is ever fetched.
const BASE: &str = "upm-schema:///";

/// Arguments in the required form.
#[derive(Debug, Clone, PartialEq)]
pub struct Arguments {
    document: Value,
}

impl Default for Arguments {
    fn default() -> Self {
        Arguments { document: Value::Object(Map::new()) }
    }
}

impl Arguments {
    /// Positional arguments; empty if the document has none.
    pub fn args(&self) -> &[Value] {
        self.document.get("args").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Keyword arguments; `None` if the document has none.
    pub fn kwargs(&self) -> Option<&Map<String, Value>> {
        self.document.get("kwargs").and_then(Value::as_object)
    }

    /// The original document, for the schema.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// `args` and `kwargs`, empty if the document does not have them.
    pub fn into_parts(mut self) -> (Vec<Value>, Map<String, Value>) {
        let mut take = |key: &str| self.document.get_mut(key).map(Value::take);
        let args = match take("args") {
            Some(Value::Array(args)) => args,
            _ => Vec::new(),
        };
        let kwargs = match take("kwargs") {
            Some(Value::Object(kwargs)) => kwargs,
            _ => Map::new(),
        };
        (args, kwargs)
    }
}

/// Arguments that this or another process has checked: the JSON of each member, on one line.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    members: Vec<(String, Box<RawValue>)>,
}

impl Checked {
    /// From arguments that this process has parsed.
    pub fn of(arguments: &Arguments) -> Self {
        let members = arguments.document.as_object().into_iter().flatten();
        let raw = |value: &Value| RawValue::from_string(value.to_string()).unwrap_or_default();
        Checked { members: members.map(|(name, value)| (name.clone(), raw(value))).collect() }
    }

    /// From the members that another process reports. `None` unless `args` is an array and `kwargs` an object, each at
    /// most once and without line breaks: so the values cannot break the frame or request that they are put into.
    pub fn from_texts(texts: Vec<(String, String)>) -> Option<Self> {
        let mut members: Vec<(String, Box<RawValue>)> = Vec::new();
        for (name, text) in texts {
            let begin = match name.as_str() {
                "args" => '[',
                "kwargs" => '{',
                _ => return None,
            };
            let new = members.iter().all(|(known, _)| *known != name);
            if !new || !text.starts_with(begin) || text.bytes().any(|byte| byte < b' ') {
                return None;
            }
            members.push((name, RawValue::from_string(text).ok()?));
        }
        Some(Checked { members })
    }

    /// The document's members in their order: name and JSON.
    pub fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members.iter().map(|(name, raw)| (name.as_str(), raw.get()))
    }

    /// The whole document, without spaces.
    pub fn document(&self) -> String {
        let members: Vec<String> = self.members().map(|(name, text)| format!("\"{name}\":{text}")).collect();
        format!("{{{}}}", members.join(","))
    }

    /// The JSON of `args` or `kwargs`, if the document has it.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.members.iter().find(|(known, _)| known == name).map(|(_, raw)| &**raw)
    }
}

/// Why arguments were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArgumentsError {
    /// More bytes than the grant's `arguments`.
    TooLong {
        /// The limit.
        max_bytes: u64,
    },
    /// Not strict JSON.
    Json(StrictError),
    /// JSON, but not `{"args": […], "kwargs": {…}}`.
    Shape(String),
    /// Does not match the method's schema.
    Mismatch {
        /// JSON pointer into the arguments.
        instance_path: String,
        /// The schema's file and JSON pointer, `install.json#/properties/args`.
        schema_path: String,
        /// The value there, as JSON, shortened.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The schema itself is invalid.
    Schema {
        /// The method's schema file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for ArgumentsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArgumentsError::TooLong { max_bytes } => {
                write!(
                    f,
                    "the arguments are longer than {max_bytes} bytes; pass less, or raise `arguments` in the configuration"
                )
            }
            ArgumentsError::Json(error) => {
                write!(f, "the arguments are not valid JSON: {error}; expected {SHAPE}")
            }
            ArgumentsError::Shape(what) => write!(f, "the arguments {what}; expected {SHAPE}"),
            ArgumentsError::Mismatch { instance_path, schema_path, reason, .. } => {
                let place = if instance_path.is_empty() { "the arguments" } else { instance_path };
                write!(f, "{place}: {reason} (schema {schema_path})")
            }
            ArgumentsError::Schema { path, reason } => write!(f, "{}: {reason}; fix the schema", path.display()),
        }
    }
}

/// The required form, for messages.
const SHAPE: &str = r#"{"args": […], "kwargs": {…}}, both optional"#;

impl std::error::Error for ArgumentsError {}

impl From<ArgumentsError> for Failure {
    fn from(error: ArgumentsError) -> Self {
        let message = error.to_string();
        let (code, details) = match error {
            ArgumentsError::TooLong { max_bytes } => (Code::ArgumentsInvalid, Details::MaxBytes(max_bytes)),
            ArgumentsError::Json(StrictError { line, column, .. }) => {
                (Code::ArgumentsInvalid, Details::Json { line, column })
            }
            ArgumentsError::Shape(_) => (Code::ArgumentsInvalid, Details::None),
            ArgumentsError::Mismatch { instance_path, schema_path, value, .. } => {
                (Code::ArgumentsInvalid, Details::Mismatch { instance_path, schema_path, value })
            }
            ArgumentsError::Schema { path, .. } => {
                (Code::ConfigInvalid, Details::File { path: Details::path(&path), place: None })
            }
        };
        Failure::new(code, message).with(details)
    }
}

/// Parses `{"args": […], "kwargs": {…}}`, both optional and nothing else, from at most `max_bytes` bytes of strict JSON.
pub fn parse(text: &[u8], max_bytes: u64) -> Result<Arguments, ArgumentsError> {
    if text.len() as u64 > max_bytes {
        return Err(ArgumentsError::TooLong { max_bytes });
    }
    let document = parse_strict(text, MAX_DEPTH).map_err(ArgumentsError::Json)?;
    let Value::Object(object) = &document else {
        return Err(ArgumentsError::Shape(format!("are {}", kind(&document))));
    };
    for (key, value) in object {
        match (key.as_str(), value) {
            ("args", Value::Array(_)) | ("kwargs", Value::Object(_)) => {}
            ("args" | "kwargs", other) => {
                return Err(ArgumentsError::Shape(format!("have {} as {key:?}", kind(other))));
            }
            _ => return Err(ArgumentsError::Shape(format!("have a key {}", quote(key)))),
        }
    }
    Ok(Arguments { document })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Whether `args` match the method's schema. Unlike [`validate`] it keeps no errors, which can take any amount of memory.
pub fn fit(args: &Arguments, schema: &Schema) -> Result<bool, ArgumentsError> {
    with_validator(schema, |validator| validator.is_valid(&args.document))
}

/// Checks `args` against the method's schema (2020-12). Patterns run in linear time, without look-around and
/// back-references, because the caller controls their input. The schema itself is checked against its meta-schema.
pub fn validate(args: &Arguments, schema: &Schema) -> Result<(), ArgumentsError> {
    let mismatch = |error: &ValidationError<'_>| {
        let value = serde_json::to_string(error.instance()).unwrap_or_default();
        let short = shorten(&value, 80);
        let location = match error.absolute_keyword_location() {
            Some(uri) => uri.as_str().strip_prefix(BASE).unwrap_or(uri.as_str()).to_owned(),
            None => format!("{}#{}", schema.root, error.schema_path().as_str()),
        };
        ArgumentsError::Mismatch {
            instance_path: shorten(error.instance_path().as_str(), SHOWN),
            schema_path: shorten(&location, SHOWN),
            reason: shorten(&error.masked_with(short.as_str()).to_string(), SHOWN),
            value: short,
        }
    };
    with_validator(schema, |validator| validator.validate(&args.document).map_err(|error| mismatch(&error)))?
}

/// Checks the schema, for `upm check`: all its files against the meta-schema.
pub fn check_schema(schema: &Schema) -> Result<(), ArgumentsError> {
    for (name, document) in &schema.files {
        jsonschema::draft202012::meta::validate(document).map_err(|error| ArgumentsError::Schema {
            path: schema.path.with_file_name(name),
            reason: format!(
                "not a JSON Schema at {:?}: {}",
                error.instance_path().as_str(),
                shorten(&error.to_string(), SHOWN)
            ),
        })?;
    }
    with_validator(schema, |_| ())
}

fn with_validator<T>(schema: &Schema, then: impl FnOnce(&jsonschema::Validator) -> T) -> Result<T, ArgumentsError> {
    let unusable = |reason: String| ArgumentsError::Schema {
        path: schema.path.clone(),
        reason: format!("the schema is invalid: {}", shorten(&reason, SHOWN)),
    };
    let root = schema.files.get(&schema.root).ok_or_else(|| unusable("its file was not read".to_owned()))?;
    let options = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_base_uri(format!("{BASE}{}", schema.root))
        .with_pattern_options(PatternOptions::regex().size_limit(1 << 20));
    if schema.files.len() == 1 {
        return options.build(root).map(|validator| then(&validator)).map_err(|error| unusable(error.to_string()));
    }
    // references to other files fail: no retriever is set
    let others = schema.files.iter().filter(|(name, _)| **name != schema.root);
    let mut registry = Registry::new().draft(Draft::Draft202012);
    for (name, document) in others {
        registry = registry
            .add(format!("{BASE}{name}"), Draft::Draft202012.create_resource_ref(document))
            .map_err(|error| unusable(error.to_string()))?;
    }
    // a file may refer back to the first one
    let registry = registry
        .add(format!("{BASE}{}", schema.root), Draft::Draft202012.create_resource_ref(root))
        .and_then(|registry| registry.prepare())
        .map_err(|error| unusable(error.to_string()))?;
    options
        .with_registry(&registry)
        .build(root)
        .map(|validator| then(&validator))
        .map_err(|error| unusable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigErrorKind, load_schema};
    use proptest::prelude::*;
    use serde_json::json;
    use std::path::Path;

    const PIP: &str = r#"{
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "required": ["args"],
        "properties": {
            "args": {"type": "array", "minItems": 1, "maxItems": 1,
                     "prefixItems": [{"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "maxLength": 200}]},
            "kwargs": {"type": "object", "properties": {"upgrade": {"type": "boolean"}}, "additionalProperties": false}},
        "additionalProperties": false}"#;

    fn arguments(text: &str) -> Arguments {
        parse(text.as_bytes(), 1 << 20).unwrap()
    }

    fn refused(text: impl AsRef<[u8]>) -> String {
        let failure = Failure::from(parse(text.as_ref(), 1 << 20).unwrap_err());
        assert_eq!(failure.code, Code::ArgumentsInvalid);
        failure.message
    }

    fn schemas(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        crate::walk::forget();
        dir
    }

    fn one(text: &str) -> Schema {
        load_schema(schemas(&[("m.json", text)]).path(), "m").unwrap().unwrap()
    }

    #[test]
    fn the_outer_shape() {
        let both = arguments(r#"{"args":["requests",1],"kwargs":{"upgrade":true}}"#);
        assert_eq!(both.args(), [json!("requests"), json!(1)]);
        assert_eq!(both.kwargs().unwrap()["upgrade"], json!(true));
        assert_eq!(both.into_parts().0.len(), 2);
        assert_eq!(arguments(" {} "), Arguments::default());
        assert_eq!(arguments(r#"{"kwargs":{}}"#).args(), [] as [Value; 0]);
        for (text, expected) in [
            ("[]", "the arguments are an array; expected {\"args\""),
            ("null", "the arguments are null"),
            ("\"{}\"", "the arguments are a string"),
            (r#"{"args":{}}"#, "the arguments have an object as \"args\""),
            (r#"{"args":null}"#, "the arguments have null as \"args\""),
            (r#"{"kwargs":[]}"#, "the arguments have an array as \"kwargs\""),
            ("{\"arg\u{1b}\":[]}", "the arguments are not valid JSON"),
            (r#"{"arg\u001b":[]}"#, r#"the arguments have a key "arg\u{1b}""#),
            ("", "the arguments are not valid JSON: line 1 column 0: EOF"),
            (
                r#"{"args":[],"args":[]}"#,
                "the arguments are not valid JSON: line 1 column 17: the key \"args\" occurs twice",
            ),
            (r#"{"args":[{"a":1,"a":2}]}"#, "the arguments are not valid JSON: line 1 column 19: the key"),
            (r#"{"args":[NaN]}"#, "the arguments are not valid JSON: line 1 column 10: expected value"),
            (r#"{"args":[-Infinity]}"#, "the arguments are not valid JSON"),
            (r#"{"args":[1e999]}"#, "the arguments are not valid JSON"),
            (r#"{"args":["\udfff"]}"#, "the arguments are not valid JSON"),
            ("{} {}", "the arguments are not valid JSON: line 1 column 4: trailing characters"),
        ] {
            let message = refused(text);
            assert!(message.starts_with(expected), "{text} gave {message}");
        }
        assert!(refused(b"{\"args\":[\"\xff\"]}").contains("line 1 column 11: bytes that are not UTF-8"));
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let nested = |n: usize| format!("{{\"args\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(parse(nested(63).as_bytes(), 1000).is_ok());
        assert!(refused(nested(64)).contains("nested deeper than 64 levels"));
        assert!(refused(nested(400_000)).contains("nested deeper than 64 levels"));
        assert!(parse(b"{}", 2).is_ok());
        let failure = Failure::from(parse(b"{} ", 2).unwrap_err());
        assert_eq!((failure.code, failure.details), (Code::ArgumentsInvalid, Details::MaxBytes(2)));
    }

    #[test]
    fn the_schema_decides() {
        let schema = one(PIP);
        check_schema(&schema).unwrap();
        validate(&arguments(r#"{"args":["requests"],"kwargs":{"upgrade":false}}"#), &schema).unwrap();
        let mismatch = |text: &str| Failure::from(validate(&arguments(text), &schema).unwrap_err());
        let failure = mismatch(r#"{"args":[7]}"#);
        assert_eq!(failure.code, Code::ArgumentsInvalid);
        assert_eq!(
            failure.message,
            "/args/0: 7 is not of type \"string\" (schema m.json#/properties/args/prefixItems/0/type)"
        );
        assert_eq!(
            failure.details,
            Details::Mismatch {
                instance_path: "/args/0".into(),
                schema_path: "m.json#/properties/args/prefixItems/0/type".into(),
                value: "7".into()
            }
        );
        assert!(mismatch("{}").message.starts_with("the arguments: \"args\" is a required property"));
        assert!(
            mismatch(r#"{"args":["--index-url=x"]}"#).message.contains("/args/0: \"--index-url=x\" does not match")
        );
        // the length of a message is limited, however long the value and the name are
        let long = "a".repeat(500_000);
        let failure = mismatch(&format!(r#"{{"args":["{long}"]}}"#));
        assert!(failure.message.chars().count() < 400, "{}", failure.message);
        let failure = mismatch(&format!(r#"{{"args":["a"],"kwargs":{{"{long}":1}}}}"#));
        assert!(failure.message.chars().count() < 900, "{}", failure.message.chars().count());
    }

    #[test]
    fn a_schema_that_cannot_be_used_is_the_configurations_fault() {
        for text in [
            r#"{"type": 5}"#,
            r#"{"type": "strin"}"#,
            r#"{"pattern": "("}"#,
            r#"{"properties": {"args": {"pattern": "(?=a)"}}}"#,
            r##"{"$ref": "#/$defs/none"}"##,
            "5",
        ] {
            let failure = Failure::from(validate(&Arguments::default(), &one(text)).unwrap_err());
            assert_eq!(failure.code, Code::ConfigInvalid, "{text}");
            assert!(failure.message.contains("/m.json: the schema is invalid: "), "{}", failure.message);
            assert!(check_schema(&one(text)).is_err(), "{text}");
        }
        for text in ["{", r#"{"a":1,"a":2}"#, r#"{"$schema":"http://json-schema.org/draft-07/schema#"}"#] {
            let dir = schemas(&[("m.json", text)]);
            assert_eq!(load_schema(dir.path(), "m").unwrap_err().kind, ConfigErrorKind::Invalid, "{text}");
        }
        assert!(load_schema(schemas(&[]).path(), "m").unwrap().is_none());
        let dir = schemas(&[]);
        assert_eq!(load_schema(&dir.path().join("none"), "m").unwrap_err().kind, ConfigErrorKind::NotFound);
        std::os::unix::fs::symlink("gone.json", dir.path().join("m.json")).unwrap();
        assert_eq!(load_schema(dir.path(), "m").unwrap_err().kind, ConfigErrorKind::NotFound);
        // `false` is a schema that nothing matches
        assert!(matches!(validate(&Arguments::default(), &one("false")), Err(ArgumentsError::Mismatch { .. })));
    }

    #[test]
    fn references_stay_in_the_schemas_directory() {
        let dir = schemas(&[
            (
                "m.json",
                r##"{"$id": "https://example.org/m.json", "properties": {"args": {"items": {"$ref": "defs/name.json#/$defs/name"}}, "kwargs": {"$ref": "#/$defs/empty"}}, "$defs": {"empty": {"maxProperties": 0}}}"##,
            ),
            ("defs/name.json", r#"{"$defs": {"name": {"$ref": "short.json"}}}"#),
            ("defs/short.json", r##"{"type": "string", "maxLength": 3}"##),
        ]);
        let schema = load_schema(dir.path(), "m").unwrap().unwrap();
        assert_eq!(schema.files.keys().collect::<Vec<_>>(), ["defs/name.json", "defs/short.json", "m.json"]);
        check_schema(&schema).unwrap();
        validate(&arguments(r#"{"args":["abc"],"kwargs":{}}"#), &schema).unwrap();
        let message = validate(&arguments(r#"{"args":["abcd"]}"#), &schema).unwrap_err().to_string();
        assert_eq!(message, "/args/0: \"abcd\" is longer than 3 characters (schema defs/short.json#/maxLength)");
        assert!(validate(&arguments(r#"{"kwargs":{"a":1}}"#), &schema).is_err());

        for reference in [
            "../x.json",
            "/etc/passwd",
            "file:///etc/passwd",
            "https://example.org/x.json",
            "a/../../x.json",
            "./x.json",
            "a//b.json",
            "%2e%2e/x.json",
            "a\\\\b",
        ] {
            let dir = schemas(&[("m.json", &format!(r#"{{"$ref": "{reference}"}}"#))]);
            let error = load_schema(dir.path(), "m").unwrap_err();
            assert!(error.message.contains("leaves the schema folder"), "{reference}: {error}");
        }
        let dir = schemas(&[("s/m.json", r#"{"$ref": "link.json"}"#), ("out.json", "{}")]);
        std::os::unix::fs::symlink("../out.json", dir.path().join("s/link.json")).unwrap();
        assert!(
            load_schema(&dir.path().join("s"), "m").unwrap_err().message.contains("leads out of the schema folder")
        );
        let dir = schemas(&[("m.json", r#"{"$ref": "gone.json"}"#)]);
        assert_eq!(load_schema(dir.path(), "m").unwrap_err().kind, ConfigErrorKind::NotFound);
        // files that refer to each other are read once
        let dir = schemas(&[
            ("m.json", r#"{"properties": {"args": {"$ref": "b.json"}}}"#),
            ("b.json", r#"{"items": {"$ref": "m.json"}}"#),
        ]);
        validate(&arguments(r#"{"args":[{"args":[]}]}"#), &load_schema(dir.path(), "m").unwrap().unwrap()).unwrap();
    }

    #[test]
    fn patterns_take_linear_time() {
        let schema = one(r#"{"properties": {"args": {"items": {"pattern": "^(a+)+$"}}}}"#);
        let text = format!(r#"{{"args":["{}!"]}}"#, "a".repeat(100_000));
        let start = std::time::Instant::now();
        assert!(validate(&arguments(&text), &schema).is_err());
        assert!(start.elapsed().as_secs() < 5);
    }

    /// `cargo test --release --lib first_validation -- --ignored --nocapture`: the time of the first compilation and
    /// validation, which is the only one in a call.
    #[test]
    #[ignore = "a measurement"]
    fn first_validation() {
        let dir = schemas(&[("m.json", PIP)]);
        for round in 0..3 {
            let start = std::time::Instant::now();
            let schema = load_schema(dir.path(), "m").unwrap().unwrap();
            let loaded = start.elapsed();
            let args = arguments(r#"{"args":["requests"],"kwargs":{}}"#);
            let parsed = start.elapsed();
            validate(&args, &schema).unwrap();
            println!(
                "{round}: schema read {loaded:?}, arguments {:?}, compile and validate {:?}",
                parsed - loaded,
                start.elapsed() - parsed
            );
        }
        for round in 0..3 {
            crate::walk::forget();
            let start = std::time::Instant::now();
            let config = crate::config::load(Some(Path::new("upm_config.toml"))).unwrap();
            let loaded = start.elapsed();
            let decision = crate::decide::grant::grant(&config, "PipPlugin", "install", None).unwrap();
            println!("{round}: config {loaded:?}, grant {:?} {}", start.elapsed() - loaded, decision.method);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(arguments) = parse(&bytes, 100) {
                prop_assert!(bytes.len() <= 100 && arguments.document().is_object());
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in r#"\{("(args|kwargs|x)":[\[\]{}"a0-9:,.eE-]{0,20},?){0,3}\}"#) {
            if let Ok(arguments) = parse(text.as_bytes(), 1000) {
                drop(validate(&arguments, &Schema { path: "/m.json".into(), root: "m.json".into(), files: [("m.json".to_owned(), serde_json::from_str(PIP).unwrap())].into() }));
                let (args, kwargs) = arguments.clone().into_parts();
                prop_assert_eq!(args.as_slice(), arguments.args());
                prop_assert_eq!(kwargs.len(), arguments.kwargs().map_or(0, Map::len));
            }
        }
    }
}
