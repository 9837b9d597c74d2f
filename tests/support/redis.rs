//! A Redis of a test's own: real, on a free port, in memory only, killed when dropped. In: nothing. Out: its URL, and
//! the ways to make it fail.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

/// How long the server may take to start on a busy machine.
const START: Duration = Duration::from_secs(20);

/// A running `redis-server`.
pub struct RedisServer {
    process: Child,
    directory: TempDir,
    port: u16,
    /// What it is started with beyond a port and nothing on disk.
    arguments: Vec<String>,
}

// Every test binary uses some of these, none all.
const _: () = {
    let _ = RedisServer::pause;
    let _ = RedisServer::freeze;
    let _ = RedisServer::thaw;
    let _ = RedisServer::kill;
    let _ = RedisServer::restart;
    let _ = RedisServer::url;
    let _ = RedisServer::start_with::<fn(&TempDir) -> Vec<String>>;
    let _ = RedisServer::port;
    let _ = RedisServer::directory;
    let _ = RedisServer::query::<()>;
};

impl RedisServer {
    /// Starts one. None, with the reason printed, where `redis-server` is not installed: the test is to be skipped. In
    /// CI (`CI` is set) that is a failure.
    pub async fn start() -> Option<Self> {
        Self::start_with(|_| Vec::new()).await
    }

    /// Starts one with more arguments, made for its directory: a first one without dashes is a configuration file. They
    /// are made anew when the port turns out to be taken.
    pub async fn start_with<F: Fn(&TempDir) -> Vec<String>>(arguments: F) -> Option<Self> {
        for _ in 0..10 {
            let port = free_port();
            let directory = tempfile::tempdir().expect("a temporary directory");
            let arguments = arguments(&directory);
            let process = match spawn(port, &directory, &arguments) {
                Ok(process) => process,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    assert!(
                        std::env::var_os("CI").is_none(),
                        "redis-server is not installed: apt-get install redis-server"
                    );
                    println!("skipped: redis-server is not installed (apt-get install redis-server)");
                    return None;
                }
                Err(error) => panic!("redis-server does not start: {error}"),
            };
            let mut server = Self { process, directory, port, arguments };
            // False where somebody else took the port in between.
            if server.is_up().await {
                return Some(server);
            }
        }
        panic!("redis-server finds no free port");
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its files.
    pub fn directory(&self) -> &TempDir {
        &self.directory
    }

    /// Runs one command, its words separated by blanks, on a connection of its own.
    pub async fn query<T: redis::FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        command.arg(words.collect::<Vec<_>>());
        command.query_async(&mut self.connection().await).await
    }

    /// A connection for looking at what is stored.
    pub async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a URL");
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(START))
            .set_response_timeout(Some(START));
        client.get_multiplexed_async_connection_with_config(&patient).await.expect("a connection")
    }

    /// Answers nobody for this long; connections are still accepted. Nothing ends it earlier: that would have to be
    /// answered too.
    pub async fn pause(&self, time: Duration) {
        let mut connection = self.connection().await;
        let millis = u64::try_from(time.as_millis()).expect("a short time");
        let () = redis::cmd("CLIENT")
            .arg("PAUSE")
            .arg(millis)
            .arg("ALL")
            .query_async(&mut connection)
            .await
            .expect("CLIENT PAUSE");
    }

    /// Stops the process where it is: the kernel still accepts connections, nobody reads them.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Ends the process at once. What it stored is lost.
    pub fn kill(&mut self) {
        self.process.kill().expect("a process to kill");
        self.process.wait().expect("its end");
    }

    /// Starts it again after [`Self::kill`], empty, on the same port.
    pub async fn restart(&mut self) {
        let deadline = Instant::now() + START;
        loop {
            self.process = spawn(self.port, &self.directory, &self.arguments).expect("redis-server");
            if self.is_up().await {
                return;
            }
            assert!(Instant::now() < deadline, "redis-server does not get its port back");
        }
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.process.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Waits until this very process answers; false if it ended instead.
    async fn is_up(&mut self) -> bool {
        let client = redis::Client::open(self.url()).expect("a URL");
        let deadline = Instant::now() + START;
        loop {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await
                && let Ok(info) =
                    redis::cmd("INFO").arg("server").query_async::<String>(&mut connection).await
            {
                return info.contains(&format!("process_id:{}\r", self.process.id()));
            }
            if self.process.try_wait().expect("a process").is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "redis-server does not answer within {START:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process too. One that is gone already is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(port: u16, directory: &TempDir, arguments: &[String]) -> std::io::Result<Child> {
    let (file, options) = match arguments.split_first() {
        Some((file, options)) if !file.starts_with('-') => (Some(file), options),
        _ => (None, arguments),
    };
    Command::new("redis-server")
        .args(file)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(directory.path())
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// A port that nobody listens on, for now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
