//! From the process's arguments to what they ask for.
//!
//! Options may stand anywhere, the first word decides: names of plugins begin with a capital letter and commands do not, so
//! the two never meet. The word is put first, and clap reads the rest with the options of that command alone: of the others
//! only names are set up. [`command`] is all of it.

use super::usage::{UsageError, shown};
use super::values::NOT_A_PLUGIN;
use super::{audit, call, check, doctor, explain, help, learn, list, serve};
use crate::config::is_plugin_name;
use crate::doctor::inside;
use clap::builder::OsStringValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Args, FromArgMatches, Subcommand, ValueHint};
use std::error::Error;
use std::ffi::{OsStr, OsString};
use uuid::Uuid;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Run a method.
    Call(call::Args),
    /// What is not a call.
    Command(Command),
    /// doctor's trial, in the sandbox.
    DoctorInside,
    /// Print this text: help, or the version.
    Print(String),
}

// The commands. A new one has its line here, in `run_command`, and a file with its arguments. No doc comments: clap would take
// them for the help.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
#[command(defer = true)]
pub(super) enum Command {
    List(list::Args),
    Explain(explain::Args),
    Learn(learn::Args),
    Check(check::Args),
    Doctor(doctor::Args),
    Audit(audit::Args),
    Serve(serve::Args),
}

// What clap makes of a line whose first word is put first.
#[derive(Subcommand)]
#[command(defer = true)]
enum Typed {
    #[command(flatten)]
    Command(Command),
    Help(help::Args),
    // A plugin, or an unknown word.
    #[command(external_subcommand)]
    Plugin(Vec<OsString>),
}

/// The whole command line: a call, which is `upm` itself, and the commands. Help, completions and manual pages are made of it.
#[must_use]
pub fn command() -> clap::Command {
    let root = tree();
    let usages = help::usages(&root);
    root.override_usage(usages)
}

/// The same without its usage, which no line is read by.
fn tree() -> clap::Command {
    // clap's own would say that there is a longer help; it is one.
    let help =
        || Arg::new("help").short('h').long("help").action(ArgAction::Help).help("Print help").display_order(900);
    let call = call::Args::augment_args(clap::Command::new("upm"));
    let mut root = Typed::augment_subcommands(call)
        .allow_external_subcommands(false)
        .subcommand_negates_reqs(true)
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .version(env!("CARGO_PKG_VERSION"))
        .arg(help())
        .mut_subcommands(|command| command.arg(help()));
    root.build();
    root
}

/// Reads a command line. `args` begins with the program's own name, as `std::env::args_os` does.
///
/// # Errors
/// What is wrong with it and what to type instead; its failure has the code `usage`.
pub(super) fn parse(args: impl Iterator<Item = OsString>, stdout_is_terminal: bool) -> Result<Request, UsageError> {
    let args: Vec<OsString> = args.skip(1).collect();
    read(&args, stdout_is_terminal).map_err(|error| UsageError { request_id: request_id(&args), ..error })
}

fn read(args: &[OsString], stdout_is_terminal: bool) -> Result<Request, UsageError> {
    if matches!(args, [only] if only == inside::WORD) {
        return Ok(Request::DoctorInside);
    }
    if args.iter().any(|arg| may_ask_for_text(arg)) {
        if let Some(text) = text(args)? {
            return Ok(Request::Print(text));
        }
    }
    let Some(at) = first_word(args) else {
        if args.is_empty() && stdout_is_terminal {
            return Ok(Request::Print(help::text(None)));
        }
        // What is wrong with an option is said first.
        text(args)?;
        return Err(UsageError::call("the plugin and its method are missing; see `upm --help`"));
    };
    let word = &args[at];
    if !word.to_str().is_some_and(|word| starts_lower(word) || is_plugin_name(word)) {
        return Err(unknown(word));
    }
    let words = std::iter::once(word).chain(&args[..at]).chain(&args[at + 1..]);
    let commands = Typed::augment_subcommands(plain());
    let read = commands.try_get_matches_from(words).and_then(|matches| Typed::from_arg_matches(&matches));
    match read.map_err(|error| explain(&error, word, args))? {
        Typed::Plugin(words) if is_plugin_name(&word.to_string_lossy()) => {
            let call = call::Args::augment_args(plain()).try_get_matches_from(&words);
            let call = call.and_then(|matches| call::Args::from_arg_matches(&matches));
            call.map_err(|error| explain(&error, word, args))?.checked().map(Request::Call)
        }
        Typed::Plugin(_) => Err(unknown(word)),
        Typed::Help(args) => help::asked(&args).map(Request::Print),
        Typed::Command(command) => Ok(Request::Command(command)),
    }
}

