//! The Authoring API's background jobs, which publish to Experience Edge.

use std::sync::Arc;

use async_graphql::{Context, Enum, Error, ID, InputObject, Object, Result, SimpleObject};

use super::access::SignedIn;
use crate::cloud::{Publish, World};

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
        let world = context.data::<Arc<World>>()?;
        let mut jobs = world.publishes.lock();
        let job = jobs.iter_mut().find(|job| job.id == publishing_operation_id);
        let job = job.ok_or_else(|| Error::new("The publishing operation was not found."))?;
        if job.advance() {
            world.publish(&job.root);
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
        let jobs = context.data::<Arc<World>>()?.publishes.lock();
        let nodes = jobs.iter().map(|job| Job {
            handle: ID(job.id.clone()),
            name: format!("Publish {}", job.root),
            done: job.is_done(),
        });
        Ok(JobConnection { nodes: nodes.collect() })
    }
}

#[derive(Default)]
pub(crate) struct PublishingMutation;

#[Object]
impl PublishingMutation {
    /// Starts publishing an item and its descendants. Other options are ignored.
    #[graphql(guard = "SignedIn")]
    async fn publish_item(
        &self,
        context: &Context<'_>,
        input: PublishItemInput,
    ) -> Result<PublishItemPayload> {
        let world = context.data::<Arc<World>>()?;
        let id = input.root_item_ids.as_ref().and_then(|ids| ids.first());
        let id = id.or(input.root_item_id.as_ref());
        let root = world
            .content
            .lock()
            .find(input.root_item_path.as_deref(), id)
            .map(|item| item.path.clone())
            .ok_or_else(|| Error::new("The item was not found."))?;
        Ok(start(world, root))
    }

    /// Starts publishing everything. Options are ignored.
    #[graphql(guard = "SignedIn")]
    async fn publish_site(
        &self,
        context: &Context<'_>,
        #[graphql(name = "input")] _input: Option<PublishSiteInput>,
    ) -> Result<PublishItemPayload> {
        Ok(start(context.data::<Arc<World>>()?, "/sitecore".to_owned()))
    }

    /// Cancels a publishing job that has not ended.
    #[graphql(guard = "SignedIn")]
    async fn cancel_publishing(
        &self,
        context: &Context<'_>,
        input: CancelPublishingInput,
    ) -> Result<CancelPublishingPayload> {
        let mut jobs = context.data::<Arc<World>>()?.publishes.lock();
        let mut open = jobs.iter_mut().filter(|job| !job.is_done());
        let job = open.find(|job| job.id == input.publishing_operation_id);
        Ok(CancelPublishingPayload { successful: job.map(|job| job.is_canceled = true).is_some() })
    }

    /// Does nothing, because the sandbox has no index.
    #[graphql(guard = "SignedIn")]
    async fn rebuild_indexes(&self, input: RebuildIndexesInput) -> RebuildIndexesPayload {
        let jobs = input.index_names.into_iter().map(|name| RebuildIndexJob { name });
        RebuildIndexesPayload { jobs: jobs.collect() }
    }
}

fn start(world: &World, root: String) -> PublishItemPayload {
    let mut jobs = world.publishes.lock();
    let id = format!("{:08}-0000-4000-8000-000000000000", jobs.len() + 1);
    jobs.push(Publish::new(id.clone(), root));
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
    jobs: Vec<RebuildIndexJob>,
}

#[derive(SimpleObject)]
struct RebuildIndexJob {
    name: String,
}

#[derive(InputObject)]
struct PublishSiteInput {
    #[graphql(default)]
    languages: Vec<String>,
    #[graphql(default)]
    target_databases: Vec<String>,
    publish_site_mode: Option<String>,
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
    done: bool,
}

#[derive(SimpleObject)]
struct PublishItemPayload {
    operation_id: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Enum)]
enum PublishItemMode {
    Smart,
    Full,
}

#[derive(InputObject)]
struct PublishItemInput {
    root_item_id: Option<ID>,
    root_item_ids: Option<Vec<ID>>,
    root_item_path: Option<String>,
    source_database: Option<String>,
    publish_item_mode: Option<PublishItemMode>,
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
