//! Frames of a hostile plugin: bounded before they are parsed, and only in the allowed order.
#![forbid(unsafe_code)]

use crate::json::raw::Raw;
use crate::json::{StrictError, parse_strict};
use crate::types::{Code, Details, Failure};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The nesting limit of a frame. Ordinary readers of JSON stop at 127 levels, and in the answer the result is one level deeper
/// than here.
const MAX_DEPTH: usize = crate::json::MAX_DEPTH - 1;
/// Bytes of a progress message that are kept.
const MAX_MESSAGE: usize = 500;
/// The limit for the bytes of a progress frame: the runner's are below 26 KiB.
const MAX_PROGRESS: usize = 64 << 10;
/// The limit for the bytes of a member that becomes a tree of values: `details`, `plugin_version` and smaller ones.
const MAX_SMALL: usize = 64 << 10;

/// A frame of the plugin.
#[derive(Debug, PartialEq)]
pub enum Frame {
    /// Its progress.
    Progress {
        /// One line for people.
        message: String,
        /// From 0 to 1.
        fraction: Option<f64>,
    },
    /// The method's value.
    Result {
        /// The value.
        value: Raw,
        /// `plugin_version`, when given.
        version: Option<Value>,
    },
    /// The method failed, or could not be called.
    Error {
        /// One of the codes that a runner may give.
        code: Code,
        /// One sentence.
        message: String,
        /// If an exception was raised.
        traceback: Option<String>,
        /// Machine-readable details.
        details: Map<String, Value>,
        /// `plugin_version`, if there is an instance of the class.
        version: Option<Value>,
    },
}

/// Splits bytes into lines and parses them as frames.
#[derive(Debug)]
pub struct Reader {
    line: Vec<u8>,
    limit: usize,
    finished: bool,
}

/// The failure that ends a call that breaks the protocol.
fn violation(what: impl Into<String>) -> Failure {
    Failure::new(Code::ProtocolViolation, format!("frame: {}", what.into()))
}

impl Reader {
    /// A reader of lines of at most `limit` bytes, newline excluded.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Reader { line: Vec::new(), limit: usize::try_from(limit).unwrap_or(usize::MAX), finished: false }
    }

    /// Adds bytes, and passes every complete frame to `take`.
    ///
    /// # Errors
    /// `protocol_violation`, `result_too_large`.
    pub fn push(&mut self, mut bytes: &[u8], take: &mut dyn FnMut(Frame)) -> Result<(), Failure> {
        while !bytes.is_empty() {
            if self.finished {
                return Err(violation("data after the result; a call has one result"));
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > self.limit {
                return Err(Failure::new(
                    Code::ResultTooLarge,
                    format!("frame: longer than {} bytes; return less, or raise `result` for this method", self.limit),
                )
                .with(Details::Frame { limit: self.limit as u64 }));
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            let frame = parse(&std::mem::take(&mut self.line))?;
            self.finished = !matches!(frame, Frame::Progress { .. });
            take(frame);
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// The peer closed its end.
    ///
    /// # Errors
    /// `protocol_violation` if the last line is incomplete.
    pub fn end(&self) -> Result<(), Failure> {
        if self.line.is_empty() { Ok(()) } else { Err(violation("the last line does not end with a newline")) }
    }
}

/// The members of a line; see the table in CONTRIBUTING.md.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(rename = "type", borrow, default, deserialize_with = "given")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    plugin_version: Option<&'a RawValue>,
    #[serde(rename = "kind", borrow, default, deserialize_with = "given")]
    code: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    message: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    traceback: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    details: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    fraction: Option<&'a RawValue>,
}

/// A member that is present, even if it is `null`.
fn given<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn parse(line: &[u8]) -> Result<Frame, Failure> {
    let text = std::str::from_utf8(line).map_err(|_| violation("bytes that are not UTF-8"))?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(violation("not a JSON object"));
    }
    let line: Line<'_> = serde_json::from_str(text).map_err(|error| {
        let error = StrictError::from_serde(&error);
        // The message of serde_json contains the member's name, which can be anything.
        let unknown = error.message.starts_with("unknown field");
        violation(if unknown { "an unknown member".to_owned() } else { error.to_string() })
    })?;
    let kind = match line.kind.map(|kind| small(kind, "type")).transpose()? {
        Some(Value::String(kind)) => kind,
        _ => return Err(violation("`type` is missing or not a string")),
    };
    let others: &[Option<&RawValue>] = match kind.as_str() {
        "progress" => &[line.result, line.plugin_version, line.code, line.traceback, line.details],
        "result" => &[line.code, line.message, line.traceback, line.details, line.fraction],
        "error" => &[line.result, line.fraction],
        _ => return Err(violation("`type` must be progress, result or error")),
    };
    if others.iter().any(Option::is_some) {
        return Err(violation(format!("a {kind} with a member of another type")));
    }
    match kind.as_str() {
        "progress" if text.len() > MAX_PROGRESS => {
            Err(violation(format!("a progress longer than {MAX_PROGRESS} bytes")))
        }
        "progress" => progress(&line),
        "result" => result(&line),
        _ => error(&line),
    }
}

