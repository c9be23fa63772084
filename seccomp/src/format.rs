//! The JSON format of a profile.

use crate::bpf::Action;
use crate::profile::Condition;
use crate::table::Arch;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[serde(rename = "comment")]
    _comment: Comment,
    pub newest: Newest,
    pub newer: Action,
    pub foreign: Action,
    pub otherwise: Action,
    pub rules: Vec<Rule>,
    #[serde(default)]
    pub fixed: Vec<Fixed>,
}

/// The highest number of each architecture that was reviewed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Newest {
    x86_64: u32,
    aarch64: u32,
}

impl Newest {
    pub fn of(&self, arch: Arch) -> u32 {
        match arch {
            Arch::X86_64 => self.x86_64,
            Arch::Aarch64 => self.aarch64,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub syscalls: Vec<String>,
    pub comment: Comment,
    pub arch: Option<Arch>,
    pub action: Option<Action>,
    pub when: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fixed {
    pub syscalls: Vec<String>,
    pub comment: Comment,
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Action, D::Error> {
        let name = String::deserialize(deserializer)?;
        Action::named(&name).ok_or_else(|| D::Error::custom(format!("{name:?} is not an action")))
    }
}

/// A text that is not empty.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Comment(pub String);

impl TryFrom<String> for Comment {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Comment, &'static str> {
        if text.trim().is_empty() { Err("the comment is empty") } else { Ok(Comment(text)) }
    }
}

/// A number written as JSON number or as `"0x…"`, `"0o…"`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a 32-bit number, or one as \"0x…\" or \"0o…\"")]
enum Written {
    Number(u32),
    Text(String),
}

#[derive(Deserialize)]
#[serde(try_from = "Written")]
struct Number(u32);

impl TryFrom<Written> for Number {
    type Error = String;

    fn try_from(written: Written) -> Result<Number, String> {
        let text = match written {
            Written::Number(number) => return Ok(Number(number)),
            Written::Text(text) => text,
        };
        let parsed = match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
            (Some(hex), _) => u32::from_str_radix(hex, 16),
            (_, Some(octal)) => u32::from_str_radix(octal, 8),
            _ => return Err(format!("{text:?} starts with neither 0x nor 0o")),
        };
        parsed.map(Number).map_err(|e| format!("{text:?}: {e}"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Comparison {
    arg: u8,
    mask: Option<Number>,
    eq: Option<Number>,
    ne: Option<Number>,
}

impl TryFrom<Comparison> for Condition {
    type Error = String;

    fn try_from(written: Comparison) -> Result<Condition, String> {
        let arg = written.arg;
        if arg > 5 {
            return Err(format!("argument {arg} does not exist: 0–5"));
        }
        let (equal, Number(value)) = match (written.eq, written.ne) {
            (Some(v), None) => (true, v),
            (None, Some(v)) => (false, v),
            _ => return Err(format!("argument {arg}: exactly one of `eq` and `ne`")),
        };
        let mask = written.mask.map_or(u32::MAX, |m| m.0);
        if value & !mask != 0 {
            return Err(format!("argument {arg}: {value:#x} has bits outside the mask {mask:#x}"));
        }
        if mask == 0 {
            return Err(format!("argument {arg}: the mask is zero"));
        }
        Ok(Condition { arg, mask, equal, value })
    }
}
