//! The Authoring API's background jobs, which publish to Experience Edge.

use std::sync::Arc;

use async_graphql::{Context, Enum, Error, ID, InputObject, Object, Result, SimpleObject};

use super::access::SignedIn;
use crate::cloud::{Cloud, Publish, Tree};

#[derive(Default)]
pub(crate) struct PublishingQuery;

#[Object]
impl PublishingQuery {
    /// The status of a publishing job.
    #[graphql(guard = "SignedIn")]
    async fn publishing_status(
        &self,
        context: &Context<'_>,
        publishing_operation_id: String,
    ) -> Result<PublishingStatus> {
        let cloud = context.data::<Arc<Cloud>>()?;
        let mut jobs = cloud.publishes.lock();
        let job = jobs.iter_mut().find(|job| job.id == publishing_operation_id);
        let job = job.ok_or_else(|| Error::new("The publishing operation was not found."))?;
        if job.advance() {
            job.roots.iter().for_each(|root| cloud.publish(root));
        }
        let is_done = job.is_done();
        Ok(PublishingStatus {
            is_done,
            is_failed: false,
            publishing_status_message: if is_done { "Done" } else { "Running" },
            state: match (job.is_canceled, is_done) {
                (true, _) => "CANCELED",
                (false, true) => "FINISHED",
                (false, false) => "RUNNING",
            },
            processed: u32::from(is_done),
        })
    }

    /// The jobs of this CM.
    #[graphql(guard = "SignedIn")]
    async fn jobs(&self, context: &Context<'_>) -> Result<JobConnection> {
        Ok(JobConnection { nodes: all_jobs(context.data::<Arc<Cloud>>()?) })
    }

    /// The latest job with this name.
    #[graphql(guard = "SignedIn")]
    async fn job(&self, context: &Context<'_>, input: JobInput) -> Result<Option<Job>> {
        let mut jobs = all_jobs(context.data::<Arc<Cloud>>()?).into_iter().rev();
        Ok(jobs.find(|job| job.name == input.job_name))
    }
}

fn all_jobs(cloud: &Cloud) -> Vec<Job> {
    let publishes = cloud.publishes.lock();
    let publishes = publishes.iter().map(|job| {
        Job::new(job.id.clone(), format!("Publish {}", job.roots.join(", ")), job.is_done())
    });
    let rebuilt = cloud.rebuilt_indexes.lock();
    let rebuilds = rebuilt.iter().map(|name| Job::of_index(name.clone()));
    publishes.chain(rebuilds).collect()
}

#[derive(Default)]
pub(crate) struct PublishingMutation;

#[Object]
impl PublishingMutation {
    /// Starts publishing items and their descendants. Other options are ignored.
    #[graphql(guard = "SignedIn")]
    async fn publish_item(
        &self,
        context: &Context<'_>,
        input: PublishItemInput,
    ) -> Result<PublishItemPayload> {
        let cloud = context.data::<Arc<Cloud>>()?;
        let roots = roots(&cloud.content.lock(), &input);
        Ok(start(cloud, roots.ok_or_else(|| Error::new("The item was not found."))?))
    }

    /// Starts publishing everything. Options are ignored.
    #[graphql(guard = "SignedIn")]
    async fn publish_site(
        &self,
        context: &Context<'_>,
        #[graphql(name = "input")] _input: Option<PublishSiteInput>,
    ) -> Result<PublishItemPayload> {
        Ok(start(context.data::<Arc<Cloud>>()?, vec!["/sitecore".to_owned()]))
    }

    /// Cancels a publishing job that has not ended.
    #[graphql(guard = "SignedIn")]
    async fn cancel_publishing(
        &self,
        context: &Context<'_>,
        input: CancelPublishingInput,
    ) -> Result<CancelPublishingPayload> {
        let mut jobs = context.data::<Arc<Cloud>>()?.publishes.lock();
        let mut open = jobs.iter_mut().filter(|job| !job.is_done());
        let job = open.find(|job| job.id == input.publishing_operation_id);
        Ok(CancelPublishingPayload { successful: job.map(|job| job.is_canceled = true).is_some() })
    }

