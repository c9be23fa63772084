//! What goes over the service's socket, each a line of JSON: the request; while the call runs what the caller asked to be
//! sent; and the envelope, which is the last. [`super::serve`] answers, [`super::via`] asks.
#![forbid(unsafe_code)]

use super::usage::shown;
use super::values;
use crate::call::packed::{Packer, Unpacker};
use crate::call::{CallArgs, JsonSource};
use crate::config::is_plugin_name;
use crate::decide::arguments::Checked;
use crate::json::{MAX_DEPTH, parse_strict};
use crate::text::shorten;
use crate::types::{Code, Failure};
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The members of a request.
const MEMBERS: [&str; 9] =
    ["plugin", "method", "args", "kwargs", "project", "timeout", "request_id", "progress", "verbose"];

/// A request, understood.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    /// The call.
    pub call: CallArgs,
    /// Whether the plugin's progress is sent as it comes.
    pub progress: bool,
}

/// A request that cannot be used, and its id, when that much could be read.
#[derive(Debug)]
pub(super) struct Refused {
    pub failure: Failure,
    pub request_id: Option<Uuid>,
}

impl Refused {
    /// The caller's mistake.
    pub fn usage(message: impl Into<String>) -> Self {
        Refused { failure: Failure::new(Code::Usage, message), request_id: None }
    }
}

/// A request as texts, each still to be understood: all that is taken from its JSON.
#[derive(Debug, Default)]
pub(super) struct Texts {
    plugin: String,
    method: String,
    project: Option<String>,
    timeout: Option<String>,
    request_id: Option<String>,
    progress: bool,
    verbose: bool,
    /// What is left: the arguments.
    document: String,
    /// Why it is not a valid request. Then only the id is set, if it could be read.
    wrong: Option<String>,
}

impl Texts {
    pub fn pack(&self, packer: &mut Packer) {
        let flag = |set: bool| if set { Some("") } else { None };
        packer.text(Some(&self.plugin));
        packer.text(Some(&self.method));
        packer.text(self.project.as_deref());
        packer.text(self.timeout.as_deref());
        packer.text(self.request_id.as_deref());
        packer.text(flag(self.progress));
        packer.text(flag(self.verbose));
        packer.text(Some(&self.document));
        packer.text(self.wrong.as_deref());
    }

    pub fn unpack(unpacker: &mut Unpacker<'_>) -> Result<Self, Failure> {
        Ok(Texts {
            plugin: unpacker.some()?,
            method: unpacker.some()?,
            project: unpacker.text()?,
            timeout: unpacker.text()?,
            request_id: unpacker.text()?,
            progress: unpacker.text()?.is_some(),
            verbose: unpacker.text()?.is_some(),
            document: unpacker.some()?,
            wrong: unpacker.text()?.map(|why| shorten(&why, 2000)),
        })
    }
}

/// Takes the request's line, without its newline, apart. This is what reads the caller's JSON.
pub(super) fn read(line: &[u8]) -> Texts {
    let wrong = |wrong: String| Texts { wrong: Some(wrong), ..Texts::default() };
    let value = match parse_strict(line, MAX_DEPTH) {
        Ok(value) => value,
        Err(error) => return wrong(format!("the request is not valid JSON: {error}")),
    };
    let Value::Object(mut members) = value else {
        return wrong("the request is not a JSON object; expected {\"plugin\": …, \"method\": …, …}".to_owned());
    };
    let request_id = members.get("request_id").and_then(Value::as_str).map(str::to_owned);
    take_apart(&mut members).unwrap_or_else(|why| Texts { request_id, ..wrong(why) })
}

/// Understands what [`read`] took apart. `config` is the service's own `--config`.
pub(super) fn understand(texts: Texts, config: Option<&Path>) -> Result<Request, Refused> {
    let request_id = texts.request_id.as_deref().and_then(|id| values::uuid(OsStr::new(id)));
    request_of(texts, config).map_err(|message| Refused { request_id, ..Refused::usage(message) })
}

/// Both, in one process.
#[cfg(test)]
pub(super) fn parse(line: &[u8], config: Option<&Path>) -> Result<Request, Refused> {
    understand(read(line), config)
}

