//! The audit record, and how each kind of sink holds it.
#![forbid(unsafe_code)]

use crate::report::envelope::timestamp;
use crate::report::{code, denial};
use crate::text::shorten;
use crate::types::{Code, Explained};
use serde_json::{Map, Value};

/// Longest text of a denial's member, in characters, and of a plugin's or method's name that nothing allows.
const TEXT_LIMIT: usize = 1024;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The call was allowed and its plugin is about to be started.
    CallStarted,
    /// The call ended.
    CallFinished,
    /// The call was not allowed; nothing was started.
    CallRefused,
    /// A layer stopped something that the plugin tried.
    Denial(Box<Explained>),
    /// Calls over the service's socket that were refused and not recorded one by one: the caller asked too often.
    RefusalsCounted {
        /// How many.
        count: u64,
        /// When the first of them was refused, as [`crate::report::envelope::timestamp`] writes it.
        first: String,
        /// When the last was.
        last: String,
    },
}

impl Event {
    /// The value of `UPM_EVENT`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Event::CallStarted => "call_started",
            Event::CallFinished => "call_finished",
            Event::CallRefused => "call_refused",
            Event::Denial(_) => "denial",
            Event::RefusalsCounted { .. } => "refusals_counted",
        }
    }
}

/// One audit record. What is `None` is left out, but `login_uid`, which is `null` in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What happened.
    pub event: Event,
    /// The call's UUID.
    pub request_id: String,
    /// The plugin as the caller named it.
    pub plugin: Option<String>,
    /// The method as the caller named it.
    pub method: Option<String>,
    /// The user who called.
    pub caller_uid: u32,
    /// That user's group, where it is known.
    pub caller_gid: Option<u32>,
    /// The process that called, over a socket.
    pub caller_pid: Option<i32>,
    /// The user who logged in ([`crate::host::callers::login_uid`]), whatever `su` or `sudo` came after.
    pub login_uid: Option<u32>,
    /// Why it failed or was refused. A `call_finished` without one is written as `ok`.
    pub code: Option<Code>,
    /// Microseconds from the start of `upm`.
    pub duration_us: Option<u64>,
    /// SHA-256 of the JSON arguments, lower-case hexadecimal.
    pub args_sha256: Option<String>,
    /// SHA-256 of the plan.
    pub policy_sha256: Option<String>,
    /// SHA-256 of the plugin's files.
    pub plugin_sha256: Option<String>,
    /// How many denials the call had.
    pub denials: Option<u64>,
    /// Of a refusal over the socket: until when further ones of this caller are counted and not recorded one by one.
    pub limited_until: Option<String>,
    /// The arguments themselves, with `arguments = "full"`. Only for `call_started` and `call_refused`: see the
    /// list of system calls of [`super::sinks`].
    pub arguments: Option<String>,
}

impl Record {
    /// A record with only what every record has.
    #[must_use]
    pub fn new(event: Event, request_id: impl Into<String>, caller_uid: u32, login_uid: Option<u32>) -> Self {
        Record {
            event,
            request_id: request_id.into(),
            plugin: None,
            method: None,
            caller_uid,
            caller_gid: None,
            caller_pid: None,
            login_uid,
            code: None,
            duration_us: None,
            args_sha256: None,
            policy_sha256: None,
            plugin_sha256: None,
            denials: None,
            limited_until: None,
            arguments: None,
        }
    }

