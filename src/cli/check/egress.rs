//! Whether egress groups resolve: what clients are configured to use, and whether names have addresses that may be dialled.

use super::{Report, Severity, cannot_tell};
use crate::config::Grant;
use crate::decide::grant::Decision;
use crate::decide::plan::Facts;
use crate::gateway::{ProxyEnv, addresses, proxy, routes};
use crate::plugin::client::{self, Patience};
use crate::types::{EgressRule, EgressSource};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// For all names together.
const TIME: Duration = Duration::from_secs(5);
/// Names asked for at once.
const AT_ONCE: usize = 16;

/// Reads what clients are configured to use, then asks for all names.
pub(super) fn groups(
    report: &mut Report<'_>,
    decisions: &[Decision],
    facts: &[Option<Facts>],
    patience: &Patience<'_>,
) {
    let mut rules: Vec<(usize, EgressRule)> = Vec::new();
    let mut seen = BTreeSet::new();
    for (decision, facts) in decisions.iter().zip(facts) {
        let Some(facts) = facts else { continue };
        for group in &decision.grant.egress {
            let path = ["egress", group.name.as_str()];
            match &group.source {
                EgressSource::Hosts(_) => {
                    if !seen.insert((group.name.clone(), None)) {
                        continue;
                    }
                }
                EgressSource::Client(_) => {
                    // pip belongs to an interpreter, and `env_pass` decides which variables configure it.
                    let asks = (decision.grant.interpreter.clone(), decision.grant.env_pass.clone());
                    if !seen.insert((group.name.clone(), Some(asks))) {
                        continue;
                    }
                }
            }
            let one = Grant { egress: vec![group.clone()], ..decision.grant.clone() };
            let variable = |name: &str| std::env::var(name).ok();
            match client::resolve(&one, facts, &variable, patience) {
                Ok((found, _)) => {
                    let items = report.config.outline.items(&["egress", &group.name, "hosts"]);
                    let client_line = report.line(&[path[0], path[1], "client"]);
                    let lines = items.into_iter().chain(std::iter::repeat(client_line));
                    rules.extend(lines.zip(found));
                }
                Err(failure) => {
                    let line = report.line(&[path[0], path[1], "client"]);
                    let severity = if cannot_tell(&failure) { Severity::Unknown } else { Severity::Error };
                    report.add(severity, format!("egress.{}", group.name), line, failure.message);
                }
            }
        }
    }
    names(report, &rules);
}

/// What became of a name.
type Answers = Result<Vec<IpAddr>, String>;

/// Asks for the names that the gateway would ask for itself: no wildcards, and not what a proxy asks for.
fn names(report: &mut Report<'_>, rules: &[(usize, EgressRule)]) {
    let proxies = ProxyEnv::from_vars(|name| std::env::var(name).ok());
    let mut asked: Vec<&(usize, EgressRule)> = Vec::new();
    for one in rules {
        let (line, rule) = one;
        let pattern = &rule.pattern;
        match proxy::route(rule, &proxies, &pattern.name, pattern.port) {
            Err(why) => {
                let line = report.config.outline.line(&["egress", &rule.group, "proxy"]).unwrap_or(*line);
                report.add(Severity::Error, format!("egress.{}", rule.group), line, format!("proxy: {why}"));
            }
            Ok(Some(_)) => {}
            Ok(None) if pattern.wildcard => {}
            Ok(None) => asked.push(one),
        }
    }
    if asked.is_empty() {
        return;
    }
    let own = match addresses::own_addresses() {
        Ok(own) => own,
        Err(error) => {
            let what = format!("cannot determine this host's own addresses: {error}");
            return report.add(Severity::Unknown, "configuration", asked[0].0, what);
        }
    };
    if let Err(error) = crate::sys::process::resolve_names_as_written() {
        let what = format!("names cannot be looked up the way the gateway does: {error}");
        return report.add(Severity::Unknown, "configuration", asked[0].0, what);
    }
    let wanted: BTreeSet<(String, u16)> =
        asked.iter().map(|(_, rule)| (rule.pattern.name.clone(), rule.pattern.port)).collect();
    let answers = ask(wanted);
    for (line, rule) in asked {
        let place = (rule.pattern.name.clone(), rule.pattern.port);
        let shown = format!("{}:{}", place.0, place.1);
        let what = match answers.get(&place) {
            None => format!("{shown}: no answer from the host's resolver within {} s", TIME.as_secs()),
            Some(Err(why)) => format!("{shown}: does not resolve here: {why}"),
            Some(Ok(found)) => {
                let class = |ip: &IpAddr| (*ip, addresses::classify_routed(*ip, &own, routes::is_here));
                let classes: Vec<_> = found.iter().map(class).collect();
                if classes.iter().any(|(_, class)| class.as_ref().is_ok_and(|class| class.allowed_by(rule))) {
                    continue;
                }
                match classes.first() {
                    None => format!("{shown}: resolves to no address"),
                    Some((ip, Err(error))) => {
                        format!(
                            "{shown}: cannot determine whether {ip} belongs to this host, so it is refused: {error}"
                        )
                    }
                    Some((ip, Ok(class))) => format!(
                        "{shown}: all of its addresses are refused: {ip} is {}; allow_private = true allows addresses that are not unspecified, \
                         multicast or reserved",
                        class.name()
                    ),
                }
            }
        };
        report.add(Severity::Warning, format!("egress.{}", rule.group), *line, what);
    }
}

/// Resolves names as the gateway does, by `getaddrinfo(3)`, which knows no deadline: what has no answer in time is left
/// to its thread, which ends with the process.
fn ask(wanted: BTreeSet<(String, u16)>) -> BTreeMap<(String, u16), Answers> {
    let end = Instant::now() + TIME;
    let mut open = wanted.len();
    let workers = open.min(AT_ONCE);
    let todo = Arc::new(Mutex::new(wanted));
    let (send, receive) = mpsc::channel();
    for _ in 0..workers {
        let (todo, send) = (Arc::clone(&todo), send.clone());
        let work = move || {
            while let Some((name, port)) = todo.lock().ok().and_then(|mut todo| todo.pop_first()) {
                let found = (name.as_str(), port).to_socket_addrs();
                let found =
                    found.map(|all| all.map(|address| address.ip()).collect()).map_err(|error| error.to_string());
                if send.send(((name, port), found)).is_err() {
                    return;
                }
            }
        };
        // One that cannot be started leaves its share to the others.
        if std::thread::Builder::new().spawn(work).is_err() {
            break;
        }
    }
    drop(send);
    let mut answers = BTreeMap::new();
    while open > 0 {
        let Ok((place, found)) = receive.recv_timeout(end.saturating_duration_since(Instant::now())) else { break };
        answers.insert(place, found);
        open -= 1;
    }
    answers
}
