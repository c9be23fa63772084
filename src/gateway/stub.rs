//! The name stub: one query in, one reply out, no I/O. It also serves calls without any egress, where it refuses every
//! name and so can name the denial.
//!
//! A refused name gets `NXDOMAIN`. Measured with one name server in `resolv.conf` and `getaddrinfo(3)` for both families:
//! with `NXDOMAIN` glibc 2.36 and musl 1.2.3 end after one query each family, in 1 ms, with `EAI_NONAME`; with
//! `REFUSED` both ask twice and end with `EAI_AGAIN`, which programs take as a reason to retry, musl after 5 s.

use crate::decide::names;
use simple_dns::rdata::{A, AAAA, OPT, RData};
use simple_dns::{CLASS, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest query over UDP, in bytes (RFC 1035 §4.2.1). Queries do not grow with EDNS, only replies do.
pub const MAX_UDP_QUERY: usize = 512;
/// Longest query over TCP, in bytes, without its length prefix.
pub const MAX_TCP_QUERY: usize = 4096;
/// Longest reply, in bytes: header, a name, one address, OPT.
pub const MAX_REPLY: usize = 512;
/// Seconds. The address holds for the whole call, so nothing depends on this.
const TTL: u32 = 60;
/// Size of the DNS header.
const HEADER: usize = 12;

/// The reply to `query`, or `None` when there is nothing to reply to (too short for a header, or itself a reply).
///
/// `decide` gets the name asked for in its presentation form (`\DDD` for every byte but letters, digits, `-` and `_`,
/// so a NUL, a newline or a dot inside a label cannot pass for anything else), in the case it was asked, without the
/// trailing dot; it answers with the address of a granted name and `None` for a refused one. It is called at most once,
/// and only for a well-formed query for another name than the sandbox's own.
pub fn answer(query: &[u8], decide: impl FnMut(&str) -> Option<Ipv4Addr>) -> Option<Vec<u8>> {
    if query.len() < HEADER || query.len() > MAX_TCP_QUERY || query[2] & 0x80 != 0 {
        return None;
    }
    match well_formed(query, decide) {
        Some(reply) => Some(reply),
        None => Some(bare(query, RCODE::FormatError)),
    }
}

/// A reply without question and answers, for queries that could not be read.
fn bare(query: &[u8], code: RCODE) -> Vec<u8> {
    let opcode_and_rd = query[2] & 0b0111_1001;
    let code = match code {
        RCODE::NotImplemented => 4,
        _ => 1,
    };
    vec![query[0], query[1], 0x80 | opcode_and_rd, 0x80 | code, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn well_formed(query: &[u8], mut decide: impl FnMut(&str) -> Option<Ipv4Addr>) -> Option<Vec<u8>> {
    let count = |at: usize| u16::from_be_bytes([query[at], query[at + 1]]);
    if query[2] & 0b0111_1000 != 0 {
        return Some(bare(query, RCODE::NotImplemented));
    }
    // One question, nothing else but an OPT record: checked here, because the parser allocates by these counts.
    if count(4) != 1 || count(6) != 0 || count(8) != 0 || count(10) > 1 {
        return None;
    }
    let name_end = skip_plain_name(query)?;
    let asked: [u8; 4] = query.get(name_end..name_end + 4)?.try_into().ok()?;
    let (asked_type, asked_class) =
        (u16::from_be_bytes([asked[0], asked[1]]), u16::from_be_bytes([asked[2], asked[3]]));
    // The one additional record must be OPT, whose owner is the root (RFC 6891 §6.1.2): so no compressed name is left
    // anywhere that a parser could loop on.
    if count(10) == 1 && query.get(name_end + 4..name_end + 7)? != [0, 0, 41] {
        return None;
    }

    // The parser refuses types it does not know, but a new type of a granted name must be answered "no such record".
    let mut readable = query.to_vec();
    if QTYPE::try_from(asked_type).is_err() {
        readable[name_end..name_end + 2].copy_from_slice(&u16::from(TYPE::TXT).to_be_bytes());
    }
    if asked_class != u16::from(QCLASS::CLASS(CLASS::IN)) {
        return None;
    }
    let packet = Packet::parse(&readable).ok()?;
    let question = packet.questions.first()?;
    let name = presentation(question.qname.as_bytes());
    // Programs with a resolver of their own may ask here what `/etc/hosts` says.
    let own = names::is_own(&name);
    let address = if own { Some(Ipv4Addr::LOCALHOST) } else { decide(&name) };

    let mut reply = Packet::new_reply(packet.id());
    *reply.opcode_mut() = OPCODE::StandardQuery;
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if packet.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    reply.questions.push(question.clone());
    match address {
        None => *reply.rcode_mut() = RCODE::NameError,
        Some(address) if asked_type == u16::from(TYPE::A) || asked_type == 255 => {
            let data = RData::A(A { address: address.into() });
            reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data));
        }
        Some(_) if own && asked_type == u16::from(TYPE::AAAA) => {
            let data = RData::AAAA(AAAA { address: Ipv6Addr::LOCALHOST.into() });
            reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL, data));
        }
        Some(_) => {}
    }
    if packet.opt().is_some() {
        *reply.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: MAX_UDP_QUERY as u16, version: 0 });
    }
    let mut bytes = reply.build_bytes_vec_compressed().ok()?;
    bytes.get_mut(name_end..name_end + 4)?.copy_from_slice(&asked);
    (bytes.len() <= MAX_REPLY).then_some(bytes)
}

