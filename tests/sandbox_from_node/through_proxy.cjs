// Sitecore's own client for Node through the local proxy, without a token or a key of its own. `scripts/test` runs this
// with `sitecore-auth run`.
const assert = require("node:assert/strict");
const { GraphQLRequestClient } = require("@sitecore-content-sdk/core");

const { SITECORE_PROXY_URL: url, SITECORE_PROXY_KEY: key } = process.env;
const client = (path) => new GraphQLRequestClient(url + path, { headers: { "X-Sitecore-Auth-Key": key }, retries: 0 });

async function main() {
  const { sites } = await client("/authoring/").request("{ sites { name } }");
  assert.equal(sites[0].name, "acme");
  const query = '{ item(path: "/sitecore/content/acme/Home", language: "en") { name } }';
  assert.equal((await client("/delivery/").request(query)).item.name, "Home");
  console.log("Sitecore's client for Node through the proxy: all calls succeeded");
}

main();
