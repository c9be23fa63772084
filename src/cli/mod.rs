//! The command line: what was asked for (`line`), one file a command with its arguments, and what people see at a terminal.

mod audit;
mod call;
mod check;
mod diagnostics;
mod doctor;
mod explain;
mod fits;
mod help;
mod learn;
mod line;
mod list;
mod options;
mod print;
mod serve;
mod since;
pub mod terminal;
mod usage;
mod values;
mod via;
mod wire;

pub use line::command;

use crate::call::refuse;
use crate::confine::handed::{self, Lent};
use crate::doctor::inside;
use crate::types::{Code, Failure};
use line::{Command, Request};
use print::{answer, show};
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;

/// The whole program: from the process's arguments to its exit status.
#[must_use]
pub fn main() -> i32 {
    // A panic is the engine's fault, and still answers with an envelope.
    std::panic::catch_unwind(|| run(std::env::args_os())).unwrap_or_else(|_| {
        let failure =
            Failure::new(Code::Internal, "upm: internal error; the message above says where: please report it");
        answer(&refuse(&failure, None))
    })
}

fn run(args: impl Iterator<Item = OsString>) -> i32 {
    // Before anything else is opened, made or read.
    let own = handed::refuse_lent();
    let terminal = std::io::stdout().is_terminal();
    let request = line::parse(args, terminal);
    if let Err(lent) = own {
        return match (lent, request) {
            (Lent::GivenUp(_), Ok(Request::Print(text))) => show(Ok((text, true))),
            (Lent::GivenUp(failure), Ok(Request::Call(args))) if !args.is_elsewhere() => {
                answer(&refuse(&failure, args.request_id()))
            }
            (Lent::GivenUp(failure), Err(error)) => answer(&refuse(&failure, error.request_id)),
            (Lent::GivenUp(failure) | Lent::Stuck(failure), _) => show(Err(failure)),
        };
    }
    if let Err(failure) = handed::settle() {
        return answer(&refuse(&failure, None));
    }
    let elsewhere = matches!(&request, Ok(Request::Call(args)) if args.is_elsewhere());
    let runs = match &request {
        Ok(Request::Call(_)) => !elsewhere,
        Ok(Request::Command(command)) => {
            matches!(command, Command::Learn(_) | Command::Serve(_) | Command::Doctor(_))
        }
        _ => false,
    };
    if runs {
        crate::supervise::cgroup::make_own_directory();
    }
    // Before anything else is opened or read. A service's client is not an engine: it connects with all of root's rights.
    let kept = if elsewhere { Ok(()) } else { crate::confine::privileges::keep() };
    if let Err(failure) = kept {
        return match request {
            // What refuses every call is what doctor is asked for.
            Ok(Request::Command(Command::Doctor(args))) => doctor::run(&args, Some(failure)),
            _ => answer(&refuse(&failure, None)),
        };
    }
    diagnostics::start();
    match request {
        Ok(Request::Call(args)) => call::run(args),
        Ok(Request::Command(command)) => run_command(command),
        Ok(Request::Print(text)) => show(Ok((text, true))),
        // Not started by a supervisor: descriptor 3 is not a stream socket.
        Ok(Request::DoctorInside) => {
            inside::answer().unwrap_or_else(|| answer(&refuse(&line::unknown(OsStr::new(inside::WORD)).into(), None)))
        }
        Err(error) => {
            let request_id = error.request_id;
            answer(&refuse(&error.into(), request_id))
        }
    }
}

fn run_command(command: Command) -> i32 {
    match command {
        Command::List(args) => list::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Learn(args) => learn::run(args),
        Command::Check(args) => check::run(&args),
        Command::Doctor(args) => doctor::run(&args, None),
        Command::Audit(args) => audit::run(&args),
        Command::Serve(args) => serve::run(&args),
    }
}
