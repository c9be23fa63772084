//! The words and options of a command line, before anyone asks what they mean.

use super::{COMMANDS, UsageError};
use crate::report::text::quote;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Parser};
use std::ffi::OsString;
use std::path::PathBuf;

/// Every option of every command; [`Low::refuse`] says which do not belong.
#[derive(Debug, Parser)]
#[command(name = "upm", no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
pub(super) struct Low {
    /// The positional words: a plugin, method and JSON, or a command and its words
    #[arg(allow_negative_numbers = true, hide = true)]
    pub words: Vec<OsString>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Let the service that listens there make the call
    #[arg(long, value_name = "SOCKET")]
    pub via: Option<PathBuf>,
    /// Directory to work on, instead of the configured project_root
    #[arg(long, value_name = "DIR")]
    pub project: Option<PathBuf>,
    /// Shorten the time limit: a number and ms, s, m or h
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<OsString>,
    /// UUID of the answer and audit records [default: a new one]; audit show: only it
    #[arg(long, value_name = "UUID")]
    pub request_id: Option<OsString>,
    /// Show the plugin's stderr as it comes
    #[arg(short, long, overrides_with = "verbose")]
    pub verbose: bool,
    /// Commands: print JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// explain: only whether the call may do this; exit status 0 yes, 1 no
    #[arg(long, value_name = "ACT")]
    pub may: Option<OsString>,
    /// audit show: only calls that began since then: 1h, 2d, today, a date, a timestamp
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<OsString>,
    /// audit show: only calls of this plugin
    #[arg(long, value_name = "Plugin")]
    pub plugin: Option<OsString>,
    /// Print help
    #[arg(short, long)]
    pub help: bool,
    /// Print the version
    #[arg(short = 'V', long)]
    pub version: bool,
}

/// Options by name, and whether they were given.
type Given = Vec<(&'static str, bool)>;

impl Low {
    /// Options of a call alone.
    pub fn of_call(&self) -> Given {
        vec![
            ("--timeout", self.timeout.is_some()),
            ("--request-id", self.request_id.is_some()),
            ("--verbose", self.verbose),
        ]
    }

    /// `--project`.
    pub fn of_project(&self) -> Given {
        vec![("--project", self.project.is_some())]
    }

    /// `--via`.
    pub fn of_via(&self) -> Given {
        vec![("--via", self.via.is_some())]
    }

    /// `--may`.
    pub fn of_may(&self) -> Given {
        vec![("--may", self.may.is_some())]
    }

    /// Options of `audit show` alone.
    pub fn of_audit(&self) -> Given {
        vec![("--since", self.since.is_some()), ("--plugin", self.plugin.is_some())]
    }

    /// An error when one of these was given: an option that does nothing would mislead.
    pub fn refuse(&self, whose: &str, options: &[(&'static str, bool)]) -> Result<(), UsageError> {
        match options.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((option, _)) => {
                Err(UsageError::new(format!("{option}: no option of {whose}; `upm --help` shows whose it is")))
            }
        }
    }
}

/// Splits the arguments (without the program's name) into words and options.
pub(super) fn parse(args: &[OsString]) -> Result<Low, UsageError> {
    Low::try_parse_from(args).map_err(|error| explain(&error))
}

/// clap's error as one sentence that names the option first.
fn explain(error: &clap::Error) -> UsageError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    // `--config <FILE>` as clap writes it: the option alone is enough.
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let option = quote(argument.split(" <").next().unwrap_or_default(), 80);
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let suggestion = text(ContextKind::SuggestedArg);
            let hint = match &suggestion {
                Some(suggestion) => format!("did you mean {}?", quote(suggestion, 80)),
                None => "`upm --help` shows them all".to_owned(),
            };
            UsageError { suggestion, ..UsageError::new(format!("{option}: unknown option; {hint}")) }
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

/// The command that `word` is most like, as clap judges it.
pub(super) fn similar_command(word: &str) -> Option<String> {
    let commands = Command::new("upm").no_binary_name(true).subcommands(COMMANDS.map(Command::new));
    let error = commands.try_get_matches_from([word]).err()?;
    match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(names)) => names.first().cloned(),
        Some(ContextValue::String(name)) => Some(name.clone()),
        _ => None,
    }
}
