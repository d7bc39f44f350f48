//! Where a token goes, and where it never goes.

use proptest::prelude::*;
use reqwest::Method;
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use sitecore_auth::{AuthMiddleware, ErrorKind, Target, Token, TokenCache, source_fn};
use url::Url;

use crate::support::{DAY, ScriptedSource};

/// Responds to every request: with 200 if it carries a token, otherwise with 204.
struct Probe;

#[async_trait::async_trait]
impl Middleware for Probe {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut http::Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let status = if request.headers().contains_key("authorization") { 200 } else { 204 };
        Ok(http::Response::builder().status(status).body("").unwrap().into())
    }
}

/// Returns `true` if a request for `url` gets a token with these targets.
async fn gets_token(targets: &[Target], url: &str) -> bool {
    let cache = TokenCache::new(source_fn(|_| async {
        Token::bearer("token", std::time::Duration::from_secs(900))
    }));
    let builder = targets
        .iter()
        .cloned()
        .fold(AuthMiddleware::builder(cache), |builder, target| builder.target(target));
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(builder.build().unwrap())
        .with(Probe)
        .build();
    let request = reqwest::Request::new(Method::GET, url.parse().unwrap());
    client.execute(request).await.unwrap().status() == 200
}

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

const CM: &str = "xmc-acme-site-prod.sitecorecloud.io";

#[tokio::test]
async fn the_authoring_target_covers_one_host_and_one_folder() {
    let targets = [Target::authoring(CM).unwrap()];
    for good in [
        "/sitecore/api/authoring/graphql/v1/",
        "/sitecore/api/authoring/graphql/v1",
        "/sitecore/api/management",
        "/sitecore/api",
        "/sitecore/api/?a=b",
    ] {
        assert!(gets_token(&targets, &format!("https://{CM}{good}")).await, "{good}");
    }
    for same_host in [
        "XMC-ACME-site-prod.SitecoreCloud.io",
        "xmc-acme-site-prod.sitecorecloud.io.",
        "xmc-acme-site-prod.sitecorecloud.io:443",
    ] {
        assert!(
            gets_token(&targets, &format!("https://{same_host}/sitecore/api/x")).await,
            "{same_host}"
        );
    }
    for good in [
        "/sitecore/api/a%20b",
        "/sitecore/api/x;v=1",
        "/sitecore/api/..x%2f..y",
        "/sitecore/api/100%25",
    ] {
        assert!(gets_token(&targets, &format!("https://{CM}{good}")).await, "{good}");
    }
    for bad in [
        "/",
        "/sitecore",
        "/sitecore/apix",
        "/sitecore/shell",
        "/x/sitecore/api/",
        "/sitecore/api/../shell",
        "/sitecore/api/%2e%2e/shell",
        "/sitecore/api/..%2f..%2fshell",
        "/sitecore/api/..%252f..%252fshell",
        "/sitecore/api/%252e%252e/shell",
        "/sitecore/api/..;/shell",
        "/sitecore/api/..%3ba=b/shell",
        "/sitecore/api/x%5C..%5c..%5Cshell",
        "/sitecore/api/%2e.%2Fshell",
        "/sitecore/api/%25%32%65%25%32%65/shell",
        "/sitecore/api/%%32e%%32e/shell",
    ] {
        assert!(!gets_token(&targets, &format!("https://{CM}{bad}")).await, "{bad}");
    }
}

#[tokio::test]
async fn look_alike_hosts_get_no_token() {
    let targets = [Target::authoring(CM).unwrap(), Target::sitecore_cloud()];
    for host in [
        "xmc-acme-site-prod.sitecorecloud.io.evil.com",
        "evil-xmc-acme-site-prod.sitecorecloud.io",
        "evil-sitecorecloud.io",
        "sitecorecloud.io.attacker.com",
        "notsitecore-staging.cloud",
        "xmc-acme-site-prod.sitecorecloud.io@evil.com",
        "xmc-other-site-prod.sitecorecloud.io",
        "a.xmc-acme-site-prod.sitecorecloud.io",
        "sitecorecloud.io",
        "xmc-acme-site-prod.sitecorecloud.io:8443",
        "xmc-acme-site-prod.sitecorecloud.io:80",
        "xmc-acme-site-prod.sitecorecloud.io..",
        "xmc-acme-site-prod.sitecoreсloud.io", // a Cyrillic letter
        "xn--sitecorecloud-xyz.io",
    ] {
        assert!(!gets_token(&targets, &format!("https://{host}/sitecore/api/x")).await, "{host}");
        assert!(!gets_token(&targets, &format!("https://{host}/api/projects/v1")).await, "{host}");
    }
    assert!(!gets_token(&targets, &format!("http://{CM}/sitecore/api/x")).await);
    assert!(!gets_token(&targets, &format!("http://{CM}:443/sitecore/api/x")).await);
}

