//! The command line: words and options as they were typed (`low`), then what they ask for ([`Request`]).
//!
//! A call and the commands share one set of options, which may stand anywhere; the first word decides: names of
//! plugins begin with a capital letter and commands do not, so the two never meet.

mod audit;
mod check;
mod diagnostics;
mod doctor;
mod explain;
mod fits;
mod help;
mod learn;
mod list;
mod low;
mod serve;
pub mod terminal;
mod via;
mod wire;

pub use audit::Show;

use crate::call::{self, CallArgs, JsonSource};
use crate::config::is_plugin_name;
use crate::confine::handed::{self, Lent};
use crate::decide::verdict::Act;
use crate::host::doctor::inside;
use crate::report::text::{complain, quote};
use crate::supervise::Watcher;
use crate::types::{Code, Details, Failure};
use low::Low;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;
use terminal::Progress;
use uuid::Uuid;

/// How every complaint about an incomplete call begins.
pub const USAGE: &str = "Usage: upm <Plugin> <method> [json-args]";

/// The commands that are no call.
pub const COMMANDS: [&str; 7] = ["list", "explain", "learn", "check", "doctor", "audit", "serve"];

/// Bytes of a method's name at most; a plugin's have [`is_plugin_name`].
const METHOD_LIMIT: usize = 256;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run a method.
    Call(CallArgs),
    /// Let a service run it.
    Via {
        /// `--via`.
        socket: PathBuf,
        /// The call.
        call: CallArgs,
    },
    /// Answer the caller that has connected.
    Serve {
        /// `--config`.
        config: Option<PathBuf>,
    },
    /// The configured plugins and their methods.
    List {
        /// `--config`.
        config: Option<PathBuf>,
        /// Only this plugin.
        plugin: Option<String>,
        /// JSON instead of text.
        json: bool,
    },
    /// What a call would be allowed.
    Explain {
        /// `--config`.
        config: Option<PathBuf>,
        /// The plugin.
        plugin: String,
        /// The method.
        method: String,
        /// `--project`.
        project: Option<PathBuf>,
        /// JSON instead of text.
        json: bool,
        /// `--may`: only whether the call may do this.
        may: Option<Act>,
    },
    /// What a call looks for and is not given.
    Learn {
        /// The call.
        call: CallArgs,
        /// JSON instead of text.
        json: bool,
    },
    /// Whether the configuration can be used.
    Check {
        /// `--config`.
        config: Option<PathBuf>,
        /// JSON instead of text.
        json: bool,
    },
    /// What this host offers.
    Doctor {
        /// `--config`.
        config: Option<PathBuf>,
        /// JSON instead of text.
        json: bool,
    },
    /// What is on record of calls.
    Audit(Show),
    /// doctor's trial, in the sandbox.
    DoctorInside,
    /// Print this text.
    Help(String),
    /// Print this text.
    Version(String),
}

/// The command line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError {
    /// The sentence for people.
    pub message: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
    /// The caller's request id, when one could be read.
    pub request_id: Option<Uuid>,
}

impl UsageError {
    fn new(message: impl Into<String>) -> Self {
        UsageError { message: message.into(), suggestion: None, request_id: None }
    }

    /// An incomplete or overfull call.
    fn call(reason: &str) -> Self {
        UsageError::new(format!("{USAGE}: {reason}"))
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UsageError {}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        let details = Details::Usage { usage: USAGE.to_owned(), suggestion: error.suggestion };
        Failure::new(Code::Usage, error.message).with(details)
    }
}

/// Reads a command line. `args` begins with the program's own name, as `std::env::args_os` does.
///
/// # Errors
/// What is wrong with it and what to type instead; its failure has the code `usage`.
pub fn parse(args: impl Iterator<Item = OsString>, stdout_is_terminal: bool) -> Result<Request, UsageError> {
    let args: Vec<OsString> = args.skip(1).collect();
    read(&args, stdout_is_terminal).map_err(|error| UsageError { request_id: request_id(&args), ..error })
}

