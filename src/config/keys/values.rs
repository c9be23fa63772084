//! Reads the values of keys: one method for each word in the reader's column of the table.

use crate::config::error::ConfigError;
use crate::config::path::{PathSpec, Template};
use crate::config::reader::Reader;
use crate::config::tree::{Data, Key, Node};
use crate::config::value;
use crate::sys::syscalls::{fixed_reason, syscall_number};
use crate::text::quote;
use crate::types::{CallerSpec, OnViolation};
use crate::units::{self, Cpus};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use std::time::Duration;

impl Reader<'_> {
    pub fn program(&self, node: &Node) -> Result<PathSpec, ConfigError> {
        self.path(node, true)
    }

    pub fn paths(&self, node: &Node) -> Result<Vec<PathSpec>, ConfigError> {
        self.list(node, "a list of paths")?.iter().map(|item| self.granted_path(item, true)).collect()
    }

    pub fn groups(&self, node: &Node) -> Result<Vec<String>, ConfigError> {
        let names = self.names(node, "names of [egress.…] tables", |_| true)?;
        match self.list(node, "")?.iter().zip(&names).find(|(_, name)| !self.groups.contains(*name)) {
            None => Ok(names),
            Some((item, name)) => Err(self.error(
                item.at,
                format!("no such egress group: {}; expected NAME of a table [egress.NAME]", quote(name)),
            )),
        }
    }

    pub fn variables(&self, node: &Node) -> Result<BTreeMap<String, Template>, ConfigError> {
        let mut variables = BTreeMap::new();
        for (key, node) in self.table(node, "env")? {
            if !may_be_set(&key.name) {
                let expected = "expected letters, digits and \"_\", not starting with UPM_";
                return Err(self.error(key.at, format!("{} cannot be set; {expected}", quote(&key.name))));
            }
            let text = self.string(node, "text in quotes")?;
            if text.contains('\0') || text.len() > 65_536 {
                return Err(self.error(node.at, "not valid in an environment; expected at most 64 KiB without NUL"));
            }
            variables.insert(key.name.clone(), Template(text.to_owned()));
        }
        Ok(variables)
    }

    pub fn variable_names(&self, node: &Node) -> Result<Vec<String>, ConfigError> {
        self.names(node, "names of environment variables that do not start with UPM_", may_be_set)
    }

    pub fn syscalls(&self, node: &Node) -> Result<Vec<String>, ConfigError> {
        let check = |name: &str| {
            !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let names = self.names(node, "names of system calls", check)?;
        for (item, name) in self.list(node, "")?.iter().zip(&names) {
            let shown = quote(name);
            if syscall_number(name).is_none() {
                let arch = std::env::consts::ARCH;
                let what = format!("{shown} is not a system call of {arch}; expected names as in seccomp/syscalls.tbl");
                return Err(self.error(item.at, what));
            }
            if let Some(reason) = fixed_reason(name) {
                return Err(self.error(item.at, format!("{shown} cannot be added: {reason}")));
            }
        }
        Ok(names)
    }

    pub fn on_violation(&self, node: &Node) -> Result<OnViolation, ConfigError> {
        self.word(node, &[("deny", OnViolation::Deny), ("kill", OnViolation::Kill)])
    }

    pub fn policy(&self, node: &Node) -> Result<Map<String, Value>, ConfigError> {
        self.json_table(self.table(node, "policy")?)
    }

    pub fn time(&self, node: &Node) -> Result<Duration, ConfigError> {
        let text = self.string(node, "a time in quotes, such as \"90s\"")?;
        units::time(text).map_err(|expected| self.error(node.at, format!("{}: {expected}", quote(text))))
    }

    pub fn cpus(&self, node: &Node) -> Result<Cpus, ConfigError> {
        let number = match node.value {
            Data::Integer(value) => value as f64,
            Data::Float(value) => value,
            _ => f64::NAN,
        };
        Cpus::new(number).ok_or_else(|| {
            let (least, most) = (Cpus::RANGE.start(), Cpus::RANGE.end());
            self.wrong(node, &format!("a number of processors from {least} to {most}, such as 1 or 1.5"))
        })
    }

    pub fn size(&self, node: &Node, max: u64) -> Result<u64, ConfigError> {
        let text = self.string(node, "a size with its unit in quotes, such as \"512MiB\"")?;
        units::size(text, max).map_err(|expected| self.error(node.at, format!("{}: {expected}", quote(text))))
    }

    pub fn count(&self, node: &Node, least: u64, most: u64) -> Result<u64, ConfigError> {
        self.integer(node, least, most)
    }

    pub fn abi(&self, node: &Node) -> Result<u32, ConfigError> {
        Ok(u32::try_from(self.integer(node, 1, 99)?).unwrap_or(99))
    }

    pub fn user(&self, node: &Node) -> Result<String, ConfigError> {
        const EXPECTED: &str = "a user's name, or a user id from 1 to 4294967294";
        let text = match &node.value {
            Data::Integer(uid) => uid.to_string(),
            Data::String(text) => text.clone(),
            _ => return Err(self.wrong(node, EXPECTED)),
        };
        let fits = if text.bytes().all(|b| b.is_ascii_digit()) {
            // 2^32-1 means "leave unchanged" to setresuid(2)
            text.parse::<u32>().is_ok_and(|uid| uid != 0 && uid != u32::MAX)
        } else {
            text != "root" && value::is_account_name(&text)
        };
        if fits { Ok(text) } else { Err(self.wrong(node, EXPECTED)) }
    }

    pub fn callers(&self, node: &Node) -> Result<Vec<CallerSpec>, ConfigError> {
        const EXPECTED: &str = "\"user:NAME\" or \"group:NAME\", or with numbers such as \"user:1000\"";
        let names = self.names(node, EXPECTED, |name| value::caller(name).is_some())?;
        Ok(names.iter().filter_map(|name| value::caller(name)).collect())
    }

    fn json(&self, node: &Node) -> Result<Value, ConfigError> {
        Ok(match &node.value {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Integer(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => value.into(),
                (_, Ok(value)) => value.into(),
                _ => return Err(self.wrong(node, "a number that fits 64 bits")),
            },
            Data::Float(value) => match Number::from_f64(*value) {
                Some(number) => Value::Number(number),
                None => return Err(self.wrong(node, "a number that JSON can hold")),
            },
            Data::String(text) | Data::Datetime(text) => Value::String(text.clone()),
            Data::Array(items) => Value::Array(items.iter().map(|item| self.json(item)).collect::<Result<_, _>>()?),
            Data::Table(entries) => Value::Object(self.json_table(entries)?),
        })
    }

    fn json_table(&self, entries: &[(Key, Node)]) -> Result<Map<String, Value>, ConfigError> {
        entries.iter().map(|(key, node)| Ok((key.name.clone(), self.json(node)?))).collect()
    }
}

fn may_be_set(variable: &str) -> bool {
    value::is_variable_name(variable) && !variable.starts_with("UPM_")
}
