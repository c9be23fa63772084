//! The JSON document that a call answers with; `response.schema.json` describes it.
#![forbid(unsafe_code)]

use super::{code, denial, details, sandbox};
use crate::json::raw::Raw;
use crate::types::{Failure, Outcome, Output};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// The four fields that stand at the top level and again inside `data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// RFC 3339, UTC, microseconds, `Z`.
    pub timestamp: String,
    /// The host's name from `gethostname(2)`.
    pub hostname: String,
    /// The supervisor's process id.
    pub pid: u32,
    /// A UUID.
    pub request_id: String,
}

impl Metadata {
    /// The metadata of an envelope that is written now, by this process.
    #[must_use]
    pub fn now(request_id: impl Into<String>) -> Self {
        Metadata {
            timestamp: timestamp(),
            hostname: hostname(),
            pid: std::process::id(),
            request_id: request_id.into(),
        }
    }

    fn extend(&self, object: &mut Map<String, Value>) {
        object.insert("timestamp".into(), self.timestamp.clone().into());
        object.insert("hostname".into(), self.hostname.clone().into());
        object.insert("pid".into(), self.pid.into());
        object.insert("request_id".into(), self.request_id.clone().into());
    }
}

/// The answer of a call. The result is text all the way: see [`Raw`].
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// All of it; `data.result` is `null` where there is a result.
    pub document: Value,
    /// What stands there instead.
    pub result: Option<Raw>,
}

impl Envelope {
    /// The pieces of the document on one line, without its newline.
    #[must_use]
    pub fn pieces(&self) -> [Cow<'_, str>; 3] {
        /// What an envelope with a result begins with: see [`success`].
        const HEAD: &str = r#"{"success":true,"status":"ok","data":{"result":"#;
        let text = self.document.to_string();
        let Some(result) = &self.result else { return [text.into(), "".into(), "".into()] };
        match text.strip_prefix(HEAD).and_then(|rest| rest.strip_prefix("null")) {
            Some(rest) => [HEAD.into(), result.text().into(), rest.to_owned().into()],
            None => [serde_json::to_string(self).unwrap_or_default().into(), "".into(), "".into()],
        }
    }

    /// The document as a tree, for those that are known to be small.
    #[must_use]
    pub fn value(&self) -> Value {
        let mut document = self.document.clone();
        if let Some(result) = &self.result {
            document["data"]["result"] = result.value();
        }
        document
    }
}

/// For other formats than the one of [`Envelope::pieces`].
impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// An object of the document, in which one member is another.
        struct With<'a, T>(&'a Value, &'a str, &'a T);
        impl<T: Serialize> Serialize for With<'_, T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let With(Value::Object(members), replaced, by) = self else { return self.0.serialize(serializer) };
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    if name == replaced { map.serialize_entry(name, by)? } else { map.serialize_entry(name, value)? }
                }
                map.end()
            }
        }
        match &self.result {
            None => self.document.serialize(serializer),
            Some(result) => {
                With(&self.document, "data", &With(&self.document["data"], "result", result)).serialize(serializer)
            }
        }
    }
}

/// The present time, as the envelope and the audit record write it.
#[must_use]
pub fn timestamp() -> String {
    stamp(chrono::Utc::now())
}

