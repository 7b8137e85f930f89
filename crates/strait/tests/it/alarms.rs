//! Alarms: who is told, when, and what is refused.

use std::time::Duration;

use strait::core::events::DeadFilter;
use strait::embedded::{Embedded, Options};
use strait::{Alarm, Backoff, Handled, Kind, Raw, Strait, secs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::*;

/// Between two looks.
const SOON: Duration = Duration::from_millis(10);

async fn fail(_: Order) -> Handled {
    Err("no room")?
}

async fn done(_: Order) -> Handled {
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_told_once_when_it_is_passed_and_once_when_it_is_kept_again() {
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let told = Log::new();
    let tell = told.clone();
    let alarm = Alarm::call(move |notice| tell.push(notice.to_string()))
        .dead_letters(1)
        .group("billing")
        .every(SOON);
    let billing = orders.group("billing");
    let other = orders.group("other");
    let once = Backoff::fixed(SOON).up_to(1);
    let mut app = strait
        .app()
        .serve(billing.each(fail).retry(once))
        .serve(other.each(fail).retry(once))
        .alarm(alarm)
        .start()
        .await
        .unwrap();
    place(&orders, "ada", 1..=1).await;
    until(&billing, |info| info.dead == 1).await;
    assert_eq!(told.len(), 0, "the limit is kept");
    place(&orders, "ada", 2..=2).await;
    told.wait(1).await;
    place(&orders, "ada", 3..=4).await;
    until(&billing, |info| info.dead == 4).await;

    let dead = billing.dead_letters();
    dead.remove(DeadFilter::default()).await.unwrap();
    told.wait(2).await;
    place(&orders, "ada", 5..=6).await;
    let told = told.wait(3).await;
    app.stop().await.unwrap();
    assert_eq!(
        told,
        [
            "billing on orders: dead_letters 2 is over 1",
            "billing on orders: dead_letters 0 is within 1 again",
            "billing on orders: dead_letters 2 is over 1",
        ]
    );
}

/// Memory is filled up and emptied again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_that_there_is_room_again() {
    let options = Options {
        memory_bytes: 64 << 20,
        ..Options::default()
    };
    let strait = Strait::on(Embedded::memory(options).unwrap());
    let told = Log::new();
    let tell = told.clone();
    let alarm = Alarm::call(move |notice| {
        assert_eq!((&notice.group, &notice.topic), (&None, &None));
        tell.push(notice.to_string());
    });
    let alarm = alarm.full_in(secs(1)).every(SOON);
    let mut app = strait.app().alarm(alarm).start().await.unwrap();
    let blobs = strait.events().topic::<Raw>("blobs");
    let blobs = blobs.partitions(1).await.unwrap();
    while blobs.append(&Raw::bytes(vec![7; 500_000])).await.is_ok() {}
    told.wait(1).await;
    let lane = strait.events_lane().unwrap();
    lane.delete("blobs".parse().unwrap()).await.unwrap();
    let told = told.wait(2).await;
    app.stop().await.unwrap();
    // It may be seen a moment before it happens.
    assert!(told[0].starts_with("the disk is full"), "{told:?}");
    assert_eq!(told[1..], ["the disk will not be full within 1 s"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alarm_of_the_configuration_is_posted_and_tried_again_when_it_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("strait.toml");
    let text = format!(
        "url = \"memory:\"\n[alarm]\ndead_letters = 0\nurl = \"http://127.0.0.1:{port}/hook\"\nevery = \"10ms\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let strait = Strait::open(file.to_str().unwrap()).await.unwrap();
    let orders = orders(&strait, 1).await;
    let billing = orders.group("billing");
    let once = Backoff::fixed(SOON).up_to(1);
    let app = strait.app().serve(billing.each(fail).retry(once));
    let mut app = app.start().await.unwrap();
    place(&orders, "ada", [1]).await;

    let mut bodies = Vec::new();
    for status in ["503 Busy", "204 No Content"] {
        let accepted = tokio::time::timeout(PATIENCE, listener.accept());
        let (mut stream, _) = accepted.await.unwrap().unwrap();
        bodies.push(request(&mut stream).await);
        let answer = format!("HTTP/1.1 {status}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    app.stop().await.unwrap();
    let body = r#"{"schema":1,"alarm":"dead_letters","state":"raised","group":"billing","topic":"orders","value":1,"limit":0}"#;
    assert_eq!(bodies, [body, body]);
}

/// Reads a POST; gives its body.
async fn request(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            assert!(head.starts_with("POST /hook HTTP/1.1\r\n"), "{head}");
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() == length.unwrap().parse::<usize>().unwrap() {
                return body.to_owned();
            }
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_do_not_wait_for_an_alarm_that_nobody_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let strait = memory();
    let orders = orders(&strait, 1).await;
    let billing = orders.group("billing");
    // It exists, and nobody handles: there is a lag.
    let mut app = strait
        .app()
        .serve(billing.each(done))
        .start()
        .await
        .unwrap();
    app.stop().await.unwrap();
    place(&orders, "ada", 1..=1).await;
    let alarm = Alarm::post(format!("http://127.0.0.1:{port}/")).lag(0);
    let mut watching = strait.app().alarm(alarm.every(SOON)).start().await.unwrap();
    let accepted = tokio::time::timeout(PATIENCE, listener.accept());
    let _never_answered = accepted.await.unwrap().unwrap();
    let mut app = strait
        .app()
        .serve(billing.each(done))
        .start()
        .await
        .unwrap();
    settled(&billing).await;
    app.stop().await.unwrap();
    watching.stop().await.unwrap();
}

#[tokio::test]
async fn an_alarm_that_could_tell_nobody_is_refused_at_the_start() {
    let strait = memory();
    for (alarm, why) in [
        (Alarm::command(["page"]), "no limit"),
        (Alarm::command([""; 0]).lag(1), "is empty"),
        (
            Alarm::post("http://hooks.internal/").lag(1),
            "not this machine",
        ),
        (
            Alarm::post("127.0.0.1:80").lag(1),
            "does not begin with http://",
        ),
        (Alarm::command(["page"]).lag(1).group("no name"), "no name"),
    ] {
        let refused = strait.app().alarm(alarm).start().await;
        let error = refused.err().unwrap_or_else(|| panic!("{why}: accepted"));
        assert!(error.to_string().contains(why), "{why}: {error}");
        assert!(
            matches!(error.kind(), Kind::Config | Kind::Rejected),
            "{error}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("strait.toml");
    for (text, why) in [
        ("lag = 1\n", "either `url` or `command`"),
        ("url = \"http://127.0.0.1/\"\n", "no limit"),
        ("lag = 1\ncommand = [\"a\"]\nloud = true\n", "`loud`"),
        ("lag = 1\nurl = \"http://10.1.1.1/\"\n", "not this machine"),
    ] {
        std::fs::write(&file, format!("url = \"memory:\"\n[alarm]\n{text}")).unwrap();
        let error = Strait::open(file.to_str().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{error}");
        assert!(error.to_string().contains(why), "{text}: {error}");
    }
}