fn read(args: &[OsString], stdout_is_terminal: bool) -> Result<Request, UsageError> {
    let low = low::parse(args)?;
    let first = low.words.first().map(OsString::as_os_str);
    if low.version {
        return Ok(Request::Version(format!("upm {}\n", env!("CARGO_PKG_VERSION"))));
    }
    if low.help {
        return Ok(Request::Help(help::text(first.and_then(OsStr::to_str))));
    }
    let Some(first) = first else {
        return if args.is_empty() && stdout_is_terminal {
            Ok(Request::Help(help::text(None)))
        } else {
            Err(UsageError::call("the plugin and its method are missing; `upm --help` tells more"))
        };
    };
    match first.to_str() {
        Some("list") => list(&low),
        Some("explain") => explain(&low),
        Some("learn") => learn(&low),
        Some("check") => check(&low),
        Some("doctor") => doctor(&low),
        Some("audit") => audit(&low),
        Some("serve") => serve(&low),
        Some(inside::WORD) if args.len() == 1 => Ok(Request::DoctorInside),
        Some(plugin) if is_plugin_name(plugin) => call(&low, plugin),
        _ => Err(unknown(first)),
    }
}

fn call(low: &Low, plugin: &str) -> Result<Request, UsageError> {
    low.refuse("a call", &[vec![("--json", low.json)], low.of_may(), low.of_audit()].concat())?;
    let call = call_args(low, plugin, &low.words[1..])?;
    match &low.via {
        None => Ok(Request::Call(call)),
        Some(_) if low.config.is_some() => Err(UsageError::new(
            "--config: not with --via: the service that is called has its own configuration; leave it out",
        )),
        Some(socket) => Ok(Request::Via { socket: socket.clone(), call }),
    }
}

fn learn(low: &Low) -> Result<Request, UsageError> {
    low.refuse("upm learn", &[low.of_may(), low.of_via(), low.of_audit()].concat())?;
    let [_, plugin, words @ ..] = low.words.as_slice() else {
        return Err(UsageError::new(
            "Usage: upm learn <Plugin> <method> [JSON | -] [--project DIR] [--timeout D] [-v] [--config FILE] [--json]",
        ));
    };
    let call = call_args(low, &plugin_name(plugin)?, words)?;
    Ok(Request::Learn { call, json: low.json })
}

/// A call's words behind its plugin, and its options.
fn call_args(low: &Low, plugin: &str, words: &[OsString]) -> Result<CallArgs, UsageError> {
    if words.len() > 2 {
        return Err(UsageError::call(&format!(
            "{} is one word too many; put the JSON between single quotes",
            shown(&words[2])
        )));
    }
    let Some(method) = words.first() else {
        return Err(UsageError::call(&format!("the method of {plugin} is missing; `upm list {plugin}` shows them")));
    };
    let json = match words.get(1) {
        None => JsonSource::Default,
        Some(text) if text == "-" => JsonSource::Stdin,
        Some(text) => match text.to_str() {
            Some(text) => JsonSource::Text(text.to_owned()),
            None => return Err(UsageError::new(format!("{}: the JSON is not UTF-8", shown(text)))),
        },
    };
    let timeout = low.timeout.as_ref().map(|text| parse_timeout(&text.to_string_lossy())).transpose()?;
    Ok(CallArgs {
        config: low.config.clone(),
        plugin: plugin.to_owned(),
        method: method_name(method)?,
        json,
        project: low.project.clone(),
        timeout,
        request_id: low.request_id.as_deref().map(parse_request_id).transpose()?,
        verbose: low.verbose,
    })
}

fn serve(low: &Low) -> Result<Request, UsageError> {
    let json = vec![("--json", low.json)];
    low.refuse(
        "upm serve",
        &[low.of_call(), low.of_project(), low.of_may(), low.of_via(), low.of_audit(), json].concat(),
    )?;
    match low.words.len() {
        1 => Ok(Request::Serve { config: low.config.clone() }),
        _ => Err(UsageError::new("Usage: upm serve [--config FILE]")),
    }
}

fn list(low: &Low) -> Result<Request, UsageError> {
    low.refuse("upm list", &[low.of_call(), low.of_project(), low.of_may(), low.of_via(), low.of_audit()].concat())?;
    let plugin = match &low.words[1..] {
        [] => None,
        [plugin] => Some(plugin_name(plugin)?),
        _ => return Err(UsageError::new("Usage: upm list [Plugin] [--config FILE] [--json]")),
    };
    Ok(Request::List { config: low.config.clone(), plugin, json: low.json })
}

