//! Bytes both ways between two TCP connections.
//!
//! They are copied through one buffer a direction. `splice(2)` was measured too: it takes less processor time here and
//! is the slower one from end to end, since what piles up in the sockets leaves the processor's cache before it is read.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a direction's buffer. On two processors, which server, gateway and plugin share, larger turns cost fewer
/// switches between them: 512 KiB carried 0.82–0.95 of the direct speed where 256 KiB carried 0.66–0.78 (`benches/gateway`).
const CHUNK: usize = 512 * 1024;
/// Bytes asked for the send buffer towards the plugin (the kernel doubles it, up to net.core.wmem_max), for two of those turns.
const PLUGIN_SEND_BUFFER: usize = 1024 * 1024;
/// Bytes asked for the buffers of a connection that is one of many, and always for what comes from the plugin, which is
/// next door: the kernel's own may grow to tcp_rmem and tcp_wmem's last value, for each connection and direction.
const SMALL_BUFFER: usize = 128 * 1024;
/// Time in which the host must take what is still in the kernel's buffer when a connection is done.
const DELIVERY: Duration = Duration::from_secs(10);
/// Moves of one direction before the other has its turn.
const TURN: usize = 16;

/// Bytes that all connections of a call may carry, both ways together. Exact: bytes are set aside before they are
/// read, and given back when fewer came.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    /// Carried, or set aside by someone who is reading right now.
    aside: AtomicU64,
    carried: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Budget {
        Budget { limit, aside: AtomicU64::new(0), carried: AtomicU64::new(0) }
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether every byte was carried.
    pub fn is_used_up(&self) -> bool {
        self.carried.load(Ordering::Acquire) >= self.limit
    }

    /// Sets up to `wanted` bytes aside. 0 when nothing is left, for good.
    fn take(&self, wanted: usize) -> usize {
        loop {
            let aside = self.aside.load(Ordering::Acquire);
            let left = self.limit - aside;
            if left == 0 {
                // What others hold at this moment may come back: they are within one non-blocking call.
                if self.is_used_up() {
                    return 0;
                }
                std::thread::yield_now();
                continue;
            }
            // A share near the end, so that 64 connections do not take it from each other.
            let share = (left / 64).max(4096).min(left);
            let take = share.min(wanted as u64);
            if self.aside.compare_exchange(aside, aside + take, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                // Not above `wanted`, so it fits.
                return take as usize;
            }
        }
    }

    /// Of `taken` bytes `used` were read.
    fn settle(&self, taken: usize, used: usize) {
        self.carried.fetch_add(used as u64, Ordering::AcqRel);
        self.aside.fetch_sub((taken - used) as u64, Ordering::AcqRel);
    }

    /// Counts what was carried before the relay began. False when that was too much.
    pub fn count(&self, bytes: usize) -> bool {
        self.take_all(bytes)
    }

    /// Sets exactly `bytes` aside and counts them, or nothing. It does not wait for what others hold right now: two
    /// that each wait for the rest of the other's would wait for ever.
    fn take_all(&self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let fits = |aside: u64| aside.checked_add(bytes).filter(|&sum| sum <= self.limit);
        if self.aside.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_err() {
            return false;
        }
        self.carried.fetch_add(bytes, Ordering::AcqRel);
        true
    }
}

/// How carrying ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides were done.
    Closed,
    /// The budget was used up.
    Limit,
    /// A side failed; the text says which and how.
    Error(String),
}

/// Bytes delivered so far, readable while the connection is carried.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the plugin to the host.
    pub sent: AtomicU64,
    /// From the host to the plugin.
    pub received: AtomicU64,
}

/// One direction.
struct Flow<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    /// At first what was read before the relay began.
    buffer: Vec<u8>,
    /// What of the buffer is still to be written.
    pending: std::ops::Range<usize>,
    /// The source has sent its FIN.
    ended: bool,
    /// It was handed on.
    shut: bool,
    count: &'a AtomicU64,
}

/// What a flow waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    Input,
    Output,
    /// Its turn is over, it could go on at once.
    Turn,
    Nothing,
}

/// Why a flow cannot go on.
enum Failed {
    Limit,
    From(io::Error),
    To(io::Error),
}

