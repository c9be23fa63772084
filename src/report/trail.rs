//! Audit records read back, and the story that those of one call tell.
//!
//! Whoever may write to the journal can write what looks like a record there, and a file may hold anything: lines are bounded
//! before they are parsed, and what is no record is counted. Of the journal's own word (`_UID`, `_PID`, `_HOSTNAME`) none can
//! be made up by a writer; a record whose `_UID` is not its caller's says so in [`Story::recorded_by`].
#![forbid(unsafe_code)]

use crate::json::parse_strict;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

/// Bytes of a line; `arguments = "full"` makes long ones.
const MAX_LINE: usize = 16 << 20;
/// Bytes of all records that are kept.
const MAX_KEPT: usize = 256 << 20;
/// Nesting of a record: an object, and the lists in which journalctl writes bytes.
const MAX_DEPTH: usize = 3;

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// When it was written.
    pub time: DateTime<Utc>,
    /// The host, as the record or the journal has it.
    pub hostname: String,
    /// The supervisor.
    pub pid: Option<i32>,
    /// The user that wrote it, as the journal knows it.
    pub writer: Option<u32>,
    /// `call_started`, `call_finished`, `call_refused`, `denial`, `refusals_counted`.
    pub event: String,
    /// `UPM_…` without that prefix, in lower case; numbers as text.
    pub fields: BTreeMap<String, String>,
}

impl Entry {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.field(name)?.parse().ok()
    }
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only this call, in the form that records have.
    pub request_id: Option<String>,
    /// Only calls of this plugin.
    pub plugin: Option<String>,
    /// Only calls that began then or later.
    pub since: Option<DateTime<Utc>>,
}

impl Wanted {
    fn takes(&self, entry: &Entry) -> bool {
        let same =
            |wanted: &Option<String>, name| wanted.as_deref().is_none_or(|wanted| entry.field(name) == Some(wanted));
        same(&self.request_id, "request_id")
            && same(&self.plugin, "plugin")
            && self.since.is_none_or(|since| entry.time >= since)
    }
}

/// Where lines come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The audit file.
    File,
    /// `journalctl -o json`.
    Journal,
}

/// What one source held.
#[derive(Debug)]
pub struct Records {
    /// In the order they were written.
    pub entries: Vec<Entry>,
    /// Lines that are no records.
    pub malformed: u64,
    /// The number of the first of them.
    pub first_malformed: Option<u64>,
    kind: Kind,
    line: Vec<u8>,
    too_long: bool,
    lines: u64,
    kept: usize,
}

impl Records {
    /// Nothing yet.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Records {
            entries: Vec::new(),
            malformed: 0,
            first_malformed: None,
            kind,
            line: Vec::new(),
            too_long: false,
            lines: 0,
            kept: 0,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// More records are wanted than can be kept.
    pub fn push(&mut self, mut bytes: &[u8], wanted: &Wanted) -> io::Result<()> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            self.end_line(wanted)?;
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
        Ok(())
    }

    /// No more will come: what stands without a newline is a line too.
    ///
    /// # Errors
    /// As [`Records::push`].
    pub fn finish(&mut self, wanted: &Wanted) -> io::Result<()> {
        if self.line.is_empty() && !self.too_long { Ok(()) } else { self.end_line(wanted) }
    }

    /// Reads a file to its end.
    ///
    /// # Errors
    /// It cannot be read, or holds too much.
    pub fn read(&mut self, mut file: impl Read, wanted: &Wanted) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return self.finish(wanted),
                Ok(count) => self.push(&buffer[..count], wanted)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.line.len() + bytes.len() > MAX_LINE {
            self.too_long = true;
            self.line = Vec::new();
        }
        if !self.too_long {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self, wanted: &Wanted) -> io::Result<()> {
        self.lines += 1;
        if self.line.is_empty() && !self.too_long {
            // What a writer begins with that could not have the lock.
            return Ok(());
        }
        let parsed = if std::mem::take(&mut self.too_long) { Parsed::Malformed } else { parse(&self.line, self.kind) };
        let length = self.line.len();
        self.line.clear();
        match parsed {
            Parsed::Record(entry) if wanted.takes(&entry) => {
                self.kept += length;
                if self.kept > MAX_KEPT {
                    return Err(io::Error::other(format!(
                        "more than {} MiB of records are asked for; ask for less with --since, --plugin or --request-id",
                        MAX_KEPT >> 20
                    )));
                }
                self.entries.push(*entry);
            }
            Parsed::Record(_) | Parsed::Other => {}
            Parsed::Malformed => {
                self.malformed += 1;
                self.first_malformed.get_or_insert(self.lines);
            }
        }
        Ok(())
    }
}

