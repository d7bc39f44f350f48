//! The commands, a file each.

pub(crate) mod check;
pub(crate) mod edge_key;
pub(crate) mod graphql;
pub(crate) mod inspect;
pub(crate) mod request;
pub(crate) mod schema;
pub(crate) mod store;
pub(crate) mod token;
