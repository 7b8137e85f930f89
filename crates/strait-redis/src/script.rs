//! Scripts, sent by their hash, and in full to a server that does not know them.

use redis::{Cmd, Script, ToRedisArgs};

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
            args: Vec::new(),
        }
    }
}

/// A call of a script.
#[derive(Debug)]
pub(crate) struct Invoke {
    text: &'static str,
    hash: String,
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Invoke {
    pub(crate) fn key(&mut self, key: String) -> &mut Self {
        self.keys.push(key);
        self
    }

    pub(crate) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        self.args.extend(arg.to_redis_args());
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
            command.arg(&arg[..]);
        });
        command
    }
}
