//! Numbers as texts.

use indicatif::HumanCount;

/// Returns an amount of something: `1 blob`, `20,143 blobs`.
pub fn amount(count: u64, of: &str) -> String {
    format!("{} {of}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Returns a number with a comma between its groups of digits: `2,004,112`.
pub fn grouped(number: u64) -> String {
    HumanCount(number).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_the_digits_of_a_number() {
        for (count, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (2_004_112, "2,004,112")] {
            assert_eq!(grouped(count), text);
        }
        assert_eq!((amount(1, "blob"), amount(2, "blob")), ("1 blob".to_owned(), "2 blobs".to_owned()));
    }
}
