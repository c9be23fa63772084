//! Whom the writable paths of a grant belong to.

use super::callers;
use crate::decide::grant::Decision;
use crate::decide::plan::Facts;
use crate::keys::Key;
use crate::quote::shell;
use crate::types::{Code, Details, Failure};
use crate::walk::{self, How};
use std::path::Path;

/// When root calls, refuses a path of `read` or `write` where others than its owner and root could have chosen what the plugin
/// is lent that owner's rights to, and a path of `write` that root or root's group owns: what the plugin writes there would be
/// root's. The descriptor that is mounted is looked at once more, by `confine::trees`.
///
/// # Errors
/// `config_invalid`, naming the path, the line of the configuration, and what to do.
pub fn refuse_roots(decision: &Decision, facts: &Facts) -> Result<(), Failure> {
    if facts.caller_uid != 0 {
        return Ok(());
    }
    let (grant, outside) = (&decision.grant, facts.outside_uid);
    refuse_written(decision, facts)?;
    grant.read.iter().try_for_each(|path| refuse_chosen(decision, outside, Key::Read, path))?;
    grant.write.iter().try_for_each(|path| refuse_chosen(decision, outside, Key::Write, path))
}

/// Refuses to have written what root or its group owns.
fn refuse_written(decision: &Decision, facts: &Facts) -> Result<(), Failure> {
    for path in decision.grant.write.iter().filter(|_| !decision.grant.as_root_owner) {
        // What is not there, or cannot be opened so, is told of by whoever makes or opens it.
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
            "give it to an unprivileged user with `chown {user}:{group} {}` (`chown -R` for what it holds already), or grant \
             as_root_owner = true knowing that root trusts what it owns",
            shell(path)
        );
        return Err(Failure::new(
            Code::ConfigInvalid,
            format!(
                "{}: write ({}{place}): {whose} owns it, so what the plugin wrote there would be root's; {remedy}",
                path.display(),
                decision.config.display(),
            ),
        )
        .with(Details::Granted { key: Key::Write, path: Details::path(path), line, remedy }));
    }
    Ok(())
}

/// Refuses what somebody else than its owner could have put in the place of what was meant, or into it where it is root's: a
/// plugin is lent what the owner of a granted path may, and is its own user `outside` anyway.
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

/// Why what `owner` owns is not lent where others may change `changed`, and what mends it.
fn lent(owner: (u32, u32), path: &Path, changed: &Path) -> (String, String) {
    let roots = owner.0 == 0 || owner.1 == 0;
    let (whose, others) = if roots {
        ("root or its group".to_owned(), "root".to_owned())
    } else {
        let user = callers::shown(owner.0);
        (format!("user {user}"), "that user and root".to_owned())
    };
    let lent = "a plugin is lent what the owner of a granted path may";
    if path == changed {
        let why = format!("{whose} owns it, but others than {others} may add to it what is root's, and {lent}");
        let remedy = match owner.0 {
            0 => format!("run `chmod go-w {0}`, or give {0} to an unprivileged user with `chown`", shell(path)),
            user => format!("give it a group of its owner's with `chown {user}:GROUP {}`", shell(path)),
        };
        return (why, remedy);
    }
    let why = format!(
        "{whose} owns it, but others than {others} may change {} and could have put it there, and {lent}",
        changed.display()
    );
    let remedy = if roots {
        format!("give {} to an unprivileged user with `chown`, or move it to where root alone may write", shell(path))
    } else {
        format!(
            "give {} to the owner of the directory above with `chown`, or move it to where {others} alone may write",
            shell(path)
        )
    };
    (why, remedy)
}
