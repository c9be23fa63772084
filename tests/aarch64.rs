//! The engine on aarch64: tests of other files, built by `packaging/cross`, in a guest of that machine with Debian 12's kernel.

mod common;

use common::guest::{self, Kernel, LIB, Place, Tests};

const TESTS: &[Tests] = &[
    Tests { file: LIB, place: Place::Top, only: &["sys::", "confine::"], without: &[("i386_and_x32", "x86_64 only")] },
    Tests { file: "doctor", place: Place::Top, only: &["every_layer_is_tried_both_ways"], without: &[] },
    // every rule of the filter, both ways
    Tests { file: "rules", place: Place::Top, only: &[], without: &[] },
    Tests { file: "syscalls", place: Place::Top, only: &["the_privileged_part_of_the_kernel"], without: &[] },
    // plugins in Python
    Tests { file: "ordinary", place: Place::Top, only: &[], without: &[] },
];

#[test]
fn tests_of_other_files_pass_on_aarch64() {
    guest::run(TESTS, Kernel::Arm64);
}
