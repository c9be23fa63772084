//! What this host must have for the configuration, as upm is started now: a service may be started otherwise.

use super::{Report, Severity};
use crate::decide::grant::Decision;
use crate::keys::Key;
use crate::supervise::cgroup;

/// Methods whose memory only a cgroup may count, if no cgroup is available.
pub(super) fn cgroups(report: &mut Report<'_>, decisions: &[Decision]) {
    let wanting = || decisions.iter().filter(|decision| decision.grant.require_cgroup);
    if wanting().next().is_none() {
        return;
    }
    let (serves, found, remedy) = cgroup::describe(None, true);
    if serves {
        return;
    }
    for decision in wanting() {
        let (subject, line) = report.origin(decision, Key::RequireCgroup);
        let what = format!(
            "require_cgroup: a call would be refused when upm is started as it is now: {found}; {}",
            remedy.as_deref().unwrap_or_default()
        );
        report.add(Severity::Warning, subject, line, what);
    }
}
