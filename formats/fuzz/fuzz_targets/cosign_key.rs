//! See `jaunt_formats::fuzzing::cosign_key`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| jaunt_formats::fuzzing::cosign_key(data));
