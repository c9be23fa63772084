//! Whether calls and `upm check` would accept a change of the configuration: it is made in a copy, and checked as
//! they do.

use super::check::can_be_shown;
use crate::call;
use crate::config::Config;
use crate::decide::grant::Decision;
use crate::host::grantable;
use crate::types::Change;

/// The configuration with `change` in it, and what it then says of the same method and project. Nothing is written.
///
/// # Errors
/// A sentence: what it would be refused for.
pub fn made(config: &Config, decision: &Decision, change: &Change) -> Result<(Config, Decision), String> {
    grantable::paths(decision, change)?;
    let (_, changed) = config.changed(change).map_err(|error| error.to_string())?;
    let project = Some(decision.project_root.as_path()).filter(|root| *root != changed.project_root);
    let decided = call::decide(&changed, &decision.plugin, &decision.method, project);
    let decided = decided.map_err(|failure| failure.message)?;
    call::trusted_facts(&decided).map_err(|failure| failure.message)?;
    let before = [&decision.grant.read, &decision.grant.write];
    for path in decided.grant.read.iter().chain(&decided.grant.write) {
        if before.iter().any(|list| list.contains(path)) {
            continue;
        }
        let made = [&decided.project_root, &decided.cache_dir].iter().any(|dir| dir.starts_with(path));
        can_be_shown(path, made).map_err(|why| format!("{}: {why}", path.display()))?;
    }
    Ok((changed, decided))
}
