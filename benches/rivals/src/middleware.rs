//! P2: the whole middleware in front of a canned response, compared with a middleware that does
//! nothing.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use reqwest_middleware::{ClientBuilder, Middleware};
use sitecore_auth::{AuthMiddleware, Target, Token, TokenCache, source_fn};
use tokio::runtime::Runtime;

use crate::{
    alloc::counted,
    issuer::Issuer,
    middleware_aliri,
    report::{Figure, Goal, RUNS, Report},
    runtime,
    stats::Spread,
    support::{Canned, HOST, Nothing, RESPONSE_BODY},
};

const CALLS: u32 = 10_000;
const ROUNDS: usize = 21;

/// Creates a middleware whose cache has a token.
pub(crate) fn auth(runtime: &Runtime, target: Target, replay: bool) -> AuthMiddleware {
    let day = Duration::from_secs(86_400);
    let cache =
        TokenCache::new(source_fn(move |_| async move { Token::bearer("t".repeat(1_200), day) }));
    runtime.block_on(cache.token()).expect("a token");
    let builder = AuthMiddleware::builder(cache).target(target).replay(replay);
    builder.build().expect("a middleware")
}

type Caller<'a> = Box<dyn Fn(u32) + 'a>;

/// A client with a middleware. It exists only while it is measured: if a program has several
/// `AuthMiddleware`s, each request costs two allocations more.
struct Stack<'a> {
    name: &'static str,
    /// The index of the stack with the same client and a middleware that does nothing.
    floor: usize,
    /// Builds a client, and returns what makes this many calls with it.
    build: Box<dyn Fn() -> Caller<'a> + 'a>,
    nanos: Vec<f64>,
    allocations: u64,
}

impl<'a> Stack<'a> {
    fn new(name: &'static str, floor: usize, build: impl Fn() -> Caller<'a> + 'a) -> Self {
        Self { name, floor, build: Box::new(build), nanos: Vec::new(), allocations: 0 }
    }
}

fn through<'a>(runtime: &'a Runtime, path: &str, middleware: impl Middleware) -> Caller<'a> {
    let client = ClientBuilder::new(reqwest::Client::new());
    let client = client.with(middleware).with(Canned(RESPONSE_BODY)).build();
    let url = format!("https://{HOST}{path}");
    Box::new(move |calls| {
        runtime.block_on(async {
            for _ in 0..calls {
                let request = client.get(&url).header("accept", "application/json");
                black_box(request.send().await.expect("a response"));
            }
        });
    })
}

pub(crate) fn measure(issuer: &Issuer, report: &mut Report) {
    let runtime = runtime::current_thread();
    let origin =
        || Target::origin(format!("https://{HOST}").parse().expect("a URL")).expect("a target");
    let authoring = || Target::authoring(HOST).expect("a target");
    let path = "/api/projects/v1";
    let ours = |replay| through(&runtime, path, auth(&runtime, origin(), replay));
    let graphql = "/sitecore/api/authoring/graphql/v1/";
    let inspecting = || through(&runtime, graphql, auth(&runtime, authoring(), true));
    let aliri = middleware_aliri::aliri(&runtime, issuer);
    let mut stacks = [
        Stack::new("a middleware that does nothing", 0, || through(&runtime, path, Nothing)),
        Stack::new("sitecore-auth, replay off", 0, || ours(false)),
        Stack::new("sitecore-auth, replay on", 0, || ours(true)),
        Stack::new("sitecore-auth, replay on, Authoring response inspected", 0, inspecting),
        Stack::new("reqwest-middleware 0.4: a middleware that does nothing", 4, || {
            Box::new(middleware_aliri::nothing(&runtime))
        }),
        Stack::new("reqwest-middleware 0.4: aliri_reqwest 0.5.1", 4, || Box::new(&aliri)),
    ];
    for stack in &mut stacks {
        let call = (stack.build)();
        call(CALLS);
        let (_, count, _) = counted(|| call(1_000));
        stack.allocations = (count + 500) / 1_000;
    }
    for round in 0..RUNS * ROUNDS {
        let mut order: Vec<_> = stacks.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for stack in order {
            let call = (stack.build)();
            call(CALLS / 10);
            let started = Instant::now();
            call(CALLS);
            let nanos = started.elapsed().as_nanos() as f64 / f64::from(CALLS);
            stack.nanos.push(nanos);
        }
    }
    let added = |stack: &Stack<'_>| {
        let pairs = stack.nanos.iter().zip(&stacks[stack.floor].nanos);
        pairs.map(|(with, without)| with - without).collect::<Vec<_>>()
    };
    let rows = stacks.iter().map(|stack| {
        let nanos = Spread::of(stack.nanos.clone());
        let ratio = nanos.median / Spread::of(stacks[stack.floor].nanos.clone()).median;
        vec![
            stack.name.to_owned(),
            format!("{ratio:.2}"),
            nanos.to_string(),
            Spread::of(added(stack)).to_string(),
            stack.allocations.to_string(),
        ]
    });
    report.table(
        "The whole middleware",
        "A request is built, passes through reqwest-middleware, and gets a canned response without \
         a network. The ratio compares the median with that of a middleware that does nothing; the \
         added time is the difference in the same round. `aliri_reqwest` requires an older \
         reqwest-middleware, so it has a floor of its own. It does not replay requests.",
        &["", "ratio", "ns", "added, ns", "allocations"],
        rows.collect(),
    );
    let [nothing, off, on, inspecting, ..] = &stacks;
    let runs = |stack| {
        let added = added(stack);
        let runs = added.chunks(ROUNDS);
        runs.map(|run| Spread::of(run.to_vec()).median).collect()
    };
    let allocations = |stack: &Stack<'_>| vec![(stack.allocations - nothing.allocations) as f64];
    report.goal(Goal {
        name: "P2",
        what: "the whole middleware, compared with one that does nothing",
        figures: vec![
            Figure::at_most(120.0, "replay off, added ns", runs(off)),
            Figure::never_above(0.0, "replay off, added allocations", allocations(off)),
            Figure::at_most(330.0, "replay on, added ns", runs(on)),
            Figure::never_above(6.0, "replay on, added allocations", allocations(on)),
            Figure::at_most(
                1_000.0,
                "replay on, Authoring response of 1 kB inspected, added ns",
                runs(inspecting),
            ),
        ],
    });
}