/// The offset behind the first question's name; `None` when it is compressed (a first name has nothing to point back
/// to), unfinished or too long.
fn skip_plain_name(query: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > 63 {
            return None;
        }
        at += length;
    }
    (at - HEADER <= 255).then_some(at)
}

/// Labels as text, escaped as in RFC 1035 §5.1.
fn presentation<'a>(labels: impl Iterator<Item = &'a [u8]>) -> String {
    let mut text = String::new();
    for (i, label) in labels.enumerate() {
        if i > 0 {
            text.push('.');
        }
        for &byte in label {
            if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
                text.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(text, "\\{byte:03}");
            }
        }
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIVEN: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

    /// A query as `getaddrinfo` writes it.
    pub fn query(labels: &[&[u8]], qtype: u16) -> Vec<u8> {
        let mut q = vec![0xab, 0xcd, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        for l in labels {
            q.push(l.len() as u8);
            q.extend_from_slice(l);
        }
        q.push(0);
        q.extend_from_slice(&qtype.to_be_bytes());
        q.extend_from_slice(&[0, 1]);
        q
    }

    fn with_opt(mut q: Vec<u8>) -> Vec<u8> {
        q[11] = 1;
        q.extend_from_slice(&[0, 0, 41, 0x05, 0xc0, 0, 0, 0, 0, 0, 0]);
        q
    }

    fn ask(q: &[u8], give: Option<Ipv4Addr>) -> (Option<Vec<u8>>, Vec<String>) {
        let mut seen = Vec::new();
        let reply = answer(q, |n| {
            seen.push(n.to_owned());
            give
        });
        (reply, seen)
    }

    #[test]
    fn a_granted_name_gets_its_address() {
        let q = query(&[b"Example", b"org"], 1);
        let (reply, seen) = ask(&q, Some(GIVEN));
        let reply = reply.unwrap();
        assert_eq!(seen, ["Example.org"]);
        assert_eq!(&reply[..12], &[0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(&reply[12..q.len()], &q[12..], "the question comes back in the case it was asked");
        assert_eq!(&reply[q.len()..], &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 64, 0, 1]);
    }

    #[test]
    fn the_sandbox_itself_is_never_asked_about() {
        for (labels, qtype, data) in [
            (&[&b"sandbox"[..]][..], 1, &[127, 0, 0, 1][..]),
            (&[b"LocalHost"], 1, &[127, 0, 0, 1]),
            (&[b"www", b"localhost"], 1, &[127, 0, 0, 1]),
            (&[b"sandbox"], 28, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            (&[b"sandbox"], 15, &[]),
        ] {
            let (reply, seen) = ask(&query(labels, qtype), None);
            let reply = reply.unwrap();
            assert!(seen.is_empty() && reply[3] & 0xf == 0, "{labels:?}");
            assert_eq!((reply[7] == 1, reply.ends_with(data)), (!data.is_empty(), true), "{labels:?}");
        }
        for other in [&[&b"sandbox"[..], b"example"][..], &[b"localhost", b"example"]] {
            assert_eq!(ask(&query(other, 1), None).1.len(), 1, "{other:?}");
        }
    }

    #[test]
    fn other_types_of_a_granted_name_are_empty() {
        for qtype in [28u16, 65, 16, 252, 999, 65280] {
            let q = query(&[b"example", b"org"], qtype);
            let reply = ask(&q, Some(GIVEN)).0.unwrap();
            assert_eq!(&reply[..12], &[0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0], "type {qtype}");
            assert_eq!(&reply[12..], &q[12..], "type {qtype}");
        }
    }

    #[test]
    fn a_refused_name_does_not_exist() {
        for qtype in [1u16, 28, 999] {
            let reply = ask(&query(&[b"evil", b"net"], qtype), None).0.unwrap();
            assert_eq!(&reply[..12], &[0xab, 0xcd, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn odd_bytes_come_out_escaped() {
        let seen = ask(&query(&[b"a\0b", b"c\nd", b"e.f", b"\xff\\", b"*"], 1), None).1;
        assert_eq!(seen, [r"a\000b.c\010d.e\046f.\255\092.\042"]);
        let seen = ask(&query(&[], 2), None).1;
        assert_eq!(seen, [""]);
    }

    #[test]
    fn edns_is_tolerated() {
        let q = with_opt(query(&[b"example", b"org"], 1));
        let reply = ask(&q, Some(GIVEN)).0.unwrap();
        assert_eq!(&reply[..12], &[0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 1]);
        let back = Packet::parse(&reply).unwrap();
        assert_eq!(back.opt().unwrap().udp_packet_size, 512);
        assert_eq!(back.answers.len(), 1);
    }

    #[test]
    fn malformed_is_formerr_and_never_asked() {
        let good = query(&[b"example", b"org"], 1);
        let formerr = vec![0xab, 0xcd, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut two = good.clone();
        two[5] = 2;
        let mut answers = good.clone();
        answers[7] = 1;
        let mut many = good.clone();
        (many[10], many[11]) = (0xff, 0xff);
        let mut looped = good[..12].to_vec();
        looped.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
        let mut chaos = good.clone();
        *chaos.last_mut().unwrap() = 3;
        let mut not_opt = good.clone();
        not_opt[11] = 1;
        not_opt.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4]);
        let long = query(&[&[b'a'; 63], &[b'b'; 63], &[b'c'; 63], &[b'd'; 63]], 1);
        for bad in
            [two, answers, many, looped, chaos, not_opt, long, good[..good.len() - 1].to_vec(), good[..12].to_vec()]
        {
            assert_eq!(ask(&bad, Some(GIVEN)), (Some(formerr.clone()), vec![]), "{bad:?}");
        }
        let mut notify = good.clone();
        notify[2] = 0x20;
        assert_eq!(ask(&notify, Some(GIVEN)), (Some(vec![0xab, 0xcd, 0xa0, 0x84, 0, 0, 0, 0, 0, 0, 0, 0]), vec![]));
    }

    #[test]
    fn nothing_to_reply_to() {
        let mut reply = query(&[b"example", b"org"], 1);
        reply[2] |= 0x80;
        assert_eq!(ask(&reply, Some(GIVEN)), (None, vec![]));
        assert_eq!(ask(&[0; 11], Some(GIVEN)), (None, vec![]));
        assert_eq!(ask(&[0; MAX_TCP_QUERY + 1], Some(GIVEN)), (None, vec![]));
    }

    proptest! {
        #[test]
        fn bounded_and_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), give in any::<bool>()) {
            let reply = answer(&bytes, |n| { assert!(n.len() <= 4 * 255); give.then_some(GIVEN) });
            prop_assert!(reply.is_none_or(|r| r.len() <= MAX_REPLY && r[..2] == bytes[..2] && r[2] & 0x80 != 0));
        }

        #[test]
        fn nearly_good_queries(
            labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..64), 0..5),
            qtype in any::<u16>(), flip in 0usize..300, to in any::<u8>(), edns in any::<bool>(),
        ) {
            let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
            let mut q = query(&labels, qtype);
            if edns { q = with_opt(q); }
            let untouched = flip >= q.len();
            if !untouched { q[flip] = to; }
            let fits = labels.iter().map(|l| l.len() + 1).sum::<usize>() < 254;
            let reply = answer(&q, |_| Some(GIVEN));
            if untouched && fits { prop_assert_eq!(reply.as_ref().unwrap()[3] & 0xf, 0); }
            prop_assert!(reply.is_none_or(|r| r.len() <= MAX_REPLY));
        }
    }
}
