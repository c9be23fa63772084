//! Whom the writable paths of a grant belong to.

use crate::decide::grant::Decision;
use crate::decide::plan::Facts;
use crate::quote::shell;
use crate::types::{Code, Details, Failure, Key};
use crate::walk::{self, How};
use std::path::Path;

/// Refuses what root or its group owns where others than root could have placed it, and a path of `write` that root or root's group owns, when root calls: what the plugin writes there would be root's. The descriptor
/// that is mounted is looked at once more, by `confine::trees`.
///
/// # Errors
/// `config_invalid`, naming the path, the line of the configuration, and what to do.
pub fn refuse_roots(decision: &Decision, facts: &Facts) -> Result<(), Failure> {
    if facts.caller_uid != 0 {
        return Ok(());
    }
    let grant = &decision.grant;
    grant.read.iter().try_for_each(|path| refuse_placed(decision, Key::Read, path))?;
    grant.write.iter().try_for_each(|path| refuse_placed(decision, Key::Write, path))?;
    if grant.as_root_owner {
        return Ok(());
    }
    for path in &decision.grant.write {
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
        let line = decision.grant.origins.get("write").and_then(|origin| origin.line);
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

/// Refuses what root or its group owns where somebody else could have put it in the place of what was meant: a plugin is lent
/// what the owner of a granted path may.
fn refuse_placed(decision: &Decision, key: Key, path: &Path) -> Result<(), Failure> {
    let Ok(found) = walk::find(path, How::NoLinks) else { return Ok(()) };
    if found.stat().st_uid != 0 && found.stat().st_gid != 0 {
        return Ok(());
    }
    let Some((above, _)) = found.placed_by_others() else { return Ok(()) };
    let line = decision.grant.origins.get(key.name()).and_then(|origin| origin.line);
    let place = line.map_or_else(String::new, |line| format!(":{line}"));
    let remedy =
        format!("give {} to an unprivileged user with `chown`, or move it to where root alone may write", shell(path));
    Err(Failure::new(
        Code::ConfigInvalid,
        format!(
            "{}: {} ({}{place}): root or its group owns it, but others than root may change {} and could have put it there; \
             {remedy}",
            path.display(),
            key.name(),
            decision.config.display(),
            above.display(),
        ),
    )
    .with(Details::Granted { key, path: Details::path(path), line, remedy }))
}