/// A time as all records and answers have it.
#[must_use]
pub fn stamp(time: chrono::DateTime<chrono::Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// The host's name; `unknown` when the kernel does not tell.
#[must_use]
pub fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The envelope of a call whose method returned. An outcome that holds a failure becomes its [`error`] envelope, so
/// that no failure is ever reported as a success.
#[must_use]
pub fn success(outcome: &Outcome, meta: &Metadata) -> Envelope {
    let result = match &outcome.result {
        Ok(result) => result,
        Err(failure) => return error(failure, Some(outcome), meta),
    };
    let mut data = Map::new();
    data.insert("result".into(), Value::Null);
    data.insert("output".into(), output(&outcome.output));
    data.insert("plugin_version".into(), outcome.plugin_version.clone().unwrap_or(Value::Null));
    observed(&mut data, outcome);
    Envelope { document: envelope(true, data, meta), result: Some(result.clone()) }
}

/// The envelope of a call that returned nothing. `outcome` is given once a plugin was started.
#[must_use]
pub fn error(failure: &Failure, outcome: Option<&Outcome>, meta: &Metadata) -> Envelope {
    let mut data = Map::new();
    data.insert("error".into(), failure.message.clone().into());
    data.insert("code".into(), code::name(failure.code).into());
    data.insert("details".into(), details::json(failure).into());
    if let Some(traceback) = &failure.traceback {
        data.insert("traceback".into(), traceback.clone().into());
    }
    if let Some(outcome) = outcome {
        data.insert("output".into(), output(&outcome.output));
        observed(&mut data, outcome);
    }
    Envelope { document: envelope(false, data, meta), result: None }
}

fn envelope(success: bool, mut data: Map<String, Value>, meta: &Metadata) -> Value {
    meta.extend(&mut data);
    let mut document = Map::new();
    document.insert("success".into(), success.into());
    document.insert("status".into(), if success { "ok" } else { "error" }.into());
    document.insert("data".into(), data.into());
    meta.extend(&mut document);
    document.into()
}

/// What was seen of a plugin that was started.
fn observed(data: &mut Map<String, Value>, outcome: &Outcome) {
    let usage = &outcome.usage;
    let mut used = json!({
        "wall_us": usage.wall_us,
        "cpu_user_us": usage.cpu_user_us,
        "cpu_system_us": usage.cpu_system_us,
        "max_rss_bytes": usage.max_rss_bytes,
        "egress_bytes_sent": usage.egress_bytes_sent,
        "egress_bytes_received": usage.egress_bytes_received,
    });
    for (name, told) in [
        ("memory_peak_bytes", usage.memory_peak_bytes),
        ("pids_peak", usage.pids_peak),
        ("cpu_throttled_us", usage.cpu_throttled_us),
    ] {
        if let Some(told) = told {
            used[name] = told.into();
        }
    }
    data.insert("usage".into(), used);
    data.insert("denials".into(), outcome.denials.iter().map(denial::json).collect());
    if outcome.denials_dropped > 0 {
        data.insert("denials_dropped".into(), outcome.denials_dropped.into());
    }
    data.insert("denials_complete".into(), json!(outcome.denials_complete));
    data.insert("egress".into(), json!(outcome.egress));
    data.insert("sandbox".into(), sandbox::json(&outcome.sandbox));
    if let Some(end) = &outcome.afterwards {
        data.insert("afterwards".into(), json!({ "code": code::name(end.code), "error": end.message }));
    }
}

fn output(output: &Output) -> Value {
    let stdout = stream(&output.stdout, output.stdout_dropped);
    let stderr = stream(&output.stderr, output.stderr_dropped);
    let mut object = Map::new();
    let mut truncated = Map::new();
    for (name, stream) in [("stdout", &stdout), ("stderr", &stderr)] {
        object.insert(name.into(), stream.text.clone().into());
        if stream.dropped > 0 {
            truncated.insert(name.into(), stream.dropped.into());
        }
    }
    if !truncated.is_empty() {
        object.insert("truncated".into(), truncated.into());
    }
    if stdout.lossy || stderr.lossy {
        object.insert("encoding".into(), "lossy".into());
    }
    object.into()
}

struct Stream {
    text: String,
    /// Bytes missing at the end.
    dropped: u64,
    /// Bytes were replaced by U+FFFD.
    lossy: bool,
}

/// A character that the limit cut in two is dropped whole: the plugin wrote it right.
fn stream(bytes: &[u8], dropped: u64) -> Stream {
    let kept = if dropped > 0 { &bytes[..bytes.len() - incomplete_tail(bytes)] } else { bytes };
    let missing = dropped.saturating_add((bytes.len() - kept.len()) as u64);
    match std::str::from_utf8(kept) {
        Ok(text) => Stream { text: text.to_owned(), dropped: missing, lossy: false },
        Err(_) => Stream { text: String::from_utf8_lossy(kept).into_owned(), dropped: missing, lossy: true },
    }
}

/// How many bytes at the end are the beginning of a UTF-8 sequence; 0–3.
fn incomplete_tail(bytes: &[u8]) -> usize {
    (1..=bytes.len().min(3))
        .find(|length| {
            let tail = &bytes[bytes.len() - length..];
            std::str::from_utf8(tail).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Code, Completeness, Denial, Denied, Details, EgressRecord, Explained, Syscall, Usage};

    fn meta() -> Metadata {
        Metadata {
            timestamp: "2025-07-16T17:54:22.123456Z".into(),
            hostname: "myhost".into(),
            pid: 3478,
            request_id: "cdb3458d-0b84-491a-9c4e-709f30e11111".into(),
        }
    }

    fn mount() -> Syscall {
        Syscall {
            number: 165,
            name: "mount".into(),
            values: vec![("flags", 4096)],
            refused: crate::types::Refused::Filter,
        }
    }

    fn outcome(result: Result<Value, Failure>) -> Outcome {
        Outcome {
            result: result.map(|value| Raw::from(&value)),
            afterwards: None,
            plugin_version: None,
            output: Output { stdout: b"hello\n".to_vec(), ..Output::default() },
            usage: Usage { wall_us: 1200, ..Usage::default() },
            denials: vec![Explained {
                denial: Denial { pid: Some(2), ..Denial::new(Denied::Syscall(mount()), 2) },
                rule: "syscalls".into(),
                remedy: "nothing can allow this".into(),
            }],
            denials_dropped: 0,
            denials_complete: Completeness { seccomp: true, learn: "upm learn P m".into(), ..Completeness::default() },
            egress: vec![EgressRecord {
                host: "files.example".into(),
                port: 443,
                bytes_sent: 10,
                bytes_received: 20,
                duration_us: 30,
                end: "closed".into(),
            }],
            observed: None,
            sandbox: sandbox::tests::sandbox(),
        }
    }

    fn schema() -> Value {
        serde_json::from_str(include_str!("../../response.schema.json")).unwrap()
    }

    fn validator() -> jsonschema::Validator {
        let schema = schema();
        jsonschema::draft202012::meta::validate(&schema).unwrap();
        jsonschema::draft202012::new(&schema).unwrap()
    }

    #[test]
    fn a_success_is_written_as_the_contract_says() {
        let document = success(&outcome(Ok(json!([1]))), &meta());
        let sandbox = sandbox::json(&sandbox::tests::sandbox()).to_string();
        assert_eq!(
            document.pieces().concat().replace(&sandbox, "{}"),
            concat!(
                r#"{"success":true,"status":"ok","data":{"result":[1],"output":{"stdout":"hello\n","stderr":""},"#,
                r#""plugin_version":null,"usage":{"wall_us":1200,"cpu_user_us":0,"cpu_system_us":0,"max_rss_bytes":0,"#,
                r#""egress_bytes_sent":0,"egress_bytes_received":0},"denials":[{"layer":"seccomp","operation":"mount","#,
                r#""object":{"flags":4096},"rule":"syscalls","remedy":"nothing can allow this","count":2,"pid":2,"#,
                r#""comm":null}],"denials_complete":{"seccomp":true,"egress":false,"limits":false,"landlock":false,"#,
                r#""paths":false,"learn":"upm learn P m"},"egress":[{"host":"files.example","port":443,"bytes_sent":10,"bytes_received":20,"#,
                r#""duration_us":30,"end":"closed"}],"sandbox":{},"#,
                r#""timestamp":"2025-07-16T17:54:22.123456Z","hostname":"myhost","pid":3478,"#,
                r#""request_id":"cdb3458d-0b84-491a-9c4e-709f30e11111"},"#,
                r#""timestamp":"2025-07-16T17:54:22.123456Z","hostname":"myhost","pid":3478,"#,
                r#""request_id":"cdb3458d-0b84-491a-9c4e-709f30e11111"}"#
            )
        );
    }

    #[test]
    fn an_error_before_a_plugin_was_started() {
        let details = Details::NotAllowed { plugin: "PipPlugin".into(), method: None, allowed: vec!["Hello".into()] };
        let failure = Failure::new(Code::PluginNotAllowed, "PipPlugin: not configured").with(details);
        assert_eq!(
            error(&failure, None, &meta()).value(),
            json!({
                "success": false, "status": "error",
                "data": {
                    "error": "PipPlugin: not configured", "code": "plugin_not_allowed",
                    "details": {"plugin": "PipPlugin", "allowed": ["Hello"]},
                    "timestamp": "2025-07-16T17:54:22.123456Z", "hostname": "myhost", "pid": 3478,
                    "request_id": "cdb3458d-0b84-491a-9c4e-709f30e11111",
                },
                "timestamp": "2025-07-16T17:54:22.123456Z", "hostname": "myhost", "pid": 3478,
                "request_id": "cdb3458d-0b84-491a-9c4e-709f30e11111",
            })
        );
    }

    #[test]
    fn an_error_after_a_plugin_was_started_keeps_what_was_seen() {
        let mut failure = Failure::new(Code::PluginRaised, "ValueError: no");
        failure.traceback = Some("Traceback …".into());
        let mut seen = outcome(Err(failure.clone()));
        seen.denials_dropped = 7;
        let document = error(&failure, Some(&seen), &meta()).value();
        let keys: Vec<_> = document["data"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "error",
                "code",
                "details",
                "traceback",
                "output",
                "usage",
                "denials",
                "denials_dropped",
                "denials_complete",
                "egress",
                "sandbox",
                "timestamp",
                "hostname",
                "pid",
                "request_id"
            ]
        );
        assert_eq!(document["data"]["denials_dropped"], 7);
        assert_eq!(success(&seen, &meta()).value(), document, "a failure is never a success");
    }

    #[test]
    fn output_that_was_cut_or_is_not_utf8() {
        let cut = |stdout: &[u8], dropped: u64| {
            output(&Output { stdout: stdout.to_vec(), stdout_dropped: dropped, ..Output::default() })
        };
        assert_eq!(cut(b"abc", 5), json!({"stdout": "abc", "stderr": "", "truncated": {"stdout": 5}}));
        // The limit fell inside a character of two, three or four bytes.
        assert_eq!(cut(b"ab\xc3", 1), json!({"stdout": "ab", "stderr": "", "truncated": {"stdout": 2}}));
        assert_eq!(cut(b"\xe6\xbc", 1), json!({"stdout": "", "stderr": "", "truncated": {"stdout": 3}}));
        assert_eq!(cut(b"a\xf0\x9f\xa6", 9), json!({"stdout": "a", "stderr": "", "truncated": {"stdout": 12}}));
        assert_eq!(cut("a🦀".as_bytes(), 9), json!({"stdout": "a🦀", "stderr": "", "truncated": {"stdout": 9}}));
        // Not cut: the plugin itself wrote half a character.
        assert_eq!(cut(b"ab\xc3", 0), json!({"stdout": "ab\u{fffd}", "stderr": "", "encoding": "lossy"}));
        // A lone continuation byte does not begin a character.
        assert_eq!(
            cut(b"ab\x80", 1),
            json!({"stdout": "ab\u{fffd}", "stderr": "", "truncated": {"stdout": 1}, "encoding": "lossy"})
        );
        let both = Output { stdout: b"\xff".to_vec(), stderr: b"e".to_vec(), stdout_dropped: 0, stderr_dropped: 3 };
        assert_eq!(
            output(&both),
            json!({"stdout": "\u{fffd}", "stderr": "e", "truncated": {"stderr": 3}, "encoding": "lossy"})
        );
    }

    #[test]
    fn the_present_time_is_utc_with_microseconds() {
        let now = Metadata::now("cdb3458d-0b84-491a-9c4e-709f30e11111");
        assert_eq!(now.timestamp.len(), 27);
        assert!(now.timestamp.ends_with('Z') && now.timestamp.as_bytes()[19] == b'.', "{}", now.timestamp);
        assert_eq!(now.pid, std::process::id());
        assert_eq!(now.hostname, std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim_end());
        assert!(validator().is_valid(&error(&Failure::new(Code::Internal, "x"), None, &now).value()));
    }

    #[test]
    fn every_envelope_fits_the_schema() {
        let validator = validator();
        for code in code::ALL {
            let failure = Failure::new(code, "x: no");
            for seen in [None, Some(outcome(Err(failure.clone())))] {
                let document = error(&failure, seen.as_ref(), &meta()).value();
                assert!(validator.is_valid(&document), "{document}");
            }
        }
        let mut full = outcome(Ok(Value::Null));
        full.plugin_version = Some(json!("1.0.0"));
        full.denials_dropped = 1;
        full.afterwards = Some(Failure::new(Code::Timeout, "not done"));
        full.usage = Usage {
            memory_peak_bytes: Some(1 << 20),
            pids_peak: Some(3),
            cpu_throttled_us: Some(9),
            ..Usage::default()
        };
        full.output = Output { stdout: b"\xff".to_vec(), stderr: vec![], stdout_dropped: 1, stderr_dropped: 2 };
        for document in [success(&outcome(Ok(json!({"a": 1}))), &meta()), success(&full, &meta())] {
            let written = serde_json::to_string(&document).unwrap();
            assert_eq!(document.pieces().concat(), written, "both ways to write it");
            let document = document.value();
            assert_eq!(document.to_string(), written);
            assert!(validator.is_valid(&document), "{document}");
        }
    }

    #[test]
    fn the_schema_lists_every_code() {
        let listed = schema()["$defs"]["code"]["enum"].clone();
        assert_eq!(listed, json!(code::ALL.map(code::name)));
    }

    #[test]
    fn the_schema_refuses_what_is_no_envelope() {
        let validator = validator();
        let good = success(&outcome(Ok(json!(1))), &meta()).value();
        let bad = error(&Failure::new(Code::Timeout, "x"), Some(&outcome(Ok(json!(1)))), &meta()).value();
        assert!(validator.is_valid(&good) && validator.is_valid(&bad));
        let set: [(&Value, &str, Value); 22] = [
            (&good, "/success", json!(false)),
            (&good, "/status", json!("error")),
            (&good, "/extra", json!(1)),
            (&good, "/data/extra", json!(1)),
            (&good, "/data/code", json!("timeout")),
            (&good, "/data/output/extra", json!(1)),
            (&good, "/data/output/truncated", json!({"stdout": 0})),
            (&good, "/data/output/truncated", json!({})),
            (&good, "/data/output/encoding", json!("latin-1")),
            (&good, "/data/usage/wall_us", json!(-1)),
            (&good, "/data/denials/0/count", json!(0)),
            (&good, "/data/denials/0/extra", json!(0)),
            (&good, "/data/denials_dropped", json!(0)),
            (&good, "/data/egress/0/port", json!(0)),
            (&good, "/data/sandbox", json!([])),
            (&good, "/timestamp", json!("2025-07-16T17:54:22Z")),
            (&good, "/data/timestamp", json!("2025-07-16T17:54:22.123456+02:00")),
            (&good, "/request_id", json!("7")),
            (&good, "/pid", json!(0)),
            (&bad, "/data/code", json!("other")),
            (&bad, "/data/details", json!([])),
            (&bad, "/data/result", json!(1)),
        ];
        for (document, pointer, value) in set {
            let mut changed = document.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            changed.pointer_mut(parent).unwrap()[key] = value;
            assert!(!validator.is_valid(&changed), "{pointer}: {changed}");
        }
        let remove = [
            (&good, "/data/result"),
            (&good, "/data/output"),
            (&good, "/data/plugin_version"),
            (&good, "/data/usage"),
            (&good, "/data/denials"),
            (&good, "/data/egress"),
            (&good, "/data/sandbox"),
            (&good, "/data/request_id"),
            (&good, "/hostname"),
            (&good, "/data/usage/wall_us"),
            (&bad, "/data/error"),
            (&bad, "/data/code"),
            (&bad, "/data/details"),
            (&bad, "/data/pid"),
            // Once a plugin was started, all that was seen is there.
            (&bad, "/data/output"),
            (&bad, "/data/sandbox"),
        ];
        for (document, pointer) in remove {
            let mut changed = document.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            changed.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
            assert!(!validator.is_valid(&changed), "without {pointer}");
        }
    }
}
