//! See `jaunt_formats::fuzzing::seek_table`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| jaunt_formats::fuzzing::seek_table(data));
