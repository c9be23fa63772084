//! What programs find inside is the same on every kernel: tests of other files run on Debian 12's and 13's, and on the newest,
//! booted under qemu (see `tests/qemu/`). There landlock has ABI 2, 6, and 10 or newer: 9 adds UNIX sockets with a path, 10
//! ports of UDP, which the gateway needs to look up names and to answer.

mod common;

use common::guest::{self, Kernel, Place, Tests};
use rstest::rstest;

const TESTS: &[Tests] = &[
    // one of four, and one of two: each act is a program of its own, twice, which takes a minute without KVM
    of(
        "ordinary",
        &["mode_2_Mode__User::grant_1", "are_granted::mode_2_Mode__User::grant_2", "cannot_tell::mode_2_Mode__User"],
    ),
    of("filesystem", &["a_socket_in_a_granted_directory"]),
    of("sockets", &["reaches_nobody"]),
    of("egress", &["a_granted_name_is_reached", "only_the_granted_port"]),
];

const fn of(file: &'static str, only: &'static [&'static str]) -> Tests {
    Tests { file, place: Place::Top, only, without: &[] }
}

#[rstest]
#[case::debian_12(Kernel::Oldest)]
#[case::debian_13(Kernel::Trixie)]
#[case::newest(Kernel::Newest)]
fn programs_find_the_same_inside(#[case] kernel: Kernel) {
    guest::run(TESTS, kernel);
}
