//! Scripts, sent by their hash, and in full to a server that does not know them.

use std::io::Write;

use redis::{Cmd, RedisWrite, Script, ToRedisArgs};

/// The scripts of the engine.
#[derive(Debug)]
pub(crate) struct Scripts {
    pub(crate) declare: Source,
    pub(crate) unit: Source,
    pub(crate) claim: Source,
    pub(crate) trim: Source,
    pub(crate) join: Source,
    pub(crate) beat: Source,
    pub(crate) grant: Source,
    pub(crate) seek: Source,
    pub(crate) drop: Source,
    pub(crate) alter: Source,
    pub(crate) redrive: Source,
    pub(crate) undo: Source,
    pub(crate) remove: Source,
    pub(crate) edit: Source,
    pub(crate) aside: Source,
}

/// A script with what the scripts about dead letters share in front of it.
macro_rules! of_letters {
    ($file:literal) => {
        Source::new(concat!(
            include_str!("lua/letters.lua"),
            include_str!($file)
        ))
    };
}

impl Scripts {
    pub(crate) fn new() -> Self {
        Scripts {
            declare: Source::new(include_str!("lua/declare.lua")),
            unit: of_letters!("lua/unit.lua"),
            claim: Source::new(include_str!("lua/claim.lua")),
            trim: of_letters!("lua/trim.lua"),
            join: Source::new(include_str!("lua/join.lua")),
            beat: Source::new(include_str!("lua/beat.lua")),
            grant: Source::new(include_str!("lua/grant.lua")),
            seek: of_letters!("lua/seek.lua"),
            drop: Source::new(include_str!("lua/drop.lua")),
            alter: of_letters!("lua/alter.lua"),
            redrive: of_letters!("lua/redrive.lua"),
            undo: of_letters!("lua/undo.lua"),
            remove: of_letters!("lua/remove.lua"),
            edit: of_letters!("lua/edit.lua"),
            aside: of_letters!("lua/aside.lua"),
        }
    }
}

/// One script.
#[derive(Debug)]
pub(crate) struct Source {
    text: &'static str,
    hash: String,
}

impl Source {
    fn new(text: &'static str) -> Self {
        Source {
            text,
            hash: Script::new(text).get_hash().to_owned(),
        }
    }

    pub(crate) fn prepare(&self) -> Invoke {
        Invoke {
            text: self.text,
            hash: self.hash.clone(),
            keys: Vec::new(),
            args: Args::default(),
        }
    }
}

/// A call of a script.
#[derive(Debug)]
pub(crate) struct Invoke {
    text: &'static str,
    hash: String,
    keys: Vec<String>,
    args: Args,
}

/// Arguments one after the other in one piece of memory: a batch has hundreds of them.
#[derive(Debug, Default)]
struct Args {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Args {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.bytes[*start..*end])
    }
}

impl RedisWrite for Args {
    fn write_arg(&mut self, arg: &[u8]) {
        self.bytes.extend_from_slice(arg);
        self.ends.push(self.bytes.len());
    }

    fn writer_for_next_arg(&mut self) -> impl Write + '_ {
        Next(self)
    }
}

/// Writes one argument, which ends when this is dropped.
struct Next<'a>(&'a mut Args);

impl Write for Next<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.bytes.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        self.0.ends.push(self.0.bytes.len());
    }
}

impl Invoke {
    pub(crate) fn key(&mut self, key: String) -> &mut Self {
        self.keys.push(key);
        self
    }

    pub(crate) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    /// By its hash.
    pub(crate) fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.hash)
    }

    /// In full.
    pub(crate) fn in_full(&self) -> Cmd {
        self.command("EVAL", self.text)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len());
        self.keys.iter().for_each(|key| {
            command.arg(key);
        });
        self.args.iter().for_each(|arg| {
            command.arg(arg);
        });
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_told_apart() {
        let mut invoke = Source::new("return 1").prepare();
        invoke.key("k".to_owned());
        invoke.arg("").arg(12).arg(&b"a\0b"[..]).arg(1.5);
        let found: Vec<&[u8]> = invoke.args.iter().collect();
        assert_eq!(found, [&b""[..], b"12", b"a\0b", b"1.5"]);
        let packed = invoke.in_full().get_packed_command();
        let text = String::from_utf8_lossy(&packed).into_owned();
        assert!(text.starts_with("*8\r\n$4\r\nEVAL\r\n"), "{text}");
        assert!(text.ends_with("$3\r\n1.5\r\n"), "{text}");
    }
}
