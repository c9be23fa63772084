//! The help texts.

use super::low::Low;
use clap::CommandFactory;

const USAGE: &str = "upm [OPTIONS] <Plugin> <method> [JSON | -]
       upm list [Plugin]
       upm explain <Plugin> <method>
       upm learn <Plugin> <method> [JSON | -]
       upm check
       upm doctor
       upm audit show
       upm serve";

const ABOUT: &str = "\
Runs one allowed method of one allowed plugin in a sandbox, and answers with one JSON document on stdout.
Everything else goes to stderr.";

const AFTER: &str = r#"Words:
  <Plugin>  A class that the configuration names; it begins with a capital letter
  <method>  One of its allowed methods
  [JSON]    {"args": [...], "kwargs": {...}}, both optional; `-` reads it from stdin [default: {}]

Commands (text; --json for JSON):
  list      The configured plugins and their methods
  explain   What a call would be allowed, and which line of the configuration says so
  learn     Make the call, and tell what it looked for and was not given, as a change of the configuration
  check     Whether the configuration can be used; exit status 0 yes, 1 no, 125 could not tell
  doctor    What this host offers and what is missing, with the remedy; exit status as check
  audit     What is on record of calls; exit status 0 shown, 1 nothing matches, 125 could not read
  serve     Answer the one caller whose connection is stdin; a service manager starts it
  `upm COMMAND --help` tells more.

Configuration, the first of:
  --config FILE, $UPM_CONFIG_PATH, ./upm_config.toml, ./upm_config.json,
  $XDG_CONFIG_HOME/upm/upm_config.toml (not as root), /etc/upm/upm_config.toml

Exit status:
  0      the method returned
  1      the method failed          plugin_raised, plugin_exited, protocol_violation,
                                    result_not_serializable, result_too_large
  2      the caller's mistake       usage, arguments_invalid
  124    out of time                timeout
  125    the engine could not       config_invalid, sandbox_unavailable, sandbox_failed,
                                    audit_unavailable, internal
  126    refused                    plugin_not_allowed, method_not_allowed, digest_mismatch,
                                    caller_not_allowed
  127    not there                  module_not_found, class_not_found, method_not_found
  128+N  killed by signal N         plugin_killed, memory_exceeded (137), cpu_time_exceeded (152),
                                    violation (159), cancelled (129, 130, 143)
  The names are data.code of the answer; response.schema.json describes it whole.

Environment:
  UPM_CONFIG_PATH  Configuration file
  NO_COLOR         No colour on a terminal, when set and not empty

Examples:
  upm PipPlugin install '{"args": ["requests"]}'
  upm PipPlugin list --project /srv/shop | jq .data.result
  echo '{"kwargs": {"name": "requests"}}' | upm PipPlugin info - --timeout 30s
  upm explain PipPlugin install --may 'connect index.example:443' && echo yes
  upm --via /run/upm/upm.sock PipPlugin list
"#;

const LIST: &str = "\
List the configured plugins and their allowed methods.

Usage: upm list [Plugin] [--config FILE] [--json]

Words:
  [Plugin]  Only this one

Options:
  --config FILE  Configuration file
  --json         Print JSON instead of text
";

const EXPLAIN: &str = "\
Print what a call would be allowed: paths, egress, limits, system calls, and the line of the configuration
that each comes from. It is the very plan that would be enforced. Nothing is run.

Usage: upm explain <Plugin> <method> [--project DIR] [--may ACT] [--config FILE] [--json]

Options:
  --project DIR  Directory to work on, instead of the configured project_root
  --may ACT      Only whether the call may do this: 'read /PATH', 'write /PATH',
                 'connect HOST:PORT', 'syscall NAME'
  --config FILE  Configuration file
  --json         Print JSON instead of text

Exit status with --may: 0 yes, 1 no, 125 could not tell

Examples:
  upm explain PipPlugin install
  upm explain PipPlugin install --may 'write /etc/passwd' || echo no
";

const LEARN: &str = "\
Make a call under its ordinary confinement, note what the plugin looks for and is not given, and print the change
of the configuration that would give it. Nothing is changed, and what the call does it does.

Usage: upm learn <Plugin> <method> [JSON | -] [--project DIR] [--timeout TIME] [-v] [--config FILE] [--json]

Left out is what an empty plugin in the same interpreter looks for as well. Suggested is the least: the nearest
directory, reading rather than writing, hosts by name; never what the configuration would refuse, nor what not
everyone may read. A hostile plugin can look for what it wants to be given: read the change before you make it.
While a call is watched `cpus` does not slow it down. `require_cgroup` refuses it here too.

Options:
  --project DIR     Directory to work on, instead of the configured project_root
  --timeout TIME    Shorten the time limit
  -v, --verbose     Show the plugin's stderr as it comes
  --config FILE     Configuration file
  --json            Print JSON instead of text, with the call's answer in it

