//! The middleware: which requests get a token, and what happens to their responses.

mod attach;
mod bodies;
mod deadlines;
mod graphql;
mod other_middleware;
mod passthrough;
mod redirects;
mod replay;
mod targets;
mod unauthenticated;
