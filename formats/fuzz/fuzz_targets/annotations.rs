//! See `jaunt_formats::fuzzing::annotations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| jaunt_formats::fuzzing::annotations(data));
