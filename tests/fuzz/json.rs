//! A second reading of JSON: written for being plainly right, in one pass over the grammar of RFC 8259.

use crate::harness::{Rng, mutate, run};
use serde_json::{Map, Value};
use upm::json::parse_strict;

/// Words of JSON for mutation.
pub const TOKENS: &[&[u8]] = &[
    b"{\"a\":1,\"a\":2}",
    b"{\"a\":1,\"\\u0061\":2}",
    b"[]",
    b"{}",
    b"\"\"",
    b"[1,[2,[3]]]",
    b",\"x\":1",
    b"\"\\",
    b"\\u00e9",
    b"-",
    b".5",
    b"e+",
    b"E-7",
    b"\"type\"",
    b"\"args\"",
    b"\"kwargs\"",
];

/// What `parse_strict` should make of `bytes`; `None` for what it should refuse.
pub fn read(bytes: &[u8], max_depth: usize) -> Option<Value> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut reader = Reader { text, at: 0, depth: max_depth };
    reader.space();
    let value = reader.value()?;
    reader.space();
    (reader.at == text.len()).then_some(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\t' | b'\r') {
            self.at += 1;
        }
    }

    fn take(&mut self, word: &str) -> Option<()> {
        self.text[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    fn value(&mut self) -> Option<Value> {
        match self.peek() {
            b'n' => self.take("null").map(|()| Value::Null),
            b't' => self.take("true").map(|()| Value::Bool(true)),
            b'f' => self.take("false").map(|()| Value::Bool(false)),
            b'"' => self.string().map(Value::String),
            b'[' => {
                let mut items = Vec::new();
                self.list("[", "]", |reader| {
                    items.push(reader.value()?);
                    Some(())
                })?;
                Some(Value::Array(items))
            }
            b'{' => {
                let mut members = Map::new();
                self.list("{", "}", |reader| {
                    let key = reader.string()?;
                    reader.space();
                    reader.take(":")?;
                    reader.space();
                    let value = reader.value()?;
                    members.insert(key, value).is_none().then_some(())
                })?;
                Some(Value::Object(members))
            }
            _ => self.number(),
        }
    }

    fn list(&mut self, open: &str, close: &str, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(open)?;
        self.depth = self.depth.checked_sub(1)?;
        self.space();
        if self.take(close).is_none() {
            loop {
                item(self)?;
                self.space();
                if self.take(close).is_some() {
                    break;
                }
                self.take(",")?;
                self.space();
            }
        }
        self.depth += 1;
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        self.take("\"")?;
        let mut out = String::new();
        loop {
            let c = self.text[self.at..].chars().next()?;
            self.at += c.len_utf8();
            match c {
                '"' => return Some(out),
                '\0'..='\x1f' => return None,
                '\\' => {
                    let escaped = self.peek();
                    self.at += 1;
                    out.push(match escaped {
                        b'"' | b'\\' | b'/' => char::from(escaped),
                        b'b' => '\x08',
                        b'f' => '\x0c',
                        b'n' => '\n',
                        b'r' => '\r',
                        b't' => '\t',
                        b'u' => {
                            let first = self.hex()?;
                            if (0xd800..0xdc00).contains(&first) {
                                self.take("\\u")?;
                                let second = self.hex().filter(|second| (0xdc00..0xe000).contains(second))?;
                                char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))?
                            } else {
                                char::from_u32(first)?
                            }
                        }
                        _ => return None,
                    });
                }
                c => out.push(c),
            }
        }
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    fn number(&mut self) -> Option<Value> {
        let from = self.at;
        let mut whole = true;
        let _ = self.take("-");
        if self.take("0").is_none() {
            self.digits()?;
        }
        if self.take(".").is_some() {
            whole = false;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[from..self.at];
        if whole && text != "-0" {
            if let Ok(number) = text.parse::<i64>() {
                return Some(number.into());
            }
            if let Ok(number) = text.parse::<u64>() {
                return Some(number.into());
            }
        }
        // the standard library rounds to the nearest double
        serde_json::Number::from_f64(text.parse().ok()?).map(Value::Number)
    }
}

/// A JSON value as text, with spaces and escapes where they may be.
pub fn write(rng: &mut Rng, depth: usize, out: &mut String) {
    let space = |rng: &mut Rng, out: &mut String| {
        if rng.chance(6) {
            out.push_str(rng.pick(&[" ", "\n", "\t", "\r", "  "]));
        }
    };
    match rng.below(if depth == 0 { 6 } else { 9 }) {
        0 => out.push_str(rng.pick(&["null", "true", "false"])),
        1 | 2 => out.push_str(rng.pick(&[
            "0",
            "1",
            "-1",
            "7",
            "-0",
            "3.5",
            "1e3",
            "1E-3",
            "0.1",
            "1e308",
            "-1.7976931348623157e308",
            "5e-324",
            "2.4703282292062327e-324",
            "9007199254740993",
            "9007199254740993.0",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775808",
            "-9223372036854775809",
            "123456789012345678901234567890",
            "0.30000000000000004",
            "122.416294033786585",
        ])),
        3..=5 => string(rng, out),
        6 | 7 => {
            out.push('[');
            for n in 0..rng.below(4) {
                if n > 0 {
                    out.push(',');
                }
                space(rng, out);
                write(rng, depth - 1, out);
                space(rng, out);
            }
            out.push(']');
        }
        _ => {
            out.push('{');
            for n in 0..rng.below(4) {
                if n > 0 {
                    out.push(',');
                }
                space(rng, out);
                // mostly distinct
                if rng.chance(3) {
                    string(rng, out)
                } else {
                    out.push_str(&format!("\"k{n}\""))
                }
                space(rng, out);
                out.push(':');
                space(rng, out);
                write(rng, depth - 1, out);
                space(rng, out);
            }
            out.push('}');
        }
    }
}

/// A string's text, its quotes included.
pub fn string(rng: &mut Rng, out: &mut String) {
    out.push('"');
    for _ in 0..rng.below(4) {
        out.push_str(rng.pick(&[
            "a",
            "requests",
            "0",
            "é",
            "漢",
            "🦀",
            "\u{202e}",
            "\u{7f}",
            "\u{85}",
            "\\n",
            "\\\"",
            "\\\\",
            "\\/",
            "\\u0000",
            "\\u001b[31m",
            "\\u00E9",
            "\\ud83d\\uDE00",
            "--index-url",
            "../..",
            "x y",
            "{project_root}",
            "a\u{301}",
            "\\b\\f\\r\\t",
        ]));
    }
    out.push('"');
}

/// Doubles are compared by their bits: 0 and -0 are two.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && same(a, b))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            a.as_f64().map(f64::to_bits) == b.as_f64().map(f64::to_bits)
        }
        _ => a == b,
    }
}

