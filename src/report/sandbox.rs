//! The confinement of a call as JSON.
#![forbid(unsafe_code)]

use crate::keys::Key;
use crate::types::Sandbox;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `data.sandbox`.
pub(super) fn json(sandbox: &Sandbox) -> Value {
    let layer = |asked: Value, active: Value| json!({ "asked": asked, "active": active });
    let (filter, instructions, sha256) = &sandbox.filter;
    let deaf =
        "upm runs under a filter that has a listener, and there can be only one: denied system calls are not reported";
    let egress = if sandbox.egress.is_empty() { "none: an empty network namespace" } else { "gateway" };
    let mut limits = sandbox.limits_active.clone();
    for (key, what) in Key::ALL.iter().filter_map(|key| Some((key, key.held()?))) {
        limits[key.limit().unwrap_or(key.name())] = what.into();
    }
    let mut all = json!({
        "plan_sha256": sandbox.plan_sha256,
        "layers": {
            "namespaces": layer(
                sandbox.namespaces.iter().map(|(name, _)| *name).collect(),
                json!(sandbox.namespaces.iter().copied().collect::<BTreeMap<_, _>>()),
            ),
            "root": layer(sandbox.mounts_planned.into(), sandbox.mounts.into()),
            "landlock": layer(
                json!({ "abi": sandbox.landlock_abi, "rights": sandbox.landlock_rights }),
                json!({
                    "abi": sandbox.landlock_abi,
                    "status": "fully enforced",
                    "read_only_by_mount_alone": sandbox.read_only_by_mount,
                }),
            ),
            "seccomp": layer(
                json!({ "filter": filter, "instructions": instructions, "sha256": sha256 }),
                json!({
                    "listener": sandbox.listener,
                    "mode": sandbox.seccomp_mode,
                    "filters": sandbox.seccomp_filters,
                    "note": (!sandbox.listener).then_some(deaf),
                }),
            ),
            "capabilities": layer(0.into(), json!(sandbox.capabilities)),
            "no_new_privs": layer(true.into(), sandbox.no_new_privs.into()),
            "limits": layer(sandbox.limits.clone(), limits),
            "egress": layer(json!(sandbox.egress), egress.into()),
        },
        "ids": {
            "inside": sandbox.inside,
            "outside": sandbox.outside,
            "uid_map": sandbox.uid_map,
            "supplementary_groups": sandbox.groups,
        },
    });
    if let Some(sha256) = &sandbox.config_sha256 {
        all["config_sha256"] = sha256.as_str().into();
    }
    all
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What each layer of a call without a listener can show.
    pub(in crate::report) fn sandbox() -> Sandbox {
        Sandbox {
            plan_sha256: "a".to_owned(),
            config_sha256: Some("b".to_owned()),
            namespaces: vec![("user", 7), ("mnt", 8)],
            mounts_planned: 2,
            mounts: 3,
            landlock_abi: 6,
            landlock_rights: vec!["fs_execute".to_owned()],
            read_only_by_mount: vec!["/a/b".into()],
            filter: ("default", 9, "c".to_owned()),
            listener: false,
            seccomp_mode: Some(2),
            seccomp_filters: None,
            capabilities: BTreeMap::from([("CapEff".to_owned(), 0)]),
            no_new_privs: true,
            limits: json!({ "memory": 1 }),
            limits_active: json!({ "memory": "cgroup" }),
            egress: Vec::new(),
            inside: (1000, 1000),
            outside: (65534, 65533),
            uid_map: "1000 65534 1".to_owned(),
            groups: 0,
        }
    }

    #[test]
    fn each_layer_is_written_as_the_contract_says() {
        let mut shown = json(&sandbox());
        let limits = shown["layers"]["limits"]["active"].take();
        assert_eq!((&limits["memory"], &limits["cpu_time_s"]), (&json!("cgroup"), &json!("RLIMIT_CPU a process")));
        let note = "upm runs under a filter that has a listener, and there can be only one: denied system calls are not reported";
        assert_eq!(shown["layers"]["seccomp"]["active"]["note"].take(), note);
        assert_eq!(
            shown.to_string(),
            concat!(
                r#"{"plan_sha256":"a","layers":{"namespaces":{"asked":["user","mnt"],"active":{"mnt":8,"user":7}},"#,
                r#""root":{"asked":2,"active":3},"landlock":{"asked":{"abi":6,"rights":["fs_execute"]},"#,
                r#""active":{"abi":6,"status":"fully enforced","read_only_by_mount_alone":["/a/b"]}},"#,
                r#""seccomp":{"asked":{"filter":"default","instructions":9,"sha256":"c"},"#,
                r#""active":{"listener":false,"mode":2,"filters":null,"note":null}},"#,
                r#""capabilities":{"asked":0,"active":{"CapEff":0}},"no_new_privs":{"asked":true,"active":true},"#,
                r#""limits":{"asked":{"memory":1},"active":null},"#,
                r#""egress":{"asked":[],"active":"none: an empty network namespace"}},"#,
                r#""ids":{"inside":[1000,1000],"outside":[65534,65533],"uid_map":"1000 65534 1","supplementary_groups":0},"#,
                r#""config_sha256":"b"}"#
            )
        );
    }
}
