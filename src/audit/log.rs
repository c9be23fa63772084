//! The audit of one call, from its first record to its last.
#![forbid(unsafe_code)]

use super::record::{Event, Record};
use super::refusals::{Counted, Recording, Refusals};
use super::sinks::Sinks;
use crate::config::{self, Config};
use crate::decide::arguments::Checked;
use crate::decide::plan::Plan;
use crate::plugin::digest;
use crate::report::complain;
use crate::report::envelope;
use crate::types::{Caller, Code, Failure, Outcome, sha256_hex};
use chrono::{DateTime, Utc};
use std::path::Path;
use std::time::Instant;
use uuid::Uuid;

/// The audit of one call: every record has what was known by then.
pub(crate) struct Log {
    started: Instant,
    sinks: Option<Sinks>,
    /// What the sinks are, as [`Refusals`] tells sets of them apart.
    named: String,
    record: Record,
    begun: bool,
    /// Whether the call came over the service's socket.
    pub(crate) by_socket: bool,
    /// Whether the caller of a service may call anything.
    pub(crate) may_call: bool,
}

impl Log {
    /// Of a call that is being made; no sink is open yet.
    pub(crate) fn new(request_id: &str, plugin: &str, method: &str, caller: &Caller) -> Self {
        let mut record = Record::new(Event::CallRefused, request_id, caller.uid, caller.login_uid);
        record.caller_gid = Some(caller.gid);
        record.caller_pid = caller.pid;
        record.plugin = (!plugin.is_empty()).then(|| plugin.to_owned());
        record.method = (!method.is_empty()).then(|| method.to_owned());
        let started = Instant::now();
        Log { started, sinks: None, named: String::new(), record, begun: false, by_socket: false, may_call: false }
    }

    /// Opens the sinks that the configuration names, or the default ones where there is none.
    pub(crate) fn open(&mut self, config: Option<&Config>) -> Result<(), Failure> {
        let audit = config.map(|config| &config.audit);
        self.named = sinks_name(audit.and_then(|audit| audit.file.as_deref()));
        self.sinks = Some(Sinks::of(audit)?);
        Ok(())
    }

    /// Records what was counted of refused calls and is due. It holds no call up: what cannot be recorded now stays counted.
    pub(crate) fn counted(&mut self) {
        if !self.by_socket {
            return;
        }
        let opened = Refusals::open(&self.named, false);
        if let Err(error) =
            opened.and_then(|counts| counts.map_or(Ok(()), |mut counts| self.close_windows(&mut counts)))
        {
            complain(format_args!("refused calls that were counted cannot be recorded now: {error}"));
        }
    }

    fn close_windows(&mut self, counts: &mut Refusals) -> std::io::Result<()> {
        counts.close_windows(Utc::now().timestamp_micros(), &mut |counted: Counted| {
            let event =
                Event::RefusalsCounted { count: counted.count, first: stamp(counted.first), last: stamp(counted.last) };
            self.store(&Record::new(event, Uuid::now_v7().to_string(), counted.uid, None)).is_ok()
        })
    }

    /// What is to be done with this refusal: one over the socket, by another user than root and the service's own (who could
    /// write the audit themselves), may be one of many. Not so what a caller who may call something was refused by policy, or for
    /// what the host is like: calls of that user are recorded one by one too.
    fn limit(&mut self, code: Code) -> Recording {
        let uid = self.record.caller_uid;
        let malformed = match code {
            Code::ArgumentsInvalid | Code::Cancelled | Code::Timeout => true,
            // Of a request that was understood it is the project.
            Code::Usage => self.record.plugin.is_none(),
            _ => false,
        };
        if self.may_call && !malformed {
            return Recording::Record;
        }
        if !self.by_socket || self.begun || uid == 0 || uid == nix::unistd::getuid().as_raw() {
            return Recording::Record;
        }
        let noted = Refusals::open(&self.named, true).and_then(|counts| {
            let mut counts = counts.ok_or(std::io::ErrorKind::NotFound)?;
            self.close_windows(&mut counts)?;
            counts.note(uid, Utc::now().timestamp_micros())
        });
        noted.unwrap_or_else(|error| {
            complain(format_args!("refused calls cannot be counted, each is recorded: {error}"));
            Recording::Record
        })
    }

