//! The store in a folder: what is in it, who may see it, and what is refused.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use futures_util::future::join_all;
use sitecore_auth::{Error, Result, TokenCache, TokenSource as _};
use sitecore_token_store::{FileStore, TokenStore as _};
use tempfile::TempDir;
use tokio::runtime::Builder;

use crate::support::{DAY, Logs, ScriptedSource, Step, everything_said, first_fetch, shared, text};

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    #[cfg(unix)]
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    folder
}

#[tokio::test]
async fn a_folder_serves_many_and_is_closed_to_others() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = folder();
    let source = ScriptedSource::new([], Step::Slow(Duration::from_millis(100), DAY));
    let caches: Vec<_> = (0..50)
        .map(|_| {
            TokenCache::new(shared(&source, FileStore::in_dir(folder.path().join("new")).unwrap()))
        })
        .collect();
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    assert!(tokens.iter().all(|token| text(token.as_ref().unwrap()) == "token-1"));
    assert_eq!(source.calls(), 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("new")), 0o700);
    let files: Vec<_> =
        fs::read_dir(folder.path().join("new")).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "an entry and its lock: {files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600));
    // A torn file beside it, as a power cut leaves it, is in nobody's way.
    fs::write(folder.path().join("new/x.0.new"), "torn").unwrap();
    let late = shared(&source, FileStore::in_dir(folder.path().join("new")).unwrap());
    assert_eq!(text(&late.fetch(first_fetch()).await.unwrap()), "token-1");
}

#[tokio::test]
async fn what_is_open_to_others_or_a_link_is_refused_with_the_mend() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let folder = folder();
    let said = |result: Result<FileStore, Error>| everything_said(&result.unwrap_err());
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(said(FileStore::in_dir(&open)).contains("chmod 700"));
    symlink(folder.path(), folder.path().join("link")).unwrap();
    assert!(said(FileStore::in_dir(folder.path().join("link"))).contains("is a link"));
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(FileStore::in_dir(folder.path().join("file")).is_err());
    assert!(said(FileStore::in_dir(folder.path().join("file/below"))).contains("cannot be made"));

    // An entry that was opened to others, or swapped for a link, while running: as if it were missing.
    let source = ScriptedSource::granting(DAY);
    let store = || FileStore::in_dir(folder.path()).unwrap();
    shared(&source, store()).fetch(first_fetch()).await.unwrap();
    let mut files = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let entry =
        files.find(|file| file.extension().is_some_and(|ending| ending == "entry")).unwrap();
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o644)).unwrap();
    let error = store().load(entry.file_stem().unwrap().to_str().unwrap()).await.unwrap_err();
    assert!(
        error.to_string().contains("Config") || everything_said(&error).contains("chmod 600"),
        "{error}"
    );
    shared(&source, store()).fetch(first_fetch()).await.unwrap();
    fs::rename(&entry, folder.path().join("moved")).unwrap();
    symlink(folder.path().join("moved"), &entry).unwrap();
    shared(&source, store()).fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 3);
}

/// The entry, of which there is one.
fn entry_in(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut entries = files.filter(|file| file.extension().is_some_and(|ending| ending == "entry"));
    entries.next().unwrap()
}

#[tokio::test]
async fn a_folder_that_was_deleted_is_made_again() {
    let folder = folder();
    let source = ScriptedSource::granting(DAY);
    let store = FileStore::in_dir(folder.path().join("store")).unwrap();
    let shared = shared(&source, store);
    for _ in 0..2 {
        shared.fetch(first_fetch()).await.unwrap();
        fs::remove_dir_all(folder.path().join("store")).unwrap();
    }
    for _ in 0..2 {
        shared.fetch(first_fetch()).await.unwrap();
    }
    assert_eq!(source.calls(), 3);
}

#[tokio::test]
async fn what_is_refused_while_running_is_logged_with_the_mend() {
    let folder = folder();
    let source = ScriptedSource::granting(DAY);
    let shared = shared(&source, FileStore::in_dir(folder.path()).unwrap());
    shared.fetch(first_fetch()).await.unwrap();
    fs::set_permissions(entry_in(folder.path()), fs::Permissions::from_mode(0o644)).unwrap();
    let logs = Logs::capture();
    shared.fetch(first_fetch()).await.unwrap();
    assert!(logs.text().contains("chmod 600"), "{}", logs.text());
}

#[test]
fn a_pipe_instead_of_a_file_holds_up_nobody() {
    let folder = folder();
    let source = ScriptedSource::granting(DAY);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shared = || shared(&source, FileStore::in_dir(folder.path()).unwrap());
        shared().fetch(first_fetch()).await.unwrap();
        let entry = entry_in(folder.path());
        for file in [entry.clone(), entry.with_extension("lock")] {
            fs::remove_file(&file).unwrap();
            let made = Command::new("mkfifo").args(["-m", "600"]).arg(&file).status();
            assert!(made.unwrap().success());
            shared().fetch(first_fetch()).await.unwrap();
            fs::remove_file(&file).unwrap();
        }
    });
    assert_eq!(source.calls(), 3);
    // It would wait for a thread that hangs.
    drop(runtime);
}

#[tokio::test]
async fn what_killed_writers_have_left_is_removed_after_an_hour() {
    let folder = folder();
    let store = FileStore::in_dir(folder.path()).unwrap();
    let left = [("old", 2 * 3_600), ("young", 60)].map(|(name, age)| {
        let path = folder.path().join(name).with_extension("new");
        let file = fs::File::create(&path).unwrap();
        file.set_modified(file.metadata().unwrap().modified().unwrap() - Duration::from_secs(age))
            .unwrap();
        path
    });
    store.save("name", b"entry", DAY).await.unwrap();
    assert_eq!(left.map(|path| path.exists()), [false, true]);
    assert!(store.load("name").await.unwrap().is_some());
}

#[test]
fn a_link_is_one_with_a_slash_at_its_end_too() {
    let folder = folder();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    for path in [link.display().to_string(), format!("{}/", link.display())] {
        let error = FileStore::in_dir(path).unwrap_err();
        assert!(everything_said(&error).contains("is a link"), "{error}");
    }
}
