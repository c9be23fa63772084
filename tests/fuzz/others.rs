//! What else reads bytes that others chose: the gateway's events, a failed step, audit records, text for people, units.

use crate::harness::{Case, Rng, mutate, run};
use crate::json;
use serde_json::{Value, json as value};
use std::cell::RefCell;
use std::os::unix::net::UnixDatagram;
use upm::audit::record::{self, Record};
use upm::audit::sinks::Sinks;
use upm::config::JournaldMode;
use upm::confine::step::{Step, StepError};
use upm::gateway::events::{Event, MAX_EVENT, Refusal};
use upm::report::envelope::Envelope;
use upm::report::render::render;
use upm::types::{Code, Denial, Denied, EgressRecord, Explained};
use upm::{text, units};

/// Some characters, many of them odd.
fn foreign(rng: &mut Rng, most: usize) -> String {
    let mut text = String::new();
    for _ in 0..rng.below(most + 1) {
        match rng.below(6) {
            0 => text.push(char::from_u32((rng.below(0x11_0000)) as u32).unwrap_or('\u{fffd}')),
            1 => text.push_str(rng.pick(&[
                "\n",
                "\0",
                "\u{1b}[31m",
                "\u{202e}",
                "\"",
                "\\",
                "UPM_CODE=ok\n",
                "\n\u{1}\0\0\0\0\0\0\0",
                "=",
            ])),
            2 => text.push_str(&"x".repeat(rng.range(1, 300))),
            _ => {
                text.push_str(rng.pick(&["a", "example.org", "é", "漢", "PipPlugin", " ", "install", "'", "$(x)", "-"]))
            }
        }
    }
    text
}

const EVENT_TOKENS: &[&[u8]] = &[
    b"{\"event\":\"dropped\",\"count\":1}",
    b"\"event\":\"connection\"",
    b"\"event\":\"refused\"",
    b"\"count\":18446744073709551616",
    b"\"denied\":{\"resolve\":{\"name\":\"x\"}}",
    b"\"unroutable\"",
    b"{\"syscall\":{}}",
    b"\"port\":65536",
    b"\"end\":\"closed\"",
    b"\"x\":1,",
];

fn event(case: &mut Case) -> bool {
    let rng = &mut case.rng;
    let made = match rng.below(3) {
        0 => Event::Connection(EgressRecord {
            host: foreign(rng, 3),
            port: 443,
            bytes_sent: 1,
            bytes_received: u64::MAX,
            duration_us: 3,
            end: foreign(rng, 4),
        }),
        1 => Event::Dropped { count: rng.below(1 << 40) as u64 },
        _ => Event::Refused(Refusal::resolve(&foreign(rng, 4))),
    };
    case.input = serde_json::to_vec(&made).unwrap();
    let fits = case.input.len() <= MAX_EVENT;
    if rng.chance(80) {
        let tokens = if rng.chance(50) { EVENT_TOKENS } else { json::TOKENS };
        mutate(rng, &mut case.input, tokens, b"{\"event\":\"dropped\",\"count\":1}");
    } else if fits {
        assert_eq!(Event::parse(&case.input), Ok(made));
    }
    match Event::parse(&case.input) {
        Ok(event) => {
            assert!(case.input.len() <= MAX_EVENT);
            assert_eq!(serde_json::from_slice::<Event>(&serde_json::to_vec(&event).unwrap()).unwrap(), event);
            true
        }
        Err(_) => false,
    }
}

#[test]
fn events() {
    run("events", 20_000, 15, event);
}

