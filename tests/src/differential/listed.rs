//! The list of known differences: a table under a heading of its own in `tests/envoy-differences.md`.
//!
//! `| scenario | what differs | … |`, the scenario in backticks (a `*` at its end stands for the rest of
//! the name), the facets in backticks and by commas. Both directions count: what differs must be
//! listed, and what is listed must differ.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::compare::Difference;

/// The heading.
const HEADING: &str = "## In the differential suite";

/// The list.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    rows: Vec<(String, BTreeSet<String>)>,
    met: BTreeSet<(usize, String)>,
}

impl Listed {
    /// Reads the list out of the document.
    pub fn parse(document: &str) -> Result<Self> {
        let (_, part) = document
            .split_once(HEADING)
            .context("the list has no heading")?;
        let part = part.split("\n## ").next().unwrap_or_default();
        let mut listed = Self::default();
        for row in part.lines().filter(|line| line.starts_with("| `")) {
            let mut cells = row.split('|').skip(1);
            let quoted = |cell: &str| -> Vec<String> {
                cell.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(str::to_owned)
                    .collect()
            };
            let names = quoted(cells.next().unwrap_or_default());
            let facets: BTreeSet<_> = quoted(cells.next().unwrap_or_default())
                .into_iter()
                .collect();
            let reason = cells.next().unwrap_or_default().trim();
            ensure!(
                !facets.is_empty() && !reason.is_empty(),
                "a row lacks a cell: {row}"
            );
            for name in names {
                listed.rows.push((name, facets.clone()));
            }
        }
        Ok(listed)
    }

    /// Whether a difference of `scenario` is listed; it is met by that.
    pub fn has(&mut self, scenario: &str, difference: &Difference) -> bool {
        let met: Vec<_> = self.rows_of(scenario, difference).collect();
        let has = !met.is_empty();
        self.met.extend(met);
        has
    }

    /// Whether a difference of `scenario` is listed.
    pub fn knows(&self, scenario: &str, difference: &Difference) -> bool {
        self.rows_of(scenario, difference).next().is_some()
    }

    /// Whether something is listed of `scenario` by its whole name that is not among these.
    pub fn misses(&self, scenario: &str, found: &[Difference]) -> bool {
        let rows = self.rows.iter().filter(|(name, _)| name == scenario);
        let mut facets = rows.flat_map(|(_, facets)| facets);
        facets.any(|facet| !found.iter().any(|one| fits(facet, &one.facet)))
    }

    /// The rows that list a difference, and the facet by which each does.
    fn rows_of(
        &self,
        scenario: &str,
        difference: &Difference,
    ) -> impl Iterator<Item = (usize, String)> {
        let rows = self.rows.iter().enumerate();
        let named = rows.filter(move |(_, (name, _))| fits(name, scenario));
        named.filter_map(move |(number, (_, facets))| {
            let facet = facets.iter().find(|one| fits(one, &difference.facet))?;
            Some((number, facet.clone()))
        })
    }

    /// What is listed and was not met.
    pub fn vanished(&self) -> Vec<String> {
        let rows = self.rows.iter().enumerate();
        let unmet = rows.flat_map(|(number, (name, facets))| {
            let unmet = facets
                .iter()
                .filter(move |facet| !self.met.contains(&(number, (*facet).clone())));
            unmet.map(move |facet| format!("{name}: {facet}"))
        });
        unmet.collect()
    }
}

/// Whether a pattern, which may end with a `*`, stands for this.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_met_or_vanish() {
        let document = "# x\n| `not` | `here` | y |\n## In the differential suite\n\n\
                        | scenario | facets | why |\n| --- | --- | --- |\n\
                        | `a`, `b-*` | `flags`, `header *` | because |\n## more\n| `c` | `d` | e |\n";
        let mut listed = Listed::parse(document).unwrap();
        let difference = |facet: &str| Difference {
            facet: facet.into(),
            envoy: String::new(),
            aquifer: String::new(),
        };
        assert!(listed.misses("a", &[difference("flags")]));
        assert!(!listed.misses("a", &["flags", "header x"].map(difference)));
        assert!(!listed.misses("b-1", &[]) && !listed.misses("c", &[]));
        assert!(listed.knows("b-1", &difference("header x")));
        assert!(!listed.knows("b-1", &difference("status")));
        assert!(listed.has("b-1", &difference("header x")));
        assert!(!listed.has("b-1", &difference("status")));
        assert!(!listed.has("c", &difference("d")));
        assert_eq!(listed.vanished(), ["a: flags", "a: header *", "b-*: flags"]);
        assert!(Listed::parse("nothing").is_err());
    }
}
