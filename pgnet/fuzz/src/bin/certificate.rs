//! The target `certificate` of `pgnet::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgnet::fuzzing::run("certificate", data));
