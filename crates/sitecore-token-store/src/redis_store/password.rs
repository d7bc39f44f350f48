//! Where the password comes from, if not from the URL.

use std::{
    env::{self, VarError},
    fs, io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use futures_util::future::BoxFuture;
use secrecy::SecretString;
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

/// How many reads of a file run at once. A read that hangs occupies its thread forever.
const MAX_READS: usize = 4;

/// How long to wait for another read to end.
const MAX_WAIT: Duration = Duration::from_millis(250);

type Function = dyn Fn() -> BoxFuture<'static, io::Result<SecretString>> + Send + Sync;

pub(super) enum Password {
    File { path: PathBuf, reads: Arc<Semaphore> },
    Variable(String),
    Function(Box<Function>),
}

impl Password {
    pub(super) fn file(path: PathBuf) -> Self {
        Self::File { path, reads: Arc::new(Semaphore::new(MAX_READS)) }
    }

    pub(super) async fn read(&self) -> io::Result<SecretString> {
        match self {
            Self::Function(password) => password().await,
            Self::File { path, reads } => {
                let (file, shown) = (path.clone(), path.display());
                let permit = timeout(MAX_WAIT, Arc::clone(reads).acquire_owned()).await;
                let permit = permit.map_err(|_elapsed| {
                    io::Error::other(format!("earlier reads of {shown} have not ended"))
                })?;
                let (sender, text) = oneshot::channel();
                // On one of Tokio's threads, a read that hangs would keep the runtime from
                // shutting down.
                let read = move || {
                    drop(sender.send(fs::read_to_string(file)));
                    drop(permit);
                };
                thread::Builder::new().name("sitecore-auth-read".to_owned()).spawn(read)?;
                let text = text.await.map_err(io::Error::other)?.map_err(|error| {
                    io::Error::new(error.kind(), format!("could not read {shown}: {error}"))
                })?;
                Ok(plain(&text))
            }
            Self::Variable(name) => {
                let text = env::var(name).map_err(|error| {
                    let reason = match error {
                        VarError::NotPresent => "is not set",
                        // It contains the value.
                        VarError::NotUnicode(_) => "is not valid UTF-8",
                    };
                    io::Error::other(format!("the variable {name} {reason}"))
                })?;
                Ok(plain(&text))
            }
        }
    }
}

/// Returns the text without white space and a byte order mark around it.
fn plain(text: &str) -> SecretString {
    text.trim().trim_start_matches('\u{feff}').trim().into()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use secrecy::ExposeSecret as _;

    use super::*;

    #[tokio::test]
    async fn a_variable_that_is_not_text_is_not_quoted() {
        use std::os::unix::ffi::OsStrExt as _;

        const VARIABLE: &str = "PASSWORD_THAT_IS_NOT_TEXT";
        if env::var_os(VARIABLE).is_some() {
            let error = Password::Variable(VARIABLE.to_owned()).read().await.expect_err("an error");
            assert_eq!(error.to_string(), format!("the variable {VARIABLE} is not valid UTF-8"));
            return;
        }
        // The test runs once more, with that variable.
        let mut test = Command::new(env::current_exe().expect("this program"));
        test.args([
            "--exact",
            "redis_store::password::tests::a_variable_that_is_not_text_is_not_quoted",
        ])
        .env(VARIABLE, std::ffi::OsStr::from_bytes(b"s3cret-\xe9"));
        assert!(test.output().is_ok_and(|output| output.status.success()));
    }

    #[tokio::test]
    async fn a_file_whose_reads_hang_occupies_four_threads_at_most() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("password");
        assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
        let password = Password::file(pipe.clone());
        // The kernel keeps 15 characters of a thread's name.
        let threads = || {
            let tasks = fs::read_dir("/proc/self/task").expect("procfs").flatten();
            let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
            names.filter(|name| name.trim() == "sitecore-auth-r").count()
        };
        for _ in 0..MAX_READS {
            let read = timeout(Duration::from_millis(20), password.read()).await;
            assert!(read.is_err(), "nothing has been written");
        }
        let error = password.read().await.expect_err("a hang");
        assert!(error.to_string().contains("have not ended"), "{error}");
        assert_eq!(threads(), MAX_READS);
        // A write ends them, and the next read works.
        fs::write(&pipe, "secret\n").expect("a pipe");
        while threads() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let write = thread::spawn(move || fs::write(pipe, "\u{feff}secret\r\n"));
        let text = password.read().await.expect("a password");
        assert_eq!(text.expose_secret(), "secret", "without the byte order mark");
        assert!(write.join().is_ok_and(|written| written.is_ok()));
    }
}
