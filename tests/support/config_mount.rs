//! A mounted ConfigMap. In: texts of `config.json`. Out: a directory that changes as the kubelet changes it: all at once,
//! by a replaced link.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

/// A directory with `config.json`.
pub struct ConfigMount {
    root: TempDir,
    version: u32,
}

impl ConfigMount {
    pub fn new(text: &str) -> Self {
        let mut mount = Self { root: tempfile::tempdir().unwrap(), version: 0 };
        mount.write(text);
        symlink("..data/config.json", mount.file()).unwrap();
        mount
    }

    /// What `--config` names.
    pub fn file(&self) -> PathBuf {
        self.root.path().join("config.json")
    }

    /// A new version.
    pub fn write(&mut self, text: &str) {
        self.version += 1;
        let name = format!("..{}", self.version);
        fs::create_dir(self.root.path().join(&name)).unwrap();
        fs::write(self.root.path().join(&name).join("config.json"), text).unwrap();
        let link = self.root.path().join("..data_tmp");
        symlink(&name, &link).unwrap();
        fs::rename(link, self.root.path().join("..data")).unwrap();
    }
}
