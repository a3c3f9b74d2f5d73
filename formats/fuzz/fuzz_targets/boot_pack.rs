//! See `jaunt_formats::fuzzing::boot_pack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| jaunt_formats::fuzzing::boot_pack(data));
