//! Whether a workload's port takes callers without an identity: PeerAuthentication, resolved.
//!
//! Knows neither selectors nor ages: it is handed the one policy of each level that counts.

use crate::types::ObjectRef;

/// What a port asks of its callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mode {
    /// Nothing.
    #[default]
    Permissive,
    /// An identity, proved by mutual TLS.
    Strict,
    /// Nothing. Callers that prove an identity are taken all the same, as in Istio's ambient mode.
    Disable,
}

/// What one policy says; `None` of a mode is `UNSET`: the wider policy counts.
#[derive(Clone, Debug)]
pub struct Level {
    /// The policy.
    pub policy: ObjectRef,
    /// Of all ports that have none of their own.
    pub mode: Option<Mode>,
    /// By the workload's own port. Counts only in a workload's policy.
    pub ports: Vec<(u16, Option<Mode>)>,
}

/// A mode, and who asked for it; nobody where it is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// What is asked.
    pub mode: Mode,
    /// The policy that says so.
    pub policy: Option<ObjectRef>,
}

/// What a workload asks of its callers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    default: Setting,
    /// Sorted by port.
    ports: Vec<(u16, Setting)>,
}

impl Requirement {
    /// Of the policies of the workload itself, of its namespace, and of the mesh (Istio's order).
    /// Without any, plain text is taken.
    pub fn resolve(
        workload: Option<&Level>,
        namespace: Option<&Level>,
        mesh: Option<&Level>,
    ) -> Self {
        let levels = [workload, namespace, mesh];
        let mut set = levels.into_iter().flatten();
        let default = set.find_map(|level| {
            Some(Setting {
                mode: level.mode?,
                policy: Some(level.policy.clone()),
            })
        });
        let default = default.unwrap_or_default();
        let own = workload.into_iter().flat_map(|level| {
            let ports = level.ports.iter();
            ports.filter_map(|(port, mode)| {
                let policy = Some(level.policy.clone());
                let mode = (*mode)?;
                Some((*port, Setting { mode, policy }))
            })
        });
        let mut ports: Vec<(u16, Setting)> = own.collect();
        ports.sort_by_key(|(port, _)| *port);
        Self { default, ports }
    }

    /// What a port asks that is not among [`Self::ports`].
    pub fn others(&self) -> &Setting {
        &self.default
    }

    /// The ports that ask for something of their own.
    pub fn ports(&self) -> &[(u16, Setting)] {
        &self.ports
    }

    /// What `port` asks.
    pub fn at(&self, port: u16) -> &Setting {
        match self.ports.binary_search_by_key(&port, |(port, _)| *port) {
            Ok(index) => &self.ports[index].1,
            Err(_) => &self.default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(name: &str, mode: Option<Mode>, ports: &[(u16, Option<Mode>)]) -> Level {
        Level {
            policy: ObjectRef {
                kind: "PeerAuthentication".into(),
                namespace: "shop".into(),
                name: name.into(),
            },
            mode,
            ports: ports.to_vec(),
        }
    }

    #[test]
    fn the_narrowest_level_that_says_something_counts() {
        use Mode::{Disable, Permissive, Strict};
        let (strict, permissive, disable) = (Some(Strict), Some(Permissive), Some(Disable));
        for (name, levels, expected) in [
            ("nobody says anything", [None, None, None], Permissive),
            ("the mesh", [None, None, Some(strict)], Strict),
            (
                "the namespace before the mesh",
                [None, Some(permissive), Some(strict)],
                Permissive,
            ),
            (
                "the workload before both",
                [Some(disable), Some(strict), Some(strict)],
                Disable,
            ),
            (
                "UNSET falls to the next level",
                [Some(None), Some(None), Some(strict)],
                Strict,
            ),
            (
                "UNSET everywhere",
                [Some(None), None, Some(None)],
                Permissive,
            ),
        ] {
            let levels = levels.map(|mode| mode.map(|mode| level("p", mode, &[])));
            let [workload, namespace, mesh] = levels.each_ref().map(Option::as_ref);
            let requirement = Requirement::resolve(workload, namespace, mesh);
            assert_eq!(requirement.at(80).mode, expected, "{name}");
        }
    }

    #[test]
    fn ports_have_their_own() {
        let workload = level(
            "own",
            None,
            &[
                (9000, Some(Mode::Disable)),
                (80, Some(Mode::Permissive)),
                (81, None),
            ],
        );
        // Ports of a wider level are of no workload.
        let mesh = level("mesh", Some(Mode::Strict), &[(82, Some(Mode::Permissive))]);
        let requirement = Requirement::resolve(Some(&workload), None, Some(&mesh));
        for (port, mode, policy) in [
            (80, Mode::Permissive, "own"),
            (81, Mode::Strict, "mesh"),
            (82, Mode::Strict, "mesh"),
            (9000, Mode::Disable, "own"),
        ] {
            let setting = requirement.at(port);
            assert_eq!(setting.mode, mode, "{port}");
            let named = setting.policy.as_ref().map(|one| &*one.name);
            assert_eq!(named, Some(policy), "{port}");
        }
    }
}
