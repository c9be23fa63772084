//! Who owns granted paths.

use super::callers;
use crate::decide::grant::Decision;
use crate::decide::plan::Facts;
use crate::keys::Key;
use crate::text::shell;
use crate::types::{Code, Details, Failure};
use crate::walk::{self, How};
use std::path::Path;

/// When root calls, a plugin gets the rights of a granted path's owner. Refuses a path of `read` or `write` that somebody other
/// than its owner and root could have placed, and a path of `write` that root or root's group owns: what the plugin writes
/// there would belong to root. `confine::trees` checks the mounted descriptor again.
///
/// # Errors
/// `config_invalid`, with the path, the configuration line, and what to do.
pub fn refuse_roots(decision: &Decision, facts: &Facts) -> Result<(), Failure> {
    if facts.caller_uid != 0 {
        return Ok(());
    }
    let (grant, outside) = (&decision.grant, facts.outside_uid);
    refuse_written(decision, facts)?;
    grant.read.iter().try_for_each(|path| refuse_chosen(decision, outside, Key::Read, path))?;
    grant.write.iter().try_for_each(|path| refuse_chosen(decision, outside, Key::Write, path))
}

/// Refuses a path of `write` that root or root's group owns.
fn refuse_written(decision: &Decision, facts: &Facts) -> Result<(), Failure> {
    for path in decision.grant.write.iter().filter(|_| !decision.grant.as_root_owner) {
        // If it does not exist or cannot be opened, creating or opening it reports the error.
        let Ok(found) = walk::find(path, How::NoLinks) else { continue };
        let stat = found.stat();
        let (user, group, whose) = match (stat.st_uid, stat.st_gid) {
            (0, _) => (facts.outside_uid, facts.outside_gid, "root"),
            (uid, 0) => {
                let known = nix::unistd::User::from_uid(uid.into()).ok().flatten();
                (uid, known.map_or(uid, |user| user.gid.as_raw()), "root's group")
            }
            _ => continue,
        };
        let line = decision.grant.origins[Key::Write].line;
        let place = line.map_or_else(String::new, |line| format!(":{line}"));
        let remedy = format!(
            "give it to an unprivileged user with `chown {user}:{group} {}` (`chown -R` for its existing contents), or grant \
             as_root_owner = true if root's files there may be untrusted",
            shell(path)
        );
        return Err(Failure::new(
            Code::ConfigInvalid,
            format!(
                "{}: write ({}{place}): {whose} owns it, so what the plugin writes there would belong to root; {remedy}",
                path.display(),
                decision.config.display(),
            ),
        )
        .with(Details::Granted { key: Key::Write, path: Details::path(path), line, remedy }));
    }
    Ok(())
}

/// Refuses a path that somebody other than its owner could have replaced, or added entries to if it is root's: the plugin gets
/// the owner's rights there. Paths of its own user `outside` are accepted.
fn refuse_chosen(decision: &Decision, outside: u32, key: Key, path: &Path) -> Result<(), Failure> {
    let Ok(found) = walk::find(path, How::NoLinks) else { return Ok(()) };
    let owner = (found.stat().st_uid, found.stat().st_gid);
    if owner.0 == outside && owner.1 != 0 {
        return Ok(());
    }
    let Some((where_from, _)) = found.chosen_by_others(owner, !decision.grant.as_root_owner) else { return Ok(()) };
    let line = decision.grant.origins[key].line;
    let place = line.map_or_else(String::new, |line| format!(":{line}"));
    let (why, remedy) = lent(owner, path, &where_from);
    Err(Failure::new(
        Code::ConfigInvalid,
        format!("{}: {} ({}{place}): {why}; {remedy}", path.display(), key.name(), decision.config.display()),
    )
    .with(Details::Granted { key, path: Details::path(path), line, remedy }))
}

/// Why a plugin does not get the rights of `owner` if others may change `changed`, and the fix.
fn lent(owner: (u32, u32), path: &Path, changed: &Path) -> (String, String) {
    let roots = owner.0 == 0 || owner.1 == 0;
    let (whose, others) = if roots {
        ("root or root's group".to_owned(), "root".to_owned())
    } else {
        let user = callers::shown(owner.0);
        (format!("user {user}"), "that user and root".to_owned())
    };
    let lent = "a plugin gets the rights of a granted path's owner";
    if path == changed {
        let why = format!("{whose} owns it, but users other than {others} can move root's files into it, and {lent}");
        let remedy = match owner.0 {
            0 => format!("run `chmod go-w {0}`, or give {0} to an unprivileged user with `chown`", shell(path)),
            user => format!("give it one of its owner's groups with `chown {user}:GROUP {}`", shell(path)),
        };
        return (why, remedy);
    }
    let why = format!(
        "{whose} owns it, but users other than {others} can change {} and could have put it there, and {lent}",
        changed.display()
    );
    let remedy = if roots {
        format!(
            "give {} to an unprivileged user with `chown`, or move it to a directory that only root can write to",
            shell(path)
        )
    } else {
        format!(
            "give {} to the owner of the directory above with `chown`, or move it to a directory that only {others} can write to",
            shell(path)
        )
    };
    (why, remedy)
}