#[tokio::test]
async fn the_sitecore_cloud_target_is_a_list_of_hosts_and_paths() {
    let cloud = [Target::sitecore_cloud()];
    for good in [
        "https://xmclouddeploy-api.sitecorecloud.io/api/projects/v1",
        "https://xmclouddeploy-api.sitecorecloud.io/api/environments/v1/x/obtain-edge-token",
        "https://xmcloud-monitoring-api.sitecorecloud.io/api/logs/v1",
        "https://edge.sitecorecloud.io/api/admin/v1/cache",
        "https://edge.sitecorecloud.io/api/apikey/v1",
        "https://xmapps-api.sitecorecloud.io/api/v1/sites",
        "https://edge-platform.sitecorecloud.io/authoring/publishing/v1/jobs",
        "https://edge-platform.sitecorecloud.io/stream/ai-agent-api/api/v1/sites",
        "https://edge-platform.sitecorecloud.io/mcp/marketer-mcp-prod",
        "https://edge-platform.sitecorecloud.io/mesh/push/api/v1/contentsdk/code/extracted",
        "https://edge-platform.sitecorecloud.io/cs/api",
        "https://edge-platform.sitecorecloud.io/search",
        "https://ai-agent-api-euw.sitecorecloud.io/api/v1/sites",
        "https://ai-agent-api-jpe.sitecorecloud.io/api/v2/x",
        "https://content-api.sitecorecloud.io/api/content/v1/types",
        "https://mms-upload.sitecorecloud.io/api/media/v1/upload_link",
    ] {
        assert!(gets_token(&cloud, good).await, "{good}");
    }
    for bad in [
        "https://edge-platform.sitecorecloud.io/",
        "https://edge-platform.sitecorecloud.io/v1/content/api/graphql/v1?sitecoreContextId=x",
        "https://edge-platform.sitecorecloud.io/v1/files/x",
        "https://edge-platform.sitecorecloud.io/v1/authoring/graphql",
        "https://edge-platform.sitecorecloud.io/authoring/../v1/forms/x",
        "https://edge-platform.sitecorecloud.io/authoring/%2e%2e/v1/events/x",
        "https://edge-platform.sitecorecloud.io/searching",
        "https://ai-agent-api-euw.evil.sitecorecloud.io/api/v1/sites",
        "https://ai-agent-api.sitecorecloud.io/api/v1/sites",
        "https://edge.sitecorecloud.io/api/graphql/v1",
        "https://edge.sitecorecloud.io/api/adminx",
        "https://edge.sitecorecloud.io/",
        "https://auth.sitecorecloud.io/oauth/token",
        "https://xmc-acme-site-prod.sitecorecloud.io/sitecore/api/authoring/graphql/v1/",
        "https://xmclouddeploy-api.sitecorecloud.io/other",
        "https://pages.sitecorecloud.io/api/v1",
    ] {
        assert!(!gets_token(&cloud, bad).await, "{bad}");
    }
    assert!(
        gets_token(
            &[Target::deploy()],
            "https://xmclouddeploy-api.sitecorecloud.io/api/projects/v1"
        )
        .await
    );
    assert!(
        !gets_token(&[Target::deploy()], "https://edge.sitecorecloud.io/api/admin/v1/cache").await
    );
    assert!(
        gets_token(&[Target::edge_admin()], "https://edge.sitecorecloud.io/api/apikey/v1").await
    );
    assert!(
        !gets_token(&[Target::edge_admin()], "https://edge.sitecorecloud.io/api/graphql/v1").await
    );
    assert!(
        gets_token(&[Target::edge_delivery()], "https://edge.sitecorecloud.io/api/graphql/v1")
            .await
    );
    assert!(
        !gets_token(&[Target::edge_delivery()], "https://edge.sitecorecloud.io/api/admin/v1").await
    );
}

