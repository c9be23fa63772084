//! Granted paths that contain one another.

use super::{Granted, Report, Severity};
use crate::decide::grant::Decision;
use crate::keys::Key;

/// What of a method's `read` and `write` grants nothing more, or something else than one may think.
pub(super) fn grants(report: &mut Report<'_>, decisions: &[Decision]) {
    for decision in decisions {
        let (read, write) = (report.paths(decision, false), report.paths(decision, true));
        for (key, list, others) in [(Key::Read, &read, &write), (Key::Write, &write, &read)] {
            let (subject, _) = report.origin(decision, key);
            for (at, one) in list.iter().enumerate() {
                let holds = |(other_at, other): &(usize, &Granted)| {
                    *other_at != at
                        && one.path.starts_with(&other.path)
                        // Of the same path twice the second is redundant.
                        && (one.path != other.path || *other_at < at)
                };
                let nearest =
                    list.iter().enumerate().filter(holds).max_by_key(|(_, other)| other.path.components().count());
                let Some((_, holder)) = nearest else { continue };
                // A path of the other list between the two makes the inner one count. On the same path `write` wins.
                let between = |other: &Granted| {
                    one.path.starts_with(&other.path)
                        && other.path.starts_with(&holder.path)
                        && (key == Key::Read || other.path != holder.path)
                };
                if one.path != holder.path && others.iter().any(between) {
                    continue;
                }
                let what = if one.path == holder.path {
                    format!("occurs twice, in line {} before", holder.line)
                } else {
                    format!("lies below {}, which is granted in line {}", holder.path.display(), holder.line)
                };
                let what = format!("{key}: {} {what}: it has no effect; remove it", one.path.display());
                report.add(Severity::Warning, subject.as_str(), one.line, what);
            }
        }
        let (subject, _) = report.origin(decision, Key::Read);
        for one in &read {
            if let Some(memory) = ["/tmp", "/dev/shm"].iter().find(|memory| one.path.starts_with(memory)) {
                report.add(
                    Severity::Note,
                    subject.as_str(),
                    one.line,
                    format!(
                        "read: {} lies below {memory}, which each call may write, and is read-only by its mount alone: landlock cannot \
                         take back what the directory above gives; move it for both layers",
                        one.path.display()
                    ),
                );
            }
            if let Some(same) = write.iter().find(|other| one.path == other.path) {
                report.add(
                    Severity::Warning,
                    subject.as_str(),
                    one.line,
                    format!(
                        "read: {} is in `write` too (line {}), which wins: it can be written; remove it from one of them",
                        one.path.display(),
                        same.line
                    ),
                );
            } else if let Some(holder) = write.iter().find(|other| one.path.starts_with(&other.path)) {
                report.add(
                    Severity::Note,
                    subject.as_str(),
                    one.line,
                    format!(
                        "read: {} lies below {} of `write` (line {}) and is read-only there, by its mount alone: landlock cannot \
                         take back what the directory above gives; grant directories apart from each other for both layers",
                        one.path.display(),
                        holder.path.display(),
                        holder.line
                    ),
                );
            }
        }
    }
}
