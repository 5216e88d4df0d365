//! `${NAME}` in a text, replaced from the environment; `$${` is a literal `${`.

/// Returns the value of a variable. Tests pass their own, so that they need no process-wide state.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces every variable. The errors say what is wrong with each that cannot be replaced.
pub(super) fn replace(text: &str, environment: Environment) -> Result<String, Vec<String>> {
    let mut replaced = String::with_capacity(text.len());
    let mut mistakes = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, after) = (&rest[..start], &rest[start + 2..]);
        if let Some(escaped) = before.strip_suffix('$') {
            replaced.push_str(escaped);
            replaced.push_str("${");
            rest = after;
            continue;
        }
        replaced.push_str(before);
        match after.split_once('}') {
            Some((name, after_brace)) if is_name(name) => {
                match environment(name) {
                    Some(value) => replaced.push_str(&value),
                    None => mistakes.push(format!(
                        "the environment variable {name} is not set; set it, or write $${{ for a literal ${{"
                    )),
                }
                rest = after_brace;
            }
            _ => {
                mistakes.push(
                    "`${` must be followed by a variable's name and `}`; write `$${` for a literal `${`"
                        .to_owned(),
                );
                rest = after;
            }
        }
    }
    replaced.push_str(rest);
    if mistakes.is_empty() { Ok(replaced) } else { Err(mistakes) }
}

/// Returns whether a text has a variable.
pub(super) fn is_replaced(text: &str) -> bool {
    text.replace("$${", "").contains("${")
}

/// Returns the first name that a shell would replace: `NAME` of `$NAME`.
pub(super) fn bare_name(text: &str) -> Option<&str> {
    text.split('$').skip(1).find_map(|after| {
        let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let name = &after[..after.find(|character| !is_part(character)).unwrap_or(after.len())];
        is_name(name).then_some(name)
    })
}

fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().all(is_part) && text.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("logs.example".to_owned()),
            "PORT_2" => Some("24224".to_owned()),
            "NESTED" => Some("${HOST}".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_once_and_anywhere() {
        for (text, expected) in [
            ("plain $HOST $ { }", "plain $HOST $ { }"),
            ("${HOST}", "logs.example"),
            ("http://${HOST}:${PORT_2}/", "http://logs.example:24224/"),
            ("${NESTED}", "${HOST}"),
            ("[${EMPTY}]", "[]"),
            ("$${HOST}", "${HOST}"),
            ("a$${b${HOST}", "a${blogs.example"),
            ("$", "$"),
        ] {
            assert_eq!(replace(text, &environment).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn each_variable_that_cannot_be_replaced_is_a_mistake() {
        let unset = |name| {
            format!("the environment variable {name} is not set; set it, or write $${{ for a literal ${{")
        };
        assert_eq!(replace("${A}${HOST}${B}", &environment), Err(vec![unset("A"), unset("B")]));
        for text in ["${", "${HOST", "${}", "${1A}", "${A B}", "x${y-z}"] {
            let mistakes = replace(text, &environment).unwrap_err();
            assert_eq!(mistakes.len(), 1, "{text}");
            assert!(mistakes[0].starts_with("`${` must be followed"), "{text}");
        }
    }

    #[test]
    fn a_shells_variable_is_found() {
        for (text, name) in [
            ("/var/$HOST/a", Some("HOST")),
            ("$HOME", Some("HOME")),
            ("a$1/$_b.json", Some("_b")),
            ("${HOME}/a", None),
            ("$${HOME}/a", None),
            ("/a$/b$-c$", None),
        ] {
            assert_eq!(bare_name(text), name, "{text}");
        }
    }

    #[test]
    fn an_escaped_variable_is_none() {
        assert!(is_replaced("Bearer ${TOKEN}"));
        assert!(!is_replaced("pa$${ss}"));
        assert!(!is_replaced("plain"));
    }
}
