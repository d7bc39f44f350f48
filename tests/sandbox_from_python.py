#!/usr/bin/env python3
"""Calls every API of the sandbox from Python, as a client in another language would.

Usage: tests/sandbox_from_python.py COMMAND...

COMMAND starts the sandbox as a program. The requests follow Sitecore's documentation, and only the
standard library is used.
"""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from multiprocessing.pool import ThreadPool

# Requests to loopback must not go through a proxy.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(method, url, body=None, headers=None):
    """Sends a request and returns the status, headers and body."""
    headers = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    try:
        with OPENER.open(request, timeout=10) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def expect(what, status, response):
    """Exits unless the response has this status. Returns its body, parsed if it is JSON."""
    if response[0] != status:
        sys.exit(f"{what}: expected {status}, got {response[0]}: {response[2][:500]!r}")
    print(f"{what}: {status}")
    text = response[2].decode()
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(sandbox):
    exported = {}
    for line in sandbox.stdout:
        exported.update(re.findall(r"(\w+)='([^']*)'", line))
        if line.startswith("# Running"):
            break

    def token(prefix, **other):
        parameters = {
            "grant_type": "client_credentials",
            "client_id": exported[f"{prefix}_CLIENT_ID"],
            "client_secret": exported[f"{prefix}_CLIENT_SECRET"],
            "audience": exported["SITECORE_AUTH_AUDIENCE"],
        }
        form = urllib.parse.urlencode(parameters | other).encode()
        return call("POST", exported["SITECORE_AUTH_AUTHORITY"] + "/oauth/token", form)

    def bearer(prefix):
        response = expect(f"token for {prefix}", 200, token(prefix))
        assert response["token_type"] == "Bearer" and response["expires_in"] > 0, response
        return {"Authorization": "Bearer " + response["access_token"]}

    error = expect("wrong secret", 401, token("SITECORE_AUTH", client_secret="wrong"))
    assert error["error"] == "access_denied", error
    error = expect("wrong audience", 403, token("SITECORE_AUTH", audience="https://other"))
    assert error["error"] == "access_denied", error
    error = expect("scope not granted", 403, token("SITECORE_AUTH", scope="x:y"))
    assert error["error"] == "access_denied", error
    organization, environment, edge = map(bearer, ["SITECORE_AUTH", "SITECORE_ENVIRONMENT", "SITECORE_EDGE"])

    # Authoring and Management GraphQL.
    authoring = exported["SITECORE_AUTHORING_URL"]

    def graphql(query, headers, url=authoring):
        return expect("GraphQL", 200, call("POST", url, {"query": query}, headers))

    assert graphql("{ sites { name } }", environment)["data"]["sites"][0]["name"] == "acme"
    assert graphql("{ sites { name } }", organization, authoring.rstrip("/"))["data"]["sites"]
    management = urllib.parse.urljoin(authoring, "/sitecore/api/management")
    assert graphql("{ sites { name } }", environment, management)["data"]["sites"]
    for headers, code in [({}, "AUTH_NOT_AUTHENTICATED"), (edge, "AUTH_NOT_AUTHORIZED")]:
        error = graphql("{ sites { name } }", headers)["errors"][0]
        assert error["extensions"]["code"] == code and error["path"] == ["sites"], error
    upload = graphql('mutation { uploadMedia(input: { itemPath: "Project/logo" }) { presignedUploadUrl } }', environment)
    url = upload["data"]["uploadMedia"]["presignedUploadUrl"]
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="l.png"\r\n\r\nbytes\r\n--b--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert "Log in" in expect("upload without token", 200, call("POST", url, form, kind))
    assert expect("upload", 200, call("POST", url, form, kind | environment))["Name"] == "logo"

    # Deploy.
    deploy = exported["SITECORE_DEPLOY_URL"]
    expect("Deploy without token", 401, call("GET", deploy + "/api/projects/v1"))
    expect("Deploy, wrong kind of client", 403, call("GET", deploy + "/api/projects/v1", headers=environment))
    assert expect("projects", 200, call("GET", deploy + "/api/projects/v1", headers=organization))
    page = expect("environments", 200, call("GET", deploy + "/api/environments/v2?pageSize=1", headers=organization))
    assert page["totalCount"] == 2 and len(page["data"]) == 1, page
    identifier = page["data"][0]["id"]
    created = expect("deployment", 201, call("POST", f"{deploy}/api/environments/v1/{identifier}/deployments/", b"", organization))
    assert expect("organizations", 200, call("GET", deploy + "/api/organizations/v1", headers=organization))
    expect("deployment started", 202, call("POST", f"{deploy}/api/deployments/v1/{created['id']}/deploy", b"", organization))
    expect("deployment status", 200, call("GET", f"{deploy}/api/deployments/v1/{created['id']}", headers=organization))
    obtain = f"{deploy}/api/environments/v1/{identifier}/obtain-edge-token"
    key = expect("Edge key", 200, call("GET", obtain, headers=organization))["apiKey"]
    problem = expect("unknown environment", 404, call("GET", obtain.replace(identifier, "none"), headers=organization))
    assert problem["status"] == 404, problem

    # Experience Edge: Admin, Token and Delivery API.
    cloud = exported["SITECORE_EDGE_URL"]
    admin = cloud + "/api/admin/v1"
    expect("settings, wrong kind of client", 403, call("GET", admin + "/settings", headers=organization))
    assert expect("settings", 200, call("GET", admin + "/settings", headers=edge))["contentCacheTtl"]
    patch = [{"op": "replace", "path": "/contentcachettl", "value": "00:15:00"}]
    kind = {"Content-Type": "application/json-patch+json"}
    assert expect("settings patched", 200, call("PATCH", admin + "/settings", json.dumps(patch).encode(), edge | kind))["contentCacheTtl"] == "00:15:00"
    expect("cache cleared", 202, call("DELETE", admin + "/cache", headers=edge))
    hook = expect("webhook", 201, call("POST", admin + "/webhooks", {"label": "hook", "uri": "https://hook.example"}, edge))
    expect("webhook deleted", 204, call("DELETE", f"{admin}/webhooks/{hook['id']}", headers=edge))
    keys = cloud + "/api/apikey/v1"
    body = {"CreatedBy": "me", "Label": "mine", "Scopes": ["audience-delivery", "content-#everything#"]}
    own = expect("key created", 201, call("POST", keys, body, edge))
    listed = expect("keys", 200, call("GET", keys + "?filterRevoked=true&label=mine", headers=edge))
    found = expect("key by token", 200, call("GET", keys + "/token", headers=edge | {"X-GQL-Token": own}))
    assert listed["keys"] == [found], (listed, found)
    delivery = cloud + "/api/graphql/v1"
    query = {"query": '{ item(path: "/sitecore/content/acme/Home", language: "en") { name } }'}
    for headers in [{"sc_apikey": key}, {"X-GQL-Token": own}]:
        response = expect("Delivery", 200, call("POST", delivery, query, headers))
        assert response["data"]["item"]["name"] == "Home", response
    expect("Delivery with a JWT", 401, call("POST", delivery, query, edge))
    expect("key revoked", 204, call("PUT", f"{keys}/revokebyhash/{found['hash']}", b"", edge))
    expect("Delivery with the revoked key", 401, call("POST", delivery, query, {"sc_apikey": own}))
    with ThreadPool(20) as pool:
        statuses = pool.map(lambda _: call("POST", delivery, query, {"sc_apikey": key})[0], range(1000))
    assert set(statuses) == {200, 429}, set(statuses)

    # Faults and counts over HTTP.
    control = exported["SITECORE_AUTH_AUTHORITY"] + "/_sandbox"
    before = expect("counts", 200, call("GET", control))
    expect("fault", 204, call("POST", control + "/faults", {"api": "deploy", "fault": "503", "times": 2}))
    for status in [503, 503, 200]:
        expect("Deploy with a fault", status, call("GET", deploy + "/api/projects/v1", headers=organization))
    expect("lasting fault", 204, call("POST", control + "/faults", {"api": "edge", "fault": "418", "times": None}))
    expect("Edge with a fault", 418, call("GET", admin + "/settings", headers=edge))
    expect("faults removed", 204, call("DELETE", control + "/faults"))
    expect("Edge without a fault", 200, call("GET", admin + "/settings", headers=edge))
    after = expect("counts", 200, call("GET", control))
    assert after["apis"]["deploy"]["calls"] - before["apis"]["deploy"]["calls"] == 3, after
    expect("invalid fault", 400, call("POST", control + "/faults", {"api": "deploy", "fault": "sometimes"}))
    expect("lifetime", 204, call("PUT", control + "/token-lifetime", {"lifetime": "4s"}))
    assert expect("short token", 200, token("SITECORE_AUTH"))["expires_in"] == 4
    expect("tokens revoked", 204, call("POST", control + "/revoke-tokens", b""))
    expect("Deploy with a revoked token", 401, call("GET", deploy + "/api/projects/v1", headers=organization))
    print("all APIs respond as documented")


if __name__ == "__main__":
    process = subprocess.Popen([*sys.argv[1:], "--token-lifetime", "600s"], stdout=subprocess.PIPE, text=True)
    try:
        main(process)
    finally:
        process.terminate()
        process.wait()
