//! See `jaunt_formats::fuzzing::layer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| jaunt_formats::fuzzing::layer(data));