fn explain(low: &Low) -> Result<Request, UsageError> {
    low.refuse("upm explain", &[low.of_call(), low.of_via(), low.of_audit()].concat())?;
    let [_, plugin, method] = low.words.as_slice() else {
        return Err(UsageError::new(
            "Usage: upm explain <Plugin> <method> [--project DIR] [--may ACT] [--config FILE] [--json]",
        ));
    };
    Ok(Request::Explain {
        config: low.config.clone(),
        plugin: plugin_name(plugin)?,
        method: method_name(method)?,
        project: low.project.clone(),
        json: low.json,
        may: low.may.as_deref().map(parse_may).transpose()?,
    })
}

fn check(low: &Low) -> Result<Request, UsageError> {
    low.refuse("upm check", &[low.of_call(), low.of_project(), low.of_may(), low.of_via(), low.of_audit()].concat())?;
    match low.words.len() {
        1 => Ok(Request::Check { config: low.config.clone(), json: low.json }),
        _ => Err(UsageError::new("Usage: upm check [--config FILE] [--json]")),
    }
}

fn doctor(low: &Low) -> Result<Request, UsageError> {
    low.refuse("upm doctor", &[low.of_call(), low.of_project(), low.of_may(), low.of_via(), low.of_audit()].concat())?;
    match low.words.len() {
        1 => Ok(Request::Doctor { config: low.config.clone(), json: low.json }),
        _ => Err(UsageError::new("Usage: upm doctor [--config FILE] [--json]")),
    }
}

fn audit(low: &Low) -> Result<Request, UsageError> {
    let of_call = vec![("--timeout", low.timeout.is_some()), ("--verbose", low.verbose)];
    low.refuse("upm audit", &[of_call, low.of_project(), low.of_may()].concat())?;
    if low.words.len() != 2 || low.words[1] != "show" {
        return Err(UsageError::new(
            "Usage: upm audit show [--request-id UUID] [--since TIME] [--plugin Plugin] [--config FILE] [--json]",
        ));
    }
    let since = |text: &OsString| {
        let text = text.to_string_lossy();
        audit::since(&text, chrono::Utc::now())
            .map_err(|error| UsageError::new(format!("--since {}: {error}", quote(&text, 40))))
    };
    Ok(Request::Audit(Show {
        config: low.config.clone(),
        request_id: low.request_id.as_deref().map(parse_request_id).transpose()?,
        since: low.since.as_ref().map(since).transpose()?,
        plugin: low.plugin.as_deref().map(plugin_name).transpose()?,
        json: low.json,
    }))
}

fn plugin_name(word: &OsStr) -> Result<String, UsageError> {
    match word.to_str() {
        Some(name) if is_plugin_name(name) => Ok(name.to_owned()),
        _ => Err(UsageError::new(format!("{}: {NO_PLUGIN}", shown(word)))),
    }
}

const NO_PLUGIN: &str = "no name of a plugin, which is a capital letter and up to 63 letters, digits and underscores; \
                         `upm list` shows the configured ones";

fn method_name(word: &OsStr) -> Result<String, UsageError> {
    let wrong = |reason: &str| Err(UsageError::new(format!("{}: {reason}", shown(word))));
    match word.to_str() {
        None => wrong("the method's name is not UTF-8"),
        Some("") => wrong("the method's name is empty"),
        Some(name) if name.len() > METHOD_LIMIT => wrong("the method's name is longer than 256 bytes"),
        Some(name) if name.contains(char::is_control) => wrong("the method's name has control characters"),
        Some(name) => Ok(name.to_owned()),
    }
}

/// A first word that is neither a command nor a plugin's name.
fn unknown(word: &OsStr) -> UsageError {
    let Some(text) = word.to_str() else {
        return UsageError::new(format!("{}: {NO_PLUGIN}", shown(word)));
    };
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return UsageError::new(format!("{}: {NO_PLUGIN}", shown(word)));
    }
    let commands = COMMANDS.join(", ");
    let mut error = UsageError::new(format!(
        "{}: no command (they are {commands}), and names of plugins begin with a capital letter; `upm list` shows the \
         configured ones",
        shown(word)
    ));
    if let Some(command) = low::similar_command(text) {
        error.message = format!("{}: no command; did you mean `upm {command}`?", shown(word));
        error.suggestion = Some(format!("upm {command}"));
    } else if text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        // `pip` is what people type who mean the class PipPlugin.
        let class = format!("{}{}Plugin", text[..1].to_ascii_uppercase(), &text[1..]);
        error.message.push_str(&format!("; did you mean `upm {class}`?"));
        error.suggestion = Some(format!("upm {class}"));
    }
    error
}

