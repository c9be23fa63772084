//! What a watched call looked for, as text and as JSON.

use crate::config::Config;
use crate::report::envelope::Envelope;
use crate::text::escape;
use crate::types::{Change, Look, LookFor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

/// How many look-ups of paths that this host does not have the text lists; JSON has all.
const LISTED: usize = 20;
/// The same for paths that exist, and for what is not suggested.
const LISTED_HERE: usize = 200;

/// What is reported.
pub(super) struct Seen {
    pub looks: Vec<Look>,
    pub names: BTreeMap<(String, u16), u64>,
    /// What was denied besides, a line each.
    pub others: Vec<String>,
    pub left_out: usize,
    pub unmeasured: Option<String>,
    pub dropped: u64,
    pub refused: Vec<(String, String)>,
}

impl Seen {
    /// Whether this host has what was looked for. Connections are not checked.
    fn is_here(look: &Look) -> bool {
        look.act == LookFor::Connect || fs::symlink_metadata(&look.object).is_ok()
    }

    pub fn json(
        &self,
        config: &Config,
        envelope: &Envelope,
        exit: i32,
        change: Option<Change>,
        diff: Option<String>,
    ) -> String {
        let looks: Vec<Value> = self
            .looks
            .iter()
            .map(|look| json!({ "act": look.act, "object": look.object, "count": look.count, "on_host": Self::is_here(look) }))
            .collect();
        let names: Vec<Value> = self
            .names
            .iter()
            .map(|((name, port), count)| json!({ "name": name, "port": port, "count": count }))
            .collect();
        let refused: Vec<Value> =
            self.refused.iter().map(|(object, why)| json!({ "object": object, "why": why })).collect();
        let document = json!({
            "config": config.path,
            "exit": exit,
            "looked_for": looks,
            "names": names,
            "left_out": self.left_out,
            "start_unmeasured": self.unmeasured,
            "not_listed": self.dropped,
            "not_suggested": refused,
            "change": change.map(|change| config.lines(&change)),
            "diff": diff,
        });
        // The call's answer is the last member, in the pieces that it has.
        let head = document.to_string();
        let head = head.strip_suffix('}').unwrap_or_default();
        format!("{head},\"call\":{}}}\n", envelope.pieces().concat())
    }

    pub fn text(&self, config: &Config, envelope: &Value, exit: i32, diff: Option<String>) -> String {
        let mut text = String::new();
        let mut line = |parts: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            text.write_fmt(parts).expect("a string grows");
            text.push('\n');
        };
        match envelope["data"]["error"].as_str() {
            Some(error) => line(format_args!("the call ended with {exit}: {}", escape(error, false))),
            None => line(format_args!("the call succeeded")),
        }
        let (here, elsewhere): (Vec<&Look>, Vec<&Look>) = self.looks.iter().partition(|look| Self::is_here(look));
        let verb = |act| match act {
            LookFor::Read => "read   ",
            LookFor::Write => "write  ",
            LookFor::Execute => "run    ",
            LookFor::Connect => "connect",
        };
        if !here.is_empty() || !self.names.is_empty() {
            line(format_args!("\nlooked for and not given:"));
        }
        for look in here.iter().take(LISTED_HERE) {
            line(format_args!("  {}  {}  ({} times)", verb(look.act), escape(&look.object, false), look.count));
        }
        if here.len() > LISTED_HERE {
            line(format_args!("  and {} more (--json lists them)", here.len() - LISTED_HERE));
        }
        for ((name, port), count) in &self.names {
            line(format_args!("  name     {}  (port {port}, {count} times)", escape(name, false)));
        }
        if !elsewhere.is_empty() {
            line(format_args!("\nlooked for, but missing on this host:"));
        }
        for look in elsewhere.iter().take(LISTED) {
            line(format_args!("  {}  {}  ({} times)", verb(look.act), escape(&look.object, false), look.count));
        }
        if elsewhere.len() > LISTED {
            line(format_args!("  and {} more (--json lists them)", elsewhere.len() - LISTED));
        }
        if self.dropped > 0 {
            line(format_args!("\n{} look-ups more are not listed", self.dropped));
        }
        match &self.unmeasured {
            Some(why) => line(format_args!(
                "\nnothing is left out, because an empty plugin could not be measured: {}",
                escape(why, false)
            )),
            None if self.left_out > 0 => {
                line(format_args!(
                    "\nleft out: {}, which an empty plugin that asks for one name looks for as well",
                    self.left_out
                ));
            }
            None => {}
        }
        self.not_part_of_it(&mut line);
        match diff {
            Some(diff) => {
                line(format_args!(
                    "\nthis change of {} would allow it. It was not made; read it first:\n",
                    escape(&config.path.display().to_string(), false)
                ));
                text.push_str(&escape(&diff, true));
            }
            None => line(format_args!("\nno change to the configuration is suggested")),
        }
        text
    }

    /// What the change does not contain: other denials, and what is not suggested.
    fn not_part_of_it(&self, line: &mut dyn FnMut(std::fmt::Arguments<'_>)) {
        if !self.others.is_empty() {
            line(format_args!("\ndenied otherwise (a decision of yours, not part of the change):"));
        }
        for other in &self.others {
            line(format_args!("  {}", escape(other, false)));
        }
        if !self.refused.is_empty() {
            line(format_args!("\nnot suggested:"));
        }
        for (object, why) in self.refused.iter().take(LISTED_HERE) {
            line(format_args!("  {}: {}", escape(object, false), escape(why, false)));
        }
        if self.refused.len() > LISTED_HERE {
            line(format_args!("  and {} more (--json lists them)", self.refused.len() - LISTED_HERE));
        }
    }
}
