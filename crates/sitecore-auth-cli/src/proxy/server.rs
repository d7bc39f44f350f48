//! The listeners and their shutdown.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::body::Body;
use crate::failure::{Failure, Kind, Result};

/// How long calls in flight may take after the proxy was told to end.
const DRAIN_TIME: Duration = Duration::from_secs(25);

/// How long a caller may take to send the headers, and keep a connection without a request.
const HEADER_TIME: Duration = Duration::from_secs(60);

/// Where a proxy or its status page listens.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener, PathBuf),
}

impl Listener {
    /// Listens at this address. Returns the actual address too, because port 0 lets the system
    /// choose.
    pub(crate) async fn tcp(address: SocketAddr) -> Result<(Self, SocketAddr)> {
        let failed = |error| cannot_listen(&address.to_string(), &error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok((Self::Tcp(listener), address))
    }

    /// Listens at this path. The folder keeps other users out, from the first moment on.
    #[cfg(unix)]
    pub(crate) fn unix(path: &Path) -> Result<Self> {
        use std::{
            fs,
            os::unix::fs::{
                DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
            },
        };

        let shown = path.display();
        let failed = |error: io::Error| cannot_listen(&shown.to_string(), &error);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.ok_or_else(|| {
            Failure::usage(format!("`{shown}` needs a folder of its own, such as ./proxy/socket"))
        })?;
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let metadata = fs::symlink_metadata(folder).map_err(failed)?;
        let is_private = metadata.is_dir()
            && metadata.mode() & 0o077 == 0
            && metadata.uid() == rustix::process::geteuid().as_raw();
        if !is_private {
            let message = format!("other users have access to the folder {}", folder.display());
            return Err(Failure::config(message).hint(
                "put the socket in a folder that you own with mode 0700, or in one that does not exist yet",
            ));
        }
        if let Ok(metadata) = fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(Failure::config(format!("{shown} exists and is not a socket")));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(Failure::config(format!("another program listens on {shown}")));
            }
            fs::remove_file(path).map_err(failed)?;
        }
        let listener = tokio::net::UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self::Unix(listener, path.to_owned()))
    }
}

#[cfg(unix)]
impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Serves connections until `end` is ready. Then completes the calls in flight, but waits for
/// `DRAIN_TIME` at most, and only while `is_busy` returns `true`.
pub(crate) async fn serve<R, F>(
    listener: Listener,
    respond: Arc<R>,
    end: impl Future<Output = ()>,
    is_busy: impl Fn() -> bool,
) where
    R: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            () = &mut end => break,
            accepted = accept(&listener) => accepted,
        };
        // Forgets those that have ended.
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(stream) => {
                let respond = Arc::clone(&respond);
                let service = service_fn(move |request| {
                    let response = respond(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIME)
                    .serve_connection(TokioIo::new(stream), service);
                // An error concerns this connection only, and its caller has noticed it.
                let connection = graceful.watch(connection);
                connections.spawn(async move { drop(connection.await) });
            }
            // For example, there are too many open files.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
    drop(listener);
    let drained = async {
        tokio::select! {
            () = graceful.shutdown() => {}
            // The remaining connections have no call in flight.
            () = until_quiet(is_busy) => {}
        }
    };
    let _ = timeout(DRAIN_TIME, drained).await;
}

/// Waits until there has been no call for a moment, so that the last response is sent.
async fn until_quiet(is_busy: impl Fn() -> bool) {
    let mut idle = 0;
    while idle < 10 {
        sleep(Duration::from_millis(50)).await;
        idle = if is_busy() { 0 } else { idle + 1 };
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn accept(listener: &Listener) -> io::Result<Box<dyn Stream>> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            // Send small responses at once.
            let _ = stream.set_nodelay(true);
            Ok(Box::new(stream))
        }
        #[cfg(unix)]
        Listener::Unix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            let own = rustix::process::geteuid().as_raw();
            match uid == own || uid == 0 {
                true => Ok(Box::new(stream)),
                false => Err(io::ErrorKind::PermissionDenied.into()),
            }
        }
    }
}

fn cannot_listen(place: &str, error: &io::Error) -> Failure {
    Failure::new(Kind::Config, format!("cannot listen on {place}: {error}"))
}