enum Parsed {
    Record(Box<Entry>),
    /// In the journal under upm's name, but no record: what a unit's process wrote to stderr.
    Other,
    Malformed,
}

fn parse(line: &[u8], kind: Kind) -> Parsed {
    let Ok(Value::Object(object)) = parse_strict(line, MAX_DEPTH) else { return Parsed::Malformed };
    if kind == Kind::Journal && !object.contains_key("UPM_EVENT") {
        return Parsed::Other;
    }
    record(&object, kind).map_or(Parsed::Malformed, |entry| Parsed::Record(Box::new(entry)))
}

fn record(object: &Map<String, Value>, kind: Kind) -> Option<Entry> {
    let get = |name: &str| object.get(name).and_then(text);
    let time = match kind {
        Kind::File => DateTime::parse_from_rfc3339(&get("timestamp")?).ok()?.to_utc(),
        Kind::Journal => {
            let micros = get("_SOURCE_REALTIME_TIMESTAMP").or_else(|| get("__REALTIME_TIMESTAMP"))?;
            DateTime::from_timestamp_micros(micros.parse().ok()?)?
        }
    };
    let (hostname, pid) = match kind {
        Kind::File => ("hostname", "pid"),
        Kind::Journal => ("_HOSTNAME", "_PID"),
    };
    let fields: BTreeMap<String, String> = object
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix("UPM_")?.to_ascii_lowercase(), text(value)?)))
        .collect();
    let event = fields.get("event")?.clone();
    let known = ["call_started", "call_finished", "call_refused", "denial", "refusals_counted"];
    if !known.contains(&event.as_str()) || !fields.contains_key("request_id") {
        return None;
    }
    Some(Entry {
        time,
        hostname: get(hostname).unwrap_or_default(),
        pid: get(pid).and_then(|pid| pid.parse().ok()),
        writer: get("_UID").filter(|_| kind == Kind::Journal).and_then(|uid| uid.parse().ok()),
        event,
        fields,
    })
}

/// A member as text: journalctl writes bytes that are no plain text as a list of numbers, and a field that came twice as a
/// list of both.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Object(_) => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(items) => match items.first() {
            Some(Value::Number(_)) => {
                let bytes: Option<Vec<u8>> = items.iter().map(|item| u8::try_from(item.as_u64()?).ok()).collect();
                Some(String::from_utf8_lossy(&bytes?).into_owned())
            }
            Some(first) => text(first),
            None => None,
        },
    }
}

/// How far a call is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Started and ended.
    Finished,
    /// Never started.
    Refused,
    /// Calls that were never started, counted: see [`Story::refusals`].
    RefusalsCounted,
    /// Started, and its supervisor is there.
    Running,
    /// Started, and nothing more.
    NoEndRecorded,
    /// Ended or denied something, with no start.
    NoStartRecorded,
}

/// One denial of a call.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // each is the member of the same name of a denial
pub struct Denied {
    pub layer: String,
    pub operation: String,
    pub object: String,
    pub rule: String,
    pub remedy: String,
    pub count: u64,
}

/// Refused calls of one user that are not recorded one by one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // each is the member of the same name of a record
pub struct Refusals {
    pub count: u64,
    pub first: String,
    pub last: String,
}

