//! Frames of a plugin's process: pieces, bounds, order, and what each line says.

use crate::harness::{Case, Rng, is_plain, mutate, run};
use crate::json;
use serde_json::{Map, Value, json};
use upm::json::raw::Raw;
use upm::report::envelope::{Metadata, success};
use upm::supervise::frames::{Frame, Reader};
use upm::types::{Code, Outcome, Output, Sandbox, Usage};

const TOKENS: &[&[u8]] = &[
    b"\n",
    b"\n\n",
    b"\"type\":\"result\"",
    b"\"type\":\"progress\"",
    b"\"type\":\"error\"",
    b"{\"type\":\"result\",\"result\":1}\n",
    b"\"fraction\":1.0000000000000002",
    b"\"fraction\":-0.0",
    b"\"kind\":\"timeout\"",
    b"\"kind\":\"plugin_raised\"",
    b"\"details\":null",
    b"\"plugin_version\":null",
    b"\"result\":null",
    b"\"message\":null",
    b"\"message\":\"\"",
    b"\"more\":1,",
];

fn line(rng: &mut Rng, kind: &str) -> String {
    let mut members = vec![format!("\"type\":\"{kind}\"")];
    let mut add = |rng: &mut Rng, percent: usize, name: &str, value: &dyn Fn(&mut Rng, &mut String)| {
        if rng.chance(percent) {
            let mut text = format!("\"{name}\":");
            if rng.chance(4) {
                json::write(rng, 2, &mut text)
            } else {
                value(rng, &mut text)
            }
            members.push(text);
        }
    };
    match kind {
        "progress" => {
            add(rng, 80, "message", &|rng, out| {
                if rng.chance(5) {
                    let text = rng.pick(&["é", "x", "🦀", "\\u202e"]).repeat(rng.range(100, 600));
                    out.push_str(&format!("\"{text}\""));
                } else {
                    json::string(rng, out);
                }
            });
            add(rng, 80, "fraction", &|rng, out| {
                out.push_str(rng.pick(&[
                    "0",
                    "1",
                    "0.5",
                    "1e0",
                    "-0.0",
                    "1.0000000000000002",
                    "-1e-300",
                    "null",
                    "2",
                    "true",
                ]));
            });
        }
        "result" => {
            add(rng, 97, "result", &|rng, out| json::write(rng, 4, out));
            add(rng, 50, "plugin_version", &|rng, out| out.push_str(rng.pick(&["\"1.0\"", "null", "[1]", "1"])));
        }
        _ => {
            add(rng, 97, "kind", &|rng, out| {
                out.push_str(rng.pick(&[
                    "\"plugin_raised\"",
                    "\"result_not_serializable\"",
                    "\"result_too_large\"",
                    "\"module_not_found\"",
                    "\"class_not_found\"",
                    "\"method_not_found\"",
                    "\"timeout\"",
                    "\"violation\"",
                    "null",
                ]));
            });
            add(rng, 97, "message", &json::string);
            add(rng, 50, "traceback", &json::string);
            add(rng, 50, "details", &|rng, out| out.push_str(rng.pick(&["{}", "null", "{\"errno\":2}", "[]"])));
            add(rng, 30, "plugin_version", &|rng, out| out.push_str(rng.pick(&["\"1.0\"", "null"])));
        }
    }
    if rng.chance(50) {
        members.rotate_left(1);
    }
    format!("{{{}}}", members.join(","))
}

fn conversation(rng: &mut Rng) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..rng.below(4) {
        text.push_str(&line(rng, "progress"));
        text.push('\n');
    }
    for _ in 0..if rng.chance(90) { 1 } else { 2 } {
        let kind = rng.pick(&["result", "result", "error", "progress"]);
        text.push_str(&line(rng, kind));
        text.push_str(if rng.chance(95) { "\n" } else { rng.pick(&["", "\r\n", "\n\n", "\n \n"]) });
    }
    text.into_bytes()
}

