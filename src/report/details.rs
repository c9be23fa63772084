//! The details of failures as answers have them.
#![forbid(unsafe_code)]

use super::denial;
use crate::types::{Cause, CountedBy, Details, Failure, Note, Said, Sought};
use nix::errno::Errno;
use serde_json::{Map, Value, json};

/// `data.details` of a failure.
pub(super) fn json(failure: &Failure) -> Map<String, Value> {
    let mut all = match members(&failure.details) {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    match failure.note {
        Some(Note::Started) => drop(all.insert("started".into(), true.into())),
        Some(Note::Unreaped) => {
            let why = "a process of the call does not react to SIGKILL yet: the kernel ends it when its disk or network answers";
            all.insert("unreaped".into(), why.into());
        }
        None => {}
    }
    if let Details::Violation { denial: Some(explained), .. } = &failure.details {
        all.insert("denial".into(), denial::json(explained));
    }
    all
}

fn members(details: &Details) -> Value {
    match details {
        Details::None => Value::Null,
        Details::Usage { usage, suggestion } => with(json!({ "usage": usage }), "suggestion", suggestion.as_deref()),
        Details::MaxBytes(bytes) => json!({ "max_bytes": bytes }),
        Details::Json { line, column } => json!({ "line": line, "column": column }),
        Details::Mismatch { instance_path, schema_path, value } => {
            json!({ "instance_path": instance_path, "schema_path": schema_path, "value": value })
        }
        Details::File { path, place: None } => json!({ "path": path }),
        Details::File { path, place: Some((line, column)) } => json!({ "path": path, "line": line, "column": column }),
        Details::Key(key) => json!({ "key": key.name() }),
        Details::Granted { key, path, line, remedy } => {
            json!({ "key": key.name(), "path": path, "line": line, "remedy": remedy })
        }
        Details::NotAllowed { plugin, method: None, allowed } => json!({ "plugin": plugin, "allowed": allowed }),
        Details::NotAllowed { plugin, method: Some(method), allowed } => {
            json!({ "plugin": plugin, "method": method, "allowed": allowed })
        }
        Details::Project { project, allowed } => json!({ "project": project, "allowed": allowed }),
        Details::ProjectRules { project, would_write } => json!({ "project": project, "would_write": would_write }),
        Details::Caller { uid, gid } => json!({ "uid": uid, "gid": gid }),
        Details::Socket { socket, remedy } => json!({ "socket": socket, "remedy": remedy }),
        Details::Audit { sink, reason, remedy } => json!({ "sink": sink, "reason": reason, "remedy": remedy }),
        Details::Step { step, object, errno, remedy } => {
            let known = json!({ "step": step.name(), "layer": step.layer().name(), "object": object });
            let errno = errno.map(|errno| Errno::from_raw(errno).to_string());
            with(with(known, "errno", errno.as_deref()), "remedy", remedy.as_deref())
        }
        Details::Layer { layer, cause, remedy } => {
            let (name, text) = match cause {
                None => ("", None),
                Some(Cause::Key(key)) => ("key", Some(key.name())),
                Some(Cause::Object(object)) => ("object", Some(object.as_str())),
                Some(Cause::Reason(reason)) => ("reason", Some(reason.as_str())),
                Some(Cause::Path(path)) => ("path", Some(path.as_str())),
            };
            with(with(json!({ "layer": layer.name() }), name, text), "remedy", remedy.as_deref())
        }
        Details::Frame { limit } => json!({ "limit": limit }),
        Details::Timeout { ms } => json!({ "timeout_ms": ms }),
        Details::CpuTime { s } => json!({ "cpu_time_s": s }),
        Details::Memory { limit, used, by, sockets } => {
            let by = match by {
                CountedBy::Cgroup => "cgroup",
                CountedBy::Sum => "sum",
            };
            let mut known = json!({ "memory": limit, "used": used, "by": by });
            if let Some((count, bytes)) = sockets {
                known["sockets"] = (*count).into();
                known["sockets_bytes"] = (*bytes).into();
            }
            known
        }
        Details::Signal { name, host_memory } => {
            let by = "the kernel, for want of memory outside of the call's own limit";
            with(json!({ "signal": name }), "by", host_memory.then_some(by))
        }
        Details::Exit(status) => json!({ "exit_status": status }),
        Details::Violation { operation, .. } => json!({ "operation": operation }),
        Details::Plugin(said) => words(said).into(),
    }
}

/// `object` with one more text, where there is one.
fn with(mut object: Value, name: &str, text: Option<&str>) -> Value {
    if let Some(text) = text {
        object[name] = text.into();
    }
    object
}

/// The plugin's own words, with what is known of the paths in them.
fn words(said: &Said) -> Map<String, Value> {
    let mut members = said.members.clone();
    if let (Some(path), Some(Value::Object(cause))) = (&said.cause_path, members.get_mut("cause")) {
        sought(path, cause);
    }
    if let Some(path) = &said.path {
        sought(path, &mut members);
    }
    members
}

fn sought(path: &Sought, members: &mut Map<String, Value>) {
    if let Some((rule, remedy)) = &path.refused {
        members.insert("rule".into(), rule.as_str().into());
        members.insert("remedy".into(), remedy.as_str().into());
    }
    members.insert("granted".into(), json!({ "read": path.read, "write": path.write }));
    members.insert("learn".into(), path.learn.as_str().into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Key;
    use crate::types::{Code, Denial, Denied, Explained, Layer, Step, Syscall};

    fn written(details: Details) -> String {
        Value::Object(json(&Failure::new(Code::Internal, "x").with(details))).to_string()
    }

    /// The whole of what `data.details` can hold, in its order.
    #[test]
    fn each_detail_is_written_as_the_contract_says() {
        let text = |text: &str| text.to_owned();
        let signal = |host_memory| Details::Signal { name: text("SIGKILL"), host_memory };
        let memory = |used, by, sockets| Details::Memory { limit: 9, used, by, sockets };
        let layer = |cause, remedy| Details::Layer { layer: Layer::Limits, cause, remedy };
        for (details, expected) in [
            (Details::None, "{}"),
            (Details::Usage { usage: text("u"), suggestion: None }, r#"{"usage":"u"}"#),
            (Details::Usage { usage: text("u"), suggestion: Some(text("s")) }, r#"{"usage":"u","suggestion":"s"}"#),
            (Details::MaxBytes(7), r#"{"max_bytes":7}"#),
            (Details::Json { line: 1, column: 2 }, r#"{"line":1,"column":2}"#),
            (
                Details::Mismatch { instance_path: text("/a"), schema_path: text("m.json#/"), value: text("7") },
                r##"{"instance_path":"/a","schema_path":"m.json#/","value":"7"}"##,
            ),
            (Details::File { path: text("/f"), place: None }, r#"{"path":"/f"}"#),
            (Details::File { path: text("/f"), place: Some((3, 4)) }, r#"{"path":"/f","line":3,"column":4}"#),
            (Details::Key(Key::RunAs), r#"{"key":"run_as"}"#),
            (
                Details::Granted { key: Key::Write, path: text("/p"), line: None, remedy: text("r") },
                r#"{"key":"write","path":"/p","line":null,"remedy":"r"}"#,
            ),
            (
                Details::NotAllowed { plugin: text("P"), method: None, allowed: vec![text("Q")] },
                r#"{"plugin":"P","allowed":["Q"]}"#,
            ),
            (
                Details::NotAllowed { plugin: text("P"), method: Some(text("m")), allowed: vec![] },
                r#"{"plugin":"P","method":"m","allowed":[]}"#,
            ),
            (Details::Project { project: text("/p"), allowed: vec![] }, r#"{"project":"/p","allowed":[]}"#),
            (
                Details::ProjectRules { project: text("/p"), would_write: text("/c") },
                r#"{"project":"/p","would_write":"/c"}"#,
            ),
            (Details::Caller { uid: 1, gid: 2 }, r#"{"uid":1,"gid":2}"#),
            (Details::Socket { socket: text("/s"), remedy: text("r") }, r#"{"socket":"/s","remedy":"r"}"#),
            (
                Details::Audit { sink: text("journald"), reason: text("why"), remedy: text("r") },
                r#"{"sink":"journald","reason":"why","remedy":"r"}"#,
            ),
            (
                Details::Step { step: Step::IdMap, object: text("o"), errno: Some(1), remedy: Some(text("r")) },
                r#"{"step":"id_map","layer":"namespaces","object":"o","errno":"EPERM: Operation not permitted","remedy":"r"}"#,
            ),
            (
                Details::Step { step: Step::Exec, object: text("o"), errno: None, remedy: None },
                r#"{"step":"exec","layer":"root","object":"o"}"#,
            ),
            (layer(None, None), r#"{"layer":"limits"}"#),
            (layer(None, Some(text("r"))), r#"{"layer":"limits","remedy":"r"}"#),
            (layer(Some(Cause::Key(Key::Cpus)), Some(text("r"))), r#"{"layer":"limits","key":"cpus","remedy":"r"}"#),
            (layer(Some(Cause::Object(text("o"))), None), r#"{"layer":"limits","object":"o"}"#),
            (layer(Some(Cause::Reason(text("w"))), None), r#"{"layer":"limits","reason":"w"}"#),
            (layer(Some(Cause::Path(text("/p"))), None), r#"{"layer":"limits","path":"/p"}"#),
            (Details::Frame { limit: 5 }, r#"{"limit":5}"#),
            (Details::Timeout { ms: 5 }, r#"{"timeout_ms":5}"#),
            (Details::CpuTime { s: 5 }, r#"{"cpu_time_s":5}"#),
            (memory(None, CountedBy::Cgroup, None), r#"{"memory":9,"used":null,"by":"cgroup"}"#),
            (
                memory(Some(10), CountedBy::Sum, Some((2, 64))),
                r#"{"memory":9,"used":10,"by":"sum","sockets":2,"sockets_bytes":64}"#,
            ),
            (signal(false), r#"{"signal":"SIGKILL"}"#),
            (
                signal(true),
                r#"{"signal":"SIGKILL","by":"the kernel, for want of memory outside of the call's own limit"}"#,
            ),
            (Details::Exit(3), r#"{"exit_status":3}"#),
        ] {
            assert_eq!(written(details), expected);
        }
    }

    #[test]
    fn notes_follow_and_a_violation_ends_with_its_denial() {
        let mut failure = Failure::new(Code::Violation, "x").with(Details::Violation {
            number: 312,
            operation: "kcmp".into(),
            denial: None,
        });
        failure.note = Some(Note::Started);
        assert_eq!(Value::Object(json(&failure)).to_string(), r#"{"operation":"kcmp","started":true}"#);
        failure.note = Some(Note::Unreaped);
        let call =
            Syscall { number: 312, name: "kcmp".into(), values: Vec::new(), refused: crate::types::Refused::Filter };
        let explained = Explained {
            denial: Denial::new(Denied::Syscall(call), 1),
            rule: "syscalls (built-in)".to_owned(),
            remedy: "nothing: x".to_owned(),
        };
        failure.details =
            Details::Violation { number: 312, operation: "kcmp".into(), denial: Some(Box::new(explained)) };
        let written = json(&failure);
        assert_eq!(written.keys().collect::<Vec<_>>(), ["operation", "unreaped", "denial"]);
        assert_eq!(written["denial"]["rule"], "syscalls (built-in)");
    }

    #[test]
    fn a_plugin_s_words_stay_and_cannot_speak_for_the_engine() {
        let Value::Object(members) = json!({
            "type": "OSError", "errno_name": "EROFS", "granted": "all", "cause": {"filename": "/b", "learn": "x"}
        }) else {
            unreachable!()
        };
        let sought = |refused| Some(Sought { refused, read: true, write: false, learn: "upm learn".to_owned() });
        let said = Said {
            members,
            path: sought(Some(("write (built-in)".to_owned(), "write = []".to_owned()))),
            cause_path: sought(None),
        };
        assert_eq!(said.exception().errno, Some(Errno::EROFS));
        assert_eq!(said.cause().unwrap().filename, Some("/b"));
        assert_eq!(
            written(Details::Plugin(Box::new(said))),
            concat!(
                r#"{"type":"OSError","errno_name":"EROFS","granted":{"read":true,"write":false},"#,
                r#""cause":{"filename":"/b","learn":"upm learn","granted":{"read":true,"write":false}},"#,
                r#""rule":"write (built-in)","remedy":"write = []","learn":"upm learn"}"#
            )
        );
    }
}
