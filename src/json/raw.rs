//! JSON that is passed on: checked like in [`super::parse_strict`] but kept as text, because a tree of values can take seventy
//! times as much memory.
#![forbid(unsafe_code)]

use super::{MAX_DEPTH, StrictError};
use crate::text::quote;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeMap, SerializeSeq, Serializer};
use serde::{Deserialize, de};
use serde_json::Value;
use serde_json::value::RawValue;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// One strict JSON value, without white space between tokens, with its keys in their original order. Clones share the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw(Arc<String>);

impl Raw {
    /// Checks a document and keeps it in the form in which the value of [`super::parse_strict`] would be written. Besides the
    /// text, it takes eight bytes for each key of the objects that are open at the same time.
    ///
    /// # Errors
    /// As [`super::parse_strict`], except for the number of values.
    pub fn read(text: &str, max_depth: usize) -> Result<Self, StrictError> {
        let max = max_depth.min(MAX_DEPTH);
        loop {
            let state = Strict { max, ..Strict::default() };
            let mut out = Vec::with_capacity(text.len());
            match copy(text, &mut serde_json::Serializer::new(&mut out), Some(&state)) {
                Ok(()) => {
                    let text = String::from_utf8(out).map_err(|error| StrictError {
                        message: error.to_string(),
                        line: 1,
                        column: 0,
                    })?;
                    return Ok(Raw(Arc::new(text)));
                }
                Err(error) => match state.twice.take() {
                    None => return Err(StrictError::from_serde(&error)),
                    // Two keys have the same hash, almost certainly because they are equal.
                    Some(hash) => {
                        drop(out);
                        let state = Strict { max, exact: Some(hash), hasher: state.hasher, ..Strict::default() };
                        copy(text, &mut serde_json::Serializer::new(std::io::sink()), Some(&state))
                            .map_err(|error| StrictError::from_serde(&error))?;
                    }
                },
            }
        }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The value as a tree, for results that are known to be small.
    #[must_use]
    pub fn value(&self) -> Value {
        // It was checked before, so its depth and numbers are valid.
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }
}

impl From<&Value> for Raw {
    fn from(value: &Value) -> Self {
        Raw(Arc::new(value.to_string()))
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut from = serde_json::Deserializer::from_str(&self.0);
        from.deserialize_any(Copy { to: serializer, state: None }).map_err(S::Error::custom)
    }
}

/// Reads what [`Raw`]'s `Serialize` wrote in another process of the engine, without checking it again.
impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Raw(Arc::new(String::from(Box::<str>::from(raw)))))
    }
}

/// A document, indented for display.
///
/// # Errors
/// It is not JSON, or is nested deeper than 127 levels.
pub fn indented(text: &str) -> serde_json::Result<String> {
    let mut out = Vec::with_capacity(text.len());
    copy(text, &mut serde_json::Serializer::pretty(&mut out), None)?;
    String::from_utf8(out).map_err(<serde_json::Error as de::Error>::custom)
}

fn copy<S: Serializer<Error = serde_json::Error>>(
    text: &str,
    to: S,
    state: Option<&Strict>,
) -> Result<S::Ok, serde_json::Error> {
    let mut from = serde_json::Deserializer::from_str(text);
    let copied = from.deserialize_any(Copy { to, state })?;
    from.end()?;
    Ok(copied)
}

/// The state of the checks.
#[derive(Default)]
struct Strict {
    max: usize,
    depth: Cell<usize>,
    hasher: RandomState,
    /// Hashes of the keys of all open objects, the innermost object's last.
    keys: RefCell<Vec<u64>>,
    /// The hash of two keys in one object.
    twice: Cell<Option<u64>>,
    /// If set, only keys with this hash are compared, by their text.
    exact: Option<u64>,
    /// Keys of that hash, with the depth of their object.
    found: RefCell<Vec<(usize, String)>>,
}

impl Strict {
    fn enter<E: de::Error>(&self) -> Result<usize, E> {
        let depth = self.depth.get() + 1;
        if depth > self.max {
            return Err(E::custom(format_args!("nested deeper than {} levels", self.max)));
        }
        self.depth.set(depth);
        Ok(self.keys.borrow().len())
    }

