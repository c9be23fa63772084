//! Values that the command line and a service's request both have: each is read here, once. An error is a sentence
//! that the value stands before.

use crate::call::JsonSource;
use crate::config::is_plugin_name;
use clap::builder::{OsStringValueParser, TypedValueParser};
use std::ffi::{OsStr, OsString};
use std::time::Duration;
use uuid::Uuid;

/// Bytes of a method's name at most; a plugin's have [`is_plugin_name`].
const METHOD_LIMIT: usize = 256;

pub(super) const NOT_A_PLUGIN: &str = "not a valid plugin name; expected a capital letter, then up to 63 letters, \
                                       digits and underscores; `upm list` shows the configured plugins";

/// How clap reads a value. Its error has the value and the sentence; `line` makes the message of them.
pub(super) fn value<T: Clone + Send + Sync + 'static>(
    read: fn(&OsStr) -> Result<T, String>,
) -> impl TypedValueParser<Value = T> {
    OsStringValueParser::new().try_map(move |word: OsString| read(&word))
}

pub(super) fn plugin(word: &OsStr) -> Result<String, String> {
    match word.to_str() {
        Some(name) if is_plugin_name(name) => Ok(name.to_owned()),
        _ => Err(NOT_A_PLUGIN.to_owned()),
    }
}

pub(super) fn method(word: &OsStr) -> Result<String, String> {
    let wrong = |reason: &str| Err(format!("the method's name {reason}"));
    match word.to_str() {
        None => wrong("is not UTF-8"),
        Some("") => wrong("is empty"),
        Some(name) if name.len() > METHOD_LIMIT => wrong("is longer than 256 bytes"),
        Some(name) if name.contains(char::is_control) => wrong("has control characters"),
        Some(name) => Ok(name.to_owned()),
    }
}

/// A call's third word.
pub(super) fn json(word: &OsStr) -> Result<JsonSource, String> {
    match word.to_str() {
        Some("-") => Ok(JsonSource::Stdin),
        Some(text) => Ok(JsonSource::Text(text.to_owned())),
        None => Err("the JSON is not UTF-8".to_owned()),
    }
}

pub(super) fn timeout(text: &OsStr) -> Result<Duration, String> {
    crate::units::time(&text.to_string_lossy()).map_err(|error| error.to_string())
}

pub(super) fn request_id(text: &OsStr) -> Result<Uuid, String> {
    uuid(text).ok_or_else(|| "not a UUID; write it like cdb3458d-0b84-491a-9c4e-709f30e11111".to_owned())
}

/// Only the form with hyphens, which is what the envelope carries.
pub(super) fn uuid(text: &OsStr) -> Option<Uuid> {
    text.to_str().filter(|text| text.len() == 36).and_then(|text| Uuid::try_parse(text).ok())
}
