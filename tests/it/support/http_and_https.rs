//! A server that serves https and http on one port, as an attacker on the network path could.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer},
};

/// Redirects to the URL in the query parameter `to`, and responds to all other requests with 200.
pub(crate) struct HttpAndHttps {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl HttpAndHttps {
    pub(crate) async fn start() -> Self {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let certified = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, acceptor.clone(), Arc::clone(&seen)));
            }
        });
        Self { port, heads, _tasks: tasks }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the heads of all requests so far, in lower case and preceded by the scheme.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, heads: Arc<Mutex<Vec<String>>>) {
    let mut first = [0];
    let _ = stream.peek(&mut first).await;
    // The first byte of a TLS handshake record.
    if first[0] == 0x16 {
        if let Ok(stream) = acceptor.accept(stream).await {
            respond("https", stream, &heads).await;
        }
    } else {
        respond("http", stream, &heads).await;
    }
}

async fn respond(
    scheme: &str,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    heads: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let line = head.lines().next().unwrap_or_default();
    let to = line.split_once("?to=").and_then(|(_, to)| to.split(' ').next());
    let response = match to {
        Some(to) => format!("HTTP/1.1 307 Go\r\nlocation: {to}\r\n"),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    heads.lock().unwrap().push(format!("{scheme} {head}"));
    let response = format!("{response}content-length: 0\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(response.as_bytes()).await;
    let _ = stream.shutdown().await;
}
