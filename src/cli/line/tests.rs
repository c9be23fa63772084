use super::*;
use crate::call::{CallArgs, JsonSource};
use crate::cli::options::{Config, Json, Method, Project};
use crate::cli::usage::USAGE;
use crate::decide::verdict::Act;
use crate::types::{Code, Details, Failure};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

fn parsed(words: &[&str]) -> Result<Request, UsageError> {
    parse(std::iter::once("upm").chain(words.iter().copied()).map(OsString::from), false)
}

/// A call, and the service that makes it.
fn called(words: &[&str]) -> Result<(Option<PathBuf>, CallArgs), UsageError> {
    match parsed(words)? {
        Request::Call(args) => Ok(args.into_parts()),
        other => panic!("{words:?}: {other:?}"),
    }
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
    assert_eq!(called(&["PipPlugin", "install"]), Ok((None, call.clone())));
    for (text, json) in [
        ("{\"args\":[]}", JsonSource::Text("{\"args\":[]}".into())),
        ("-", JsonSource::Stdin),
        ("-1", JsonSource::Text("-1".into())),
        ("-1.5e3", JsonSource::Text("-1.5e3".into())),
        ("", JsonSource::Text(String::new())),
    ] {
        let expected = CallArgs { json, ..call.clone() };
        assert_eq!(called(&["PipPlugin", "install", text]), Ok((None, expected)), "{text}");
    }
    assert_eq!(called(&["--", "PipPlugin", "install"]), Ok((None, call.clone())));
    assert_eq!(called(&["PipPlugin", "--", "install"]), Ok((None, call)));
}

