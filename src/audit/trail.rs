//! Audit records read back, and the story that those of one call tell.
//!
//! Everyone who may write to the journal can write what looks like a record, and a file may contain anything: lines are bounded
//! before they are parsed, and lines that are not records are counted. Of the journal's own word (`_UID`, `_PID`, `_HOSTNAME`) none can
//! be made up by a writer; a record whose `_UID` is not its caller's says so in [`Story::recorded_by`].
#![forbid(unsafe_code)]

use crate::json::parse_strict;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use shelf::Shelf;
use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;

mod shelf;
mod story;

pub use story::{CallState, CountedRefusals, DenialRecord, Story, Trail};

/// Bytes of a line; `arguments = "full"` makes long ones.
const MAX_LINE: usize = 16 << 20;
/// Most records of one query: each takes some 100 bytes of memory.
const MAX_RECORDS: usize = 2_000_000;
/// Nesting of a record: an object, and the lists in which journalctl writes bytes.
const MAX_DEPTH: usize = 3;

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRecord {
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

impl StoredRecord {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.field(name)?.parse().ok()
    }

    /// Whether a call begins with it.
    fn begins(&self) -> bool {
        matches!(self.event.as_str(), "call_started" | "call_refused" | "refusals_counted")
    }

    /// Which call it belongs to.
    fn call(&self, hasher: &RandomState) -> u64 {
        hasher.hash_one((self.field("request_id"), &self.hostname, self.pid))
    }
}

/// The query.
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
    fn takes(&self, entry: &StoredRecord) -> bool {
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

/// Where a record is, and what has to be known of all of them at once.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Nanoseconds since 1970.
    time: i64,
    /// Hash of the event and the fields: the same record in two sources.
    same: u64,
    /// Hash of the request id, the host and the supervisor: the same call.
    call: u64,
    offset: u64,
    length: u32,
    /// Number of the story.
    story: u32,
    source: u8,
    /// A call begins with it.
    begins: bool,
}

/// What one source held.
#[derive(Debug)]
pub struct Records {
    /// Lines that are not records.
    pub malformed: u64,
    /// The number of the first of them.
    pub first_malformed: Option<u64>,
    /// In the order they were written.
    places: Vec<Place>,
    shelf: Shelf,
    hasher: RandomState,
    kind: Kind,
    line: Vec<u8>,
    too_long: bool,
    lines: u64,
    /// Where the line begins in what was read.
    begun: u64,
    /// Bytes that were read.
    read: u64,
}

