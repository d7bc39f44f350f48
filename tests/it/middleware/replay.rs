//! A rejected token is replaced and the request is replayed, on real sockets.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use reqwest::Method;
use sitecore_auth::{
    AuthMiddleware, Clock as _, ErrorKind, ManualClock, Replay, Target, Token, TokenCache,
    source_fn,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use url::Url;
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use crate::support::{
    DAY, ScriptedSource, Step, bearer, cache_of, client_with, origin, rejecting, requests, serve,
    text, wrap,
};

#[tokio::test]
async fn a_rejected_token_is_replaced_and_the_request_is_replayed() {
    for challenges in [
        &[][..],
        &["Bearer"],
        &[r#"Bearer error="invalid_token""#],
        &["Basic realm=\"x\"", "bearer error=invalid_token"],
        &[r#"Basic realm="a, b", Bearer realm="c""#],
    ] {
        let server = rejecting(&["token-1"], challenges).await;
        let source = ScriptedSource::granting(DAY);
        let client = client_with(source.clone(), origin(&server));
        let response = client.post(server.uri()).body("payload").send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), response.text().await.unwrap()),
            (200, "token-2".to_owned()),
            "{challenges:?}"
        );
        let requests = requests(&server).await;
        assert!(requests.iter().all(|request| request.body == b"payload"));
        assert_eq!((requests.len(), source.calls()), (2, 2));
    }
}

#[tokio::test]
async fn a_second_rejection_is_final() {
    let server = rejecting(&["token-1", "token-2", "token-3"], &[]).await;
    let source = ScriptedSource::granting(DAY);
    let client = client_with(source.clone(), origin(&server));
    let response = client.get(server.uri()).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 401);
    assert_eq!((requests(&server).await.len(), source.calls()), (2, 2));
    // The next replacement has to wait: there is no token request, and the response is returned.
    let response = client.get(server.uri()).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.text().await.unwrap()),
        (401, "no".to_owned())
    );
    assert_eq!((requests(&server).await.len(), source.calls()), (3, 2));
}

#[tokio::test]
async fn five_hundred_rejections_cost_one_token_request() {
    let server = rejecting(&["token-1"], &[]).await;
    let source =
        ScriptedSource::new([Step::Grant(DAY)], Step::Slow(Duration::from_millis(50), DAY));
    let client = client_with(source.clone(), origin(&server));
    let responses = join_all((0..500).map(|_| client.get(server.uri()).send())).await;
    assert!(responses.into_iter().all(|response| response.unwrap().status() == 200));
    assert_eq!(source.calls(), 2);
    assert!(requests(&server).await.len() <= 1_000);
}

#[tokio::test]
async fn responses_that_another_token_would_not_fix_are_passed_through() {
    let client = |server: &MockServer| client_with(ScriptedSource::granting(DAY), origin(server));
    for challenges in [
        &[r#"Basic realm="x""#][..],
        &["Negotiate"],
        &["Negotiate YWJj=="],
        &["Basic realm=\"x\"", "Digest realm=\"y\", nonce=\"z\""],
        &[r#"Bearer error="insufficient_scope", scope="a""#],
    ] {
        let server = rejecting(&["token-1"], challenges).await;
        let response = client(&server).get(server.uri()).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 401, "{challenges:?}");
        assert_eq!(requests(&server).await.len(), 1, "{challenges:?}");
    }
    for status in [403, 404, 409, 429, 500, 520] {
        let server = serve(ResponseTemplate::new(status).set_body_string("<h1>sorry</h1>")).await;
        let response = client(&server).get(server.uri()).send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), response.text().await.unwrap()),
            (status, "<h1>sorry</h1>".to_owned())
        );
        assert_eq!(requests(&server).await.len(), 1);
    }
}

#[tokio::test]
async fn without_replay_the_response_is_returned_and_the_next_request_succeeds() {
    // The setting of the middleware, and that of the request, which takes precedence.
    for (default, request, replayed) in [
        (false, None, false),
        (true, Some(Replay(false)), false),
        (false, Some(Replay(true)), true),
    ] {
        let server = rejecting(&["token-1"], &[]).await;
        let source = ScriptedSource::granting(DAY);
        let auth = AuthMiddleware::builder(TokenCache::new(source.clone())).target(origin(&server));
        let client = wrap(auth.replay(default).build().unwrap());
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
async fn a_request_whose_body_cannot_be_cloned_is_not_replayed() {
    let server = rejecting(&["token-1"], &[]).await;
    let source = ScriptedSource::granting(DAY);
    let client = client_with(source.clone(), origin(&server));
    let stream = || {
        reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>("part")]))
    };
    let response = client.post(server.uri()).body(stream()).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.text().await.unwrap()),
        (401, "no".to_owned())
    );
    let response = client.post(server.uri()).body(stream()).send().await.unwrap();
    assert_eq!((response.status().as_u16(), requests(&server).await.len()), (200, 2));
}

