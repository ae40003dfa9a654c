#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sessiond_fuzz::record::run(input));