fn progress(line: &Line<'_>) -> Result<Frame, Failure> {
    Ok(Frame::Progress { message: progress_text(line.message)?, fraction: fraction(line.fraction)? })
}

fn result(line: &Line<'_>) -> Result<Frame, Failure> {
    let value = line.result.ok_or_else(|| violation("a result without `result`"))?;
    let version = line.plugin_version.map(|version| small(version, "plugin_version")).transpose()?;
    let value = Raw::read(value.get(), MAX_DEPTH - 1).map_err(|error| violation(error.to_string()))?;
    Ok(Frame::Result { value, version: version.filter(|version| !version.is_null()) })
}

fn error(line: &Line<'_>) -> Result<Frame, Failure> {
    let version = line.plugin_version.map(|version| small(version, "plugin_version")).transpose()?;
    Ok(Frame::Error {
        code: error_code(line.code)?,
        message: text(line.message, "message")?.ok_or_else(|| violation("an error without `message`"))?,
        traceback: text(line.traceback, "traceback")?,
        details: match line.details.map(|details| small(details, "details")).transpose()? {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(details)) => details,
            Some(_) => return Err(violation("`details` is not an object")),
        },
        version: version.filter(|version| !version.is_null()),
    })
}

/// A member that becomes a tree of values.
fn small(value: &RawValue, name: &str) -> Result<Value, Failure> {
    if value.get().len() > MAX_SMALL {
        return Err(Failure::new(
            Code::ResultTooLarge,
            format!("frame: `{name}` is longer than {MAX_SMALL} bytes; put large values into the result"),
        )
        .with(Details::Frame { limit: MAX_SMALL as u64 }));
    }
    parse_strict(value.get().as_bytes(), MAX_DEPTH - 1).map_err(|error| violation(error.to_string()))
}

fn text(value: Option<&RawValue>, name: &str) -> Result<Option<String>, Failure> {
    let Some(value) = value else { return Ok(None) };
    match serde_json::from_str(value.get()) {
        Ok(text) => Ok(text),
        Err(error) if error.is_data() => Err(violation(format!("`{name}` is not a string"))),
        Err(error) => Err(violation(StrictError::from_serde(&error).to_string())),
    }
}

fn progress_text(value: Option<&RawValue>) -> Result<String, Failure> {
    let mut message = text(value, "message")?.unwrap_or_default();
    if message.len() > MAX_MESSAGE {
        message.truncate((0..=MAX_MESSAGE).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0));
    }
    Ok(message)
}

fn fraction(value: Option<&RawValue>) -> Result<Option<f64>, Failure> {
    match value.map(|value| small(value, "fraction")).transpose()? {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) if (0.0..=1.0).contains(&number) => Ok(Some(number)),
            _ => Err(violation("`fraction` is not a number from 0 to 1")),
        },
    }
}