impl Records {
    /// Nothing yet.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Records {
            malformed: 0,
            first_malformed: None,
            places: Vec::new(),
            shelf: Shelf::Memory(Vec::new()),
            hasher: RandomState::new(),
            kind,
            line: Vec::new(),
            too_long: false,
            lines: 0,
            begun: 0,
            read: 0,
        }
    }

    /// Nothing yet, of a source whose records may be those of `other` too.
    #[must_use]
    pub fn beside(kind: Kind, other: &Records) -> Self {
        Records { hasher: other.hasher.clone(), ..Records::new(kind) }
    }

    /// How many of the records are wanted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The query matches too many records.
    pub fn push(&mut self, mut bytes: &[u8], wanted: &Wanted) -> io::Result<()> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            self.read += 1;
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

    /// Reads a file from its beginning to its end. It is kept open: the records that are printed are read again.
    ///
    /// # Errors
    /// It cannot be read, or holds too much.
    pub fn read(&mut self, file: File, wanted: &Wanted) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let mut at = 0;
        self.shelf = Shelf::There(file.try_clone()?);
        loop {
            match file.read_at(&mut buffer, at) {
                Ok(0) => return self.finish(wanted),
                Ok(count) => {
                    at += count as u64;
                    self.push(&buffer[..count], wanted)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        self.read += bytes.len() as u64;
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
        let begun = std::mem::replace(&mut self.begun, self.read);
        if self.line.is_empty() && !self.too_long {
            // What a writer begins with that could not have the lock.
            return Ok(());
        }
        let parsed = if std::mem::take(&mut self.too_long) { Parsed::Malformed } else { parse(&self.line, self.kind) };
        match parsed {
            Parsed::Record(entry) if wanted.takes(&entry) => {
                if self.places.len() >= MAX_RECORDS {
                    return Err(io::Error::other(format!(
                        "more than {MAX_RECORDS} records match; select fewer with --since, --plugin or --request-id"
                    )));
                }
                self.places.push(Place {
                    time: entry.time.timestamp_nanos_opt().unwrap_or(i64::MAX),
                    same: self.hasher.hash_one((&entry.event, &entry.fields)),
                    call: entry.call(&self.hasher),
                    offset: self.shelf.keep(&self.line, begun)?,
                    // A line is bounded.
                    length: u32::try_from(self.line.len()).map_err(io::Error::other)?,
                    story: 0,
                    source: 0,
                    begins: entry.begins(),
                });
            }
            Parsed::Record(_) | Parsed::Other => {}
            Parsed::Malformed => {
                self.malformed += 1;
                self.first_malformed.get_or_insert(self.lines);
            }
        }
        self.line.clear();
        Ok(())
    }

    /// A record once more.
    fn entry(&self, place: &Place) -> io::Result<StoredRecord> {
        let changed = || io::Error::other("it was changed while it was read; try again");
        let mut line = vec![0; place.length as usize];
        self.shelf.line(place.offset, &mut line).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => changed(),
            _ => error,
        })?;
        match parse(&line, self.kind) {
            Parsed::Record(entry) if entry.call(&self.hasher) == place.call => Ok(*entry),
            _ => Err(changed()),
        }
    }
}

