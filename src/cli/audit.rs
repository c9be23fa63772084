//! `upm audit show`: the story of each call, from the audit file, the journal, or both.

mod journal;

use super::options::{Config as ConfigFile, Json};
use super::print::failed;
use super::since;
use super::values::{self, value};
use crate::audit::journald;
use crate::audit::refusals;
use crate::audit::sinks::{JOURNALD_SOCKET, default_file};
use crate::audit::trail::{CallState, CountedRefusals, DenialRecord, Kind, Records, Story, Trail, Wanted};
use crate::config::{self, Audit, ConfigError, ConfigErrorKind, JournaldMode};
use crate::report::complain;
use crate::report::envelope::hostname;
use crate::report::render::write_all;
use crate::text::{escape, shorten};
use crate::types::{Code, Failure};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Where journalctl is looked for: never along the caller's `PATH`.
const JOURNALCTL: [&str; 2] = ["/usr/bin/journalctl", "/bin/journalctl"];
/// Where journals are kept.
const JOURNALS: [&str; 2] = ["/run/log/journal", "/var/log/journal"];
/// Denials of a call that the text shows.
const SHOWN: usize = 100;

const AFTER: &str = "\
Exit status:
  0     Something is shown
  1     Nothing matches
  125   A file or the journal could not be read

Examples:
    upm audit show --since today --plugin PipPlugin
";

/// Show the records of calls
///
/// Shows when each call was made, which method, who called, how long, how it ended and what was denied. The audit
/// file and the journal that the configuration names are read. A call that was started and has no end on record is
/// shown as such, or as running while its process is there.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
#[command(verbatim_doc_comment, after_help = AFTER, override_usage = "upm audit show [OPTIONS]")]
pub(super) struct Args {
    /// The only action
    #[arg(value_name = "show", value_parser = ["show"], hide_possible_values = true)]
    pub action: String,
    /// Only this call
    #[arg(long, value_name = "UUID", value_parser = value(values::request_id))]
    pub request_id: Option<uuid::Uuid>,
    /// Only calls that began since then: 90s, 15m, 1h, 2d, 1w ago; today; yesterday;
    /// 2026-11-24, 2026-11-24T13:00 (of this host); 2026-11-24T13:00:00Z
    #[arg(long, value_name = "TIME", value_parser = value(since::since), allow_hyphen_values = true, verbatim_doc_comment)]
    pub since: Option<DateTime<Utc>>,
    /// Only calls of this plugin
    #[arg(long, value_name = "Plugin", value_parser = value(values::plugin))]
    pub plugin: Option<String>,
    #[command(flatten)]
    pub config: ConfigFile,
    #[command(flatten)]
    pub json: Json,
}

/// One place where records are kept.
struct RecordSource {
    /// `journald`, or the file's path.
    name: String,
    records: Records,
    /// Why it could not be read, or not to its end.
    error: Option<String>,
}

/// Prints text or JSON, and gives the exit status.
pub(super) fn run(args: &Args) -> i32 {
    show(args).unwrap_or_else(|failure| failed(&failure))
}

/// Prints text or JSON, and gives the exit status: 0 when there is something to show, 1 when nothing matches, 125 when a
/// source could not be read. What is printed is written as it is read: it may be more than fits in memory.
///
/// # Errors
/// A named configuration that does not exist.
fn show(show: &Args) -> Result<i32, Failure> {
    let settings = settings(show.config.file.as_deref())?;
    let wanted =
        Wanted { request_id: show.request_id.map(|id| id.to_string()), plugin: show.plugin.clone(), since: show.since };
    let mut sources = Vec::new();
    sources.extend(from_journal(settings.journald, &wanted));
    let stands_by = settings.journald != JournaldMode::Required;
    if let Some(file) = settings.file.clone().or_else(|| if stands_by { default_file() } else { None }) {
        sources.push(from_file(&file, sources.first(), &wanted));
    }
    tell_waiting(settings.file.as_deref());
    if sources.is_empty() {
        return Err(Failure::new(
            Code::AuditUnavailable,
            "audit: this host has no journal, and neither XDG_STATE_HOME nor HOME says where the file is; name the configuration \
             that has audit.file with --config",
        ));
    }
    for source in &sources {
        if let Some(error) = &source.error {
            complain(format_args!("audit: {}: {}", escape(&source.name, false), escape(error, false)));
        }
        if source.records.malformed > 0 {
            complain(format_args!(
                "audit: {}: {} line(s) are not records and are left out, the first is line {}",
                escape(&source.name, false),
                source.records.malformed,
                source.records.first_malformed.unwrap_or_default()
            ));
        }
    }
    let told: Vec<Value> = sources
        .iter()
        .map(|source| {
            json!({ "source": source.name, "records": source.records.len(), "malformed": source.records.malformed, "error": source.error })
        })
        .collect();
    let failed = sources.iter().any(|source| source.error.is_some());
    // What began before `--since` is cut off, not without a beginning.
    let trail = Trail::new(sources.into_iter().map(|source| source.records).collect(), show.since.is_none());
    let exit = match (failed, trail.is_empty()) {
        (true, _) => 125,
        (false, true) => 1,
        (false, false) => 0,
    };
    match print(&trail, show.json.json.then_some(&told)) {
        Ok(0) => Ok(exit),
        Ok(unread) => {
            complain(format_args!("audit: {unread} call(s) are left out: their records could not be read again"));
            Ok(125)
        }
        Err(error) => {
            complain(format_args!("standard output: {error}"));
            Ok(125)
        }
    }
}