    fn key<E: de::Error>(&self, key: &str) -> Result<(), E> {
        let hash = self.hasher.hash_one(key);
        match self.exact {
            None => self.keys.borrow_mut().push(hash),
            Some(wanted) if wanted == hash => {
                let mut found = self.found.borrow_mut();
                let depth = self.depth.get();
                if found.iter().any(|(at, known)| *at == depth && known == key) {
                    return Err(E::custom(format_args!("the key {} occurs twice", quote(key))));
                }
                found.push((depth, key.to_owned()));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Ends the array or object that started at `before` keys.
    fn leave<E: de::Error>(&self, before: usize) -> Result<(), E> {
        let depth = self.depth.get();
        self.depth.set(depth - 1);
        self.found.borrow_mut().retain(|(at, _)| *at < depth);
        let mut keys = self.keys.borrow_mut();
        let own = &mut keys[before..];
        own.sort_unstable();
        if let Some(pair) = own.windows(2).find(|pair| pair[0] == pair[1]) {
            self.twice.set(Some(pair[0]));
            return Err(E::custom("a key occurs twice"));
        }
        keys.truncate(before);
        Ok(())
    }
}

/// Passes each value to a serializer as it is read.
struct Copy<'a, S> {
    to: S,
    state: Option<&'a Strict>,
}

impl<'de, S: Serializer> Visitor<'de> for Copy<'_, S> {
    type Value = S::Ok;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<S::Ok, E> {
        self.to.serialize_unit().map_err(E::custom)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<S::Ok, E> {
        self.to.serialize_bool(value).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<S::Ok, E> {
        self.to.serialize_i64(value).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<S::Ok, E> {
        self.to.serialize_u64(value).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<S::Ok, E> {
        if !value.is_finite() {
            return Err(E::custom("number out of range"));
        }
        self.to.serialize_f64(value).map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<S::Ok, E> {
        self.to.serialize_str(value).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<S::Ok, A::Error> {
        let before = self.state.map(Strict::enter::<A::Error>).transpose()?;
        let mut to = self.to.serialize_seq(None).map_err(A::Error::custom)?;
        while items.next_element_seed(Item { to: &mut to, state: self.state })?.is_some() {}
        if let (Some(state), Some(before)) = (self.state, before) {
            state.leave(before)?;
        }
        to.end().map_err(A::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<S::Ok, A::Error> {
        let before = self.state.map(Strict::enter::<A::Error>).transpose()?;
        let mut to = self.to.serialize_map(None).map_err(A::Error::custom)?;
        while entries.next_key_seed(Key { to: &mut to, state: self.state })?.is_some() {
            entries.next_value_seed(Member { to: &mut to, state: self.state })?;
        }
        if let (Some(state), Some(before)) = (self.state, before) {
            state.leave(before)?;
        }
        to.end().map_err(A::Error::custom)
    }
}

/// A value that is written while it is read.
struct Stream<'a, D> {
    from: Cell<Option<D>>,
    state: Option<&'a Strict>,
}

impl<'de, D: Deserializer<'de>> Serialize for Stream<'_, D> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let from = self.from.take().ok_or_else(|| S::Error::custom("read twice"))?;
        from.deserialize_any(Copy { to, state: self.state }).map_err(S::Error::custom)
    }
}

struct Item<'a, T> {
    to: &'a mut T,
    state: Option<&'a Strict>,
}

impl<'de, T: SerializeSeq> DeserializeSeed<'de> for Item<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let stream = Stream { from: Cell::new(Some(from)), state: self.state };
        self.to.serialize_element(&stream).map_err(D::Error::custom)
    }
}

struct Member<'a, T> {
    to: &'a mut T,
    state: Option<&'a Strict>,
}

impl<'de, T: SerializeMap> DeserializeSeed<'de> for Member<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let stream = Stream { from: Cell::new(Some(from)), state: self.state };
        self.to.serialize_value(&stream).map_err(D::Error::custom)
    }
}

struct Key<'a, T> {
    to: &'a mut T,
    state: Option<&'a Strict>,
}

