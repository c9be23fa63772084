//! The name stub: whatever is asked, an address goes out only by the closure's word, in a reply of bounded size.

use crate::harness::{Case, Rng, mutate, run};
use std::net::Ipv4Addr;
use upm::decide::names::normalize;
use upm::gateway::stub::{MAX_REPLY, MAX_TCP_QUERY, answer};

const GIVEN: Ipv4Addr = Ipv4Addr::new(127, 64, 7, 9);
const TOKENS: &[&[u8]] = &[
    b"\xc0\x0c",
    b"\xc0\x00",
    b"\xff\xff",
    b"\x00\x01\x00\x01",
    b"\x00\x1c\x00\x01",
    b"\x00\xff\x00\x01",
    b"\x00\x29",
    b"\x3f",
    b"\x40",
    b"\x00\x00\x29\x05\xc0\x00\x00\x00\x00\x00\x00",
    b"\x03www",
    b"\x07example\x03org\x00",
    b"\x01.",
    b"\x00\x00\x00\x01",
    b"\x00\x0a\x00\x08",
];

fn query(rng: &mut Rng) -> Vec<u8> {
    let flags: [u8; 2] = match rng.below(8) {
        0 => [rng.byte(), rng.byte()],
        1 => [1, 0x20],
        _ => [1, 0],
    };
    let with_opt = rng.chance(40);
    let mut q = vec![rng.byte(), rng.byte(), flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, u8::from(with_opt)];
    let labels = if rng.chance(5) { rng.range(4, 130) } else { rng.below(5) };
    for _ in 0..labels {
        let label: Vec<u8> = match rng.below(8) {
            0 => {
                let n = rng.range(1, 10);
                rng.bytes(n)
            }
            1 => vec![b'a'; rng.range(1, 63)],
            2 => rng.pick(&["a\0b", "a.b", "x\n", "*", "\\032", "Ä", "-"]).as_bytes().to_vec(),
            _ => rng
                .pick(&["example", "org", "files", "www", "Example", "a", "_tcp", "xn--bcher-kva"])
                .as_bytes()
                .to_vec(),
        };
        q.push(label.len() as u8);
        q.extend(label);
    }
    q.push(0);
    let kinds = [1u16, 1, 1, 28, 28, 255, 65, 16, 41, 251, 252, 5, 999, 65280];
    let kind =
        if rng.chance(3) { u16::from(rng.byte()) << 8 | u16::from(rng.byte()) } else { kinds[rng.below(kinds.len())] };
    q.extend(kind.to_be_bytes());
    q.extend([0, if rng.chance(97) { 1 } else { 3 }]);
    if with_opt {
        let options = match rng.below(5) {
            0 => vec![0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
            1 => vec![0, 12, 0, 4, 0, 0, 0, 0],
            _ => vec![],
        };
        q.extend([0, 0, 41, 4, 0xd0, 0, 0, if rng.chance(30) { 0x80 } else { 0 }, 0, 0, options.len() as u8]);
        q.extend(options);
    }
    q
}

/// The one question, read plainly: the name's labels, the end of it, type and class.
fn question(query: &[u8]) -> Option<(Vec<&[u8]>, usize, u16, u16)> {
    let mut rest = query.get(12..)?;
    let mut labels = Vec::new();
    loop {
        let (&length, behind) = rest.split_first()?;
        if length == 0 {
            rest = behind;
            break;
        }
        if length > 63 {
            return None;
        }
        let (label, behind) = behind.split_at_checked(usize::from(length))?;
        labels.push(label);
        rest = behind;
    }
    let end = query.len() - rest.len();
    let [t0, t1, c0, c1, ..] = *rest else { return None };
    (end - 12 <= 255).then_some((labels, end, u16::from_be_bytes([t0, t1]), u16::from_be_bytes([c0, c1])))
}

fn shown(labels: &[&[u8]]) -> String {
    let label = |label: &&[u8]| -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        label.iter().map(|&b| if plain(b) { char::from(b).to_string() } else { format!("\\{b:03}") }).collect()
    };
    labels.iter().map(label).collect::<Vec<_>>().join(".")
}