#[tokio::test]
async fn an_authoring_target_can_be_named_by_host_or_url() {
    for (given, url) in [
        ("cm.example", "https://cm.example/sitecore/api/x"),
        (" CM.example. ", "https://cm.example/sitecore/api/x"),
        ("cm_acme.example", "https://cm_acme.example/sitecore/api/x"),
        ("https://cm.example", "https://cm.example/sitecore/api/x"),
        ("https://cm.example/", "https://cm.example/sitecore/api/x"),
        ("https://cm_acme.example:8443", "https://cm_acme.example:8443/sitecore/api/x"),
        ("https://10.0.0.1/", "https://10.0.0.1/sitecore/api/x"),
        (
            "https://cm.example/sitecore/api/authoring/graphql/v1/",
            "https://cm.example/sitecore/api/x",
        ),
        ("https://cm.example/sitecore", "https://cm.example/sitecore/api/x"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000/sitecore/api/x"),
    ] {
        let target = Target::authoring(given).unwrap();
        assert!(gets_token(std::slice::from_ref(&target), url).await, "{given}");
        assert!(
            !gets_token(&[target], &url.replace("/sitecore/api/", "/sitecore/")).await,
            "{given}"
        );
    }
}

#[tokio::test]
async fn plain_http_reaches_only_the_host_that_was_named() {
    let targets = [
        Target::authoring("http://cm_1:8080").unwrap().insecure_http(),
        Target::deploy().with_origin(url("http://gateway")).unwrap().insecure_http(),
        Target::deploy().insecure_http().with_origin(url("http://other")).unwrap(),
    ];
    for good in [
        "http://cm_1:8080/sitecore/api/x",
        "http://gateway/api/x",
        "http://GATEWAY:80/api/x",
        "http://other/api/x",
    ] {
        assert!(gets_token(&targets, good).await, "{good}");
    }
    for bad in [
        "http://cm_1/sitecore/api/x",
        "http://cm_1.:8080/sitecore/api/x",
        "https://cm_1:8080/sitecore/api/x",
        "http://gateway/x",
        "http://gateway.example/api/x",
    ] {
        assert!(!gets_token(&targets, bad).await, "{bad}");
    }
}

#[tokio::test]
async fn a_folder_covers_itself_and_what_is_below() {
    let folder = |text| [Target::folder(url(text)).unwrap()];
    let below = folder("https://gateway.example/tenants/acme");
    for good in ["/tenants/acme", "/tenants/acme/", "/tenants/acme/x?y=z"] {
        assert!(gets_token(&below, &format!("https://gateway.example{good}")).await, "{good}");
    }
    for bad in
        ["/", "/tenants/", "/tenants/acme2", "/tenants/acme/../other", "/tenants/acme/%2E%2E/x"]
    {
        assert!(!gets_token(&below, &format!("https://gateway.example{bad}")).await, "{bad}");
    }
    assert!(gets_token(&folder("https://gateway.example"), "https://gateway.example/x").await);
    let agent = [Target::agent(" USE ").unwrap()];
    assert!(gets_token(&agent, "https://ai-agent-api-use.sitecorecloud.io/api/v1/x").await);
}

#[test]
fn a_target_is_displayed_as_the_urls_that_it_covers() {
    assert_eq!(
        Target::edge_admin().to_string(),
        "https://edge.sitecorecloud.io/api/admin/, https://edge.sitecorecloud.io/api/apikey/"
    );
    let moved = Target::authoring("CM.example.").unwrap();
    assert_eq!(moved.to_string(), "https://cm.example/sitecore/api/");
}

#[tokio::test]
async fn a_targets_paths_can_be_on_another_origin() {
    let moved = [Target::deploy().with_origin(url("http://127.0.0.1:8080")).unwrap()];
    assert!(gets_token(&moved, "http://127.0.0.1:8080/api/projects/v1").await);
    for bad in [
        "http://127.0.0.1:8080/other",
        "http://127.0.0.1:8081/api/projects/v1",
        "http://localhost:8080/api/projects/v1",
        "https://xmclouddeploy-api.sitecorecloud.io/api/projects/v1",
    ] {
        assert!(!gets_token(&moved, bad).await, "{bad}");
    }
    let all = [
        Target::origin(url("http://localhost:1")).unwrap(),
        Target::origin(url("https://api.example")).unwrap(),
    ];
    for good in [
        "http://localhost:1/a/b",
        "http://LOCALHOST:1/",
        "https://api.example/x",
        "https://API.example.:443/",
    ] {
        assert!(gets_token(&all, good).await, "{good}");
    }
    for bad in [
        "https://localhost:1/",
        "http://localhost:2/",
        "http://localhost.:1/",
        "http://api.example/",
    ] {
        assert!(!gets_token(&all, bad).await, "{bad}");
    }
}

#[test]
fn an_invalid_target_is_a_config_error() {
    let cause = |error: sitecore_auth::Error| {
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    };
    let build = |target: Target| {
        let cache = TokenCache::new(ScriptedSource::granting(DAY));
        AuthMiddleware::builder(cache).target(target).build()
    };
    for bad in
        ["http://api.example", "http://10.0.0.1", "http://localhost.example", "http://localhost./"]
    {
        let target = Target::origin(url(bad)).unwrap();
        let message = cause(build(target.clone()).expect_err(bad));
        assert!(message.contains("https") && message.contains("insecure_http"), "{message}");
        assert!(build(Target::deploy().with_origin(url(bad)).unwrap()).is_err(), "{bad}");
        assert!(build(target.insecure_http()).is_ok(), "{bad}");
    }
    let message = cause(Target::origin(url("ftp://localhost")).expect_err("a scheme"));
    assert!(message.contains("https"), "{message}");
    assert!(cause(Target::agent("").expect_err("no region")).contains("euw"));
    assert!(Target::agent("eu.evil/").is_err());
    for bad in [
        "https://api.example/path",
        "https://api.example/?q",
        "https://api.example/#f",
        "https://user@api.example",
        "https://:pw@api.example",
    ] {
        let message = cause(Target::origin(url(bad)).expect_err(bad));
        assert!(message.contains("https://api.example") && !message.contains("pw"), "{message}");
    }
    for bad in [
        "",
        "*",
        ".",
        "..",
        "1",
        "127.0.0.1",
        "[::1]",
        "%65vil.com",
        "*.sitecorecloud.io",
        // Parsing drops this letter, which leaves an empty name.
        "\u{3164}.",
        "u@cm.example",
        "https://cm.example/api/",
        "https://cm.example/sitecorex",
        "https://gateway.example/sitecore-cm/sitecore/api/authoring/graphql/v1",
        "cm.example?s3cret",
        "u:s3cret@cm.example",
        "https://cm.example/?q",
        "https://u:s3cret@cm.example",
        "https://cm.example/?token=s3cret",
        "ftp://cm.example",
        "https://",
        "cm.example/path",
        "cm.example:443",
        "a b",
    ] {
        let message = cause(Target::authoring(bad).expect_err(bad));
        assert!(message.contains("host") && !message.contains("s3cret"), "{message}");
    }
}

proptest! {
    /// Compares with a second implementation that looks at the parsed URL.
    #[test]
    fn a_random_url_gets_a_token_if_and_only_if_a_target_covers_it(
        scheme in prop_oneof!["https", "http", "ftp"],
        user in prop_oneof![Just(String::new()), Just("xmc-acme-site-prod.sitecorecloud.io@".to_owned()), Just("u:p@".to_owned())],
        host in prop_oneof![
            Just(CM.to_owned()), Just(CM.to_uppercase()), Just(format!("{CM}.")), Just(format!("{CM}.evil.com")),
            Just("edge.sitecorecloud.io".to_owned()), Just("127.0.0.1".to_owned()), "[a-z.-]{0,12}sitecorecloud\\.io", "[a-z0-9.-]{1,20}",
        ],
        port in prop_oneof![Just(String::new()), Just(":443".to_owned()), Just(":80".to_owned()), ":[0-9]{1,5}"],
        path in prop_oneof![Just("/sitecore/api/x".to_owned()), Just("/api/admin/v1".to_owned()), "(/[a-z.%2eF]{0,8}){0,4}"],
    ) {
        let text = format!("{scheme}://{user}{host}{port}{path}");
        let Ok(url) = Url::parse(&text) else { return Ok(()) };
        if url.scheme() == "ftp" { return Ok(()) }
        let targets = [Target::authoring(CM).unwrap(), Target::edge_admin()];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let attached = runtime.block_on(gets_token(&targets, &text));
        let host = url.host_str().unwrap_or_default();
        let host = host.strip_suffix('.').unwrap_or(host);
        let expected = url.scheme() == "https" && url.port_or_known_default() == Some(443) && match host {
            _ if url.path().contains('%') && url.path().contains("..") => attached,
            CM => url.path() == "/sitecore/api" || url.path().starts_with("/sitecore/api/"),
            "edge.sitecorecloud.io" => ["/api/admin", "/api/apikey"].iter().any(|folder| url.path() == *folder || url.path().starts_with(&format!("{folder}/"))),
            _ => false,
        };
        prop_assert_eq!(attached, expected, "{}", text);
    }
}
