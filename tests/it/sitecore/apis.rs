//! The middleware with every API that accepts an automation client's token. The token is valid,
//! expired, rejected or from the wrong kind of client.

use std::time::Duration;

use http::StatusCode;
use reqwest::Method;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::{Value, json};
use sitecore_auth::ClientKind;
use sitecore_sandbox::{Api, Client, Sandbox};
use url::Url;

use crate::support::{ENVIRONMENT, Logs, cache_for, client_for, delivery_client, graphql};

/// Calls to every API that accepts a JWT, with the status of a successful response.
fn calls(sandbox: &Sandbox) -> [(Api, Method, Url, Option<Value>, u16); 5] {
    let deploy = |path| sandbox.url(Api::Deploy, path);
    let edge = |path| sandbox.url(Api::Edge, path);
    let sites = json!({ "query": "{ sites { name } }" });
    [
        (Api::Authoring, Method::POST, sandbox.authoring_url(), Some(sites), 200),
        (
            Api::Deploy,
            Method::GET,
            deploy("/api/environments/v2?pageNumber=1&pageSize=1"),
            None,
            200,
        ),
        (Api::Deploy, Method::GET, deploy("/api/clients/v1/organization"), None, 200),
        (Api::Edge, Method::GET, edge("/api/admin/v1/settings"), None, 200),
        (Api::Edge, Method::GET, edge("/api/apikey/v1?filterRevoked=true"), None, 200),
    ]
}

/// The client of the kind that the API requires.
fn right_client(sandbox: &Sandbox, api: Api) -> &Client {
    match api {
        Api::Authoring => sandbox.environment(),
        Api::Deploy => sandbox.organization(),
        _ => sandbox.edge_administration(),
    }
}

