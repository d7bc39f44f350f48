//! The store in a folder: its files, their permissions, and what it does not use.

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use sitecore_auth::{Error, Result, TokenCache, TokenSource as _};
use sitecore_token_store::{FileStore, SharedSource, TokenStore as _};
use tempfile::TempDir;
use tokio::{
    runtime::Builder,
    time::{Instant, sleep},
};

use crate::support::{
    DAY, FLEET_SECRET, HOUR, Logs, ScriptedSource, Step, all_formats, first_fetch, shared, text,
};

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
    assert_eq!(files.len(), 1, "the entry only: {files:?}");
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

#[expect(clippy::disallowed_methods, reason = "the rule applies to the libraries only")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Puts something foreign at a path.
fn put(kind: &str, path: &Path) {
    match kind {
        "pipe" => {
            let status = Command::new("mkfifo").args(["-m", "600"]).arg(path).status();
            assert!(status.unwrap().success());
        }
        "folder" => fs::create_dir(path).unwrap(),
        "link" => std::os::unix::fs::symlink("/etc/passwd", path).unwrap(),
        "enormous" => {
            let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let file = file.unwrap();
            file.set_len(1 << 40).unwrap();
            file.set_modified(now() + DAY).unwrap();
        }
        other => panic!("{other}"),
    }
}

#[test]
fn something_foreign_in_place_of_a_file_is_replaced_or_reported_in_a_bounded_time() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for kind in ["pipe", "folder", "link", "enormous"] {
            for extension in ["entry", "lock"] {
                let folder = folder();
                let source = ScriptedSource::granting(DAY);
                let shared = || shared(&source, FileStore::in_dir(folder.path()).unwrap());
                let name = shared().entry_name().await.unwrap();
                let path = folder.path().join(name).with_extension(extension);
                put(kind, &path);
                let logs = Logs::capture();
                let started = Instant::now();
                shared().fetch(first_fetch()).await.unwrap();
                shared().fetch(first_fetch()).await.unwrap();
                assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
                let is_replaced = kind == "enormous";
                // Without the lease, the token is saved all the same.
                let is_saved = is_replaced || extension == "lock";
                assert_eq!(source.calls(), if is_saved { 1 } else { 2 }, "{kind} {extension}");
                let text = logs.text();
                let is_reported = text.contains(path.to_str().unwrap())
                    && text.contains("is a symlink or of the wrong type; remove it");
                assert_ne!(is_reported, is_replaced, "{kind} {extension}: {text}");
                let metadata = fs::symlink_metadata(&path);
                assert_eq!(metadata.is_ok_and(|metadata| !metadata.is_file()), !is_replaced);
            }
        }
    });
    // Dropping the runtime would wait for a blocked thread.
    drop(runtime);
}

/// Creates a file with the time of its last change, and returns its path.
fn file_of_age(path: PathBuf, age: Duration) -> PathBuf {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.unwrap().set_modified(now() - age).unwrap();
    path
}

#[tokio::test]
async fn expired_files_of_the_store_are_removed_and_no_others() {
    let folder = folder();
    let name = "0123456789abcdef0123456789abcdef";
    let old = |file: String, age| file_of_age(folder.path().join(file), age);
    let (minute, two_hours) = (Duration::from_secs(60), 2 * HOUR);
    let expired = [
        old(format!("{name}.entry"), minute),
        old(format!("{name}.lock"), 2 * DAY),
        old(format!("{name}.entry.{name}.new"), two_hours),
    ];
    let partial = format!("{}.entry.{name}.new", name.replace('0', "1"));
    let others = [
        // A writer may still be at work, or a process about to use its lease.
        old(partial, minute),
        old(format!("{}.lock", name.replace('0', "1")), two_hours),
        // Not the store's.
        old("chapter.new".to_owned(), 90 * DAY),
        old("chapter.entry".to_owned(), 90 * DAY),
        old(format!("{name}.txt"), 90 * DAY),
        old(format!("{name}.entry.backup.new"), 90 * DAY),
        old(format!("{}.entry", name.replace('a', "A")), 90 * DAY),
        old(format!("{name}0.entry"), 90 * DAY),
    ];
    let link = folder.path().join(format!("{}.entry", name.replace('0', "2")));
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    let store = FileStore::in_dir(folder.path()).unwrap();
    assert!(expired.iter().all(|path| !path.exists()), "{expired:?}");
    assert!(others.iter().all(|path| path.exists()), "{others:?}");
    assert!(fs::symlink_metadata(&link).is_ok());

    // An entry that expires while the store is open is removed by the next look at it.
    let name = name.replace('0', "3");
    let (saved, lifetime) = (Instant::now(), Duration::from_secs(1));
    store.save(&name, b"entry", lifetime).await.unwrap();
    assert!(store.load(&name).await.unwrap().is_some() || saved.elapsed() >= lifetime);
    sleep(lifetime).await;
    assert!(store.load(&name).await.unwrap().is_none());
    assert!(!folder.path().join(name).with_extension("entry").exists());
}

