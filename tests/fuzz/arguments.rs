//! A caller's arguments: strict JSON of the outer shape, and schemas.

use crate::harness::{Case, Rng, is_plain, mutate, run};
use crate::json;
use serde_json::{Value, json as value};
use std::sync::LazyLock;
use upm::config::Schema;
use upm::decide::arguments::{Arguments, ArgumentsError, fit, parse, validate};
use upm::types::{Code, Failure};

const TOKENS: &[&[u8]] = &[
    b"\"args\":[]",
    b"\"kwargs\":{}",
    b",\"args\":[1]",
    b",\"kwargs\":{\"upgrade\":true}",
    b"\"upgrade\"",
    b"\"requests\"",
    b"\"a-b._\"",
    b"\"-r\"",
    b"{\"v\":1,\"next\":",
    b"\"next\":null",
    b"1.0",
    b"3",
    b"9007199254740993",
    b"1e400",
    b"\"\\u0061rgs\":[2]",
];

/// A schema, and the same rules by hand.
struct Rules {
    schema: Schema,
    fits: fn(&Arguments) -> bool,
}

fn schema(document: Value) -> Schema {
    Schema { path: "/m.json".into(), root: "m.json".into(), files: [("m.json".to_owned(), document)].into() }
}

/// JSON Schema's equality: by value, so that 1 and 1.0 are one.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i128(), b.as_i128()) {
            (Some(a), Some(b)) => a == b,
            (None, None) => a.as_f64() == b.as_f64(),
            (Some(i), None) | (None, Some(i)) => {
                let f = if a.is_f64() { a.as_f64() } else { b.as_f64() }.unwrap();
                // exactly, as far as i128 goes; nothing here is larger than 2^64
                f.fract() == 0.0 && f.abs() < 1e30 && f as i128 == i
            }
        },
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn chain(value: &Value) -> bool {
    let Some(object) = value.as_object() else { return false };
    let next = match object.get("next") {
        None | Some(Value::Null) => true,
        Some(next) => chain(next),
    };
    let whole = |v: &Value| v.as_f64().is_some_and(|v| v.fract() == 0.0);
    next && object.get("v").is_some_and(whole) && object.keys().all(|key| key == "v" || key == "next")
}

