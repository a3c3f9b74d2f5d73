//! See `jaunt_formats::fuzzing::reference`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| jaunt_formats::fuzzing::reference(data));
