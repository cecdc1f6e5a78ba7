//! See `blueprint_tests_fuzz::answers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blueprint_tests_fuzz::answers(data));