/// A command to be read by: help and version were looked for before.
fn plain() -> clap::Command {
    clap::Command::new("upm").no_binary_name(true).disable_help_flag(true).disable_help_subcommand(true)
}

fn starts_lower(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
}

/// The position of the first word that is neither an option nor an option's value.
fn first_word(args: &[OsString]) -> Option<usize> {
    let (mut of_call, mut all) = (None, None);
    let mut takes_value = |name: &str| {
        let find = |among: &clap::Command| {
            let option = among.get_arguments().find(|arg| arg.get_long() == Some(name));
            option.map(|option| option.get_action().takes_values())
        };
        // Mostly those of a call; the others are set up when they are needed.
        find(of_call.get_or_insert_with(|| call::Args::augment_args(plain())))
            .or_else(|| find(all.get_or_insert_with(every_option)))
            .unwrap_or(false)
    };
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        let bytes = arg.as_encoded_bytes();
        if bytes == b"--" {
            return Some(at + 1).filter(|at| *at < args.len());
        }
        if bytes == b"-" || !bytes.starts_with(b"-") {
            return Some(at);
        }
        at += if arg.to_str().and_then(|arg| arg.strip_prefix("--")).is_some_and(&mut takes_value) { 2 } else { 1 };
    }
    None
}

/// Every option of every command, and words: what a line is read by whose command is not known, or not asked.
fn every_option() -> clap::Command {
    let words = Arg::new("words").num_args(0..).allow_negative_numbers(true);
    let flag = |name: &'static str, short| Arg::new(name).long(name).short(short).action(ArgAction::SetTrue);
    let mut all = plain()
        .disable_version_flag(true)
        .arg(words.value_parser(OsStringValueParser::new()))
        .args([flag("help", 'h'), flag("version", 'V')]);
    let root = tree();
    let options = std::iter::once(&root).chain(root.get_subcommands()).flat_map(clap::Command::get_arguments);
    for option in options.filter(|arg| !arg.is_positional()) {
        if !all.get_arguments().any(|known| known.get_long() == option.get_long()) {
            // Whose value is looked at is looked at later; a path that is empty is missing.
            let takes_text = option.get_action().takes_values() && option.get_value_hint() == ValueHint::Unknown;
            let option = option.clone();
            all = all.arg(if takes_text { option.value_parser(OsStringValueParser::new()) } else { option });
        }
    }
    all
}

/// `-h`, `--help`, `-V`, `--version`, or letters that may have one of them: cheap to see, and rare.
fn may_ask_for_text(arg: &OsStr) -> bool {
    let letters = |bytes: &[u8]| bytes[0] == b'-' && bytes[1] != b'-' && bytes.iter().any(|byte| b"hV".contains(byte));
    let bytes = arg.as_encoded_bytes();
    bytes == b"--help" || bytes == b"--version" || (bytes.len() > 1 && letters(bytes))
}

/// The help or the version, where one of them is asked for.
fn text(args: &[OsString]) -> Result<Option<String>, UsageError> {
    let matches = every_option().try_get_matches_from(args).map_err(|error| explain(&error, OsStr::new(""), args))?;
    if matches.get_flag("version") {
        return Ok(Some(format!("upm {}\n", env!("CARGO_PKG_VERSION"))));
    }
    let first = matches.get_many::<OsString>("words").and_then(|mut words| words.next());
    Ok(matches.get_flag("help").then(|| help::text(first.and_then(|word| word.to_str()))))
}

