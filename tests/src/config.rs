//! The directory of YAML that tells a proxy about its mesh.

use std::{fs, path::Path};

use anyhow::Result;

use crate::manifest::Manifests;

/// A configuration directory that the proxy watches.
#[derive(Debug)]
pub struct Config {
    folder: tempfile::TempDir,
}

impl Config {
    /// A directory with `manifests` in `mesh.yaml`.
    pub fn new(manifests: &Manifests) -> Result<Self> {
        let config = Self {
            folder: tempfile::Builder::new().prefix("aqh-config-").tempdir()?,
        };
        config.put("mesh.yaml", manifests.text())?;
        Ok(config)
    }

    /// Writes a file as a careful author does: in full under another name, then renamed.
    pub fn put(&self, file: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let hidden = self.folder.path().join(format!(".{file}.new"));
        fs::write(&hidden, content)?;
        fs::rename(&hidden, self.folder.path().join(file))?;
        Ok(())
    }

    /// Removes a file.
    pub fn remove(&self, file: &str) -> Result<()> {
        Ok(fs::remove_file(self.folder.path().join(file))?)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}
