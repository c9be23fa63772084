//! gateway
#![forbid(unsafe_code)]
pub mod addresses;
pub mod hello;
pub mod names;
pub mod stub;
use crate::types::*;
use std::os::fd::OwnedFd;
pub struct Sockets { pub dns_udp: OwnedFd, pub dns_tcp: OwnedFd, pub listeners: Vec<(u16, OwnedFd)> }
pub fn run(_: Sockets, _: Vec<EgressRule>, _: u64, _: OwnedFd) -> ! { loop {} }
pub enum Event { Refused(Denial), Connection(EgressRecord) }
pub fn event(_: &[u8]) -> Option<Event> { None }
pub struct T { pub port: u16 }
pub fn parse_proxy(_: &str) -> Result<T, String> { Err("".into()) }
pub fn environment_proxies() -> Vec<T> { vec![] }
pub fn readable_paths() -> Vec<&'static str> { vec![] }
