//! Denials as answers and records have them.
#![forbid(unsafe_code)]

use crate::keys::Key;
use crate::types::{Denied, Explained, NoHello, NoLock, Refused, Stream};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// A denial of `data.denials`.
#[derive(Serialize)]
struct Shown<'a> {
    layer: &'static str,
    operation: &'a str,
    object: Value,
    rule: &'a str,
    remedy: &'a str,
    count: u64,
    pid: Option<i32>,
    comm: Option<&'a str>,
}

/// A denial as JSON.
pub(super) fn json(explained: &Explained) -> Value {
    let denial = &explained.denial;
    json!(Shown {
        layer: denial.denied.layer().name(),
        operation: denial.denied.operation(),
        object: object(&denial.denied),
        rule: &explained.rule,
        remedy: &explained.remedy,
        count: denial.count,
        pid: denial.pid,
        comm: denial.comm.as_deref(),
    })
}

/// What the act was done to, escaped for no one: a name, an address, arguments as values.
pub(crate) fn object(denied: &Denied) -> Value {
    match denied {
        Denied::Syscall(call) => {
            let shown = |name: &str, value: u64| match name {
                // as chmod(1) and manual pages write it
                "mode" => format!("{value:#o}").into(),
                _ => value.into(),
            };
            let values = call.values.iter().map(|(name, value)| ((*name).to_owned(), shown(name, *value)));
            Value::Object(values.chain(no_lock(&call.refused)).collect())
        }
        Denied::Limit(met) => {
            let mut object = limit(met.key, met.value, met.used);
            if let Some(stream) = met.stream {
                object.insert("stream".into(), stream_name(stream).into());
            }
            Value::Object(object)
        }
        Denied::NoExec { path } => json!({ "path": path }),
        Denied::Unroutable => json!({ "address": null, "errno": "ENETUNREACH" }),
        Denied::Resolve { name } => json!({ "name": name }),
        Denied::Names { name, most } => json!({ "name": name, "names": most }),
        Denied::Connect { name, port } => json!({ "name": name, "port": port }),
        Denied::ConnectAddress { address, port } => json!({ "address": address, "port": port }),
        Denied::Address { name, port, address, class } => {
            json!({ "name": name, "port": port, "address": address, "kind": class.name() })
        }
        Denied::TlsName { name, port, found } => json!({ "name": name, "port": port, "tls_name": found }),
        Denied::TlsMissing { name, port, why } => json!({ "name": name, "port": port, "reason": reason(*why) }),
        Denied::EgressBytes { name, port, limit: bytes } => {
            let mut object = limit(Key::EgressBytes, *bytes, Some(*bytes));
            object.insert("name".into(), name.as_str().into());
            object.insert("port".into(), (*port).into());
            Value::Object(object)
        }
    }
}

/// What the denial of a lock has besides the arguments of the call.
fn no_lock(refused: &Refused) -> Option<(String, Value)> {
    let Refused::Lock(why) = refused else { return None };
    let (name, value) = match why {
        NoLock::ReadOnly => return None,
        NoLock::Unseen(error) => ("pidfd_getfd", error.as_str().into()),
        NoLock::FirstThread => ("first_thread", "ended".into()),
        NoLock::Distant(mount) => ("distant", mount.as_str().into()),
        NoLock::Engine(error) => ("engine", error.as_str().into()),
        NoLock::Ranges(most) => ("ranges", (*most).into()),
        NoLock::Waiting(most) => ("waiting", (*most).into()),
    };
    Some((name.to_owned(), value))
}

