//! libFuzzer on one of the targets: `FUZZ_TARGET=bgp_message fuzz corpus/bgp_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (fairlead_fuzz::chosen().run)(data);
});
