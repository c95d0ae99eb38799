//! The target `sasl` of `pgnet::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgnet::fuzzing::run("sasl", data));