enum Parsed {
    Record(Box<StoredRecord>),
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

fn record(object: &Map<String, Value>, kind: Kind) -> Option<StoredRecord> {
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
    Some(StoredRecord {
        time,
        hostname: get(hostname).unwrap_or_default(),
        pid: get(pid).and_then(|pid| pid.parse().ok()),
        writer: get("_UID").filter(|_| kind == Kind::Journal).and_then(|uid| uid.parse().ok()),
        event,
        fields,
    })
}

/// A member as text: journalctl writes bytes that are not plain text as a list of numbers, and a field that came twice as a
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
        records.push(text.as_bytes(), wanted).unwrap();
        records.finish(wanted).unwrap();
        records
    }

    fn stories(sources: Vec<Records>, alive: &dyn Fn(i32, DateTime<Utc>) -> bool) -> Vec<Story> {
        let trail = Trail::new(sources, true);
        let stories: Vec<Story> = trail.stories("h", alive).map(Result::unwrap).collect();
        assert_eq!((stories.len(), stories.is_empty()), (trail.len(), trail.is_empty()));
        stories
    }

    fn told(text: &str) -> Vec<Story> {
        stories(vec![read(text, Kind::File, &Wanted::default())], &|pid, _| pid == 7)
    }

    fn entries(records: &Records) -> Vec<StoredRecord> {
        records.places.iter().map(|place| records.entry(place).unwrap()).collect()
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
        let states: Vec<(&str, CallState)> = stories.iter().map(|one| (one.request_id.as_str(), one.state)).collect();
        assert_eq!(
            states,
            [
                ("a", CallState::Finished),
                ("b", CallState::NoEndRecorded),
                ("c", CallState::Running),
                ("d", CallState::Refused),
                ("a", CallState::NoEndRecorded),
                ("e", CallState::NoStartRecorded),
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
            assert_eq!((records.len(), records.malformed, records.first_malformed), (2, 1, Some(2)), "{bad:.80}");
        }
        let records = read(&format!("{good}{{\"unfinished"), Kind::File, &Wanted::default());
        assert_eq!((records.len(), records.malformed), (1, 1));
        let long = "x".repeat(MAX_LINE + 1);
        let records = read(&format!("{long}\n{good}{long}"), Kind::File, &Wanted::default());
        assert_eq!((records.len(), records.malformed, records.first_malformed), (1, 2, Some(1)));
    }

    #[test]
    fn the_journal_says_the_same() {
        let journal = concat!(
            r#"{"_SOURCE_REALTIME_TIMESTAMP":"1795514401000000","__REALTIME_TIMESTAMP":"1795514401000009","_PID":"1","_UID":"5","#,
            r#""_HOSTNAME":"h","UPM_EVENT":"call_started","UPM_REQUEST_ID":"a","UPM_PLUGIN":[80],"UPM_METHOD":["m","n"],"UPM_CALLER_UID":"5"}"#,
            "\n{\"MESSAGE\":\"a unit's stderr\"}\n"
        );
        let records = read(journal, Kind::Journal, &Wanted::default());
        assert_eq!((records.len(), records.malformed), (1, 0));
        let file = read(&line(1, 1, "a", "call_started", ""), Kind::File, &Wanted::default());
        assert_eq!(entries(&records)[0].fields, entries(&file)[0].fields);
        // In both it counts once; twice in one is two.
        let beside = |text: &str| {
            let mut file = Records::beside(Kind::File, &records);
            file.push(text.as_bytes(), &Wanted::default()).unwrap();
            let mut journald = Records::beside(Kind::Journal, &records);
            journald.push(journal.as_bytes(), &Wanted::default()).unwrap();
            stories(vec![journald, file], &|_, _| false).len()
        };
        let once = line(1, 1, "a", "call_started", "");
        assert_eq!((beside(&once), beside(&once.repeat(2))), (1, 2));
        // Who else may write to the journal cannot pass for the caller.
        let forged = journal.replace("\"_UID\":\"5\"", "\"_UID\":\"1234\"");
        let records = read(&forged, Kind::Journal, &Wanted::default());
        assert_eq!(stories(vec![records], &|_, _| false)[0].recorded_by, Some(1234));
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_no_story() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = [line(1, 1, "a", "call_started", ""), line(2, 2, "b", "call_started", "")].concat();
        let read = |change: &dyn Fn()| {
            std::fs::write(file.path(), &text).unwrap();
            let mut records = Records::new(Kind::File);
            records.read(File::open(file.path()).unwrap(), &Wanted::default()).unwrap();
            change();
            let trail = Trail::new(vec![records], true);
            trail.stories("h", &|_, _| false).map(|story| story.map(|story| story.request_id)).collect::<Vec<_>>()
        };
        let whole = read(&|| {});
        assert_eq!(whole.iter().flatten().collect::<Vec<_>>(), ["a", "b"]);
        let cut = |to: u64| std::fs::OpenOptions::new().write(true).open(file.path()).unwrap().set_len(to).unwrap();
        let half = read(&|| cut(text.len() as u64 / 2));
        assert!(half[0].is_ok() && half[1].is_err(), "{half:?}");
        let other = read(&|| std::fs::write(file.path(), text.replace("\"a\"", "\"c\"")).unwrap());
        assert!(other[0].is_err() && other[1].is_ok(), "{other:?}");
    }

    #[test]
    fn only_what_is_wanted() {
        let text = [
            line(1, 1, "a", "call_started", ""),
            line(2, 2, "b", "call_started", "").replace("\"P\"", "\"Q\""),
            line(3, 1, "a", "call_finished", ""),
        ]
        .concat();
        let count = |wanted: Wanted| read(&text, Kind::File, &wanted).len();
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
            records.push(&bytes, &Wanted::default()).unwrap();
            records.finish(&Wanted::default()).unwrap();
            let kept = records.len();
            prop_assert!(stories(vec![records], &|_, _| true).len() <= kept);
        }
    }
}
