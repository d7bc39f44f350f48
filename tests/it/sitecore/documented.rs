//! Calls that Sitecore documents, retyped: the Deploy API by its OpenAPI documents, the Admin API
//! and the Token API of Experience Edge, and Delivery by context id.

use http::StatusCode;
use reqwest::Method;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::{Value, json};
use sitecore_auth::edge;
use sitecore_sandbox::{Api, Sandbox};
use url::Url;

use crate::support::{ENVIRONMENT, client_for, graphql};

/// A type that a member of a response can have.
#[derive(Clone, Copy, Debug)]
enum Type {
    Text,
    /// A time in RFC 3339.
    Time,
    Number,
    /// A state from 0 to 4.
    State,
    Bool,
    List,
}

use Type::{Bool, List, Number, State, Text, Time};

impl Type {
    fn allows(self, value: &Value) -> bool {
        match self {
            Text => value.is_string(),
            Time => value.as_str().is_some_and(|text| text.ends_with('Z') && text.contains('T')),
            Number => value.is_i64(),
            State => value.as_u64().is_some_and(|state| state <= 4),
            Bool => value.is_boolean(),
            List => value.is_array(),
        }
    }
}

/// Members that are never null, and members that may be.
type Shape = (&'static [(&'static str, Type)], &'static [(&'static str, Type)]);

const DEPLOYMENT: Shape = (
    &[
        ("id", Text),
        ("projectId", Text),
        ("environmentId", Text),
        ("sitecoreMajorVersion", Number),
        ("provisioningStatus", State),
        ("buildStatus", State),
        ("deploymentStatus", State),
        ("postActionStatus", State),
        ("vercelStatus", State),
        ("calculatedStatus", State),
        ("createdAt", Time),
    ],
    &[
        ("projectName", Text),
        ("environmentName", Text),
        ("organizationId", Text),
        ("organizationName", Text),
        ("triggerMessage", Text),
        ("startedAt", Time),
        ("completedAt", Time),
        ("buildStartedAt", Time),
        ("buildCompletedAt", Time),
        ("deploymentStartedAt", Time),
        ("deploymentCompletedAt", Time),
        ("commitId", Text),
        ("createdBy", Text),
        ("isCanceled", Bool),
        ("isDeploymentFailed", Bool),
    ],
);

const ENVIRONMENT_SHAPE: Shape = (
    &[
        ("id", Text),
        ("name", Text),
        ("projectId", Text),
        ("host", Text),
        ("provisioningStatus", State),
        ("createdAt", Time),
        ("lastUpdatedAt", Time),
        ("isDeleted", Bool),
        ("previewContextId", Text),
        ("liveContextId", Text),
    ],
    &[
        ("platformTenantId", Text),
        ("platformTenantName", Text),
        ("sitecoreMajorVersion", Number),
        ("deployOnCommit", Bool),
        ("lastSuccessfulDeploymentId", Text),
        ("highAvailabilityEnabled", Bool),
    ],
);

const PROJECT: Shape = (
    &[
        ("id", Text),
        ("name", Text),
        ("createdAt", Time),
        ("isLocked", Bool),
        ("environments", List),
    ],
    &[("organizationId", Text), ("region", Text), ("repository", Text), ("lockedAt", Time)],
);

const ORGANIZATION: Shape = (
    &[("id", Text), ("name", Text), ("createdAt", Time), ("subscriptionType", Number)],
    &[("region", Text), ("tier", Text), ("contentServiceEnabled", Bool)],
);

const CREATED_CLIENT: Shape =
    (&[("name", Text), ("clientId", Text), ("clientSecret", Text)], &[("description", Text)]);

const LISTED_CLIENT: Shape = (
    &[("id", Text), ("clientId", Text), ("createdAt", Time), ("clientType", Number)],
    &[("name", Text), ("description", Text)],
);