/// Prints each call, as JSON with what was read; returns how many could not be read again.
fn print(trail: &Trail, json: Option<&Vec<Value>>) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(64 << 10, Stdout);
    if let Some(sources) = json {
        write!(out, "{{\"sources\":{},\"calls\":[", json!(sources))?;
    }
    let (mut names, mut unread, mut comma) = (BTreeMap::new(), 0, "");
    for call in trail.stories(&hostname(), &is_running) {
        let call = match call {
            Ok(call) => call,
            Err(error) => {
                if unread == 0 {
                    complain(format_args!("audit: {}", escape(&error.to_string(), false)));
                }
                unread += 1;
                continue;
            }
        };
        if json.is_some() {
            out.write_all(std::mem::replace(&mut comma, ",").as_bytes())?;
            serde_json::to_writer(&mut out, &call)?;
        } else {
            let mut text = String::new();
            tell(&mut text, &call, &mut names);
            out.write_all(text.as_bytes())?;
        }
    }
    if json.is_some() {
        out.write_all(b"]}\n")?;
    }
    out.flush()?;
    Ok(unread)
}

/// Standard output, waited for where it does not block.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_all(io::stdout(), bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says on stderr what was counted of refused calls and has no record yet: the next connection to the service makes it.
fn tell_waiting(file: Option<&Path>) {
    match refusals::Refusals::open(&crate::audit::log::sinks_name(file), false) {
        Ok(counts) => {
            for counted in counts.iter().flat_map(refusals::Refusals::waiting) {
                let time = DateTime::from_timestamp_micros(counted.first).unwrap_or_default();
                complain(format_args!(
                    "audit: {} refused calls of uid {} since {} are counted and have no record yet",
                    counted.count,
                    counted.uid,
                    time.format("%Y-%m-%dT%H:%M:%S%.3fZ")
                ));
            }
        }
        Err(error) => complain(format_args!("audit: cannot read the number of refused calls: {error}")),
    }
}

/// `[audit]` of the configuration. Where none can be used records go where they go by default, and are looked for there.
fn settings(named: Option<&Path>) -> Result<Audit, ConfigError> {
    match config::load(named) {
        Ok(config) => Ok(config.audit),
        Err(error) if named.is_some() && error.kind == ConfigErrorKind::NotFound => Err(error),
        Err(error) => {
            if error.kind != ConfigErrorKind::NotFound {
                complain(format_args!(
                    "audit: {}; looking where records go without a configuration",
                    escape(&error.to_string(), false)
                ));
            }
            Ok(Audit::default())
        }
    }
}