impl<'a> Flow<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream, head: Vec<u8>, count: &'a AtomicU64) -> Flow<'a> {
        let pending = 0..head.len();
        Flow { from, to, buffer: head, pending, ended: false, shut: false, count }
    }

    /// Moves what can be moved without waiting.
    fn step(&mut self, budget: &Budget) -> Result<Wants, Failed> {
        let (mut from, mut to) = (self.from, self.to);
        for _ in 0..TURN {
            if !self.pending.is_empty() {
                match to.write(&self.buffer[self.pending.clone()]) {
                    Ok(n) => {
                        self.pending.start += n;
                        self.count.fetch_add(n as u64, Ordering::Relaxed);
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Wants::Output),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Failed::To(e)),
                }
            } else if !self.ended {
                let taken = budget.take(CHUNK);
                if taken == 0 {
                    // Using all of it is allowed; one more byte is not.
                    match from.peek(&mut [0]) {
                        Ok(0) => self.ended = true,
                        Ok(_) => return Err(Failed::Limit),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Wants::Input),
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(Failed::From(e)),
                    }
                    continue;
                }
                if self.buffer.len() != CHUNK {
                    self.buffer = vec![0; CHUNK];
                }
                let got = from.read(&mut self.buffer[..taken]);
                budget.settle(taken, *got.as_ref().unwrap_or(&0));
                match got {
                    Ok(0) => self.ended = true,
                    Ok(n) => self.pending = 0..n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Wants::Input),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(Failed::From(e)),
                }
            } else {
                if !self.shut {
                    self.shut = true;
                    to.shutdown(Shutdown::Write).map_err(Failed::To)?;
                }
                return Ok(Wants::Nothing);
            }
        }
        Ok(Wants::Turn)
    }
}

/// Carries bytes between `plugin` and `host` until both are done. `to_host` and `to_plugin` go first, and count.
/// Neither side is cut for being idle. On any other end than [`End::Closed`] the caller should reset both, so that a
/// cut transfer is not taken for a whole one.
pub fn carry(
    plugin: &TcpStream,
    host: &TcpStream,
    to_host: Vec<u8>,
    to_plugin: Vec<u8>,
    budget: &Budget,
    counters: &Traffic,
) -> End {
    match carry_inner(plugin, host, to_host, to_plugin, budget, counters) {
        Ok(()) => End::Closed,
        Err(end) => end,
    }
}

fn carry_inner(
    plugin: &TcpStream,
    host: &TcpStream,
    to_host: Vec<u8>,
    to_plugin: Vec<u8>,
    budget: &Budget,
    counters: &Traffic,
) -> Result<(), End> {
    let here = |e: io::Error| End::Error(format!("gateway: {e}"));
    for stream in [plugin, host] {
        stream.set_nonblocking(true).map_err(here)?;
        stream.set_nodelay(true).map_err(here)?;
    }
    if !budget.take_all(to_host.len() + to_plugin.len()) {
        return Err(End::Limit);
    }
    let mut out = Flow::new(plugin, host, to_host, &counters.sent);
    let mut back = Flow::new(host, plugin, to_plugin, &counters.received);
    // A side that has closed the connection reports it at every poll, wanted or not: it is left out while nothing is
    // wanted of it.
    let mut hung_up = [false; 2];
    loop {
        let out_wants = out.step(budget).map_err(|f| end_of(f, ["plugin", "host"], back.ended))?;
        let back_wants = back.step(budget).map_err(|f| end_of(f, ["host", "plugin"], out.ended))?;
        if out_wants == Wants::Nothing && back_wants == Wants::Nothing {
            return Ok(());
        }
        if out_wants == Wants::Turn || back_wants == Wants::Turn {
            continue;
        }
        let mut wanted = [PollFlags::empty(); 2];
        for (wants, from, to) in [(out_wants, 0, 1), (back_wants, 1, 0)] {
            match wants {
                Wants::Input => wanted[from] |= PollFlags::POLLIN,
                Wants::Output => wanted[to] |= PollFlags::POLLOUT,
                Wants::Turn | Wants::Nothing => {}
            }
        }
        let sides: Vec<usize> = (0..2).filter(|&i| !wanted[i].is_empty() || !hung_up[i]).collect();
        let streams = [plugin, host];
        let mut fds: Vec<PollFd<'_>> = sides.iter().map(|&i| PollFd::new(streams[i].as_fd(), wanted[i])).collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(here(e.into())),
        }
        for (fd, &side) in fds.iter().zip(&sides) {
            let got = fd.revents().unwrap_or(PollFlags::empty());
            if got.contains(PollFlags::POLLERR) && (got & wanted[side]).is_empty() {
                // A reset while nothing was to be read or written there.
                let error = streams[side].take_error().ok().flatten();
                let ended = [out.ended, back.ended][side];
                match error {
                    Some(_) if ended => return Ok(()),
                    Some(e) => return Err(End::Error(format!("{}: {e}", ["plugin", "host"][side]))),
                    None => hung_up[side] = true,
                }
            }
            hung_up[side] |= got.contains(PollFlags::POLLHUP);
        }
    }
}

