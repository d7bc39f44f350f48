// Sitecore's own client for Node against the sandbox: a token, a GraphQL call with it, and Delivery by context id and
// by key. `scripts/test` installs the packages and runs this in the sandbox.
const assert = require("node:assert/strict");
const { GraphQLRequestClient } = require("@sitecore-content-sdk/core");
const { auth } = require("@sitecore-content-sdk/core/node-tools");
const { createGraphQLClientFactory } = require("@sitecore-content-sdk/content/client");
const { DictionaryService } = require("@sitecore-content-sdk/content/i18n");
const { LayoutService } = require("@sitecore-content-sdk/content/layout");
const {
  ErrorPagesService,
  RedirectsService,
  RobotsService,
  SiteInfoService,
  SitePathService,
  SitemapXmlService,
} = require("@sitecore-content-sdk/content/site");
const { PersonalizeService } = require("@sitecore-content-sdk/content/personalize");

const env = process.env;
const site = "acme";

async function main() {
  // A token, with the parameters that this client adds and the claims that it requires.
  const { accessToken, tokenOrgId } = await auth.clientCredentialsFlow({
    clientId: env.SITECORE_ENVIRONMENT_CLIENT_ID,
    clientSecret: env.SITECORE_ENVIRONMENT_CLIENT_SECRET,
    authority: env.SITECORE_AUTH_AUTHORITY,
    audience: env.SITECORE_AUTH_AUDIENCE,
  });
  assert.equal(tokenOrgId, "org_sandbox");

  // A GraphQL call with the token, and one with a wrong token.
  const authoring = (token) =>
    new GraphQLRequestClient(env.SITECORE_AUTHORING_URL, { headers: { Authorization: `Bearer ${token}` } });
  const { sites } = await authoring(accessToken).request("{ sites { name } }");
  assert.equal(sites[0].name, site);
  await assert.rejects(authoring("wrong").request("{ sites { name } }"), (error) => {
    assert.equal(error.response.errors[0].extensions.code, "AUTH_NOT_AUTHENTICATED");
    return true;
  });

  // Delivery, the way a website reads its content.
  const clientFactory = createGraphQLClientFactory({
    api: { edge: { contextId: env.SITECORE_EDGE_CONTEXT_ID, edgeUrl: env.SITECORE_EDGE_URL } },
  });
  const layout = await new LayoutService({ clientFactory }).fetchLayoutData("/About", { site, locale: "en" });
  assert.equal(layout.sitecore.route.name, "About");
  const missing = await new LayoutService({ clientFactory }).fetchLayoutData("/none", { site, locale: "en" });
  assert.equal(missing.sitecore.route, null);
  const phrases = await new DictionaryService({ clientFactory, cacheEnabled: false }).fetchDictionaryData("en", site);
  assert.equal(phrases.ReadMore, "Read more");
  assert.match(await new RobotsService({ clientFactory, siteName: site }).fetchRobots(), /User-agent/);
  const paths = await new SitePathService({ clientFactory, sites: [{ name: site }] }).fetchSiteRoutes([site], ["en"]);
  assert.ok(JSON.stringify(paths).includes("Products"), JSON.stringify(paths));

  const sitemaps = await new SitemapXmlService({ clientFactory, siteName: site }).fetchSitemaps();
  assert.match(sitemaps[0], /sitemap\.xml$/);
  const redirects = await new RedirectsService({ clientFactory }).fetchRedirects(site);
  assert.equal(redirects[0].redirectType, "REDIRECT_301");
  const errorPages = await new ErrorPagesService({ clientFactory }).fetchErrorPages(site, "en");
  assert.equal(errorPages.notFoundPage, null);
  const variants = await new PersonalizeService({ clientFactory }).getPersonalizeInfo("/About", "en", site);
  assert.deepEqual(variants.variantIds, []);
  const personalizedPaths = new SitePathService({ clientFactory, sites: [{ name: site }], includePersonalizedRoutes: true });
  assert.equal((await personalizedPaths.fetchSiteRoutes([site], ["en"])).length, paths.length);
  const infos = await new SiteInfoService({ clientFactory }).fetchSiteInfo();
  assert.deepEqual(infos.map((info) => info.name).sort(), ["acme", "acme-campaigns"]);

  // A search, with the predicates that websites use for a sitemap.
  const search = `query ($root: String!, $language: String!, $pageSize: Int = 2, $after: String) {
    search(where: { AND: [{ name: "_path", value: $root, operator: CONTAINS }
      { name: "_language", value: $language } { name: "_hasLayout", value: "true" }] }, first: $pageSize, after: $after) {
      pageInfo { endCursor hasNext } results { url { path } } } }`;
  const client = clientFactory();
  const root = (await client.request('{ item(path: "/sitecore/content/acme/Home", language: "en") { id } }')).item.id;
  const pages = [];
  for (let page = { pageInfo: { hasNext: true } }; page.pageInfo.hasNext; ) {
    ({ search: page } = await client.request(search, { root, language: "en", after: page.pageInfo.endCursor }));
    pages.push(...page.results.map((item) => item.url.path));
  }
  assert.deepEqual(pages, ["/", "/About", "/Products"]);

  // Delivery with an Edge key.
  const delivery = (apiKey) => new GraphQLRequestClient(`${env.SITECORE_EDGE_URL}/api/graphql/v1`, { apiKey, retries: 0 });
  const query = '{ item(path: "/sitecore/content/acme/Home", language: "en") { name } }';
  assert.equal((await delivery(env.SITECORE_EDGE_TOKEN).request(query)).item.name, "Home");
  await assert.rejects(delivery("wrong").request(query));
  console.log("Sitecore's client for Node: all calls succeeded");
}

main();
