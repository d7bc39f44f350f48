//! The store in a folder: its files, their permissions, and what it does not use.

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

use crate::support::{DAY, Logs, ScriptedSource, Step, all_formats, first_fetch, shared, text};

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    #[cfg(unix)]
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    folder
}

#[tokio::test]
async fn a_folder_serves_many_processes_and_is_private() {
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
    // A truncated temporary file, as a power failure leaves it, does no harm.
    fs::write(folder.path().join("new/x.0.new"), "truncated").unwrap();
    let late = shared(&source, FileStore::in_dir(folder.path().join("new")).unwrap());
    assert_eq!(text(&late.fetch(first_fetch()).await.unwrap()), "token-1");
}

#[tokio::test]
async fn public_files_and_symlinks_are_not_used_and_the_error_says_how_to_fix_it() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let folder = folder();
    let message = |result: Result<FileStore, Error>| all_formats(&result.unwrap_err());
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(message(FileStore::in_dir(&open)).contains("chmod 700"));
    symlink(folder.path(), folder.path().join("link")).unwrap();
    assert!(message(FileStore::in_dir(folder.path().join("link"))).contains("is a symlink"));
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(FileStore::in_dir(folder.path().join("file")).is_err());
    assert!(
        message(FileStore::in_dir(folder.path().join("file/below"))).contains("could not create")
    );

    // An entry that became public, or was replaced by a symlink, is not used.
    let source = ScriptedSource::granting(DAY);
    let store = || FileStore::in_dir(folder.path()).unwrap();
    shared(&source, store()).fetch(first_fetch()).await.unwrap();
    let mut files = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let entry =
        files.find(|file| file.extension().is_some_and(|extension| extension == "entry")).unwrap();
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o644)).unwrap();
    let error = store().load(entry.file_stem().unwrap().to_str().unwrap()).await.unwrap_err();
    assert!(
        error.to_string().contains("Config") || all_formats(&error).contains("chmod 600"),
        "{error}"
    );
    shared(&source, store()).fetch(first_fetch()).await.unwrap();
    fs::rename(&entry, folder.path().join("moved")).unwrap();
    symlink(folder.path().join("moved"), &entry).unwrap();
    shared(&source, store()).fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 3);
}

/// Returns the path of the only entry.
fn entry_in(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut entries =
        files.filter(|file| file.extension().is_some_and(|extension| extension == "entry"));
    entries.next().unwrap()
}

#[tokio::test]
async fn a_deleted_folder_is_created_again() {
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
async fn the_log_says_how_to_fix_a_file_that_became_public() {
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
fn a_named_pipe_instead_of_a_file_does_not_block() {
    let folder = folder();
    let source = ScriptedSource::granting(DAY);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shared = || shared(&source, FileStore::in_dir(folder.path()).unwrap());
        shared().fetch(first_fetch()).await.unwrap();
        let entry = entry_in(folder.path());
        for file in [entry.clone(), entry.with_extension("lock")] {
            fs::remove_file(&file).unwrap();
            let status = Command::new("mkfifo").args(["-m", "600"]).arg(&file).status();
            assert!(status.unwrap().success());
            shared().fetch(first_fetch()).await.unwrap();
            fs::remove_file(&file).unwrap();
        }
    });
    assert_eq!(source.calls(), 3);
    // Dropping the runtime would wait for a blocked thread.
    drop(runtime);
}

#[tokio::test]
async fn temporary_files_of_killed_writers_are_removed_after_an_hour() {
    let folder = folder();
    let store = FileStore::in_dir(folder.path()).unwrap();
    let files = [("old", 2 * 3_600), ("young", 60)].map(|(name, age)| {
        let path = folder.path().join(name).with_extension("new");
        let file = fs::File::create(&path).unwrap();
        file.set_modified(file.metadata().unwrap().modified().unwrap() - Duration::from_secs(age))
            .unwrap();
        path
    });
    store.save("name", b"entry", DAY).await.unwrap();
    assert_eq!(files.map(|path| path.exists()), [false, true]);
    assert!(store.load("name").await.unwrap().is_some());
}

#[test]
fn a_symlink_with_a_trailing_slash_is_still_a_symlink() {
    let folder = folder();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    for path in [link.display().to_string(), format!("{}/", link.display())] {
        let error = FileStore::in_dir(path).unwrap_err();
        assert!(all_formats(&error).contains("is a symlink"), "{error}");
    }
}
