//! The target `values` of `pgnet::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgnet::fuzzing::run("values", data));
