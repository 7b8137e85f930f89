//! What waits to be written to a connection.
//!
//! Any thread puts frames in; one task writes them. While a write is under way frames collect, so that under load one
//! system call carries many of them. Long byte strings are written from where they lie.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::frame::{HEAD, MORE, PAYLOAD_MAX};
use crate::wire::Out;

/// From this many bytes on, nobody who can wait adds more.
const FULL: usize = 8 << 20;
/// Pieces below this length are copied together: a vectored write costs per piece.
const BY_REFERENCE: usize = 2048;

/// Frames in order, ready to write.
#[derive(Debug, Default)]
pub(crate) struct Rope {
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Rope {
    /// One message of a few bytes by itself.
    pub(crate) fn of(kind: u8, payload: Out) -> Bytes {
        let mut rope = Rope::default();
        rope.frame(kind, 0, payload);
        rope.seal();
        rope.copy_to_bytes(rope.remaining())
    }

    fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if piece.len() < BY_REFERENCE {
            self.tail.put_slice(&piece);
        } else {
            if !self.tail.is_empty() {
                self.pieces.push_back(self.tail.split().freeze());
            }
            self.pieces.push_back(piece);
        }
    }

    /// Adds a message, in several frames if it is long.
    pub(crate) fn frame(&mut self, kind: u8, id: u64, payload: Out) {
        let mut left = payload.len();
        let mut room = self.open(kind, id, &mut left);
        for mut piece in payload.into_pieces() {
            while !piece.is_empty() {
                if room == 0 {
                    room = self.open(kind, id, &mut left);
                }
                let part = piece.split_to(piece.len().min(room));
                room -= part.len();
                self.push(part);
            }
        }
    }

    /// Begins a frame with as much of the payload as it may hold: gives that length, and takes it from `left`.
    fn open(&mut self, kind: u8, id: u64, left: &mut usize) -> usize {
        let len = (*left).min(PAYLOAD_MAX);
        *left -= len;
        let more = if *left > 0 { MORE } else { 0 };
        self.len += HEAD;
        self.tail.put_u32_le((HEAD - 4 + len) as u32);
        self.tail.put_u8(kind | more);
        self.tail.put_u64_le(id);
        len
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [io::IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slot, piece) in into.iter_mut().zip(&self.pieces) {
            *slot = io::IoSlice::new(piece);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        self.len -= count;
        while let Some(front) = self.pieces.front_mut() {
            if front.len() > count {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.pieces.pop_front();
        }
    }
}

#[derive(Debug, Default)]
struct State {
    rope: Rope,
    closed: bool,
}

/// The outgoing side of a connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    writer: AtomicWaker,
    /// Tells those who wait for room.
    written: Notify,
}

impl Outbox {
    /// Adds a message. After [`Outbox::close`] it is dropped: the connection is over, and its end says so.
    pub(crate) fn push(&self, kind: u8, id: u64, payload: Out) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let first = state.rope.len == 0;
        state.rope.frame(kind, id, payload);
        drop(state);
        if first {
            self.writer.wake();
        }
    }

    /// Nothing more is taken; what is there is still written.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.writer.wake();
        self.written.notify_waiters();
    }

    /// Waits until less than the bound is waiting to be written (or nothing ever will be).
    pub(crate) async fn room(&self) {
        loop {
            let written = self.written.notified();
            {
                let state = self.state.lock();
                if state.closed || state.rope.len < FULL {
                    return;
                }
            }
            written.await;
        }
    }

    /// True while there is room.
    pub(crate) fn has_room(&self) -> bool {
        self.state.lock().rope.len < FULL
    }

    /// Writes until the outbox is closed and empty. One task only.
    pub(crate) async fn write_to<W: AsyncWrite + Unpin>(&self, mut io: W) -> io::Result<()> {
        loop {
            let mut rope = poll_fn(|cx| {
                self.writer.register(cx.waker());
                let mut state = self.state.lock();
                if state.rope.len > 0 {
                    return Poll::Ready(Some(std::mem::take(&mut state.rope)));
                }
                if state.closed {
                    return Poll::Ready(None);
                }
                Poll::Pending
            })
            .await
            .unwrap_or_default();
            if rope.len == 0 {
                return io.shutdown().await;
            }
            self.written.notify_waiters();
            rope.seal();
            io.write_all_buf(&mut rope).await?;
            io.flush().await?;
        }
    }
}