/// `beside` may hold the same records.
fn from_file(path: &Path, beside: Option<&RecordSource>, wanted: &Wanted) -> RecordSource {
    let mut records = match beside {
        Some(other) => Records::beside(Kind::File, &other.records),
        None => Records::new(Kind::File),
    };
    let mut read = || {
        // A record that others could have written proves nothing.
        let trusted = match config::check_trusted(path) {
            Ok(trusted) => trusted,
            // Nothing was ever written.
            Err(error) if error.kind == ConfigErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        if trusted.is_dir {
            return Err("is a directory; a file was expected".to_owned());
        }
        records.read(trusted.file, wanted).map_err(|error| error.to_string())
    };
    let error = read().err();
    RecordSource { name: path.display().to_string(), records, error }
}

/// What the journal holds; `None` where none is used.
fn from_journal(mode: JournaldMode, wanted: &Wanted) -> Option<RecordSource> {
    if mode == JournaldMode::Off {
        return None;
    }
    let in_use = mode == JournaldMode::Required || journald::Journald::connect(Path::new(JOURNALD_SOCKET)).is_ok();
    let kept = JOURNALS.iter().any(|directory| Path::new(directory).is_dir());
    if !in_use && !kept {
        return None;
    }
    let mut records = Records::new(Kind::Journal);
    let program = JOURNALCTL.iter().map(Path::new).find(|program| program.is_file());
    let read = match program {
        None => Err(format!("{} does not exist; install systemd's journalctl", JOURNALCTL[0])),
        Some(program) => journal::journalctl(program, wanted, &mut records),
    };
    let mut source = RecordSource { name: "journald".to_owned(), records, error: read.err() };
    if !in_use {
        // No record can have gone there lately: what it will not show is worth a word, and no failure.
        if let Some(error) = source.error.take() {
            complain(format_args!("audit: journald: {} (it does not run)", escape(&error, false)));
        }
    }
    Some(source)
}

/// Whether the process that wrote a record at `time` is still there: one that took its number over began later.
fn is_running(pid: i32, time: DateTime<Utc>) -> bool {
    let began = || -> Option<u64> {
        let stat = procfs::process::Process::new(pid).ok()?.stat().ok()?;
        // A zombie does nothing any more.
        if matches!(stat.state, 'Z' | 'X') {
            return None;
        }
        Some(procfs::boot_time_secs().ok()? + stat.starttime / procfs::ticks_per_second())
    };
    // The time of the boot is known to the second.
    began().is_some_and(|began| i64::try_from(began).is_ok_and(|began| began <= time.timestamp() + 1))
}

/// One call, as text.
fn tell(text: &mut String, call: &Story, names: &mut BTreeMap<u32, Option<String>>) {
    let name = |name: &Option<String>| name.as_deref().map_or_else(|| "?".to_owned(), |name| shorten(name, 64));
    let mut user = |uid: Option<u32>| {
        let Some(uid) = uid else { return "uid ?".to_owned() };
        let known = names.entry(uid).or_insert_with(|| {
            nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| shorten(&user.name, 64))
        });
        known.as_ref().map_or_else(|| format!("uid {uid}"), |name| format!("uid {uid} ({name})"))
    };
    let caller = user(call.caller_uid);
    let login = match call.login_uid {
        Some(login) if Some(login) != call.caller_uid => format!(", logged in as {}", user(Some(login))),
        _ => String::new(),
    };
    let by = call.recorded_by.map(|uid| format!(", recorded by {}", user(Some(uid)))).unwrap_or_default();
    let code = call.code.as_deref().map(|code| shorten(code, 64));
    let end = match call.state {
        CallState::Finished => code.unwrap_or_else(|| "?".to_owned()),
        CallState::RefusalsCounted => "refusals counted".to_owned(),
        CallState::Refused => format!("refused: {}", code.unwrap_or_else(|| "?".to_owned())),
        CallState::Running => "running".to_owned(),
        CallState::NoEndRecorded => "no end recorded".to_owned(),
        CallState::NoStartRecorded => format!("no start recorded: {}", code.unwrap_or_else(|| "?".to_owned())),
    };
    if let Some(CountedRefusals { count, first, last }) = &call.refusals {
        let (first, last) = (shorten(first, 64), shorten(last, 64));
        let time = call.time.format("%Y-%m-%dT%H:%M:%S%.3fZ");
        writeln!(text, "{time}  {caller}{by}  refused {count} more calls, from {first} to {last}")
            .expect("a string grows");
        return;
    }
    let duration = call.duration_us.map(|us| format!("  {}", duration(us))).unwrap_or_default();
    let time = call.time.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    // Writing to a String cannot fail.
    let mut line = |parts: std::fmt::Arguments<'_>| {
        text.write_fmt(parts).expect("a string grows");
        text.push('\n');
    };
    line(format_args!("{time}  {}.{}  {caller}{login}{by}{duration}  {end}", name(&call.plugin), name(&call.method)));
    line(format_args!(
        "    {}  on {}, pid {}",
        shorten(&call.request_id, 64),
        shorten(&call.hostname, 64),
        call.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string())
    ));
    for DenialRecord { layer, operation, object, remedy, count, .. } in call.denials.iter().take(SHOWN) {
        let times = if *count > 1 { format!(" ({count} times)") } else { String::new() };
        line(format_args!(
            "    denied: {} {} {}{times}: {}",
            shorten(layer, 64),
            shorten(operation, 64),
            shorten(object, 256),
            shorten(remedy, 1024)
        ));
    }
    if call.denials.len() > SHOWN {
        line(format_args!("    denied: {} more; --json shows them", call.denials.len() - SHOWN));
    }
}

fn duration(us: u64) -> String {
    match us {
        0..10_000 => format!("{us} us"),
        10_000..10_000_000 => format!("{} ms", us / 1000),
        _ => format!("{} s", us / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn a_process_that_took_the_number_over_is_another_one() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(is_running(own, Utc::now()));
        assert!(!is_running(own, Utc::now() - TimeDelta::days(1000)));
        assert!(!is_running(i32::MAX, Utc::now()));
    }

    #[test]
    fn durations() {
        assert_eq!([9_999, 10_000, 9_999_999, 61_000_000].map(duration), ["9999 us", "10 ms", "9999 ms", "61 s"]);
    }
}
