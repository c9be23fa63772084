//! The table of acts.

use crate::answer::{Answer, Trouble, form};
use crate::args::Args;
use crate::sys::{self, Ended};
use crate::{bombs, counted, files, foreign, hold, inside, ipc, kernel, locks, modes, net, processes, rules};
use serde_json::{Value, json};
use std::io::Read;
use std::os::fd::FromRawFd;
use std::time::Duration;

type Act = fn(Args) -> Answer;

const ACTS: &[(&str, Act)] = &[
    // what is there
    ("report", inside::report),
    ("status", inside::status),
    ("mounts", inside::mounts),
    ("fds", inside::descriptors),
    ("namespaces", inside::namespaces),
    ("pids", inside::pids),
    ("limits", inside::limits),
    ("find_marker", inside::find_marker),
    ("echo", |args| Ok(json!({ "value": args.0 }))),
    ("batch", batch),
    ("child", child),
    // files
    ("open", files::open),
    ("read", files::read),
    ("write", files::write),
    ("append", files::append),
    ("create", files::create),
    ("list", files::list),
    ("stat", files::stat),
    ("mkdir", files::mkdir),
    ("rmdir", files::rmdir),
    ("unlink", files::unlink),
    ("rename", files::rename),
    ("link", files::link),
    ("symlink", files::symlink),
    ("readlink", files::readlink),
    ("chown", files::chown),
    ("truncate", files::truncate),
    ("chdir", files::chdir),
    ("statfs", files::statfs),
    ("exec", files::exec),
    ("run_copy", files::run_copy),
    ("climb", files::climb),
    ("file_capability", files::file_capability),
    ("set_id", modes::set_id),
    ("mknod", modes::mknod),
    // processes
    ("kill", processes::kill),
    ("ptrace_attach", processes::ptrace_attach),
    ("process_vm_readv", processes::process_vm_readv),
    ("process_vm_writev", processes::process_vm_writev),
    ("pidfd_getfd", processes::pidfd_getfd),
    ("raise", processes::raise),
    ("ignore", processes::ignore),
    ("exit", processes::exit),
    ("setrlimit", processes::setrlimit),
    ("setgroups", processes::setgroups),
    ("capset_all", processes::capset_all),
    ("sched_setscheduler", processes::sched_setscheduler),
    ("orphan", processes::orphan),
    // privileged and rare parts of the kernel
    ("syscall", kernel::syscall),
    ("privileged", kernel::privileged),
    ("prctl", kernel::prctl),
    ("ioctl", kernel::ioctl),
    ("clone_newuser", kernel::clone_newuser),
    ("clone3", kernel::clone3),
    ("setns", kernel::setns),
    ("mount", kernel::mount),
    ("seccomp_listener", kernel::seccomp_listener),
    ("int80", foreign::int80),
    ("x32", foreign::x32),
    ("rule", rules::rule),
    ("try", rules::any),
    // bombs and floods
    ("fork_bomb", bombs::fork_bomb),
    ("memory_bomb", bombs::memory_bomb),
    ("memory_forked", bombs::memory_forked),
    ("write_big", bombs::write_big),
    ("many_files", bombs::many_files),
    ("open_many", bombs::open_many),
    ("sleep", bombs::sleep),
    ("spin", bombs::spin),
    ("print", bombs::print),
    ("print_forever", bombs::print_forever),
    ("endless_line", bombs::endless_line),
    ("grandchild_holds", bombs::grandchild_holds),
    // what the kernel counts for each user
    ("timers", counted::timers),
    ("signals", counted::signals),
    ("queues", counted::queues),
    ("inotify", counted::inotify),
    ("watches", counted::watches),
    ("epoll", counted::epoll),
    ("notified", counted::notified),
    ("fcntl_directory", counted::fcntl_directory),
    ("fcntl_pipe", counted::fcntl_pipe),
    ("lock", locks::lock),
    ("unlock", locks::unlock),
    ("locks", locks::many),
    ("locks_timed", locks::timed),
    ("leaderless", leaderless),
    ("locks_swapped", locks::swapped),
    ("locks_waiting", locks::waiting),
    ("lock_hidden", locks::hidden),
    ("set_xattr", counted::set_xattr),
    ("remove_xattr", counted::remove_xattr),
    // memory that no process has mapped
    ("socket_pairs", hold::socket_pairs),
    ("udp_sockets", hold::udp_sockets),
    ("tcp_pairs", hold::tcp_pairs),
    ("backlog", hold::backlog),
    ("shared_memory", hold::shared_memory),
    ("page_tables", hold::page_tables),
    ("spliced", hold::spliced),
    // inter-process communication
    ("shmget", ipc::shmget),
    ("msgget", ipc::msgget),
    ("semget", ipc::semget),
    ("mq_open", ipc::mq_open),
    ("add_key", ipc::add_key),
    ("find_key", ipc::find_key),
    ("keyring", ipc::keyring),
    // network
    ("socket", net::socket),
    ("socketpair", net::socketpair),
    ("setsockopt", net::setsockopt),
    ("resolve", net::resolve),
    ("query", net::query),
    ("connect", net::connect),
    ("udp_send", net::udp_send),
    ("bind", net::bind),
    ("unix_connect", net::unix_connect),
    ("unix_bind", net::unix_bind),
    ("hello", net::hello),
];

