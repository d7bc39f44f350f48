//! Tests of the sandbox itself, because other tests rely on it.

use std::time::Duration;

use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sitecore_auth::{AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient};
use sitecore_sandbox::{Api, Client, ClientKind, Fault, Sandbox};
use sitecore_token::ErrorKind;
use url::Url;

use crate::support::client_for;

const SITES: &str = "{ sites { name } }";

fn tokens(sandbox: &Sandbox, client: &Client) -> TokenClient {
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience()).unwrap();
    let credentials = ClientCredentials::new(client.id(), client.secret());
    TokenClient::builder(credentials)
        .endpoint(endpoint)
        .timeout(Duration::from_millis(500))
        .build()
        .unwrap()
}

async fn token(sandbox: &Sandbox, client: &Client) -> String {
    tokens(sandbox, client).fetch().await.unwrap().access_token().expose_secret().to_owned()
}

async fn graphql(sandbox: &Sandbox, token: &str, query: &str, variables: Value) -> Value {
    let call = reqwest::Client::new().post(sandbox.authoring_url()).bearer_auth(token);
    let response =
        call.json(&json!({ "query": query, "variables": variables })).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

async fn deploy(sandbox: &Sandbox, token: &str, path: &str) -> (StatusCode, Value) {
    let response = reqwest::Client::new()
        .get(sandbox.url(Api::Deploy, path))
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    (response.status(), response.json().await.unwrap_or_default())
}

fn code(response: &Value) -> &str {
    response["errors"][0]["extensions"]["code"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_granted_token_has_sitecores_claims_and_lifetime() {
    let sandbox =
        Sandbox::builder().token_lifetime(Duration::from_millis(90_500)).start().await.unwrap();
    let response = tokens(&sandbox, sandbox.organization()).fetch().await.unwrap();
    assert_eq!(response.expires_in(), Some(Duration::from_secs(90)));
    assert!(response.scopes().any(|scope| scope == "xmclouddeploy.projects:manage"));
    let claims = response.claims().expect("a JWT");
    assert_eq!(claims.issuer(), Some(sandbox.authority().as_str()));
    assert_eq!(claims.audiences().collect::<Vec<_>>(), [sandbox.audience()]);
    assert_eq!(claims.client_id(), Some(sandbox.organization().id()));
    assert_eq!(claims.sitecore("org_name"), Some("acme"));
    assert!(claims.lifetime().unwrap() >= Duration::from_millis(90_500), "exp is rounded up");
    assert_eq!(sandbox.tokens_granted(), 1);
}

#[tokio::test]
async fn the_issuer_refuses_clients_as_auth0_does() {
    let sandbox = Sandbox::start().await.unwrap();
    let request = async |changes: &[(&str, &str)]| {
        let client = sandbox.environment();
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", client.id()),
            ("client_secret", client.secret()),
            ("audience", sandbox.audience()),
        ];
        for change in changes {
            form.retain(|(name, _)| *name != change.0);
            form.push(*change);
        }
        form.retain(|(_, value)| !value.is_empty());
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let call = reqwest::Client::new()
            .post(sandbox.token_url())
            .header("content-type", "application/x-www-form-urlencoded");
        let response = call.body(body).send().await.unwrap();
        let (status, body): (_, Value) =
            (response.status().as_u16(), response.json().await.unwrap());
        (status, body["error"].as_str().unwrap_or("granted").to_owned())
    };
    for (changes, status, error) in [
        (&[][..], 200, "granted"),
        (&[("client_secret", "wrong")], 401, "access_denied"),
        (&[("client_id", "unknown")], 401, "access_denied"),
        (&[("client_id", "")], 401, "invalid_client"),
        (&[("grant_type", "")], 400, "invalid_request"),
        (&[("grant_type", "password")], 403, "unauthorized_client"),
        (&[("audience", "https://other")], 403, "access_denied"),
        (&[("scope", "xmclouddeploy.projects:manage")], 403, "access_denied"),
        (&[("scope", "xmcloud.cm:admin")], 200, "granted"),
    ] {
        assert_eq!(request(changes).await, (status, error.to_owned()), "{changes:?}");
    }
    assert_eq!(
        (sandbox.tokens_granted(), sandbox.rejections(Api::Token), sandbox.calls(Api::Token)),
        (2, 7, 9)
    );
}

#[tokio::test]
async fn discovery_and_signing_keys_are_published() {
    let sandbox = Sandbox::start().await.unwrap();
    let get = async |url: Url| reqwest::get(url).await.unwrap().json::<Value>().await.unwrap();
    let discovery = get(sandbox.url(Api::Token, "/.well-known/openid-configuration")).await;
    assert_eq!(discovery["issuer"], sandbox.authority().as_str());
    assert_eq!(discovery["token_endpoint"], sandbox.token_url().as_str());
    let jwks: Url = discovery["jwks_uri"].as_str().unwrap().parse().unwrap();
    assert_eq!(get(jwks.clone()).await["keys"].as_array().unwrap().len(), 1);
    sandbox.rotate_keys().unwrap();
    assert_eq!(get(jwks.clone()).await["keys"].as_array().unwrap().len(), 2);
    sandbox.rotate_keys().unwrap();
    assert_eq!(get(jwks).await["keys"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_authoring_api_stores_items() {
    let sandbox = Sandbox::start().await.unwrap();
    let token = token(&sandbox, sandbox.environment()).await;
    let run = async |query: &str, variables: Value| {
        let mut response = graphql(&sandbox, &token, query, variables).await;
        assert!(response.get("errors").is_none(), "{response}");
        response["data"].take()
    };
    assert_eq!(run(SITES, json!({})).await["sites"][0]["name"], "acme");
    let by_path = "query($p: String!) { item(where: { database: \"master\", path: $p }) { itemId path parent { path } children { nodes { name } } field(name: \"Title\") { value } } }";
    let home = run(by_path, json!({ "p": "/sitecore/content/acme/home/" })).await["item"].take();
    assert_eq!(home["parent"]["path"], "/sitecore/content/acme");
    let create =
        "mutation($i: CreateItemInput!) { createItem(input: $i) { item { itemId path } } }";
    let input = json!({ "i": { "name": "News", "parent": home["itemId"], "templateId": "{A87A00B1-E6DB-45AB-8B54-9FC06C7B9D2E}", "fields": [{ "name": "Title", "value": "First" }] } });
    let id = run(create, input.clone()).await["createItem"]["item"]["itemId"].take();
    assert!(
        graphql(&sandbox, &token, create, input).await["errors"][0]["message"]
            .as_str()
            .unwrap()
            .contains("already defined")
    );
    let news = json!({ "p": "/sitecore/content/acme/Home/News" });
    assert_eq!(run(by_path, news.clone()).await["item"]["field"]["value"], "First");
    let update = "mutation($i: UpdateItemInput!) { updateItem(input: $i) { item { name } } }";
    run(
        update,
        json!({ "i": { "itemId": id, "fields": [{ "name": "Title", "value": "Second" }] } }),
    )
    .await;
    assert_eq!(run(by_path, news.clone()).await["item"]["field"]["value"], "Second");
    let names = run(by_path, json!({ "p": "/sitecore/content/acme/Home" })).await["item"]["children"]["nodes"].take();
    assert_eq!(names, json!([{ "name": "About" }, { "name": "News" }, { "name": "Products" }]));
    let delete = "mutation($i: DeleteItemInput!) { deleteItem(input: $i) { successful } }";
    assert_eq!(
        run(delete, json!({ "i": { "path": "/sitecore/content/acme/Home/News" } })).await["deleteItem"]
            ["successful"],
        true
    );
    assert_eq!(run(by_path, news).await["item"], Value::Null);
    assert_eq!(sandbox.rejections(Api::Authoring), 0);
}

#[tokio::test]
async fn the_authoring_api_rejects_tokens_with_status_200() {
    let sandbox = Sandbox::start().await.unwrap();
    let good = token(&sandbox, sandbox.environment()).await;
    let foreign = token(&Sandbox::start().await.unwrap(), sandbox.environment()).await;
    let (body, signature) = good.rsplit_once('.').unwrap();
    let forged = format!("{body}.{}", signature.chars().rev().collect::<String>());
    for bad in ["", "nonsense", &foreign, &forged] {
        let response = graphql(
            &sandbox,
            bad,
            "query { here: sites { name } item(where: { path: \"/sitecore\" }) { name } }",
            json!({}),
        )
        .await;
        assert_eq!(code(&response), "AUTH_NOT_AUTHENTICATED", "{response}");
        // One error and one null for each field.
        let path = |error: usize| response["errors"][error]["path"].clone();
        assert_eq!((path(0), path(1)), (json!(["here"]), json!(["item"])));
        assert_eq!(response["data"], json!({ "here": null, "item": null }));
    }
    let unauthorized = token(&sandbox, sandbox.edge_administration()).await;
    assert_eq!(
        code(&graphql(&sandbox, &unauthorized, SITES, json!({})).await),
        "AUTH_NOT_AUTHORIZED"
    );
    let delete = "mutation($i: DeleteItemInput!) { deleteItem(input: $i) { successful } }";
    graphql(&sandbox, "nonsense", delete, json!({ "i": { "path": "/sitecore/content" } })).await;
    let still = graphql(
        &sandbox,
        &good,
        "{ item(where: { path: \"/sitecore/content\" }) { name } }",
        json!({}),
    )
    .await;
    assert_eq!(still["data"]["item"]["name"], "content", "a rejected mutation was executed");
    assert_eq!(sandbox.rejections(Api::Authoring), 6);
}

#[tokio::test]
async fn the_authoring_api_rejects_tokens_like_newer_servers_if_set_to() {
    let sandbox = Sandbox::builder().authoring_rejection_status(500).start().await.unwrap();
    let call = reqwest::Client::new().post(sandbox.authoring_url());
    let response = call.json(&json!([{ "query": SITES }, { "query": SITES }])).send().await;
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let batch: Value = response.json().await.unwrap();
    assert_eq!(batch.as_array().map(Vec::len), Some(2));
    assert_eq!((code(&batch[1]), batch[1].get("data")), ("AUTH_NOT_AUTHENTICATED", None));
    // The middleware notices it.
    let client = client_for(&sandbox, sandbox.environment());
    let sites = json!({ "query": SITES });
    for _ in 0..2 {
        let response = client.post(sandbox.authoring_url()).json(&sites).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        sandbox.revoke_tokens();
    }
    assert_eq!(sandbox.rejections(Api::Authoring), 2);
}

#[tokio::test]
async fn the_authoring_api_limits_the_depth_of_a_query_and_executes_batches() {
    let sandbox = Sandbox::start().await.unwrap();
    let good = token(&sandbox, sandbox.environment()).await;
    let nested = |depth: usize| {
        let of_type = "ofType { ".repeat(depth);
        let end = "} ".repeat(depth);
        format!("{{ __schema {{ types {{ fields {{ type {{ {of_type} name {end} }} }} }} }} }}")
    };
    let usual = graphql(&sandbox, &good, &nested(9), json!({})).await;
    assert!(usual["errors"].is_array(), "{usual}");
    let shallow = graphql(&sandbox, &good, &nested(7), json!({})).await;
    assert!(shallow["errors"].is_null(), "{shallow}");
    let call = reqwest::Client::new().post(sandbox.authoring_url()).bearer_auth(&good);
    let call = call.json(&json!([{ "query": SITES }, { "query": "{ currentUser { name } }" }]));
    let batch: Value = call.send().await.unwrap().json().await.unwrap();
    assert_eq!(batch[0]["data"]["sites"][0]["name"], "acme");
    assert_eq!(batch[1]["data"]["currentUser"]["name"], "sitecore\\sandbox");
}

#[tokio::test]
async fn the_authoring_api_has_the_fields_that_public_clients_use() {
    let sandbox = Sandbox::start().await.unwrap();
    let good = token(&sandbox, sandbox.environment()).await;
    let run = async |query: &str| {
        let response = graphql(&sandbox, &good, query, json!({})).await;
        assert!(response["errors"].is_null(), "{query}: {response}");
        response["data"].clone()
    };
    let item = run(r#"{ item(where: { path: "/sitecore/content/acme/Home" }) {
        itemId(format: D) displayName hasChildren template { name templateId }
        fields(ownFields: true, excludeStandardFields: true) { nodes { name } } } }"#)
    .await;
    let id = item["item"]["itemId"].as_str().unwrap();
    assert_eq!((id.len(), id.matches('-').count()), (36, 4));
    let found = run(r#"{ search(query: { index: "sitecore_master_index", language: "en",
        latestVersionOnly: true, sort: { field: "_name", direction: "ASC" },
        searchStatement: { operator: MUST, criteria: [{ criteriaType: EXACT, operator: MUST, field: "_name", value: "Home" }] } }) {
        totalCount results { innerItem { path } displayName templateName version createdDate } } }"#).await;
    assert_eq!(found["search"]["results"][0]["innerItem"]["path"], "/sitecore/content/acme/Home");
    for (statement, total) in [
        (r#"criteria: [{ field: "_name", value: "Ho" }]"#, 0),
        (r#"criteria: [{ field: "_name", value: "ho", criteriaType: STARTSWITH }]"#, 1),
        (r#"criteria: [{ field: "_name", value: "out", criteriaType: ENDSWITH }]"#, 1),
        (r#"criteria: [{ field: "_name", value: "o", criteriaType: CONTAINS }]"#, 5),
        (
            r#"operator: SHOULD, criteria: [{ field: "_name", value: "Home" }, { field: "_name", value: "About" }]"#,
            2,
        ),
        (
            r#"criteria: [{ field: "_fullpath", value: "/sitecore/content/acme/home" }, { field: "_name", value: "Home", operator: NOT }]"#,
            2,
        ),
    ] {
        let found = run(&format!(
            "{{ search(query: {{ searchStatement: {{ {statement} }} }}) {{ totalCount }} }}"
        ))
        .await;
        assert_eq!(found["search"]["totalCount"], total, "{statement}");
    }
    let filtered = run(r#"{ search(query: { searchStatement: { criteria: [] }, filterStatement: {
        criteria: [{ field: "_name", value: "Home" }] } }) { totalCount } }"#)
    .await;
    assert_eq!(filtered["search"]["totalCount"], 1);
    let publish = format!(
        r#"mutation {{ publishItem(input: {{ rootItemIds: ["{id}"], sourceDatabase: "master",
        publishItemMode: SMART, publishRelatedItems: true, displayName: "nightly" }}) {{ operationId }} }}"#
    );
    let started = run(&publish).await;
    let operation = started["publishItem"]["operationId"].as_str().unwrap().to_owned();
    let status = format!(
        r#"{{ publishingStatus(publishingOperationId: "{operation}") {{ state processed }} }}"#
    );
    assert_eq!(
        run(&status).await["publishingStatus"],
        json!({ "state": "RUNNING", "processed": 0 })
    );
    let cancel = format!(
        r#"mutation {{ cancelPublishing(input: {{ publishingOperationId: "{operation}" }}) {{ successful }} }}"#
    );
    assert_eq!(run(&cancel).await["cancelPublishing"]["successful"], true);
    assert_eq!(run(&status).await["publishingStatus"]["state"], "CANCELED");
    run(r#"mutation { publishSite(input: { languages: ["en"] }) { operationId } }"#).await;
    let rebuild = r#"mutation { rebuildIndexes(input: { indexNames: ["a"] }) { jobs { name handle status { total messages processed jobState } done } } }"#;
    let job = &run(rebuild).await["rebuildIndexes"]["jobs"][0];
    assert_eq!((&job["name"], &job["done"]), (&json!("a"), &json!(true)));
    let look = r#"{ job(input: { jobName: "a" }) { name handle status { total messages processed jobState } done } }"#;
    assert_eq!(run(look).await["job"], *job);
    assert_eq!(run(r#"{ job(input: { jobName: "b" }) { name } }"#).await["job"], Value::Null);
}

#[tokio::test]
async fn only_a_cm_accepts_the_clis_audience_and_its_tokens_are_short_lived() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = sandbox.organization();
    let endpoint =
        Endpoint::new(sandbox.token_url(), "https://xmcloud-cm.sitecorecloud.io").unwrap();
    let tokens = TokenClient::builder(ClientCredentials::new(client.id(), client.secret()));
    let response = tokens.endpoint(endpoint).build().unwrap().fetch().await.unwrap();
    assert_eq!(response.expires_in(), Some(Duration::from_secs(900)));
    let token = response.access_token().expose_secret().to_owned();
    assert_eq!(code(&graphql(&sandbox, &token, SITES, json!({})).await), "");
    assert_eq!(deploy(&sandbox, &token, "/api/projects/v1").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn tokens_expire_on_time_and_can_be_revoked() {
    let sandbox = Sandbox::builder().token_lifetime(Duration::from_secs(1)).start().await.unwrap();
    let short = token(&sandbox, sandbox.environment()).await;
    assert_eq!(code(&graphql(&sandbox, &short, SITES, json!({})).await), "");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(code(&graphql(&sandbox, &short, SITES, json!({})).await), "AUTH_NOT_AUTHENTICATED");

    sandbox.set_token_lifetime(Duration::from_secs(900));
    let long = token(&sandbox, sandbox.environment()).await;
    sandbox.rotate_keys().unwrap();
    assert_eq!(
        code(&graphql(&sandbox, &long, SITES, json!({})).await),
        "",
        "the previous key still verifies"
    );
    sandbox.revoke_tokens();
    assert_eq!(code(&graphql(&sandbox, &long, SITES, json!({})).await), "AUTH_NOT_AUTHENTICATED");
    let new = token(&sandbox, sandbox.environment()).await;
    assert_eq!(code(&graphql(&sandbox, &new, SITES, json!({})).await), "");
}

#[tokio::test]
async fn the_deploy_api_lists_projects_for_organization_clients() {
    let sandbox = Sandbox::start().await.unwrap();
    let organization = token(&sandbox, sandbox.organization()).await;
    let (status, projects) = deploy(&sandbox, &organization, "/api/projects/v1").await;
    assert_eq!((status, projects[0]["name"].as_str()), (StatusCode::OK, Some("acme-site")));
    let id = projects[0]["id"].as_str().unwrap();
    let (_, environments) =
        deploy(&sandbox, &organization, &format!("/api/projects/v1/{id}/environments")).await;
    assert_eq!(environments.as_array().unwrap().len(), 2);
    let environment = environments[0]["id"].as_str().unwrap();
    assert_eq!(
        deploy(&sandbox, &organization, &format!("/api/environments/v1/{environment}")).await.1["name"],
        "prod"
    );
    for missing in [
        "/api/projects/v1/x",
        "/api/environments/v1/x",
        "/api/projects/v1/x/environments",
        "/api/x",
    ] {
        let (status, problem) = deploy(&sandbox, &organization, missing).await;
        assert_eq!(
            (status, problem["status"].as_u64()),
            (StatusCode::NOT_FOUND, Some(404)),
            "{missing}"
        );
    }
    let environment = token(&sandbox, sandbox.environment()).await;
    assert_eq!(deploy(&sandbox, &environment, "/api/projects/v1").await.0, StatusCode::FORBIDDEN);
    assert_eq!(
        deploy(&sandbox, "nonsense", "/api/projects/v1").await,
        (StatusCode::UNAUTHORIZED, Value::Null)
    );
    assert_eq!(sandbox.rejections(Api::Deploy), 2);
}

#[tokio::test]
async fn faults_are_applied_once_each_in_order() {
    let sandbox = Sandbox::start().await.unwrap();
    let tokens = tokens(&sandbox, sandbox.environment());
    let pace = Duration::from_millis(50);
    let faults = [
        Fault::status(503).header("retry-after", "7"),
        Fault::garbage(),
        Fault::cut(),
        Fault::hang(),
        Fault::drip(pace),
        Fault::delay(Duration::from_secs(2)),
    ];
    sandbox.script(Api::Token, faults);
    for (kind, retry_after) in [
        (ErrorKind::Unavailable, Some(Duration::from_secs(7))),
        (ErrorKind::Malformed, None),
        (ErrorKind::Unavailable, None),
        (ErrorKind::Unavailable, None),
        (ErrorKind::Unavailable, None),
        (ErrorKind::Unavailable, None),
    ] {
        let error = tokens.fetch().await.expect_err("a fault");
        assert_eq!((error.kind(), error.retry_after()), (kind, retry_after), "{error:?}");
    }
    assert!(tokens.fetch().await.is_ok());
    assert_eq!(sandbox.calls(Api::Token), 7);

    sandbox.break_down(Api::Token, Fault::status(500));
    for _ in 0..3 {
        assert!(tokens.fetch().await.is_err());
    }
    sandbox.heal(Api::Token);
    assert!(tokens.fetch().await.is_ok());
}

#[tokio::test]
async fn the_middleware_replaces_a_revoked_token_at_the_deploy_api() {
    let sandbox = Sandbox::builder()
        .client(Client::new(ClientKind::Organization, "mine", "my-secret"))
        .start()
        .await
        .unwrap();
    let mine = Client::new(ClientKind::Organization, "mine", "my-secret");
    let target = Target::deploy().with_origin(sandbox.origin(Api::Deploy).clone()).unwrap();
    let auth = AuthMiddleware::builder(TokenCache::new(tokens(&sandbox, &mine)))
        .target(target)
        .build()
        .unwrap();
    let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).with(auth).build();
    let projects = sandbox.url(Api::Deploy, "/api/projects/v1");
    assert_eq!(client.get(projects.clone()).send().await.unwrap().status(), StatusCode::OK);
    sandbox.revoke_tokens();
    assert_eq!(client.get(projects).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!((sandbox.tokens_granted(), sandbox.rejections(Api::Deploy)), (2, 1));
}

#[tokio::test]
async fn tokens_without_jti_of_the_same_second_are_identical_and_revoked_together() {
    let sandbox = Sandbox::builder().tokens_without_jti().start().await.unwrap();
    let mut granted = Vec::new();
    for _ in 0..3 {
        granted.push(token(&sandbox, sandbox.environment()).await);
    }
    // At most one second ends in between.
    granted.dedup();
    assert!(granted.len() <= 2, "{} different tokens", granted.len());
    sandbox.revoke_tokens();
    for revoked in granted {
        let response = graphql(&sandbox, &revoked, SITES, Value::Null).await;
        assert_eq!(response["errors"][0]["extensions"]["code"], "AUTH_NOT_AUTHENTICATED");
    }

    // If need be, the cache waits until the issuer can grant another token.
    let client = client_for(&sandbox, sandbox.environment());
    let call = client.post(sandbox.authoring_url()).json(&json!({ "query": SITES }));
    let response: Value = call.send().await.unwrap().json().await.unwrap();
    assert!(response["errors"].is_null(), "{response}");
}

#[tokio::test]
async fn the_issuer_ignores_parameters_that_it_does_not_know() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = sandbox.organization();
    let parameters = json!({
        "grant_type": "client_credentials", "client_id": client.id(),
        "client_secret": client.secret(), "audience": sandbox.audience(),
        "organization_id": null, "retries": 3, "tenant": { "id": "t" },
    });
    let call = reqwest::Client::new().post(sandbox.token_url()).json(&parameters);
    assert_eq!(call.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn queued_faults_come_before_a_lasting_one_and_healing_removes_both() {
    let sandbox = Sandbox::start().await.unwrap();
    let status = async || {
        let call = reqwest::get(sandbox.url(Api::Deploy, "/api/projects/v1"));
        call.await.unwrap().status().as_u16()
    };
    sandbox.script(Api::Deploy, [Fault::status(503)]);
    sandbox.break_down(Api::Deploy, Fault::status(418));
    sandbox.script(Api::Deploy, [Fault::status(504)]);
    assert_eq!([status().await, status().await, status().await], [503, 504, 418]);
    sandbox.script(Api::Deploy, [Fault::status(503)]);
    sandbox.heal(Api::Deploy);
    assert_eq!(status().await, 401);
}
