//! The name that was probably meant.

/// Minimum similarity of two names, from 0 to 1, to suggest one for the other.
const SIMILARITY_MIN: f64 = 0.7;

/// Maximum size of a text that is compared with names.
const NAME_BYTES_MAX: usize = 64;

/// Returns the name that is most similar to a mistyped text, if it is similar enough.
pub fn nearest<'n>(text: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    if text.len() > NAME_BYTES_MAX {
        return None;
    }
    let text = folded(text);
    names
        .into_iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(&text, &folded(name)), name))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, name)| name)
}

/// Returns a name without letter case and word separators: `max_threads` and `MaxThreads` are both `maxthreads`.
pub fn folded(name: &str) -> String {
    name.chars().filter(|character| !matches!(character, '_' | '-')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_similar_names() {
        let names = ["maxThreads", "retries", "retryDelay"];
        assert_eq!(nearest("maxTreads", names), Some("maxThreads"));
        assert_eq!(nearest("MAX_THREADS", names), Some("maxThreads"));
        assert_eq!(nearest("retires", names), Some("retries"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("", names), None);
    }
}