/// How much the kernel may keep of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Towards the host as much as it lets any connection have.
    Plenty,
    /// The connection is one of many.
    Little,
}

/// Bounds what the kernel keeps of a connection; before anything is carried.
///
/// # Errors
/// None that setsockopt(2) documents for these.
pub fn bound(plugin: &TcpStream, host: &TcpStream, room: Room) -> io::Result<()> {
    setsockopt(plugin, sockopt::RcvBuf, &SMALL_BUFFER)?;
    match room {
        Room::Plenty => setsockopt(plugin, sockopt::SndBuf, &PLUGIN_SEND_BUFFER)?,
        Room::Little => {
            setsockopt(plugin, sockopt::SndBuf, &SMALL_BUFFER)?;
            setsockopt(host, sockopt::RcvBuf, &SMALL_BUFFER)?;
            setsockopt(host, sockopt::SndBuf, &SMALL_BUFFER)?;
        }
    }
    Ok(())
}

/// Waits until the host has taken all that was carried to it: a host that never does would otherwise leave the kernel with
/// a full buffer for each connection of the call, for minutes, which no limit counts.
///
/// # Errors
/// It did not within [`DELIVERY`]; the connection is then to be reset.
pub fn deliver(host: &TcpStream) -> io::Result<()> {
    let until = Instant::now() + DELIVERY;
    let mut pause = Duration::from_millis(1);
    while crate::sys::net::unacknowledged(host.as_fd())? > 0 {
        if Instant::now() >= until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "did not take what was sent within 10 s"));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(())
}

