#!/usr/bin/env python3
"""A real browser at the local proxy: pages of another origin get nothing, and the status page is live.

Usage: tests/proxy_in_browser.py PROGRAM, with the variables of the sandbox. Requires Chromium.
"""

import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=8000",
    "--host-resolver-rules=MAP attacker.example 127.0.0.1",
]

PAGE = """<!doctype html><title>attacker</title><iframe name="target"></iframe>
<form id="form" method="post" target="target" enctype="text/plain" action="PROXY/deploy/api/form"></form>
<pre id="results"></pre>
<script>
const results = {};
async function attempt(name, url, options) {
  try {
    const response = await fetch(url, options);
    results[name] = response.type === "opaque" ? "opaque" : (await response.text()).slice(0, 80);
  } catch (error) {
    results[name] = "refused";
  }
}
(async () => {
  document.getElementById("form").submit();
  await attempt("simple", "PROXY/deploy/api/simple");
  await attempt("opaque", "PROXY/deploy/api/opaque", { mode: "no-cors" });
  await attempt("post", "PROXY/deploy/api/post", { method: "POST", mode: "no-cors", body: "a" });
  await attempt("header", "PROXY/deploy/api/header", { headers: { "X-Sitecore-Auth-Key": "x" } });
  // The attacker's own name now leads to the proxy.
  await attempt("rebound", "http://attacker.example:PORT/deploy/api/rebound", { mode: "no-cors" });
  await attempt("status", "STATUS/status.json");
  document.getElementById("results").textContent = JSON.stringify(results);
})();
</script>"""


class Api(http.server.BaseHTTPRequestHandler):
    """The API behind the proxy. It must not be called."""

    paths = []

    def respond(self):
        self.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = do_OPTIONS = respond

    def log_message(self, *_):
        pass


class Attacker(Api):
    page = ""

    def respond(self):
        body = self.page.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = respond


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def browse(url):
    """Returns the document after its scripts have run."""
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", *FLAGS, f"--user-data-dir={profile}", "--dump-dom", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout


def main():
    api, attacker = serve(Api), serve(Attacker)
    # Without the key, so that the browser's own headers are all that protects.
    arguments = ["proxy", "--deploy", "--no-key", "--status", "127.0.0.1:0"]
    environment = {**os.environ, "SITECORE_DEPLOY_URL": f"http://127.0.0.1:{api}"}
    proxy = subprocess.Popen(
        [sys.argv[1], *arguments], stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        ready = json.loads(proxy.stdout.readline())
        port = ready["url"].rsplit(":", 1)[1]
        page = PAGE.replace("PROXY", ready["url"]).replace("STATUS/", ready["status_url"])
        Attacker.page = page.replace("PORT", port)
        dom = browse(f"http://attacker.example:{attacker}/")
        results = json.loads(dom.split('<pre id="results">')[1].split("</pre>")[0])
        assert results.keys() == {"simple", "opaque", "post", "header", "rebound", "status"}, results
        readable = {name for name, result in results.items() if result not in ("refused", "opaque")}
        assert not readable, results
        assert Api.paths == [], Api.paths

        status = browse(ready["status_url"])
        assert 'id="live" class="on">live<' in status, status
        assert "error of the proxy" in status and "/deploy/api/rebound" in status, status
    finally:
        proxy.terminate()
        proxy.wait()
    print("proxy_in_browser.py: passed")


main()