#[test]
fn options_stand_anywhere() {
    let id = "CDB3458D-0b84-491a-9c4e-709f30e11111";
    let expected = CallArgs {
        config: Some("c.toml".into()),
        json: JsonSource::Text("{}".into()),
        project: Some("/p".into()),
        timeout: Some(Duration::from_millis(1500)),
        request_id: Some(Uuid::parse_str(id).unwrap()),
        verbose: true,
        ..plain("P", "m")
    };
    for words in [
        ["--config", "c.toml", "--project", "/p", "--timeout", "1500ms", "--request-id", id, "-v", "P", "m", "{}"],
        ["P", "--config", "c.toml", "m", "--project", "/p", "-v", "{}", "--timeout", "1500ms", "--request-id", id],
        ["P", "m", "{}", "--config", "c.toml", "--project", "/p", "--timeout", "1500ms", "--request-id", id, "-v"],
    ] {
        assert_eq!(called(&words), Ok((None, expected.clone())));
    }
    assert_eq!(called(&["-vv", "P", "m"]), Ok((None, CallArgs { verbose: true, ..plain("P", "m") })));
    assert_eq!(called(&["P", "m", "--timeout=2s"]).unwrap().1.timeout, Some(Duration::from_secs(2)));
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

fn command_of(words: &[&str]) -> Command {
    match parsed(words) {
        Ok(Request::Command(command)) => command,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[test]
fn commands() {
    let file = |name: &str| Config { file: Some(name.into()) };
    let none = || Config { file: None };
    let (text, json) = (|| Json { json: false }, || Json { json: true });
    assert_eq!(command_of(&["list"]), Command::List(list::Args { plugin: None, config: none(), json: text() }));
    assert_eq!(
        command_of(&["list", "PipPlugin", "--json", "--config", "x"]),
        Command::List(list::Args { plugin: Some("PipPlugin".into()), config: file("x"), json: json() })
    );
    assert_eq!(
        command_of(&["--project", "/p", "explain", "P", "m", "--json"]),
        Command::Explain(explain::Args {
            method: Method { plugin: "P".into(), method: "m".into() },
            project: Project { project: Some("/p".into()) },
            may: None,
            config: none(),
            json: json()
        })
    );
    assert_eq!(command_of(&["check"]), Command::Check(check::Args { config: none(), json: text() }));
    assert_eq!(command_of(&["--", "check"]), Command::Check(check::Args { config: none(), json: text() }));
    assert_eq!(command_of(&["--json", "doctor"]), Command::Doctor(doctor::Args { config: none(), json: json() }));
    // a value that is named like a command
    assert_eq!(
        command_of(&["--config", "list", "doctor"]),
        Command::Doctor(doctor::Args { config: file("list"), json: text() })
    );
    assert_eq!(parsed(&["doctor-inside"]), Ok(Request::DoctorInside));
    assert!(message(&["doctor-inside", "--json"]).starts_with("doctor-inside: unknown command"));
    assert_eq!(parsed(&["--version"]), Ok(Request::Print("upm 0.1.0\n".into())));
    let id = "cdb3458d-0b84-491a-9c4e-709f30e11111";
    let (request_id, since) = (["--request-id", id], ["--since", "2026-11-24T10:00:00Z"]);
    assert_eq!(
        command_of(&[&["audit", "--plugin", "P", "show"][..], &request_id, &since, &["--json"]].concat()),
        Command::Audit(audit::Args {
            action: "show".into(),
            request_id: Some(Uuid::parse_str(id).unwrap()),
            since: chrono::DateTime::from_timestamp(1_795_514_400, 0),
            plugin: Some("P".into()),
            config: none(),
            json: json(),
        })
    );
    assert!(matches!(command_of(&["learn", "P", "m", "-", "-v", "--json"]), Command::Learn(_)));
}

#[test]
fn a_plugin_that_is_named_like_a_command_is_a_plugin() {
    for (plugin, method) in [("List", "list"), ("Help", "help"), ("Audit", "show"), ("Serve", "serve")] {
        assert_eq!(called(&[plugin, method]), Ok((None, plain(plugin, method))));
    }
    assert!(message(&["LIST"]).contains("the method of LIST is missing"));
}

#[test]
fn misused_commands() {
    for (words, text) in [
        (&["explain", "P"][..], "Usage: upm explain [OPTIONS] <Plugin> <method>: <method> is missing"),
        (&["check", "x"], "Usage: upm check [OPTIONS]: x is one word too many"),
        (&["doctor", "x"], "Usage: upm doctor "),
        (&["list", "P", "Q"], "Usage: upm list "),
        (&["list", "pip"], "pip: not a valid plugin name"),
        (&["list", "--timeout", "1s"], "--timeout: not an option of upm list; `upm list --help`"),
        (&["check", "--project", "x"], "--project: not an option of upm check"),
        (&["doctor", "--project", "x"], "--project: not an option of upm doctor"),
        (&["P", "m", "--json"], "--json: not an option of a call"),
        (&["P", "m", "--may", "read=/x"], "--may: not an option of a call"),
        (&["P", "m", "--since", "1h"], "--since: not an option of a call"),
        (&["check", "--plugin", "P"], "--plugin: not an option of upm check"),
        (&["audit"], "Usage: upm audit show [OPTIONS]: "),
        (&["audit", "list"], "Usage: upm audit show [OPTIONS]: "),
        (&["audit", "show", "x"], "Usage: upm audit show [OPTIONS]: "),
        (&["audit", "show", "--timeout", "1s"], "--timeout: not an option of upm audit"),
        (&["audit", "show", "--since", "soon"], "--since soon: expected how long ago"),
        (&["audit", "show", "--since", "--plugin"], "--since --plugin: expected how long ago"),
        (&["audit", "show", "--plugin", "pip"], "--plugin pip: not a valid plugin name"),
        (&["audit", "show", "--request-id", "1"], "--request-id 1: not a UUID"),
    ] {
        assert!(message(words).starts_with(text), "{words:?}: {}", message(words));
    }
}

#[test]
fn a_service_makes_calls_and_nothing_else() {
    let socket = Some(PathBuf::from("/run/upm/upm.sock"));
    let call = plain("P", "m");
    assert_eq!(called(&["--via", "/run/upm/upm.sock", "P", "m"]), Ok((socket.clone(), call.clone())));
    let call = CallArgs { json: JsonSource::Stdin, verbose: true, ..call };
    assert_eq!(called(&["P", "m", "-", "-v", "--via=/run/upm/upm.sock"]), Ok((socket, call)));
    let serve = |file: Option<&str>| Command::Serve(serve::Args { config: Config { file: file.map(PathBuf::from) } });
    assert_eq!(command_of(&["serve", "--config", "x"]), serve(Some("x")));
    assert_eq!(command_of(&["serve"]), serve(None));
    for (words, text) in [
        (&["--via", "x", "--config", "y", "P", "m"][..], "--config: not with --via"),
        (&["--via", "x", "list"], "--via: not an option of upm list"),
        (&["--via", "x", "explain", "P", "m"], "--via: not an option of upm explain"),
        (&["--via", "x", "serve"], "--via: not an option of upm serve"),
        (&["serve", "--request-id", "x"], "--request-id: not an option of upm serve"),
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
        Ok(Request::Command(Command::Explain(args))) => Ok(args.may.unwrap()),
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
    assert!(matches!(alone(true), Ok(Request::Print(_))));
    assert!(alone(false).is_err());
    let whole = help::text(None);
    for words in [&["--help"][..], &["-h"], &["P", "m", "--help"], &["-vh"], &["help"], &["pip", "--help"]] {
        assert_eq!(parsed(words), Ok(Request::Print(whole.clone())), "{words:?}");
    }
    let list = help::text(Some("list"));
    assert!(list.contains("\nUsage: upm list ") && list != whole, "{list}");
    for words in [&["list", "--help"][..], &["help", "list"], &["--help", "list"], &["list", "P", "Q", "--json", "-h"]]
    {
        assert_eq!(parsed(words), Ok(Request::Print(list.clone())), "{words:?}");
    }
    assert_eq!(parsed(&["help", "--version"]), Ok(Request::Print("upm 0.1.0\n".into())));
    for (words, text) in [
        (&["help", "lst"][..], "lst: unknown command; did you mean `upm list`?"),
        (&["help", "list", "x"], "Usage: upm help [COMMAND]: x is one word too many"),
        (&["--nope", "--help"], "--nope: unknown option"),
        (&["help", "--json"], "--json: not an option of upm help"),
    ] {
        assert!(message(words).starts_with(text), "{words:?}: {}", message(words));
    }
    // neither is asked for: words and values that only look so
    assert!(message(&["P", "m", "--", "-h", "--help"]).starts_with(USAGE));
    assert!(message(&["P", "m", "--timeout", "-h"]).starts_with("--timeout: a value is missing"));
}

/// What a line is split by when its first word stands behind options.
#[test]
fn an_option_of_one_name_has_one_form() {
    let root = command();
    let mut forms = std::collections::BTreeMap::new();
    let options = std::iter::once(&root).chain(root.get_subcommands()).flat_map(clap::Command::get_arguments);
    for option in options.filter(|arg| !arg.is_positional()) {
        let name = option.get_long().expect("every option has a long name").to_owned();
        let form = (option.get_action().takes_values(), option.get_short());
        assert_eq!(*forms.entry(name.clone()).or_insert(form), form, "--{name}");
        assert!(!form.0 || form.1.is_none(), "--{name}: a letter that takes a value is not split");
    }
    assert!(forms.len() > 9, "{forms:?}");
    // Shells read help lines in completions.
    for argument in std::iter::once(&root).chain(root.get_subcommands()).flat_map(clap::Command::get_arguments) {
        let help = argument.get_help().expect("every argument has a help line").to_string();
        assert!(!help.contains(['`', '$', '\\']), "{help}");
    }
}

#[test]
fn unknown_words_get_a_suggestion() {
    for (word, suggestion) in
        [("pip", "upm PipPlugin"), ("lst", "upm list"), ("docter", "upm doctor"), ("explian", "upm explain")]
    {
        let error = parsed(&[word, "install"]).unwrap_err();
        assert_eq!(error.suggestion.as_deref(), Some(suggestion));
        assert!(error.message.starts_with(&format!("{word}: unknown command")), "{error}");
        let details = Details::Usage { usage: USAGE.to_owned(), suggestion: Some(suggestion.to_owned()) };
        assert_eq!(Failure::from(error).details, details);
    }
    assert!(message(&["P", "m", "--timout", "1s"]).starts_with("--timout: unknown option; did you mean --timeout?"));
}

#[test]
fn hostile_first_words_are_refused_in_a_short_sentence() {
    let long = "A".repeat(10_000);
    let lower = "a".repeat(10_000);
    for word in ["../x", "/etc", "", "_P", "P-x", "P\nx", "Ünicode", "PipPluginé", "1P", "\x1b[2J", &long, &lower] {
        let error = parsed(&[word, "m"]).unwrap_err();
        assert!(error.message.len() < 500, "{error}");
        assert!(!error.message.contains(char::is_control), "{error}");
    }
    let bytes = [OsString::from("upm"), OsStr::from_bytes(b"P\xff").to_owned(), "m".into()];
    assert!(parse(bytes.into_iter(), true).unwrap_err().message.starts_with("P\u{fffd}: not a valid plugin name"));
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
        (&["--timeout", "5"][..], "--timeout 5: a time needs a unit"),
        (&["--timeout", "0s"], "--timeout 0s: must be greater than zero"),
        (&["--request-id", "7"], "--request-id 7: not a UUID"),
        (
            &["--request-id", "cdb3458d0b84491a9c4e709f30e11111"],
            "--request-id cdb3458d0b84491a9c4e709f30e11111: not a UUID",
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
            proptest::prop_assert!(!error.message.chars().any(crate::text::is_control), "{:?}", error.message);
        }
    }
}