fn limit(key: Key, value: u64, used: Option<u64>) -> Map<String, Value> {
    let members = [("limit", value.into()), ("used", used.into()), ("unit", json!(key.unit()))];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

fn reason(why: NoHello) -> &'static str {
    match why {
        NoHello::NotTls => "not TLS",
        NoHello::Malformed => "malformed ClientHello",
        NoHello::NoName => "no single server name in the ClientHello",
        NoHello::TooLong => "ClientHello over 64 KiB",
        NoHello::TooSlow => "no ClientHello within 10 s",
        NoHello::Closed => "closed before a ClientHello",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Class, Denial, Met, Syscall};

    /// The whole of what `data.denials` can hold, in its order.
    #[test]
    fn each_denial_is_written_as_the_contract_says() {
        let name = || "a.org".to_owned();
        let met = |key, used, stream| Denied::Limit(Met { key, value: 8, used, stream });
        let chmod = Syscall {
            number: 6,
            name: "fchmodat".into(),
            values: vec![("dirfd", 3), ("mode", 0o4755)],
            refused: Refused::Filter,
        };
        let call = Syscall {
            number: 5,
            name: "kcmp".into(),
            values: vec![("pid1", 2), ("type", 0)],
            refused: Refused::Filter,
        };
        let port = 443;
        let address = std::net::Ipv4Addr::new(10, 0, 0, 1);
        for (denied, written) in [
            (Denied::Syscall(chmod), r#"seccomp fchmodat {"dirfd":3,"mode":"0o4755"}"#),
            (Denied::Syscall(call), r#"seccomp kcmp {"pid1":2,"type":0}"#),
            (met(Key::Timeout, Some(9), None), r#"limits timeout {"limit":8,"used":9,"unit":"ms"}"#),
            (met(Key::CpuTime, Some(9), None), r#"limits cpu_time {"limit":8,"used":9,"unit":"s"}"#),
            (met(Key::Memory, None, None), r#"limits memory {"limit":8,"used":null,"unit":"B"}"#),
            (met(Key::Processes, Some(8), None), r#"limits processes {"limit":8,"used":8,"unit":"processes"}"#),
            (met(Key::OpenFiles, Some(8), None), r#"limits open_files {"limit":8,"used":8,"unit":"descriptors"}"#),
            (met(Key::FileSize, Some(8), None), r#"limits file_size {"limit":8,"used":8,"unit":"B"}"#),
            (met(Key::Tmp, Some(8), None), r#"limits tmp {"limit":8,"used":8,"unit":"B"}"#),
            (met(Key::Result, None, None), r#"limits result {"limit":8,"used":null,"unit":"B"}"#),
            (
                met(Key::Output, Some(9), Some(Stream::Stderr)),
                r#"limits output {"limit":8,"used":9,"unit":"B","stream":"stderr"}"#,
            ),
            (
                Denied::EgressBytes { name: name(), port, limit: 7 },
                r#"limits egress_bytes {"limit":7,"used":7,"unit":"B","name":"a.org","port":443}"#,
            ),
            (Denied::NoExec { path: "/tmp/a".to_owned() }, r#"root exec {"path":"/tmp/a"}"#),
            (Denied::Unroutable, r#"egress connect {"address":null,"errno":"ENETUNREACH"}"#),
            (Denied::Resolve { name: name() }, r#"egress resolve {"name":"a.org"}"#),
            (Denied::Names { name: name(), most: 64 }, r#"egress resolve {"name":"a.org","names":64}"#),
            (Denied::Connect { name: name(), port }, r#"egress connect {"name":"a.org","port":443}"#),
            (Denied::ConnectAddress { address, port }, r#"egress connect {"address":"10.0.0.1","port":443}"#),
            (
                Denied::Address { name: name(), port, address: address.into(), class: Class::Never },
                r#"egress address {"name":"a.org","port":443,"address":"10.0.0.1","kind":"unspecified, multicast or reserved"}"#,
            ),
            (
                Denied::TlsName { name: name(), port, found: "b.org".to_owned() },
                r#"egress tls_name {"name":"a.org","port":443,"tls_name":"b.org"}"#,
            ),
            (
                Denied::TlsMissing { name: name(), port, why: NoHello::NotTls },
                r#"egress tls_missing {"name":"a.org","port":443,"reason":"not TLS"}"#,
            ),
        ] {
            let explained =
                Explained { denial: Denial::new(denied, 2), rule: "r".to_owned(), remedy: "nothing: x".to_owned() };
            let mut words = written.splitn(3, ' ');
            let mut word = || words.next().unwrap();
            let expected = format!(
                r#"{{"layer":"{}","operation":"{}","object":{},"rule":"r","remedy":"nothing: x","count":2,"pid":null,"comm":null}}"#,
                word(),
                word(),
                word()
            );
            assert_eq!(json(&explained).to_string(), expected);
        }
    }
}