/// What the records of one call say together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Story {
    /// The call's UUID.
    pub request_id: String,
    /// How far it came.
    pub state: State,
    /// Time of the first record.
    #[serde(serialize_with = "as_stamp")]
    pub time: DateTime<Utc>,
    /// The plugin, as the caller named it.
    pub plugin: Option<String>,
    /// The method, as the caller named it.
    pub method: Option<String>,
    /// The user who called.
    pub caller_uid: Option<u32>,
    /// The user who had logged in.
    pub login_uid: Option<u32>,
    /// The user that wrote the record, where that is neither root nor the caller.
    pub recorded_by: Option<u32>,
    /// `ok`, or why not.
    pub code: Option<String>,
    /// Microseconds.
    pub duration_us: Option<u64>,
    /// What was denied.
    pub denials: Vec<Denied>,
    /// In place of a call: what was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusals: Option<Refusals>,
    /// The host.
    pub hostname: String,
    /// The supervisor.
    pub pid: Option<i32>,
    /// The other members of the records: digests, arguments.
    pub more: BTreeMap<String, String>,
}

fn as_stamp<S: serde::Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.format("%Y-%m-%dT%H:%M:%S%.6fZ"))
}

/// Members that a story has by name, or that belong to one record.
const OWN: [&str; 17] = [
    "event",
    "request_id",
    "plugin",
    "method",
    "caller_uid",
    "login_uid",
    "code",
    "duration_us",
    "denials",
    "layer",
    "operation",
    "object",
    "rule",
    "remedy",
    "count",
    "first",
    "last",
];

/// Puts records together, those of the journal and those of a file that was written beside it: what is in both counts once.
/// `alive` says whether the supervisor of that number, which wrote a record at that time, is still there.
#[must_use]
pub fn stories(sources: Vec<Vec<Entry>>, hostname: &str, alive: &dyn Fn(i32, DateTime<Utc>) -> bool) -> Vec<Story> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut known: HashMap<(String, BTreeMap<String, String>), usize> = HashMap::new();
    for source in sources {
        let mut fresh = Vec::new();
        for entry in source {
            let key = (entry.event.clone(), entry.fields.clone());
            match known.get_mut(&key) {
                Some(left) if *left > 0 => *left -= 1,
                _ => fresh.push(entry),
            }
        }
        for entry in &fresh {
            *known.entry((entry.event.clone(), entry.fields.clone())).or_default() += 1;
        }
        entries.extend(fresh);
    }
    // Stable: records of one call may have the same microsecond.
    entries.sort_by_key(|entry| entry.time);
    let mut stories: Vec<Story> = Vec::new();
    // A caller may give two calls one id.
    let mut open: HashMap<(String, String, Option<i32>), usize> = HashMap::new();
    for entry in entries {
        let id = entry.field("request_id").unwrap_or_default().to_owned();
        let key = (id.clone(), entry.hostname.clone(), entry.pid);
        let begins = matches!(entry.event.as_str(), "call_started" | "call_refused" | "refusals_counted");
        let at = match open.get(&key) {
            Some(at) if !begins => *at,
            _ => {
                stories.push(Story::begin(id, &entry));
                open.insert(key, stories.len() - 1);
                stories.len() - 1
            }
        };
        stories[at].add(entry);
    }
    for story in &mut stories {
        if story.state == State::NoEndRecorded
            && story.hostname == hostname
            && story.pid.is_some_and(|pid| alive(pid, story.time))
        {
            story.state = State::Running;
        }
    }
    stories
}

impl Story {
    fn begin(request_id: String, entry: &Entry) -> Self {
        Story {
            request_id,
            state: match entry.event.as_str() {
                "call_started" => State::NoEndRecorded,
                "call_refused" => State::Refused,
                "refusals_counted" => State::RefusalsCounted,
                _ => State::NoStartRecorded,
            },
            time: entry.time,
            plugin: None,
            method: None,
            caller_uid: None,
            login_uid: None,
            recorded_by: None,
            code: None,
            duration_us: None,
            denials: Vec::new(),
            refusals: None,
            hostname: entry.hostname.clone(),
            pid: entry.pid,
            more: BTreeMap::new(),
        }
    }

