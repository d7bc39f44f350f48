//! The connections of runtimes that have ended.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

use redis::IntoConnectionInfo as _;
use tokio::runtime::Builder;

use super::*;

#[test]
fn runtimes_that_ended_while_they_connected_leave_nothing_behind() {
    // Accepts connections and never responds.
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("redis://{}", server.local_addr().expect("an address"));
    let info = url.into_connection_info().expect("a URL");
    let link = Link::new(Server::One(Box::new(info)), None, Duration::from_secs(5));
    for _ in 0..5 {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let open = async { timeout(Duration::from_millis(10), link.open()).await };
        let open = runtime.block_on(open);
        assert!(open.is_err(), "the server does not respond");
    }
    assert_eq!(link.states().len(), 1, "only that of the last one");
}

#[test]
fn an_unused_connection_of_a_runtime_that_ended_is_forgotten() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("redis://{}", server.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a connection");
        // Accepts whatever the client sends first.
        while stream.read(&mut [0; 1_024]).is_ok_and(|read| read > 0) {
            let _ = stream.write_all(b"+OK\r\n+OK\r\n");
        }
    });
    let info = url.into_connection_info().expect("a URL");
    let link = Link::new(Server::One(Box::new(info)), None, Duration::from_secs(5));
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut open = runtime.block_on(link.open()).expect("a connection");
    assert!(State::Open(open.clone()).is_needed());
    open.opened_at = monotonic().saturating_sub(MAX_IDLE);
    assert!(!State::Open(open.clone()).is_needed());
    open.touch();
    assert!(State::Open(open).is_needed());
}
