//! See `jaunt_formats::fuzzing::launch_index`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| jaunt_formats::fuzzing::launch_index(data));
