#![no_main]

#[path = "../checks.rs"]
#[expect(dead_code, reason = "each target uses its own check")]
mod checks;

libfuzzer_sys::fuzz_target!(|text: &str| checks::notification(text));