fn parse_timeout(text: &str) -> Result<Duration, UsageError> {
    crate::units::time(text).map_err(|error| UsageError::new(format!("--timeout {}: {error}", quote(text, 40))))
}

fn parse_request_id(text: &OsStr) -> Result<Uuid, UsageError> {
    uuid_of(text).ok_or_else(|| {
        UsageError::new(format!(
            "--request-id {}: no UUID; write it like cdb3458d-0b84-491a-9c4e-709f30e11111",
            shown(text)
        ))
    })
}

/// Only the form with hyphens, which is what the envelope carries.
fn uuid_of(text: &OsStr) -> Option<Uuid> {
    text.to_str().filter(|text| text.len() == 36).and_then(|text| Uuid::try_parse(text).ok())
}

/// The caller's request id from a command line that could not be read, so that its answer can be found.
fn request_id(args: &[OsString]) -> Option<Uuid> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            return None;
        }
        if arg == "--request-id" {
            return args.next().and_then(|value| uuid_of(value));
        }
        if let Some(value) = arg.to_str().and_then(|arg| arg.strip_prefix("--request-id=")) {
            return uuid_of(OsStr::new(value));
        }
    }
    None
}

fn parse_may(text: &OsStr) -> Result<Act, UsageError> {
    let parsed = text.to_str().and_then(|text| match text.split_once([' ', '='])? {
        ("read", path) if path.starts_with('/') => Some(Act::Read(path.into())),
        ("write", path) if path.starts_with('/') => Some(Act::Write(path.into())),
        ("connect", address) => {
            let (host, port) = address.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port > 0)?;
            (!host.is_empty()).then(|| Act::Connect { host: host.to_owned(), port })
        }
        ("syscall", name) if !name.is_empty() => Some(Act::Syscall(name.to_owned())),
        _ => None,
    });
    parsed.ok_or_else(|| {
        UsageError::new(format!(
            "--may {}: unknown act; write 'read /PATH', 'write /PATH', 'connect HOST:PORT' or 'syscall NAME'",
            shown(text)
        ))
    })
}

/// A word of the command line, bounded and without what a terminal would act on.
fn shown(word: &OsStr) -> String {
    if word.is_empty() { "''".to_owned() } else { quote(&word.to_string_lossy(), 80) }
}

/// The whole program: from the process's arguments to its exit status.
#[must_use]
pub fn main() -> i32 {
    // A panic is the engine's fault, and still answers with an envelope.
    std::panic::catch_unwind(|| run(std::env::args_os())).unwrap_or_else(|_| {
        let failure =
            Failure::new(Code::Internal, "upm: internal error; the message above says where: please report it");
        answer(&call::refuse(&failure, None))
    })
}

fn run(args: impl Iterator<Item = OsString>) -> i32 {
    // Before anything else is opened, made or read.
    let own = handed::refuse_lent();
    let terminal = std::io::stdout().is_terminal();
    let request = parse(args, terminal);
    if let Err(lent) = own {
        return match (lent, request) {
            (Lent::GivenUp(_), Ok(Request::Help(text) | Request::Version(text))) => show(Ok((text, true))),
            (Lent::GivenUp(failure), Ok(Request::Call(args))) => answer(&call::refuse(&failure, args.request_id)),
            (Lent::GivenUp(failure), Err(error)) => answer(&call::refuse(&failure, error.request_id)),
            (Lent::GivenUp(failure) | Lent::Stuck(failure), _) => show(Err(failure)),
        };
    }
    if let Err(failure) = handed::settle() {
        return answer(&call::refuse(&failure, None));
    }
    let runs = |request: &Request| {
        matches!(request, Request::Call(_) | Request::Learn { .. } | Request::Serve { .. } | Request::Doctor { .. })
    };
    if request.as_ref().is_ok_and(runs) {
        crate::supervise::cgroup::make_own_directory();
    }
    // Before anything else is opened or read. A service's client is no engine: it connects with all the rights that root has.
    let kept = if matches!(request, Ok(Request::Via { .. })) { Ok(()) } else { crate::confine::privileges::keep() };
    if let Err(failure) = kept {
        return match request {
            // What refuses every call is what doctor is asked for.
            Ok(Request::Doctor { config, json }) => show_with(Ok(doctor::run(config.as_deref(), json, Some(failure)))),
            _ => answer(&call::refuse(&failure, None)),
        };
    }
    diagnostics::start();
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            let request_id = error.request_id;
            return answer(&call::refuse(&error.into(), request_id));
        }
    };
    match request {
        Request::Call(args) => {
            let mut screen = Screen { progress: Progress::new(true), verbose: args.verbose };
            let ended = call::call(&args, call::Peer::local(), &mut screen);
            screen.progress.finish();
            answer(&ended)
        }
        Request::Via { socket, call } => via::run(&socket, &call),
        Request::Serve { config } => serve::run(config.as_deref()),
        Request::Help(text) | Request::Version(text) => show(Ok((text, true))),
        Request::List { config, plugin, json } => {
            show(list::run(config.as_deref(), plugin.as_deref(), json).map(|text| (text, true)))
        }
        Request::Explain { config, plugin, method, project, json, may } => {
            let asked = may.is_some();
            let shown = show(explain::run(config.as_deref(), &plugin, &method, project.as_deref(), json, may.as_ref()));
            // A question is answered yes, no, or not at all.
            if asked && shown > 1 { 125 } else { shown }
        }
        Request::Learn { call, json } => {
            let mut screen = Screen { progress: Progress::new(true), verbose: call.verbose };
            match learn::run(&call, json, &mut screen) {
                Ok(text) => show(Ok((text, true))),
                Err(ended) => answer(&ended),
            }
        }
        Request::Check { config, json } => show_with(check::run(config.as_deref(), json)),
        Request::Doctor { config, json } => show_with(Ok(doctor::run(config.as_deref(), json, None))),
        Request::Audit(asked) => audit::run(&asked).unwrap_or_else(|failure| failed(&failure)),
        // In nobody's hands: descriptor 3 is no stream socket there.
        Request::DoctorInside => {
            inside::answer().unwrap_or_else(|| answer(&call::refuse(&unknown(OsStr::new(inside::WORD)).into(), None)))
        }
    }
}

