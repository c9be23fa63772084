//! Cases by seed, and the mutations that all targets share.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// SplitMix64: any seed is as good as any other, so cases can be numbered.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `n - 1`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// From `from` to `to`, both included.
    pub fn range(&mut self, from: usize, to: usize) -> usize {
        from + self.below(to - from + 1)
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.byte()).collect()
    }

    /// `data` cut in pieces: single bytes, a few cuts, or some of both.
    pub fn pieces<'a>(&mut self, data: &'a [u8]) -> Vec<&'a [u8]> {
        let longest = match self.below(4) {
            0 if data.len() < 2000 => 1,
            1 => 7,
            2 => 64,
            _ => data.len().max(1),
        };
        let mut rest = data;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(self.range(1, longest.min(rest.len())));
            pieces.push(piece);
            rest = behind;
        }
        pieces
    }
}

/// One case: where its choices come from, and the bytes that a failure shows.
pub struct Case {
    pub rng: Rng,
    pub input: Vec<u8>,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let text = text.trim();
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

/// Runs `case` so often, and tells figures on stdout. `case` says whether the input was taken for good, which must be so
/// for at least `taken` percent of a longer run: a target that refuses everything at its first byte tests nothing.
pub fn run(name: &str, cases: u64, taken: u64, case: impl Fn(&mut Case) -> bool) {
    let cases = number("UPM_FUZZ_CASES").unwrap_or(cases);
    let first = number("UPM_FUZZ_SEED").unwrap_or(1);
    let start = Instant::now();
    let (mut good, mut slowest, mut slowest_seed) = (0, Duration::ZERO, first);
    let mut last = Instant::now();
    for n in 0..cases {
        let seed = first.wrapping_add(n);
        let mut one = Case { rng: Rng::new(seed), input: Vec::new() };
        match catch_unwind(AssertUnwindSafe(|| case(&mut one))) {
            Ok(is_good) => good += u64::from(is_good),
            Err(panic) => {
                println!("{name}: input: b\"{}\"", one.input.escape_ascii());
                println!("{name}: again: UPM_FUZZ_SEED={seed} UPM_FUZZ_CASES=1 cargo test --test fuzz {name}");
                resume_unwind(panic);
            }
        }
        let now = Instant::now();
        if now - last > slowest {
            (slowest, slowest_seed) = (now - last, seed);
        }
        last = now;
    }
    println!(
        "{name}: {cases} cases, {good} taken, {:.1} s, the slowest {:.1} ms (seed {slowest_seed})",
        start.elapsed().as_secs_f64(),
        slowest.as_secs_f64() * 1e3,
    );
    assert!(cases < 1000 || good * 100 >= cases * taken, "{name}: only {good} of {cases} inputs were taken");
    // far beyond what a busy machine does to one case, far below what a superlinear reader would take
    assert!(slowest < Duration::from_secs(20), "{name}: the case of seed {slowest_seed} took {slowest:?}");
}

/// Bytes and pieces that are special to somebody.
const ODD: &[&[u8]] = &[
    b"\0",
    b"\x01",
    b"\t",
    b"\n",
    b"\r",
    b"\r\n",
    b"\x1b[31m",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xc0\x80",
    b"\xc2",
    b"\xe2\x82",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xf0\x9f\xa6\x80",
    b"\xc3\xa9",
    b"\xe2\x80\xae",
    b"\xe2\x80\x8b",
    b"\xef\xbb\xbf",
    b"\xc2\x85",
    b"\xc2\x9b31m",
    b"e\xcc\x81",
    b"\xd0\xa5",
    b" ",
    b"\"",
    b"\\",
    b"'",
    b"#",
    b"/",
    b"..",
    b"%00",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"=",
    b"-",
    b"*",
    b"~",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00",
    b"\\ud83d\\ude00",
    b"\\u202e",
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-1e999",
    b"1e-999",
    b"-0",
    b"0",
    b"00",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"-9223372036854775809",
    b"0.1",
    b"1E5",
    b"2.2250738585072011e-308",
    b"null",
    b"true",
    b"false",
];

/// Values of length fields.
const LENGTHS: &[u64] = &[
    0, 1, 2, 3, 4, 5, 32, 63, 64, 65, 127, 128, 253, 255, 256, 512, 16384, 16385, 32767, 32768, 65535, 65536, 0xff_ffff,
];

/// Longest input that mutation makes of shorter ones.
const LONGEST: usize = 6000;

/// Changes `data` in one to a few places: bits, bytes, ranges, length fields, odd characters, nesting. `tokens` are the
/// target's own words, `other` is a second input to splice with.
pub fn mutate(rng: &mut Rng, data: &mut Vec<u8>, tokens: &[&[u8]], other: &[u8]) {
    let mut rounds = 1;
    while rounds < 12 && rng.chance(45) {
        rounds += 1;
    }
    for _ in 0..rounds {
        let at = rng.below(data.len() + 1);
        let longest = 1 << rng.below(8);
        let to = (at + rng.below(longest)).min(data.len());
        match rng.below(16) {
            0 | 1 if at < data.len() => data[at] ^= 1 << rng.below(8),
            2 if at < data.len() => data[at] = rng.byte(),
            3 if at < data.len() => data[at] = data[at].wrapping_add([1, 255, 2, 254, 32, 224][rng.below(6)]),
            4 => drop(data.drain(at..to)),
            5 => {
                let copy = data[at..to].to_vec();
                let place = rng.below(data.len() + 1);
                data.splice(place..place, copy);
            }
            6 => data.truncate(at),
            7 | 8 => {
                let piece = rng.pick(ODD);
                let until = if rng.chance(50) { (at + piece.len()).min(data.len()) } else { at };
                data.splice(at..until, piece.iter().copied());
            }
            9 | 10 if !tokens.is_empty() => {
                let piece = rng.pick(tokens);
                let until = if rng.chance(30) { (at + piece.len()).min(data.len()) } else { at };
                data.splice(at..until, piece.iter().copied());
            }
            11 => {
                // a length field, big-endian, of one to three bytes
                let width = rng.range(1, 3);
                let value = match rng.below(3) {
                    0 => LENGTHS[rng.below(LENGTHS.len())],
                    1 => (data.len() - at) as u64,
                    _ => ((data.len() - at) as u64).wrapping_add([1, u64::MAX, 2, u64::MAX - 1][rng.below(4)]),
                };
                for (byte, new) in data[at..].iter_mut().zip(&value.to_be_bytes()[8 - width..]) {
                    *byte = *new;
                }
            }
            12 => {
                let from = rng.below(other.len() + 1);
                let until = (from + rng.below(200)).min(other.len());
                data.splice(at..to, other[from..until].iter().copied());
            }
            13 => {
                // nested, around the depths that are limits somewhere
                let depth = [1, 2, 30, 60, 61, 62, 63, 64, 65, 99, 100, 122, 123, 124, 125, 126, 127, 128, 129, 400]
                    [rng.below(20)];
                let (open, close): (&[u8], &[u8]) =
                    [(&b"["[..], &b"]"[..]), (b"{\"a\":", b"}"), (b"{a=", b"}"), (b"[{\"b\":", b"}]")][rng.below(4)];
                let inside = if rng.chance(50) { data[at..to].to_vec() } else { b"1".to_vec() };
                data.splice(at..to, [open.repeat(depth), inside, close.repeat(depth)].concat());
            }
            14 => {
                let times = [2, 3, 64, 255, 600][rng.below(5)];
                let piece = data[at..to.min(at + 8)].to_vec();
                data.splice(at..at, piece.repeat(times));
            }
            _ => {
                // a number written out
                if let Some(from) = data[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) {
                    let digits = data[from..].iter().take_while(|b| b.is_ascii_digit()).count();
                    let new = LENGTHS[rng.below(LENGTHS.len())].wrapping_sub(rng.below(2) as u64).to_string();
                    data.splice(from..from + digits, new.into_bytes());
                }
            }
        }
        data.truncate(LONGEST.max(other.len()));
    }
}

/// Whether a message may be shown to people as it is.
pub fn is_plain(message: &str) -> bool {
    !message.contains(char::is_control) && !message.contains(['\u{202e}', '\u{2066}', '\u{200f}'])
}
