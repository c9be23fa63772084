//! `upm-probe`: runs inside the sandbox and reports what it can do there.
//!
//! As a plugin (`exec = "…/upm-probe"`) it reads the call frame on descriptor 3 and runs the act that the method
//! names; the method `run` takes the act's name as its first argument, so that one allowed method serves every test.
//! `upm-probe under-listener PROGRAM …` runs another program: see `listener`.
//!
//! By hand, `upm-probe ACT [ARG…]` prints the same result on stdout: that is the control of a denial test.
//! Each argument is JSON, or else a plain string. Some first words are not acts: [`outside`] takes something away from the
//! program that it then becomes.
//!
//! Every act answers `{"ok":bool,"errno":n,"errno_name":"EPERM"|null,…}`; `errno` is 0 when the act worked. An act
//! that the caller used wrongly answers `{"ok":false,"errno":-1,"message":…}`, which no test may take for a denial.

mod acts;
mod answer;
mod args;
mod bombs;
mod constants;
mod counted;
mod files;
mod foreign;
mod frames;
mod hold;
mod inside;
mod ipc;
mod kernel;
mod listener;
mod locks;
mod modes;
mod net;
mod outside;
mod processes;
mod rules;
mod sys;

use serde_json::Value;

fn main() {
    let raw: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    if raw.first().is_some_and(|word| word == "under-listener") {
        listener::become_listened(&raw[1..]);
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    outside::enter(&words);
    if let Some((act, rest)) = words.split_first() {
        let args: Vec<Value> = rest
            .iter()
            .map(|word| serde_json::from_str(word).unwrap_or_else(|_| Value::String(word.clone())))
            .collect();
        println!("{}", acts::run(act, &args));
        return;
    }
    frames::plugin();
}
