//! The store in Redis, on a real server that is killed, stopped, restarted, emptied or full.

use std::{io, time::Duration};

use futures_util::future::join_all;
use sitecore_auth::{ErrorKind, ManualClock, Token, TokenCache, TokenSource as _};
use sitecore_token_store::{RedisStore, SharedSource, TokenStore as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    time::{Instant, sleep},
};

use crate::support::{
    DAY, HOUR, Logs, RedisServer, ScriptedSource, Step, all_formats, first_fetch, pause, spawn,
    text,
};

const KEY: &str = "a-key-of-thirty-two-bytes-and-some-more";
/// A token request without the store takes at most this long: one time limit of a command, the
/// jitter, the time limit of connecting, and some time for a busy machine.
const MAX_FALLBACK: Duration = Duration::from_millis(250 + 250 + 2_000 + 750);

/// Stands for a process, with its own connection.
fn shared(source: &ScriptedSource, server: &RedisServer) -> SharedSource {
    let store = RedisStore::new(server.url()).unwrap();
    SharedSource::with_key(source.clone(), store, "fleet", KEY).unwrap()
}

fn fleet(number: usize, source: &ScriptedSource, server: &RedisServer) -> Vec<TokenCache> {
    let caches = (0..number).map(|_| TokenCache::new(shared(source, server)));
    caches.collect()
}

async fn tokens(caches: &[TokenCache]) -> Vec<Token> {
    let tokens = join_all(caches.iter().map(TokenCache::token)).await;
    tokens.into_iter().map(|token| token.unwrap()).collect()
}

