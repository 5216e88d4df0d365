//! The name that was probably meant.

/// The candidate that differs least from a mistyped name, if it differs little enough to be meant.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_ascii_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&typed, &candidate.to_ascii_lowercase());
    let nearest = candidates.into_iter().map(|candidate| (distance(candidate), candidate)).min()?;
    (nearest.0 <= (nearest.1.len() / 3).max(1)).then_some(nearest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let names = ["maxThreads", "maxMemory", "retries"];
        assert_eq!(nearest("maxthread", names), Some("maxThreads"));
        assert_eq!(nearest("retires", names), Some("retries"));
        assert_eq!(nearest("colour", names), None);
    }
}
