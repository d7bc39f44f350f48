//! A server that writes raw bytes, for responses that a well-behaved server does not produce.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// What the server does after it has written the bytes.
#[derive(Clone, Copy)]
pub(crate) enum AfterWrite {
    /// Closes the connection.
    Close,
    /// Resets the connection after the client has had time to read.
    Reset,
    /// Repeats the last byte at this interval until the client disconnects.
    Repeat(Duration),
    /// Keeps the connection open and does nothing.
    Hang,
}

/// Writes the same bytes to every connection, and counts the connections.
pub(crate) struct RawServer {
    port: u16,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl RawServer {
    pub(crate) async fn start(bytes: impl Into<Vec<u8>>, then: AfterWrite) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (connections, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(bytes.into()));
        let mut tasks = JoinSet::new();
        let count = Arc::clone(&connections);
        tasks.spawn(async move {
            let mut responses = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                responses.spawn(respond(stream, Arc::clone(&bytes), then));
            }
        });
        Self { port, connections, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/oauth/token", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn respond(mut stream: TcpStream, bytes: Arc<Vec<u8>>, then: AfterWrite) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    if stream.write_all(&bytes).await.is_err() {
        return;
    }
    match then {
        AfterWrite::Close => {
            let _ = stream.shutdown().await;
        }
        AfterWrite::Reset => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let _ = stream.set_zero_linger();
        }
        AfterWrite::Hang => std::future::pending().await,
        AfterWrite::Repeat(interval) => loop {
            tokio::time::sleep(interval).await;
            if stream.write_all(&bytes[bytes.len() - 1..]).await.is_err() {
                return;
            }
        },
    }
}
