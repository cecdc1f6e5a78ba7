//! See `blueprint_tests_fuzz::chunks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blueprint_tests_fuzz::chunks(data));
