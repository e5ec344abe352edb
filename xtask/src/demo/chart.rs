//! The split of a number of requests, as bars.

use super::traffic::Tally;

const WIDTH: usize = 40;

/// Prints one bar a version, with the pods that served it.
pub(super) fn print(tally: &Tally) {
    let total = tally.total().max(1) as f64;
    for (version, pods) in tally.versions() {
        let count: usize = pods.iter().map(|(_, count)| count).sum();
        let share = count as f64 / total;
        let filled = (share * WIDTH as f64).round() as usize;
        let bar = format!(
            "{}{}",
            "█".repeat(filled),
            "░".repeat(WIDTH - filled.min(WIDTH))
        );
        println!("    {version:<4} {bar} {:5.1} %  {count}", share * 100.0);
        if pods.len() > 1 {
            let each: Vec<_> = pods
                .iter()
                .map(|(pod, count)| format!("{pod} {count}"))
                .collect();
            println!("         {}", each.join(", "));
        }
    }
    if tally.failed > 0 {
        println!("    failed: {}", tally.failed);
    }
    println!();
}