    fn add(&mut self, entry: Entry) {
        let own = |name| entry.field(name).map(str::to_owned);
        self.plugin = self.plugin.take().or_else(|| own("plugin"));
        self.method = self.method.take().or_else(|| own("method"));
        self.caller_uid = self.caller_uid.or_else(|| entry.number("caller_uid"));
        self.login_uid = self.login_uid.or_else(|| entry.number("login_uid"));
        self.recorded_by =
            entry.writer.filter(|writer| *writer != 0 && Some(*writer) != self.caller_uid).or(self.recorded_by);
        if entry.event == "denial" {
            let text = |name| own(name).unwrap_or_default();
            self.denials.push(Denied {
                layer: text("layer"),
                operation: text("operation"),
                object: text("object"),
                rule: text("rule"),
                remedy: text("remedy"),
                count: entry.number("count").unwrap_or(1),
            });
        } else if entry.event == "refusals_counted" {
            let text = |name| own(name).unwrap_or_default();
            let count = entry.number("count").unwrap_or(1);
            self.refusals = Some(Refusals { count, first: text("first"), last: text("last") });
        } else {
            self.code = own("code").or_else(|| self.code.take());
            self.duration_us = entry.number("duration_us").or(self.duration_us);
            if entry.event == "call_finished" && self.state == State::NoEndRecorded {
                self.state = State::Finished;
            }
        }
        self.more.extend(entry.fields.into_iter().filter(|(name, _)| !OWN.contains(&name.as_str())));
    }

