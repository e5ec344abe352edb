//! Which EndpointSlices may speak of a Pod: by its name, or by an address of its.

use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::population::Member;
use crate::api::EndpointSlice;
use crate::control::store::{Change, Objects};

/// Slices by the Pods and addresses that they name, as hashes: of two with one hash both are found.
#[derive(Debug, Default)]
pub(super) struct Mentions {
    hasher: RandomState,
    /// Sorted by the hash.
    all: Vec<(u64, Arc<EndpointSlice>)>,
}

/// What a slice may name.
#[derive(Hash)]
enum Mark<'a> {
    Address(IpAddr),
    Pod(&'a str, &'a str),
}

impl Mentions {
    /// Those of all slices.
    pub(super) fn new(objects: &Objects) -> Self {
        let mut mentions = Self::default();
        for slice in objects.slices.values() {
            mentions.add(slice);
        }
        mentions.all.shrink_to_fit();
        mentions.sort();
        mentions
    }

    /// Takes what changed.
    pub(super) fn update(&mut self, changes: &[Change]) {
        let mut changed = false;
        for change in changes {
            let Change::EndpointSlice(before, now) = change else {
                continue;
            };
            if let Some(before) = before {
                self.all.retain(|(_, one)| !Arc::ptr_eq(one, before));
            }
            if let Some(now) = now {
                self.add(now);
                changed = true;
            }
        }
        if changed {
            self.sort();
        }
    }

    /// The slices that may speak of a Pod.
    pub(super) fn of(&self, member: &Member) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        let (namespace, name) = member.key();
        let addresses = member.workload.addresses.iter();
        let marks = addresses.map(|one| Mark::Address(*one));
        let marks = marks.chain([Mark::Pod(namespace, name)]);
        let hashes = marks.map(|mark| self.hasher.hash_one(mark));
        hashes.flat_map(|hash| {
            let start = self.all.partition_point(|(one, _)| *one < hash);
            let found = self.all[start..].iter();
            let found = found.take_while(move |(one, _)| *one == hash);
            found.map(|(_, slice)| slice)
        })
    }

    fn add(&mut self, slice: &Arc<EndpointSlice>) {
        for endpoint in &slice.endpoints {
            let addresses = endpoint.addresses.iter();
            let addresses = addresses.filter_map(|text| text.parse().ok());
            let pod = endpoint.target_ref.as_ref().map(|one| {
                let namespace = one.namespace.as_deref();
                Mark::Pod(namespace.unwrap_or(&slice.metadata.namespace), &one.name)
            });
            for mark in addresses.map(Mark::Address).chain(pod) {
                let hash = self.hasher.hash_one(mark);
                self.all.push((hash, Arc::clone(slice)));
            }
        }
    }

    fn sort(&mut self) {
        // Stable: what is sorted already is taken as it is, and few were added.
        self.all.sort_by_key(|(hash, _)| *hash);
    }
}
