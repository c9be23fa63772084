//! The engine on aarch64: tests of other files, built by `packaging/cross`, in a guest of that machine with Debian 12's kernel.

mod common;

use common::guest::{self, Kernel, LIB, Place, Tests};

const TESTS: &[Tests] = &[
    Tests { file: LIB, place: Place::Top, only: &["sys::", "confine::"], without: &[("i386_and_x32", "x86_64 only")] },
    Tests { file: "doctor", place: Place::Top, only: &["every_layer_is_tried_both_ways"], without: &[] },
    Tests { file: "rules", place: Place::Top, only: &["what_a_rule_allows_is_let_through"], without: &[] },
    // plugins in Python, as root and as a user
    Tests {
        file: "ordinary",
        place: Place::Top,
        only: &["unix_sockets_are_granted", "terminals_are_there"],
        without: &[],
    },
];

#[test]
#[ignore = "takes a quarter of an hour without KVM: cargo test --test aarch64 -- --ignored"]
fn tests_of_other_files_pass_on_aarch64() {
    guest::run(TESTS, Kernel::Arm64);
}
