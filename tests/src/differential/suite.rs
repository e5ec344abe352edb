//! A run of the whole suite: every scenario through both proxies; where one differs, or Envoy does not
//! do what was meant, once more on a fresh Service. Only what shows twice counts, so that a machine
//! that builds something else at the same time fails nobody.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    book::Side,
    compare::{self, Difference, Sight},
    observe::Observation,
    play::Play,
    scenario::Scenario,
    secure::Secure,
    stage::Stage,
};

/// How many scenarios play at once: most of their time is waiting.
const AT_ONCE: usize = 8;
/// How often a scenario may play.
const COPIES: usize = 2;

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
pub async fn run(envoy: &Path, scenarios: Vec<Scenario>, secure: &Secure) -> Result<Vec<Verdict>> {
    let scenarios: Vec<_> = scenarios.into_iter().map(Arc::new).collect();
    let mut plays = Play::all(&scenarios, COPIES, &secure.files)?;
    let stage = Arc::new(Stage::new(envoy, plays.iter_mut().flatten(), secure).await?);
    let mut verdicts: Vec<Option<Verdict>> = vec![None; scenarios.len()];
    for round in &plays {
        let open = |verdict: &Option<Verdict>| match verdict {
            None => true,
            Some(verdict) => !verdict.unmeant.is_empty() || !verdict.differences.is_empty(),
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
                Some(before) => before.and(verdict),
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
    /// What two plays have in common.
    fn and(self, again: Self) -> Self {
        let unmeant = if self.unmeant.is_empty() {
            vec![]
        } else {
            again.unmeant
        };
        let before = &self.differences;
        let differences = again.differences.into_iter();
        Self {
            unmeant,
            differences: differences
                .filter(|one| before.iter().any(|other| other.facet == one.facet))
                .collect(),
            name: self.name,
        }
    }
}