fn check((required, nullable): Shape, value: &Value) {
    for (name, kind) in required {
        assert!(kind.allows(&value[name]), "{name}: {kind:?}: {value}");
    }
    for (name, kind) in nullable {
        let is_there = value.get(name).is_some();
        assert!(
            is_there && (value[name].is_null() || kind.allows(&value[name])),
            "{name}: {value}"
        );
    }
}

struct Caller {
    client: ClientWithMiddleware,
    origin: Url,
}

impl Caller {
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let call = self.client.request(method, self.origin.join(path).unwrap());
        let call = match &body {
            Some(body) => call.json(body),
            None => call,
        };
        let response = call.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
}

fn deploy(sandbox: &Sandbox) -> Caller {
    let client = client_for(sandbox, sandbox.organization());
    Caller { client, origin: sandbox.origin(Api::Deploy).clone() }
}

fn edge_admin(sandbox: &Sandbox) -> Caller {
    let client = client_for(sandbox, sandbox.edge_administration());
    Caller { client, origin: sandbox.origin(Api::Edge).clone() }
}

#[tokio::test]
async fn the_deploy_api_lists_what_its_openapi_documents_describe() {
    let sandbox = Sandbox::start().await.unwrap();
    let deploy = deploy(&sandbox);
    check(ORGANIZATION, &deploy.get("/api/organizations/v1").await);
    let projects = deploy.get("/api/projects/v1/").await;
    let project = &projects.as_array().expect("an array")[0];
    check(PROJECT, project);
    let path = format!("/api/projects/v1/{}", project["id"].as_str().unwrap());
    assert_eq!(&deploy.get(&path).await, project);
    check(ENVIRONMENT_SHAPE, &deploy.get(&format!("{path}/environments")).await[0]);
    for version in ["v1", "v2"] {
        let page =
            deploy.get(&format!("/api/environments/{version}?PageNumber=2&pagesize=1")).await;
        assert_eq!(
            (&page["totalCount"], &page["pageNumber"], &page["pageSize"]),
            (&json!(2), &json!(2), &json!(1))
        );
        check(ENVIRONMENT_SHAPE, &page["data"][0]);
        check(
            ENVIRONMENT_SHAPE,
            &deploy.get(&format!("/api/environments/{version}/{ENVIRONMENT}")).await,
        );
        // At most 50 on a page.
        let too_many = format!("/api/environments/{version}?pageSize=51");
        assert_eq!(deploy.call(Method::GET, &too_many, None).await.0, 400);
    }
}