#[tokio::test]
async fn without_another_token_the_first_response_is_returned_unchanged() {
    let server = rejecting(&["token-1"], &["Bearer"]).await;
    let source = ScriptedSource::new([Step::Grant(DAY)], Step::Fail(ErrorKind::Malformed));
    let response =
        client_with(source.clone(), origin(&server)).get(server.uri()).send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert_eq!(
        (response.status().as_u16(), response.text().await.unwrap()),
        (401, "no".to_owned())
    );
    assert_eq!(requests(&server).await.len(), 1);
}

#[tokio::test]
async fn an_api_that_rejects_every_token_does_not_disturb_other_apis() {
    let rejecting_api = serve(ResponseTemplate::new(401)).await;
    let working_api = serve(ResponseTemplate::new(200)).await;
    let (clock, source) = (ManualClock::new(), ScriptedSource::granting(DAY));
    let cache = TokenCache::builder(source.clone()).clock(clock.clone());
    let auth = AuthMiddleware::builder(cache.build().unwrap())
        .target(origin(&rejecting_api))
        .target(origin(&working_api));
    let client = wrap(auth.build().unwrap());
    let mut granted_at = Vec::new();
    for round in 0..1_000 {
        let before = requests(&rejecting_api).await.len();
        let response = client.get(rejecting_api.uri()).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 401);
        assert!(requests(&rejecting_api).await.len() - before <= 2);
        granted_at.resize(source.calls(), round * 10);
        // The other API accepts the same token, so its calls cause no token request.
        let response = client.get(working_api.uri()).send().await.unwrap();
        assert_eq!((response.status().as_u16(), source.calls()), (200, granted_at.len()));
        clock.advance(Duration::from_secs(10));
    }
    // The first two tokens are for the empty cache and for the first rejection.
    assert_eq!(granted_at, [0, 0, 60, 180, 420, 900, 1_860, 3_780, 7_620]);
}

#[tokio::test]
async fn an_api_that_rejects_every_token_does_not_keep_others_from_a_new_one() {
    let rejecting_api = serve(ResponseTemplate::new(401)).await;
    // Rejects tokens that are older than this one, as if its signing keys had been rotated.
    let oldest = Arc::new(AtomicUsize::new(0));
    let (working_api, minimum) = (MockServer::start().await, Arc::clone(&oldest));
    let respond = move |request: &Request| {
        let number = bearer(request).trim_start_matches("token-").parse::<usize>();
        let is_accepted = number.unwrap() >= minimum.load(Ordering::SeqCst);
        ResponseTemplate::new(if is_accepted { 200 } else { 401 })
    };
    Mock::given(any()).respond_with(respond).mount(&working_api).await;
    let (clock, source) = (ManualClock::new(), ScriptedSource::granting(DAY));
    let cache = TokenCache::builder(source.clone()).clock(clock.clone());
    let auth = AuthMiddleware::builder(cache.build().unwrap())
        .target(origin(&rejecting_api))
        .target(origin(&working_api));
    let client = wrap(auth.build().unwrap());
    let status = async |server: &MockServer| {
        let response = client.get(server.uri()).send().await.unwrap();
        response.status().as_u16()
    };
    for _ in 0..100 {
        assert_eq!(status(&rejecting_api).await, 401);
        clock.advance(Duration::from_secs(10));
    }
    for _ in 0..3 {
        oldest.store(source.calls() + 1, Ordering::SeqCst);
        assert_eq!(status(&rejecting_api).await, 401);
        assert_eq!(status(&working_api).await, 200);
        // Waits out the backoff of the working API's own rejections.
        clock.advance(Duration::from_secs(600));
    }
}

