//! Memory of the kernel that no process has mapped: what sockets hold, shared memory without a file, pages in pipes, page tables.

use crate::answer::{Answer, Trouble};
use crate::args::Args;
use crate::sys;
use serde_json::json;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

fn pause(args: Args, at: usize) -> Result<(), Trouble> {
    std::thread::sleep(Duration::from_millis(args.int_or(at, 0)? as u64));
    Ok(())
}

fn option(fd: i32, name: i32, value: i32) -> Result<i32, Trouble> {
    let size = size_of::<i32>() as libc::socklen_t;
    let set = [i64::from(fd), 1, i64::from(name), &raw const value as i64, i64::from(size)];
    if value != 0 {
        sys::call(libc::SYS_setsockopt, &set)?;
    }
    let (mut got, mut length) = (0_i32, size);
    let get = [i64::from(fd), 1, i64::from(name), &raw mut got as i64, &raw mut length as i64];
    sys::call(libc::SYS_getsockopt, &get)?;
    Ok(got)
}

/// Writes until the socket takes no more; bytes.
fn fill(fd: i32) -> u64 {
    let chunk = [7_u8; 32 << 10];
    let mut sent = 0;
    for size in [chunk.len(), 1] {
        let send =
            [i64::from(fd), chunk.as_ptr() as i64, size as i64, i64::from(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)];
        while let Ok(count) = sys::call(libc::SYS_sendto, &send) {
            sent += count as u64;
        }
    }
    sent
}

/// `socket_pairs N [HOLD_MS] [BUFFER] [KIND]`: UNIX pairs, asked to have buffers of BUFFER bytes, and filled. Answers the bytes
/// in them and the buffer size that the kernel tells, and the error that stopped it.
pub fn socket_pairs(args: Args) -> Answer {
    let (buffer, kind) = (i32::try_from(args.int_or(2, 0)?).unwrap_or(i32::MAX), args.int_or(3, 1)?);
    let (mut held, mut bytes, mut told, mut stopped) = (Vec::new(), 0, 0, 0);
    for _ in 0..args.int(0)? {
        let mut pair = [0_i32; 2];
        if let Err(trouble) = sys::call(libc::SYS_socketpair, &[1, kind, 0, pair.as_mut_ptr() as i64]) {
            stopped = trouble.errno;
            break;
        }
        for fd in pair {
            option(fd, libc::SO_RCVBUF, buffer)?;
            told = option(fd, libc::SO_SNDBUF, buffer)?;
            bytes += fill(fd);
        }
        held.push(pair);
    }
    pause(args, 1)?;
    let pairs = held.len();
    held.into_iter().flatten().for_each(|fd| sys::close(i64::from(fd)));
    Ok(json!({"pairs": pairs, "bytes": bytes, "sndbuf": told, "stopped_by": crate::constants::errno_name(stopped)}))
}

/// `udp_sockets N [HOLD_MS] [BUFFER]`: on loopback, each filled by one more.
pub fn udp_sockets(args: Args) -> Answer {
    let buffer = i32::try_from(args.int_or(2, 0)?).unwrap_or(i32::MAX);
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    let (mut held, mut told) = (Vec::new(), 0);
    for _ in 0..args.int(0)? {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        told = option(socket.as_raw_fd(), libc::SO_RCVBUF, buffer)?;
        // one more than fit
        for _ in 0..=told / 60_000 {
            sender.send_to(&[7; 60_000], socket.local_addr()?)?;
        }
        held.push(socket);
    }
    pause(args, 1)?;
    let mut bytes = 0;
    for socket in &held {
        socket.set_nonblocking(true)?;
        while let Ok(count) = socket.recv(&mut [0; 64 << 10]) {
            bytes += count;
        }
    }
    Ok(json!({"sockets": held.len(), "bytes": bytes, "rcvbuf": told}))
}

/// `tcp_pairs N [HOLD_MS] [BUFFER] [ROUNDS]`: both directions filled, after rounds of traffic that let the kernel grow the
/// buffers.
pub fn tcp_pairs(args: Args) -> Answer {
    let buffer = i32::try_from(args.int_or(2, 0)?).unwrap_or(i32::MAX);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (mut held, mut bytes) = (Vec::new(), 0_u64);
    for _ in 0..args.int(0)? {
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        for stream in [&near, &far] {
            option(stream.as_raw_fd(), libc::SO_RCVBUF, buffer)?;
            option(stream.as_raw_fd(), libc::SO_SNDBUF, buffer)?;
            stream.set_nonblocking(true)?;
        }
        for _ in 0..args.int_or(3, 40)? {
            for (from, to) in [(&near, &far), (&far, &near)] {
                fill(from.as_raw_fd());
                while matches!(std::io::Read::read(&mut &*to, &mut [0; 64 << 10]), Ok(1..)) {}
            }
        }
        for _ in 0..10 {
            bytes += fill(near.as_raw_fd()) + fill(far.as_raw_fd());
            std::thread::sleep(Duration::from_millis(1));
        }
        held.push((near, far));
    }
    pause(args, 1)?;
    Ok(json!({"pairs": held.len(), "bytes": bytes}))
}

