//! The inputs that fuzzing has found worth keeping (`fuzz/corpus`), replayed without a fuzzer.

use pg_stepwise_cluster_tests::{engine, picture};
use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/targets/mod.rs"]
mod targets;

#[test]
fn every_kept_input_passes_its_target() {
    for (name, run) in targets::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let inputs = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut replayed = 0;
        for input in inputs {
            let path = input.unwrap().path();
            let data = fs::read(&path).unwrap();
            // A panic is told with the input that it is about.
            if std::panic::catch_unwind(|| run(&data)).is_err() {
                panic!("{name} fails on {}", path.display());
            }
            replayed += 1;
        }
        assert!(replayed >= 10, "{name} has {replayed} inputs");
    }
}