/// A code with which a plugin may end a call.
fn error_code(kind: Option<&RawValue>) -> Result<Code, Failure> {
    let kind = text(kind, "kind")?.unwrap_or_default();
    Ok(match kind.as_str() {
        "plugin_raised" => Code::PluginRaised,
        "result_not_serializable" => Code::ResultNotSerializable,
        "result_too_large" => Code::ResultTooLarge,
        "module_not_found" => Code::ModuleNotFound,
        "class_not_found" => Code::ClassNotFound,
        "method_not_found" => Code::MethodNotFound,
        _ => return Err(violation("`kind` is not a code that a plugin may use")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(limit: u64, bytes: &[u8]) -> Result<Vec<Frame>, Failure> {
        let mut frames = Vec::new();
        let mut reader = Reader::new(limit);
        reader.push(bytes, &mut |frame| frames.push(frame))?;
        reader.end()?;
        Ok(frames)
    }

    fn code(bytes: &[u8]) -> Code {
        read(100, bytes).expect_err("must be rejected").code
    }

    #[test]
    fn progress_then_result() {
        let frames = read(
            1000,
            b"{\"type\":\"progress\",\"message\":\"half\",\"fraction\":0.5}\n{\"type\":\"result\",\"result\":[1]}\n",
        )
        .unwrap();
        assert_eq!(frames[0], Frame::Progress { message: "half".to_owned(), fraction: Some(0.5) });
        assert_eq!(frames[1], Frame::Result { value: Raw::from(&serde_json::json!([1])), version: None });
    }

    #[test]
    fn a_line_of_the_limit_passes_and_one_more_byte_does_not() {
        let line = b"{\"type\":\"result\",\"result\":1}";
        let with_newline = [line.as_slice(), b"\n"].concat();
        assert!(read(line.len() as u64, &with_newline).is_ok());
        assert_eq!(read(line.len() as u64 - 1, &with_newline).unwrap_err().code, Code::ResultTooLarge);
    }

    #[test]
    fn what_is_not_a_frame_is_a_violation() {
        for bytes in [
            b"\n".as_slice(),
            b"nonsense\n",
            b"[]\n",
            b"{}\n",
            b"{\"type\":\"result\"}\n",
            b"{\"type\":\"result\",\"result\":1,\"result\":2}\n",
            b"{\"type\":\"result\",\"result\":1,\"more\":2}\n",
            b"{\"type\":\"result\",\"result\":1}\n{\"type\":\"result\",\"result\":1}\n",
            b"{\"type\":\"result\",\"result\":1}\n ",
            b"{\"type\":\"result\",\"result\":1}",
            b"{\"type\":\"error\",\"kind\":\"timeout\",\"message\":\"\"}\n",
            b"{\"type\":\"progress\",\"fraction\":2}\n",
            b"\xff\n",
        ] {
            assert_eq!(code(bytes), Code::ProtocolViolation, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn the_deepest_result_makes_an_answer_that_can_be_read() {
        let line = |n: usize| format!("{{\"type\":\"result\",\"result\":{}{}}}\n", "[".repeat(n), "]".repeat(n));
        assert_eq!(read(1000, line(126).as_bytes()).unwrap_err().code, Code::ProtocolViolation);
        let frames = read(1000, line(125).as_bytes()).unwrap();
        let [Frame::Result { value, .. }] = frames.as_slice() else { panic!("{frames:?}") };
        let answer = serde_json::json!({"success": true, "data": {"result": value.value()}});
        assert_eq!(serde_json::from_str::<Value>(&answer.to_string()).unwrap(), answer);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_end_in_frames_or_a_failure(bytes: Vec<u8>, cut in 1usize..50) {
            let mut reader = Reader::new(64);
            for piece in bytes.chunks(cut) {
                if reader.push(piece, &mut |_| {}).is_err() { break; }
            }
            prop_assert!(reader.line.len() <= 64);
        }
    }
}