#[tokio::test]
async fn a_hundred_cold_starts_cost_one_token_request_and_leave_one_sealed_entry_that_expires() {
    let server = RedisServer::start();
    let source = ScriptedSource::new([], Step::Slow(Duration::from_millis(300), HOUR));
    let caches = fleet(100, &source, &server);
    assert!(tokens(&caches).await.iter().all(|token| text(token) == "token-1"));
    assert_eq!(source.calls(), 1);
    assert_eq!(server.keys().len(), 1, "the lease was released");
    let (key, entry) = server.entry();
    assert!(key.starts_with("sitecore-auth:{") && !key.contains("fleet"));
    assert!(!entry.windows(5).any(|bytes| bytes == b"token"));
    let left: u64 = server.run(&format!("PTTL {key}"));
    assert!((3_590_000..=3_600_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_killed_server_costs_each_process_one_token_request_and_fails_no_call() {
    let mut server = RedisServer::start();
    let source = ScriptedSource::granting(DAY);
    let caches = fleet(10, &source, &server);
    let old = tokens(&caches).await.remove(0);
    server.kill();
    let started = Instant::now();
    let replaced = join_all(caches.iter().map(|cache| cache.replace(&old))).await;
    assert!(replaced.iter().all(Result::is_ok));
    assert!(started.elapsed() < MAX_FALLBACK, "{:?}", started.elapsed());
    assert_eq!(source.calls(), 11);
}

#[tokio::test]
async fn a_server_killed_while_many_wait_for_the_holder_fails_no_call() {
    let mut server = RedisServer::start();
    let source = ScriptedSource::new([], Step::Slow(Duration::from_secs(1), DAY));
    let caches = fleet(10, &source, &server);
    let started = Instant::now();
    let waiting = tokens(&caches);
    let kill = async {
        sleep(Duration::from_millis(400)).await;
        server.kill();
    };
    tokio::join!(waiting, kill);
    assert!(source.calls() <= 10, "{} token requests", source.calls());
    // They know of a holder, so they look again until they must hurry.
    assert!(started.elapsed() < Duration::from_secs(23 + 2) + MAX_FALLBACK);
}

#[tokio::test]
async fn a_stopped_server_delays_no_call_beyond_the_time_limit() {
    let server = RedisServer::start();
    let source = ScriptedSource::granting(DAY);
    let (cold, warm) = (fleet(10, &source, &server), fleet(10, &source, &server));
    let old = tokens(&warm).await.remove(0);
    server.stop();
    // Callers with a token notice nothing. Callers that need one wait for the time limit.
    let started = Instant::now();
    tokens(&warm).await;
    assert!(started.elapsed() < Duration::from_millis(50));
    tokens(&cold).await;
    assert!(started.elapsed() < MAX_FALLBACK, "{:?}", started.elapsed());
    let started = Instant::now();
    warm[0].replace(&old).await.unwrap();
    assert!(started.elapsed() < MAX_FALLBACK, "{:?}", started.elapsed());
    assert_eq!(source.calls(), 1 + 10 + 1);

    // The server resumes, and the store works again.
    server.resume();
    tokens(&fleet(3, &source, &server)).await;
    assert_eq!(source.calls(), 12);
}

#[tokio::test]
async fn a_server_stopped_during_a_token_request_delays_it_for_little_more_than_two_seconds() {
    let server = RedisServer::start();
    let source = ScriptedSource::new([], Step::Slow(Duration::from_millis(500), DAY));
    let cache = &fleet(1, &source, &server)[0];
    let started = Instant::now();
    let stop = async {
        sleep(Duration::from_millis(250)).await;
        server.stop();
    };
    let (token, ()) = tokio::join!(cache.token(), stop);
    token.unwrap();
    // The token request, and the time limits for saving, for a note to the others and for releasing
    // the lease.
    let elapsed = started.elapsed();
    assert!(elapsed < Duration::from_millis(500 + 250 + 1_000 + 250 + 700 + 500), "{elapsed:?}");
}

#[tokio::test]
async fn a_server_that_restarts_or_loses_its_data_costs_one_token_request() {
    let mut server = RedisServer::start();
    let source = ScriptedSource::granting(DAY);
    let fleet: Vec<_> = (0..5).map(|_| shared(&source, &server)).collect();
    for expected in ["token-1", "token-2", "token-3"] {
        // The restart cuts the connection of each source.
        for source in &fleet {
            assert_eq!(text(&source.fetch(first_fetch()).await.unwrap()), expected);
        }
        match expected {
            "token-1" => server.restart(),
            _ => server.run("FLUSHALL"),
        }
    }
    assert_eq!(source.calls(), 3);
}

#[tokio::test]
async fn if_the_server_became_a_replica_or_is_full_each_process_requests_its_own_token() {
    let server = RedisServer::start();
    let source = ScriptedSource::granting(DAY);
    for (command, requests) in
        [("REPLICAOF 127.0.0.1 1", 3), ("REPLICAOF NO ONE", 1), ("CONFIG SET maxmemory 1", 3)]
    {
        let before = source.calls();
        let _: String = server.run(command);
        let started = Instant::now();
        tokens(&fleet(3, &source, &server)).await;
        assert!(started.elapsed() < MAX_FALLBACK, "{command}: {:?}", started.elapsed());
        assert_eq!(source.calls() - before, requests, "{command}");
        if requests == 1 {
            let _: String = server.run("FLUSHALL");
        }
    }
}

#[tokio::test]
async fn the_servers_clock_determines_the_age_of_an_entry() {
    let server = RedisServer::start();
    let source = ScriptedSource::granting(HOUR);
    let days = |day: u64| Duration::from_secs(1_800_000_000 + day * 86_400);
    let at = |wall: Duration| {
        let clock = ManualClock::new();
        clock.set_wall(wall);
        shared(&source, &server).with_clock(clock)
    };
    at(days(10)).fetch(first_fetch()).await.unwrap();
    let (key, _) = server.entry();
    for wall in [days(0), days(10), days(20)] {
        let token = at(wall).fetch(first_fetch()).await.unwrap();
        assert!(token.age() < Duration::from_secs(5), "{:?}", token.age());
    }
    // Half an hour later.
    let _: i64 = server.run(&format!("PEXPIRE {key} 1800000"));
    for wall in [days(0), days(10), days(20)] {
        let age = at(wall).fetch(first_fetch()).await.unwrap().age();
        assert!((1_800..1_805).contains(&age.as_secs()), "{age:?}");
    }
    assert_eq!(source.calls(), 1);
    // Near its expiry the token is not adopted. If the key's expiry is removed or extended, the
    // hosts' clocks determine the age of the new one.
    let _: i64 = server.run(&format!("PEXPIRE {key} 59000"));
    at(days(0)).fetch(first_fetch()).await.unwrap();
    for (calls, command) in [(3, "PERSIST {key}"), (4, "PEXPIRE {key} 7200000")] {
        let _: i64 = server.run(&command.replace("{key}", &key));
        at(days(0)).fetch(first_fetch()).await.unwrap();
        at(days(1)).fetch(first_fetch()).await.unwrap();
        assert_eq!(source.calls(), calls, "{command}");
        at(days(0)).fetch(first_fetch()).await.unwrap();
    }
}

#[tokio::test]
async fn an_old_entry_that_is_saved_again_is_not_adopted_and_blocks_no_process() {
    let server = RedisServer::start();
    let clock = ManualClock::new();
    let store = RedisStore::new(server.url()).unwrap();
    let again = async |name: &str, bytes: Vec<u8>, keep| store.save(name, &bytes, keep).await;
    let source = ScriptedSource::granting(HOUR);
    let shared = shared(&source, &server).with_clock(clock.clone());
    let name = shared.entry_name().await.unwrap();
    shared.fetch(first_fetch()).await.unwrap();
    let (_, old) = server.entry();
    clock.advance(HOUR - Duration::from_secs(30));
    for keep in [HOUR, 2 * HOUR] {
        again(&name, old.clone(), keep).await.unwrap();
        let token = shared.fetch(first_fetch()).await.unwrap();
        assert!(token.age() < Duration::from_secs(5), "{:?}", token.age());
    }
    assert_eq!(source.calls(), 3);

    // The same with a failure whose wait has passed.
    shared.forget().await.unwrap();
    let minute = Duration::from_secs(60);
    let failing = ScriptedSource::new([], Step::FailFor(ErrorKind::RateLimited, minute));
    let failing = self::shared(&failing, &server).with_clock(clock.clone());
    failing.fetch(first_fetch()).await.unwrap_err();
    let (_, old) = server.entry();
    assert!(shared.fetch(first_fetch()).await.is_err(), "the wait has not passed");
    clock.advance(2 * minute);
    again(&name, old, DAY).await.unwrap();
    shared.fetch(first_fetch()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_far_away_is_shared_too() {
    let server = RedisServer::start();
    let far = delaying_proxy(server.port(), Duration::from_millis(120)).await;
    let source = ScriptedSource::new([], Step::Slow(Duration::from_secs(1), DAY));
    let caches: Vec<_> = (0..5)
        .map(|_| {
            let store = RedisStore::new(format!("redis://{far}/1")).unwrap();
            TokenCache::new(SharedSource::with_key(source.clone(), store, "fleet", KEY).unwrap())
        })
        .collect();
    tokens(&caches).await;
    assert_eq!(source.calls(), 1);
}

#[tokio::test]
async fn forty_processes_that_wait_while_the_server_restarts_make_two_token_requests_at_most() {
    let mut server = RedisServer::start();
    let source = ScriptedSource::new([], Step::Slow(Duration::from_secs(4), DAY));
    let caches = fleet(40, &source, &server);
    let (_, server) = tokio::join!(tokens(&caches), async {
        sleep(Duration::from_millis(2_500)).await;
        tokio::task::spawn_blocking(move || {
            server.restart();
            server
        })
        .await
        .unwrap()
    });
    assert!(source.calls() <= 2, "{} token requests", source.calls());
    // The token is in the store afterwards.
    let before = source.calls();
    tokens(&fleet(1, &source, &server)).await;
    assert_eq!(source.calls(), before);
}

#[tokio::test]
async fn a_password_that_rotates_is_read_again_before_the_next_connection() {
    let server = RedisServer::start();
    let set = |password| -> String {
        server.run(&format!("ACL SETUSER worker on resetpass >{password} ~* +@all"))
    };
    set("first");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let url = format!("redis://worker@127.0.0.1:{}", server.port());
    let store = RedisStore::builder(url).password_file(&file).build().unwrap();
    store.save("name", b"entry", HOUR).await.unwrap();
    set("second");
    let _: i64 = server.run("CLIENT KILL USER worker");
    std::fs::write(&file, "second\n").unwrap();
    assert!(store.load("name").await.unwrap().is_some());

    // A file that is missing, and a password from the program.
    let url = format!("redis://worker@127.0.0.1:{}", server.port());
    let missing = RedisStore::builder(&url).password_file(folder.path().join("missing"));
    let error = missing.build().unwrap().load("name").await.unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    let own =
        RedisStore::builder(&url).password_from(async || Ok("second".into())).build().unwrap();
    assert!(own.load("name").await.unwrap().is_some());
}

#[tokio::test]
async fn an_enormous_or_foreign_value_is_overwritten_within_the_time_limit() {
    let server = RedisServer::start();
    let source = ScriptedSource::granting(DAY);
    let shared = shared(&source, &server);
    let name = shared.entry_name().await.unwrap();
    let key = format!("sitecore-auth:{{{name}}}:entry");
    let _: i64 = server.run(&format!("SETRANGE {key} 300000000 x"));
    let started = Instant::now();
    shared.fetch(first_fetch()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    shared.fetch(first_fetch()).await.unwrap();
    assert_eq!(source.calls(), 1);
}

#[tokio::test]
async fn another_key_prefix_and_other_time_limits_can_be_set() {
    let server = RedisServer::start();
    let store = RedisStore::builder(server.url()).key_prefix("app:").build().unwrap();
    store.save("name", b"entry", HOUR).await.unwrap();
    assert_eq!(server.keys(), ["app:{name}:entry"]);
    let far = delaying_proxy(server.port(), Duration::from_millis(400)).await;
    let builder = || RedisStore::builder(format!("redis://{far}")).key_prefix("app:");
    let slow = builder().command_timeout(Duration::from_secs(2)).build().unwrap();
    assert!(slow.load("name").await.unwrap().is_some());
    let impatient = builder().connect_timeout(Duration::from_millis(50)).build().unwrap();
    let error = impatient.load("name").await.unwrap_err().to_string();
    assert!(error.contains("no connection within 50ms"), "{error}");
    // Another connection is not tried at once.
    let started = Instant::now();
    impatient.load("name").await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(40), "{:?}", started.elapsed());
    let error = builder().command_timeout(Duration::ZERO).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_lease_expires_and_only_its_owner_can_release_it() {
    let server = RedisServer::start();
    let stores = [(); 3].map(|()| RedisStore::new(server.url()).unwrap());
    let lease = async |store: &RedisStore, millis| {
        let lease = store.try_lease("name", Duration::from_millis(millis)).await;
        lease.unwrap()
    };
    let first = lease(&stores[0], 300).await.unwrap();
    assert!(lease(&stores[1], 300).await.is_none());
    let second = loop {
        if let Some(second) = lease(&stores[1], 60_000).await {
            break second;
        }
        sleep(Duration::from_millis(20)).await;
    };
    stores[0].release("name", first).await.unwrap();
    assert!(lease(&stores[2], 300).await.is_none(), "another store has the lease");
    stores[1].release("name", second).await.unwrap();
    assert!(lease(&stores[2], 300).await.is_some());
}

#[tokio::test]
async fn a_value_that_is_not_a_string_counts_as_missing_and_is_overwritten() {
    let server = RedisServer::start();
    let store = RedisStore::new(server.url()).unwrap();
    let _: i64 = server.run("RPUSH sitecore-auth:{name}:entry 1 2 3");
    assert!(store.load("name").await.unwrap().is_none());
    store.save("name", b"entry", HOUR).await.unwrap();
    assert_eq!(store.load("name").await.unwrap().unwrap().entry(), b"entry");
}

/// Returns how many connections the server has accepted, and how many are open.
fn connections(server: &RedisServer) -> (u32, u32) {
    let number = |section: &str, name: &str| -> u32 {
        let info: String = server.run(&format!("INFO {section}"));
        info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
    };
    // Each of the two commands has a connection of its own.
    let accepted = number("stats", "total_connections_received:");
    (accepted, number("clients", "connected_clients:") - 1)
}

#[tokio::test]
async fn five_hundred_tenants_of_one_process_share_one_connection_that_is_closed_when_idle() {
    let server = RedisServer::start();
    let far = delaying_proxy(server.port(), Duration::from_millis(10)).await;
    let store = RedisStore::new(format!("redis://{far}")).unwrap();
    let source = ScriptedSource::new([], Step::Slow(Duration::from_secs(1), DAY));
    let tenants: Vec<_> = (0..500)
        .map(|tenant| {
            let name = format!("tenant-{tenant}");
            let shared = SharedSource::with_key(source.clone(), store.clone(), name, KEY);
            TokenCache::new(shared.unwrap())
        })
        .collect();
    let (before, _) = connections(&server);
    tokens(&tenants).await;
    let (after, open) = connections(&server);
    // One is the store's, and three are those of the measurement.
    assert!(after - before <= 4, "{} connections", after - before);
    assert_eq!((source.calls(), open), (500, 1));
    // A lease that was not released in time expires.
    assert_eq!(server.keys().iter().filter(|key| key.ends_with(":entry")).count(), 500);
    sleep(Duration::from_secs(21)).await;
    assert_eq!(connections(&server).1, 0);
}

#[tokio::test]
async fn the_text_of_a_servers_error_is_not_repeated() {
    let server = RedisServer::with(&["--rename-command", "HELLO", ""]);
    let url = format!("redis://user:pass-sentinel@127.0.0.1:{}/?protocol=resp3", server.port());
    let store = RedisStore::new(url).unwrap();
    let logs = Logs::capture();
    let source = ScriptedSource::granting(DAY);
    let error = store.load("name").await.unwrap_err();
    let shared = SharedSource::with_key(source, store, "fleet", KEY).unwrap();
    shared.fetch(first_fetch()).await.unwrap();
    let text = all_formats(&error) + &logs.text();
    assert!(text.contains("continuing without it") && !text.contains("sentinel"), "{text}");
}

#[tokio::test]
async fn a_connection_whose_runtime_does_not_run_is_not_used() {
    let server = RedisServer::start();
    let source = ScriptedSource::granting(DAY);
    let shared = std::sync::Arc::new(shared(&source, &server));
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let fetch = std::sync::Arc::clone(&shared);
    let thread = std::thread::spawn(move || {
        runtime.block_on(fetch.fetch(first_fetch())).unwrap();
        runtime
    });
    let runtime = thread.join().unwrap();
    let _: String = server.run("FLUSHALL");
    shared.fetch(first_fetch()).await.unwrap();
    // The new token was saved, so the store was not skipped.
    assert_eq!((source.calls(), server.keys().len()), (2, 1));
    runtime.shutdown_background();
}

#[tokio::test]
async fn a_user_needs_few_permissions_and_a_wrong_password_is_not_shown() {
    let server = RedisServer::start();
    let permissions = "~sitecore-auth:* +get +getrange +set +del +pttl +pexpire +select";
    let _: String = server.run(&format!("ACL SETUSER worker on >pass-word-sentinel {permissions}"));
    let store = |password| {
        let url = format!("redis://worker:{password}@127.0.0.1:{}/1", server.port());
        RedisStore::new(url).unwrap()
    };
    let source = ScriptedSource::granting(DAY);
    for _ in 0..2 {
        let store = store("pass-word-sentinel");
        assert!(!format!("{store:?}").contains("sentinel"));
        let shared = SharedSource::with_key(source.clone(), store, "fleet", KEY).unwrap();
        shared.fetch(first_fetch()).await.unwrap();
    }
    assert_eq!((source.calls(), server.keys().len()), (1, 0));

    let logs = Logs::capture();
    let error = store("wrong-sentinel").load("name").await.unwrap_err();
    assert!(all_formats(&error).contains("authentication failed"), "{error:?}");
    let wrong = SharedSource::with_key(source, store("wrong-sentinel"), "fleet", KEY).unwrap();
    wrong.fetch(first_fetch()).await.unwrap();
    let text = all_formats(&error) + &logs.text();
    assert!(text.contains("continuing without it") && !text.contains("sentinel"), "{text}");
}

#[tokio::test]
async fn a_check_reports_each_missing_permission() {
    let server = RedisServer::start();
    let commands = ["get", "getrange", "set", "del", "pttl", "pexpire"];
    for missing in commands {
        let allowed = commands.iter().filter(|command| **command != missing);
        let allowed: Vec<_> = allowed.map(|command| format!("+{command}")).collect();
        let allowed = allowed.join(" ");
        let user = format!("ACL SETUSER worker reset on >secret ~sitecore-auth:* {allowed}");
        let _: String = server.run(&user);
        let url = format!("redis://worker:secret@127.0.0.1:{}", server.port());
        let store = RedisStore::new(url).unwrap();
        let source = ScriptedSource::granting(DAY);
        let shared = SharedSource::with_key(source, store, missing, KEY).unwrap();
        let error = shared.check().await.unwrap_err().to_string();
        assert!(error.contains("not allowed to run a required command"), "{missing}: {error}");
    }
}

#[tokio::test]
async fn neither_two_runtimes_nor_a_read_only_server_open_many_connections() {
    let server = RedisServer::start();
    let store = RedisStore::new(server.url()).unwrap();
    let (before, _) = connections(&server);
    let poll = async |store: RedisStore| {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(1) {
            let _ = store.save("name", b"entry", HOUR).await;
            sleep(Duration::from_millis(5)).await;
        }
    };
    let other = store.clone();
    let thread = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(poll(other));
    });
    poll(store.clone()).await;
    thread.join().unwrap();
    let _: String = server.run("REPLICAOF 127.0.0.1 1");
    join_all((0..50).map(|_| poll(store.clone()))).await;
    let _: String = server.run("REPLICAOF NO ONE");
    let _: String = server.run("CONFIG SET maxmemory 1");
    join_all((0..50).map(|_| poll(store.clone()))).await;
    let (after, _) = connections(&server);
    // Those of the store, and those of these measurements and commands.
    assert!(after - before < 15, "{} connections", after - before);
}

#[tokio::test]
async fn a_password_function_that_panics_once_does_not_disable_the_store() {
    let server = RedisServer::start();
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&calls);
    let store = RedisStore::builder(server.url()).password_from(move || {
        let call = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            assert!(call > 0, "scripted");
            // Redis accepts any password of the default user without one.
            Ok("any".into())
        }
    });
    let store = store.build().unwrap();
    store.load("name").await.unwrap_err();
    let started = Instant::now();
    while calls.load(std::sync::atomic::Ordering::SeqCst) < 2 {
        assert!(started.elapsed() < Duration::from_secs(5));
        let _ = store.load("name").await;
    }
}

#[tokio::test]
async fn an_invalid_url_is_reported_without_its_password() {
    for url in ["", "localhost", "http://user:sentinel@host", "redis://:sentinel@host:port"] {
        let error = RedisStore::new(url).unwrap_err();
        let text = all_formats(&error);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(text.contains("rediss://") && !text.contains("sentinel"), "{text}");
    }
}

/// Starts a cluster of two nodes, each of which has half of the slots.
fn cluster(arguments: &[&str]) -> [RedisServer; 2] {
    let arguments = [&["--cluster-enabled", "yes"], arguments].concat();
    let nodes = [(); 2].map(|()| RedisServer::with(&arguments));
    for (node, slots) in nodes.iter().zip(["0 8191", "8192 16383"]) {
        let _: String = node.run(&format!("CLUSTER ADDSLOTSRANGE {slots}"));
    }
    let _: String = nodes[0].run(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[1].port()));
    let is_ready = |node: &RedisServer| {
        let info: String = node.run("CLUSTER INFO");
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
    };
    while !nodes.iter().all(is_ready) {
        pause();
    }
    nodes
}

fn in_cluster(node: &RedisServer, source: &ScriptedSource, name: &str) -> SharedSource {
    let store = RedisStore::cluster([node.url()]).build().unwrap();
    SharedSource::with_key(source.clone(), store, name, KEY).unwrap()
}

#[tokio::test]
async fn any_node_of_a_cluster_works() {
    for endpoints in ["ip", "unknown-endpoint"] {
        let nodes = cluster(&["--cluster-preferred-endpoint-type", endpoints]);
        // Ten entries are spread over both nodes.
        for name in 0..10 {
            let source = ScriptedSource::granting(DAY);
            for node in &nodes {
                let shared = in_cluster(node, &source, &name.to_string());
                shared.check().await.unwrap();
                shared.fetch(first_fetch()).await.unwrap();
            }
            assert_eq!(source.calls(), 1, "{name}");
        }
        let counts = nodes.each_ref().map(|node| node.keys().len());
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert_eq!(counts.iter().sum::<usize>(), 10, "expected entries only, no leases");
    }
}

#[tokio::test]
async fn a_slot_that_moves_costs_one_token_request_at_most() {
    let nodes = cluster(&[]);
    let id = |node: &RedisServer| -> String { node.run("CLUSTER MYID") };
    let ids = nodes.each_ref().map(id);
    let source = ScriptedSource::granting(DAY);
    let fleet: Vec<_> = (0..20).map(|at| in_cluster(&nodes[at % 2], &source, "fleet")).collect();
    let fetch_all = async || {
        let results = join_all(fleet.iter().map(|shared| shared.fetch(first_fetch()))).await;
        assert!(results.iter().all(Result::is_ok));
    };
    fetch_all().await;
    assert_eq!(source.calls(), 1);
    let name = fleet[0].entry_name().await.unwrap();
    let slot: u32 = nodes[0].run(&format!("CLUSTER KEYSLOT {name}"));
    let (from, to) = if slot < 8_192 { (0, 1) } else { (1, 0) };
    // The slot is moving: keys that the old node does not have are asked for at the new one.
    let port = nodes[to].port();
    let _: String = nodes[to].run(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", ids[from]));
    let _: String = nodes[from].run(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", ids[to]));
    let key = format!("sitecore-auth:{{{name}}}:entry");
    let _: String = nodes[from].run(&format!("MIGRATE 127.0.0.1 {port} {key} 0 1000"));
    fetch_all().await;
    assert_eq!(source.calls(), 1, "ASK is followed");
    for node in [&nodes[to], &nodes[from]] {
        let _: String = node.run(&format!("CLUSTER SETSLOT {slot} NODE {}", ids[to]));
    }
    fetch_all().await;
    assert_eq!(source.calls(), 1, "MOVED is followed");
}

#[tokio::test]
async fn a_node_of_a_cluster_is_not_used_as_a_single_server() {
    let nodes = cluster(&[]);
    let mut errors = Vec::new();
    for name in ["0", "1", "2", "3"] {
        for node in &nodes {
            let store = RedisStore::new(node.url()).unwrap();
            errors.extend(store.load(name).await.err().map(|error| error.to_string()));
        }
    }
    assert_eq!(errors.len(), 4);
    assert!(errors.iter().all(|error| error.contains("use RedisStore::cluster")), "{errors:?}");
}

/// Forwards to a port: requests after a delay, responses at once.
async fn delaying_proxy(to: u16, delay: Duration) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        loop {
            let (client, _) = listener.accept().await?;
            let server = TcpStream::connect(("127.0.0.1", to)).await?;
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            spawn(async move {
                let mut buffer = vec![0; 1 << 20];
                loop {
                    let count = from_client.read(&mut buffer).await?;
                    if count == 0 {
                        return io::Result::Ok(());
                    }
                    sleep(delay).await;
                    to_server.write_all(&buffer[..count]).await?;
                }
            });
        }
        #[expect(unreachable_code, reason = "sets the error type")]
        io::Result::Ok(())
    });
    address
}