/// Holds what is said of `input` against the second reading.
pub fn check(input: &[u8], rng: &mut Rng) -> bool {
    let depth = [0, 1, 2, 63, 64, 126, 127, 128, 1000][rng.below(9)];
    let strict = parse_strict(input, depth);
    match (&strict, read(input, depth.min(upm::json::MAX_DEPTH))) {
        (Ok(value), Some(expected)) => {
            assert!(same(value, &expected), "{value} is not {expected}");
            let again = serde_json::to_vec(value).unwrap();
            assert!(same(&parse_strict(&again, depth).unwrap(), value));
            true
        }
        (Err(error), None) => {
            let lines = 1 + input.iter().filter(|b| **b == b'\n').count();
            assert!((1..=lines).contains(&error.line) && error.column <= input.len() + 1, "{error}");
            assert!(crate::harness::is_plain(&error.message) && error.message.len() < 1000, "{error}");
            false
        }
        (strict, expected) => panic!("{strict:?}, but expected {expected:?}"),
    }
}

#[test]
fn json() {
    run("json", 40_000, 5, |case| {
        let rng = &mut case.rng;
        let (mut text, mut other) = (String::new(), String::new());
        write(rng, 4, &mut text);
        write(rng, 4, &mut other);
        case.input = text.into_bytes();
        if rng.chance(90) {
            mutate(rng, &mut case.input, TOKENS, other.as_bytes());
        }
        check(&case.input, &mut case.rng)
    });
}