/// `backlog N [HOLD_MS]`: connections that nobody accepts, filled and closed: bytes without a descriptor. 64 a listener.
pub fn backlog(args: Args) -> Answer {
    let (mut listeners, mut bytes, mut connected) = (Vec::<UnixListener>::new(), 0, 0);
    while connected < args.int(0)? {
        let path = format!("/tmp/backlog-{}-{}", std::process::id(), listeners.len());
        listeners.push(UnixListener::bind(&path)?);
        let here = (args.int(0)? - connected).min(64);
        for _ in 0..here {
            let stream = UnixStream::connect(&path)?;
            bytes += fill(stream.as_raw_fd());
            connected += 1;
        }
        std::fs::remove_file(&path)?;
    }
    pause(args, 1)?;
    Ok(json!({"connections": connected, "bytes": bytes, "listeners": listeners.len()}))
}

/// `shared_memory MIB [HOLD_MS] [FILE]`: shared memory, of FILE or of none, touched and then not resident any more.
pub fn shared_memory(args: Args) -> Answer {
    let length = args.int(0)? << 20;
    let (fd, flags) = match args.get(2) {
        Some(_) => {
            let path = sys::c(args.text(2)?)?;
            let open = [i64::from(libc::AT_FDCWD), sys::ptr(&path), i64::from(libc::O_RDWR), 0];
            (sys::call(libc::SYS_openat, &open)?, libc::MAP_SHARED)
        }
        None => (-1, libc::MAP_SHARED | libc::MAP_ANONYMOUS),
    };
    let at = sys::call(libc::SYS_mmap, &[0, length, 3, i64::from(flags), fd, 0])?;
    for page in (0..length).step_by(4096) {
        // SAFETY: the mapping is this act's own, writable and `length` bytes long.
        unsafe { ((at + page) as *mut u8).write_volatile(1) };
    }
    sys::call(libc::SYS_madvise, &[at, length, i64::from(libc::MADV_DONTNEED)])?;
    pause(args, 1)?;
    Ok(json!({ "bytes": length }))
}

/// `page_tables GIB [HOLD_MS]`: address space of which one page in each 2 MiB is read: no memory, but the tables of it.
pub fn page_tables(args: Args) -> Answer {
    let length = args.int(0)? << 30;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let at = sys::call(libc::SYS_mmap, &[0, length, 1, i64::from(flags), -1, 0])?;
    sys::call(libc::SYS_madvise, &[at, length, i64::from(libc::MADV_NOHUGEPAGE)])?;
    let mut sum = 0_u64;
    for page in (0..length).step_by(2 << 20) {
        // SAFETY: the mapping is this act's own, readable and `length` bytes long.
        sum += u64::from(unsafe { ((at + page) as *const u8).read_volatile() });
    }
    pause(args, 1)?;
    Ok(json!({ "bytes": length, "sum": sum }))
}

/// `spliced CALL`: a byte of this process's memory, or of a file of `/tmp`, goes into a pipe or socket as a page.
pub fn spliced(args: Args) -> Answer {
    let (reader, writer) = sys::pipe()?;
    let (more_reader, more) = sys::pipe()?;
    let byte = [1_u8; 1];
    let part = [byte.as_ptr() as i64, 1_i64];
    let path = format!("/tmp/spliced-{}", std::process::id());
    std::fs::write(&path, "bytes of a file")?;
    let file = std::fs::File::open(&path)?;
    std::fs::remove_file(&path)?;
    let file = i64::from(file.as_raw_fd());
    sys::write_all(writer, b"in the pipe")?;
    let (reader, writer, more) = (i64::from(reader), i64::from(writer), i64::from(more));
    let moved = match args.text(0)? {
        "vmsplice" => sys::call(libc::SYS_vmsplice, &[writer, part.as_ptr() as i64, 1, 0]),
        "splice" => sys::call(libc::SYS_splice, &[file, 0, writer, 0, 1, 0]),
        "tee" => sys::call(libc::SYS_tee, &[reader, more, 1, 0]),
        "sendfile" => sys::call(libc::SYS_sendfile, &[writer, file, 0, 1]),
        other => return Err(Trouble::usage(format!("no call is named {other} here"))),
    };
    [reader, writer, more, i64::from(more_reader)].into_iter().for_each(sys::close);
    Ok(json!({ "moved": moved? }))
}
