//! Strict JSON for untrusted input: it refuses what `serde_json` silently accepts.
#![forbid(unsafe_code)]

use crate::text::quote;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

pub mod raw;

/// The deepest nesting that [`parse_strict`] supports: `serde_json` itself stops at 128.
pub const MAX_DEPTH: usize = 127;

/// Limit for a document's values: a value counts 1, an array 4, an object 24. One of these units is about 32 bytes of memory.
/// Without this limit a few megabytes of `[{"a":0},…]` would take a gigabyte.
const MAX_WEIGHT: usize = 4_000_000;
/// The start of the message for a document over this limit.
pub const TOO_MANY: &str = "too many values";

/// Why bytes are not strict JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrictError {
    /// What is wrong, without the place.
    pub message: String,
    /// 1-based line.
    pub line: usize,
    /// Column in bytes, as `serde_json` counts: 1-based, 0 at the start of a line.
    pub column: usize,
}

impl fmt::Display for StrictError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for StrictError {}

impl StrictError {
    pub(crate) fn from_serde(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let message = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text).to_owned();
        StrictError { message, line, column }
    }
}

/// Parses one JSON document with nothing after it. Refuses a key that occurs twice in one object, arrays and objects
/// nested deeper than `max_depth` (`[[1]]` has depth 2), bytes that are not UTF-8, lone surrogates, NaN, infinity
/// and numbers beyond the range of a double. Integers stay exact from `i64::MIN` to `u64::MAX`; larger ones become
/// doubles. The caller limits the size of `bytes`.
pub fn parse_strict(bytes: &[u8], max_depth: usize) -> Result<Value, StrictError> {
    // `Deserializer` finds invalid UTF-8 only in strings, and without a place; this also covers bytes between tokens.
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line_start = good.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
        StrictError {
            message: "bytes that are not UTF-8".to_owned(),
            line: 1 + good.iter().filter(|b| **b == b'\n').count(),
            column: good.len() - line_start + 1,
        }
    })?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let depth = Cell::new(0);
    let room = Cell::new(MAX_WEIGHT);
    let strict = Strict { depth: &depth, room: &room, max: max_depth.min(MAX_DEPTH) };
    let value = strict.deserialize(&mut deserializer).map_err(|e| StrictError::from_serde(&e))?;
    deserializer.end().map_err(|e| StrictError::from_serde(&e))?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: &'a Cell<usize>,
    room: &'a Cell<usize>,
    max: usize,
}

impl Strict<'_> {
    /// Counts a value before it is stored.
    fn count<E: serde::de::Error>(self, weight: usize) -> Result<(), E> {
        let left = self.room.get().checked_sub(weight).ok_or_else(|| E::custom(TOO_MANY))?;
        self.room.set(left);
        Ok(())
    }

    fn enter<E: serde::de::Error>(self) -> Result<(), E> {
        let depth = self.depth.get() + 1;
        if depth > self.max {
            return Err(E::custom(format_args!("nested deeper than {} levels", self.max)));
        }
        self.depth.set(depth);
        Ok(())
    }

    fn leave(self) {
        self.depth.set(self.depth.get() - 1);
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count(1)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.count(3)?;
        self.enter()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        self.leave();
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.count(23)?;
        self.enter()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {} occurs twice", quote(&key))));
            }
            let value = entries.next_value_seed(self)?;
            map.insert(key, value);
        }
        self.leave();
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fails(text: impl AsRef<[u8]>) -> String {
        parse_strict(text.as_ref(), 64).unwrap_err().to_string()
    }

    #[test]
    fn values_arrive_whole() {
        let text = r#" {"a":[1,-2,18446744073709551615,-9223372036854775808,0.1,1e300,null,true,"é\n\u0000\ud83d\ude00"],"b":{}} "#;
        assert_eq!(
            parse_strict(text.as_bytes(), 64).unwrap(),
            json!({"a":[1,-2,u64::MAX,i64::MIN,0.1,1e300,null,true,"é\n\0😀"],"b":{}})
        );
    }

    #[test]
    fn doubles_are_read_to_the_last_bit() {
        // documents are parsed here and written again for the plugin
        for number in
            [0.1 + 0.2, 5e-324, 1.797_693_134_862_315_7e308, 9_007_199_254_740_993.0, 0.000_123_456_789_012_345_67]
        {
            assert_eq!(parse_strict(format!("{number:?}").as_bytes(), 1).unwrap(), json!(number));
        }
        assert_eq!(parse_strict(b"122.416294033786585", 1).unwrap().as_f64(), Some(122.416_294_033_786_59));
    }

    #[test]
    fn duplicate_keys_are_refused_at_any_depth() {
        assert_eq!(fails(r#"{"a":1,"a":1}"#), "line 1 column 10: the key \"a\" occurs twice");
        assert_eq!(fails("[{\"x\":\n{\"k\":0,\"\\u006b\":1}}]"), "line 2 column 15: the key \"k\" occurs twice");
    }

    #[test]
    fn depth_is_counted_by_brackets() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse_strict(nested(64).as_bytes(), 64).is_ok());
        assert_eq!(fails(nested(65)), "line 1 column 66: nested deeper than 64 levels");
        assert!(parse_strict(nested(127).as_bytes(), 10_000).is_ok());
        assert!(parse_strict(nested(100_000).as_bytes(), 10_000).is_err());
        // siblings do not add up
        assert!(parse_strict(format!("[{}0]", "[],{},".repeat(200)).as_bytes(), 2).is_ok());
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            " ",
            "NaN",
            "[Infinity]",
            "-Infinity",
            "1e999",
            "[1]x",
            "{} {}",
            "'a'",
            "[1,]",
            "01",
            "\u{feff}{}",
            "\"\t\"",
        ] {
            assert!(parse_strict(text.as_bytes(), 64).is_err(), "{text:?}");
        }
        assert_eq!(fails(b"{\n\"a\":\"\xff\"}"), "line 2 column 6: bytes that are not UTF-8");
        assert_eq!(fails(r#""\ud800""#), "line 1 column 8: unexpected end of hex escape");
        assert_eq!(fails(r#""\udc00""#), "line 1 column 7: lone leading surrogate in hex escape");
        assert_eq!(fails("[1] x"), "line 1 column 5: trailing characters");
    }

    #[test]
    fn a_key_cannot_forge_the_place() {
        let text = r#"{"x at line 7 column 7":1,"x at line 7 column 7":1}"#;
        assert_eq!(fails(text), "line 1 column 48: the key \"x at line 7 column 7\" occurs twice");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(value) = parse_strict(&bytes, 64) {
                let again = serde_json::to_vec(&value).unwrap();
                prop_assert_eq!(parse_strict(&again, 64).unwrap(), value);
            }
        }

        #[test]
        fn never_panics_on_nearly_json(text in r#"[\[\]{}:,"\\aeu0-9.+ \n-]{0,200}"#) {
            let strict = parse_strict(text.as_bytes(), 64);
            if strict.is_ok() {
                prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
            }
        }
    }
}
