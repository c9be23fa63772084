//! What people see while a call runs: a spinner or bar, and with `-v` the plugin's stderr.
//!
//! Driven by the supervisor's poll loop; there is no thread and no timer. [`Progress::new`] does one `TIOCGWINSZ` ioctl
//! and reads the environment; afterwards only `ppoll` and `write` on descriptor 2 are used. Nothing here waits for a
//! terminal that is stopped or a reader that does not read, but [`Progress::finish`], for half a second at most.

use crate::sys::poll::poll;
use crate::text::{push_escaped, shorten};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::time::Duration;

/// A call shorter than this shows nothing.
const QUIET: Duration = Duration::from_millis(300);
/// Between two drawings of the spinner.
const PACE: Duration = Duration::from_millis(100);
/// Bytes of the plugin's stderr that wait for a slow reader; what is more is dropped here (the answer keeps its own).
const BACKLOG: usize = 64 * 1024;
/// At most this much a write: what `poll(2)` calls writable takes it without blocking (`PIPE_BUF`).
const CHUNK: usize = 4096;
/// How long [`Progress::finish`] waits for a slow reader.
const PATIENCE: Duration = Duration::from_millis(500);
/// Columns of the bar between its brackets.
const BAR: usize = 20;
/// Characters of the plugin's message that are kept.
const MESSAGE_LIMIT: usize = 200;

/// Whether colour may be used: on a terminal that is not `dumb`, and with `NO_COLOR` unset or empty
/// (<https://no-color.org>).
#[must_use]
pub fn colour(terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty) && term.is_some_and(|term| term != "dumb")
}

/// Where the drawing goes; descriptor 2, but in tests.
trait Sink {
    /// Writes some bytes, or none when it would block for longer than `wait`.
    fn write(&mut self, bytes: &[u8], wait: Duration) -> io::Result<usize>;
}

#[derive(Debug)]
struct Stderr;

impl Sink for Stderr {
    fn write(&mut self, bytes: &[u8], wait: Duration) -> io::Result<usize> {
        let stderr = io::stderr();
        let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
        if poll(&mut polled, Some(wait))? == 0 {
            return Ok(0);
        }
        match rustix::io::write(&stderr, &bytes[..bytes.len().min(CHUNK)]) {
            Ok(written) => Ok(written),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// What is shown on stderr during one call.
#[derive(Debug)]
pub struct Progress {
    screen: Screen<Stderr>,
}

impl Progress {
    /// Checks stderr once. Without `enabled`, or if stderr is not a terminal (or a `dumb` one), there is no spinner;
    /// [`Progress::plugin_stderr`] writes in either case.
    #[must_use]
    pub fn new(enabled: bool) -> Self {
        let size = rustix::termios::tcgetwinsize(io::stderr()).ok();
        let term = std::env::var_os("TERM");
        let no_color = std::env::var_os("NO_COLOR");
        let cursor = term.as_ref().is_some_and(|term| term != "dumb");
        Progress {
            screen: Screen {
                sink: Stderr,
                terminal: size.is_some(),
                spinner: enabled && size.is_some() && cursor,
                colour: colour(size.is_some(), no_color.as_deref(), term.as_deref()),
                // A pseudo-terminal without a size reports 0.
                width: size.map_or(80, |size| if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) }),
                ..Screen::new(Stderr)
            },
        }
    }

    /// Whether there is a spinner to be drawn at all.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.screen.spinner
    }

    /// Tells how long the call has run, and draws when it is time to. The loop calls this every 100 ms or so.
    pub fn tick(&mut self, elapsed: Duration) {
        self.screen.tick(elapsed);
    }

    /// What the plugin said of its progress; `fraction` outside 0–1 is brought inside, and NaN counts as none.
    pub fn progress(&mut self, message: &str, fraction: Option<f64>) {
        self.screen.progress(message, fraction);
    }

    /// Shows what the plugin wrote to stderr (`-v`): escaped on a terminal, as it is anywhere else.
    pub fn plugin_stderr(&mut self, bytes: &[u8]) {
        self.screen.plugin_stderr(bytes);
    }

    /// Removes the spinner and leaves the cursor at the beginning of a line.
    pub fn finish(&mut self) {
        self.screen.finish();
    }
}