fn one(case: &mut Case) -> bool {
    let rng = &mut case.rng;
    case.input = query(rng);
    let touched = rng.chance(75);
    if touched {
        let other = query(rng);
        mutate(rng, &mut case.input, TOKENS, &other);
    }
    let taken = check(&case.input, &mut case.rng);
    let flags = [case.input.get(2), case.input.get(3)];
    // of the untouched ones, all that set nothing reserved are good
    let odd = flags != [Some(&1), Some(&0)] && flags != [Some(&1), Some(&0x20)];
    assert!(
        touched || odd || taken || question(&case.input).is_none_or(|(.., class)| class != 1),
        "a good query was refused"
    );
    taken
}

/// Holds what is said of `input` against the second reading.
pub fn check(input: &[u8], rng: &mut Rng) -> bool {
    let give = rng.chance(60).then_some(GIVEN);
    let mut asked = Vec::new();
    let reply = answer(input, |name| {
        asked.push(name.to_owned());
        give
    });
    let is_query = (12..=MAX_TCP_QUERY).contains(&input.len()) && input[2] & 0x80 == 0;
    assert_eq!(reply.is_some(), is_query);
    let Some(reply) = reply else {
        assert!(asked.is_empty());
        return false;
    };
    assert!((12..=MAX_REPLY).contains(&reply.len()));
    assert_eq!(reply[..2], input[..2], "the id");
    assert_eq!(reply[2] & 0x80, 0x80, "a reply");
    assert_eq!(reply[2] & 0x79, input[2] & 0x79, "opcode and RD");
    assert_eq!(reply[2] & 0x06, 0, "neither authoritative nor cut");
    let counts: Vec<usize> =
        (4..12).step_by(2).map(|at| usize::from(reply[at]) << 8 | usize::from(reply[at + 1])).collect();
    let code = reply[3] & 0xf;
    if asked.is_empty() {
        // nothing was decided, so nothing is said
        assert!(reply.len() == 12 && counts == [0; 4] && (code == 1 || code == 4));
        return false;
    }
    assert_eq!(asked.len(), 1);
    let (labels, end, kind, class) = question(input).expect("a name was decided on that is not there");
    assert!(
        input[2] & 0x78 == 0 && class == 1 && input[4..10] == [0, 1, 0, 0, 0, 0] && input[10] == 0 && input[11] <= 1
    );
    assert_eq!(asked[0], shown(&labels));
    assert!(asked[0].is_ascii() && asked[0].len() <= 4 * 253 && !asked[0].contains(|c: char| c.is_ascii_control()));
    // an invalid byte cannot hide in a granted host name
    let plain = labels.iter().all(|l| l.iter().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b)));
    let name = shown(&labels).to_ascii_lowercase();
    assert_eq!(normalize(&asked[0]), (plain && !name.is_empty() && name.len() <= 253).then_some(name));

    assert_eq!(reply[12..end + 4], input[12..end + 4], "the question as it was asked");
    let addressed = give.is_some() && (kind == 1 || kind == 255);
    assert_eq!(code, if give.is_some() { 0 } else { 3 });
    assert_eq!(counts, [1, usize::from(addressed), 0, usize::from(input[11])]);
    let mut rest = &reply[end + 4..];
    if addressed {
        rest = rest.strip_prefix(&[0xc0, 12]).or_else(|| rest.strip_prefix(&[0])).expect("the answer's name");
        rest = rest.strip_prefix(&[0, 1, 0, 1]).expect("A IN");
        assert_eq!(rest[4..6], [0, 4]);
        assert_eq!(rest[6..10], GIVEN.octets());
        rest = &rest[10..];
    }
    assert!(
        !reply.windows(4).any(|w| w == GIVEN.octets()) || addressed || input.windows(4).any(|w| w == GIVEN.octets())
    );
    assert_eq!(rest.len(), if input[11] == 1 { 11 } else { 0 });
    true
}

#[test]
fn stub() {
    run("stub", 40_000, 15, one);
}
