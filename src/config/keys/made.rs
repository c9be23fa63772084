//! What is generated from the table of keys.

use super::GrantKeys;
use crate::config::path::{PathSpec, Template};
use crate::keys::Key;
use crate::types::EgressGroup;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Index;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A value and the line of its key.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// 1-based.
    pub line: usize,
}

/// The table that a grant key's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// `[plugins.NAME.methods.METHOD]`.
    Method,
    /// `[plugins.NAME]`.
    Plugin,
    /// `[defaults]`.
    Defaults,
    /// No table has it.
    BuiltIn,
}

/// Where a grant's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The table.
    pub level: Level,
    /// 1-based line in the configuration file; `None` for built-in values.
    pub line: Option<usize>,
}

/// Where the value of each key comes from.
#[derive(Debug, Clone)]
pub struct Origins([Origin; Key::ALL.len()]);

impl Index<Key> for Origins {
    type Output = Origin;

    fn index(&self, key: Key) -> &Origin {
        &self.0[key as usize]
    }
}

impl Origins {
    pub(super) fn built_in() -> Self {
        Origins([Origin { level: Level::BuiltIn, line: None }; Key::ALL.len()])
    }

    pub(super) fn set(&mut self, key: Key, level: Level, line: usize) {
        self.0[key as usize] = Origin { level, line: Some(line) };
    }
}

/// The value of the most specific table that has one. `levels` starts with the most specific.
pub(crate) fn pick<'k, T>(
    levels: &[(Level, &'k GrantKeys)],
    get: impl Fn(&'k GrantKeys) -> Option<&'k At<T>>,
) -> Option<(Level, &'k At<T>)> {
    levels.iter().find_map(|(level, keys)| Some((*level, get(keys)?)))
}

/// What is needed to expand written values.
pub(crate) struct Scope<'a> {
    pub groups: &'a BTreeMap<String, EgressGroup>,
    pub project_root: &'a Path,
    pub cache_dir: &'a Path,
}

/// Converts a written value into what a call gets.
pub(super) trait Grants<T> {
    fn grant(&self, scope: &Scope<'_>) -> T;
}

impl<T: Clone> Grants<T> for T {
    fn grant(&self, _: &Scope<'_>) -> T {
        self.clone()
    }
}

impl<T: Clone> Grants<Option<T>> for T {
    fn grant(&self, _: &Scope<'_>) -> Option<T> {
        Some(self.clone())
    }
}

impl Grants<PathBuf> for PathSpec {
    fn grant(&self, scope: &Scope<'_>) -> PathBuf {
        self.expand(scope.project_root, scope.cache_dir)
    }
}

impl Grants<Vec<PathBuf>> for Vec<PathSpec> {
    fn grant(&self, scope: &Scope<'_>) -> Vec<PathBuf> {
        self.iter().map(|spec| spec.grant(scope)).collect()
    }
}

impl Grants<BTreeMap<String, String>> for BTreeMap<String, Template> {
    fn grant(&self, scope: &Scope<'_>) -> BTreeMap<String, String> {
        self.iter().map(|(name, text)| (name.clone(), text.expand(scope.project_root, scope.cache_dir))).collect()
    }
}

impl Grants<Vec<EgressGroup>> for Vec<String> {
    fn grant(&self, scope: &Scope<'_>) -> Vec<EgressGroup> {
        // unknown names are refused when the file is read
        self.iter().filter_map(|name| scope.groups.get(name).cloned()).collect()
    }
}

/// A time as shown by `upm explain` and the documents.
pub(super) fn as_text<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let ms = time.as_millis();
    serializer.collect_str(&if ms % 1000 == 0 { format!("{}s", ms / 1000) } else { format!("{ms}ms") })
}

/// The last of one or two types.
macro_rules! last {
    ($one:ty) => {
        $one
    };
    ($one:ty, $other:ty) => {
        $other
    };
}

/// Calls the function in `raised` if the key has a unit.
macro_rules! raise {
    ([] $read:ident $values:tt) => { None };
    ([$unit:ident] $read:ident $values:tt) => { raised::$read $values };
}

/// The plan's limits: the rows that have one.
macro_rules! limits {
    ($([$($limit:ident $(: $number:ty = $convert:ident)?)?] $name:ident: $granted:ty, $doc:literal;)*) => {
        /// A call's limits: bytes, counts, and times in the unit of their names.
        #[derive(Debug, Clone, Serialize)]
        pub struct Limits {
            $($(#[doc = $doc] pub $limit: last!($granted $(, $number)?),)?)*
        }

        impl From<&Grant> for Limits {
            fn from(grant: &Grant) -> Self {
                Limits { $($($limit: $($convert)? (grant.$name),)?)* }
            }
        }
    };
}

/// The rows of the table; `src/keys.rs` describes the columns.
macro_rules! grants {
    ($(
        $(#[$attribute:meta])*
        $key:ident $name:ident: $written:ty $(=> $granted:ty)? = $built_in:expr, $read:ident($($argument:expr),*), $doc:literal
        $(, unit $unit:ident)? $(, limit $limit:ident $(: $number:ty = $convert:ident)?)? $(, held $held:literal)?;
    )*) => {
        /// The keys of one table in the configuration; `None` means that the next level decides.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct GrantKeys {
            $(#[doc = $doc] pub $name: Option<At<$written>>,)*
        }

        impl GrantKeys {
            /// Reads the value of one key.
            pub(super) fn set(&mut self, key: Key, line: usize, reader: &Reader<'_>, node: &Node) -> Result<(), ConfigError> {
                match key {
                    $(Key::$key => self.$name = Some(At { value: reader.$read(node $(, $argument)*)?, line }),)*
                }
                Ok(())
            }
        }

        /// What the configuration allows one method, with every key resolved. Paths are absolute, with variables replaced.
        #[derive(Debug, Clone, Serialize)]
        pub struct Grant {
            $(#[doc = $doc] $(#[$attribute])* pub $name: last!($written $(, $granted)?),)*
            /// Where each key's value comes from.
            #[serde(skip)]
            pub origins: Origins,
        }

        impl Grant {
            /// Takes each key's value from the first of `levels` that has it, otherwise the built-in one. Values are not merged.
            pub(crate) fn resolve(levels: &[(Level, &GrantKeys)], scope: &Scope<'_>) -> Grant {
                let mut origins = Origins::built_in();
                Grant {
                    $($name: match pick(levels, |keys| keys.$name.as_ref()) {
                        Some((level, at)) => {
                            origins.set(Key::$key, level, at.line);
                            at.value.grant(scope)
                        }
                        None => $built_in,
                    },)*
                    origins,
                }
            }

            /// The grant of a method without any configuration.
            #[must_use]
            pub(crate) fn built_in() -> Grant {
                Grant { $($name: $built_in,)* origins: Origins::built_in() }
            }

            /// Twice the key's amount, up to its limit, as written in the configuration. `None` if it is at the limit already,
            /// or if the key is not an amount.
            pub(crate) fn raised(&self, key: Key) -> Option<Value> {
                match key { $(Key::$key => raise!([$($unit)?] $read (self.$name $(, $argument)*)),)* }
            }
        }

        limits! { $([$($limit $(: $number = $convert)?)?] $name: last!($written $(, $granted)?), $doc;)* }
    };
}
