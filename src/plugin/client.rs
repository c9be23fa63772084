//! Reads the configuration of the host's package manager, for `client = "pip" | "npm"` of an egress group.
//!
//! The client's own code reads its configuration, confined like any plugin and without network, so that
//! configuration files are not parsed anywhere else.

use super::{Init, call_frame};
use crate::config::{self, Grant};
use crate::decide::plan::{self, ClientNeeds, Environment, Facts, PluginCode};
use crate::supervise::signals::{self, Signals};
use crate::supervise::{self, Job, Unwatched, apart};
use crate::text::shorten;
use crate::types::{Code, EgressGroup, EgressRule, EgressSource, Entry, Failure, HostPattern, PackageManager};
use crate::walk::{self, How};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The reader of pip's configuration, run by the host's interpreter.
const PIP_CLIENT: &[u8] = include_bytes!("pip_client.py");
/// The reader of npm's configuration, run by the host's node.
const NPM_CLIENT: &[u8] = include_bytes!("npm_client.py");
/// The readers' directory in the sandbox.
const DIRECTORY: &str = "/run/upm/client";
/// Variables besides `PIP_…` that configure pip.
const PIP_ALSO: [&str; 5] = ["XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "NETRC", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];
/// Limit for the bytes of an answer.
const ANSWER: u64 = 1 << 20;

/// A reader's answer.
#[derive(Debug, Deserialize)]
struct Answer {
    hosts: Vec<Endpoint>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    files: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    host: String,
    port: u16,
    scheme: String,
}

/// The destinations of all granted groups, and what their clients need in the sandbox.
pub fn resolve(
    grant: &Grant,
    facts: &Facts,
    variable: &dyn Fn(&str) -> Option<String>,
    patience: &Patience<'_>,
) -> Result<(Vec<EgressRule>, ClientNeeds), Failure> {
    let mut rules = Vec::new();
    let mut needs = ClientNeeds::default();
    for group in &grant.egress {
        match &group.source {
            EgressSource::Hosts(patterns) => rules.extend(patterns.iter().map(|pattern| EgressRule {
                group: group.name.clone(),
                pattern: pattern.clone(),
                allow_private: group.allow_private,
                allow_loopback: group.allow_private,
                proxy: group.proxy.clone(),
                tls: group.tls,
            })),
            EgressSource::Client(client) => {
                let answer = ask(*client, grant, facts, variable, patience)?;
                rules.extend(rules_of(group, &answer)?);
                needs.env.extend(answer.env);
                for file in answer.files {
                    needs.files.extend(needed_file(file)?);
                }
            }
        }
    }
    Ok((rules, needs))
}

fn rules_of(group: &EgressGroup, answer: &Answer) -> Result<Vec<EgressRule>, Failure> {
    let mut seen = BTreeSet::new();
    let mut rules = Vec::new();
    for host in &answer.hosts {
        let name = host.host.trim_end_matches('.').to_ascii_lowercase();
        if !seen.insert((name.clone(), host.port)) {
            continue;
        }
        let valid = !name.is_empty()
            && name.len() <= 253
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        if !valid || host.port == 0 || host.port == 53 {
            return Err(Failure::new(
                Code::ConfigInvalid,
                format!(
                    "[egress.{}]: the client is configured for {}:{}, which is not a host name and port that can be granted",
                    group.name,
                    shorten(&name, 80),
                    host.port
                ),
            ));
        }
        rules.push(EgressRule {
            group: group.name.clone(),
            pattern: HostPattern { wildcard: false, name, port: host.port },
            // The client's configuration allows a private index. Loopback is this host itself.
            allow_private: true,
            allow_loopback: group.allow_private,
            proxy: group.proxy.clone(),
            tls: group.tls && host.scheme != "http",
        });
    }
    Ok(rules)
}

/// A file such as a CA bundle; one that is in the base root needs no mount.
fn needed_file(file: PathBuf) -> Result<Option<PathBuf>, Failure> {
    let found = walk::find(&file, How::SafeLinks).map_err(|error| {
        let error = config::error_of(&file, error);
        Failure::new(Code::ConfigInvalid, format!("{error}; the client's configuration names {}", file.display()))
    })?;
    let real = found.path().to_owned();
    let shown = ["/usr", "/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust", "/etc/ca-certificates"]
        .iter()
        .any(|path| real.starts_with(path));
    if shown {
        return Ok(None);
    }
    if real != file {
        return Err(Failure::new(
            Code::ConfigInvalid,
            format!(
                "{}: named by the client's configuration, is a link to {}; name that",
                file.display(),
                real.display()
            ),
        ));
    }
    walk::hold(&found);
    Ok(Some(real))
}

/// The existing files that the client reads, for the reader. As root, each must be a file that only root could have written.
fn configuration_files(
    client: PackageManager,
    as_root: bool,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<PathBuf>, Failure> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let below_home =
        |names: &[&str]| home.iter().flat_map(|home| names.iter().map(|name| home.join(name))).collect::<Vec<_>>();
    let mut files: Vec<PathBuf> = match client {
        PackageManager::Pip => {
            let lists = variable("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".to_owned());
            let mut files: Vec<PathBuf> = lists.split(':').map(|list| Path::new(list).join("pip/pip.conf")).collect();
            files.push(PathBuf::from("/etc/pip.conf"));
            files.extend(below_home(&[".pip/pip.conf"]));
            match variable("XDG_CONFIG_HOME") {
                Some(config) => files.push(Path::new(&config).join("pip/pip.conf")),
                None => files.extend(below_home(&[".config/pip/pip.conf"])),
            }
            match variable("NETRC") {
                Some(netrc) => files.push(PathBuf::from(netrc)),
                None => files.extend(below_home(&[".netrc", "_netrc"])),
            }
            files
        }
        PackageManager::Npm => {
            let mut files = vec![PathBuf::from("/etc/npmrc"), PathBuf::from("/usr/etc/npmrc")];
            files.extend(below_home(&[".npmrc"]));
            files
        }
    };
    let named = match client {
        PackageManager::Pip => variable("PIP_CONFIG_FILE"),
        PackageManager::Npm => variable("NPM_CONFIG_USERCONFIG").or_else(|| variable("npm_config_userconfig")),
    };
    files.extend(named.map(PathBuf::from).filter(|path| path.is_absolute() && path != Path::new("/dev/null")));
    files.retain(|path| path.is_absolute() && path.is_file());
    files.sort();
    files.dedup();
    let mut shown = Vec::new();
    for file in files {
        let found = if as_root {
            config::check_trusted(&file)?.object
        } else {
            walk::find(&file, How::SafeLinks).map_err(|error| config::error_of(&file, error))?
        };
        let real = found.path();
        if real != file {
            return Err(Failure::new(
                Code::ConfigInvalid,
                format!(
                    "{}: the client's configuration is a link to {}; make it a file",
                    file.display(),
                    real.display()
                ),
            ));
        }
        walk::hold(&found);
        shown.push(file);
    }
    Ok(shown)
}

/// Variables that configure a client. As root, only those that the grant names in `env_pass`: a caller who may use
/// one `sudo` rule must not redirect root's installs.
fn variables(client: PackageManager, as_root: bool, grant: &Grant) -> BTreeMap<String, String> {
    let ours = |name: &str| match client {
        PackageManager::Pip => name.starts_with("PIP_") || PIP_ALSO.contains(&name),
        PackageManager::Npm => name.to_ascii_lowercase().starts_with("npm_config_"),
    };
    // Variables that are not UTF-8 are ignored.
    let texts =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(name, _)| name == "HOME" || (ours(name) && (!as_root || grant.env_pass.contains(name)))).collect()
}