async fn send(
    client: &ClientWithMiddleware,
    method: &Method,
    url: &Url,
    body: Option<&Value>,
) -> (u16, String) {
    let mut call = client.request(method.clone(), url.clone());
    if let Some(body) = body {
        call = call.json(body);
    }
    let response = call.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn every_api_accepts_a_token_of_the_right_kind_of_client() {
    let sandbox = Sandbox::start().await.unwrap();
    for (api, method, url, body, status) in calls(&sandbox) {
        let client = client_for(&sandbox, right_client(&sandbox, api));
        let (actual, text) = send(&client, &method, &url, body.as_ref()).await;
        assert_eq!(actual, status, "{url}: {text}");
        assert!(!text.contains("errors"), "{url}: {text}");
    }
    // Every Authoring API accepts the token of an organization client too.
    let client = client_for(&sandbox, sandbox.organization());
    let response = graphql(&client, sandbox.authoring_url(), "{ sites { name } }").await;
    assert_eq!(response["data"]["sites"][0]["name"], "acme");
    let rejections =
        [Api::Token, Api::Authoring, Api::Deploy, Api::Edge].map(|api| sandbox.rejections(api));
    assert_eq!(rejections, [0; 4]);
}

#[tokio::test]
async fn no_api_receives_an_expired_token() {
    let lifetime = Duration::from_secs(1);
    let sandbox = Sandbox::builder().token_lifetime(lifetime).start().await.unwrap();
    let calls = calls(&sandbox);
    let clients =
        calls.each_ref().map(|(api, ..)| client_for(&sandbox, right_client(&sandbox, *api)));
    let started = tokio::time::Instant::now();
    while started.elapsed() < 3 * lifetime {
        for ((_, method, url, body, status), client) in calls.iter().zip(&clients) {
            let (actual, text) = send(client, method, url, body.as_ref()).await;
            assert!(actual == *status && !text.contains("errors"), "{url}: {text}");
        }
    }
    let rejections = [Api::Authoring, Api::Deploy, Api::Edge].map(|api| sandbox.rejections(api));
    assert_eq!(rejections, [0; 3]);
    assert!(sandbox.tokens_granted() > 10, "only {} tokens were granted", sandbox.tokens_granted());
}

#[tokio::test]
async fn every_api_accepts_a_new_token_after_the_old_one_is_revoked() {
    let sandbox = Sandbox::start().await.unwrap();
    for (api, method, url, body, status) in calls(&sandbox) {
        let client = client_for(&sandbox, right_client(&sandbox, api));
        let before = (sandbox.tokens_granted(), sandbox.rejections(api));
        for revoked in [false, true] {
            if revoked {
                sandbox.revoke_tokens();
            }
            let (actual, text) = send(&client, &method, &url, body.as_ref()).await;
            assert!(actual == status && !text.contains("errors"), "{url}: {text}");
        }
        let now = (sandbox.tokens_granted(), sandbox.rejections(api));
        assert_eq!((now.0 - before.0, now.1 - before.1), (2, 1), "{url}");
    }
}

#[tokio::test]
async fn the_wrong_kind_of_client_is_reported_without_another_token_request() {
    let logs = Logs::capture();
    let sandbox = Sandbox::start().await.unwrap();
    let wrong = |api| match api {
        Api::Deploy => sandbox.environment(),
        _ => sandbox.organization(),
    };
    for (api, method, url, body, _) in
        calls(&sandbox).into_iter().filter(|call| call.0 != Api::Authoring)
    {
        let client = client_for(&sandbox, wrong(api));
        let granted = sandbox.tokens_granted();
        let (actual, _) = send(&client, &method, &url, body.as_ref()).await;
        // Another token of the same client would not help.
        assert_eq!((actual, sandbox.tokens_granted() - granted), (403, 1), "{url}");
    }
    let logged = logs.text();
    // Only the token of an environment's client names an environment.
    for event in [
        "granted_to=an environment automation client organization=\"acme\" \
         environment=\"acme-site-prod\" usually_required=an organization automation client",
        "granted_to=an organization automation client organization=\"acme\" \
         usually_required=an Edge administration client",
    ] {
        assert!(logged.contains(event), "{event}: {logged}");
    }
    // Authoring reports it with status 200.
    let client = client_for(&sandbox, sandbox.edge_administration());
    let response = graphql(&client, sandbox.authoring_url(), "{ sites { name } }").await;
    assert_eq!(response["errors"][0]["extensions"]["code"], "AUTH_NOT_AUTHORIZED");
    for (client, kind) in [
        (sandbox.environment(), ClientKind::Environment),
        (sandbox.organization(), ClientKind::Organization),
        (sandbox.edge_administration(), ClientKind::EdgeAdministration),
    ] {
        let token = cache_for(&sandbox, client).token().await.unwrap();
        let claims = token.claims().expect("a JWT");
        assert_eq!((claims.client_kind(), claims.client_id()), (Some(kind), Some(client.id())));
    }
}

#[tokio::test]
async fn a_deployment_is_created_started_and_polled() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = client_for(&sandbox, sandbox.organization());
    let url = |path: &str| sandbox.url(Api::Deploy, path);
    let path = format!("/api/environments/v1/{ENVIRONMENT}/deployments");
    let created = client.post(url(&path)).send().await.unwrap();
    assert_eq!(created.status(), StatusCode::CREATED);
    let created: Value = created.json().await.unwrap();
    let path = format!("/api/deployments/v1/{}", created["id"].as_str().unwrap());
    let started = client.post(url(&format!("{path}/deploy"))).send().await.unwrap();
    assert_eq!(started.status(), StatusCode::ACCEPTED);
    let again = client.post(url(&format!("{path}/deploy"))).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::CONFLICT);
    let mut seen = Vec::new();
    while seen.last() != Some(&2) {
        let now: Value = client.get(url(&path)).send().await.unwrap().json().await.unwrap();
        seen.push(now["calculatedStatus"].as_u64().unwrap());
    }
    assert_eq!(seen, [1, 2]);

    // A client that has just been created can get a token.
    let new = json!({ "name": "nightly" });
    let created = client.post(url("/api/clients/v1/deploy")).json(&new).send().await.unwrap();
    let created: Value = created.json().await.unwrap();
    let text = |member: &str| created[member].as_str().unwrap();
    let created = Client::new(
        sitecore_sandbox::ClientKind::Organization,
        text("clientId"),
        text("clientSecret"),
    );
    let response =
        client_for(&sandbox, &created).get(url("/api/projects/v1")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn published_items_can_be_read_from_experience_edge() {
    let sandbox = Sandbox::start().await.unwrap();
    let authoring = client_for(&sandbox, sandbox.environment());
    let url = || sandbox.authoring_url();
    let home = r#"{ item(where: { path: "/sitecore/content/acme/Home" }) { itemId } }"#;
    let home = graphql(&authoring, url(), home).await;
    let create = format!(
        r#"mutation {{ createItem(input: {{ name: "News", parent: {}, templateId: "a87a00b1-e6db-45ab-8b54-9fc06c7b9d2e" }}) {{ item {{ path }} }} }}"#,
        home["data"]["item"]["itemId"]
    );
    graphql(&authoring, url(), &create).await;
    let found = graphql(&authoring, url(), r#"{ search(query: { searchStatement: { criteria: [{ field: "_name", value: "news" }] } }) { totalCount results { path } } }"#).await;
    assert_eq!(found["data"]["search"]["results"][0]["path"], "/sitecore/content/acme/Home/News");
    let delivery = delivery_client(&sandbox);
    let published = async || {
        let query =
            r#"{ item(path: "/sitecore/content/acme/Home/News", language: "en") { name } }"#;
        graphql(&delivery, sandbox.delivery_url(), query).await["data"]["item"]["name"].clone()
    };
    assert_eq!(published().await, Value::Null);
    let publish = r#"mutation { publishItem(input: { rootItemPath: "/sitecore/content/acme/Home", publishSubItems: true }) { operationId } }"#;
    let started = graphql(&authoring, url(), publish).await;
    let status = format!(
        "{{ publishingStatus(publishingOperationId: {}) {{ isDone isFailed }} jobs {{ nodes {{ name done }} }} }}",
        started["data"]["publishItem"]["operationId"]
    );
    let mut status_requests = 1;
    while graphql(&authoring, url(), &status).await["data"]["publishingStatus"]["isDone"] != true {
        status_requests += 1;
    }
    assert_eq!((status_requests, published().await), (2, json!("News")));
}
