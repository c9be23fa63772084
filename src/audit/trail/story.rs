//! The stories that records tell together.
#![forbid(unsafe_code)]

use super::{Place, Records, StoredRecord};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::io;

/// Bytes of one call's records: a call has about a hundred at most.
const MAX_CALL: u64 = 64 << 20;

/// How far a call is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallState {
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
pub struct DenialRecord {
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
pub struct CountedRefusals {
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
    pub state: CallState,
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
    pub denials: Vec<DenialRecord>,
    /// In place of a call: what was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusals: Option<CountedRefusals>,
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

/// The stories that records tell together, in the order in which the calls began. They are read again one by one.
#[derive(Debug)]
pub struct Trail {
    sources: Vec<Records>,
    /// The records of a story stand together.
    places: Vec<Place>,
    stories: usize,
}

impl Trail {
    /// Puts records together, those of the journal and those of a file that was written beside it: what is in both counts
    /// once. Without `beginningless` a call whose beginning is not among them is left out.
    #[must_use]
    pub fn new(mut sources: Vec<Records>, beginningless: bool) -> Self {
        let mut places: Vec<Place> = Vec::new();
        let mut known: HashMap<u64, u32> = HashMap::new();
        let several = sources.iter().filter(|source| !source.is_empty()).count() > 1;
        for (number, source) in (0..).zip(&mut sources) {
            let mut fresh = std::mem::take(&mut source.places);
            for place in &mut fresh {
                place.source = number;
            }
            if several {
                fresh.retain(|place| match known.get_mut(&place.same) {
                    Some(left) if *left > 0 => {
                        *left -= 1;
                        false
                    }
                    _ => true,
                });
                for place in &fresh {
                    *known.entry(place.same).or_default() += 1;
                }
            }
            if places.is_empty() { places = fresh } else { places.append(&mut fresh) }
        }
        drop(known);
        // Stable: records of one call may have the same microsecond.
        places.sort_by_key(|place| place.time);
        // A caller may give two calls one id.
        let mut open: HashMap<u64, u32> = HashMap::new();
        let mut begun: Vec<bool> = Vec::new();
        for place in &mut places {
            place.story = match open.get(&place.call) {
                Some(story) if !place.begins => *story,
                _ => {
                    // There are no more stories than records.
                    let story = u32::try_from(begun.len()).unwrap_or(u32::MAX);
                    begun.push(place.begins);
                    open.insert(place.call, story);
                    story
                }
            };
        }
        drop(open);
        places.retain(|place| beginningless || begun[place.story as usize]);
        places.sort_by_key(|place| place.story);
        let stories = begun.iter().filter(|begun| beginningless || **begun).count();
        Trail { sources, places, stories }
    }

    /// How many stories there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stories
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stories == 0
    }

    /// Each story. `alive` says whether the supervisor of that number, which wrote a record at that time, is still there.
    /// An error is of one story.
    pub fn stories(
        &self,
        hostname: &str,
        alive: &dyn Fn(i32, DateTime<Utc>) -> bool,
    ) -> impl Iterator<Item = io::Result<Story>> {
        self.places.chunk_by(|one, next| one.story == next.story).map(move |places| {
            let mut story: Option<Story> = None;
            let bytes: u64 = places.iter().map(|place| u64::from(place.length)).sum();
            if bytes > MAX_CALL {
                return Err(io::Error::other(format!("the records of one call have more than {} MiB", MAX_CALL >> 20)));
            }
            for place in places {
                let entry = self.sources[usize::from(place.source)].entry(place)?;
                story.get_or_insert_with(|| Story::begin(&entry)).add(entry);
            }
            let mut story = story.ok_or(io::ErrorKind::NotFound)?;
            if story.state == CallState::NoEndRecorded
                && story.hostname == hostname
                && story.pid.is_some_and(|pid| alive(pid, story.time))
            {
                story.state = CallState::Running;
            }
            Ok(story)
        })
    }
}

impl Story {
    fn begin(entry: &StoredRecord) -> Self {
        Story {
            request_id: entry.field("request_id").unwrap_or_default().to_owned(),
            state: match entry.event.as_str() {
                "call_started" => CallState::NoEndRecorded,
                "call_refused" => CallState::Refused,
                "refusals_counted" => CallState::RefusalsCounted,
                _ => CallState::NoStartRecorded,
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

    fn add(&mut self, entry: StoredRecord) {
        let own = |name| entry.field(name).map(str::to_owned);
        self.plugin = self.plugin.take().or_else(|| own("plugin"));
        self.method = self.method.take().or_else(|| own("method"));
        self.caller_uid = self.caller_uid.or_else(|| entry.number("caller_uid"));
        self.login_uid = self.login_uid.or_else(|| entry.number("login_uid"));
        self.recorded_by =
            entry.writer.filter(|writer| *writer != 0 && Some(*writer) != self.caller_uid).or(self.recorded_by);
        if entry.event == "denial" {
            let text = |name| own(name).unwrap_or_default();
            self.denials.push(DenialRecord {
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
            self.refusals = Some(CountedRefusals { count, first: text("first"), last: text("last") });
        } else {
            self.code = own("code").or_else(|| self.code.take());
            self.duration_us = entry.number("duration_us").or(self.duration_us);
            if entry.event == "call_finished" && self.state == CallState::NoEndRecorded {
                self.state = CallState::Finished;
            }
        }
        self.more.extend(entry.fields.into_iter().filter(|(name, _)| !OWN.contains(&name.as_str())));
    }
}
