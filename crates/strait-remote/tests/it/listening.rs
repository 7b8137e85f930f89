//! The listener on a data directory's socket.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use strait_core::events::TopicSpec;
use strait_core::*;
use strait_remote::{Client, ClientOptions, ListenOptions, Listener};

use crate::double::{Double, Handle, append, batch, name};

fn listen(directory: &Path, double: &Arc<Double>, options: ListenOptions) -> Listener {
    Listener::bind(directory, Arc::new(Handle(double.clone())), options).unwrap()
}

async fn connect(directory: &Path) -> Result<Client> {
    Client::connect(directory, ClientOptions::default()).await
}

#[tokio::test]
async fn serves_the_same_user_over_a_private_socket() {
    let directory = tempfile::tempdir().unwrap();
    let listener = listen(directory.path(), &Double::new(), ListenOptions::default());
    let mode = std::fs::metadata(directory.path().join("SOCK"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let client = connect(directory.path()).await.unwrap();
    let events = client.lanes().events.unwrap();
    events
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    assert_eq!(
        events
            .append(append("orders", 0, batch(5, 9)))
            .await
            .unwrap()
            .count,
        5
    );
    listener.stop(Duration::from_secs(5)).await;
    assert!(!directory.path().join("SOCK").exists());
    assert_eq!(
        connect(directory.path()).await.unwrap_err().kind(),
        Kind::Unavailable
    );
}

#[tokio::test]
async fn a_long_path_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let long = directory.path().join("a".repeat(120)).join("b".repeat(120));
    std::fs::create_dir_all(&long).unwrap();
    let _listener = listen(&long, &Double::new(), ListenOptions::default());
    assert!(long.join("SOCK").exists());
    let client = connect(&long).await.unwrap();
    assert_eq!(
        client.lanes().events.unwrap().topics().await.unwrap().len(),
        0
    );
}

#[tokio::test]
async fn the_socket_of_a_dead_process_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("SOCK")).unwrap());
    assert_eq!(
        connect(directory.path()).await.unwrap_err().kind(),
        Kind::Unavailable
    );
    let _listener = listen(directory.path(), &Double::new(), ListenOptions::default());
    connect(directory.path()).await.unwrap();
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let options = ListenOptions {
        connections: 1,
        ..Default::default()
    };
    let _listener = listen(directory.path(), &Double::new(), options);
    let first = connect(directory.path()).await.unwrap();
    let error = connect(directory.path()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error:?}");
    first.close(Duration::from_secs(5)).await;
    // The place is free as soon as the listener has seen the end.
    let freed = async {
        while connect(directory.path()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), freed)
        .await
        .unwrap();
}

#[tokio::test]
async fn stopping_answers_writes_and_cuts_waits() {
    let directory = tempfile::tempdir().unwrap();
    let double = Double::new();
    let listener = listen(directory.path(), &double, ListenOptions::default());
    let client = connect(directory.path()).await.unwrap();
    let events = client.lanes().events.unwrap();
    events
        .declare(TopicSpec::new(name("orders")))
        .await
        .unwrap();
    double.stalled.send_replace(true);
    let write = tokio::spawn(events.append(append("orders", 0, batch(1, 1))));
    let wait = crate::double::cursor("orders", 0, 0, Duration::from_secs(3600));
    let wait = tokio::spawn(events.read(wait, 100));
    double
        .until(|double| double.appends.load(Ordering::SeqCst) == 1)
        .await;
    double
        .waiting
        .subscribe()
        .wait_for(|count| *count == 1)
        .await
        .unwrap();
    let stop = tokio::spawn(listener.stop(Duration::from_secs(20)));
    double.stalled.send_replace(false);
    assert_eq!(write.await.unwrap().unwrap().count, 1);
    let error = wait.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    stop.await.unwrap();
    assert!(matches!(&*client.health().borrow(), Health::Down(why) if why.contains("closing")));
}

/// What waits at a client when the owner closes was seen by nobody: it is released, and costs no attempt.
#[tokio::test]
async fn stopping_lets_consumers_leave_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let double = Double::new();
    let listener = listen(directory.path(), &double, ListenOptions::default());
    let client = connect(directory.path()).await.unwrap();
    let group = strait_core::events::GroupSpec::new(name("g"), name("orders"));
    let events = client.lanes().events.unwrap();
    let mut consumer = events.join(group).await.unwrap();
    let polled = tokio::time::timeout(Duration::from_millis(1), consumer.next(100, 1 << 20));
    assert!(polled.await.is_err());
    double.offer_run(1, 0, 0, 5);
    double.until(|double| double.given(1).0 == 5).await;
    listener.stop(Duration::from_secs(20)).await;
    assert_eq!(
        double.settled(),
        [(crate::double::fence(1, 0, 0, 5), Verdict::Release)]
    );
    assert_eq!(double.left(), [1]);
    assert!(double.abandoned().is_empty());
    assert_eq!(
        consumer.next(1, 1).await.unwrap_err().kind(),
        Kind::Unavailable
    );
    assert!(matches!(consumer.next(1, 1).await, Ok(Arrival::End)));
}

#[tokio::test]
async fn dropping_the_listener_cuts_its_connections() {
    let directory = tempfile::tempdir().unwrap();
    let double = Double::new();
    let listener = listen(directory.path(), &double, ListenOptions::default());
    let client = connect(directory.path()).await.unwrap();
    let group = strait_core::events::GroupSpec::new(name("g"), name("orders"));
    let _consumer = client.lanes().events.unwrap().join(group).await.unwrap();
    drop(listener);
    assert!(!directory.path().join("SOCK").exists());
    let mut health = client.health();
    health
        .wait_for(|health| matches!(health, Health::Down(_)))
        .await
        .unwrap();
    double.until(|double| double.left() == [1]).await;
}

#[tokio::test]
async fn an_owner_that_does_not_listen_says_so() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(strait_remote::switched_off_by(directory.path()), None);
    let note = strait_remote::switch_off(directory.path()).unwrap();
    assert_eq!(
        strait_remote::switched_off_by(directory.path()),
        Some(std::process::id())
    );
    assert_eq!(
        connect(directory.path()).await.unwrap_err().kind(),
        Kind::Unavailable
    );
    drop(note);
    assert!(!directory.path().join("SOCK").exists());
    assert_eq!(strait_remote::switched_off_by(directory.path()), None);
}
