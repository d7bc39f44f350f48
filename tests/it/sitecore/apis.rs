//! Every API that an automation client serves, through the layer: with a good token, one that expires, one
//! that is refused, and one of the wrong kind of client.

use std::time::Duration;

use http::StatusCode;
use reqwest::Method;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::{Value, json};
use sitecore_auth::ClientKind;
use sitecore_sandbox::{Api, Client, Sandbox};
use url::Url;

use crate::support::{ENVIRONMENT, Logs, cache_for, client_for, delivery_client, graphql};

/// A call of each API that takes a JWT, and what tells that it succeeded.
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
        (Api::Deploy, Method::GET, deploy("/api/clients/v1"), None, 200),
        (Api::Edge, Method::GET, edge("/api/admin/v1/settings"), None, 200),
        (Api::Edge, Method::GET, edge("/api/apikey/v1?filterRevoked=true"), None, 200),
    ]
}

/// The client whose kind the API wants.
fn right_one(sandbox: &Sandbox, api: Api) -> &Client {
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
    let answer = call.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn every_api_takes_the_token_of_its_kind_of_client() {
    let sandbox = Sandbox::start().await.unwrap();
    for (api, method, url, body, status) in calls(&sandbox) {
        let client = client_for(&sandbox, right_one(&sandbox, api));
        let (answered, text) = send(&client, &method, &url, body.as_ref()).await;
        assert_eq!(answered, status, "{url}: {text}");
        assert!(!text.contains("errors"), "{url}: {text}");
    }
    // An organization's client opens every Authoring API too.
    let client = client_for(&sandbox, sandbox.organization());
    let answer = graphql(&client, sandbox.authoring_url(), "{ sites { name } }").await;
    assert_eq!(answer["data"]["sites"][0]["name"], "acme");
    let refusals =
        [Api::Token, Api::Authoring, Api::Deploy, Api::Edge].map(|api| sandbox.rejections(api));
    assert_eq!(refusals, [0; 4]);
}

#[tokio::test]
async fn no_api_sees_a_token_that_has_expired() {
    let life = Duration::from_secs(1);
    let sandbox = Sandbox::builder().token_lifetime(life).start().await.unwrap();
    let calls = calls(&sandbox);
    let clients = calls.each_ref().map(|(api, ..)| client_for(&sandbox, right_one(&sandbox, *api)));
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < 3 * life {
        for ((_, method, url, body, status), client) in calls.iter().zip(&clients) {
            let (answered, text) = send(client, method, url, body.as_ref()).await;
            assert!(answered == *status && !text.contains("errors"), "{url}: {text}");
        }
    }
    let refusals = [Api::Authoring, Api::Deploy, Api::Edge].map(|api| sandbox.rejections(api));
    assert_eq!(refusals, [0; 3]);
    assert!(sandbox.tokens_granted() > 10, "{} grants are no expiry", sandbox.tokens_granted());
}

#[tokio::test]
async fn every_api_takes_a_new_token_when_the_old_one_is_revoked() {
    let sandbox = Sandbox::start().await.unwrap();
    for (api, method, url, body, status) in calls(&sandbox) {
        let client = client_for(&sandbox, right_one(&sandbox, api));
        let before = (sandbox.tokens_granted(), sandbox.rejections(api));
        for revoked in [false, true] {
            if revoked {
                sandbox.revoke_tokens();
            }
            let (answered, text) = send(&client, &method, &url, body.as_ref()).await;
            assert!(answered == status && !text.contains("errors"), "{url}: {text}");
        }
        let now = (sandbox.tokens_granted(), sandbox.rejections(api));
        assert_eq!((now.0 - before.0, now.1 - before.1), (2, 1), "{url}");
    }
}

#[tokio::test]
async fn the_wrong_kind_of_client_is_told_apart() {
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
        let grants = sandbox.tokens_granted();
        let (answered, _) = send(&client, &method, &url, body.as_ref()).await;
        // Another token of the same client would do no better.
        assert_eq!((answered, sandbox.tokens_granted() - grants), (403, 1), "{url}");
    }
    let logged = logs.text();
    for (granted_to, wanted) in [
        ("an environment automation client", "an organization automation client"),
        ("an organization automation client", "an Edge administration client"),
    ] {
        let event = format!(
            "granted_to={granted_to} organization=\"acme\" environment=\"acme-site-prod\" required={wanted}"
        );
        assert!(logged.contains(&event), "{event}: {logged}");
    }
    // Authoring says it with status 200.
    let client = client_for(&sandbox, sandbox.edge_administration());
    let answer = graphql(&client, sandbox.authoring_url(), "{ sites { name } }").await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "AUTH_NOT_AUTHORIZED");
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
async fn a_deployment_is_made_started_and_watched() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = client_for(&sandbox, sandbox.organization());
    let url = |path: &str| sandbox.url(Api::Deploy, path);
    let wanted = json!({ "environmentId": ENVIRONMENT });
    let made = client.post(url("/api/deployments/v1")).json(&wanted).send().await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: Value = made.json().await.unwrap();
    let path = format!("/api/deployments/v1/{}", made["id"].as_str().unwrap());
    let started = client.post(url(&format!("{path}/deploy"))).send().await.unwrap();
    assert_eq!(started.status(), StatusCode::ACCEPTED);
    let again = client.post(url(&format!("{path}/deploy"))).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::CONFLICT);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|status| status != "Complete") {
        let now: Value = client.get(url(&path)).send().await.unwrap().json().await.unwrap();
        seen.push(now["status"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, ["InProgress", "Complete"]);

    // A client that was just made can log in.
    let wanted = json!({ "name": "nightly" });
    let made = client.post(url("/api/clients/v1/organization")).json(&wanted).send().await.unwrap();
    let made: Value = made.json().await.unwrap();
    let text = |member: &str| made[member].as_str().unwrap();
    let fresh = Client::new(
        sitecore_sandbox::ClientKind::Organization,
        text("clientId"),
        text("clientSecret"),
    );
    let answer = client_for(&sandbox, &fresh).get(url("/api/projects/v1")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_published_can_be_read_from_the_edge() {
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
    let mut looks = 1;
    while graphql(&authoring, url(), &status).await["data"]["publishingStatus"]["isDone"] != true {
        looks += 1;
    }
    assert_eq!((looks, published().await), (2, json!("News")));
}
