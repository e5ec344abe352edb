//! Which endpoint of a cluster takes the next request.
//!
//! Pure: it is handed the random draws and the number of requests in flight at each endpoint.

/// Least request by power of two choices (Envoy's LEAST_REQUEST with `choice_count` 2 and equal
/// weights): of two endpoints drawn at random the one with fewer requests in flight wins, the
/// first on a tie. `None` where there is no endpoint.
pub fn least_request(len: usize, draws: [u64; 2], active: impl Fn(usize) -> u64) -> Option<usize> {
    let len = u64::try_from(len).ok().filter(|len| *len > 0)?;
    let [first, second] = draws.map(|draw| (draw % len) as usize);
    Some(if active(second) < active(first) {
        second
    } else {
        first
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_busy_of_two_wins() {
        for (name, active, draws, expected) in [
            ("none", &[][..], [0, 0], None),
            ("one", &[7][..], [3, 9], Some(0)),
            ("first is less busy", &[1, 2][..], [0, 1], Some(0)),
            ("second is less busy", &[2, 1][..], [0, 1], Some(1)),
            (
                "a tie goes to the first drawn",
                &[1, 1][..],
                [1, 0],
                Some(1),
            ),
            ("draws wrap", &[5, 4, 3][..], [3, 5], Some(2)),
        ] {
            assert_eq!(
                least_request(active.len(), draws, |i| active[i]),
                expected,
                "{name}"
            );
        }
    }
}
