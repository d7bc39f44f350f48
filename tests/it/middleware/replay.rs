//! A refused token is replaced, and the request sent once more, on real sockets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use sitecore_auth::{AuthMiddleware, ErrorKind, ManualClock, Replay, TokenCache};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use crate::support::{
    DAY, ScriptedSource, Step, bearer, client_with, origin, refusing, requests, serve, wrap,
};

#[tokio::test]
async fn a_refused_token_is_replaced_and_the_request_sent_once_more() {
    for challenges in [
        &[][..],
        &["Bearer"],
        &[r#"Bearer error="invalid_token""#],
        &["Basic realm=\"x\"", "bearer error=invalid_token"],
        &[r#"Basic realm="a, b", Bearer realm="c""#],
    ] {
        let server = refusing(&["token-1"], challenges).await;
        let source = ScriptedSource::granting(DAY);
        let client = client_with(source.clone(), origin(&server));
        let answer = client.post(server.uri()).body("payload").send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.unwrap()),
            (200, "token-2".to_owned()),
            "{challenges:?}"
        );
        let requests = requests(&server).await;
        assert!(requests.iter().all(|request| request.body == b"payload"));
        assert_eq!((requests.len(), source.calls()), (2, 2));
    }
}

#[tokio::test]
async fn a_second_refusal_is_final() {
    let server = refusing(&["token-1", "token-2", "token-3"], &[]).await;
    let source = ScriptedSource::granting(DAY);
    let client = client_with(source.clone(), origin(&server));
    let answer = client.get(server.uri()).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    assert_eq!((requests(&server).await.len(), source.calls()), (2, 2));
    // From now on it waits: one request, no grant, the answer as it is.
    let answer = client.get(server.uri()).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (401, "no".to_owned()));
    assert_eq!((requests(&server).await.len(), source.calls()), (3, 2));
}

#[tokio::test]
async fn five_hundred_refusals_cost_one_grant() {
    let server = refusing(&["token-1"], &[]).await;
    let source =
        ScriptedSource::new([Step::Grant(DAY)], Step::Slow(Duration::from_millis(50), DAY));
    let client = client_with(source.clone(), origin(&server));
    let answers = join_all((0..500).map(|_| client.get(server.uri()).send())).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().status() == 200));
    assert_eq!(source.calls(), 2);
    assert!(requests(&server).await.len() <= 1_000);
}

#[tokio::test]
async fn what_no_other_token_would_mend_is_passed_through() {
    let client = |server: &MockServer| client_with(ScriptedSource::granting(DAY), origin(server));
    for challenges in [
        &[r#"Basic realm="x""#][..],
        &["Negotiate"],
        &["Negotiate YWJj=="],
        &["Basic realm=\"x\"", "Digest realm=\"y\", nonce=\"z\""],
        &[r#"Bearer error="insufficient_scope", scope="a""#],
    ] {
        let server = refusing(&["token-1"], challenges).await;
        let answer = client(&server).get(server.uri()).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{challenges:?}");
        assert_eq!(requests(&server).await.len(), 1, "{challenges:?}");
    }
    for status in [403, 404, 409, 429, 500, 520] {
        let server = serve(ResponseTemplate::new(status).set_body_string("<h1>sorry</h1>")).await;
        let answer = client(&server).get(server.uri()).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.unwrap()),
            (status, "<h1>sorry</h1>".to_owned())
        );
        assert_eq!(requests(&server).await.len(), 1);
    }
}

