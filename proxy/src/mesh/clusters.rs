//! Clusters by their names, each held once: the name is the cluster's own.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use foldhash::{HashSet, HashSetExt as _};

use super::Cluster;
use crate::types::ClusterName;

/// Clusters by their names.
#[derive(Clone, Debug, Default)]
pub struct Clusters(HashSet<Named>);

/// A cluster that is looked up by its name, and equal to another one of that name.
#[derive(Clone, Debug)]
struct Named(Arc<Cluster>);

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Named {}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As a text is hashed: `Borrow` promises that.
        self.0.name.as_str().hash(state);
    }
}

impl Borrow<str> for Named {
    fn borrow(&self) -> &str {
        self.0.name.as_str()
    }
}

impl Clusters {
    /// With room for so many.
    pub fn with_capacity(count: usize) -> Self {
        Self(HashSet::with_capacity(count))
    }

    /// The cluster of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.0.get(name).map(|one| &one.0)
    }

    /// Whether there is one of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Takes a cluster, in the place of the one that has its name.
    pub fn insert(&mut self, cluster: Arc<Cluster>) {
        self.0.replace(Named(cluster));
    }

    /// Drops the cluster of this name.
    pub fn remove(&mut self, name: &ClusterName) {
        self.0.remove(name.as_str());
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.0.iter().map(|one| &one.0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Arc<Cluster>> for Clusters {
    fn from_iter<T: IntoIterator<Item = Arc<Cluster>>>(all: T) -> Self {
        Self(all.into_iter().map(Named).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_with_one_name_the_last_counts() {
        let cluster = |port| {
            let name = ClusterName::outbound(80, None, &crate::types::Hostname::new("a.com"));
            Arc::new(Cluster {
                name,
                port,
                ..Cluster::passthrough()
            })
        };
        let mut all = Clusters::from_iter([cluster(1), Arc::new(Cluster::passthrough())]);
        all.insert(cluster(2));
        assert_eq!(all.len(), 2);
        let name = cluster(3).name.clone();
        assert_eq!(all.get(name.as_str()).map(|one| one.port), Some(2));
        all.remove(&name);
        assert!(!all.contains(name.as_str()));
        assert!(all.contains("PassthroughCluster"));
    }
}
