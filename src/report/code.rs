//! The names of failures and the exit status that each ends with.
#![forbid(unsafe_code)]

use crate::types::{Code, Failure};
use nix::sys::signal::Signal;

/// Every code, in the order of the exit statuses. `response.schema.json` lists the same names.
pub const ALL: [Code; 25] = [
    Code::PluginRaised,
    Code::PluginExited,
    Code::ProtocolViolation,
    Code::ResultNotSerializable,
    Code::ResultTooLarge,
    Code::Usage,
    Code::ArgumentsInvalid,
    Code::Timeout,
    Code::ConfigInvalid,
    Code::SandboxUnavailable,
    Code::SandboxFailed,
    Code::AuditUnavailable,
    Code::Internal,
    Code::PluginNotAllowed,
    Code::MethodNotAllowed,
    Code::DigestMismatch,
    Code::CallerNotAllowed,
    Code::ModuleNotFound,
    Code::ClassNotFound,
    Code::MethodNotFound,
    Code::PluginKilled,
    Code::MemoryExceeded,
    Code::CpuTimeExceeded,
    Code::Violation,
    Code::Cancelled,
];

/// The stable name, as `data.code` and `UPM_CODE` carry it.
#[must_use]
pub fn name(code: Code) -> &'static str {
    match code {
        Code::PluginRaised => "plugin_raised",
        Code::PluginExited => "plugin_exited",
        Code::ProtocolViolation => "protocol_violation",
        Code::ResultNotSerializable => "result_not_serializable",
        Code::ResultTooLarge => "result_too_large",
        Code::Usage => "usage",
        Code::ArgumentsInvalid => "arguments_invalid",
        Code::Timeout => "timeout",
        Code::ConfigInvalid => "config_invalid",
        Code::SandboxUnavailable => "sandbox_unavailable",
        Code::SandboxFailed => "sandbox_failed",
        Code::AuditUnavailable => "audit_unavailable",
        Code::Internal => "internal",
        Code::PluginNotAllowed => "plugin_not_allowed",
        Code::MethodNotAllowed => "method_not_allowed",
        Code::DigestMismatch => "digest_mismatch",
        Code::CallerNotAllowed => "caller_not_allowed",
        Code::ModuleNotFound => "module_not_found",
        Code::ClassNotFound => "class_not_found",
        Code::MethodNotFound => "method_not_found",
        Code::PluginKilled => "plugin_killed",
        Code::MemoryExceeded => "memory_exceeded",
        Code::CpuTimeExceeded => "cpu_time_exceeded",
        Code::Violation => "violation",
        Code::Cancelled => "cancelled",
    }
}

/// The exit status of `upm` for this failure, 1–255.
///
/// `plugin_killed` and `cancelled` end with 128 + the signal, as a shell reports it; without a known signal they
/// count as `SIGKILL` and `SIGTERM`.
#[must_use]
pub fn exit_code(failure: &Failure) -> i32 {
    match failure.code {
        Code::PluginRaised
        | Code::PluginExited
        | Code::ProtocolViolation
        | Code::ResultNotSerializable
        | Code::ResultTooLarge => 1,
        Code::Usage | Code::ArgumentsInvalid => 2,
        Code::Timeout => 124,
        Code::ConfigInvalid
        | Code::SandboxUnavailable
        | Code::SandboxFailed
        | Code::AuditUnavailable
        | Code::Internal => 125,
        Code::PluginNotAllowed | Code::MethodNotAllowed | Code::DigestMismatch | Code::CallerNotAllowed => 126,
        Code::ModuleNotFound | Code::ClassNotFound | Code::MethodNotFound => 127,
        Code::PluginKilled => 128 + signal(failure, Signal::SIGKILL as i32),
        Code::MemoryExceeded => 137,
        Code::CpuTimeExceeded => 152,
        Code::Violation => 159,
        Code::Cancelled => 128 + signal(failure, Signal::SIGTERM as i32),
    }
}

/// Linux numbers signals 1–64; anything else would wrap in the eight bits of an exit status.
fn signal(failure: &Failure, otherwise: i32) -> i32 {
    failure.signal.filter(|number| (1..=64).contains(number)).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: Code) -> i32 {
        exit_code(&Failure::new(code, "x"))
    }

    #[test]
    fn names_are_those_that_serde_writes() {
        for code in ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), name(code));
        }
        let mut names: Vec<_> = ALL.iter().map(|code| name(*code)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 25);
    }

    #[test]
    fn every_code_has_the_exit_status_of_the_table() {
        let table = [
            (1, &ALL[0..5]),
            (2, &ALL[5..7]),
            (124, &ALL[7..8]),
            (125, &ALL[8..13]),
            (126, &ALL[13..17]),
            (127, &ALL[17..20]),
            (137, &ALL[21..22]),
            (152, &ALL[22..23]),
            (159, &ALL[23..24]),
        ];
        for (status, codes) in table {
            for code in codes {
                assert_eq!(exit(*code), status, "{}", name(*code));
            }
        }
    }

    #[test]
    fn killed_and_cancelled_carry_the_signal() {
        for (code, number, status) in [
            (Code::PluginKilled, 11, 139),
            (Code::PluginKilled, 31, 159),
            (Code::Cancelled, 1, 129),
            (Code::Cancelled, 2, 130),
            (Code::Cancelled, 15, 143),
        ] {
            assert_eq!(exit_code(&Failure { signal: Some(number), ..Failure::new(code, "x") }), status);
        }
        assert_eq!(exit(Code::PluginKilled), 137);
        assert_eq!(exit(Code::Cancelled), 143);
        assert_eq!(exit_code(&Failure { signal: Some(200), ..Failure::new(Code::PluginKilled, "x") }), 137);
    }
}
