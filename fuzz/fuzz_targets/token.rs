#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sessiond_fuzz::token::run(input));
