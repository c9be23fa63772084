//! Manual pages of section 1: clap_mangen's for the command line, the sections of a command's help, and a hand-written part
//! in `xtask/man` for what a list of options cannot say.

use clap::Command;
use clap_mangen::Man;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The day of the newest change to what is written by hand.
const DATE: &str = "2026-11-28";

/// The order of the sections behind the options; others come before them.
const ORDER: [&str; 5] = ["ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES", "SEE ALSO"];

/// What clap_mangen begins each piece with.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

const PARTS: [(&str, &str); 9] = [
    ("upm", include_str!("../man/upm.man")),
    ("upm-audit", include_str!("../man/upm-audit.man")),
    ("upm-check", include_str!("../man/upm-check.man")),
    ("upm-doctor", include_str!("../man/upm-doctor.man")),
    ("upm-explain", include_str!("../man/upm-explain.man")),
    ("upm-help", include_str!("../man/upm-help.man")),
    ("upm-learn", include_str!("../man/upm-learn.man")),
    ("upm-list", include_str!("../man/upm-list.man")),
    ("upm-serve", include_str!("../man/upm-serve.man")),
];

/// Every page, by its path in the repository.
pub fn pages(command: &Command) -> io::Result<BTreeMap<PathBuf, String>> {
    let mut pages = BTreeMap::new();
    for command in std::iter::once(command).chain(command.get_subcommands()) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        let part = PARTS.iter().find(|(known, _)| *known == name).map(|(_, part)| *part);
        let part = part.ok_or_else(|| io::Error::other(format!("{name}: make xtask/man/{name}.man")))?;
        let path = Path::new("packaging/man").join(format!("{name}.1"));
        pages.insert(path, page(command, &name, part)?);
    }
    Ok(pages)
}

fn page(command: &Command, name: &str, part: &str) -> io::Result<String> {
    let version = format!("upm {}", env!("CARGO_PKG_VERSION"));
    // What stands in the name is not said a second time.
    let about = command.get_long_about().map(ToString::to_string).unwrap_or_default();
    let rest = about.split_once("\n\n").map_or(about.as_str(), |(_, rest)| rest).to_owned();
    let command = command.clone().long_about(rest).subcommand_help_heading("COMMANDS");
    let has_commands = command.has_subcommands();
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command).title(name.to_uppercase()).section("1").date(DATE).source(version);
    let rendered = |render: &dyn Fn(&mut dyn io::Write) -> io::Result<()>| -> io::Result<String> {
        let mut bytes = Vec::new();
        render(&mut bytes)?;
        let text = String::from_utf8(bytes).map_err(io::Error::other)?;
        Ok(text.strip_prefix(PREAMBLE).unwrap_or(&text).to_owned())
    };
    let mut parts = parts(part);
    let mut text = format!(".\\\" Made by `cargo xtask docs`; what is written by hand is in xtask/man.\n{PREAMBLE}");
    text.push_str(&rendered(&|to| man.render_title(to))?);
    text.push_str(&rendered(&|to| man.render_name_section(to))?);
    text.push_str(&rendered(&|to| man.render_synopsis_section(to))?);
    text.push_str(&rendered(&|to| man.render_description_section(to))?);
    if let Some(more) = take(&mut parts, "DESCRIPTION") {
        text.push_str(&format!(".PP\n{more}"));
    }
    text.push_str(&rendered(&|to| man.render_options_section(to))?);
    if let Some(more) = take(&mut parts, "OPTIONS") {
        text.push_str(&format!(".PP\n{more}"));
    }
    if has_commands {
        text.push_str(&rendered(&|to| man.render_subcommands_section(to))?);
    }
    let mut sections = sections(&help);
    for (name, body) in parts {
        match sections.iter_mut().find(|(known, _)| *known == name) {
            Some((_, first)) => first.push_str(&body),
            None => sections.push((name, body)),
        }
    }
    let place = |name: &str| ORDER.iter().position(|known| *known == name).map_or(0, |at| at + 1);
    sections.sort_by_key(|(name, _)| place(name));
    for (name, body) in sections {
        text.push_str(&format!(".SH \"{name}\"\n{body}"));
    }
    Ok(text)
}

fn take(parts: &mut Vec<(String, String)>, name: &str) -> Option<String> {
    let at = parts.iter().position(|(known, _)| known == name)?;
    Some(parts.remove(at).1)
}

/// The hand-written sections: `.SH NAME` and what follows.
fn parts(text: &str) -> Vec<(String, String)> {
    let mut parts: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix(".SH "), parts.last_mut()) {
            (Some(name), _) => parts.push((name.trim_matches('"').to_owned(), String::new())),
            (None, Some((_, body))) => body.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    parts
}

/// The sections of a help text: a line that ends with a colon, and indented lines.
fn sections(help: &str) -> Vec<(String, String)> {
    let mut sections: Vec<(String, Vec<&str>)> = Vec::new();
    for line in help.lines() {
        match (line.strip_suffix(':'), sections.last_mut()) {
            (Some(title), _) if !line.starts_with(' ') => sections.push((title.to_uppercase(), Vec::new())),
            (_, Some((_, lines))) => lines.push(line),
            (_, None) => {}
        }
    }
    sections.into_iter().map(|(name, lines)| (name, body(&lines))).collect()
}

/// Indented by two columns: a term, two spaces and its text, or prose. By four: as it is, unless it goes on with a term.
fn body(lines: &[&str]) -> String {
    let mut text = String::new();
    let (mut literal, mut term) = (false, false);
    for line in lines {
        let inner = line.trim_start();
        let indent = line.len() - inner.len();
        if literal && indent < 4 {
            text.push_str(".fi\n.RE\n");
            literal = false;
        }
        if inner.is_empty() {
            (term, literal) = (false, false);
            text.push_str(".PP\n");
        } else if term && indent >= 4 {
            text.push_str(&format!("{}\n", escaped(inner)));
        } else if indent >= 4 {
            if !literal {
                text.push_str(".RS 4\n.nf\n");
                literal = true;
            }
            text.push_str(&format!("{}\n", escaped(inner)));
        } else if let Some((name, rest)) = inner.split_once("  ") {
            text.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", escaped(name), escaped(rest.trim_start())));
            term = true;
        } else {
            text.push_str(&format!("{}\n", escaped(inner)));
        }
    }
    if literal {
        text.push_str(".fi\n.RE\n");
    }
    while let Some(shorter) = text.strip_suffix(".PP\n") {
        text = shorter.to_owned();
    }
    text.replace(".PP\n.RS 4\n", ".RS 4\n")
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\*(Aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}