#[tokio::test]
async fn twenty_apis_that_reject_every_token_share_one_budget() {
    let mut servers = Vec::new();
    for _ in 0..20 {
        servers.push(serve(ResponseTemplate::new(401)).await);
    }
    let (clock, source) = (ManualClock::new(), ScriptedSource::granting(DAY));
    let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
    let auth = servers
        .iter()
        .fold(AuthMiddleware::builder(cache), |auth, server| auth.target(origin(server)));
    let client = wrap(auth.build().unwrap());
    for _ in 0..12 {
        for server in &servers {
            let response = client.get(server.uri()).send().await.unwrap();
            assert_eq!(response.status().as_u16(), 401);
        }
        clock.advance(Duration::from_secs(299));
    }
    // The first token, and six because of rejections, in just under an hour.
    assert_eq!(source.calls(), 1 + 6);
}

/// Serves an API that accepts the first token at once, and others five minutes after their grant.
async fn late(clock: &ManualClock, granted: &Arc<Mutex<Vec<Duration>>>) -> MockServer {
    let (clock, granted) = (clock.clone(), Arc::clone(granted));
    let server = MockServer::start().await;
    let respond = move |request: &Request| {
        let number: usize = bearer(request).trim_start_matches("token-").parse().unwrap();
        let age = clock.now().monotonic() - granted.lock().unwrap()[number];
        let is_known = number == 0 || age >= Duration::from_secs(300);
        ResponseTemplate::new(if is_known { 200 } else { 401 })
    };
    Mock::given(any()).respond_with(respond).mount(&server).await;
    server
}

#[tokio::test]
async fn a_replacement_that_was_too_new_is_sent_again_and_its_rejection_is_known() {
    let source = ScriptedSource::granting(DAY);
    let cache = cache_of(&source, ManualClock::new());
    let healthy = serve(ResponseTemplate::new(200)).await;
    // These APIs have never accepted a token, so their rejections do not count for others.
    let strict = serve(ResponseTemplate::new(401)).await;
    let late = MockServer::start().await;
    let is_too_new = Arc::new(AtomicBool::new(true));
    let too_new = Arc::clone(&is_too_new);
    let respond = move |request: &Request| match &*bearer(request) {
        "token-2" if !too_new.load(Ordering::Relaxed) => ResponseTemplate::new(200),
        _ => ResponseTemplate::new(401),
    };
    Mock::given(any()).respond_with(respond).mount(&late).await;
    let auth = [&healthy, &late, &strict]
        .into_iter()
        .fold(AuthMiddleware::builder(cache.clone()), |auth, server| auth.target(origin(server)));
    let client = wrap(auth.build().unwrap());
    let get = async |server: &MockServer| client.get(server.uri()).send().await.unwrap().status();
    assert_eq!((get(&healthy).await.as_u16(), get(&late).await.as_u16()), (200, 401));
    // The second token settles.
    assert_eq!(get(&strict).await, 401);
    assert_eq!(text(&cache.current().expect("a token")), "token-1");
    // The API that was sent it gets it again, without a token request, and accepts it. So it
    // becomes the current one, and the cache knows who has rejected it.
    is_too_new.store(false, Ordering::Relaxed);
    assert_eq!((get(&late).await.as_u16(), source.calls()), (200, 2));
    assert_eq!(text(&cache.current().expect("a token")), "token-2");
    let status = cache.status();
    let rejected_by: Vec<_> = status.rejected_by().collect();
    assert_eq!(rejected_by, [format!("{}/", strict.uri())]);
}