Exit status: 0 the call was observed, whatever came of it; otherwise that of the call, with its answer

Example:
  upm learn PipPlugin install '{\"args\": [\"requests\"]}'
";

const CHECK: &str = "\
Check the whole configuration and every plugin: schemas compile, modules, classes, methods and interpreters are
there, granted paths can be shown, audit records can be stored, egress groups resolve; keys that have no effect,
grants that contain one another, plugins without schema, hosts that are granted to nobody. Each finding begins
with FILE:LINE. Nothing of a plugin is run: its source is read, in a sandbox. Names are looked up (5 s at most).

Usage: upm check [--config FILE] [--json]

Findings:
  error    A call would be refused, or its plugin could not be started
  unknown  Whether a call would be refused could not be told on this host
  warning  No call would be refused, but look at it
  note     As written, and easily read as something else

Options:
  --config FILE  Configuration file
  --json         Print JSON instead of text

Exit status: 0 no error, 1 an error, 125 could not tell
";

const DOCTOR: &str = "\
Try each layer of the sandbox on this host, with what must work and what must not, and print what is missing and
what an administrator can do. With a configuration, also whether its granted paths can be handed to plugins
and its records be stored.

Usage: upm doctor [--config FILE] [--json]

Options:
  --config FILE  Configuration file
  --json         Print JSON, with every act that was tried, instead of text

Exit status: 0 every layer can be had, 1 one cannot, 125 could not tell
";

const SERVE: &str = "\
Answer one call of whoever has connected the service's socket. A service manager starts it for each connection
(systemd: Accept=yes), which is stdin, or descriptor 3 as sd_listen_fds(3) has it. `callers` in the configuration
says who may call what; without it only root and the service's own user.

Usage: upm serve [--config FILE]

Options:
  --config FILE  Configuration file

The request is one line of JSON; the answer is the envelope, on one line:
  {\"plugin\": \"P\", \"method\": \"m\", \"args\": [], \"kwargs\": {}, \"project\": \"/DIR\", \"timeout\": \"30s\",
   \"request_id\": \"UUID\", \"progress\": true, \"verbose\": true}
  All but plugin and method may be left out. With progress and verbose such lines come before the envelope:
  {\"type\": \"progress\", \"message\": \"half\", \"fraction\": 0.5}
  {\"type\": \"stderr\", \"text\": \"what the plugin wrote\"}
  Hanging up cancels the call; {\"type\": \"cancel\", \"signal\": \"SIGINT\"} does so too, and is answered.
`upm --via SOCKET <Plugin> <method>` speaks this.

Exit status: 0 the caller was answered, 2 stdin is no connection, 125 the engine could not
";

const AUDIT: &str = "\
Show what is on record of calls: when, which method, who called, how long, how it ended, what was denied.
It reads the audit file and the journal that the configuration names. A call that was started and has no end
on record is shown as such, or as running while its process is there.

Usage: upm audit show [--request-id UUID] [--since TIME] [--plugin Plugin] [--config FILE] [--json]

Options:
  --request-id UUID  Only this call
  --since TIME       Only calls that began since then: 90s, 15m, 1h, 2d, 1w ago (or -1h); today, yesterday;
                     2026-11-24, 2026-11-24T13:00 (of this host), 2026-11-24T13:00:00Z
  --plugin Plugin    Only calls of this plugin
  --config FILE      Configuration file
  --json             Print JSON instead of text

Exit status: 0 something is shown, 1 nothing matches, 125 a file or the journal could not be read
";

/// The help of a command, or of `upm` itself for any other word.
pub(super) fn text(word: Option<&str>) -> String {
    match word {
        Some("list") => LIST.to_owned(),
        Some("explain") => EXPLAIN.to_owned(),
        Some("learn") => LEARN.to_owned(),
        Some("check") => CHECK.to_owned(),
        Some("doctor") => DOCTOR.to_owned(),
        Some("serve") => SERVE.to_owned(),
        Some("audit") => AUDIT.to_owned(),
        _ => Low::command()
            .override_usage(USAGE)
            .about(ABOUT)
            .after_help(AFTER)
            .help_template("{about}\n\nUsage: {usage}\n\nOptions:\n{options}{after-help}")
            .render_help()
            .to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::code;

    #[test]
    fn the_help_names_every_code_command_and_option() {
        let help = text(None);
        for code in code::ALL {
            assert!(help.contains(code::name(code)), "{}", code::name(code));
        }
        for command in super::super::COMMANDS {
            assert!(help.contains(&format!("upm {command}")), "{command}");
            assert!(text(Some(command)).contains(&format!("Usage: upm {command}")), "{command}");
        }
        for argument in Low::command().get_opts() {
            let option = format!("--{}", argument.get_long().unwrap());
            assert!(help.contains(&option), "{option}");
        }
        assert!(help.ends_with('\n') && !help.ends_with("\n\n"));
        assert!(help.lines().all(|line| line.chars().count() <= 110));
    }
}
