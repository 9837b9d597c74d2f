//! Scripts, each one's text sent once. In: a text, keys and arguments. Out: the command that names the script by its hash,
//! and the one with its text for a Redis that does not have it.

use redis::{Cmd, ToRedisArgs};

/// A script. Its hash is its version: another text is another script.
pub(super) struct Script {
    text: &'static str,
    hash: String,
}

/// A script with its keys, which are in one slot, and arguments.
pub(super) struct ScriptCall<'a> {
    script: &'a Script,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
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
        ScriptCall { script: self, keys: Vec::new(), args: Vec::new() }
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
        self.keys.first().map(Vec::as_slice).unwrap_or_default()
    }

    pub fn by_hash(&self) -> Cmd {
        self.command("EVALSHA", &self.script.hash)
    }

    pub fn by_text(&self) -> Cmd {
        self.command("EVAL", self.script.text)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.args);
        command
    }
}
