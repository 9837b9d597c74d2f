//! Scripts, each one's text sent once. In: a text, keys and arguments. Out: the command that names the script by its hash,
//! and the one with its text for a Redis that does not have it.

use redis::{Cmd, RedisWrite, ToRedisArgs};

/// A script. Its hash is its version: another text is another script.
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

/// A script with its keys, which are in one slot, and arguments.
pub(super) struct ScriptCall<'a> {
    script: &'a Script,
    keys: Parts,
    args: Parts,
}

/// Byte strings, one after the other.
#[derive(Default)]
struct Parts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Parts {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| self.bytes.get(start..*end).unwrap_or_default())
    }
}

impl RedisWrite for Parts {
    fn write_arg(&mut self, arg: &[u8]) {
        self.bytes.extend_from_slice(arg);
        self.ends.push(self.bytes.len());
    }

    fn writer_for_next_arg(&mut self) -> impl std::io::Write + '_ {
        // One part more; what is written belongs to it.
        self.ends.push(self.bytes.len());
        LastPart(self)
    }
}

struct LastPart<'a>(&'a mut Parts);

impl std::io::Write for LastPart<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.bytes.extend_from_slice(bytes);
        if let Some(end) = self.0.ends.last_mut() {
            *end = self.0.bytes.len();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Script {
    pub fn new(text: &'static str) -> Self {
        Self { text, hash: redis::Script::new(text).get_hash().to_owned() }
    }

    /// A call that begins with a key.
    pub fn key(&self, key: impl ToRedisArgs) -> ScriptCall<'_> {
        let mut call = self.call();
        call.key(key);
        call
    }

    /// A call that begins with an argument.
    pub fn arg(&self, arg: impl ToRedisArgs) -> ScriptCall<'_> {
        let mut call = self.call();
        call.arg(arg);
        call
    }

    fn call(&self) -> ScriptCall<'_> {
        ScriptCall { script: self, keys: Parts::default(), args: Parts::default() }
    }
}

impl ScriptCall<'_> {
    pub fn key(&mut self, key: impl ToRedisArgs) -> &mut Self {
        key.write_redis_args(&mut self.keys);
        self
    }

    pub fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    /// The key that tells the slot.
    pub fn first_key(&self) -> &[u8] {
        self.keys.iter().next().unwrap_or_default()
    }

    pub fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.script.hash)
    }

    pub fn by_text(&self) -> Cmd {
        self.command("EVAL", self.script.text)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let arguments = self.keys.ends.len() + self.args.ends.len() + 3;
        let bytes = self.keys.bytes.len() + self.args.bytes.len() + script.len() + 32;
        let mut command = Cmd::with_capacity(arguments, bytes);
        command.arg(name).arg(script).arg(self.keys.ends.len());
        for part in self.keys.iter().chain(self.args.iter()) {
            command.arg(part);
        }
        command
    }
}
