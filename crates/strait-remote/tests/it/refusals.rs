//! Peers that speak something else.

use std::sync::Arc;
use std::time::Duration;

use strait_core::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use crate::double::{Double, Handle};

const HELLO: u8 = 0x01;
const REFUSED: u8 = 0x03;
const PING: u8 = 0x04;
const PONG: u8 = 0x05;
const GOODBYE: u8 = 0x06;

fn serve() -> (DuplexStream, JoinHandle<Result<()>>) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let engine: Arc<dyn Engine> = Arc::new(Handle(Double::new()));
    let (reader, writer) = tokio::io::split(far);
    let server = tokio::spawn(strait_remote::serve(
        reader,
        writer,
        engine,
        Duration::from_secs(5),
    ));
    (near, server)
}

fn frame(kind: u8, id: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32 + 9).to_le_bytes().to_vec();
    frame.push(kind);
    frame.extend_from_slice(&id.to_le_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn hello(oldest: u16, newest: u16) -> Vec<u8> {
    let mut payload = b"strait://".to_vec();
    payload.extend_from_slice(&oldest.to_le_bytes());
    payload.extend_from_slice(&newest.to_le_bytes());
    let text = |text: &str| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    payload.extend(text("strait 9.9.9"));
    payload.extend_from_slice(&7u32.to_le_bytes());
    payload.extend(text("future"));
    // What a later version says beyond.
    payload.extend(text("and more"));
    frame(HELLO, 0, &payload)
}

async fn answer(stream: &mut DuplexStream) -> (u8, u64, Vec<u8>) {
    let len = stream.read_u32_le().await.unwrap();
    let mut rest = vec![0; len as usize];
    stream.read_exact(&mut rest).await.unwrap();
    let id = u64::from_le_bytes(rest[1..9].try_into().unwrap());
    (rest[0], id, rest[9..].to_vec())
}

fn says(payload: &[u8], words: &str) {
    let text = String::from_utf8_lossy(payload);
    assert!(text.contains(words), "{text:?} does not say {words:?}");
}

#[tokio::test]
async fn a_version_that_nobody_shares_is_refused_by_name() {
    let (mut stream, server) = serve();
    stream.write_all(&hello(2, 3)).await.unwrap();
    let (kind, _, payload) = answer(&mut stream).await;
    assert_eq!(kind, REFUSED);
    says(
        &payload,
        "future (pid 7, strait 9.9.9) speaks versions 2 to 3 of strait://",
    );
    says(&payload, "1 to 1");
    assert_eq!(server.await.unwrap().unwrap_err().kind(), Kind::Unsupported);
}

#[tokio::test]
async fn a_later_client_that_speaks_this_version_too_is_welcome() {
    let (mut stream, _server) = serve();
    stream.write_all(&hello(1, 9)).await.unwrap();
    let (kind, _, payload) = answer(&mut stream).await;
    assert_eq!((kind, &payload[..2]), (0x02, &1u16.to_le_bytes()[..]));
    stream.write_all(&frame(PING, 5, b"")).await.unwrap();
    assert_eq!(answer(&mut stream).await, (PONG, 5, vec![]));
}

#[tokio::test]
async fn a_kind_that_nobody_knows_is_refused_by_name() {
    let (mut stream, server) = serve();
    stream.write_all(&hello(1, 1)).await.unwrap();
    answer(&mut stream).await;
    stream.write_all(&frame(0x7b, 1, b"?")).await.unwrap();
    let (kind, _, payload) = answer(&mut stream).await;
    assert_eq!(kind, GOODBYE);
    says(&payload, "unknown kind 0x7b");
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(server.await.unwrap().unwrap_err().kind(), Kind::Unsupported);
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_answered_and_nothing_else_suffers() {
    let (mut stream, _server) = serve();
    stream.write_all(&hello(1, 1)).await.unwrap();
    answer(&mut stream).await;
    // An append whose payload is noise.
    stream.write_all(&frame(0x35, 9, b"noise")).await.unwrap();
    let (kind, id, payload) = answer(&mut stream).await;
    assert_eq!((kind, id, payload[0]), (0x08, 9, 0));
    says(&payload, "malformed");
    stream.write_all(&frame(PING, 6, b"")).await.unwrap();
    assert_eq!(answer(&mut stream).await.0, PONG);
}

#[tokio::test]
async fn what_is_no_strait_is_hung_up_on() {
    for noise in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0; 64],
        &[0xff; 64],
        &hello(1, 1)[..20],
    ] {
        let (mut stream, server) = serve();
        stream.write_all(noise).await.unwrap();
        stream.shutdown().await.unwrap();
        let error = server.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    }
}

#[tokio::test]
async fn a_request_in_several_frames_is_refused() {
    let (mut stream, server) = serve();
    stream.write_all(&hello(1, 1)).await.unwrap();
    answer(&mut stream).await;
    stream
        .write_all(&frame(0x35 | 0x80, 9, b"part"))
        .await
        .unwrap();
    assert_eq!(answer(&mut stream).await.0, GOODBYE);
    assert!(server.await.unwrap().is_err());
}

#[tokio::test]
async fn a_client_refuses_a_server_of_another_kind() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (reader, writer) = tokio::io::split(near);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let error = strait_remote::Client::over(reader, writer, Default::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
}

#[test]
fn a_recorded_stream_can_be_looked_into() {
    let stream = [hello(1, 1), frame(PING, 4, b"")].concat();
    let lines = strait_remote::inspect(&stream).unwrap();
    assert_eq!(lines, ["hello 0 (55 bytes)", "ping 4 (0 bytes)"]);
    assert!(strait_remote::inspect(&stream[..30]).is_err());
}