/// Frames, and how the stream ended.
type Read = (Vec<Frame>, Result<(), (Code, String)>);

fn feed(limit: u64, pieces: &[&[u8]]) -> Read {
    let mut reader = Reader::new(limit);
    let mut frames = Vec::new();
    for piece in pieces {
        if let Err(failure) = reader.push(piece, &mut |frame| frames.push(frame)) {
            return (frames, Err((failure.code, failure.message)));
        }
    }
    let end = reader.end().map_err(|failure| (failure.code, failure.message));
    (frames, end)
}

/// What should come of `input`: the frames as JSON objects, and the code that ends it.
fn expected(input: &[u8], limit: usize) -> (Vec<Map<String, Value>>, Option<Code>) {
    let mut frames = Vec::new();
    let mut rest = input;
    let mut over = false;
    while !rest.is_empty() {
        if over {
            return (frames, Some(Code::ProtocolViolation));
        }
        let end = rest.iter().position(|b| *b == b'\n');
        if end.unwrap_or(rest.len()) > limit {
            return (frames, Some(Code::ResultTooLarge));
        }
        let Some(end) = end else { return (frames, Some(Code::ProtocolViolation)) };
        let Some(frame) = frame(&rest[..end]) else { return (frames, Some(Code::ProtocolViolation)) };
        if frame["type"] == "progress" && end > 64 << 10 {
            return (frames, Some(Code::ProtocolViolation));
        }
        over = frame["type"] != "progress";
        frames.push(frame);
        rest = &rest[end + 1..];
    }
    (frames, None)
}

/// A line that is a frame, by the table of members in CONTRIBUTING.md.
fn frame(line: &[u8]) -> Option<Map<String, Value>> {
    let Value::Object(frame) = json::read(line, 126)? else { return None };
    let text = |name: &str, needed: bool| match frame.get(name) {
        None | Some(Value::Null) => !needed,
        Some(value) => value.is_string(),
    };
    let (known, fits): (&[&str], bool) = match frame.get("type")?.as_str()? {
        "progress" => (&["message", "fraction"], {
            let fraction = frame.get("fraction").filter(|f| !f.is_null());
            text("message", false) && fraction.is_none_or(|f| f.as_f64().is_some_and(|f| (0.0..=1.0).contains(&f)))
        }),
        "result" => (&["result", "plugin_version"], frame.contains_key("result")),
        "error" => (&["kind", "message", "traceback", "details", "plugin_version"], {
            let kinds = [
                "plugin_raised",
                "result_not_serializable",
                "result_too_large",
                "module_not_found",
                "class_not_found",
                "method_not_found",
            ];
            let kind = frame.get("kind").and_then(Value::as_str).is_some_and(|kind| kinds.contains(&kind));
            let details = frame.get("details").is_none_or(|d| d.is_null() || d.is_object());
            kind && details && text("message", true) && text("traceback", false)
        }),
        _ => return None,
    };
    (fits && frame.keys().all(|key| key == "type" || known.contains(&key.as_str()))).then_some(frame)
}

/// A frame as its peer would have written it.
fn written(frame: &Frame) -> Value {
    let mut value = match frame {
        Frame::Progress { message, fraction } => json!({"type": "progress", "message": message, "fraction": fraction}),
        Frame::Result { value, version } => {
            json!({"type": "result", "result": value.value(), "plugin_version": version})
        }
        Frame::Error { code, message, traceback, details, version } => json!({
            "type": "error", "kind": code, "message": message, "traceback": traceback, "details": details, "plugin_version": version,
        }),
    };
    value.as_object_mut().unwrap().retain(|key, value| key == "result" || !value.is_null());
    value
}