    /// Whether its beginning is on record.
    #[must_use]
    pub fn has_beginning(&self) -> bool {
        self.state != State::NoStartRecorded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(second: u32, pid: i32, id: &str, event: &str, more: &str) -> String {
        format!(
            "{{\"timestamp\":\"2026-11-24T10:00:{second:02}.000000Z\",\"hostname\":\"h\",\"pid\":{pid},\"UPM_EVENT\":\"{event}\",\
             \"UPM_REQUEST_ID\":\"{id}\",\"UPM_PLUGIN\":\"P\",\"UPM_METHOD\":\"m\",\"UPM_CALLER_UID\":5,\"UPM_LOGIN_UID\":null{more}}}\n"
        )
    }

    fn read(text: &str, kind: Kind, wanted: &Wanted) -> Records {
        let mut records = Records::new(kind);
        records.read(text.as_bytes(), wanted).unwrap();
        records
    }

    fn told(text: &str) -> Vec<Story> {
        stories(vec![read(text, Kind::File, &Wanted::default()).entries], "h", &|pid, _| pid == 7)
    }

    #[test]
    fn one_story_a_call() {
        let text = [
            line(1, 1, "a", "call_started", ""),
            line(2, 2, "b", "call_started", ""),
            line(
                3,
                1,
                "a",
                "denial",
                ",\"UPM_LAYER\":\"egress\",\"UPM_OPERATION\":\"resolve\",\"UPM_OBJECT\":\"x\",\"UPM_COUNT\":3",
            ),
            line(4, 1, "a", "call_finished", ",\"UPM_CODE\":\"ok\",\"UPM_DURATION_US\":12,\"UPM_DENIALS\":3"),
            line(5, 7, "c", "call_started", ""),
            line(6, 3, "d", "call_refused", ",\"UPM_CODE\":\"usage\""),
            // the same id again, as a caller may give it
            line(7, 1, "a", "call_started", ""),
            line(8, 9, "e", "call_finished", ",\"UPM_CODE\":\"ok\""),
        ]
        .concat();
        let stories = told(&text);
        let states: Vec<(&str, State)> = stories.iter().map(|one| (one.request_id.as_str(), one.state)).collect();
        assert_eq!(
            states,
            [
                ("a", State::Finished),
                ("b", State::NoEndRecorded),
                ("c", State::Running),
                ("d", State::Refused),
                ("a", State::NoEndRecorded),
                ("e", State::NoStartRecorded),
            ]
        );
        let a = &stories[0];
        assert_eq!(
            (a.code.as_deref(), a.duration_us, a.caller_uid, a.login_uid),
            (Some("ok"), Some(12), Some(5), None)
        );
        assert_eq!((a.denials.len(), a.denials[0].count, a.denials[0].operation.as_str()), (1, 3, "resolve"));
        assert_eq!(stories[3].code.as_deref(), Some("usage"));
    }

    #[test]
    fn what_is_no_record_is_counted() {
        let good = line(1, 1, "a", "call_started", "");
        for bad in [
            " ",
            "{",
            "[]",
            "{}",
            "{\"UPM_EVENT\":\"call_started\"}",
            "{\"timestamp\":\"yesterday\",\"UPM_EVENT\":\"call_started\",\"UPM_REQUEST_ID\":\"a\"}",
            &good.trim_end().replace("call_started", "forged"),
            &good.trim_end().replace("\"pid\":1", "\"pid\":1,\"pid\":2"),
            "\u{0}",
            &"[".repeat(100_000),
        ] {
            let records = read(&format!("{good}{bad}\n{good}"), Kind::File, &Wanted::default());
            assert_eq!(
                (records.entries.len(), records.malformed, records.first_malformed),
                (2, 1, Some(2)),
                "{bad:.80}"
            );
        }
        let records = read(&format!("{good}{{\"unfinished"), Kind::File, &Wanted::default());
        assert_eq!((records.entries.len(), records.malformed), (1, 1));
        let long = "x".repeat(MAX_LINE + 1);
        let records = read(&format!("{long}\n{good}{long}"), Kind::File, &Wanted::default());
        assert_eq!((records.entries.len(), records.malformed, records.first_malformed), (1, 2, Some(1)));
    }

    #[test]
    fn the_journal_says_the_same() {
        let journal = concat!(
            r#"{"_SOURCE_REALTIME_TIMESTAMP":"1795514401000000","__REALTIME_TIMESTAMP":"1795514401000009","_PID":"1","_UID":"5","#,
            r#""_HOSTNAME":"h","UPM_EVENT":"call_started","UPM_REQUEST_ID":"a","UPM_PLUGIN":[80],"UPM_METHOD":["m","n"],"UPM_CALLER_UID":"5"}"#,
            "\n{\"MESSAGE\":\"a unit's stderr\"}\n"
        );
        let records = read(journal, Kind::Journal, &Wanted::default());
        assert_eq!((records.entries.len(), records.malformed), (1, 0));
        let file = read(&line(1, 1, "a", "call_started", ""), Kind::File, &Wanted::default());
        assert_eq!(records.entries[0].fields, file.entries[0].fields);
        // In both it counts once; twice in one is two.
        let both = vec![records.entries.clone(), file.entries.clone()];
        assert_eq!(stories(both, "h", &|_, _| false).len(), 1);
        let twice = [file.entries.clone(), file.entries].concat();
        assert_eq!(stories(vec![records.entries, twice], "h", &|_, _| false).len(), 2);
        // Who else may write to the journal cannot pass for the caller.
        let forged = journal.replace("\"_UID\":\"5\"", "\"_UID\":\"1234\"");
        let records = read(&forged, Kind::Journal, &Wanted::default());
        assert_eq!(stories(vec![records.entries], "h", &|_, _| false)[0].recorded_by, Some(1234));
    }

    #[test]
    fn only_what_is_wanted() {
        let text = [
            line(1, 1, "a", "call_started", ""),
            line(2, 2, "b", "call_started", "").replace("\"P\"", "\"Q\""),
            line(3, 1, "a", "call_finished", ""),
        ]
        .concat();
        let count = |wanted: Wanted| read(&text, Kind::File, &wanted).entries.len();
        assert_eq!(count(Wanted { request_id: Some("a".into()), ..Wanted::default() }), 2);
        assert_eq!(count(Wanted { plugin: Some("Q".into()), ..Wanted::default() }), 1);
        let since = DateTime::parse_from_rfc3339("2026-11-24T10:00:02Z").unwrap().to_utc();
        assert_eq!(count(Wanted { since: Some(since), ..Wanted::default() }), 2);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), journal: bool) {
            let kind = if journal { Kind::Journal } else { Kind::File };
            let mut records = Records::new(kind);
            records.read(bytes.as_slice(), &Wanted::default()).unwrap();
            let kept = records.entries.len();
            prop_assert!(stories(vec![records.entries], "h", &|_, _| true).len() <= kept);
        }
    }
}