#[derive(Debug)]
struct Screen<S> {
    sink: S,
    terminal: bool,
    spinner: bool,
    colour: bool,
    /// Columns.
    width: usize,
    /// A spinner stands on the line.
    drawn: bool,
    /// When it was drawn last.
    drawn_at: Option<Duration>,
    frame: usize,
    message: String,
    fraction: Option<f64>,
    /// The plugin's output ended with a newline, or there was none.
    line_start: bool,
    /// The beginning of a UTF-8 sequence whose rest has not come, and a carriage return that may belong to a newline.
    partial: Vec<u8>,
    /// What a slow reader has not taken.
    backlog: VecDeque<u8>,
    dropped: u64,
    /// stderr is gone.
    broken: bool,
}

impl<S: Sink> Screen<S> {
    fn new(sink: S) -> Self {
        Screen {
            sink,
            terminal: false,
            spinner: false,
            colour: false,
            width: 80,
            drawn: false,
            drawn_at: None,
            frame: 0,
            message: String::new(),
            fraction: None,
            line_start: true,
            partial: Vec::new(),
            backlog: VecDeque::new(),
            dropped: 0,
            broken: false,
        }
    }

    fn tick(&mut self, elapsed: Duration) {
        self.flush(Duration::ZERO);
        // The plugin's unfinished line is not drawn over.
        if !self.spinner || elapsed < QUIET || !self.line_start || !self.backlog.is_empty() {
            return;
        }
        if self.drawn_at.is_some_and(|at| elapsed.saturating_sub(at) < PACE) {
            return;
        }
        self.drawn_at = Some(elapsed);
        let line = self.line(elapsed);
        self.frame += 1;
        self.drawn = true;
        self.push(format!("\r{line}\x1b[K").as_bytes());
        self.flush(Duration::ZERO);
    }

    fn progress(&mut self, message: &str, fraction: Option<f64>) {
        self.message = shorten(message, MESSAGE_LIMIT);
        self.fraction = fraction.filter(|fraction| !fraction.is_nan()).map(|fraction| fraction.clamp(0.0, 1.0));
        // Drawn by the next tick: a plugin may send more of these than anyone can see.
        if self.drawn {
            self.drawn_at = None;
        }
    }

    fn plugin_stderr(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if !self.terminal {
            self.push(bytes);
        } else {
            self.clear();
            let text = self.decode(bytes);
            self.line_start = text.chars().next_back().map_or(self.line_start, |last| last == '\n');
            self.push(text.as_bytes());
        }
        self.flush(Duration::ZERO);
    }

    fn finish(&mut self) {
        self.clear();
        if !self.partial.is_empty() {
            let rest = std::mem::take(&mut self.partial);
            let text = show_bytes(&rest);
            self.line_start = false;
            self.push(text.as_bytes());
        }
        if self.terminal && !self.line_start {
            self.push(b"\n");
            self.line_start = true;
        }
        let mut left = PATIENCE;
        let pause = Duration::from_millis(50);
        while !self.backlog.is_empty() && !self.broken && !left.is_zero() {
            self.flush(pause);
            left = left.saturating_sub(pause);
        }
        self.backlog.clear();
        if self.dropped > 0 {
            let note = format!("\nupm: {} bytes of the plugin's stderr were not shown\n", self.dropped);
            self.dropped = 0;
            self.push(note.as_bytes());
            self.flush(Duration::ZERO);
            self.backlog.clear();
        }
        self.spinner = false;
    }