fn step(case: &mut Case) -> bool {
    let rng = &mut case.rng;
    let step = Step::ALL[rng.below(Step::ALL.len())];
    let object = foreign(rng, 12);
    let errno = rng.range(1, 133) as i32;
    let made = StepError::new(step, object.clone(), std::io::Error::from_raw_os_error(errno));
    case.input = made.encode();
    assert!(case.input.len() <= 2008);
    let read = StepError::decode(&case.input).expect("what was encoded");
    assert_eq!((read.step, read.source.raw_os_error()), (step, Some(errno)));
    if object.len() <= 2000 {
        assert_eq!(read.object, object);
    }
    if rng.chance(80) {
        mutate(rng, &mut case.input, &[b"\x0d", b"\x0e", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"], b"\0\0\0\0\0");
    }
    match StepError::decode(&case.input) {
        Some(read) => {
            assert_eq!(Step::ALL[usize::from(case.input[0])], read.step);
            let again = StepError::decode(&read.encode()).expect("what was decoded");
            assert_eq!(again.step, read.step);
            // No failure is made of it here: that looks at the host for a remedy, in processes of its own.
            true
        }
        None => {
            // a step, a subject, a number of four bytes, a length of two, and so many bytes of text
            let whole = case.input.len() >= 8 && {
                let length = usize::from(u16::from_le_bytes([case.input[6], case.input[7]]));
                case.input.len() - 8 >= length
            };
            assert!(!whole || usize::from(case.input[0]) >= Step::ALL.len());
            false
        }
    }
}

#[test]
fn steps() {
    run("steps", 20_000, 30, step);
}

/// Reads an entry as journald does; a repeated or an invalid field is a failure.
fn entry(mut bytes: &[u8]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|b| *b == b'\n').expect("a name");
        let name = std::str::from_utf8(&bytes[..end]).unwrap().to_owned();
        assert!(name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'), "{name}");
        assert!(fields.iter().all(|(known, _)| *known != name), "{name} twice");
        let (length, rest) = bytes[end + 1..].split_first_chunk::<8>().expect("a length");
        let (value, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
        fields.push((name, String::from_utf8(value.to_vec()).unwrap()));
        bytes = rest.strip_prefix(b"\n").expect("the field's end");
    }
    fields
}

#[test]
fn audit_records() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, file) = (directory.path().join("socket"), directory.path().join("audit.jsonl"));
    let journald = UnixDatagram::bind(&socket).unwrap();
    let sinks = Sinks::open(JournaldMode::Required, Some(file.clone()), None, &socket, |_| Ok(())).unwrap();
    let sinks = RefCell::new(sinks);
    let reader = RefCell::new(std::io::BufReader::new(std::fs::File::open(&file).unwrap()));
    run("audit_records", 3_000, 90, |case| {
        let rng = &mut case.rng;
        let name = foreign(rng, 4);
        let denied = match rng.below(3) {
            0 => Denied::Resolve { name },
            1 => Denied::TlsName { name, port: 443, found: foreign(rng, 4) },
            _ => Denied::EgressBytes { name, port: 443, limit: u64::MAX },
        };
        let denial = Denial { pid: Some(2), comm: Some(foreign(rng, 2)), ..Denial::new(denied, 3) };
        let explained = Explained { denial, rule: foreign(rng, 2), remedy: foreign(rng, 8) };
        let event = match rng.below(4) {
            0 => record::Event::CallStarted,
            1 => record::Event::CallFinished,
            2 => record::Event::CallRefused,
            _ => record::Event::Denial(Box::new(explained)),
        };
        let mut record = Record::new(event, "cdb3458d-0b84-491a-9c4e-709f30e11111", 1000, Some(7));
        record.plugin = rng.chance(90).then(|| foreign(rng, 6));
        record.method = rng.chance(90).then(|| foreign(rng, 6));
        record.code = rng.chance(50).then_some(Code::PluginRaised);
        record.arguments = rng.chance(30).then(|| foreign(rng, 20));
        case.input = format!("{record:?}").into_bytes();
        assert_eq!(sinks.borrow_mut().store(&record).unwrap().sinks.len(), 2);

        let mut buffer = vec![0; 1 << 18];
        let length = journald.recv(&mut buffer).unwrap();
        let fields = entry(&buffer[..length]);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut *reader.borrow_mut(), &mut line).unwrap();
        assert!(line.ends_with('\n'));
        let line: Value = json::read(line.trim_end_matches('\n').as_bytes(), 2).expect("strict JSON");
        let line = line.as_object().unwrap();

        // both sinks hold the same fields, and each foreign value as it is, but for its length
        for (name, value) in &fields {
            if name.starts_with("UPM_") || name == "MESSAGE_ID" {
                let shown = match &line[name] {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                assert_eq!(&shown, value, "{name}");
            }
        }
        let own = ["timestamp", "hostname", "pid"];
        let extra: Vec<&String> =
            line.keys().filter(|key| !own.contains(&key.as_str()) && !fields.iter().any(|(n, _)| n == *key)).collect();
        assert!(extra.is_empty(), "{extra:?}");
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let cut = |text: &str| match text.char_indices().nth(1024) {
            None => text.to_owned(),
            Some((end, _)) => format!("{}…", &text[..end]),
        };
        assert_eq!(field("UPM_PLUGIN"), record.plugin.as_deref().map(cut).as_deref());
        assert_eq!(field("UPM_METHOD"), record.method.as_deref().map(cut).as_deref());
        assert_eq!(field("UPM_ARGUMENTS"), record.arguments.as_deref());
        assert_eq!(field("UPM_CALLER_UID"), Some("1000"));
        if let record::Event::Denial(explained) = &record.event {
            let denied = &explained.denial.denied;
            assert_eq!(field("UPM_RULE"), Some(cut(&explained.rule).as_str()));
            assert_eq!(field("UPM_REMEDY"), Some(cut(&explained.remedy).as_str()));
            assert_eq!(field("UPM_LAYER"), Some(denied.layer().name()));
            assert_eq!(field("UPM_OPERATION"), Some(denied.operation()));
        }
        let message = field("MESSAGE").unwrap();
        assert!(!message.contains(text::is_control) && message.len() < 5000, "{message:?}");
        true
    });
}

