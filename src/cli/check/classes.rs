//! What the plugin's own interpreter sees of its module, class and methods.

use super::{Report, Severity, cannot_tell};
use crate::decide::grant::Decision;
use crate::keys::Key;
use crate::plugin::classes::{ClassState, Inspection, MethodState, ModuleState, OLDEST_PYTHON};
use crate::text::shorten;
use crate::types::Failure;

/// The reader gave no answer.
pub(super) fn not_looked(report: &mut Report<'_>, decision: &Decision, failure: &Failure) {
    let (subject, line) = report.origin(decision, Key::Interpreter);
    let interpreter = decision.grant.interpreter.display();
    if cannot_tell(failure) {
        let what = format!("cannot determine whether the class exists: {}", failure.message);
        report.add(Severity::Unknown, subject, line, what);
        return;
    }
    let what = format!(
        "interpreter: {interpreter}: runs no plugin: {}; name a Python of version {}.{} or newer",
        failure.message, OLDEST_PYTHON.0, OLDEST_PYTHON.1
    );
    report.add(Severity::Error, subject, line, what);
}

/// What was seen of the module and the class.
pub(super) fn class(report: &mut Report<'_>, decision: &Decision, module: &str, look: &Inspection) {
    if let Some((subject, line, what)) = unusable(report, decision, module, look) {
        return report.add(Severity::Error, subject, line, what);
    }
    let name = decision.plugin.as_str();
    let file = look.file.clone().unwrap_or_default();
    if let Some(problem) = &look.problem {
        let message = shorten(&problem.message, 400);
        let what = format!("{} cannot read it: {message}", decision.grant.interpreter.display());
        return report.add_in(Severity::Error, name, &file, problem.line, what);
    }
    let line = report.line(&["plugins", name]);
    match look.class {
        ClassState::Missing => report.add(
            Severity::Error,
            name,
            line,
            format!("{name}: no such class in {}; the key is the name of the class", file.display()),
        ),
        ClassState::NoClass => report.add(
            Severity::Error,
            name,
            line,
            format!("{name}: is not a class in {} (line {})", file.display(), look.class_line.unwrap_or(1)),
        ),
        ClassState::There | ClassState::Unknown => {}
    }
    if let Some(lacking) = look.lacking.as_deref().filter(|lacking| !lacking.is_empty()) {
        let names: Vec<String> = lacking.iter().take(20).map(|name| shorten(name, 80)).collect();
        report.add_in(
            Severity::Error,
            name,
            &file,
            look.init_line.unwrap_or(1),
            format!(
                "{name}.__init__ requires {}, which upm does not pass; give each a default (upm gives project_root, cache_dir, policy, \
                 fernet_lib, by keyword)",
                names.join(", ")
            ),
        );
    }
}

/// An interpreter that is too old, or a module that cannot be read: what is wrong, and where.
fn unusable(
    report: &Report<'_>,
    decision: &Decision,
    module: &str,
    look: &Inspection,
) -> Option<(String, usize, String)> {
    let interpreter = decision.grant.interpreter.display();
    if (look.python.0, look.python.1) < OLDEST_PYTHON {
        let (subject, line) = report.origin(decision, Key::Interpreter);
        let (major, minor, micro) = look.python;
        let what = format!(
            "interpreter: {interpreter}: is Python {major}.{minor}.{micro}, which is too old; name one of version {}.{} or newer",
            OLDEST_PYTHON.0, OLDEST_PYTHON.1
        );
        return Some((subject, line, what));
    }
    let what = match look.module {
        ModuleState::Missing => format!(
            "module {module}: {interpreter} finds no such module, or its files may not be read by the plugin's user; correct its name or its mode"
        ),
        ModuleState::Namespace => {
            format!("module {module}: is a directory without __init__.py, which holds no class; name the module in it")
        }
        ModuleState::Unreadable => {
            let file = look.file.clone().unwrap_or_default();
            format!(
                "module {module}: {}: may not be read by the plugin's user; fix it with: chmod go+r {}",
                file.display(),
                crate::text::shell(&file)
            )
        }
        ModuleState::Unknown | ModuleState::Source => return None,
    };
    let name = decision.plugin.as_str();
    Some((name.to_owned(), report.line(&["plugins", name, "module"]), what))
}

/// What was found about one method, and about what its grant passes to the class.
pub(super) fn method(report: &mut Report<'_>, decision: &Decision, look: &Inspection) {
    let (name, method) = (decision.plugin.as_str(), decision.method.as_str());
    let subject = format!("{name}.{method}");
    let file = look.file.clone().unwrap_or_default();
    let plugin = report.config.plugins.get(name);
    let at = plugin.and_then(|plugin| plugin.allowed_methods.iter().position(|allowed| allowed == method));
    let lines = report.config.outline.items(&["plugins", name, "allowed_methods"]);
    let line = at.and_then(|at| lines.get(at).copied()).unwrap_or_else(|| report.line(&["plugins", name]));
    let place = format!("{}:{}", file.display(), look.class_line.unwrap_or(1));
    let why = match look.methods.get(method) {
        Some(MethodState::Missing) => {
            Some(format!("{name} ({place}) has no such method; remove it, or correct its name"))
        }
        Some(MethodState::Property) => {
            Some(format!("of {name} ({place}) is a property; only version, info, meta and __introspect__ may be one"))
        }
        Some(MethodState::Class) => Some(format!("of {name} ({place}) is a class, which cannot be called")),
        Some(MethodState::Value) => {
            Some(format!("of {name} ({place}) is a value; only version, info, meta and __introspect__ may be one"))
        }
        Some(MethodState::There | MethodState::Unknown) | None => None,
    };
    if let Some(why) = why {
        report.add(Severity::Error, subject, line, format!("{method}: {why}"));
    }
    let Some(given) = &look.given else { return };
    for (key, parameter, set) in
        [(Key::Policy, "policy", !decision.grant.policy.is_empty()), (Key::Fernet, "fernet_lib", decision.grant.fernet)]
    {
        if set && !given.iter().any(|one| one == parameter) {
            let (subject, line) = report.origin(decision, key);
            // `[defaults]` may be meant for other plugins.
            if subject != "defaults" {
                let what = format!(
                    "`{key}` has no effect: {name} ({place}) has no __init__ that takes {parameter}; remove it, or take it"
                );
                report.add(Severity::Warning, subject, line, what);
            }
        }
    }
}