/// clap's error as one sentence that names the option or the word first. `word` is the command, a plugin, or empty.
fn explain(error: &clap::Error, word: &OsStr, args: &[OsString]) -> UsageError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    // `--config <FILE>` as clap writes it: the option alone is enough.
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    // Behind `--` all are words.
    let before = args.split(|arg| arg == "--").next().unwrap_or_default();
    let is_option = argument.starts_with('-') && before.iter().any(|arg| arg.as_encoded_bytes().starts_with(b"-"));
    let option = shown(OsStr::new(argument.split(" <").next().unwrap_or_default()));
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument if is_option => unknown_option(&option, text(ContextKind::SuggestedArg), word),
        ErrorKind::UnknownArgument => incomplete(word, &format!("{option} is one word too many")),
        ErrorKind::MissingRequiredArgument => incomplete(word, &format!("{option} is missing")),
        ErrorKind::InvalidValue if !value.is_empty() => {
            incomplete(word, &format!("{} is unknown", shown(OsStr::new(&value))))
        }
        ErrorKind::ValueValidation => {
            let reason = error.source().map_or_else(|| "is invalid".to_owned(), ToString::to_string);
            let value = shown(OsStr::new(&value));
            let place = if is_option { format!("{option} {value}") } else { value };
            UsageError::new(format!("{place}: {reason}"))
        }
        ErrorKind::ArgumentConflict => UsageError::new(format!("{option}: given more than once; give it once")),
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues | ErrorKind::NoEquals => {
            UsageError::new(format!("{option}: a value is missing; `upm --help` shows its form"))
        }
        ErrorKind::TooManyValues => UsageError::new(format!("{option}: takes no value; leave it out")),
        kind => {
            let reason = kind.as_str().unwrap_or("cannot be read");
            UsageError::new(format!("{option}: {reason}; `upm --help` shows the form"))
        }
    }
}

/// An option of another command, or of none. An option that does nothing would mislead.
fn unknown_option(option: &str, suggestion: Option<String>, word: &OsStr) -> UsageError {
    let all = every_option();
    let is_known =
        option.strip_prefix("--").is_some_and(|name| all.get_arguments().any(|known| known.get_long() == Some(name)));
    let (whose, help) = match word.to_str() {
        Some(word) if starts_lower(word) => (format!("upm {word}"), format!("upm {word} --help")),
        _ => ("a call".to_owned(), "upm --help".to_owned()),
    };
    if is_known {
        return UsageError::new(format!("{option}: not an option of {whose}; `{help}` shows its options"));
    }
    let hint = match &suggestion {
        Some(suggestion) => format!("did you mean {}?", shown(OsStr::new(suggestion))),
        None => format!("`{help}` shows all options"),
    };
    UsageError { suggestion, ..UsageError::new(format!("{option}: unknown option; {hint}")) }
}

/// Too few words, or too many.
fn incomplete(word: &OsStr, reason: &str) -> UsageError {
    let word = word.to_string_lossy();
    if starts_lower(&word) {
        return UsageError::new(format!("Usage: {}: {reason}", help::usage(&command(), &word)));
    }
    UsageError::call(&if reason.ends_with("is missing") {
        format!("the method of {word} is missing; `upm list {word}` shows its methods")
    } else {
        format!("{reason}; put the JSON between single quotes")
    })
}

/// A first word that is neither a command nor a plugin's name.
pub(super) fn unknown(word: &OsStr) -> UsageError {
    let Some(text) = word.to_str().filter(|text| starts_lower(text)) else {
        return UsageError::new(format!("{}: {NOT_A_PLUGIN}", shown(word)));
    };
    let commands = command();
    let names: Vec<&str> = commands.get_subcommands().map(clap::Command::get_name).collect();
    let similar = similar(&commands, text);
    let mut error = UsageError::new(format!(
        "{}: unknown command (commands are {}); names of plugins begin with a capital letter, and `upm list` shows \
         the configured plugins",
        shown(word),
        names.join(", ")
    ));
    if let Some(command) = similar {
        error.message = format!("{}: unknown command; did you mean `upm {command}`?", shown(word));
        error.suggestion = Some(format!("upm {command}"));
    } else if text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        // `pip` is what people type who mean the class PipPlugin.
        let class = format!("{}{}Plugin", text[..1].to_ascii_uppercase(), &text[1..]);
        error.message.push_str(&format!("; did you mean `upm {class}`?"));
        error.suggestion = Some(format!("upm {class}"));
    }
    error
}

/// The command that `word` is most like, as clap judges it.
fn similar(commands: &clap::Command, word: &str) -> Option<String> {
    let error = plain().subcommands(commands.get_subcommands().cloned()).try_get_matches_from([word]).err()?;
    match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(names)) => names.first().cloned(),
        Some(ContextValue::String(name)) => Some(name.clone()),
        _ => None,
    }
}

/// The caller's request id, from a command line that could not be parsed: the answer must carry it.
fn request_id(args: &[OsString]) -> Option<Uuid> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            return None;
        }
        if arg == "--request-id" {
            return args.next().and_then(|value| super::values::uuid(value));
        }
        if let Some(value) = arg.to_str().and_then(|arg| arg.strip_prefix("--request-id=")) {
            return super::values::uuid(OsStr::new(value));
        }
    }
    None
}

#[cfg(test)]
mod tests;
