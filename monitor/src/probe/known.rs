//! What was found in files before, on disk: searching a large program takes seconds.
#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::plan::Plan;

/// Plans by file. A file is the same if nothing of what the file system says about it has changed.
#[derive(Debug, Default)]
pub struct Known {
    path: Option<PathBuf>,
    content: Content,
    has_changed: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    /// What the plans were made by: another version may find more.
    made_by: String,
    plans: HashMap<String, Plan>,
}

/// Files that are remembered; more are forgotten all together.
const MOST: usize = 16_384;

impl Known {
    /// Reads what was kept at this path; starts anew if there is nothing, or nothing that can be used.
    pub fn open(path: PathBuf, signatures: &str) -> Self {
        let made_by = format!("{} {signatures}", env!("CARGO_PKG_VERSION"));
        let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Content>(&bytes).ok());
        let content = kept.filter(|content| content.made_by == made_by);
        let content = content.unwrap_or_else(|| Content { made_by, plans: HashMap::new() });
        Self { path: Some(path), content, has_changed: false }
    }

    pub fn get(&self, metadata: &Metadata) -> Option<Plan> {
        self.content.plans.get(&name(metadata)).cloned()
    }

    pub fn put(&mut self, metadata: &Metadata, plan: &Plan) {
        if self.content.plans.len() >= MOST {
            self.content.plans.clear();
        }
        self.content.plans.insert(name(metadata), plan.clone());
        self.has_changed = true;
    }

    /// Writes it to disk, whole or not at all. Without it, files are searched again: no more than a word is lost.
    pub fn save(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| self.has_changed) else { return };
        self.has_changed = false;
        let beside = path.with_extension("new");
        let written = serde_json::to_vec(&self.content)
            .map_err(std::io::Error::other)
            .and_then(|bytes| fs::write(&beside, bytes))
            .and_then(|()| fs::rename(&beside, path));
        if let Err(error) = written {
            tracing::warn!("cannot keep what was found in {}: {error}", path.display());
        }
    }
}

fn name(metadata: &Metadata) -> String {
    format!(
        "{}:{}:{}:{}.{}:{}.{}",
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Known;
    use crate::probe::plan::Plan;

    #[test]
    fn plans_are_kept_for_the_same_file_and_the_same_maker() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, kept) = (directory.path().join("file"), directory.path().join("kept.json"));
        fs::write(&file, "content").expect("a file");
        let metadata = fs::metadata(&file).expect("its metadata");
        let plan = Plan { functions: vec!["SSL_write".into()], ..Plan::default() };
        let mut known = Known::open(kept.clone(), "1");
        assert_eq!(known.get(&metadata), None);
        known.put(&metadata, &plan);
        known.save();
        assert_eq!(Known::open(kept.clone(), "1").get(&metadata), Some(plan));
        assert_eq!(Known::open(kept.clone(), "2").get(&metadata), None);
        fs::write(&file, "other content").expect("a file");
        let changed = fs::metadata(&file).expect("its metadata");
        assert_eq!(Known::open(kept.clone(), "1").get(&changed), None);
        fs::write(&kept, "nonsense").expect("a file");
        assert_eq!(Known::open(kept, "1").get(&metadata), None);
    }
}
