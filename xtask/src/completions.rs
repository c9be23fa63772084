//! Completions: clap_complete's for options and commands, and a hand-written part for each shell that asks `upm list` for
//! plugins and methods.
//!
//! clap_complete knows no external subcommands: a call stands in its tree as the subcommand [`CALL`], and each script takes
//! a word with a capital letter for it.

use clap::{Arg, Command};
use clap_complete::{Shell, generate};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// What a plugin is called in the tree.
const CALL: &str = "PLUGIN";

const BASH: &str = include_str!("../completions/upm.bash");
const ZSH: &str = include_str!("../completions/_upm");
const FISH: &str = include_str!("../completions/upm.fish");

/// Every file, by its path in the repository.
pub fn all(command: &Command) -> io::Result<BTreeMap<PathBuf, String>> {
    let tree = tree(command);
    let script = |shell| {
        let mut bytes = Vec::new();
        generate(shell, &mut tree.clone(), "upm", &mut bytes);
        String::from_utf8(bytes).map_err(io::Error::other)
    };
    let directory = Path::new("packaging/completions");
    Ok(BTreeMap::from([
        (directory.join("upm.bash"), bash(&script(Shell::Bash)?, command)?),
        (directory.join("_upm"), zsh(&script(Shell::Zsh)?)?),
        (directory.join("upm.fish"), fish(&script(Shell::Fish)?, command)?),
    ]))
}

/// The command line without the words of a call at its root: they are the subcommand [`CALL`].
fn tree(command: &Command) -> Command {
    let options: Vec<Arg> = own(command).filter(|arg| !arg.is_positional()).cloned().collect();
    let words = own(command).filter(|arg| arg.is_positional()).skip(1).cloned();
    let words: Vec<Arg> = words.zip(1..).map(|(word, place)| word.index(place)).collect();
    let call = Command::new(CALL).about("A call").args(words).args(options.clone());
    Command::new("upm")
        .version("1")
        .disable_help_subcommand(true)
        .args(options)
        .subcommands(command.get_subcommands().cloned())
        .subcommand(call)
}

/// Arguments that clap did not add itself.
fn own(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
}

/// The hand-written part with what it needs to know of the command line filled in.
fn filled(part: &str, command: &Command, separator: &str) -> String {
    let all = || std::iter::once(command).chain(command.get_subcommands());
    let with_value = |arg: &&Arg| arg.get_action().takes_values();
    let values: BTreeSet<String> = all()
        .flat_map(Command::get_opts)
        .filter(with_value)
        .filter_map(|arg| Some(format!("--{}", arg.get_long()?)))
        .collect();
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    // Commands whose word at this place is a plugin, or a method.
    let taking = |place: usize, name: &str| {
        let takes = |sub: &&Command| {
            let word = sub.get_positionals().nth(place).and_then(Arg::get_value_names);
            word.is_some_and(|names| names.iter().any(|known| known == name))
        };
        command.get_subcommands().filter(takes).map(Command::get_name).collect::<Vec<_>>().join(separator)
    };
    part.replace("@VALUES@", &values.into_iter().collect::<Vec<_>>().join(separator))
        .replace("@COMMANDS@", &names.join(" "))
        .replace("@WITH_PLUGIN@", &taking(0, "Plugin"))
        .replace("@WITH_METHOD@", &taking(1, "method"))
        .replace("@WITH_COMMAND@", &taking(0, "COMMAND"))
}

/// `text` with every `from` replaced, which must be there.
fn replaced(text: &str, from: &str, to: &str) -> io::Result<String> {
    if text.contains(from) {
        Ok(text.replace(from, to))
    } else {
        Err(io::Error::other(format!("clap_complete writes its scripts differently: {from:?} is not there")))
    }
}

/// The generated function is asked for options and their values, by the hand-written one. Names of words are not offered.
fn bash(script: &str, command: &Command) -> io::Result<String> {
    let end = "\nif [[ \"${BASH_VERSINFO[0]}\"";
    let (function, _) = script.rsplit_once(end).ok_or_else(|| io::Error::other(format!("bash: {end:?} is missing")))?;
    let function = replaced(function, "_upm() {", "_upm_options() {")?;
    let all = std::iter::once(command).chain(command.get_subcommands());
    let words: BTreeSet<String> = all.flat_map(Command::get_positionals).map(|word| format!(" {word}")).collect();
    let line = |line: &str| {
        let is_list = line.trim_start().starts_with("opts=");
        let words = words.iter().filter(|_| is_list);
        words.fold(line.trim_end().to_owned(), |line, word| line.replace(word.as_str(), "")) + "\n"
    };
    let function: String = function.trim().lines().map(line).collect();
    Ok(format!("# {MADE}\n{function}\n{}", filled(BASH, command, " | ")))
}

/// Actions of words and options whose values are plugins and methods become the hand-written functions.
fn zsh(script: &str) -> io::Result<String> {
    let mut out = String::new();
    for line in script.lines() {
        let word = line.trim_start_matches(['\'', ':']);
        let is_value = line.starts_with('\'') && line.contains(":_default'");
        if line.trim_start().starts_with(&format!("'{CALL}:")) {
            continue;
        }
        if is_value && (word.starts_with("plugin -- ") || line.contains(":Plugin:_default'")) {
            out.push_str(&line.replace(":_default'", ":_upm_plugins'"));
        } else if is_value && word.starts_with("method -- ") {
            out.push_str(&line.replace(":_default'", ":_upm_methods'"));
        } else if is_value && word.starts_with("command -- ") {
            out.push_str(&line.replace(":_default'", ":_upm_commands'"));
        } else {
            out.push_str(&line.replace(":_default'", ": '"));
        }
        out.push('\n');
    }
    let out = replaced(&out, &format!("({CALL})"), "([A-Z]*)")?;
    let out = replaced(&out, "\n_upm() {\n", "\n_upm() {\n    local -a upm_line=(\"${words[@]}\")\n")?;
    let out = replaced(&out, "\":: :_upm_commands\"", "\":: :_upm_first\"")?;
    let (head, tail) = out.split_once("\n\n").ok_or_else(|| io::Error::other("zsh: no head"))?;
    Ok(format!("{head}\n# {MADE}\n\n{}\n{}", ZSH.trim(), tail))
}

/// Conditions about the subcommand [`CALL`] become the hand-written one.
fn fish(script: &str, command: &Command) -> io::Result<String> {
    let offer = format!("-a \"{CALL}\"");
    let kept: Vec<&str> = script.lines().filter(|line| !line.contains(&offer)).collect();
    let script = replaced(&kept.join("\n"), &format!("\"__fish_upm_using_subcommand {CALL}\""), "__upm_calls")?;
    Ok(format!("# {MADE}\n{script}\n\n{}", filled(FISH, command, " ")))
}

const MADE: &str = "made by `cargo xtask docs`; what is written by hand is in xtask/completions";
