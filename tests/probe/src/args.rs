//! Arguments of an act: numbers may be written as the kernel's names, joined by `|`.

use crate::answer::Trouble;
use crate::constants;
use serde_json::Value;

/// The arguments of one act.
#[derive(Clone, Copy)]
pub struct Args<'a>(pub &'a [Value]);

impl<'a> Args<'a> {
    /// The rest from `from` on.
    pub fn rest(self, from: usize) -> Args<'a> {
        Args(self.0.get(from..).unwrap_or(&[]))
    }

    /// Argument `at`, if given and not null.
    pub fn get(self, at: usize) -> Option<&'a Value> {
        self.0.get(at).filter(|value| !value.is_null())
    }

    /// A string.
    pub fn text(self, at: usize) -> Result<&'a str, Trouble> {
        self.get(at).and_then(Value::as_str).ok_or_else(|| Trouble::usage(format!("argument {at}: a string is needed")))
    }

    /// A string, or `default` when it is not given.
    pub fn text_or(self, at: usize, default: &'a str) -> &'a str {
        self.get(at).and_then(Value::as_str).unwrap_or(default)
    }

    /// A number, or names of constants joined by `|`.
    pub fn int(self, at: usize) -> Result<i64, Trouble> {
        let value = self.get(at).ok_or_else(|| Trouble::usage(format!("argument {at}: a number is needed")))?;
        number(value).ok_or_else(|| Trouble::usage(format!("argument {at}: {value} is not a number")))
    }

    /// A number, or `default` when it is not given.
    pub fn int_or(self, at: usize, default: i64) -> Result<i64, Trouble> {
        if self.get(at).is_some() { self.int(at) } else { Ok(default) }
    }
}

/// A JSON number (unsigned 64-bit ones wrap) or an expression of constants.
pub fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64().or_else(|| n.as_u64().map(|n| n as i64)),
        Value::Bool(b) => Some(i64::from(*b)),
        Value::String(text) => text.split('|').try_fold(0, |sum, word| Some(sum | one(word.trim())?)),
        _ => None,
    }
}

fn one(word: &str) -> Option<i64> {
    if let Some(hex) = word.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(|n| n as i64);
    }
    if let Some(octal) = word.strip_prefix("0o") {
        return i64::from_str_radix(octal, 8).ok();
    }
    word.parse().ok().or_else(|| constants::constant(word))
}
