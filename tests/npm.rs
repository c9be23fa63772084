//! `client = "npm"`: what the host's own npm is configured to use, and nothing else.

mod common;

use common::{Fixture, Mode, skip, which};
use rstest::rstest;
use serde_json::json;

const PLUGIN: &str = r#"
import subprocess


class Npm:
    def __init__(self, project_root, cache_dir):
        self.project, self.cache = project_root, cache_dir

    def install(self, name, registry=None):
        command = ["npm", "install", "--ignore-scripts", "--no-update-notifier", "--fetch-retries=0", "--cache", self.cache, name]
        if registry:
            command.append("--registry=" + registry)
        done = subprocess.run(command, cwd=self.project, capture_output=True, text=True)
        return {"status": done.returncode, "stderr": done.stderr[-2000:]}
"#;

const TABLES: &str = r#"
[egress.npm]
client = "npm"
[plugins.Npm]
module = "npmp"
allowed_methods = ["install"]
egress = ["npm"]
timeout = "2m"
write = ["{project_root}", "{cache_dir}"]
"#;

/// A real package from the registry that npm is configured for; another registry's name is refused.
#[rstest]
fn installs_from_the_hosts_own_registry(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !which("npm").is_some_and(|npm| npm.starts_with("/usr") || npm.starts_with("/bin")) {
        return skip("npm is not installed below /usr");
    }
    let Some(f) = Fixture::bare(mode) else { return };
    f.write("plugins/npmp.py", PLUGIN);
    f.config(TABLES);
    let install = |arguments: serde_json::Value| f.upm(["Npm", "install", &arguments.to_string()]).run();

    let refused = install(json!({ "args": ["is-number"], "kwargs": { "registry": "https://elsewhere.invalid/" } }));
    assert_ne!(refused.result()["status"], 0, "{:#}", refused.data());
    assert_eq!(refused.denials("egress", "resolve")[0]["object"]["name"], "elsewhere.invalid", "{:#}", refused.data());
    assert!(!f.path("project/node_modules/is-number").exists());

    let answer = install(json!({ "args": ["is-number"] }));
    assert_eq!(answer.result()["status"], 0, "{:#}", answer.data());
    assert!(f.path("project/node_modules/is-number/package.json").is_file());
    let egress = answer.data()["egress"].clone();
    assert!(egress.as_array().unwrap().iter().any(|record| record["bytes_received"].as_u64() > Some(0)), "{egress:#}");
    f.assert_clean();
}
