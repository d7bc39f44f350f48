//! A simulation of five processes that share one store. Peers are frozen, killed or without
//! network, the store fails at any step or responds late, the issuer fails, and tokens are rejected.
//!
//! Two of the processes have no trouble of their own. Whatever happens to the others, they must get
//! their tokens. When all trouble has ended, one token must be enough for all again.
//!
//! `SIMULATION_CASES` sets the number of cases. A failing case is saved in
//! `tests/it/store/simulation.regressions`, and later runs start with it.

mod fleet;
mod peer;

use std::time::Duration;

use proptest::{prelude::*, test_runner::FileFailurePersistence};

use self::{
    fleet::Fleet,
    peer::{Fault, Issuer, Step, Way},
};
use crate::support::{HOUR, MS, SECOND};

/// The processes without trouble of their own: the first ones.
const HEALTHY: usize = 2;
const PROCESSES: usize = 5;

#[derive(Clone, Debug)]
enum Operation {
    Advance(Duration),
    /// A caller in this process calls `token`.
    Token(usize),
    /// All processes do at once, the healthy ones last.
    TokenInEach,
    /// An API rejects the token of this process.
    Reject(usize),
    /// An API rejects every token of each process for two hours.
    RejectEverything,
    /// The process ends normally, and another takes its place.
    Restart(usize),
    /// The process ends at once, with its lease and whatever it was doing.
    Kill(usize),
    /// The process stands still, or goes on.
    Freeze(usize, bool),
    /// The process reaches the issuer like this from now on.
    Connect(usize, Way),
    /// The store behaves like this towards this process from now on.
    Store(usize, Option<Fault>),
    /// The store behaves like this towards all processes.
    StoreForAll(Option<Fault>),
    /// The store restarts without its data.
    LoseData,
    Issuer(Issuer),
}

/// A case, and what cannot happen in it.
#[derive(Clone, Debug)]
struct Case {
    issuer_fails: bool,
    store_fails: bool,
    operations: Vec<Operation>,
}

fn config() -> ProptestConfig {
    let cases = std::env::var("SIMULATION_CASES")
        .map_or(60, |cases| cases.parse().expect("SIMULATION_CASES is a number"));
    let file = FileFailurePersistence::Direct("tests/it/store/simulation.regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(file)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_fleet_keeps_its_contract(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let result = runtime.block_on(run(&case));
        prop_assert!(result.is_ok(), "{}", result.unwrap_err());
    }
}

async fn run(case: &Case) -> Result<(), String> {
    let mut fleet = Fleet::new(case.issuer_fails, case.store_fails);
    for operation in &case.operations {
        match operation.clone() {
            Operation::Advance(time) => tokio::time::sleep(time).await,
            Operation::Token(index) => fleet.token(index),
            Operation::TokenInEach => (0..PROCESSES).rev().for_each(|index| fleet.token(index)),
            Operation::Reject(index) => fleet.reject(index),
            Operation::RejectEverything => fleet.reject_everything().await,
            Operation::Restart(index) => fleet.restart(index),
            Operation::Kill(index) => {
                fleet.peer(index).kill();
                fleet.restart(index);
            }
            Operation::Freeze(index, is_frozen) => fleet.peer(index).freeze(is_frozen),
            Operation::Connect(index, way) => fleet.connect(index, way),
            Operation::Store(index, fault) => fleet.peer(index).set_fault(fault),
            Operation::StoreForAll(fault) => fleet.set_fault(fault),
            Operation::LoseData => fleet.lose_data(),
            Operation::Issuer(issuer) => fleet.set_issuer(issuer),
        }
        fleet.check().await?;
    }
    fleet.recover().await
}

fn case() -> impl Strategy<Value = Case> {
    let kind = (any::<bool>(), any::<bool>());
    (kind, proptest::collection::vec(operation(), 1..60)).prop_map(
        |((issuer_fails, store_fails), operations)| {
            let is_possible = |operation: &Operation| match operation {
                Operation::Issuer(issuer) => issuer_fails || !issuer.fails(),
                Operation::Store(..) | Operation::StoreForAll(_) | Operation::LoseData => {
                    store_fails
                }
                _ => true,
            };
            let operations = operations.into_iter().filter(is_possible).collect();
            Case { issuer_fails, store_fails, operations }
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    let each = 0..PROCESSES;
    let troubled = HEALTHY..PROCESSES;
    prop_oneof![
        6 => (1_u64..2_000).prop_map(|time| Operation::Advance(Duration::from_millis(time))),
        3 => (2_u64..60).prop_map(|time| Operation::Advance(Duration::from_secs(time))),
        2 => (1_u64..40_000).prop_map(|time| Operation::Advance(Duration::from_secs(time))),
        8 => each.clone().prop_map(Operation::Token),
        3 => Just(Operation::TokenInEach),
        3 => each.clone().prop_map(Operation::Reject),
        1 => Just(Operation::RejectEverything),
        1 => each.clone().prop_map(Operation::Restart),
        2 => troubled.clone().prop_map(Operation::Kill),
        3 => (troubled.clone(), any::<bool>()).prop_map(|(at, is)| Operation::Freeze(at, is)),
        2 => (troubled, way()).prop_map(|(at, way)| Operation::Connect(at, way)),
        3 => (each, fault()).prop_map(|(at, fault)| Operation::Store(at, fault)),
        1 => fault().prop_map(Operation::StoreForAll),
        1 => Just(Operation::LoseData),
        3 => issuer().prop_map(Operation::Issuer),
    ]
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![2 => Just(Way::Open), 1 => Just(Way::Closed), 1 => Just(Way::Silent)]
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    let step = prop_oneof![
        Just(Step::Load),
        Just(Step::Save),
        Just(Step::Lease),
        Just(Step::Extend),
        Just(Step::Release)
    ];
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Fault::Down)),
        1 => Just(Some(Fault::Hangs)),
        2 => (1_u32..600).prop_map(|late| Some(Fault::Late(late * MS))),
        2 => step.prop_map(|step| Some(Fault::At(step))),
    ]
}

fn issuer() -> impl Strategy<Value = Issuer> {
    prop_oneof![
        2 => Just(Issuer::Grants { after: Duration::ZERO }),
        2 => (1_u32..6_000).prop_map(|time| Issuer::Grants { after: time * MS }),
        2 => Just(Issuer::Fails),
        1 => (1_u32..300).prop_map(|wait| Issuer::FailsFor(wait * SECOND)),
        1 => Just(Issuer::Hangs),
    ]
}

/// The lifetime of every token.
const LIFETIME: Duration = HOUR.saturating_mul(4);