/// What a person at a terminal sees meanwhile.
struct Screen {
    progress: Progress,
    verbose: bool,
}

impl Watcher for Screen {
    fn tick(&mut self, elapsed: Duration) {
        self.progress.tick(elapsed);
    }

    fn wants_ticks(&self) -> bool {
        self.progress.enabled()
    }

    fn progress(&mut self, message: &str, fraction: Option<f64>) {
        self.progress.progress(message, fraction);
    }

    fn stderr(&mut self, bytes: &[u8]) {
        if self.verbose {
            self.progress.plugin_stderr(bytes);
        }
    }
}

/// Prints a call's answer.
fn answer(answer: &call::Answer) -> i32 {
    crate::report::render::print(&answer.envelope);
    answer.exit
}

/// Prints a command's text; its exit status is 0 yes, 1 no, or the failure's own.
fn show(text: Result<(String, bool), Failure>) -> i32 {
    show_with(text.map(|(text, good)| (text, i32::from(!good))))
}

/// The same of a command that has its own exit status. Text has its controls written out already; JSON leaves those above ASCII as
/// they are, some of which a terminal acts on.
fn show_with(text: Result<(String, i32), Failure>) -> i32 {
    match text.map(|(text, exit)| (terminal::escape_json(&text), exit)) {
        Ok((text, exit)) => match crate::report::render::write_all(std::io::stdout(), text.as_bytes()) {
            Ok(()) => exit,
            Err(error) => {
                complain(format_args!("standard output: {error}"));
                125
            }
        },
        Err(failure) => failed(&failure),
    }
}

