//! What is logged, and what the program learns, if a request is sent without a token from the
//! middleware, or with a token of the wrong kind of client, and is rejected.

use std::convert::Infallible;

use axum::body::Body;
use futures_util::{StreamExt as _, stream};
use http::Response;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use serde_json::json;
use sitecore_auth::{
    AuthMiddleware, ClientKind, NoAuth, Rejections, Target, Token, TokenCache, WrongClient,
    source_fn,
};
use tokio::time::timeout;
use wiremock::ResponseTemplate;

use crate::support::{
    DAY, Logs, SECOND, ScriptedSource, TestApi, client_with, frames, jwt, origin, serve, wrap,
};

const AUTHORING: &str = "/sitecore/api/authoring/graphql/v1/";

/// Rejects every request, as Authoring does on its path and as other APIs do elsewhere.
async fn rejecting_api() -> TestApi {
    TestApi::start(|_, request| {
        if !request.uri().path().ends_with(AUTHORING) {
            return Response::builder().status(401).body(Body::empty()).unwrap();
        }
        let body = json!({"errors": [{"extensions": {"code": "AUTH_NOT_AUTHENTICATED"}}]});
        let response = Response::builder().header("content-type", "application/json");
        response.body(body.to_string().into()).unwrap()
    })
    .await
}

fn client_for(target: Target) -> ClientWithMiddleware {
    client_with(ScriptedSource::granting(DAY), target)
}

fn elsewhere() -> Target {
    Target::authoring("cm.example").unwrap()
}

fn warnings(logs: &Logs) -> Vec<String> {
    let text = logs.text();
    text.lines().filter(|line| line.contains(" WARN ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_rejected_request_that_matches_no_target_is_warned_about_once_per_host() {
    let api = rejecting_api().await;
    let client = client_for(elsewhere());
    let logs = Logs::capture();
    for path in [AUTHORING, AUTHORING, "/gateway/sitecore/api/authoring/graphql/v1/"] {
        let url = api.origin().join(path).unwrap();
        let response = client.post(url).body("{}").send().await.unwrap();
        // The body is passed on.
        assert!(response.text().await.unwrap().contains("AUTH_NOT_AUTHENTICATED"));
    }
    let warnings = warnings(&logs);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for expected in [
        "request matched no target and was rejected",
        api.origin().as_str().trim_end_matches('/'),
        "/sitecore/api/authoring/graphql/v1",
        "https://cm.example/sitecore/api/",
    ] {
        assert!(warnings[0].contains(expected), "{expected}: {warnings:?}");
    }
}

#[tokio::test]
async fn the_case_of_the_endpoint_does_not_matter_for_the_warning() {
    let api = TestApi::start(|_, _| {
        let body = json!({"errors": [{"extensions": {"code": "AUTH_NOT_AUTHENTICATED"}}]});
        let response = Response::builder().header("content-type", "application/json");
        response.body(body.to_string().into()).unwrap()
    })
    .await;
    let url = api.origin().join("/Sitecore/API/authoring/GraphQL/v1").unwrap();
    let target = Target::authoring(api.authoring().as_str()).unwrap();
    let logs = Logs::capture();
    client_for(target).post(url).body("{}").send().await.unwrap();
    let warnings = warnings(&logs);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("its path is outside the targets"), "{warnings:?}");
}

#[tokio::test]
async fn a_path_outside_the_targets_is_warned_about_but_not_logged() {
    let api = rejecting_api().await;
    let folder = Target::folder(api.origin().join("/api/").unwrap()).unwrap();
    let logs = Logs::capture();
    client_for(folder).get(api.origin().join("/s3cret").unwrap()).send().await.unwrap();
    assert_eq!(warnings(&logs).len(), 1, "{}", logs.text());
    let ours: Vec<_> = logs
        .text()
        .lines()
        .filter(|line| line.contains("sitecore_auth"))
        .map(str::to_owned)
        .collect();
    assert!(!ours.concat().contains("s3cret"), "{ours:?}");
}

#[tokio::test]
async fn a_leftover_credential_that_is_rejected_is_warned_about() {
    let api = rejecting_api().await;
    for path in ["/api/projects/v1", AUTHORING] {
        let client = client_for(Target::origin(api.origin().clone()).unwrap());
        let logs = Logs::capture();
        let url = api.origin().join(path).unwrap();
        client.post(url).bearer_auth("leftover").send().await.unwrap();
        let warnings = warnings(&logs);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("credential of its own"), "{warnings:?}");
        assert!(!logs.text().contains("leftover"));
    }
}