impl<'de, T: SerializeMap> DeserializeSeed<'de> for Key<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de, T: SerializeMap> Visitor<'de> for Key<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<(), E> {
        if let Some(state) = self.state {
            state.key(key)?;
        }
        self.to.serialize_key(key).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TOO_MANY, parse_strict};
    use super::*;
    use proptest::prelude::*;

    /// Both readers must give the same result, byte for byte.
    fn same(text: &str, depth: usize) {
        let raw = Raw::read(text, depth);
        match parse_strict(text.as_bytes(), depth) {
            Ok(value) => {
                let raw = raw.unwrap_or_else(|error| panic!("{text}: {error}"));
                assert_eq!(raw.text(), value.to_string());
                assert_eq!(raw.value(), value);
                assert_eq!(serde_json::to_string(&raw).unwrap(), value.to_string());
                assert_eq!(indented(raw.text()).unwrap(), format!("{value:#}"));
                assert_eq!(raw, Raw::from(&value));
            }
            Err(error) if error.message.starts_with(TOO_MANY) => assert!(raw.is_ok()),
            Err(error) => {
                let own = raw.unwrap_err();
                // `Raw` detects duplicate keys only at the end of an object, and reports any of several.
                let twice = [&own, &error].iter().any(|error| error.message.ends_with("occurs twice"));
                assert!(twice || own == error, "{text}: {own}, {error}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_what_the_tree_would_write() {
        for text in [
            r#" {"b" : [1,-2,18446744073709551615,-9223372036854775808,0.1,1e300,null,true,"é\n\u0000\ud83d\ude00\/"], "a":{} } "#,
            "-0",
            "-0.0",
            "1E5",
            "5e-324",
            "122.416294033786585",
            "18446744073709551616",
            "123456789012345678901234567890",
            "\"\\u007f\\u2028\"",
            "[]",
            "[[],[{}],{\"\":{\"\":0}}]",
            // refused
            "",
            "1e999",
            "[1,]",
            "{} {}",
            "NaN",
            r#""\ud800""#,
            r#""\udc00""#,
            r#"{"a":1,"a":1}"#,
            "[{\"x\":\n{\"k\":0,\"\\u006b\":1}}]",
            r#"{"a":{"b":0},"c":{"b":0},"a":2}"#,
            r#"{"x at line 7 column 7":1,"x at line 7 column 7":1}"#,
        ] {
            same(text, 64);
        }
        // the same key in nested objects
        same(r#"{"a":{"a":{"a":0}},"b":[{"a":0},{"a":0}]}"#, 64);
    }

    #[test]
    fn the_place_of_a_second_key_is_reported() {
        let error = Raw::read("{\"a\":{\"k\":1},\n\"k\":2,\"k\":3}", 9).unwrap_err();
        assert_eq!(error.to_string(), "line 2 column 9: the key \"k\" occurs twice");
    }

    #[test]
    fn depth_is_counted_by_brackets() {
        for n in [1, 63, 64, 65, 126, 127, 128, 1000] {
            same(&format!("{}{}", "[".repeat(n), "]".repeat(n)), 64);
            same(&format!("{}0{}", "{\"a\":".repeat(n), "}".repeat(n)), 127);
        }
        same(&format!("[{}0]", "[],{},".repeat(200)), 2);
    }

    #[test]
    fn keys_that_collide_are_compared() {
        let state = Strict { max: 9, exact: Some(RandomState::new().hash_one("b")), ..Strict::default() };
        let text = r#"{"a":1,"a":1}"#;
        // different keys with the same hash are accepted
        copy(text, &mut serde_json::Serializer::new(std::io::sink()), Some(&state)).unwrap();
        let state = Strict { max: 9, ..Strict::default() };
        let state = Strict { exact: Some(state.hasher.hash_one("a")), ..state };
        copy(text, &mut serde_json::Serializer::new(std::io::sink()), Some(&state)).unwrap_err();
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_tree(text in r#"[\[\]{}:,"\\aeu0-9.+ \n-]{0,60}"#) {
            same(&text, 5);
        }

        #[test]
        fn it_agrees_on_objects(keys in proptest::collection::vec("[ab]{0,2}", 0..6)) {
            let members: Vec<String> = keys.iter().map(|key| format!("\"{key}\":{{\"{key}\":1}}")).collect();
            same(&format!("{{{}}}", members.join(",")), 5);
        }
    }
}