static RULES: LazyLock<Vec<Rules>> = LazyLock::new(|| {
    vec![
        Rules {
            schema: schema(value!({
                "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "required": ["args"],
                "properties": {
                    "args": {"type": "array", "minItems": 1, "maxItems": 1,
                             "prefixItems": [{"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "maxLength": 20}]},
                    "kwargs": {"type": "object", "properties": {"upgrade": {"type": "boolean"}}, "additionalProperties": false}},
                "additionalProperties": false})),
            fits: |arguments| {
                let (args, kwargs) = (arguments.args(), arguments.kwargs());
                let name = |v: &Value| {
                    v.as_str().is_some_and(|s| {
                        s.starts_with(|c: char| c.is_ascii_alphanumeric())
                            && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
                            && s.len() <= 20
                    })
                };
                arguments.document().get("args").is_some()
                    && args.len() == 1
                    && name(&args[0])
                    && kwargs.is_none_or(|k| k.iter().all(|(key, v)| key == "upgrade" && v.is_boolean()))
            },
        },
        Rules {
            schema: schema(value!({
                "properties": {
                    "args": {"maxItems": 5, "uniqueItems": true, "items": {"anyOf": [
                        {"type": "integer", "minimum": -5, "exclusiveMaximum": 1000}, {"enum": [null, "a", 3.5, [1]]},
                        {"type": "string", "minLength": 2, "maxLength": 3}]}},
                    "kwargs": {"patternProperties": {"^k[0-9]$": {"not": {"type": "boolean"}}}, "maxProperties": 2}}})),
            fits: |arguments| {
                let (args, kwargs) = (arguments.args(), arguments.kwargs());
                let item = |v: &Value| match v {
                    Value::Number(n) => {
                        let f = n.as_f64().unwrap();
                        f == 3.5 || (f.fract() == 0.0 && (-5.0..1000.0).contains(&f))
                    }
                    Value::String(s) => s == "a" || (2..=3).contains(&s.chars().count()),
                    other => other.is_null() || equal(other, &value!([1])),
                };
                let key = |k: &String| k.len() == 2 && k.starts_with('k') && k.as_bytes()[1].is_ascii_digit();
                args.len() <= 5
                    && args.iter().all(item)
                    && args.iter().enumerate().all(|(n, a)| args[..n].iter().all(|b| !equal(a, b)))
                    && kwargs.is_none_or(|k| k.len() <= 2 && k.iter().all(|(name, v)| !key(name) || !v.is_boolean()))
            },
        },
        Rules {
            schema: schema(value!({
                "properties": {"args": {"items": {"$ref": "#/$defs/chain"}}, "kwargs": false},
                "$defs": {"chain": {"type": "object", "required": ["v"], "additionalProperties": false, "properties": {
                    "v": {"type": "integer"}, "next": {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/chain"}]}}}}})),
            fits: |arguments| arguments.kwargs().is_none() && arguments.args().iter().all(chain),
        },
    ]
});

fn document(rng: &mut Rng) -> String {
    let mut args = String::new();
    match rng.below(4) {
        0 => args.push_str(rng.pick(&[
            "\"requests\"",
            "\"a.b\"",
            "7",
            "\"-x\"",
            "\"requests\",1",
            "\"aaaaaaaaaaaaaaaaaaaaa\"",
        ])),
        1 => {
            let items: Vec<&str> = (0..rng.below(6))
                .map(|_| {
                    rng.pick(&[
                        "1", "2", "1.0", "999", "1000", "-5", "-6", "null", "\"a\"", "\"ab\"", "\"abé\"", "3.5", "[1]",
                        "[1.0]", "true",
                    ])
                })
                .collect();
            args.push_str(&items.join(","));
        }
        2 => {
            let depth = if rng.chance(10) { rng.range(55, 70) } else { rng.range(1, 4) };
            args.push_str(&"{\"v\":1,\"next\":".repeat(depth));
            args.push_str(rng.pick(&["null", "{\"v\":2}", "{\"v\":2.5}", "{}"]));
            args.push_str(&"}".repeat(depth));
        }
        _ => json::write(rng, 3, &mut args),
    }
    let kwargs = match rng.below(3) {
        0 => "{\"upgrade\":true}".to_owned(),
        1 => "{\"k1\":1,\"k2\":\"x\"}".to_owned(),
        _ => {
            let mut text = String::new();
            json::write(rng, 3, &mut text);
            if text.starts_with('{') { text } else { format!("{{\"k\":{text}}}") }
        }
    };
    match rng.below(8) {
        0..=3 => format!("{{\"args\":[{args}]}}"),
        4 | 5 => format!("{{\"args\":[{args}],\"kwargs\":{kwargs}}}"),
        6 => format!("{{\"kwargs\":{kwargs}}}"),
        _ => rng.pick(&["{}", " { } ", "[]", "null", "{\"args\":{}}", "{\"kwargs\":[]}", "{\"arg\":[]}"]).to_owned(),
    }
}

/// What the outer shape should be.
fn expected(input: &[u8], max_bytes: u64) -> Option<Value> {
    let document = json::read(input, 64).filter(|_| input.len() as u64 <= max_bytes)?;
    let fits = document.as_object()?.iter().all(|(key, value)| match key.as_str() {
        "args" => value.is_array(),
        "kwargs" => value.is_object(),
        _ => false,
    });
    fits.then_some(document)
}

/// Every key of what was accepted is there once, no number is out of range, and nothing is too deep.
fn depth(value: &Value) -> usize {
    match value {
        Value::Number(number) => {
            assert!(number.as_f64().is_some_and(f64::is_finite));
            0
        }
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn one(case: &mut Case) -> bool {
    let rng = &mut case.rng;
    case.input = document(rng).into_bytes();
    if rng.chance(70) {
        let other = document(rng);
        let tokens = if rng.chance(60) { TOKENS } else { json::TOKENS };
        mutate(rng, &mut case.input, tokens, other.as_bytes());
    }
    check(&case.input, &mut case.rng)
}

/// Holds what is said of `input` against the second reading.
pub fn check(input: &[u8], rng: &mut Rng) -> bool {
    let max_bytes = match rng.below(10) {
        0 => input.len().saturating_sub(1) as u64,
        1 => input.len() as u64,
        _ => 1 << 20,
    };
    let parsed = parse(input, max_bytes);
    let expected = expected(input, max_bytes);
    let arguments = match (parsed, expected) {
        (Ok(arguments), Some(expected)) => {
            assert!(json::same(arguments.document(), &expected), "{:?}", arguments.document());
            arguments
        }
        (Err(error), None) => {
            assert_eq!(matches!(error, ArgumentsError::TooLong { .. }), input.len() as u64 > max_bytes);
            let failure = Failure::from(error);
            assert_eq!(failure.code, Code::ArgumentsInvalid);
            assert!(is_plain(&failure.message) && failure.message.len() < 1200, "{}", failure.message);
            return false;
        }
        (parsed, expected) => panic!("{parsed:?}, but expected {expected:?}"),
    };
    assert!(depth(arguments.document()) <= 64);
    let (args, kwargs) = arguments.clone().into_parts();
    assert!(args == arguments.args() && kwargs == arguments.kwargs().cloned().unwrap_or_default());
    let again = serde_json::to_vec(arguments.document()).unwrap();
    assert!(json::same(parse(&again, u64::MAX).unwrap().document(), arguments.document()));
    schemas(rng, &arguments);
    true
}

fn schemas(rng: &mut Rng, arguments: &Arguments) {
    let rules = &RULES[rng.below(RULES.len())];
    let fits = (rules.fits)(arguments);
    assert_eq!(fit(arguments, &rules.schema), Ok(fits));
    match validate(arguments, &rules.schema) {
        Ok(()) => assert!(fits, "the schema let it pass"),
        Err(ArgumentsError::Mismatch { instance_path, schema_path, value, reason }) => {
            assert!(!fits, "{instance_path}: {reason} ({schema_path})");
            assert!(schema_path.starts_with("m.json#"), "{schema_path}");
            // each character that is shown may be one that is written out, in at most 8
            for (text, most) in [(&value, 80), (&reason, 400), (&instance_path, 400)] {
                assert!(text.chars().count() <= 8 * most + 1, "{text}");
            }
            assert!(
                [&instance_path, &schema_path, &value, &reason].into_iter().all(|text| is_plain(text)),
                "{reason:?}"
            );
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn arguments() {
    run("arguments", 6_000, 20, one);
}