/// Whether `frame` says what the line's object says.
fn agrees(frame: &Frame, line: &Map<String, Value>) -> bool {
    let text = |name: &str| line.get(name).and_then(Value::as_str);
    let version = line.get("plugin_version").filter(|v| !v.is_null());
    match frame {
        Frame::Progress { message, fraction } => {
            let whole = text("message").unwrap_or_default();
            let cut = whole.len() > message.len();
            line["type"] == "progress"
                && whole.starts_with(message.as_str())
                && message.len() <= 500
                && (!cut || message.len() > 496)
                && *fraction == line.get("fraction").and_then(Value::as_f64)
        }
        Frame::Result { value, version: v } => {
            line["type"] == "result" && json::same(&value.value(), &line["result"]) && v.as_ref() == version
        }
        Frame::Error { code, message, traceback, details, version: v } => {
            line["type"] == "error"
                && json!(code) == line["kind"]
                && Some(message.as_str()) == text("message")
                && traceback.as_deref() == text("traceback")
                && details == line.get("details").and_then(Value::as_object).unwrap_or(&Map::new())
                && v.as_ref() == version
        }
    }
}

fn one(case: &mut Case) -> bool {
    let rng = &mut case.rng;
    case.input = conversation(rng);
    if rng.chance(75) {
        let other = conversation(rng);
        let tokens = if rng.chance(50) { TOKENS } else { json::TOKENS };
        mutate(rng, &mut case.input, tokens, &other);
    }
    check(&case.input, &mut case.rng)
}

/// Holds what is said of `input` against the second reading.
pub fn check(input: &[u8], rng: &mut Rng) -> bool {
    let longest = input.split(|b| *b == b'\n').map(<[u8]>::len).max().unwrap_or(0);
    let limit = match rng.below(10) {
        0 => longest.saturating_sub(1),
        1..=3 => longest,
        4 => rng.below(longest + 2),
        _ => 100_000,
    };
    let (frames, end) = feed(limit as u64, &[input]);
    let (lines, code) = expected(input, limit);
    assert_eq!(end.as_ref().err().map(|(code, _)| *code), code, "{end:?}");
    assert_eq!(frames.len(), lines.len());
    assert!(frames.iter().zip(&lines).all(|(frame, line)| agrees(frame, line)), "{frames:?}");
    if let Err((_, message)) = &end {
        assert!(is_plain(message) && message.len() < 1000, "{message:?}");
    }
    let finals = frames.iter().filter(|frame| !matches!(frame, Frame::Progress { .. })).count();
    assert!(finals <= 1 && (finals == 0 || !matches!(frames.last(), Some(Frame::Progress { .. }))));

    assert_eq!(feed(limit as u64, &rng.pieces(input)), (frames, end), "in pieces");

    // once more from what was understood
    let (frames, end) = feed(u64::MAX, &[input]);
    let text: String = frames.iter().map(|frame| format!("{}\n", written(frame))).collect();
    let (again, again_end) = feed(u64::MAX, &[text.as_bytes()]);
    assert_eq!((&again, again_end), (&frames, Ok(())), "written again: {text}");
    if let Some(Frame::Result { value, version }) = frames.into_iter().next_back() {
        if input.len() > 500 || rng.chance(10) {
            let document = success(&outcome(value, version), &meta());
            // an ordinary reader stops at 127 levels, and the answer is two deeper than the result
            let text = document.pieces().concat();
            assert!(serde_json::from_str::<Value>(&text).is_ok_and(|read| read == document.value()));
            assert_eq!(text, document.value().to_string(), "as a tree would be written");
        }
    }
    end.is_ok()
}

fn outcome(result: Raw, plugin_version: Option<Value>) -> Outcome {
    Outcome {
        result: Ok(result),
        afterwards: None,
        plugin_version,
        output: Output::default(),
        usage: Usage::default(),
        denials: Vec::new(),
        denials_dropped: 0,
        denials_complete: Default::default(),
        egress: Vec::new(),
        observed: None,
        sandbox: Sandbox::default(),
    }
}

fn meta() -> Metadata {
    Metadata { timestamp: "t".into(), hostname: "h".into(), pid: 1, request_id: "r".into() }
}

#[test]
fn frames() {
    run("frames", 20_000, 10, one);
}
