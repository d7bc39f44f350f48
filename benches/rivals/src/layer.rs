//! P2: the whole layer with a canned answer behind it, beside a middleware that does nothing.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use http::Extensions;
use reqwest::{Request, Response, ResponseBuilderExt as _};
use reqwest_middleware::{ClientBuilder, Middleware, Next, Result};
use sitecore_auth::{AuthMiddleware, Target, Token, TokenCache, source_fn};
use tokio::runtime::Runtime;

use crate::{
    alloc::counted,
    issuer::Issuer,
    layer_aliri,
    report::{Figure, Goal, RUNS, Report},
    stats::Spread,
};

const CALLS: u32 = 10_000;
const ROUNDS: usize = 21;
pub(crate) const HOST: &str = "cm.example";
pub(crate) const ANSWER: &str = r#"{"data":{"sites":[{"name":"acme"},{"name":"acme-campaigns"}]}}"#;

/// Stands for the network.
pub(crate) struct Canned(pub(crate) &'static str);

#[async_trait]
impl Middleware for Canned {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        let answer = http::Response::builder().url(request.url().clone());
        let answer = answer.header("content-type", "application/json");
        Ok(answer.body(self.0).expect("an answer").into())
    }
}

/// The floor: one more middleware.
struct Nothing;

#[async_trait]
impl Middleware for Nothing {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        next.run(request, extensions).await
    }
}

/// A layer whose cache holds a token.
pub(crate) fn auth(runtime: &Runtime, target: Target, replay: bool) -> AuthMiddleware {
    let day = Duration::from_secs(86_400);
    let cache =
        TokenCache::new(source_fn(move |_| async move { Token::bearer("t".repeat(1_200), day) }));
    runtime.block_on(cache.token()).expect("a token");
    let layer = AuthMiddleware::builder(cache).target(target).replay(replay);
    layer.build().expect("a layer")
}

struct Stack<'a> {
    name: &'static str,
    /// The place of the middleware that does nothing, in a stack of the same kind.
    floor: usize,
    /// Makes so many calls.
    call: Box<dyn Fn(u32) + 'a>,
    nanos: Vec<f64>,
    allocations: u64,
}

impl<'a> Stack<'a> {
    fn new(name: &'static str, floor: usize, call: impl Fn(u32) + 'a) -> Self {
        Self { name, floor, call: Box::new(call), nanos: Vec::new(), allocations: 0 }
    }
}

/// Makes calls through a middleware.
fn through(runtime: &Runtime, path: &str, layer: impl Middleware) -> impl Fn(u32) {
    let client = ClientBuilder::new(reqwest::Client::new());
    let client = client.with(layer).with(Canned(ANSWER)).build();
    let url = format!("https://{HOST}{path}");
    move |calls| {
        runtime.block_on(async {
            for _ in 0..calls {
                let request = client.get(&url).header("accept", "application/json");
                black_box(request.send().await.expect("an answer"));
            }
        });
    }
}

pub(crate) fn measure(issuer: &Issuer, report: &mut Report) {
    let runtime = crate::runtime(0);
    let origin =
        || Target::origin(format!("https://{HOST}").parse().expect("a URL")).expect("a target");
    let authoring = || Target::authoring(HOST).expect("a target");
    let path = "/api/projects/v1";
    let layer = |target, replay| through(&runtime, path, auth(&runtime, target, replay));
    let graphql = "/sitecore/api/authoring/graphql/v1/";
    let look = through(&runtime, graphql, auth(&runtime, authoring(), true));
    let nothing = through(&runtime, path, Nothing);
    let mut stacks = [
        Stack::new("a middleware that does nothing", 0, nothing),
        Stack::new("the layer, replay off", 0, layer(origin(), false)),
        Stack::new("the layer, replay on", 0, layer(origin(), true)),
        Stack::new("the layer, replay on, an Authoring answer looked at", 0, look),
        Stack::new(
            "reqwest-middleware 0.4: one that does nothing",
            4,
            layer_aliri::nothing(&runtime),
        ),
        Stack::new(
            "reqwest-middleware 0.4: aliri_reqwest 0.5.1",
            4,
            layer_aliri::aliri(&runtime, issuer),
        ),
    ];
    for stack in &mut stacks {
        (stack.call)(CALLS);
        let (_, count, _) = counted(|| (stack.call)(1_000));
        stack.allocations = (count + 500) / 1_000;
    }
    for round in 0..RUNS * ROUNDS {
        let mut order: Vec<_> = stacks.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for stack in order {
            let begun = Instant::now();
            (stack.call)(CALLS);
            let nanos = begun.elapsed().as_nanos() as f64 / f64::from(CALLS);
            stack.nanos.push(nanos);
        }
    }
    let more = |stack: &Stack<'_>| {
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
            Spread::of(more(stack)).to_string(),
            stack.allocations.to_string(),
        ]
    });
    report.table(
        "The whole layer",
        "A request is built, goes through reqwest-middleware, and is answered without a network. Times the middleware that \
         does nothing; nanoseconds; what is more than there in the same round. `aliri_reqwest` lives on an older \
         reqwest, and so has a floor of its own; it does not replay.",
        &["", "ratio", "ns", "more, ns", "allocations"],
        rows.collect(),
    );
    let [nothing, off, on, look, ..] = &stacks;
    let runs = |stack| {
        let more = more(stack);
        let runs = more.chunks(ROUNDS);
        runs.map(|run| Spread::of(run.to_vec()).median).collect()
    };
    let allocations = |stack: &Stack<'_>| vec![(stack.allocations - nothing.allocations) as f64];
    report.goal(Goal {
        name: "P2",
        what: "the whole layer, beside a middleware that does nothing",
        figures: vec![
            Figure::at_most(150.0, "replay off, ns more", runs(off)),
            Figure::never_above(0.0, "replay off, allocations more", allocations(off)),
            Figure::at_most(400.0, "replay on, ns more", runs(on)),
            Figure::told("replay on, allocations more", allocations(on)),
            Figure::told("replay on and an Authoring answer looked at, ns more", runs(look)),
        ],
    });
}
