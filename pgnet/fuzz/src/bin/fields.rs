//! The target `fields` of `pgnet::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgnet::fuzzing::run("fields", data));
