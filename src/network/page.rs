//! Recognizes HTML pages that a proxy, a gateway or the sign-in page of a network returns in place of the server's
//! response.

use crate::redact::one_line;

/// The maximum number of characters of a page's title in a message.
const TITLE_CHARACTERS_MAX: usize = 100;

/// Markup that only an HTML page has near its beginning.
const MARKS: [&str; 5] = ["<!doctype html", "<html", "<head", "<title", "<body"];

/// The elements that name a page: its title, else its first heading.
const TITLES: [(&str, &str); 3] = [("<title", "</title"), ("<h1", "</h1"), ("<h2", "</h2")];

/// The number of bytes of a page that are searched.
const BYTES_READ: usize = 64 * 1024;

/// Describes a body that is an HTML page: `a proxy or gateway answered with the page "502 Bad Gateway"`. `None` for any
/// other body. The `Content-Type` is ignored because it is often wrong.
pub fn described(body: &[u8]) -> Option<String> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start();
    if !body.starts_with(b"<") {
        return None;
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(BYTES_READ)]);
    let lower_case = text.to_ascii_lowercase();
    if !MARKS.iter().any(|mark| lower_case.contains(mark)) {
        return None;
    }
    let titles = TITLES.iter().filter_map(|(open, close)| title(&text, &lower_case, open, close));
    let title = titles.into_iter().find(|title| !title.is_empty());
    Some(match title {
        Some(title) => format!("{ANSWERED} the page \"{title}\""),
        None => format!("{ANSWERED} a page without a title"),
    })
}

/// The beginning of each description.
pub const ANSWERED: &str = "a proxy or gateway answered with";

/// Returns the text of an element without the tags in it.
fn title(text: &str, lower_case: &str, open: &str, close: &str) -> Option<String> {
    let start = lower_case.find(open)?;
    let start = start + lower_case[start..].find('>')? + 1;
    let end = start + lower_case[start..].find(close)?;
    let (mut words, mut is_tag) = (String::new(), false);
    for character in text[start..end].chars() {
        match character {
            '<' => is_tag = true,
            '>' if is_tag => is_tag = false,
            _ if is_tag => {}
            other => words.push(other),
        }
    }
    for (entity, character) in
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "'"), ("&#39;", "'"), ("&nbsp;", " "), ("&amp;", "&")]
    {
        words = words.replace(entity, character);
    }
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(one_line(&words).replace('"', "'").chars().take(TITLE_CHARACTERS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_page_by_its_title() {
        for (page, said) in [
            ("<html><head><title>502 Bad Gateway</title></head></html>", "the page \"502 Bad Gateway\""),
            (
                "\u{feff}\r\n<!DOCTYPE HTML>\n<TITLE lang=en>\n A \n&amp; \"B\"</TITLE>",
                "the page \"A & 'B'\"",
            ),
            ("<html><title></title><h2>Our <b>services</b></h2>", "the page \"Our services\""),
            ("<html><title>never closed", "a page without a title"),
            ("<html>", "a page without a title"),
        ] {
            let expected = format!("a proxy or gateway answered with {said}");
            assert_eq!(described(page.as_bytes()), Some(expected), "{page}");
        }
        let long = format!("<title>{}</title>", "x".repeat(9_999));
        assert!(described(long.as_bytes()).expect("a page").len() < 200);
    }

    #[test]
    fn does_not_describe_other_bodies() {
        for body in ["", "[]", "{\"a\":\"<html>\"}", "<", "<error><code>AF20022</code></error>", "html"] {
            assert_eq!(described(body.as_bytes()), None, "{body}");
        }
    }
}
