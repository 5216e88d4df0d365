//! The name that was probably meant.

/// How alike two names must be, from 0 to 1, to take one for a misspelling of the other.
const ALIKE: f64 = 0.7;

/// The longest text worth comparing with names.
const NAME_BYTES_MAX: usize = 64;

/// Of these names the one that is most like a mistyped text, if it is alike enough to be meant.
pub fn nearest<'n>(text: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    if text.len() > NAME_BYTES_MAX {
        return None;
    }
    let text = folded(text);
    names
        .into_iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(&text, &folded(name)), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, name)| name)
}

/// A name without what people get wrong most: `max_threads`, `max-threads` and `MaxThreads` are all `maxthreads`.
pub fn folded(name: &str) -> String {
    name.chars().filter(|character| !matches!(character, '_' | '-')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let names = ["maxThreads", "retries", "retryDelay"];
        assert_eq!(nearest("maxTreads", names), Some("maxThreads"));
        assert_eq!(nearest("MAX_THREADS", names), Some("maxThreads"));
        assert_eq!(nearest("retires", names), Some("retries"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("", names), None);
    }
}