#[tokio::test]
async fn an_api_whose_clock_is_behind_rejects_no_refreshed_token() {
    // Alone, and together with APIs that reject everything: one always did, and one accepted a
    // token once.
    for others in [0, 1, 2] {
        let clock = ManualClock::new();
        let granted = Arc::new(Mutex::new(Vec::new()));
        let (granting, now) = (Arc::clone(&granted), clock.clone());
        let source = source_fn(move |_| {
            let mut granted = granting.lock().unwrap();
            granted.push(now.now().monotonic());
            let number = granted.len() - 1;
            async move { Token::bearer(format!("token-{number}"), DAY) }
        });
        let late = late(&clock, &granted).await;
        let strict = serve(ResponseTemplate::new(401)).await;
        let once = MockServer::start().await;
        Mock::given(any())
            .respond_with(ResponseTemplate::new(200))
            .up_to_n_times(1)
            .mount(&once)
            .await;
        Mock::given(any()).respond_with(ResponseTemplate::new(401)).mount(&once).await;
        let cache = TokenCache::builder(source).clock(clock.clone()).build().unwrap();
        let auth = [&late, &strict, &once]
            .into_iter()
            .fold(AuthMiddleware::builder(cache), |auth, server| auth.target(origin(server)));
        let client = wrap(auth.build().unwrap());
        let get =
            async |server: &MockServer| client.get(server.uri()).send().await.unwrap().status();
        for _ in 0..3 * 24 * 12 {
            assert_eq!(get(&late).await, 200, "with {others} others");
            for server in [&strict, &once].into_iter().take(others) {
                get(server).await;
            }
            clock.advance(Duration::from_secs(300));
        }
        let rejected = requests(&late).await.len() - 3 * 24 * 12;
        assert_eq!(rejected, 0, "with {others} others");
        if others == 0 {
            // In three days: at 0, 19.2, 38.4 and 57.6 hours, with a spread.
            assert!((4..=5).contains(&granted.lock().unwrap().len()));
        }
    }
}

#[tokio::test]
async fn a_request_is_not_replayed_with_a_token_that_its_api_has_rejected() {
    let healthy = serve(ResponseTemplate::new(200)).await;
    let strict = serve(ResponseTemplate::new(401)).await;
    let (clock, source) = (ManualClock::new(), ScriptedSource::granting(DAY));
    let cache = TokenCache::builder(source.clone()).clock(clock.clone()).build().unwrap();
    let auth = AuthMiddleware::builder(cache).target(origin(&healthy)).target(origin(&strict));
    let client = wrap(auth.build().unwrap());
    let get = async |server: &MockServer| client.get(server.uri()).send().await.unwrap().status();
    assert_eq!(get(&healthy).await, 200);
    assert_eq!(get(&strict).await, 401);
    let sent = async || requests(&strict).await.iter().map(bearer).collect::<Vec<_>>();
    assert_eq!(sent().await, ["token-1", "token-2"]);
    // The API has rejected the current token and the settling one, and there is no other.
    source.turn_to(Step::Fail(ErrorKind::Malformed));
    clock.advance(Duration::from_secs(61));
    assert_eq!(get(&strict).await, 401);
    assert_eq!(sent().await.len(), 3);
    // Once there is another token, the API gets it.
    source.turn_to(Step::Grant(DAY));
    clock.advance(Duration::from_secs(61));
    assert_eq!(get(&strict).await, 401);
    assert_eq!(sent().await.last().map(String::as_str), Some("token-3"));
}

/// An API that closes the connection after its 401, and the first `refused` connections after that.
/// Returns its URL, the number of connections, and its task.
async fn closing(refused: usize) -> (Url, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let mut server = JoinSet::new();
    server.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let number = count.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 8_192];
            let _ = stream.read(&mut request).await;
            if (1..=refused).contains(&number) {
                continue;
            }
            let status = if number == 0 { "401 Unauthorized" } else { "200 OK" };
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
            stream.write_all(head.as_bytes()).await.unwrap();
            // Closes the connection without having announced it.
        }
    });
    (url, connections, server)
}

#[tokio::test]
async fn the_replay_of_a_safe_request_is_repeated_if_its_connection_was_closed() {
    let query = r#"{"query":"{ a }"}"#;
    let mutation = r#"{"query":"mutation { a }"}"#;
    let path = "/sitecore/api/authoring/graphql/v1/";
    for (method, path, body, refused, connections) in [
        (Method::GET, "/", "", 1, 3),
        (Method::HEAD, "/", "", 1, 3),
        (Method::POST, path, query, 1, 3),
        // Only once.
        (Method::GET, "/", "", 2, 3),
        // It may have been executed.
        (Method::POST, path, mutation, 1, 2),
        (Method::POST, "/", query, 1, 2),
        (Method::DELETE, "/", "", 1, 2),
    ] {
        let (url, seen, _server) = closing(refused).await;
        let client =
            client_with(ScriptedSource::granting(DAY), Target::origin(url.clone()).unwrap());
        let call = client.request(method.clone(), url.join(path).unwrap()).body(body);
        let result = call.send().await;
        let is_repeated = connections > refused + 1;
        assert_eq!(result.is_ok(), is_repeated, "{method} {path} {body}: {result:?}");
        assert_eq!(seen.load(Ordering::SeqCst), connections, "{method} {path} {body}");
    }
}
