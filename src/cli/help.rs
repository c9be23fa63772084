//! `upm help`, and the help texts: what clap has of each command, in the layout of `upm`.

use super::line::{command, unknown};
use super::usage::UsageError;
use std::ffi::OsString;

/// Print help of upm, or of a command
///
/// `upm COMMAND --help` prints the same.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// A command; without it the help of upm itself
    #[arg(value_name = "COMMAND")]
    pub command: Option<OsString>,
}

/// The text that was asked for.
pub(super) fn asked(args: &Args) -> Result<String, UsageError> {
    let Some(word) = &args.command else { return Ok(text(None)) };
    match word.to_str().filter(|word| command().find_subcommand(word).is_some()) {
        None => Err(unknown(word)),
        word => Ok(text(word)),
    }
}

/// The help of a command, or of `upm` itself for any other word.
pub(super) fn text(word: Option<&str>) -> String {
    let root = command();
    let command = word.and_then(|word| root.find_subcommand(word)).unwrap_or(&root);
    render(command)
}

/// Both `-h` and `--help` print all of it, each option on one line.
fn render(command: &clap::Command) -> String {
    let template = "{about}\n\nUsage: {usage}\n\n{all-args}{after-help}";
    let about = command.get_long_about().or(command.get_about()).cloned().unwrap_or_default();
    let text = command.clone().about(about).long_about(None).help_template(template).render_help().to_string();
    format!("{}\n", text.trim_end())
}

/// How `upm` is written: a line for a call, and one for each command.
pub(super) fn usages(root: &clap::Command) -> String {
    let commands = root.get_subcommands().map(|command| format!("\n       {}", usage(root, command.get_name())));
    std::iter::once("upm [OPTIONS] <Plugin> <method> [JSON | -]".to_owned()).chain(commands).collect()
}

/// How a command is written, on one line.
pub(super) fn usage(root: &clap::Command, word: &str) -> String {
    let text = root.find_subcommand(word).map(|command| command.clone().render_usage().to_string());
    text.unwrap_or_default().trim_start_matches("Usage: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::code;

    #[test]
    fn the_help_names_every_code_command_and_option() {
        let (root, help) = (command(), text(None));
        for code in code::ALL {
            assert!(help.contains(code::name(code)), "{}", code::name(code));
        }
        for command in root.get_subcommands() {
            let (name, own) = (command.get_name(), text(Some(command.get_name())));
            assert!(help.contains(&format!("\n       upm {name}")), "{name}: {help}");
            assert!(help.contains(&format!("\n  {name} ")), "{name}: {help}");
            assert!(own.contains(&format!("\nUsage: upm {name}")), "{name}: {own}");
            for option in command.get_arguments().filter(|arg| !arg.is_positional()) {
                let long = format!("--{}", option.get_long().unwrap());
                assert!(own.contains(&long) && option.get_help().is_some(), "{long}: {own}");
            }
            assert!(own.lines().all(|line| line.chars().count() <= 120), "{own}");
            assert!(own.ends_with('\n') && !own.ends_with("\n\n"));
        }
        assert!(help.ends_with('\n') && !help.ends_with("\n\n"));
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
    }
}