    fn code(&self) -> Option<&'static str> {
        match (self.code, &self.event) {
            (Some(code), _) => Some(code::name(code)),
            (None, Event::CallFinished) => Some("ok"),
            (None, _) => None,
        }
    }

    /// The sentence for people.
    fn message(&self) -> String {
        let name = |name: &Option<String>| name.as_deref().map_or_else(|| "?".to_owned(), |name| shorten(name, 64));
        let call = format!("{} {} by uid {}", name(&self.plugin), name(&self.method), self.caller_uid);
        let code = self.code().unwrap_or("?");
        match &self.event {
            Event::CallStarted => format!("call started: {call}"),
            Event::CallFinished => format!("call finished: {call}: {code}"),
            Event::CallRefused => format!("call refused: {call}: {code}"),
            Event::RefusalsCounted { count, first, last } => format!(
                "calls refused: {count} by uid {}, from {first} to {last}, are not recorded one by one",
                self.caller_uid
            ),
            Event::Denial(explained) => {
                let denied = &explained.denial.denied;
                let object = denial::object(denied).to_string();
                format!(
                    "denied: {call}: {} {} {}",
                    denied.layer().name(),
                    shorten(denied.operation(), 64),
                    shorten(&object, 256)
                )
            }
        }
    }

    /// `LOG_INFO`, `LOG_NOTICE` or `LOG_WARNING` of `syslog(3)`.
    fn priority(&self) -> u8 {
        match (&self.event, self.code) {
            (Event::CallStarted, _) | (Event::CallFinished, None) => 6,
            (Event::CallFinished, Some(_)) => 5,
            (Event::CallRefused | Event::Denial(_) | Event::RefusalsCounted { .. }, _) => 4,
        }
    }

    /// The members both sinks carry, named as the file names them; journald's are `UPM_` and upper case.
    fn members(&self) -> Vec<(&'static str, Value)> {
        let mut members: Vec<(&'static str, Value)> =
            vec![("event", self.event.name().into()), ("request_id", self.request_id.clone().into())];
        let mut add = |name, value: Option<Value>| members.extend(value.map(|value| (name, value)));
        let cut = |text: &str| Value::from(bounded(text));
        add("plugin", self.plugin.as_deref().map(cut));
        add("method", self.method.as_deref().map(cut));
        add("caller_uid", Some(self.caller_uid.into()));
        add("caller_gid", self.caller_gid.map(Value::from));
        add("caller_pid", self.caller_pid.map(Value::from));
        add("login_uid", Some(self.login_uid.map_or(Value::Null, Value::from)));
        add("code", self.code().map(Value::from));
        add("duration_us", self.duration_us.map(Value::from));
        add("args_sha256", self.args_sha256.clone().map(Value::from));
        add("policy_sha256", self.policy_sha256.clone().map(Value::from));
        add("plugin_sha256", self.plugin_sha256.clone().map(Value::from));
        add("denials", self.denials.map(Value::from));
        add("limited_until", self.limited_until.clone().map(Value::from));
        if let Event::RefusalsCounted { count, first, last } = &self.event {
            add("count", Some((*count).into()));
            add("first", Some(first.clone().into()));
            add("last", Some(last.clone().into()));
        }
        if let Event::Denial(explained) = &self.event {
            let denied = &explained.denial.denied;
            add("layer", Some(denied.layer().name().into()));
            add("operation", Some(cut(denied.operation())));
            add("object", Some(cut(&denial::object(denied).to_string())));
            add("rule", Some(cut(&explained.rule)));
            add("remedy", Some(cut(&explained.remedy)));
            add("count", Some(explained.denial.count.into()));
        }
        add("arguments", self.arguments.clone().map(Value::from));
        members
    }

    /// The fields for journald, which adds `_PID`, `_UID`, `_HOSTNAME` and the time itself, from the kernel.
    pub(super) fn fields(&self) -> Vec<(String, String)> {
        let mut fields = vec![
            ("MESSAGE".to_owned(), self.message()),
            ("MESSAGE_ID".to_owned(), super::journald::message_id(&self.event).to_owned()),
            ("PRIORITY".to_owned(), self.priority().to_string()),
            ("SYSLOG_IDENTIFIER".to_owned(), "upm".to_owned()),
        ];
        for (name, value) in self.members() {
            let value = match value {
                Value::Null => continue,
                Value::String(text) => text,
                other => other.to_string(),
            };
            fields.push((format!("UPM_{}", name.to_ascii_uppercase()), value));
        }
        fields
    }

    /// The line for the file, with its newline: the journal's field names, so that one query reads both.
    pub(super) fn line(&self, hostname: &str, pid: u32) -> String {
        let mut object = Map::new();
        object.insert("timestamp".into(), timestamp().into());
        object.insert("hostname".into(), hostname.into());
        object.insert("pid".into(), pid.into());
        object.insert("MESSAGE_ID".into(), super::journald::message_id(&self.event).into());
        for (name, value) in self.members() {
            object.insert(format!("UPM_{}", name.to_ascii_uppercase()), value);
        }
        format!("{}\n", Value::from(object))
    }
}

fn bounded(text: &str) -> String {
    match text.char_indices().nth(TEXT_LIMIT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