#[tokio::test]
async fn the_deploy_api_creates_starts_and_shows_deployments_as_documented() {
    let sandbox = Sandbox::start().await.unwrap();
    let deploy = deploy(&sandbox);
    for version in ["v1", "v2"] {
        let path = format!("/api/environments/{version}/{ENVIRONMENT}/deployments");
        let (status, created) = deploy.call(Method::POST, &path, None).await;
        assert_eq!(status, 201);
        // A small object; reading returns a large one.
        let members: Vec<_> = created.as_object().unwrap().keys().cloned().collect();
        let expected =
            ["createdAt", "createdBy", "environmentId", "id", "organizationId", "projectId"];
        assert_eq!(members, expected);
        check(DEPLOYMENT, &deploy.get(&path).await[0]);
    }
    let page = deploy.get("/api/deployments/v1?pageSize=1").await;
    assert_eq!((&page["totalCount"], page["data"].as_array().unwrap().len()), (&json!(2), 1));
    let path = format!("/api/deployments/v1/{}", page["data"][0]["id"].as_str().unwrap());
    assert_eq!(deploy.get(&path).await["calculatedStatus"], 0);
    // Starting returns no body.
    let started = deploy.call(Method::POST, &format!("{path}/deploy/"), None).await;
    assert_eq!(started, (202, Value::Null));
    let started = deploy.call(Method::POST, &format!("{path}/deploy"), None).await;
    assert_eq!((started.0, &started.1["status"]), (409, &json!(409)), "a second start");
    let mut last = deploy.get(&path).await;
    while last["calculatedStatus"] == 1 {
        check(DEPLOYMENT, &last);
        last = deploy.get(&path).await;
    }
    check(DEPLOYMENT, &last);
    assert_eq!(last["calculatedStatus"], 2);
    let counts = deploy.get("/api/deployments/v1/status").await;
    let expected =
        json!({ "NotStarted": 1, "InProgress": 0, "Completed": 1, "Failed": 0, "Skipped": 0 });
    assert_eq!(counts, expected);
    assert!(Time.allows(&last["completedAt"]), "{last}");
    // This path does not exist, although it is often assumed.
    let (status, _) = deploy.call(Method::POST, "/api/deployments/v1", Some(json!({}))).await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn a_cancelled_deployment_goes_no_further() {
    let sandbox = Sandbox::start().await.unwrap();
    let deploy = deploy(&sandbox);
    let path = format!("/api/environments/v1/{ENVIRONMENT}/deployments");
    let (_, created) = deploy.call(Method::POST, &path, None).await;
    let path = format!("/api/deployments/v1/{}", created["id"].as_str().unwrap());
    deploy.call(Method::POST, &format!("{path}/deploy"), None).await;
    let cancelled = deploy.call(Method::POST, &format!("{path}/cancel"), None).await;
    assert_eq!(cancelled, (200, Value::Null));
    for _ in 0..3 {
        let deployment = deploy.get(&path).await;
        assert_eq!(
            (&deployment["isCanceled"], &deployment["calculatedStatus"]),
            (&json!(true), &json!(1))
        );
    }
}

#[tokio::test]
async fn the_deploy_api_creates_and_lists_the_four_kinds_of_client() {
    let sandbox = Sandbox::start().await.unwrap();
    let deploy = deploy(&sandbox);
    let project = &deploy.get("/api/projects/v1").await[0];
    for kind in ["cm", "deploy", "edge", "ehbuild"] {
        let path = format!("/api/clients/v1/{kind}");
        let mut new = json!({ "name": format!("nightly {kind}"), "description": "d" });
        if kind != "deploy" {
            let (status, _) = deploy.call(Method::POST, &path, Some(new.clone())).await;
            assert_eq!(status, 400, "a client of no environment");
            new["projectId"] = project["id"].clone();
            new["environmentId"] = json!(ENVIRONMENT);
        }
        // An organization's client needs only a name.
        let limited = if kind == "deploy" { 201 } else { 400 };
        for (name, value, expected) in [
            ("name", String::new(), 400),
            ("name", "ab".to_owned(), limited),
            ("description", "d".repeat(141), limited),
        ] {
            let mut other = new.clone();
            other[name] = value.into();
            let (status, _) = deploy.call(Method::POST, &path, Some(other)).await;
            assert_eq!(status, expected, "{kind}: {name}");
        }
        let (status, created) = deploy.call(Method::POST, &path, Some(new)).await;
        assert_eq!(status, 201);
        check(CREATED_CLIENT, &created);
    }
    for kind in ["environment", "organization"] {
        let list = format!("/api/clients/v1/{kind}");
        let (status, _) = deploy.call(Method::POST, &list, Some(json!({ "name": "x" }))).await;
        assert_eq!(status, 405);
        let clients = deploy.get(&list).await;
        for client in clients["items"].as_array().expect("items") {
            check(LISTED_CLIENT, client);
        }
        let id = clients["items"][0]["id"].as_str().unwrap();
        let deleted = deploy.call(Method::DELETE, &format!("/api/clients/v1/{id}"), None).await;
        assert_eq!(deleted, (202, Value::Null));
    }
}

#[tokio::test]
async fn the_deploy_api_keeps_variables_and_does_not_show_secret_ones() {
    let sandbox = Sandbox::start().await.unwrap();
    let deploy = deploy(&sandbox);
    let path = format!("/api/environments/v1/{ENVIRONMENT}/variables");
    for (name, secret) in [("A", false), ("B", true)] {
        let body = json!({ "value": "v", "secret": secret });
        let set = deploy.call(Method::POST, &format!("{path}/{name}"), Some(body)).await;
        assert_eq!(set, (202, Value::Null));
    }
    let variables = deploy.get(&path).await;
    assert_eq!((&variables[0]["value"], &variables[1]["value"]), (&json!("v"), &Value::Null));
    // Neither a value nor a target is required.
    for (body, target) in [(json!({ "target": "eh" }), "eh"), (json!({ "value": null }), "CM")] {
        let set = deploy.call(Method::POST, &format!("{path}/C"), Some(body)).await;
        assert_eq!(set, (202, Value::Null));
        let shown = json!({ "name": "C", "value": null, "secret": false, "target": target });
        assert_eq!(deploy.get(&path).await[2], shown);
    }
    let url = deploy.origin.join(&format!("{path}/D")).unwrap();
    let call = deploy.client.post(url).header("content-type", "text/json; charset=utf-8");
    assert_eq!(call.body(r#"{"value":"v"}"#).send().await.unwrap().status(), 202);
    let removed = deploy.call(Method::DELETE, &format!("{path}/A"), None).await;
    assert_eq!(removed, (204, Value::Null));
}

#[tokio::test]
async fn errors_of_the_rest_apis_are_problems_in_aspnets_format() {
    let sandbox = Sandbox::start().await.unwrap();
    for (caller, path) in [
        (deploy(&sandbox), "/api/environments/v1/none"),
        (edge_admin(&sandbox), "/api/admin/v1/webhooks/none"),
    ] {
        let (status, problem) = caller.call(Method::GET, path, None).await;
        assert_eq!((status, &problem["status"]), (404, &json!(404)));
        let kind = problem["type"].as_str().unwrap();
        assert_eq!(kind, "https://tools.ietf.org/html/rfc7231#section-6.5.4");
        assert!(problem["title"].is_string() && problem["traceId"].is_string(), "{problem}");
    }
    let (status, problem) =
        deploy(&sandbox).call(Method::POST, "/api/clients/v1/cm", Some(json!([]))).await;
    assert_eq!((status, &problem["status"]), (400, &json!(400)));
}

#[tokio::test]
async fn edge_settings_are_read_replaced_and_patched_as_documented() {
    let sandbox = Sandbox::start().await.unwrap();
    let admin = edge_admin(&sandbox);
    let path = "/api/admin/v1/settings";
    let mut settings = admin.get(path).await;
    assert_eq!(settings["contentCacheTtl"], "04:00:00");
    settings["mediaCacheTtl"] = json!("01:00:00");
    assert_eq!(admin.call(Method::PUT, path, Some(settings)).await.0, 202);
    let patch = async |operation: Value, kind: &str| {
        let call = admin.client.patch(admin.origin.join(path).unwrap());
        let call = call.header("content-type", kind).body(json!([operation]).to_string());
        let response = call.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let kind = "application/json-patch+json";
    let replace = |path: &str| json!({ "op": "replace", "path": path, "value": "00:15:00" });
    let (status, text) = patch(replace("/contentcachettl"), kind).await;
    let patched: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &patched["contentCacheTtl"]), (200, &json!("00:15:00")));
    assert_eq!(patched, admin.get(path).await);
    assert_eq!(patched["mediaCacheTtl"], "01:00:00");
    // Settings have fixed names and types.
    for wrong in
        [json!({ "contentCacheTTL": "01:00:00" }), json!({ "contentCacheAutoClear": "no" })]
    {
        assert_eq!(admin.call(Method::PUT, path, Some(wrong)).await.0, 400);
    }
    // Only lower-case paths, `replace` and this media type are supported.
    assert_eq!(patch(replace("/contentCacheTtl"), kind).await.0, 400);
    assert_eq!(patch(json!({ "op": "add", "path": "/contentcachettl" }), kind).await.0, 400);
    for value in [json!(5), json!(null), json!("banana"), json!("1:2"), json!("x.01:00:00")] {
        let operation = json!({ "op": "replace", "path": "/contentcachettl", "value": value });
        assert_eq!(patch(operation, kind).await.0, 400, "{value}");
    }
    let days = json!({ "op": "replace", "path": "/mediacachettl", "value": "1.04:00:00" });
    assert_eq!(patch(days, kind).await.0, 200);
    assert_eq!(patch(replace("/contentcachettl"), "application/json").await.0, 415);
}

#[tokio::test]
async fn edge_webhooks_have_string_ids_and_all_documented_members() {
    let sandbox = Sandbox::start().await.unwrap();
    let admin = edge_admin(&sandbox);
    let path = "/api/admin/v1/webhooks";
    let new = json!({
        "label": "rebuild", "uri": "https://build.example/hook", "method": "POST",
        "headers": { "x-token": "t" }, "body": "", "createdBy": "me", "executionMode": "OnUpdate",
    });
    let (status, created) = admin.call(Method::POST, path, Some(new.clone())).await;
    assert_eq!(status, 201);
    for member in
        ["tenantId", "label", "uri", "method", "headers", "created", "lastRuns", "disabled"]
    {
        assert!(created.get(member).is_some(), "{member}: {created}");
    }
    let id = created["id"].as_str().expect("a string");
    let one = format!("{path}/{id}");
    assert_eq!(admin.get(&one).await, created);
    assert_eq!(admin.get(path).await, json!([created]));
    let mut disabled = new.clone();
    disabled["disabled"] = json!(true);
    admin.call(Method::PUT, &one, Some(disabled)).await;
    assert_eq!(admin.get(&one).await["disabled"], true);
    let mut invalid = new;
    invalid["executionMode"] = json!("Sometimes");
    assert_eq!(admin.call(Method::POST, path, Some(invalid)).await.0, 400);
    assert_eq!(admin.call(Method::DELETE, &one, None).await.0, 204);
    assert_eq!(admin.call(Method::GET, &one, None).await.0, 404);
}

#[tokio::test]
async fn the_token_api_returns_pages_and_matches_a_part_of_the_label() {
    let sandbox = Sandbox::start().await.unwrap();
    let admin = edge_admin(&sandbox);
    let api = edge::TokenApi::new(admin.client.clone()).with_origin(admin.origin.clone()).unwrap();
    for number in 0..230 {
        api.create_key(format!("index {number}")).await.unwrap();
    }
    let first = admin.get("/api/apikey/v1").await;
    assert_eq!(
        (&first["totalCount"], &first["pageSize"], &first["currentPage"], &first["totalPages"]),
        (&json!(230), &json!(20), &json!(1), &json!(12))
    );
    assert_eq!((&first["hasNext"], &first["hasPrevious"]), (&json!(true), &json!(false)));
    let key = &first["keys"][0];
    for member in ["tenantId", "hash", "isRevoked", "label", "scopes", "createdBy", "created"] {
        assert!(key.get(member).is_some(), "{member}: {key}");
    }
    // The library reads all pages.
    assert_eq!(api.list_keys(None).await.unwrap().len(), 230);
    let matching = api.list_keys(Some("index 11")).await.unwrap();
    assert_eq!(matching.len(), 11);
    let key = matching.iter().find(|key| key.label == "index 11").expect("its own label");
    assert_eq!(&api.get_key(&key.hash).await.unwrap(), key);
    api.rename_key(&key.hash, "renamed").await.unwrap();
    assert_eq!(api.get_key(&key.hash).await.unwrap().label, "renamed");
    api.revoke_key(&key.hash).await.unwrap();
    assert!(api.get_key(&key.hash).await.unwrap().revoked);
    assert_eq!(api.list_keys(None).await.unwrap().len(), 229);
}

#[tokio::test]
async fn delivery_by_context_id_needs_neither_token_nor_key() {
    let sandbox = Sandbox::start().await.unwrap();
    let environment = deploy(&sandbox).get(&format!("/api/environments/v2/{ENVIRONMENT}")).await;
    let query = json!({ "query": "{ __typename }" });
    // The middleware leaves these requests alone, even if a target covers them.
    let admin = edge_admin(&sandbox);
    for (id, status) in [
        (environment["liveContextId"].as_str().unwrap(), StatusCode::OK),
        (environment["previewContextId"].as_str().unwrap(), StatusCode::OK),
        ("unknown", StatusCode::UNAUTHORIZED),
    ] {
        let path = format!("/v1/content/api/graphql/v1?sitecoreContextId={id}");
        let (actual, _) = admin.call(Method::POST, &path, Some(query.clone())).await;
        assert_eq!(actual, status.as_u16(), "{id}");
    }
}

#[tokio::test]
async fn delivery_accepts_a_key_in_either_header_or_in_the_url() {
    let sandbox = Sandbox::start().await.unwrap();
    let key = sandbox.edge_key();
    let mut url = sandbox.delivery_url();
    let call =
        |url: Url| reqwest::Client::new().post(url).json(&json!({ "query": "{ __typename }" }));
    let status = async |call: reqwest::RequestBuilder| call.send().await.unwrap().status();
    assert_eq!(status(call(url.clone())).await, StatusCode::UNAUTHORIZED);
    for header in ["sc_apikey", "X-GQL-Token"] {
        assert_eq!(status(call(url.clone()).header(header, &key)).await, StatusCode::OK);
    }
    url.query_pairs_mut().append_pair("sc_apikey", &key);
    assert_eq!(status(call(url)).await, StatusCode::OK);
}

#[tokio::test]
async fn delivery_has_the_fields_that_content_sdk_asks_for() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = crate::support::delivery_client(&sandbox);
    let run = async |query: &str| {
        let response = graphql(&client, sandbox.delivery_url(), query).await;
        assert!(response["errors"].is_null(), "{query}: {response}");
        response["data"].clone()
    };
    let sites = run("{ site { siteInfoCollection { name hostname rootPath language } } }").await;
    assert_eq!(sites["site"]["siteInfoCollection"][0]["hostname"], "www.acme.example");
    let site = run(r#"{ site { siteInfo(site: "acme") { name hostname robots
        routes(language: "en", first: 2) { total pageInfo { hasNext endCursor } results { routePath } }
        dictionary(language: "en", first: 500) { results { key value } pageInfo { hasNext } } } } }"#).await;
    let routes = &site["site"]["siteInfo"]["routes"];
    assert_eq!((&routes["total"], &routes["pageInfo"]["hasNext"]), (&json!(3), &json!(true)));
    assert_eq!(routes["results"], json!([{ "routePath": "/" }, { "routePath": "/About" }]));
    let page = run(
        r#"{ layout(site: "acme", routePath: "/About", language: "en") { item { id rendered } } }"#,
    )
    .await;
    assert_eq!(page["layout"]["item"]["rendered"]["sitecore"]["route"]["name"], "About");
    assert_eq!(
        run(r#"{ layout(site: "acme", routePath: "/none") { item { id } } }"#).await["layout"],
        Value::Null
    );
    let item = run(r#"{ item(path: "/sitecore/content/acme/Home", language: "en") {
        id displayName template { id name } field(name: "Title") { value jsonValue }
        children(first: 1) { total pageInfo { hasNext endCursor } results { name } } } }"#)
    .await;
    assert_eq!(
        (&item["item"]["children"]["total"], &item["item"]["children"]["results"]),
        (&json!(2), &json!([{ "name": "About" }]))
    );
    let infos = run(r#"{ site { siteInfo(site: "acme") { llmsTxt sitemap
        redirects { pattern target redirectType isQueryStringPreserved isLanguagePreserved locale }
        errorHandling(language: "en") { notFoundPage { rendered } notFoundPagePath } } }
        layout(site: "acme", routePath: "/About") { item { version personalization { variantIds } } } }"#)
    .await;
    assert_eq!(infos["site"]["siteInfo"]["redirects"][0]["target"], "/Products");
    assert_eq!(infos["layout"]["item"]["personalization"]["variantIds"], json!([]));
}

