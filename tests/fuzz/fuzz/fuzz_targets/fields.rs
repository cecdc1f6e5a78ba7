//! See `blueprint_tests_fuzz::fields`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blueprint_tests_fuzz::fields(data));