    /// The spinner's line: shorter than the terminal is wide, so that it never wraps and `\r` finds its beginning.
    fn line(&self, elapsed: Duration) -> String {
        let mut line = match self.fraction {
            Some(fraction) => {
                // 0–20 of 20, 0–100 of 100: no rounding up to a full bar before the end.
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 20 and 0 to 100")]
                let (full, percent) = ((fraction * BAR as f64) as usize, (fraction * 100.0) as u8);
                format!("[{}{}] {percent:3}% ", "#".repeat(full), "-".repeat(BAR - full))
            }
            None => format!("{} ", ["|", "/", "-", "\\"][self.frame % 4]),
        };
        let time = shown_time(elapsed);
        let columns = self.width.saturating_sub(1);
        if line.len() + time.len() > columns {
            return time.chars().take(columns).collect();
        }
        let mut used = line.len() + time.len();
        if self.colour {
            // Writing to a String cannot fail.
            let _ = write!(line, "\x1b[2m{time}\x1b[0m");
        } else {
            line.push_str(&time);
        }
        if !self.message.is_empty() && used < columns {
            line.push(' ');
            used += 1;
            for c in self.message.chars() {
                // Anything beyond ASCII may take two columns.
                used += if c.is_ascii() { 1 } else { 2 };
                if used > columns {
                    break;
                }
                line.push(c);
            }
        }
        line
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.drawn_at = None;
            self.push(b"\r\x1b[K");
        }
    }

    /// The bytes as text for a terminal; a sequence or line end that is not complete waits for the rest.
    fn decode(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.partial);
        all.extend_from_slice(bytes);
        let mut end = all.len();
        if all.last() == Some(&b'\r') {
            end -= 1;
        } else if let Some(chunk) = all.utf8_chunks().last() {
            let begun = std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
            end -= if begun { chunk.invalid().len() } else { 0 };
        }
        self.partial = all.split_off(end);
        show_bytes(&all)
    }

    /// Queues bytes. Drawing is never queued behind a reader that does not read, so the queue only holds what a
    /// plugin wrote and one line of the spinner.
    fn push(&mut self, bytes: &[u8]) {
        if self.broken {
            return;
        }
        let room = BACKLOG.saturating_sub(self.backlog.len()).min(bytes.len());
        self.backlog.extend(&bytes[..room]);
        self.dropped += (bytes.len() - room) as u64;
        if room < bytes.len() {
            // The first part of a large write may go at once.
            self.flush(Duration::ZERO);
        }
    }

    fn flush(&mut self, wait: Duration) {
        while !self.backlog.is_empty() {
            match self.sink.write(self.backlog.make_contiguous(), wait) {
                Ok(0) => return,
                Ok(written) => drop(self.backlog.drain(..written)),
                Err(_) => {
                    // The call goes on without its audience; the answer holds the output.
                    self.broken = true;
                    self.backlog.clear();
                }
            }
        }
    }
}

