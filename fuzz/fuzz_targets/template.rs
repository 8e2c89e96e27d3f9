#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| pg_stepwise_fuzz::targets::template::run(data));