#[tokio::test]
async fn only_the_bodies_of_the_endpoint_are_read() {
    // The response's body never ends.
    let api = TestApi::start(|_, _| {
        let response = Response::builder().header("content-type", "application/json");
        response.body(frames(stream::pending())).unwrap()
    })
    .await;
    let soon = |call: reqwest_middleware::RequestBuilder| async {
        let response = timeout(5 * SECOND, call.send());
        response.await.expect("the head").unwrap();
    };
    let here = || Target::origin(api.origin().clone()).unwrap();
    let url = api.origin().join("/sitecore/api/graph/edge").unwrap();
    soon(client_for(here()).post(url).bearer_auth("own")).await;
    let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)))
        .target(here())
        .rejections(Rejections::default().graphql(false));
    soon(wrap(auth.build().unwrap()).post(api.authoring()).bearer_auth("own")).await;
}

#[tokio::test]
async fn a_warning_about_an_own_credential_says_whether_a_target_covers_the_url() {
    let api = rejecting_api().await;
    for (folder, expected) in [("/", "remove that credential"), ("/api/", "no target covers")] {
        let target = Target::folder(api.origin().join(folder).unwrap()).unwrap();
        let logs = Logs::capture();
        let call = client_for(target).get(format!("{}v1/x?sitecoreContextId=id", api.origin()));
        call.send().await.unwrap();
        assert!(warnings(&logs)[0].contains(expected), "{}", logs.text());
        assert!(!warnings(&logs)[0].contains("Id=id"));
    }
}

#[tokio::test]
async fn other_responses_are_not_warned_about() {
    let api = rejecting_api().await;
    let accepting = serve(ResponseTemplate::new(200)).await;
    let logs = Logs::capture();
    // A host that has nothing to do with Sitecore.
    client_for(elsewhere()).get(api.origin().clone()).send().await.unwrap();
    // The caller opted out.
    let call = client_for(elsewhere()).post(api.authoring()).with_extension(NoAuth);
    call.send().await.unwrap();
    // Not a rejection.
    let client = client_for(origin(&accepting));
    client.get(accepting.uri()).bearer_auth("own").send().await.unwrap();
    // Authenticated, and rejected anyway. That has a warning of its own.
    client_for(Target::origin(api.origin().clone()).unwrap())
        .get(api.origin().clone())
        .send()
        .await
        .unwrap();
    let mut warnings = warnings(&logs);
    warnings.retain(|warning| !warning.contains("API rejected a token and its replacement"));
    assert_eq!(warnings, Vec::<String>::new());
}

#[tokio::test]
async fn an_api_that_rejects_every_token_is_warned_about_once() {
    let api = rejecting_api().await;
    let client = client_for(Target::origin(api.origin().clone()).unwrap());
    let logs = Logs::capture();
    for _ in 0..3 {
        client.get(api.origin().clone()).send().await.unwrap();
    }
    let warnings = warnings(&logs);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("Edge key"), "{warnings:?}");
}

