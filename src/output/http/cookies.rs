//! The cookies by which a load balancer sends all requests of a client to the same server.
//!
//! Only the name and value of a cookie are kept: a receiver has one origin, and a pass is short. A cookie with
//! `Max-Age=0`, or without a value, is removed.
//!
//! Source: RFC 6265, sections 4.1 and 5.4.

use ureq::http::{HeaderMap, header::SET_COOKIE};

/// The maximum number of cookies that are kept, …
const COOKIES_MAX: usize = 16;

/// … and the longest of them, name and value.
const COOKIE_BYTES_MAX: usize = 4096;

/// The cookies of a receiver.
#[derive(Debug, Default)]
pub struct Cookies(Vec<(String, String)>);

impl Cookies {
    /// Stores the cookies that a response sets.
    pub fn read(&mut self, headers: &HeaderMap) {
        for line in headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok()) {
            let (pair, attributes) = line.split_once(';').unwrap_or((line, ""));
            let Some((name, value)) = pair.split_once('=') else { continue };
            let (name, value) = (name.trim(), value.trim());
            self.0.retain(|(other, _)| other != name);
            let is_removed = value.is_empty()
                || attributes.split(';').any(|attribute| attribute.trim().eq_ignore_ascii_case("Max-Age=0"));
            let has_room = self.0.len() < COOKIES_MAX && pair.len() <= COOKIE_BYTES_MAX;
            if !name.is_empty() && !is_removed && has_room {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// Returns the value of the header `Cookie`; `None` without cookies.
    pub fn header(&self) -> Option<String> {
        let pairs: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cookies: &mut Cookies, lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SET_COOKIE, line.parse().expect("a header's value"));
        }
        cookies.read(&headers);
        cookies.header()
    }

    #[test]
    fn sends_a_cookie_until_it_is_replaced_or_removed() {
        let mut cookies = Cookies::default();
        assert_eq!(read(&mut cookies, &[]), None);
        let both =
            read(&mut cookies, &["AWSALB=a/b+c==; Expires=Sat, 05 Dec 2026; Path=/", "s = 1;HttpOnly"]);
        assert_eq!(both.as_deref(), Some("AWSALB=a/b+c==; s=1"));
        assert_eq!(read(&mut cookies, &["AWSALB=d"]).as_deref(), Some("s=1; AWSALB=d"));
        assert_eq!(read(&mut cookies, &["s=; Path=/", "nothing", "=x"]).as_deref(), Some("AWSALB=d"));
        assert_eq!(read(&mut cookies, &["AWSALB=d; max-age=0"]), None);
    }

    #[test]
    fn cookies_are_bounded() {
        let mut cookies = Cookies::default();
        let many: Vec<_> = (0..100).map(|number| format!("c{number}=1")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let header = read(&mut cookies, &many).expect("cookies");
        assert_eq!(header.split("; ").count(), COOKIES_MAX);
        let mut cookies = Cookies::default();
        assert_eq!(read(&mut cookies, &[&format!("c={}", "x".repeat(COOKIE_BYTES_MAX))]), None);
    }
}
