//! The commands, one file each.

pub(crate) mod check;
pub(crate) mod edge_key;
pub(crate) mod graphql;
pub(crate) mod inspect;
pub(crate) mod proxy;
pub(crate) mod request;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod store;
pub(crate) mod token;
pub(crate) mod wait;
