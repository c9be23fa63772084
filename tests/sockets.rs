//! Socket families: UNIX, TCP, and UDP that reaches only `lo`. Nothing else.

mod common;

use common::{Fixture, Mode, assert_errno, assert_errno_in, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};

#[rstest]
fn three_families_and_no_more(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let allowed = [
        json!(["socket", "AF_UNIX", "SOCK_STREAM"]),
        json!(["socket", "AF_UNIX", "SOCK_DGRAM"]),
        json!(["socketpair", "AF_UNIX", "SOCK_STREAM"]),
        json!(["socket", "AF_INET", "SOCK_STREAM"]),
        json!(["socket", "AF_INET", "SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK", "IPPROTO_TCP"]),
        json!(["socket", "AF_INET6", "SOCK_STREAM"]),
        json!(["socket", "AF_INET", "SOCK_DGRAM"]),
        json!(["socket", "AF_INET6", "SOCK_DGRAM"]),
        json!(["socket", "AF_NETLINK", "SOCK_RAW"]),
        json!(["socket", "AF_NETLINK", "SOCK_DGRAM"]),
        // the kernel looks at the lower half of a register
        json!(["socket", 0x1_0000_0010_u64, "SOCK_RAW"]),
    ];
    f.acts(&allowed).iter().for_each(assert_ok);

    let mut refused: Vec<Value> = [
        "AF_PACKET",
        "AF_VSOCK",
        "AF_ALG",
        "AF_BLUETOOTH",
        "AF_CAN",
        "AF_TIPC",
        "AF_KEY",
        "AF_RDS",
        "AF_XDP",
        "AF_NFC",
        "AF_PPPOX",
        "AF_LLC",
        "AF_PHONET",
        "AF_IEEE802154",
        "AF_CAIF",
    ]
    .iter()
    .flat_map(|family| {
        ["SOCK_RAW", "SOCK_DGRAM", "SOCK_STREAM", "SOCK_SEQPACKET"].map(|kind| json!(["socket", family, kind]))
    })
    .collect();
    // of netlink only NETLINK_ROUTE, which lists interfaces
    refused.extend((1..32).map(|protocol| json!(["socket", "AF_NETLINK", "SOCK_RAW", protocol])));
    for (act, answer) in refused.iter().zip(f.acts(&refused)) {
        println!("{act}");
        assert_errno_in(&answer, &["EAFNOSUPPORT", "EPERM"]);
    }

    let kinds = [
        json!(["socket", "AF_INET", "SOCK_STREAM", "IPPROTO_MPTCP"]),
        json!(["socket", "AF_INET6", "SOCK_STREAM", "IPPROTO_MPTCP"]),
        json!(["socket", "AF_INET", "SOCK_STREAM", "IPPROTO_SCTP"]),
        json!(["socket", "AF_INET", "SOCK_SEQPACKET", "IPPROTO_SCTP"]),
        json!(["socket", "AF_INET", "SOCK_DGRAM", "IPPROTO_UDPLITE"]),
        json!(["socket", "AF_INET", "SOCK_DGRAM", "IPPROTO_ICMP"]),
        json!(["socket", "AF_INET", "SOCK_RAW", "IPPROTO_ICMP"]),
        json!(["socket", "AF_INET", "SOCK_RAW", "IPPROTO_RAW"]),
        json!(["socket", "AF_INET6", "SOCK_RAW", "IPPROTO_ICMPV6"]),
        json!(["socket", "AF_INET", "SOCK_RDM"]),
        json!(["socketpair", "AF_NETLINK", "SOCK_RAW"]),
    ];
    for (act, answer) in kinds.iter().zip(f.acts(&kinds)) {
        println!("{act}");
        assert_errno_in(&answer, &["EAFNOSUPPORT", "EPERM", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT"]);
    }
    assert_ok(&f.control("socket", json!(["AF_NETLINK", "SOCK_RAW", 15])));
    if mode == Mode::Root {
        assert_ok(&f.control("socket", json!(["AF_PACKET", "SOCK_RAW"])));
        assert_ok(&f.control("socket", json!(["AF_INET", "SOCK_RAW", "IPPROTO_ICMP"])));
    }
}

#[rstest]
fn a_lingering_socket_cannot_be_made(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let args = json!(["AF_INET", "SOCK_STREAM", "SOL_SOCKET", "SO_LINGER"]);
    assert_errno(&f.act("setsockopt", args.clone()), "EPERM");
    assert_ok(&f.control("setsockopt", args));
    assert_ok(&f.act("setsockopt", json!(["AF_INET", "SOCK_STREAM", "SOL_SOCKET", "SO_KEEPALIVE", "01000000"])));
}

#[rstest]
fn udp_reaches_nobody(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    for address in ["192.0.2.1", "1.1.1.1", "255.255.255.255", "224.0.0.1", "169.254.169.254", "2001:db8::1", "ff02::1"]
    {
        assert_errno_in(
            &f.act("udp_send", json!([address, 9, "x"])),
            &["ENETUNREACH", "EACCES", "EPERM", "EADDRNOTAVAIL", "EHOSTUNREACH"],
        );
    }
    // a listener on the host's own loopback hears nothing
    let host = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    host.set_nonblocking(true).unwrap();
    let port = host.local_addr().unwrap().port();
    assert_ok(&f.control("udp_send", json!(["127.0.0.1", port, "control"])));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(host.recv(&mut [0; 16]).unwrap(), 7);
    f.act("udp_send", json!(["127.0.0.1", port, "inside"]));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(host.recv(&mut [0; 16]).is_err(), "a datagram left the sandbox");
}

#[rstest]
fn tcp_without_egress_reaches_nobody(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let host = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = host.local_addr().unwrap().port();
    assert_ok(&f.control("connect", json!(["127.0.0.1", port])));
    assert_errno(&f.act("connect", json!(["127.0.0.1", port])), "ECONNREFUSED");
    for address in ["192.0.2.1", "169.254.169.254", "2001:db8::1"] {
        assert_errno(&f.act("connect", json!([address, 443])), "ENETUNREACH");
    }
    let answer = f.run("resolve", json!(["example.test"]));
    assert_eq!(answer.result()["ok"], false);
    let denials = answer.denials("egress", "resolve");
    assert_eq!(denials.len(), 1, "{:#}", answer.data()["denials"]);
    assert!(denials[0]["object"].to_string().contains("example.test"), "{denials:#?}");
}