/// Says why a command could not be done, and gives its exit status.
fn failed(failure: &Failure) -> i32 {
    complain(format_args!("{}", terminal::escape(&failure.message, false)));
    crate::report::code::exit_code(failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn parsed(words: &[&str]) -> Result<Request, UsageError> {
        parse(std::iter::once("upm").chain(words.iter().copied()).map(OsString::from), false)
    }

    fn message(words: &[&str]) -> String {
        parsed(words).unwrap_err().message
    }

    fn plain(plugin: &str, method: &str) -> CallArgs {
        CallArgs {
            config: None,
            plugin: plugin.into(),
            method: method.into(),
            json: JsonSource::Default,
            project: None,
            timeout: None,
            request_id: None,
            verbose: false,
        }
    }

    #[test]
    fn a_call_with_and_without_arguments() {
        let call = plain("PipPlugin", "install");
        assert_eq!(parsed(&["PipPlugin", "install"]), Ok(Request::Call(call.clone())));
        for (text, json) in [
            ("{\"args\":[]}", JsonSource::Text("{\"args\":[]}".into())),
            ("-", JsonSource::Stdin),
            ("-1", JsonSource::Text("-1".into())),
            ("-1.5e3", JsonSource::Text("-1.5e3".into())),
            ("", JsonSource::Text(String::new())),
        ] {
            let expected = CallArgs { json, ..call.clone() };
            assert_eq!(parsed(&["PipPlugin", "install", text]), Ok(Request::Call(expected)), "{text}");
        }
        assert_eq!(parsed(&["--", "PipPlugin", "install"]), Ok(Request::Call(call)));
    }

    #[test]
    fn options_stand_anywhere() {
        let id = "CDB3458D-0b84-491a-9c4e-709f30e11111";
        let expected = Request::Call(CallArgs {
            config: Some("c.toml".into()),
            json: JsonSource::Text("{}".into()),
            project: Some("/p".into()),
            timeout: Some(Duration::from_millis(1500)),
            request_id: Some(Uuid::parse_str(id).unwrap()),
            verbose: true,
            ..plain("P", "m")
        });
        for words in [
            ["--config", "c.toml", "--project", "/p", "--timeout", "1500ms", "--request-id", id, "-v", "P", "m", "{}"],
            ["P", "--config", "c.toml", "m", "--project", "/p", "-v", "{}", "--timeout", "1500ms", "--request-id", id],
            ["P", "m", "{}", "--config", "c.toml", "--project", "/p", "--timeout", "1500ms", "--request-id", id, "-v"],
        ] {
            assert_eq!(parsed(&words), Ok(expected.clone()));
        }
        assert_eq!(parsed(&["-vv", "P", "m"]), Ok(Request::Call(CallArgs { verbose: true, ..plain("P", "m") })));
        assert_eq!(parsed(&["P", "m", "--timeout=2s"]).map(|r| matches!(r, Request::Call(_))), Ok(true));
    }

    #[test]
    fn an_incomplete_call_begins_with_the_usage() {
        for words in [&[][..], &["--"], &["-v"], &["PipPlugin"], &["P", "m", "{}", "x"], &["--config", "x"]] {
            let message = message(words);
            assert!(message.starts_with("Usage: upm <Plugin> <method> [json-args]: "), "{message}");
        }
        let failure = Failure::from(parsed(&["PipPlugin"]).unwrap_err());
        assert_eq!((failure.code, crate::report::code::exit_code(&failure)), (Code::Usage, 2));
        assert_eq!(failure.details, Details::Usage { usage: USAGE.to_owned(), suggestion: None });
    }

    #[test]
    fn commands() {
        let (config, json) = (None, true);
        assert_eq!(parsed(&["list"]), Ok(Request::List { config: None, plugin: None, json: false }));
        assert_eq!(
            parsed(&["list", "PipPlugin", "--json", "--config", "x"]),
            Ok(Request::List { config: Some("x".into()), plugin: Some("PipPlugin".into()), json })
        );
        assert_eq!(
            parsed(&["explain", "P", "m", "--json"]),
            Ok(Request::Explain { config, plugin: "P".into(), method: "m".into(), project: None, json, may: None })
        );
        assert_eq!(parsed(&["check"]), Ok(Request::Check { config: None, json: false }));
        assert_eq!(parsed(&["--json", "doctor"]), Ok(Request::Doctor { config: None, json }));
        assert_eq!(parsed(&["doctor", "--config", "x"]), Ok(Request::Doctor { config: Some("x".into()), json: false }));
        assert_eq!(parsed(&["doctor-inside"]), Ok(Request::DoctorInside));
        assert!(message(&["doctor-inside", "--json"]).starts_with("doctor-inside: no command"));
        assert_eq!(parsed(&["--version"]), Ok(Request::Version("upm 0.1.0\n".into())));
        let id = "cdb3458d-0b84-491a-9c4e-709f30e11111";
        assert_eq!(
            parsed(&[
                "audit",
                "--plugin",
                "P",
                "show",
                "--request-id",
                id,
                "--since",
                "2026-11-24T10:00:00Z",
                "--json"
            ]),
            Ok(Request::Audit(Show {
                config: None,
                request_id: Some(Uuid::parse_str(id).unwrap()),
                since: chrono::DateTime::from_timestamp(1_795_514_400, 0),
                plugin: Some("P".into()),
                json,
            }))
        );
        for (words, text) in [
            (&["explain", "P"][..], "Usage: upm explain <Plugin> <method>"),
            (&["check", "x"], "Usage: upm check "),
            (&["doctor", "x"], "Usage: upm doctor "),
            (&["list", "P", "Q"], "Usage: upm list "),
            (&["list", "pip"], "pip: no name of a plugin"),
            (&["list", "--timeout", "1s"], "--timeout: no option of upm list"),
            (&["check", "--project", "x"], "--project: no option of upm check"),
            (&["doctor", "--project", "x"], "--project: no option of upm doctor"),
            (&["P", "m", "--json"], "--json: no option of a call"),
            (&["P", "m", "--may", "read=/x"], "--may: no option of a call"),
            (&["P", "m", "--since", "1h"], "--since: no option of a call"),
            (&["check", "--plugin", "P"], "--plugin: no option of upm check"),
            (&["audit"], "Usage: upm audit show "),
            (&["audit", "list"], "Usage: upm audit show "),
            (&["audit", "show", "x"], "Usage: upm audit show "),
            (&["audit", "show", "--timeout", "1s"], "--timeout: no option of upm audit"),
            (&["audit", "show", "--since", "soon"], "--since soon: expected how long ago"),
            (&["audit", "show", "--since", "--plugin"], "--since --plugin: expected how long ago"),
            (&["audit", "show", "--plugin", "pip"], "pip: no name of a plugin"),
            (&["audit", "show", "--request-id", "1"], "--request-id 1: no UUID"),
        ] {
            assert!(message(words).starts_with(text), "{words:?}: {}", message(words));
        }
    }

    #[test]
    fn a_service_makes_calls_and_nothing_else() {
        let socket = PathBuf::from("/run/upm/upm.sock");
        let call = plain("P", "m");
        assert_eq!(
            parsed(&["--via", "/run/upm/upm.sock", "P", "m"]),
            Ok(Request::Via { socket: socket.clone(), call: call.clone() })
        );
        let call = CallArgs { json: JsonSource::Stdin, verbose: true, ..call };
        assert_eq!(parsed(&["P", "m", "-", "-v", "--via=/run/upm/upm.sock"]), Ok(Request::Via { socket, call }));
        assert_eq!(parsed(&["serve", "--config", "x"]), Ok(Request::Serve { config: Some("x".into()) }));
        assert_eq!(parsed(&["serve"]), Ok(Request::Serve { config: None }));
        for (words, text) in [
            (&["--via", "x", "--config", "y", "P", "m"][..], "--config: not with --via"),
            (&["--via", "x", "list"], "--via: no option of upm list"),
            (&["--via", "x", "explain", "P", "m"], "--via: no option of upm explain"),
            (&["--via", "x", "serve"], "--via: no option of upm serve"),
            (&["serve", "--request-id", "x"], "--request-id: no option of upm serve"),
            (&["serve", "P"], "Usage: upm serve"),
            (&["--via"], "--via: a value is missing"),
            (&["--via", "x"], USAGE),
        ] {
            assert!(message(words).starts_with(text), "{words:?}: {}", message(words));
        }
    }

    #[test]
    fn what_explain_may_asks() {
        let may = |act: &str| match parsed(&["explain", "P", "m", "--may", act]) {
            Ok(Request::Explain { may, .. }) => Ok(may.unwrap()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.message),
        };
        assert_eq!(may("read=/a=b"), Ok(Act::Read("/a=b".into())));
        assert_eq!(may("write=/a"), Ok(Act::Write("/a".into())));
        assert_eq!(may("connect=index.example:443"), Ok(Act::Connect { host: "index.example".into(), port: 443 }));
        assert_eq!(may("syscall=bpf"), Ok(Act::Syscall("bpf".into())));
        for act in ["read=a", "connect=a", "connect=a:0", "connect=:1", "connect=a:65536", "syscall=", "x=y", ""] {
            assert!(may(act).unwrap_err().starts_with("--may "), "{act}");
        }
    }

    #[test]
    fn help_for_people_only() {
        let alone = |terminal| parse(std::iter::once(OsString::from("upm")), terminal);
        assert!(matches!(alone(true), Ok(Request::Help(_))));
        assert!(alone(false).is_err());
        for words in [&["--help"][..], &["-h"], &["list", "--help"], &["P", "m", "--help"]] {
            assert!(matches!(parsed(words), Ok(Request::Help(_))), "{words:?}");
        }
    }

    #[test]
    fn unknown_words_get_a_suggestion() {
        for (word, suggestion) in
            [("pip", "upm PipPlugin"), ("lst", "upm list"), ("docter", "upm doctor"), ("explian", "upm explain")]
        {
            let error = parsed(&[word, "install"]).unwrap_err();
            assert_eq!(error.suggestion.as_deref(), Some(suggestion));
            assert!(error.message.starts_with(&format!("{word}: no command")), "{error}");
            let details = Details::Usage { usage: USAGE.to_owned(), suggestion: Some(suggestion.to_owned()) };
            assert_eq!(Failure::from(error).details, details);
        }
        assert!(
            message(&["P", "m", "--timout", "1s"]).starts_with("--timout: unknown option; did you mean --timeout?")
        );
    }

    #[test]
    fn hostile_first_words_are_refused_in_a_short_sentence() {
        let long = "A".repeat(10_000);
        let lower = "a".repeat(10_000);
        for word in ["../x", "/etc", "", "_P", "P-x", "P\nx", "Ünicode", "PipPluginé", "1P", "\x1b[2J", &long, &lower]
        {
            let error = parsed(&[word, "m"]).unwrap_err();
            assert!(error.message.len() < 500, "{error}");
            assert!(!error.message.contains(char::is_control), "{error}");
        }
        let bytes = [OsString::from("upm"), OsStr::from_bytes(b"P\xff").to_owned(), "m".into()];
        assert!(parse(bytes.into_iter(), true).unwrap_err().message.starts_with("P\u{fffd}: no name of a plugin"));
        let bytes = [OsString::from("upm"), "P".into(), OsStr::from_bytes(b"m\xff").to_owned()];
        assert_eq!(parse(bytes.into_iter(), true).unwrap_err().message, "m\u{fffd}: the method's name is not UTF-8");
        let bytes = [OsString::from("upm"), "P".into(), "m".into(), OsStr::from_bytes(b"\xff").to_owned()];
        assert_eq!(parse(bytes.into_iter(), true).unwrap_err().message, "\u{fffd}: the JSON is not UTF-8");
        assert_eq!(message(&["P", ""]), "'': the method's name is empty");
        assert_eq!(message(&["P", "m\nx"]), "m\\nx: the method's name has control characters");
        assert!(message(&["P", &lower]).ends_with("…: the method's name is longer than 256 bytes"));
        assert!(is_plugin_name(&"A".repeat(64)) && !is_plugin_name(&"A".repeat(65)));
    }

    #[test]
    fn option_values_are_checked() {
        for (words, text) in [
            (&["--timeout", "5"][..], "--timeout 5: a time without a unit"),
            (&["--timeout", "0s"], "--timeout 0s: zero is no time"),
            (&["--request-id", "7"], "--request-id 7: no UUID"),
            (
                &["--request-id", "cdb3458d0b84491a9c4e709f30e11111"],
                "--request-id cdb3458d0b84491a9c4e709f30e11111: no UUID",
            ),
            (&["--nope"], "--nope: unknown option"),
            (&["--verbose=3"], "--verbose: takes no value"),
            (&["-x"], "-x: unknown option"),
            (&["--config"], "--config: a value is missing"),
            (&["--config", "a", "--config", "b"], "--config: given more than once"),
            (&["--config="], "--config: a value is missing"),
        ] {
            let message = message(&[&["P", "m"], words].concat());
            assert!(message.starts_with(text), "{message}");
        }
    }

    #[test]
    fn an_error_keeps_the_callers_request_id() {
        let id = "cdb3458d-0b84-491a-9c4e-709f30e11111";
        let expected = Some(Uuid::parse_str(id).unwrap());
        assert_eq!(parsed(&["--request-id", id, "P"]).unwrap_err().request_id, expected);
        assert_eq!(parsed(&["P", "--nope", &format!("--request-id={id}")]).unwrap_err().request_id, expected);
        assert_eq!(parsed(&["P", "--nope", "--request-id", "7"]).unwrap_err().request_id, None);
        assert_eq!(parsed(&["P"]).unwrap_err().request_id, None);
    }

    proptest::proptest! {
        #[test]
        fn no_command_line_panics(words in proptest::collection::vec(".{0,20}", 0..6), terminal: bool) {
            let args = std::iter::once("upm".to_owned()).chain(words).map(OsString::from);
            if let Err(error) = parse(args, terminal) {
                proptest::prop_assert!(!error.message.chars().any(crate::report::text::is_control), "{:?}", error.message);
            }
        }
    }
}