/// How long a caller waits for a client's configuration.
pub struct Patience<'a> {
    /// The call's deadline.
    pub deadline: Instant,
    /// The caller's cancelling signals, if they are handled.
    pub signals: Option<&'a Signals>,
}

/// Runs the client's reader ([`run`]).
fn ask(
    client: PackageManager,
    grant: &Grant,
    facts: &Facts,
    variable: &dyn Fn(&str) -> Option<String>,
    patience: &Patience<'_>,
) -> Result<Answer, Failure> {
    let as_root = facts.caller_uid == 0;
    let (name, class, source) = match client {
        PackageManager::Pip => ("pip", "PipClient", PIP_CLIENT),
        PackageManager::Npm => ("npm", "NpmClient", NPM_CLIENT),
    };
    let env = variables(client, as_root, grant);
    let seen = |name: &str| env.get(name).cloned();
    let files = configuration_files(client, as_root, &seen)?;
    let module = format!("{name}_client");
    let entry = Entry::Python { module: module.clone() };
    let reader = Grant {
        site: true,
        read: files,
        write: Vec::new(),
        egress: Vec::new(),
        env,
        env_pass: Vec::new(),
        syscalls: Vec::new(),
        policy: Map::new(),
        fernet: false,
        // Its supervisor shares the caller's cgroup, and cannot create one.
        cpus: None,
        file_watches: 0,
        require_cgroup: false,
        memory: 512 << 20,
        output: 64 << 10,
        result: ANSWER,
        ..grant.clone()
    };
    let facts = Facts {
        code: PluginCode {
            path: Path::new(DIRECTORY).join(format!("{module}.py")),
            search: PathBuf::from(DIRECTORY),
            embedded: Some(source),
        },
        ..facts.clone()
    };
    let failed = |why: String| {
        Failure::new(
            Code::ConfigInvalid,
            format!(
                "client = \"{name}\": its configuration could not be read: {why}; fix it, or name hosts = [\"name:port\"] instead"
            ),
        )
    };
    let environment = Environment { request_id: "", timeout: grant.timeout, pass: variable };
    let plan = plan::plan((class, "read"), &entry, &reader, &facts, Vec::new(), &ClientNeeds::default(), environment);
    match run(&plan, &[], patience) {
        Ok(value) => serde_json::from_value(value).map_err(|error| failed(error.to_string())),
        // A missing layer, a cancellation or the time limit is not the configuration's fault.
        Err(failure) if failure.code == Code::Timeout => Err(Failure::new(
            Code::Timeout,
            format!(
                "the time limit was reached while reading the configuration of {name}; raise `timeout` for this method"
            ),
        )),
        Err(failure) if matches!(failure.code, Code::SandboxUnavailable | Code::Cancelled) => Err(failure),
        Err(failure) => Err(failed(failure.message)),
    }
}