#[tokio::test]
async fn delivery_finds_items_by_ancestor_template_language_and_field() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = crate::support::delivery_client(&sandbox);
    let run = async |query: &str| graphql(&client, sandbox.delivery_url(), query).await;
    let home = run(
        r#"{ item(path: "/sitecore/content/acme/Home", language: "en") { id template { id } } }"#,
    )
    .await;
    let id = |pointer: &str| home.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let (id, template) = (id("/data/item/id"), id("/data/item/template/id"));
    let by_id =
        run(&format!(r#"{{ item(path: "{id}", language: "en") {{ path rendered }} }}"#)).await;
    assert_eq!(by_id["data"]["item"]["path"], "/sitecore/content/acme/Home");

    let search = async |predicates: &str, page: &str| {
        let fields = "total pageInfo { endCursor hasNext } results { name url { path } }";
        let found =
            run(&format!("{{ search(where: {{ AND: [{predicates}] }} {page}) {{ {fields} }} }}"))
                .await;
        assert!(found["errors"].is_null(), "{predicates}: {found}");
        found["data"]["search"].clone()
    };
    let names = async |predicates: &str| {
        let found = search(predicates, "").await;
        let results = found["results"].as_array().unwrap().clone();
        results.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let below = format!(r#"{{ name: "_path", value: "{id}", operator: CONTAINS }}"#);
    assert_eq!(names(&below).await, ["Home", "About", "Products"]);
    let in_english = format!(
        r#"{below} {{ name: "_language", value: "en" }} {{ name: "_hasLayout", value: "true" }}"#
    );
    assert_eq!(names(&in_english).await, ["Home", "About", "Products"]);
    assert!(names(&format!(r#"{below} {{ name: "_language", value: "da" }}"#)).await.is_empty());
    assert_eq!(
        names(&format!(r#"{below} {{ name: "_name", value: "About", operator: NEQ }}"#)).await,
        ["Home", "Products"]
    );
    assert_eq!(
        names(&format!(r#"{{ name: "_path", value: "{id}", operator: NCONTAINS }}"#)).await,
        ["sitecore", "content", "acme"]
    );
    assert_eq!(
        names(&format!(
            r#"{below} {{ name: "_templates", value: "{template}", operator: CONTAINS }}"#
        ))
        .await
        .len(),
        3
    );
    assert_eq!(
        names(&format!(
            r#"{below} {{ name: "_templates", value: "{template}", operator: NCONTAINS }}"#
        ))
        .await
        .len(),
        0
    );
    assert_eq!(names(&format!(r#"{below} {{ OR: [{{ name: "_name", value: "About" }} {{ name: "_name", value: "Home" }}] }}"#)).await, ["Home", "About"]);
    assert!(names(r#"{ name: "Title", value: "anything", operator: CONTAINS }"#).await.is_empty());

    let first = search(&below, "first: 2").await;
    assert_eq!((&first["total"], &first["pageInfo"]["hasNext"]), (&json!(3), &json!(true)));
    assert_eq!(first["results"][1], json!({ "name": "About", "url": { "path": "/About" } }));
    let cursor = first["pageInfo"]["endCursor"].as_str().unwrap();
    let second = search(&below, &format!(r#"first: 2, after: "{cursor}""#)).await;
    assert_eq!(second["results"], json!([{ "name": "Products", "url": { "path": "/Products" } }]));
    assert_eq!(second["pageInfo"]["hasNext"], false);
    let wrong = run(&format!(r#"{{ search(where: {below}, after: "x") {{ total }} }}"#)).await;
    assert!(wrong["errors"][0]["message"].as_str().unwrap().contains("endCursor"), "{wrong}");
}