    pub(crate) fn arguments(&mut self, text: &[u8]) {
        self.record.args_sha256 = Some(sha256_hex(text));
    }

    pub(crate) fn planned(&mut self, plan: &Plan) -> Result<(), Failure> {
        self.record.policy_sha256 = Some(plan.sha256().to_owned());
        let digest = digest::tree(&plan.code)
            .map_err(|error| Failure::new(Code::ModuleNotFound, format!("{}: {error}", plan.code.display())))?;
        self.record.plugin_sha256 = Some(digest);
        Ok(())
    }

    pub(crate) fn started(&mut self, arguments: &Checked, say: config::AuditArguments) -> Result<(), Failure> {
        let mut record = Record { event: Event::CallStarted, ..self.record.clone() };
        if say == config::AuditArguments::Full {
            record.arguments = Some(arguments.document());
        }
        self.store(&record)?;
        self.begun = true;
        Ok(())
    }

    /// Every denial, then the end. A record that no sink takes fails the call: what it did would go unrecorded.
    pub(crate) fn finished(&mut self, outcome: &Outcome) -> Result<(), Failure> {
        for explained in &outcome.denials {
            self.store(&Record { event: Event::Denial(Box::new(explained.clone())), ..self.record.clone() })?;
        }
        let failure = outcome.result.as_ref().err();
        let denials =
            outcome.denials.iter().map(|explained| explained.denial.count).sum::<u64>() + outcome.denials_dropped;
        self.end(Event::CallFinished, failure.map(|failure| failure.code), Some(denials))
    }

    /// A call that never ran. Nothing is left to be refused when this cannot be stored, so it is only said.
    pub(crate) fn refused(&mut self, failure: &Failure) {
        if self.sinks.is_none() && failure.code != Code::AuditUnavailable {
            // Without a usable configuration the default sinks are all there is.
            if let Err(error) = self.open(None) {
                complain(format_args!("this refusal is not recorded: {}", error.message));
                return;
            }
        }
        match self.limit(failure.code) {
            Recording::Record => {}
            Recording::Last { until } => self.record.limited_until = Some(stamp(until)),
            Recording::Counted => return,
        }
        let event = if self.begun { Event::CallFinished } else { Event::CallRefused };
        if let Err(error) = self.end(event, Some(failure.code), None) {
            if failure.code != Code::AuditUnavailable {
                complain(format_args!("this refusal is not recorded: {}", error.message));
            }
        }
    }

    fn end(&mut self, event: Event, code: Option<Code>, denials: Option<u64>) -> Result<(), Failure> {
        let duration = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let record = Record { event, code, denials, duration_us: Some(duration), ..self.record.clone() };
        self.store(&record)
    }

    fn store(&mut self, record: &Record) -> Result<(), Failure> {
        let Some(sinks) = &mut self.sinks else {
            return Err(Failure::new(Code::AuditUnavailable, "no audit sink is open"));
        };
        let stored = sinks.store(record)?;
        for failed in stored.failed {
            complain(format_args!("audit: {failed}"));
        }
        Ok(())
    }
}

/// A time in microseconds since 1970, as records have it.
fn stamp(micros: i64) -> String {
    envelope::stamp(DateTime::from_timestamp_micros(micros).unwrap_or_default())
}

/// The name by which [`Refusals`] knows the sinks that a configuration names.
pub(crate) fn sinks_name(file: Option<&Path>) -> String {
    file.map_or_else(String::new, |file| file.to_string_lossy().into_owned())
}
