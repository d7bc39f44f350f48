//! The Authoring API's background jobs, which publish to Experience Edge.

use std::sync::Arc;

use async_graphql::{Context, Error, ID, InputObject, Object, Result, SimpleObject};

use crate::{authoring::SignedIn, sandbox::World};

/// How many status requests it takes until a job is done.
const LOOKS: u32 = 2;

/// A publishing job, which progresses with each status request.
#[derive(Clone)]
pub(crate) struct Publish {
    id: String,
    root: String,
    looks_left: u32,
}

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
        if job.looks_left > 0 {
            job.looks_left -= 1;
            if job.looks_left == 0 {
                world.publish(&job.root);
            }
        }
        Ok(PublishingStatus {
            is_done: job.looks_left == 0,
            is_failed: false,
            publishing_status_message: if job.looks_left == 0 { "Done" } else { "Running" },
        })
    }

    /// The jobs of this CM.
    #[graphql(guard = "SignedIn")]
    async fn jobs(&self, context: &Context<'_>) -> Result<JobConnection> {
        let jobs = context.data::<Arc<World>>()?.publishes.lock();
        let nodes = jobs.iter().map(|job| Job {
            handle: ID(job.id.clone()),
            name: format!("Publish {}", job.root),
            done: job.looks_left == 0,
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
        let root = world
            .content
            .lock()
            .find(input.root_item_path.as_deref(), input.root_item_id.as_ref())
            .map(|item| item.path.clone())
            .ok_or_else(|| Error::new("The item was not found."))?;
        let mut jobs = world.publishes.lock();
        let id = format!("{:08}-0000-4000-8000-000000000000", jobs.len() + 1);
        jobs.push(Publish { id: id.clone(), root, looks_left: LOOKS });
        Ok(PublishItemPayload { operation_id: id })
    }
}

#[derive(SimpleObject)]
struct PublishingStatus {
    is_done: bool,
    is_failed: bool,
    publishing_status_message: &'static str,
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

#[derive(InputObject)]
struct PublishItemInput {
    root_item_id: Option<ID>,
    root_item_path: Option<String>,
    #[graphql(default)]
    publish_sub_items: bool,
    #[graphql(default)]
    languages: Vec<String>,
    #[graphql(default)]
    target_databases: Vec<String>,
}
