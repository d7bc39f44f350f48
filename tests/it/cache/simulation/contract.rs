//! The property test.

use proptest::{prelude::*, test_runner::FileFailurePersistence};

use super::{model::Simulation, operations::operation};

const REGRESSIONS: &str = "tests/it/cache/simulation.regressions";

fn config() -> ProptestConfig {
    let cases = std::env::var("SIMULATION_CASES")
        .map_or(500, |cases| cases.parse().expect("SIMULATION_CASES is a number"));
    let failure_persistence = Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS)) as _);
    ProptestConfig { cases, failure_persistence, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_contract_holds_whatever_happens(case in prop::collection::vec(operation(), 1..60)) {
        let mut simulation = Simulation::new();
        for (number, operation) in case.iter().enumerate() {
            if let Err(violation) = simulation.run(operation) {
                prop_assert!(false, "operation {number}, {operation:?}: {violation}");
            }
        }
        if let Err(violation) = simulation.recover() {
            prop_assert!(false, "after recovery: {violation}");
        }
    }
}
