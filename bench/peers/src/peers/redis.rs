//! Redis and Valkey: one stream per topic, `XADD` in pipelines, a connection per producer. The client is written here: what
//! those in Rust do for each answer costs more than the server's work, and the server is what is compared.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peer::{Fut, Peer, Producer, Result, body};

/// Entries of one `XREAD`.
const ENTRIES: &[u8] = b"2000";

pub struct Redis {
    address: String,
}

impl Redis {
    pub async fn open(port: &str) -> Result<Self> {
        let address = format!("127.0.0.1:{port}");
        let mut connection = Connection::open(&address).await?;
        connection.ask(&command(&[b"PING"]), 1).await?;
        Ok(Redis { address })
    }
}

/// A command in the server's protocol.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        text.extend(format!("${}\r\n", word.len()).into_bytes());
        text.extend(*word);
        text.extend(b"\r\n");
    }
    text
}

struct Connection {
    stream: TcpStream,
    answers: Vec<u8>,
}

impl Connection {
    async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            answers: Vec::new(),
        })
    }

    /// Sends commands and waits for so many answers; gives their bytes.
    async fn ask(&mut self, commands: &[u8], answers: u32) -> Result<&[u8]> {
        self.stream.write_all(commands).await?;
        self.answers.clear();
        let (mut left, mut at) = (answers, 0);
        loop {
            while left > 0
                && let Some(end) = end_of(&self.answers, at)?
            {
                (left, at) = (left - 1, end);
            }
            if left == 0 {
                return Ok(&self.answers);
            }
            self.answers.reserve(1 << 16);
            if self.stream.read_buf(&mut self.answers).await? == 0 {
                return Err("the server closed the connection".into());
            }
        }
    }
}

/// A line from `at` on, without its end, and where the next begins; none while it is not all there.
fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(at..)?;
    let end = memchr::memchr(b'\r', rest)?;
    (rest.len() > end + 1).then(|| (&rest[..end], at + end + 2))
}

/// The number of a line behind its first byte; -1 stands for nothing.
fn number(line: &[u8]) -> Result<i64> {
    Ok(std::str::from_utf8(&line[1..])?.parse()?)
}

/// Where the answer that begins at `at` ends; none while it is not all there.
fn end_of(bytes: &[u8], at: usize) -> Result<Option<usize>> {
    let Some((head, mut at)) = line(bytes, at) else {
        return Ok(None);
    };
    match head.first() {
        Some(b'+' | b':') => Ok(Some(at)),
        Some(b'$') => {
            let length = usize::try_from(number(head)?).map_or(0, |length| length + 2);
            Ok((bytes.len() >= at + length).then_some(at + length))
        }
        Some(b'*') => {
            for _ in 0..number(head)?.max(0) {
                match end_of(bytes, at)? {
                    Some(end) => at = end,
                    None => return Ok(None),
                }
            }
            Ok(Some(at))
        }
        _ => Err(String::from_utf8_lossy(head).into_owned().into()),
    }
}

/// The number of entries of an `XREAD` of one stream, and the id of the last; none when there are no more.
fn entries_of(answer: &[u8]) -> Result<Option<(u64, Vec<u8>)>> {
    const SHORT: &str = "an answer of XREAD in another form";
    let (head, at) = line(answer, 0).ok_or(SHORT)?;
    if number(head)? < 1 {
        return Ok(None);
    }
    // The pair of the stream's name and its entries.
    let (_, name) = line(answer, at).ok_or(SHORT)?;
    let entries = end_of(answer, name)?.ok_or(SHORT)?;
    let (head, mut at) = line(answer, entries).ok_or(SHORT)?;
    let count = u64::try_from(number(head)?)?;
    let mut last = Vec::new();
    for _ in 0..count {
        // The pair of an entry's id and its fields.
        let (_, id) = line(answer, at).ok_or(SHORT)?;
        let (_, id) = line(answer, id).ok_or(SHORT)?;
        let (text, fields) = line(answer, id).ok_or(SHORT)?;
        last.clear();
        last.extend(text);
        at = end_of(answer, fields)?.ok_or(SHORT)?;
    }
    Ok(Some((count, last)))
}

impl Peer for Redis {
    fn ways(&self) -> &'static [&'static str] {
        &["pipelines"]
    }

    fn blocks(&self) -> bool {
        false
    }

    fn create<'a>(&'a self, _topic: &'a str) -> Fut<'a, ()> {
        // A stream is made by its first entry.
        Box::pin(async { Ok(()) })
    }

    fn delete<'a>(&'a self, topic: &'a str) -> Fut<'a, ()> {
        Box::pin(async move {
            let mut connection = Connection::open(&self.address).await?;
            let delete = command(&[b"DEL", topic.as_bytes()]);
            connection.ask(&delete, 1).await?;
            Ok(())
        })
    }

    fn producer<'a>(
        &'a self,
        topic: &'a str,
        _way: usize,
        _index: u32,
    ) -> Fut<'a, Box<dyn Producer>> {
        Box::pin(async move {
            let producer: Box<dyn Producer> = Box::new(Pipelines {
                connection: Connection::open(&self.address).await?,
                entry: command(&[b"XADD", topic.as_bytes(), b"*", b"b", &body()]),
                pipeline: Vec::new(),
            });
            Ok(producer)
        })
    }

    fn read(self: Arc<Self>, topic: String) -> Fut<'static, u64> {
        Box::pin(async move {
            let mut connection = Connection::open(&self.address).await?;
            let mut from = b"0".to_vec();
            let mut entries = 0;
            loop {
                let topic = topic.as_bytes();
                let ask = command(&[b"XREAD", b"COUNT", ENTRIES, b"STREAMS", topic, &from]);
                let Some((count, last)) = entries_of(connection.ask(&ask, 1).await?)? else {
                    return Ok(entries);
                };
                entries += count;
                from = last;
            }
        })
    }

    fn close(&self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

struct Pipelines {
    connection: Connection,
    entry: Vec<u8>,
    /// The entry as often as a batch has messages.
    pipeline: Vec<u8>,
}

impl Producer for Pipelines {
    fn append(&mut self, messages: u32) -> Fut<'_, ()> {
        Box::pin(async move {
            let length = self.entry.len() * messages as usize;
            if self.pipeline.len() != length {
                self.pipeline = self.entry.repeat(messages as usize);
            }
            self.connection.ask(&self.pipeline, messages).await?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] =
        b"*1\r\n*2\r\n$1\r\nt\r\n*2\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nb\r\n$2\r\n\r\n\r\n\
        *2\r\n$3\r\n2-0\r\n*2\r\n$1\r\nb\r\n$1\r\nx\r\n";

    #[test]
    fn an_answer_gives_the_number_of_entries_and_the_last_id() {
        let found = entries_of(ANSWER).expect("well formed");
        assert_eq!(found, Some((2, b"2-0".to_vec())));
        assert_eq!(entries_of(b"*-1\r\n").expect("well formed"), None);
    }

    #[test]
    fn an_answer_ends_where_its_last_part_does() {
        assert_eq!(end_of(ANSWER, 0).expect("well formed"), Some(ANSWER.len()));
        for cut in 0..ANSWER.len() {
            assert_eq!(end_of(&ANSWER[..cut], 0).expect("well formed"), None);
        }
        let refused = end_of(b"-ERR no memory\r\n", 0).expect_err("refused");
        assert_eq!(refused.to_string(), "-ERR no memory");
    }
}