/// `to_ended`: the side that is written to had sent its FIN. It then need not take any more (a client that closes at
/// once answers a late close_notify with a reset), which is a normal end.
fn end_of(failed: Failed, [from, to]: [&str; 2], to_ended: bool) -> End {
    match failed {
        Failed::Limit => End::Limit,
        Failed::To(_) if to_ended => End::Closed,
        Failed::From(e) => End::Error(format!("{from}: {e}")),
        Failed::To(e) => End::Error(format!("{to}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    /// Near end, far end.
    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (near, listener.accept().unwrap().0)
    }

    struct Setup {
        client: TcpStream,
        server: TcpStream,
        counters: Arc<Traffic>,
        relay: thread::JoinHandle<End>,
    }

    fn setup(budget: &Arc<Budget>, to_host: &[u8], to_plugin: &[u8]) -> Setup {
        let (client, inner) = connected();
        let (server, outer) = connected();
        let counters = Arc::new(Traffic::default());
        let (c, b, h, p) = (counters.clone(), budget.clone(), to_host.to_vec(), to_plugin.to_vec());
        let relay = thread::spawn(move || carry(&inner, &outer, h, p, &b, &c));
        Setup { client, server, counters, relay }
    }

    #[test]
    fn half_close_is_handed_on() {
        let budget = Arc::new(Budget::new(1 << 30));
        let mut s = setup(&budget, b"hello ", b"first ");
        s.client.write_all(b"request").unwrap();
        s.client.shutdown(Shutdown::Write).unwrap();
        let mut got = String::new();
        s.server.read_to_string(&mut got).unwrap();
        assert_eq!(got, "hello request");
        // The answer comes after the request's end was seen, and after a while: nothing is cut.
        thread::sleep(Duration::from_millis(150));
        s.server.write_all(b"answer").unwrap();
        drop(s.server);
        let mut got = String::new();
        s.client.read_to_string(&mut got).unwrap();
        assert_eq!(got, "first answer");
        assert_eq!(s.relay.join().unwrap(), End::Closed);
        assert_eq!((s.counters.sent.load(Ordering::Relaxed), s.counters.received.load(Ordering::Relaxed)), (13, 12));
    }

    #[test]
    fn the_limit_is_exact_and_shared() {
        let budget = Arc::new(Budget::new(100_000));
        let mut a = setup(&budget, b"", b"");
        a.client.write_all(&vec![1; 60_000]).unwrap();
        a.client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        a.server.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), 60_000);
        let mut b = setup(&budget, b"", b"");
        b.server.write_all(&vec![2; 60_000]).unwrap();
        let mut got = Vec::new();
        // The test's relay closes without a reset; how much came is what counts.
        b.client.read_to_end(&mut got).ok();
        assert_eq!(b.relay.join().unwrap(), End::Limit);
        assert!(got.len() <= 40_000);
        assert_eq!(b.counters.received.load(Ordering::Relaxed), 40_000);
        drop(a.server);
        assert_eq!(a.relay.join().unwrap(), End::Closed, "all used up, nothing more wanted");
    }

    #[test]
    fn the_limit_holds_for_what_was_read_before() {
        let budget = Arc::new(Budget::new(5));
        let s = setup(&budget, b"123456", b"");
        assert_eq!(s.relay.join().unwrap(), End::Limit);
        assert_eq!(s.counters.sent.load(Ordering::Relaxed), 0);
        let exact = setup(&budget, b"12345", b"");
        drop((exact.client, exact.server));
        assert!(matches!(exact.relay.join().unwrap(), End::Closed | End::Error(_)));
        assert_eq!(exact.counters.sent.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn a_reset_says_whose() {
        let budget = Arc::new(Budget::new(1 << 30));
        let s = setup(&budget, b"", b"");
        nix::sys::socket::setsockopt(
            &s.server,
            nix::sys::socket::sockopt::Linger,
            &nix::libc::linger { l_onoff: 1, l_linger: 0 },
        )
        .unwrap();
        drop(s.server);
        let end = s.relay.join().unwrap();
        assert!(matches!(&end, End::Error(e) if e.starts_with("host: Connection reset")), "{end:?}");
    }

    #[test]
    fn a_waiting_relay_takes_no_time() {
        use nix::sys::resource::{UsageWho, getrusage};
        use nix::sys::time::TimeValLike;
        let (client, inner) = connected();
        let (server, outer) = connected();
        let relay = thread::spawn(move || {
            let end = carry(&inner, &outer, vec![], vec![], &Budget::new(1 << 30), &Traffic::default());
            let used = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
            (end, (used.user_time() + used.system_time()).num_milliseconds())
        });
        // The plugin's side is closed while the host's side stays: every poll reports it.
        drop(client);
        thread::sleep(Duration::from_millis(400));
        drop(server);
        let (end, used) = relay.join().unwrap();
        assert_eq!(end, End::Closed);
        assert!(used < 50, "{used} ms");
    }

    /// Seconds for `total` bytes from a writer to a reader.
    fn transfer(mut writer: TcpStream, mut reader: TcpStream, total: usize) -> f64 {
        let before = Instant::now();
        let sender = thread::spawn(move || {
            let chunk = vec![7; 256 * 1024];
            let mut left = total;
            while left > 0 {
                let n = left.min(chunk.len());
                writer.write_all(&chunk[..n]).unwrap();
                left -= n;
            }
        });
        let mut buffer = vec![0; 256 * 1024];
        let mut got = 0;
        while got < total {
            let n = reader.read(&mut buffer).unwrap();
            assert!(n > 0);
            got += n;
        }
        sender.join().unwrap();
        before.elapsed().as_secs_f64()
    }

    /// A measurement, run by name: `cargo test --release -- --ignored --nocapture relay_speed`.
    #[test]
    #[ignore = "a measurement, only worth something in a release build on a quiet machine"]
    fn relay_speed() {
        const TOTAL: usize = 200 << 20;
        // The best of many, alternating: other load on the machine can only make one slower.
        let (mut d, mut r) = (f64::MAX, f64::MAX);
        for _ in 0..15 {
            let (near, far) = connected();
            d = d.min(transfer(near, far, TOTAL));
            let s = setup(&Arc::new(Budget::new(u64::MAX)), b"", b"");
            r = r.min(transfer(s.server, s.client, TOTAL));
            s.relay.join().unwrap();
        }
        println!("direct {:.0} MiB/s, relayed {:.0} MiB/s, {:.2} of direct", 200.0 / d, 200.0 / r, d / r);
        assert!(d / r >= 0.7);
    }
}
