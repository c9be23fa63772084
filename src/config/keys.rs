//! The types generated from the table of keys ([`crate::keys`]): [`GrantKeys`] as the configuration has them, [`Grant`] as a
//! call gets them, the plan's [`Limits`]. `made.rs` has the macro; the names in the rows are resolved here.

#[macro_use]
mod made;
pub mod docs;
mod raised;
mod values;

pub use made::{At, Level, Origin, Origins};
pub(crate) use made::{Scope, pick};

use super::path::{PathSpec, Template};
use super::reader::Reader;
use super::tree::Node;
use super::{ConfigError, DEFAULT_INTERPRETER};
use crate::keys::{self, Key};
use crate::types::{CallerSpec, EgressGroup, OnViolation};
use crate::units::{Cpus, MAX_HELD, MAX_OPEN_FILES, MAX_PROCESSES, MAX_SIZE, millis, whole_seconds};
use made::Grants;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

keys::table!(grants);

impl Grant {
    /// Whether host paths are granted.
    #[must_use]
    pub fn has_paths(&self) -> bool {
        !(self.read.is_empty() && self.write.is_empty())
    }
}
