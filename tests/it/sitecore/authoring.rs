//! The sandbox's Authoring API, as Sitecore documents it and as other clients describe it.

use serde_json::{Value, json};
use sitecore_sandbox::Sandbox;

use crate::support::{client_for, graphql};

#[tokio::test]
async fn the_authoring_api_denies_the_fields_of_fragments_aliases_and_the_selected_operation() {
    let sandbox = Sandbox::start().await.unwrap();
    let call = async |body: Value| -> Value {
        let call = reqwest::Client::new().post(sandbox.authoring_url()).json(&body);
        call.send().await.unwrap().json().await.unwrap()
    };
    let code = |body: &Value| body["errors"][0]["extensions"]["code"].clone();
    let denied = json!("AUTH_NOT_AUTHENTICATED");

    let fragments = "query { ...F ... on Query { jobs { nodes { name } } } } \
                     fragment F on Query { all: sites { name } t: __typename }";
    let body = call(json!({ "query": fragments })).await;
    assert_eq!(body["data"], json!({ "all": null, "t": "Query", "jobs": null }));
    assert_eq!((code(&body), body["errors"].as_array().map(Vec::len)), (denied.clone(), Some(2)));

    let two = "query A { sites { name } } mutation B { __typename publishItem(input: {}) { operationId } }";
    let body = call(json!({ "query": two, "operationName": "B" })).await;
    assert_eq!(body["data"], json!({ "__typename": "Mutation", "publishItem": null }));
    assert_eq!(code(&body), denied);

    // Nothing was denied here.
    assert_eq!(
        call(json!({ "query": "{ __typename }" })).await,
        json!({ "data": { "__typename": "Query" } })
    );
    for wrong in [json!({ "query": "{ sites" }), json!({ "query": two, "operationName": "C" })] {
        let body = call(wrong).await;
        assert!(body["errors"][0]["message"].is_string() && code(&body).is_null(), "{body}");
    }
    let circle = "{ ...F } fragment F on Query { ...F sites { name } }";
    assert_eq!(code(&call(json!({ "query": circle })).await), denied);
}

#[tokio::test]
async fn several_items_are_published_by_one_job_and_a_site_in_a_mode() {
    let sandbox = Sandbox::start().await.unwrap();
    let client = client_for(&sandbox, sandbox.environment());
    let call = async |query: &str| graphql(&client, sandbox.authoring_url(), query).await;
    let mut ids = Vec::new();
    for name in ["About", "Products"] {
        let item = format!(
            r#"{{ item(where: {{ path: "/sitecore/content/acme/Home/{name}" }}) {{ itemId }} }}"#
        );
        ids.push(call(&item).await["data"]["item"]["itemId"].clone());
    }
    let ids = Value::from(ids);
    let publish = format!(
        "mutation {{ publishItem(input: {{ rootItemIds: {ids}, publishItemMode: FULL }}) {{ operationId }} }}"
    );
    let started = call(&publish).await;
    let id = &started["data"]["publishItem"]["operationId"];
    for _ in 0..2 {
        call(&format!("{{ publishingStatus(publishingOperationId: {id}) {{ isDone }} }}")).await;
    }
    let jobs = call("{ jobs { nodes { name done } } }").await;
    let name = "Publish /sitecore/content/acme/Home/About, /sitecore/content/acme/Home/Products";
    assert_eq!(jobs["data"]["jobs"]["nodes"], json!([{ "name": name, "done": true }]));

    let unknown = r#"mutation { publishItem(input: { rootItemIds: ["0"] }) { operationId } }"#;
    assert_eq!(call(unknown).await["errors"][0]["message"], "The item was not found.");
    let site = "mutation { publishSite(input: { publishSiteMode: FULL }) { operationId } }";
    assert!(call(site).await["data"]["publishSite"]["operationId"].is_string());
}