#[tokio::test]
async fn a_folder_that_is_swapped_for_a_link_is_left_alone() {
    let folder = folder();
    let (used, moved, other) =
        (folder.path().join("used"), folder.path().join("moved"), folder.path().join("other"));
    let store = FileStore::in_dir(&used).unwrap();
    let name = "0123456789abcdef0123456789abcdef";
    store.save(name, b"first", DAY).await.unwrap();
    // The other folder contains files with the names of the store's.
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o700)).unwrap();
    let foreign = file_of_age(other.join(name).with_extension("entry"), 90 * DAY);
    fs::rename(&used, &moved).unwrap();
    std::os::unix::fs::symlink(&other, &used).unwrap();
    store.save(name, b"second", DAY).await.unwrap();
    let lease = store.try_lease(name, HOUR).await.unwrap().unwrap();
    store.release(name, lease).await.unwrap();
    assert_eq!(store.load(name).await.unwrap().unwrap().entry(), b"second");
    assert_eq!(fs::read(moved.join(name).with_extension("entry")).unwrap(), b"second");
    assert_eq!(fs::read(&foreign).unwrap(), b"");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    // Nor is a link used that was there before the store was opened.
    assert!(all_formats(&FileStore::in_dir(&used).unwrap_err()).contains("is a symlink"));
}

#[tokio::test]
async fn a_store_that_does_not_exist_at_the_start_is_as_good_as_none() {
    let folder = folder();
    fs::write(folder.path().join("file"), "").unwrap();
    let source = ScriptedSource::granting(DAY);
    let store = FileStore::in_dir(folder.path().join("file/below")).unwrap();
    let shared = shared(&source, store);
    let logs = Logs::capture();
    shared.fetch(first_fetch()).await.unwrap();
    let text = logs.text();
    assert!(text.contains("could not open") && text.contains("file/below"), "{text}");
    assert!(text.contains("continuing without it"), "{text}");
    // Once there is a folder, it is used.
    fs::remove_file(folder.path().join("file")).unwrap();
    shared.fetch(first_fetch()).await.unwrap();
    shared.fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 2);
}

#[tokio::test]
async fn a_frozen_holder_loses_its_lease_and_a_killed_one_at_once() {
    let folder = folder();
    let stores = [(); 3].map(|()| FileStore::in_dir(folder.path()).unwrap());
    let name = "0123456789abcdef0123456789abcdef";
    let lease = async |store: &FileStore| store.try_lease(name, HOUR).await.unwrap();
    let frozen = lease(&stores[0]).await.unwrap();
    assert!(lease(&stores[1]).await.is_none());
    assert!(stores[0].extend(name, &frozen, HOUR).await.unwrap());
    // As if it had not been extended for six seconds.
    let path = folder.path().join(name).with_extension("lock");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(now() - Duration::from_secs(6)).unwrap();
    let second = lease(&stores[1]).await.unwrap();
    assert!(!stores[0].extend(name, &frozen, HOUR).await.unwrap(), "another one has it");
    stores[0].release(name, frozen).await.unwrap();
    assert!(lease(&stores[2]).await.is_none(), "releasing a lost lease changes nothing");
    // The operating system closes the files of a killed process.
    drop(second);
    let third = lease(&stores[2]).await.unwrap();
    stores[2].release(name, third).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn five_hundred_tenants_of_one_process_save_their_tokens_with_few_open_files() {
    let folder = folder();
    let store = FileStore::in_dir(folder.path()).unwrap();
    let source = ScriptedSource::new([], Step::Slow(Duration::from_millis(300), DAY));
    let tenants: Vec<_> = (0..500)
        .map(|tenant| {
            let name = format!("tenant-{tenant}");
            let shared = SharedSource::with_key(source.clone(), store.clone(), name, FLEET_SECRET);
            TokenCache::new(shared.unwrap())
        })
        .collect();
    // Other tests of this process open files too.
    let open_files = || {
        let files = fs::read_dir("/proc/self/fd").unwrap();
        let paths = files.filter_map(|file| fs::read_link(file.unwrap().path()).ok());
        paths.filter(|path| path.starts_with(folder.path())).count()
    };
    let watch = async {
        let mut most = 0;
        while source.calls() < 500 {
            most = most.max(open_files());
            sleep(Duration::from_millis(5)).await;
        }
        most
    };
    let (tokens, most) = tokio::join!(join_all(tenants.iter().map(TokenCache::token)), watch);
    assert!(tokens.iter().all(std::result::Result::is_ok));
    assert!((1..200).contains(&most), "{most} open files");
    let entries = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    assert_eq!(entries.filter(|path| path.extension().unwrap() == "entry").count(), 500);
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
