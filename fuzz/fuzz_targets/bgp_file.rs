//! Any text is a configuration file, or is told what is wrong with it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = bgp_agent::check_file(text);
});
