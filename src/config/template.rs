//! The production template, written from the schema.

use super::schema::{Key, Kind, ROOT, Sample};

const COLUMNS_MAX: usize = 120;

const HEADER: &str = "\
# Every option with its meaning, its range and its default. Written from the schema in src/config/schema.rs.
#
# - Lines that begin with \"# \" explain. Lines such as \"#name: …\" are options that are off: remove the # to use them.
# - ${NAME} in a value is replaced from the environment; $${ is a literal ${.
# - Durations: 30s, 5m, 1h, 1d. Sizes: bytes, or 512K, 10M, 1G (multiples of 1024).
# - Relative paths start at the current directory.
# - A file with a secret should be readable by its owner only: chmod 600.
# - Unknown keys are errors. Check the file with: office_audit_log_collector check
";

/// Returns the text of `config/config.production.template.yaml`: every key with its documentation.
pub fn template() -> String {
    let mut template = Template { text: HEADER.to_owned() };
    template.keys(ROOT, "", 0);
    template.text
}

struct Template {
    text: String,
}

impl Template {
    /// `margin`: what each line begins with.
    fn keys(&mut self, keys: &[Key], margin: &str, depth: usize) {
        for (index, key) in keys.iter().filter(|key| !key.is_older()).enumerate() {
            if depth == 0 || (depth == 1 && index > 0) {
                self.text.push('\n');
            }
            self.comment(&documentation(key), margin);
            self.key(key, margin, depth);
        }
    }

    fn comment(&mut self, text: &str, margin: &str) {
        let mut line = format!("{margin}#");
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            if line.chars().count() + 1 + word.chars().count() > COLUMNS_MAX {
                self.line(&line);
                line = format!("{margin}#");
            }
            line.extend([" ", word]);
        }
        self.line(&line);
    }

    fn key(&mut self, key: &Key, margin: &str, depth: usize) {
        let (mark, value) = match key.sample {
            Sample::Default => ("", key.default.unwrap_or_default()),
            Sample::On(value) => ("", value),
            Sample::Off(value) if margin.contains('#') => ("", value), // its section is off
            Sample::Off(value) => ("#", value),
        };
        let margin = format!("{margin}{mark}");
        let value = match key.kind {
            Kind::Section(_) | Kind::Sections(_) => String::new(),
            _ if is_text(&key.kind) => format!("\"{value}\""),
            _ => value.to_owned(),
        };
        let mut lines = value.lines();
        self.line(&format!("{margin}{}: {}", key.name, lines.next().unwrap_or_default()));
        for line in lines {
            self.line(&format!("{margin}{line}"));
        }
        match key.kind {
            Kind::Section(keys) => self.keys(keys, &format!("{margin}  "), depth + 1),
            Kind::Sections(keys) => {
                let start = self.text.len();
                self.keys(keys, &format!("{margin}    "), depth + 1);
                let item = self.text.split_off(start).replacen("\n    t", "\n  - t", 1);
                self.text.push_str(&item);
            }
            _ => {}
        }
    }

    fn line(&mut self, line: &str) {
        self.text.extend([line.trim_end(), "\n"]);
    }
}

/// Whether values of this kind are written in quotes.
fn is_text(kind: &Kind) -> bool {
    !matches!(
        kind,
        Kind::Bool
            | Kind::Integer(_)
            | Kind::AutoOrInteger(_)
            | Kind::ContentTypes
            | Kind::Filter
            | Kind::Headers
            | Kind::HeaderFiles
            | Kind::Brokers
            | Kind::LibrdkafkaOptions
    )
}

/// The meaning of a key, its range and its default.
fn documentation(key: &Key) -> String {
    let range = Some(key.kind.range()).filter(|range| !range.is_empty());
    let default = key.default.map(|default| match key.kind {
        Kind::Text(_) | Kind::Separator => format!("Default: \"{default}\""),
        _ => format!("Default: {default}"),
    });
    let sentences = [range, default].into_iter().flatten().map(|sentence| format!("{sentence}."));
    let doc = Some(key.doc.trim().to_owned()).filter(|doc| !doc.is_empty());
    doc.into_iter().chain(sentences).collect::<Vec<_>>().join(" ")
}