/// Runs the plan of one of the engine's readers in a child with its own supervisor, because a supervisor confines itself
/// permanently.
pub(super) fn run(plan: &plan::Plan, args: &[Value], patience: &Patience<'_>) -> Result<Value, Failure> {
    let policy = Map::new();
    let init = Init { project_root: Path::new("/"), cache_dir: Path::new("/tmp"), policy: &policy, fernet: false };
    let frame = call_frame(plan, "", args, &Map::new(), &init);
    let failed = |why: String| Failure::new(Code::Internal, format!("{}: {why}", plan.plugin));
    let deadline = patience.deadline.min(Instant::now() + Duration::from_millis(plan.limits.timeout_ms));
    // The limit of a result, plus what surrounds it.
    let answer = apart::run(plan.limits.result + 4096, patience.signals, || answer(plan, frame, deadline))
        .map_err(|error| failed(error.to_string()))?;
    if let Some(signal) = answer.signal {
        // Whatever its result: a signal that the caller ignores is ignored in the child too.
        return Err(supervise::outcome::cancelled(signal));
    }
    serde_json::from_slice(&answer.bytes).unwrap_or_else(|error| Err(failed(error.to_string())))
}

/// In the child: the confined call, and its result as JSON.
fn answer(plan: &plan::Plan, frame: Vec<u8>, deadline: Instant) -> Vec<u8> {
    let ended: Result<Value, Failure> = match signals::take() {
        Err(error) => Err(Failure::new(Code::Internal, format!("signals: {error}"))),
        Ok(signals) => {
            let job = Job {
                caller: nix::unistd::getuid().as_raw(),
                plan,
                frame,
                runner: super::RUNNER,
                signals: &signals,
                deadline,
                observe: false,
            };
            supervise::run(job, &mut Unwatched).and_then(|outcome| outcome.result.map(|result| result.value()))
        }
    };
    let ended = ended.map_err(|failure| Failure { traceback: None, ..failure });
    // Values and texts: always valid JSON.
    serde_json::to_vec(&ended).unwrap_or_default()
}
