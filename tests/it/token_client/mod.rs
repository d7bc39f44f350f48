//! The raw token client, on real sockets.

mod credentials;
mod endpoint;
mod response;