#[tokio::test]
async fn several_middlewares_warn_about_a_request_only_if_none_authenticated_it() {
    let api = rejecting_api().await;
    let auth = |target| {
        AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)))
            .target(target)
            .build()
            .unwrap()
    };
    let here = || Target::origin(api.origin().clone()).unwrap();
    for [outer, inner] in [[here(), elsewhere()], [elsewhere(), here()]] {
        let client = ClientBuilder::new(reqwest::Client::new()).with(auth(outer)).with(auth(inner));
        let logs = Logs::capture();
        client.build().post(api.authoring()).send().await.unwrap();
        assert!(!warnings(&logs).concat().contains("matched no target"), "{}", logs.text());
    }
    let client =
        ClientBuilder::new(reqwest::Client::new()).with(auth(elsewhere())).with(auth(elsewhere()));
    let logs = Logs::capture();
    client.build().post(api.authoring()).send().await.unwrap();
    let warnings = warnings(&logs);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    // It names the targets of both.
    assert_eq!(warnings[0].matches("cm.example").count(), 2, "{warnings:?}");
}

#[tokio::test]
async fn after_the_warning_responses_of_that_host_are_not_read_any_more() {
    let rejection = json!({"errors": [{"extensions": {"code": "AUTH_NOT_AUTHENTICATED"}}]});
    let api = TestApi::start(move |_, request| {
        let rest = match request.uri().query() {
            Some("endless") => stream::pending().boxed(),
            _ => stream::empty().boxed(),
        };
        let start = stream::iter([Ok::<_, Infallible>(rejection.to_string())]);
        let response = Response::builder().header("content-type", "application/json");
        response.body(Body::from_stream(start.chain(rest))).unwrap()
    })
    .await;
    let client = client_for(elsewhere());
    let logs = Logs::capture();
    for query in ["", "endless"] {
        let mut url = api.authoring();
        url.set_query(Some(query));
        let call = client.post(url).send();
        timeout(20 * SECOND, call).await.expect("it is passed on at once").unwrap();
    }
    assert_eq!(warnings(&logs).len(), 1);
}

#[tokio::test]
async fn no_more_than_64_hosts_are_warned_about() {
    let api = rejecting_api().await;
    // All hosts lead to the same server.
    let proxy = reqwest::Proxy::http(api.origin().clone()).unwrap();
    let http = reqwest::Client::builder().proxy(proxy).build().unwrap();
    let auth = AuthMiddleware::builder(TokenCache::new(ScriptedSource::granting(DAY)));
    let auth = auth.target(elsewhere()).build().unwrap();
    let client = ClientBuilder::new(http).with(auth).build();
    let logs = Logs::capture();
    for host in 1..=70 {
        client.post(format!("http://host-{host}.example{AUTHORING}")).send().await.unwrap();
    }
    assert_eq!(warnings(&logs).len(), 64);
}

#[tokio::test]
async fn a_403_for_a_wrong_kind_of_client_is_explained_once_per_token() {
    let api =
        TestApi::start(|_, _| Response::builder().status(403).body(Body::empty()).unwrap()).await;
    let environment = jwt(&json!({
        "https://auth.sitecorecloud.io/claims/org_name": "Acme",
        "scope": "xmcpub.jobs.t:r",
        "https://auth.sitecorecloud.io/claims/tenant_name": "acme-prod",
    }));
    let source = source_fn(move |_| {
        let token = environment.clone();
        async move { Token::bearer(token, DAY) }
    });
    let target = Target::deploy().with_origin(api.origin().clone()).unwrap();
    let client = client_with(source, target);
    let logs = Logs::capture();
    // Another tenant's token in between does not repeat the warning.
    let other = TokenCache::new(ScriptedSource::granting(DAY));
    let url = api.origin().join("/api/projects/v1").unwrap();
    for _ in 0..3 {
        let call = client.get(url.clone()).with_extension(other.clone());
        assert!(call.send().await.unwrap().extensions().get::<WrongClient>().is_none());
        let url = url.clone();
        let response = client.get(url).send().await.unwrap();
        let wrong = response.extensions().get::<WrongClient>().expect("an explanation");
        assert_eq!(wrong.required(), ClientKind::Organization);
        assert_eq!(wrong.used(), ClientKind::Environment);
    }
    let warnings = warnings(&logs);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("API returned 403"), "{warnings:?}");
}
