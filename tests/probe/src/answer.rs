//! The one form in which every act answers.

use crate::constants;
use serde_json::{Map, Value, json};
use std::io;

/// Why an act did not work.
#[derive(Debug)]
pub struct Trouble {
    /// The kernel's number; -1 when the act was not even tried.
    pub errno: i32,
    /// For people.
    pub message: String,
}

impl Trouble {
    /// The caller named an act or argument that does not exist. Never to be taken for a denial.
    pub fn usage(message: impl Into<String>) -> Self {
        Trouble { errno: -1, message: message.into() }
    }

    /// What the kernel said.
    pub fn errno(errno: i32) -> Self {
        Trouble { errno, message: io::Error::from_raw_os_error(errno).to_string() }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble { errno: error.raw_os_error().unwrap_or(-1), message: error.to_string() }
    }
}

/// What an act returns: an object is merged into the answer, anything else becomes `value`.
pub type Answer = Result<Value, Trouble>;

/// The answer as a JSON object.
pub fn form(answer: Answer) -> Value {
    let mut map = Map::new();
    match answer {
        Ok(value) => {
            map.insert("ok".into(), true.into());
            map.insert("errno".into(), 0.into());
            map.insert("errno_name".into(), Value::Null);
            match value {
                Value::Object(more) => map.extend(more),
                other => {
                    map.insert("value".into(), other);
                }
            }
        }
        Err(trouble) => {
            map.insert("ok".into(), false.into());
            map.insert("errno".into(), trouble.errno.into());
            map.insert("errno_name".into(), json!(constants::errno_name(trouble.errno)));
            map.insert("message".into(), trouble.message.into());
        }
    }
    Value::Object(map)
}
