//! A server that writes bytes as they are, for what a well-behaved server cannot be made to do.

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

/// What happens after the bytes are written.
#[derive(Clone, Copy)]
pub(crate) enum Then {
    /// The connection is closed.
    Close,
    /// The connection is reset, once the client has had time to read.
    Reset,
    /// The last byte is repeated at this pace until the client goes.
    Repeat(Duration),
    /// Nothing, for ever.
    Hang,
}

/// Answers every connection with the same bytes, and counts connections.
pub(crate) struct RawServer {
    port: u16,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl RawServer {
    pub(crate) async fn start(bytes: impl Into<Vec<u8>>, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (connections, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(bytes.into()));
        let mut tasks = JoinSet::new();
        let count = Arc::clone(&connections);
        tasks.spawn(async move {
            let mut answers = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                answers.spawn(answer(stream, Arc::clone(&bytes), then));
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

async fn answer(mut stream: TcpStream, bytes: Arc<Vec<u8>>, then: Then) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    if stream.write_all(&bytes).await.is_err() {
        return;
    }
    match then {
        Then::Close => {
            let _ = stream.shutdown().await;
        }
        Then::Reset => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let _ = stream.set_zero_linger();
        }
        Then::Hang => std::future::pending().await,
        Then::Repeat(pause) => loop {
            tokio::time::sleep(pause).await;
            if stream.write_all(&bytes[bytes.len() - 1..]).await.is_err() {
                return;
            }
        },
    }
}