#[tokio::test]
async fn without_replay_the_answer_goes_back_and_the_next_request_is_good() {
    // The layer's switch, and the request's, which counts for more.
    for (layer, request, replayed) in [
        (false, None, false),
        (true, Some(Replay(false)), false),
        (false, Some(Replay(true)), true),
    ] {
        let server = refusing(&["token-1"], &[]).await;
        let source = ScriptedSource::granting(DAY);
        let auth = AuthMiddleware::builder(TokenCache::new(source.clone())).target(origin(&server));
        let client = wrap(auth.replay(layer).build().unwrap());
        let call = || match request {
            Some(replay) => client.get(server.uri()).with_extension(replay),
            None => client.get(server.uri()),
        };
        let first = call().send().await.unwrap().status().as_u16();
        assert_eq!((first, source.calls()), (if replayed { 200 } else { 401 }, 2));
        assert_eq!(call().send().await.unwrap().status().as_u16(), 200);
        assert_eq!(requests(&server).await.len(), if replayed { 3 } else { 2 });
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_cloned_is_not_sent_again() {
    let server = refusing(&["token-1"], &[]).await;
    let source = ScriptedSource::granting(DAY);
    let client = client_with(source.clone(), origin(&server));
    let stream = || {
        reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>("part")]))
    };
    let answer = client.post(server.uri()).body(stream()).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (401, "no".to_owned()));
    let answer = client.post(server.uri()).body(stream()).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), requests(&server).await.len()), (200, 2));
}

#[tokio::test]
async fn if_there_is_no_other_token_the_first_answer_goes_back_untouched() {
    let server = refusing(&["token-1"], &["Bearer"]).await;
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Fail(ErrorKind::Malformed));
    let answer =
        client_with(source.clone(), origin(&server)).get(server.uri()).send().await.unwrap();
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (401, "no".to_owned()));
    assert_eq!(requests(&server).await.len(), 1);
}

#[tokio::test]
async fn an_api_that_refuses_everything_disturbs_no_other() {
    let refusing = serve(ResponseTemplate::new(401)).await;
    let working = serve(ResponseTemplate::new(200)).await;
    let (clock, source) = (ManualClock::new(), ScriptedSource::granting(DAY));
    let cache = TokenCache::builder(source.clone()).clock(clock.clone());
    let auth = AuthMiddleware::builder(cache.build().unwrap())
        .target(origin(&refusing))
        .target(origin(&working));
    let client = wrap(auth.build().unwrap());
    let mut granted_at = Vec::new();
    for ten_seconds in 0..1_000 {
        let before = requests(&refusing).await.len();
        let answer = client.get(refusing.uri()).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 401);
        assert!(requests(&refusing).await.len() - before <= 2);
        granted_at.resize(source.calls(), ten_seconds * 10);
        // The same token is good enough for others, and nothing is granted for them.
        let answer = client.get(working.uri()).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), source.calls()), (200, granted_at.len()));
        clock.advance(Duration::from_secs(10));
    }
    // The first two are the empty cache's and the first refusal's.
    assert_eq!(granted_at, [0, 0, 60, 180, 420, 900, 1_860, 3_780, 7_620]);
}

#[tokio::test]
async fn an_api_that_refuses_everything_keeps_no_other_from_a_new_token() {
    let refusing = serve(ResponseTemplate::new(401)).await;
    // Takes no token that is older than this: its keys are rotated.
    let oldest = Arc::new(AtomicUsize::new(0));
    let (working, least) = (MockServer::start().await, Arc::clone(&oldest));
    let answer = move |request: &Request| {
        let number = bearer(request).trim_start_matches("token-").parse::<usize>();
        let is_good = number.unwrap() >= least.load(Ordering::SeqCst);
        ResponseTemplate::new(if is_good { 200 } else { 401 })
    };
    Mock::given(any()).respond_with(answer).mount(&working).await;
    let (clock, source) = (ManualClock::new(), ScriptedSource::granting(DAY));
    let cache = TokenCache::builder(source.clone()).clock(clock.clone());
    let auth = AuthMiddleware::builder(cache.build().unwrap())
        .target(origin(&refusing))
        .target(origin(&working));
    let client = wrap(auth.build().unwrap());
    let status = async |server: &MockServer| {
        let answer = client.get(server.uri()).send().await.unwrap();
        answer.status().as_u16()
    };
    for _ in 0..100 {
        assert_eq!(status(&refusing).await, 401);
        clock.advance(Duration::from_secs(10));
    }
    for _ in 0..3 {
        oldest.store(source.calls() + 1, Ordering::SeqCst);
        assert_eq!(status(&refusing).await, 401);
        assert_eq!(status(&working).await, 200);
        // What it has cost itself counts.
        clock.advance(Duration::from_secs(600));
    }
}
