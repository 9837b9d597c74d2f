//! A process of the bench. In: a command. Out: the running process, its memory and its CPU time from `/proc`, with what
//! its children use; killed when dropped.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running process and its children.
pub struct Process {
    child: Child,
}

/// Clock ticks of a second in `/proc/PID/stat`: 100 on every Linux that this runs on.
const TICKS: u64 = 100;

impl Process {
    /// Starts it, with what it prints left out.
    pub fn start(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().to_string_lossy()));
        Self { child }
    }

    /// Resident memory, of the children too.
    pub fn rss_bytes(&self) -> u64 {
        self.pids().into_iter().filter_map(resident).sum()
    }

    /// CPU time so far, user and system, of the children too.
    pub fn cpu(&self) -> Duration {
        self.pids().into_iter().filter_map(cpu_time).sum()
    }

    fn pids(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(pid).chain(children).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nginx' workers end with their master only when it is asked; what has ended already cannot be.
        let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        let deadline = std::time::Instant::now() + Duration::from_secs(15);
        while std::time::Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; utime and stime are the 14th and 15th fields.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}