/// Text for a terminal: newline and tab stay, a carriage return before a newline goes, other controls and bytes that
/// are not UTF-8 are escaped.
fn show_bytes(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut characters = chunk.valid().chars().peekable();
        while let Some(c) = characters.next() {
            if c != '\r' || characters.peek() != Some(&'\n') {
                push_escaped(&mut shown, c, true);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// `3.2s`, `2m05s`, `1h02m`.
fn shown_time(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match seconds {
        0..=59 => format!("{seconds}.{}s", elapsed.subsec_millis() / 100),
        60..=3599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Memory {
        written: Vec<u8>,
        /// Bytes it takes before it would block.
        room: usize,
        broken: bool,
    }

    impl Sink for Memory {
        fn write(&mut self, bytes: &[u8], _wait: Duration) -> io::Result<usize> {
            if self.broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let taken = bytes.len().min(self.room).min(CHUNK);
            self.written.extend_from_slice(&bytes[..taken]);
            self.room -= taken;
            Ok(taken)
        }
    }

    fn screen(width: usize) -> Screen<Memory> {
        let sink = Memory { room: usize::MAX, ..Memory::default() };
        Screen { terminal: true, spinner: true, width, ..Screen::new(sink) }
    }

    fn text(screen: &mut Screen<Memory>) -> String {
        String::from_utf8(std::mem::take(&mut screen.sink.written)).unwrap()
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_short_call_shows_nothing() {
        let mut screen = screen(80);
        screen.tick(ms(100));
        screen.progress("half", Some(0.5));
        screen.tick(ms(299));
        screen.finish();
        assert_eq!(text(&mut screen), "");
    }

    #[test]
    fn a_long_call_spins_and_cleans_up() {
        let mut screen = screen(80);
        screen.tick(ms(300));
        screen.tick(ms(350));
        screen.tick(ms(400));
        assert_eq!(text(&mut screen), "\r| 0.3s\x1b[K\r/ 0.4s\x1b[K");
        screen.progress("half\x1b[2J", Some(0.5));
        screen.tick(ms(410));
        assert_eq!(text(&mut screen), "\r[##########----------]  50% 0.4s half\\x1b[2J\x1b[K");
        screen.finish();
        assert_eq!(text(&mut screen), "\r\x1b[K");
        screen.tick(ms(9000));
        assert_eq!(text(&mut screen), "");
    }

    #[test]
    fn a_line_never_wraps() {
        for width in [1, 4, 5, 10, 30, 40, 80] {
            for (message, fraction) in [("漢".repeat(300), None), ("x".repeat(300), Some(f64::INFINITY))] {
                let mut screen = screen(width);
                screen.progress(&message, fraction);
                let line = screen.line(ms(59_900));
                let columns: usize = line.chars().map(|c| if c.is_ascii() { 1 } else { 2 }).sum();
                assert!(columns < width.max(1) || (width == 1 && columns == 0), "{width}: {line}");
            }
        }
    }

    #[test]
    fn fractions_stay_inside_the_bar() {
        let mut screen = screen(80);
        for (fraction, line) in [
            (Some(-1.0), "[--------------------]   0% 1.0s"),
            (Some(0.999), "[###################-]  99% 1.0s"),
            (Some(7.0), "[####################] 100% 1.0s"),
            (Some(f64::NAN), "| 1.0s"),
            (None, "| 1.0s"),
        ] {
            screen.progress("", fraction);
            assert_eq!(screen.line(ms(1000)), line);
        }
    }

    #[test]
    fn colour_only_where_it_is_wanted() {
        let os = |text: &'static str| Some(OsStr::new(text));
        assert!(colour(true, None, os("xterm")));
        assert!(colour(true, os(""), os("xterm")));
        assert!(!colour(true, os("1"), os("xterm")));
        assert!(!colour(true, None, os("dumb")));
        assert!(!colour(true, None, None));
        assert!(!colour(false, None, os("xterm")));
        let mut screen = screen(80);
        screen.colour = true;
        assert_eq!(screen.line(ms(1000)), "| \x1b[2m1.0s\x1b[0m");
    }

    #[test]
    fn the_plugins_lines_and_the_spinner_keep_apart() {
        let mut screen = screen(80);
        screen.tick(ms(500));
        screen.plugin_stderr(b"one\ntw");
        assert_eq!(text(&mut screen), "\r| 0.5s\x1b[K\r\x1b[Kone\ntw");
        screen.tick(ms(700));
        assert_eq!(text(&mut screen), "", "no spinner on an unfinished line");
        screen.plugin_stderr(b"o\n");
        screen.tick(ms(800));
        assert_eq!(text(&mut screen), "o\n\r/ 0.8s\x1b[K");
        screen.plugin_stderr(b"end");
        screen.finish();
        assert_eq!(text(&mut screen), "\r\x1b[Kend\n");
    }

    #[test]
    fn the_plugins_bytes_are_escaped_on_a_terminal_only() {
        let hostile = b"\x1b]0;x\x07\x9b31m\xe2\x80\xaex\r\ny\rz\tq\xff\n";
        let mut screen = screen(80);
        for byte in hostile {
            screen.plugin_stderr(&[*byte]);
        }
        assert_eq!(text(&mut screen), "\\x1b]0;x\\x07\\x9b31m\\u{202e}x\ny\\rz\tq\\xff\n");
        screen.plugin_stderr("é漢".as_bytes());
        screen.plugin_stderr(b"\xf0\x9f");
        assert_eq!(text(&mut screen), "é漢");
        screen.finish();
        assert_eq!(text(&mut screen), "\\xf0\\x9f\n");
        screen.terminal = false;
        screen.plugin_stderr(hostile);
        assert_eq!(screen.sink.written, hostile);
    }

    #[test]
    fn a_reader_that_does_not_read_never_blocks_nor_fills_memory() {
        let mut screen = screen(80);
        screen.terminal = false;
        screen.sink.room = 10;
        for _ in 0..100 {
            screen.plugin_stderr(&[b'x'; 4096]);
        }
        assert_eq!(screen.sink.written.len(), 10);
        assert!(screen.backlog.len() <= BACKLOG);
        assert_eq!(screen.dropped, 100 * 4096 - BACKLOG as u64 - 10);
        let dropped = screen.dropped;
        screen.sink.room = usize::MAX;
        screen.finish();
        assert!(
            text(&mut screen).ends_with(&format!("x\nupm: {dropped} bytes of the plugin's stderr were not shown\n"))
        );
    }

    #[test]
    fn a_reader_that_left_is_no_reason_to_end() {
        let mut screen = screen(80);
        screen.sink.broken = true;
        screen.plugin_stderr(b"x");
        screen.tick(ms(500));
        screen.finish();
        assert!(screen.broken && screen.backlog.is_empty());
    }

    #[test]
    fn times_are_short() {
        for (milliseconds, shown) in [(350, "0.3s"), (59_999, "59.9s"), (125_000, "2m05s"), (3_725_000, "1h02m")] {
            assert_eq!(shown_time(ms(milliseconds)), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_a_terminal_acts_on_gets_through(parts: Vec<Vec<u8>>) {
            let mut screen = screen(80);
            for part in &parts {
                screen.plugin_stderr(part);
            }
            screen.finish();
            let shown = text(&mut screen);
            proptest::prop_assert!(!shown.chars().any(|c| crate::text::is_control(c) && c != '\n' && c != '\t'));
        }
    }
}
