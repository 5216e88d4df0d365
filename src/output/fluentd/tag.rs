//! The tag of a record, by which receivers route it.

use crate::output::Source;

/// The maximum number of characters of a tenant's name or a workload in a tag.
const PART_CHARACTERS_MAX: usize = 64;

/// The template of a tag: texts and placeholders.
#[derive(Clone, Debug)]
pub struct Tag {
    parts: Vec<Part>,
    /// The value of `{tenant}` for a tenant without a name; without this it is the id.
    tenant_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Tenant,
    ContentType,
    Workload,
}

/// The value of `{workload}` for a record without one.
const NO_WORKLOAD: &str = "unknown";

impl Tag {
    /// Parses a template. The configuration was checked for other braces.
    pub fn new(template: &str, tenant_name: Option<&str>) -> Self {
        let parts = template.split_inclusive('}').flat_map(|piece| {
            let (text, name) = piece.split_once('{').unwrap_or((piece, ""));
            let field = match name {
                "tenant}" => Some(Part::Tenant),
                "contentType}" => Some(Part::ContentType),
                "workload}" => Some(Part::Workload),
                _ => None,
            };
            [(!text.is_empty()).then(|| Part::Text(text.to_owned())), field]
        });
        Self { parts: parts.flatten().collect(), tenant_name: tenant_name.map(str::to_owned) }
    }

    /// Returns a tag like those of records, for a message without records.
    pub fn for_check(&self) -> String {
        let text = |part: &Part| if let Part::Text(text) = part { text.clone() } else { "check".to_owned() };
        self.parts.iter().map(text).collect()
    }

    /// Returns whether records of one feed can have different tags.
    pub fn depends_on_record(&self) -> bool {
        self.parts.contains(&Part::Workload)
    }

    /// Writes the tag of a record with this workload, given as in the JSON of the record, with its quotes.
    ///
    /// A dot separates the parts of a tag, and `*`, `{` and others have a meaning where a receiver matches it. So of
    /// names and workloads only ASCII letters, digits, `-` and `_` are used, at most [`PART_CHARACTERS_MAX`] of them;
    /// everything else becomes `_`. A content type keeps its dot.
    pub fn write(&self, source: &Source<'_>, workload: Option<&str>, to: &mut String) {
        let workload = workload.and_then(|value| value.strip_prefix('"')?.strip_suffix('"'));
        to.clear();
        for part in &self.parts {
            match part {
                Part::Text(text) => to.push_str(text),
                Part::Tenant => {
                    let name = source.tenant_name.or(self.tenant_name.as_deref()).unwrap_or(source.tenant_id);
                    push_clean(name.chars(), to);
                }
                Part::ContentType => to.push_str(source.content_type.name()),
                Part::Workload => match workload.filter(|workload| !workload.is_empty()) {
                    Some(workload) => push_clean(workload.chars(), to),
                    None => to.push_str(NO_WORKLOAD),
                },
            }
        }
    }
}

fn push_clean(text: impl Iterator<Item = char>, to: &mut String) {
    let is_clean = |character: &char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    to.extend(
        text.take(PART_CHARACTERS_MAX).map(|character| if is_clean(&character) { character } else { '_' }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::ContentType;

    #[track_caller]
    fn assert_tag(template: &str, names: [Option<&str>; 2], workload: Option<&str>, expected: &str) {
        let content_type = ContentType::ALL.into_iter().find(|one| one.name() == "Audit.Exchange");
        let source = Source {
            tenant_id: "11111111-1111-4111-8111-111111111111",
            tenant_name: names[0],
            content_type: content_type.expect("a content type"),
            content_id: "",
            blob: 0,
        };
        let mut tag = "left over".to_owned();
        Tag::new(template, names[1]).write(&source, workload, &mut tag);
        assert_eq!(tag, expected);
    }

    #[test]
    fn builds_the_tag_from_its_template() {
        let usual = "office365.{tenant}.{contentType}";
        let name = Some("contoso");
        assert_tag(usual, [name, Some("other")], None, "office365.contoso.Audit.Exchange");
        assert_tag(usual, [None, Some("My Company")], None, "office365.My_Company.Audit.Exchange");
        let id = "office365.11111111-1111-4111-8111-111111111111.Audit.Exchange";
        assert_tag(usual, [None, None], None, id);
        assert_tag("audit", [name, None], Some("\"Exchange\""), "audit");
        assert_tag("{workload}{tenant}x", [name, None], Some("\"Exchange\""), "Exchangecontosox");
        assert_tag("a.{workload}", [name, None], None, "a.unknown");
        assert_tag("a.{workload}", [name, None], Some("7"), "a.unknown");
        assert_tag("a.{workload}", [name, None], Some("\"\""), "a.unknown");
    }

    #[test]
    fn names_and_workloads_cannot_add_parts_to_a_tag() {
        assert_tag("{tenant}", [Some("Contoso.Ltd **"), None], None, "Contoso_Ltd___");
        assert_tag("{workload}", [None, None], Some("\"a\\nb.{é}\u{1f600}\""), "a_nb_____");
        assert_tag(
            "{workload}",
            [None, None],
            Some(&format!("\"{}\"", "a".repeat(1000))),
            &"a".repeat(PART_CHARACTERS_MAX),
        );
    }
}
