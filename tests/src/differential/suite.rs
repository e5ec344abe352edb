//! A run of the whole suite: every scenario through both proxies; where one differs otherwise than is
//! listed, or Envoy does not do what was meant, again on a fresh Service. Only what shows each time
//! counts, so that a machine that builds something else at the same time fails nobody; of what is
//! listed, that it shows once.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    book::Side,
    compare::{self, Difference, Sight},
    listed::Listed,
    observe::Observation,
    play::Play,
    scenario::Scenario,
    secure::Secure,
    stage::Stage,
};

/// How many scenarios play at once: most of their time is waiting.
const AT_ONCE: usize = 8;
/// How often a scenario may play.
const COPIES: usize = 3;

/// What came of a scenario.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// Why it compares nothing: what Envoy did instead of what was meant.
    pub unmeant: Vec<String>,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// Plays all of them.
pub async fn run(
    envoy: &Path,
    scenarios: Vec<Scenario>,
    secure: &Secure,
    listed: &Listed,
) -> Result<Vec<Verdict>> {
    let scenarios: Vec<_> = scenarios.into_iter().map(Arc::new).collect();
    let mut plays = Play::all(&scenarios, COPIES, &secure.files)?;
    let stage = Arc::new(Stage::new(envoy, plays.iter_mut().flatten(), secure).await?);
    let mut verdicts: Vec<Option<Verdict>> = vec![None; scenarios.len()];
    for round in &plays {
        let open = |verdict: &Option<Verdict>| match verdict {
            None => true,
            Some(verdict) => !verdict.is_settled(listed),
        };
        let due: Vec<usize> = (0..scenarios.len())
            .filter(|at| open(&verdicts[*at]))
            .collect();
        let round: Vec<_> = due.iter().map(|at| round[*at].clone()).collect();
        let results = play_all(&stage, &round).await?;
        for ((at, play), (theirs, ours)) in due.into_iter().zip(&round).zip(results) {
            let verdict = judge(&stage, play, &theirs, &ours)?;
            verdicts[at] = Some(match verdicts[at].take() {
                None => verdict,
                Some(before) => before.and(verdict, listed),
            });
        }
    }
    Ok(verdicts.into_iter().flatten().collect())
}

async fn play_all(stage: &Arc<Stage>, plays: &[Play]) -> Result<Vec<(Observation, Observation)>> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (at, play) in plays.iter().enumerate() {
        let (stage, play, room) = (stage.clone(), play.clone(), room.clone());
        tasks.spawn(async move {
            let _room = room.acquire_owned().await?;
            let both = tokio::join!(
                stage.play(&play, Side::Envoy),
                stage.play(&play, Side::Aquifer)
            );
            anyhow::Ok((at, both.0?, both.1?))
        });
    }
    let mut results = vec![(Observation::default(), Observation::default()); plays.len()];
    while let Some(done) = tasks.join_next().await {
        let (at, theirs, ours) = done??;
        results[at] = (theirs, ours);
    }
    let theirs = results.iter_mut().map(|(theirs, _)| theirs);
    stage
        .complete(Side::Envoy, plays.iter().zip(theirs))
        .await?;
    let ours = results.iter_mut().map(|(_, ours)| ours);
    stage
        .complete(Side::Aquifer, plays.iter().zip(ours))
        .await?;
    Ok(results)
}

fn judge(stage: &Stage, play: &Play, theirs: &Observation, ours: &Observation) -> Result<Verdict> {
    let scenario = &play.scenario;
    let steps = scenario.steps.iter().zip(&theirs.steps).enumerate();
    let unmeant = steps.flat_map(|(number, (step, seen))| {
        let wrong = step.expected.wrong(seen);
        wrong
            .into_iter()
            .map(move |wrong| format!("step {number}: {wrong}"))
    });
    let workers = scenario.workers;
    let sight = |seen, side| {
        anyhow::Ok(Sight {
            seen,
            client: stage.client(side, workers)?,
        })
    };
    let (envoy, aquifer) = (sight(theirs, Side::Envoy)?, sight(ours, Side::Aquifer)?);
    Ok(Verdict {
        name: scenario.name.clone(),
        unmeant: unmeant.collect(),
        differences: compare::differences(scenario, envoy, aquifer),
    })
}

impl Verdict {
    /// Whether there is nothing in it but what is listed, and all of that.
    fn is_settled(&self, listed: &Listed) -> bool {
        let known = |one| listed.knows(&self.name, one);
        self.unmeant.is_empty()
            && self.differences.iter().all(known)
            && !listed.misses(&self.name, &self.differences)
    }

    /// What two plays have in common, and what is listed of either.
    fn and(self, again: Self, listed: &Listed) -> Self {
        let unmeant = if self.unmeant.is_empty() {
            vec![]
        } else {
            again.unmeant
        };
        let among =
            |all: &[Difference], one: &Difference| all.iter().any(|other| other.facet == one.facet);
        let (before, after) = (self.differences, again.differences);
        let only_before = before
            .iter()
            .filter(|one| !among(&after, one) && listed.knows(&self.name, one));
        let only_before: Vec<_> = only_before.cloned().collect();
        let mut differences = after;
        differences.retain(|one| among(&before, one) || listed.knows(&self.name, one));
        differences.extend(only_before);
        Self {
            unmeant,
            differences,
            name: self.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_once_is_left_to_chance_but_for_what_is_listed() {
        let list = "## In the differential suite\n| `a` | `flags`, `status` | because |\n";
        let listed = Listed::parse(list).unwrap();
        let verdict = |facets: &[&str]| Verdict {
            name: "a".into(),
            unmeant: vec![],
            differences: facets
                .iter()
                .map(|facet| Difference {
                    facet: (*facet).into(),
                    envoy: String::new(),
                    aquifer: String::new(),
                })
                .collect(),
        };
        for (first, second, both, settled) in [
            (&["flags", "status"][..], &[][..], "status flags", true),
            (&["flags"], &["status"], "status flags", true),
            (&["flags", "time"], &["status"], "status flags", true),
            (&["time"], &["time", "status"], "time status", false),
            (&["time"], &["end"], "", false),
        ] {
            let found = verdict(first).and(verdict(second), &listed);
            let mut shown: Vec<_> = found.differences.iter().map(|one| &*one.facet).collect();
            let mut expected: Vec<_> = both.split_whitespace().collect();
            shown.sort_unstable();
            expected.sort_unstable();
            assert_eq!(shown, expected, "{first:?} {second:?}");
            assert_eq!(found.is_settled(&listed), settled, "{first:?} {second:?}");
        }
    }
}