#[test]
fn text_for_people() {
    run("text_for_people", 20_000, 90, |case| {
        let rng = &mut case.rng;
        let foreign = foreign(rng, 8);
        case.input = foreign.clone().into_bytes();
        for lines in [false, true] {
            let shown = text::escape(&foreign, lines);
            assert!(!shown.contains(|c| text::is_control(c) && !(lines && (c == '\n' || c == '\t'))));
        }
        let limit = rng.below(300);
        let short = text::shorten(&foreign, limit);
        assert!(!short.contains(text::is_control) && crate::harness::is_plain(&short));
        assert!(short.chars().count() <= 10 * limit + 1);
        assert_eq!(
            short.ends_with('…') && !foreign.ends_with('…'),
            foreign.chars().count() > limit && !foreign.ends_with('…')
        );
        let shown = text::quote(&foreign);
        assert!(shown.chars().all(|c| c.is_ascii_graphic() || c == ' ' || c == '…') && shown.len() < 1000, "{shown}");
        // one word of a shell: quotes and what is in them, or nothing that a shell knows
        let word = text::shell(&foreign);
        let inside = word.strip_prefix('\'').and_then(|w| w.strip_suffix('\''));
        match inside {
            Some(inside) => assert!(!inside.replace(r"'\''", "").contains('\''), "{word}"),
            None => assert!(word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c)), "{word}"),
        }
        let document = value!({ foreign.clone(): [foreign.clone()] });
        for terminal in [false, true] {
            let envelope = Envelope { document: document.clone(), result: None };
            let shown = render(&envelope, terminal).concat();
            assert_eq!(json::read(shown.as_bytes(), 3).as_ref(), Some(&document));
            assert!(!terminal || !shown.contains(|c| text::is_control(c) && c != '\n'));
        }
        true
    });
}

#[test]
fn sizes_and_times() {
    run("sizes_and_times", 20_000, 8, |case| {
        let rng = &mut case.rng;
        let number = rng.pick(&[
            "0",
            "1",
            "90",
            "596",
            "597",
            "1.5",
            "9223372036854775807",
            "8388608",
            "18446744073709551616",
            "00",
            ".5",
            "1e3",
        ]);
        let is_time = rng.chance(50);
        let unit = if is_time {
            rng.pick(&["ms", "s", "m", "h", "", "d", " s"])
        } else {
            rng.pick(&["B", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB", " B", "", "G", "EiB", "kib"])
        };
        case.input = format!("{number}{unit}").into_bytes();
        if rng.chance(60) {
            mutate(rng, &mut case.input, &[b"1", b"0", b".", b"KiB", b"s", b"\xd9\xa3", b"_", b"+"], b"512MiB");
        }
        let Ok(text) = std::str::from_utf8(&case.input) else { return false };
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        if is_time {
            let Ok(time) = units::time(text) else { return false };
            let factor = match &text[digits.len()..] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                other => panic!("the unit {other:?} was taken"),
            };
            assert_eq!(time.as_millis(), digits.parse::<u128>().unwrap() * factor);
            assert!(!time.is_zero() && time <= units::MAX_TIME);
            return true;
        }
        let max = [units::MAX_SIZE, 1 << 30][rng.below(2)];
        let Ok(size) = units::size(text, max) else { return false };
        assert!(size > 0 && size <= max);
        let letters = text
            .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
            .trim_start_matches(' ')
            .to_ascii_lowercase();
        let power = "bkmgtpe".find(letters.chars().next().unwrap()).unwrap() as u32;
        let unit = if letters.contains('i') { 1u128 << (10 * power) } else { 10u128.pow(3 * power) };
        if text[digits.len()..].starts_with('.') {
            let fraction: f64 = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ').parse().unwrap();
            let expected = fraction * unit as f64;
            assert!((size as f64 - expected).abs() <= 1.0 + expected / 1e9, "{size} for {expected}");
        } else {
            assert_eq!(u128::from(size), digits.parse::<u128>().unwrap() * unit);
        }
        true
    });
}