/// Runs one act and forms its answer.
pub fn run(name: &str, args: &[Value]) -> Value {
    match ACTS.iter().find(|(known, _)| *known == name) {
        Some((_, act)) => form(act(Args(args))),
        None => form(Err(Trouble::usage(format!("no act is called {name}")))),
    }
}

/// Each argument is `[act, …]`; answers all of them in order, so that one call asks many questions.
fn batch(args: Args) -> Answer {
    let answers: Vec<Value> = args
        .0
        .iter()
        .map(|one| match one.as_array().and_then(|words| words.split_first()) {
            Some((Value::String(act), rest)) => run(act, rest),
            _ => form(Err(Trouble::usage("batch wants [act, …]"))),
        })
        .collect();
    Ok(json!({ "answers": answers }))
}

/// As `batch`, by a thread of a process whose first thread has ended.
fn leaderless(args: Args) -> Answer {
    let (reader, writer) = sys::pipe()?;
    let acts = args.0.to_vec();
    let pid = sys::fork(|| {
        let own = format!("/proc/{}/stat", std::process::id());
        std::thread::spawn(move || {
            while !std::fs::read_to_string(&own).is_ok_and(|stat| stat.contains(") Z ")) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let written = sys::write_all(writer, run("batch", &acts).to_string().as_bytes());
            std::process::exit(i32::from(written.is_err()));
        });
        // of this thread alone
        i32::from(sys::call(libc::SYS_exit, &[0]).is_err())
    })?;
    sys::close(i64::from(writer));
    let mut text = String::new();
    // SAFETY: the descriptor is this function's own.
    unsafe { std::fs::File::from_raw_fd(reader) }.read_to_string(&mut text)?;
    sys::wait(pid, Duration::from_secs(10));
    serde_json::from_str(&text).map_err(|error| Trouble::usage(format!("{error}: {text}")))
}

/// The same act in a forked child, for acts that the kernel may answer with a signal: `{"exit":n}` or `{"signal":n}`
/// besides the child's own answer.
fn child(args: Args) -> Answer {
    let act = args.text(0)?.to_owned();
    let (reader, writer) = sys::pipe()?;
    let pid = sys::fork(|| {
        let answer = run(&act, args.rest(1).0);
        i32::from(sys::write_all(writer, answer.to_string().as_bytes()).is_err())
    })?;
    sys::close(i64::from(writer));
    let ended = sys::wait(pid, Duration::from_secs(10));
    let mut bytes = vec![0_u8; 60_000];
    let n = sys::call(libc::SYS_read, &[i64::from(reader), bytes.as_mut_ptr() as i64, bytes.len() as i64])?;
    sys::close(i64::from(reader));
    let answer: Value = serde_json::from_slice(&bytes[..n as usize]).unwrap_or(Value::Null);
    Ok(match ended {
        Ended::Exit(code) => json!({"exit": code, "answer": answer}),
        Ended::Signal(signal) => json!({"signal": signal, "answer": answer}),
        Ended::Late => json!({"late": true, "answer": answer}),
    })
}