    /// Only records jobs, because the sandbox has no index.
    #[graphql(guard = "SignedIn")]
    async fn rebuild_indexes(
        &self,
        context: &Context<'_>,
        input: RebuildIndexesInput,
    ) -> Result<RebuildIndexesPayload> {
        let cloud = context.data::<Arc<Cloud>>()?;
        cloud.rebuilt_indexes.lock().extend(input.index_names.clone());
        let jobs = input.index_names.into_iter().map(Job::of_index);
        Ok(RebuildIndexesPayload { jobs: jobs.collect() })
    }
}

/// Returns the paths of the items to publish; `None` if one is missing or none is given.
fn roots(tree: &Tree, input: &PublishItemInput) -> Option<Vec<String>> {
    let ids = input.root_item_ids.iter().flatten().chain(&input.root_item_id);
    let found = ids.map(|id| tree.find(None, Some(id)));
    let found = found.chain(input.root_item_path.iter().map(|path| tree.find(Some(path), None)));
    let roots: Option<Vec<_>> = found.map(|item| Some(item?.path.clone())).collect();
    roots.filter(|roots| !roots.is_empty())
}

fn start(cloud: &Cloud, roots: Vec<String>) -> PublishItemPayload {
    let mut jobs = cloud.publishes.lock();
    let id = format!("{:08}-0000-4000-8000-000000000000", jobs.len() + 1);
    jobs.push(Publish::new(id.clone(), roots));
    PublishItemPayload { operation_id: id }
}

#[derive(SimpleObject)]
struct PublishingStatus {
    is_done: bool,
    is_failed: bool,
    publishing_status_message: &'static str,
    state: &'static str,
    processed: u32,
}

#[derive(SimpleObject)]
struct CancelPublishingPayload {
    successful: bool,
}

#[derive(SimpleObject)]
struct RebuildIndexesPayload {
    jobs: Vec<Job>,
}

#[derive(InputObject)]
struct PublishSiteInput {
    #[graphql(default)]
    languages: Vec<String>,
    #[graphql(default)]
    target_databases: Vec<String>,
    publish_site_mode: Option<PublishMode>,
    source_database: Option<String>,
}

#[derive(InputObject)]
struct CancelPublishingInput {
    publishing_operation_id: String,
}

#[derive(InputObject)]
struct RebuildIndexesInput {
    #[graphql(default)]
    index_names: Vec<String>,
}

#[derive(SimpleObject)]
struct JobConnection {
    nodes: Vec<Job>,
}

#[derive(SimpleObject)]
struct Job {
    handle: ID,
    name: String,
    status: JobStatus,
    done: bool,
}

#[derive(SimpleObject)]
struct JobStatus {
    total: u32,
    messages: Vec<String>,
    processed: u32,
    job_state: &'static str,
}

#[derive(InputObject)]
struct JobInput {
    job_name: String,
}

impl Job {
    fn new(handle: String, name: String, done: bool) -> Self {
        let job_state = if done { "FINISHED" } else { "RUNNING" };
        let status =
            JobStatus { total: 1, messages: Vec::new(), processed: u32::from(done), job_state };
        Self { handle: ID(handle), name, status, done }
    }

    /// Creates the job of an index, which has ended at once.
    fn of_index(name: String) -> Self {
        Self::new(format!("index-{name}"), name, true)
    }
}

#[derive(SimpleObject)]
struct PublishItemPayload {
    operation_id: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(name = "PublishMode")]
enum PublishMode {
    Smart,
    Full,
}

#[derive(InputObject)]
struct PublishItemInput {
    root_item_id: Option<ID>,
    root_item_ids: Option<Vec<ID>>,
    root_item_path: Option<String>,
    source_database: Option<String>,
    publish_item_mode: Option<PublishMode>,
    #[graphql(default)]
    publish_related_items: bool,
    display_name: Option<String>,
    #[graphql(default)]
    publish_sub_items: bool,
    #[graphql(default)]
    languages: Vec<String>,
    #[graphql(default)]
    target_databases: Vec<String>,
}