fn take_apart(members: &mut Map<String, Value>) -> Result<Texts, String> {
    if let Some(unknown) = members.keys().find(|key| !MEMBERS.contains(&key.as_str())) {
        return Err(format!("{} is not a member of a request; allowed: {}", shorten(unknown, 80), MEMBERS.join(", ")));
    }
    let mut text = |name: &str| match members.shift_remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{name}` of the request is not a string")),
    };
    let plugin = text("plugin")?.ok_or("`plugin` is missing in the request")?;
    let method = text("method")?.ok_or("`method` is missing in the request")?;
    let project = text("project")?;
    let timeout = text("timeout")?;
    let request_id = text("request_id")?;
    let mut flag = |name: &str| match members.shift_remove(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(format!("`{name}` of the request is neither true nor false")),
    };
    let (progress, verbose) = (flag("progress")?, flag("verbose")?);
    // What is left are the arguments. Their shape, size and schema are looked at as those of any call.
    let document = Value::Object(std::mem::take(members)).to_string();
    Ok(Texts { plugin, method, project, timeout, request_id, progress, verbose, document, wrong: None })
}

fn request_of(texts: Texts, config: Option<&Path>) -> Result<Request, String> {
    let Texts { plugin, method, project, timeout, request_id, progress, verbose, document, wrong } = texts;
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    if !is_plugin_name(&plugin) {
        return Err(format!("{}: {}", shorten(&plugin, 80), values::NOT_A_PLUGIN));
    }
    if let Some(project) = &project {
        if !project.starts_with('/') {
            return Err(format!("`project` of the request: {}: expected an absolute path", shorten(project, 400)));
        }
    }
    let option = |name: &str, text: &str, why: String| format!("`{name}` of the request: {}: {why}", shorten(text, 80));
    let timeout = timeout.map(|text| values::timeout(OsStr::new(&text)).map_err(|why| option("timeout", &text, why)));
    let request_id =
        request_id.map(|text| values::request_id(OsStr::new(&text)).map_err(|why| option("request_id", &text, why)));
    Ok(Request {
        call: CallArgs {
            config: config.map(Path::to_owned),
            plugin,
            method: values::method(OsStr::new(&method))
                .map_err(|why| format!("{}: {why}", shown(OsStr::new(&method))))?,
            json: JsonSource::Text(document),
            project: project.map(PathBuf::from),
            timeout: timeout.transpose()?,
            request_id: request_id.transpose()?,
            verbose,
        },
        progress,
    })
}

/// The line that asks for a call, with its newline.
///
/// # Errors
/// `usage` for a project that JSON cannot name.
pub(super) fn request(
    call: &CallArgs,
    request_id: Uuid,
    arguments: &Checked,
    progress: bool,
) -> Result<Vec<u8>, Failure> {
    let mut line = format!("{{\"plugin\":{},\"method\":{}", Value::from(&*call.plugin), Value::from(&*call.method));
    for (name, text) in arguments.members() {
        line.push_str(&format!(",\"{name}\":{text}"));
    }
    let mut members = Map::new();
    if let Some(project) = &call.project {
        let wrong = |why: String| Failure::new(Code::Usage, format!("--project {}: {why}", shorten(project, 400)));
        // The service works elsewhere, and follows no link and no `..` of its callers: they are followed here, as far as
        // this user can.
        let absolute = std::fs::canonicalize(project)
            .or_else(|_| std::path::absolute(project))
            .map_err(|error| wrong(error.to_string()))?;
        let text = absolute.to_str().ok_or_else(|| wrong("is not UTF-8, which a request must be".to_owned()))?;
        members.insert("project".into(), text.into());
    }
    if let Some(timeout) = call.timeout {
        members.insert("timeout".into(), format!("{}ms", timeout.as_millis().max(1)).into());
    }
    members.insert("request_id".into(), request_id.to_string().into());
    for (name, flag) in [("progress", progress), ("verbose", call.verbose)] {
        if flag {
            members.insert(name.into(), true.into());
        }
    }
    for (name, value) in members {
        line.push_str(&format!(",{}:{value}", Value::from(name)));
    }
    line.push_str("}\n");
    Ok(line.into_bytes())
}

/// The plugin's progress, as a line.
pub(super) fn progress(message: &str, fraction: Option<f64>) -> String {
    format!("{}\n", json!({ "type": "progress", "message": message, "fraction": fraction }))
}

/// A piece of the plugin's stderr, as a line.
pub(super) fn stderr(text: &str) -> String {
    format!("{}\n", json!({ "type": "stderr", "text": text }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::arguments;
    use proptest::prelude::*;
    use std::time::Duration;

    const ID: &str = "cdb3458d-0b84-491a-9c4e-709f30e11111";

    fn message(line: &str) -> String {
        parse(line.as_bytes(), None).unwrap_err().failure.message
    }

    #[test]
    fn what_is_asked_for_is_what_is_understood() {
        let call = CallArgs {
            config: None,
            plugin: "P".into(),
            method: "m".into(),
            json: JsonSource::Default,
            project: Some("/p".into()),
            timeout: Some(Duration::from_millis(1500)),
            request_id: Some(Uuid::parse_str(ID).unwrap()),
            verbose: true,
        };
        let text = r#"{"args":[1,"é\n",{"a":0.1}],"kwargs":{"k":null}}"#;
        let given = arguments::parse(text.as_bytes(), 1000).unwrap();
        let line = request(&call, call.request_id.unwrap(), &Checked::of(&given), true).unwrap();
        assert!(line.ends_with(b"\n") && line.iter().filter(|byte| **byte == b'\n').count() == 1);
        let read = parse(&line[..line.len() - 1], Some(Path::new("/c"))).unwrap();
        let expected = CallArgs { config: Some("/c".into()), json: JsonSource::Text(text.into()), ..call.clone() };
        assert_eq!(read, Request { call: expected, progress: true });

        let plain = CallArgs { project: None, timeout: None, verbose: false, ..call };
        let line = request(&plain, plain.request_id.unwrap(), &Checked::default(), false).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            format!("{{\"plugin\":\"P\",\"method\":\"m\",\"request_id\":\"{ID}\"}}\n")
        );
    }

    #[test]
    fn the_least_request() {
        let read = parse(br#"{"plugin":"P","method":"m"}"#, None).unwrap();
        assert_eq!((read.call.json, read.progress, read.call.verbose), (JsonSource::Text("{}".into()), false, false));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (line, text) in [
            ("", "the request is not valid JSON"),
            ("{", "the request is not valid JSON"),
            ("[]", "the request is not a JSON object"),
            ("{}", "`plugin` is missing"),
            (r#"{"plugin":"P"}"#, "`method` is missing"),
            (r#"{"plugin":"P","method":"m","plugin":"Q"}"#, "the request is not valid JSON: line 1 column"),
            (r#"{"plugin":"P","method":"m","args":[{"a":1,"a":2}]}"#, "the request is not valid JSON"),
            (r#"{"plugin":"P","method":"m"} x"#, "the request is not valid JSON"),
            (r#"{"plugin":"P","method":"m","config":"/x"}"#, "config is not a member of a request"),
            (r#"{"plugin":"p","method":"m"}"#, "p: not a valid plugin name"),
            (r#"{"plugin":7,"method":"m"}"#, "`plugin` of the request is not a string"),
            (r#"{"plugin":"P","method":""}"#, "'': the method's name is empty"),
            (r#"{"plugin":"P","method":"m\n"}"#, "m\\n: the method's name has control characters"),
            (r#"{"plugin":"P","method":"m","project":"x"}"#, "`project` of the request: x: expected an absolute path"),
            (r#"{"plugin":"P","method":"m","project":null}"#, "`project` of the request is not a string"),
            (r#"{"plugin":"P","method":"m","timeout":5}"#, "`timeout` of the request is not a string"),
            (r#"{"plugin":"P","method":"m","timeout":"5"}"#, "`timeout` of the request: 5: a time needs a unit"),
            (r#"{"plugin":"P","method":"m","request_id":"7"}"#, "`request_id` of the request: 7: not a UUID"),
            (r#"{"plugin":"P","method":"m","progress":1}"#, "`progress` of the request is neither"),
        ] {
            let message = message(line);
            assert!(message.starts_with(text), "{line}: {message}");
        }
        assert!(parse(b"{\"plugin\":\"P\xff\",\"method\":\"m\"}", None).is_err());
    }

    #[test]
    fn a_refusal_keeps_the_request_id() {
        let refused =
            parse(format!(r#"{{"plugin":"p","method":"m","request_id":"{ID}"}}"#).as_bytes(), None).unwrap_err();
        assert_eq!(refused.request_id, Uuid::parse_str(ID).ok());
        assert_eq!(refused.failure.code, Code::Usage);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Err(refused) = parse(&bytes, None) {
                prop_assert!(!refused.failure.message.chars().any(crate::text::is_control));
            }
        }

        #[test]
        fn members_of_any_kind_are_a_request_or_refused(name in "plugin|method|args|project|timeout|request_id|progress|x", value in r#"(null|true|1e9|"[ -~]{0,9}"|\[\]|\{\})"#) {
            let line = format!(r#"{{"plugin":"P","method":"m","{name}":{value}}}"#);
            if let Err(refused) = parse(line.as_bytes(), None) {
                prop_assert!(refused.failure.message.len() < 500);
            }
        }
    }
}
