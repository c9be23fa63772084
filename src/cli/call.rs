//! `upm <Plugin> <method>`: the call, made here or by a service.

use super::options::Call;
use super::print::{Screen, answer};
use super::usage::UsageError;
use super::via;
use crate::call::{self, CallArgs};
use clap::ValueHint;
use std::path::PathBuf;
use uuid::Uuid;

const AFTER: &str = r#"Configuration:
  The first of --config FILE, $UPM_CONFIG_PATH, ./upm_config.toml, ./upm_config.json,
  $XDG_CONFIG_HOME/upm/upm_config.toml (not as root), /etc/upm/upm_config.toml

Exit status:
  0       The method returned
  1       The method failed: plugin_raised, plugin_exited, protocol_violation,
          result_not_serializable, result_too_large
  2       The caller made a mistake: usage, arguments_invalid
  124     The time limit was reached: timeout
  125     The engine failed: config_invalid, sandbox_unavailable, sandbox_failed,
          audit_unavailable, internal
  126     Not allowed: plugin_not_allowed, method_not_allowed, digest_mismatch, caller_not_allowed
  127     Not found: module_not_found, class_not_found, method_not_found
  128+N   Killed by signal N: plugin_killed, memory_exceeded (137), cpu_time_exceeded (152),
          violation (159), cancelled (129, 130, 143)

  The names are data.code of the answer; response.schema.json describes the whole answer.

Environment:
  UPM_CONFIG_PATH   Configuration file, when --config is not given
  NO_COLOR          No colour at a terminal, when set and not empty
  XDG_CONFIG_HOME   Where a user's configuration is
  XDG_STATE_HOME    Where a user's audit file is, and the record of what calls may write

Examples:
    upm PipPlugin install '{"args": ["requests"]}'
    upm PipPlugin list --project /srv/shop | jq .data.result
    echo '{"kwargs": {"name": "requests"}}' | upm PipPlugin info - --timeout 30s
    upm explain PipPlugin install --may 'connect index.example:443' && echo yes
    upm --via /run/upm/upm.sock PipPlugin list
"#;

/// Run one allowed method of one allowed plugin in a sandbox
///
/// The answer is always one JSON document and a newline on stdout; at a terminal it is indented.
/// Everything else goes to stderr.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
#[command(verbatim_doc_comment, after_help = AFTER)]
pub(super) struct Args {
    #[command(flatten)]
    call: Call,
    /// Let the service at this socket make the call; it has its own configuration
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    via: Option<PathBuf>,
}

impl Args {
    /// What clap does not see: the service has its own configuration.
    pub fn checked(self) -> Result<Self, UsageError> {
        if self.via.is_some() && self.call.config.file.is_some() {
            return Err(UsageError::new(
                "--config: not with --via: the service that is called has its own configuration; leave it out",
            ));
        }
        Ok(self)
    }

    /// The service that makes the call, and the call.
    pub fn into_parts(self) -> (Option<PathBuf>, CallArgs) {
        (self.via, self.call.into())
    }

    /// Whether a service makes the call.
    pub fn is_elsewhere(&self) -> bool {
        self.via.is_some()
    }

    /// `--request-id`.
    pub fn request_id(&self) -> Option<Uuid> {
        self.call.request_id
    }
}

/// Makes the call, prints its answer, and gives its exit status.
pub(super) fn run(args: Args) -> i32 {
    let (via, call) = args.into_parts();
    if let Some(socket) = via {
        return via::run(&socket, &call);
    }
    let mut screen = Screen::new(call.verbose);
    let ended = call::call(&call, call::Peer::local(), &mut screen);
    screen.progress.finish();
    answer(&ended)
}
