//! Audit records like those of Microsoft, reproducible from a seed, each with its own `Id`.
//!
//! `records/*.json` contains a template for each kind of record, with placeholders such as `{user}` in its strings.
//! `"{#number}"` becomes a number without quotes. One record in sixteen has an unusual field that was seen in production: a
//! number that no `f64` represents, a lone surrogate, a repeated key, …

use std::{fmt::Write, sync::LazyLock};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::value::RawValue;

use crate::time;

/// The generator of a blob's records. It always generates the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) content_type: String,
    pub(crate) tenant: String,
    pub(crate) created: Timestamp,
    pub(crate) seed: u64,
    pub(crate) count: usize,
    pub(crate) plain: bool,
}

impl Source {
    /// Returns the `Id` of a record, without generating the record.
    pub(crate) fn id(&self, index: usize) -> String {
        let mut id = String::with_capacity(36);
        push_guid(&mut id, &mut self.dice(index));
        id
    }

    /// Appends the text of a record.
    pub(crate) fn write(&self, index: usize, text: &mut String) {
        let mut dice = self.dice(index);
        let mut id = String::with_capacity(36);
        push_guid(&mut id, &mut dice);
        let age = SignedDuration::from_secs(dice.i64(60..8 * 3600));
        let event = Event { id: &id, tenant: &self.tenant, time: self.created - age };
        let kinds = kinds_of(&self.content_type);
        kinds[dice.usize(..kinds.len())].write(&event, &mut dice, text);
        if !self.plain && dice.u8(..16) == 0 {
            text.pop(); // the closing brace
            text.push_str(UNUSUAL_FIELDS[dice.usize(..UNUSUAL_FIELDS.len())]);
            text.push('}');
        }
    }

    fn dice(&self, index: usize) -> Rng {
        Rng::with_seed(self.seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// Returns the text of a record. The same arguments give the same text. The `Id` depends on the tenant, the content type and
/// the seed.
///
/// For an unknown content type the record is one of `Audit.General`.
pub fn record(content_type: &str, tenant: &str, created: Timestamp, seed: u64) -> String {
    let source = Source {
        content_type: content_type.to_owned(),
        tenant: tenant.to_owned(),
        created,
        seed: seed ^ hash(&format!("{tenant} {}", content_type.to_ascii_lowercase())),
        count: 1,
        plain: false,
    };
    let mut text = String::new();
    source.write(0, &mut text);
    text
}

/// Moves the first field of a record to the end: copies of a record can have another order of fields.
///
/// # Panics
///
/// Panics if it is not a JSON object with at least two fields.
pub fn reordered(record: &str) -> String {
    let fields = record.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).expect("a JSON object");
    let (first, rest) = fields.split_at(end_of_first_field(fields).expect("at least two fields"));
    format!("{{{},{first}}}", &rest[1..])
}

/// Returns the position of the first comma outside of strings, objects and arrays.
fn end_of_first_field(fields: &str) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    fields.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b',' => return depth == 0,
            _ => {}
        }
        false
    })
}

/// Returns the `Id` of a record, if it has one.
pub fn id_of(record: &str) -> Option<String> {
    let fields: std::collections::BTreeMap<String, &RawValue> = serde_json::from_str(record).ok()?;
    serde_json::from_str(fields.get("Id")?.get()).ok()
}

/// The values that occur several times in one record.
struct Event<'a> {
    id: &'a str,
    tenant: &'a str,
    time: Timestamp,
}

/// A kind of record: a parsed template.
struct Kind {
    pieces: Vec<Piece>,
}

enum Piece {
    Text(String),
    Placeholder(Placeholder),
}

#[derive(Clone, Copy)]
enum Placeholder {
    Time,
    Epoch,
    Id,
    Organization,
    User,
    Name,
    Puid,
    Guid,
    Item,
    Address,
    Ipv4,
    Agent,
    Folder,
    File,
    Subject,
    Text,
    Number,
}

impl Placeholder {
    const NAMES: [(&str, Self); 17] = [
        ("{time}", Self::Time),
        ("{#epoch}", Self::Epoch),
        ("{id}", Self::Id),
        ("{organization}", Self::Organization),
        ("{user}", Self::User),
        ("{name}", Self::Name),
        ("{puid}", Self::Puid),
        ("{guid}", Self::Guid),
        ("{item}", Self::Item),
        ("{address}", Self::Address),
        ("{ipv4}", Self::Ipv4),
        ("{agent}", Self::Agent),
        ("{folder}", Self::Folder),
        ("{file}", Self::File),
        ("{subject}", Self::Subject),
        ("{text}", Self::Text),
        ("{#number}", Self::Number),
    ];

    fn fill(self, event: &Event<'_>, dice: &mut Rng, text: &mut String) {
        let pick = |words: &[&'static str], dice: &mut Rng| words[dice.usize(..words.len())];
        let written = match self {
            Self::Time => {
                text.push_str(&time::without_zone(event.time));
                Ok(())
            }
            Self::Epoch => write!(text, "{}", event.time.as_millisecond()),
            Self::Id => text.write_str(event.id),
            Self::Organization => text.write_str(event.tenant),
            Self::User => write!(text, "{}@{}", pick(ACCOUNTS, dice), pick(DOMAINS, dice)),
            Self::Name => text.write_str(pick(NAMES, dice)),
            Self::Puid => write!(text, "1003{:012X}", dice.u64(..1 << 48)),
            Self::Guid => {
                push_guid(text, dice);
                Ok(())
            }
            Self::Item => write!(text, "{:024x}", dice.u128(..1 << 96)),
            Self::Address if dice.u8(..4) == 0 => {
                write!(text, "2001:db8:{:x}::{:x}", dice.u16(1..), dice.u16(1..))
            }
            Self::Address | Self::Ipv4 => {
                write!(text, "{}.{}", pick(DOCUMENTATION_NETWORKS, dice), dice.u8(1..255))
            }
            Self::Agent => text.write_str(pick(AGENTS, dice)),
            Self::Folder => text.write_str(pick(FOLDERS, dice)),
            Self::File => write!(text, "{} {}.{}", pick(FOLDERS, dice), dice.u16(..), pick(EXTENSIONS, dice)),
            Self::Subject => text.write_str(pick(SUBJECTS, dice)),
            Self::Text => {
                for _ in 0..dice.usize(1..8) {
                    text.push_str(pick(SUBJECTS, dice));
                    text.push(' ');
                }
                Ok(())
            }
            Self::Number => write!(text, "{}", dice.u32(1..1 << 16)),
        };
        written.expect("writing to memory cannot fail");
    }
}

impl Kind {
    fn new(template: &str) -> Self {
        let minified = without_blanks(template);
        let mut pieces = Vec::new();
        let (mut literal, mut rest) = (String::new(), minified.as_str());
        while let Some(first) = rest.chars().next() {
            let bare = rest.strip_prefix('"').filter(|rest| rest.starts_with("{#"));
            if let Some((name, placeholder)) = placeholder_at(bare.unwrap_or(rest)) {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
                pieces.push(Piece::Placeholder(placeholder));
                rest = &rest[name.len() + if bare.is_some() { 2 } else { 0 }..];
            } else {
                literal.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        pieces.push(Piece::Text(literal));
        Self { pieces }
    }

    fn write(&self, event: &Event<'_>, dice: &mut Rng, text: &mut String) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Placeholder(placeholder) => placeholder.fill(event, dice, text),
            }
        }
    }
}

fn placeholder_at(text: &str) -> Option<(&'static str, Placeholder)> {
    Placeholder::NAMES.into_iter().find(|(name, _)| text.starts_with(name))
}

/// Removes the blanks between the tokens of JSON.
fn without_blanks(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|&character| {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = !in_string,
                _ => {}
            }
            in_string || !character.is_ascii_whitespace()
        })
        .collect()
}

/// FNV-1a, which never changes, unlike the hash of the standard library.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Appends a random GUID of version 4.
pub(crate) fn push_guid(text: &mut String, dice: &mut Rng) {
    let (high, low) = (dice.u64(..), dice.u64(..));
    write!(
        text,
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        (low >> 48) & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
    .expect("writing to memory cannot fail");
}

fn kinds_of(content_type: &str) -> &'static [Kind] {
    macro_rules! kinds {
        ($($name:literal),+) => {
            LazyLock::new(|| vec![$(Kind::new(include_str!(concat!("../records/", $name, ".json")))),+])
        };
    }
    static EXCHANGE: LazyLock<Vec<Kind>> =
        kinds!("exchange_mail_items_accessed", "exchange_move_to_deleted_items", "exchange_set_mailbox");
    static SHARE_POINT: LazyLock<Vec<Kind>> = kinds!("sharepoint_file_accessed", "sharepoint_sharing_set");
    static ENTRA: LazyLock<Vec<Kind>> = kinds!("entra_user_logged_in", "entra_update_user");
    static DLP: LazyLock<Vec<Kind>> = kinds!("dlp_rule_match_exchange", "dlp_rule_match_sharepoint");
    static GENERAL: LazyLock<Vec<Kind>> = kinds!(
        "general_teams_message_created_has_link",
        "general_teams_member_added",
        "general_power_bi_view_report"
    );
    match content_type.to_ascii_lowercase().as_str() {
        "audit.exchange" => &EXCHANGE,
        "audit.sharepoint" => &SHARE_POINT,
        "audit.azureactivedirectory" => &ENTRA,
        "dlp.all" => &DLP,
        _ => &GENERAL,
    }
}

/// RFC 5737.
const DOCUMENTATION_NETWORKS: &[&str] = &["192.0.2", "198.51.100", "203.0.113"];
const DOMAINS: &[&str] = &["contoso.com", "fabrikam.com", "contoso.onmicrosoft.com"];
const ACCOUNTS: &[&str] =
    &["adele.vance", "alex.wilber", "diego.siciliani", "grady.archie", "lee.gu", "megan.bowen", "svc-backup"];
const NAMES: &[&str] =
    &["Adele Vance", "Zoë Müller", "Þórdís Jónsdóttir", "山田 太郎", "Олена Шевченко", r"Ren\u00e9 O'Neill"];
const EXTENSIONS: &[&str] = &["docx", "xlsx", "pptx", "pdf", "txt"];
const FOLDERS: &[&str] =
    &["Inbox", "Sent Items", "Entwürfe", "Éléments supprimés", "項目", "Finance", "Q3 & Q4 (final)"];
const AGENTS: &[&str] = &[
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/120.0.0.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.1 Safari/605.1.15",
    "Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.17328; Pro)",
    "python-requests/2.31.0",
];
const SUBJECTS: &[&str] = &[
    "Quarterly figures",
    r#"RE: \"urgent\" \u2013 payment due"#,
    r"FW: C:\\shares\\plan.xlsx",
    "Grüße aus Köln",
    "会議の議事録",
    "دعوة اجتماع",
    r"Party \ud83c\udf89\ud83d\ude00 tonight",
    "Party 🎉 tonight",
    r"line\r\nbreak\tand \u0000 control\u001f",
    r"<b>bold<\/b> & 50% off",
];
/// Unusual fields, each after a comma.
const UNUSUAL_FIELDS: &[&str] = &[
    r#","Sequence":9007199254740993"#,
    r#","Sequence":123456789012345678901234567890"#,
    r#","Score":-1.5E+400"#,
    r#","Preview":"cut in a pair \ud83d""#,
    r#","Preview":"the other half \ude00 alone""#,
    r#","Version":1"#,
    r#","userid":"differs in case only""#,
    r#","":"no name""#,
    r#","Nested":[[[[[[[[[[[[{"deep":[]}]]]]]]]]]]]]"#,
    concat!(
        r#","Long":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789"#,
        r"ÄÖÜ\u00df\\\/\b\f\n\r\t0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789",
        r#"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef""#
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;
    use crate::CONTENT_TYPES;

    const TENANT: &str = "11111111-2222-4333-8444-555555555555";

    #[test]
    fn records_are_valid_distinct_and_of_a_realistic_size() {
        let created = Timestamp::UNIX_EPOCH;
        let mut ids = BTreeSet::new();
        for content_type in CONTENT_TYPES {
            for seed in 0..500 {
                let text = record(content_type, TENANT, created, seed);
                let raw: &RawValue =
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                assert_eq!(raw.get(), text);
                assert!((900..5000).contains(&text.len()), "{} bytes: {text}", text.len());
                assert!(!text.contains("{#") && placeholder_left_in(&text).is_none(), "{text}");
                ids.insert(id_of(&text).expect("an Id"));
            }
        }
        assert_eq!(ids.len(), 5 * 500);
    }

    fn placeholder_left_in(text: &str) -> Option<&'static str> {
        Placeholder::NAMES.iter().map(|(name, _)| *name).find(|name| text.contains(name))
    }

    #[test]
    fn id_and_text_are_reproducible() {
        let source = Source {
            content_type: "Audit.Exchange".into(),
            tenant: TENANT.into(),
            created: Timestamp::UNIX_EPOCH,
            seed: 7,
            count: 3,
            plain: false,
        };
        for index in 0..source.count {
            let (mut once, mut again) = (String::new(), String::new());
            source.write(index, &mut once);
            source.write(index, &mut again);
            assert_eq!(once, again);
            assert_eq!(id_of(&once), Some(source.id(index)));
        }
    }

    #[test]
    fn reordered_record_has_the_same_fields() {
        let text = r#"{"CreationTime":"a, \"b\"","Id":"x","List":[1,2]}"#;
        assert_eq!(reordered(text), r#"{"Id":"x","List":[1,2],"CreationTime":"a, \"b\""}"#);
        let fields = |text: &str| -> HashMap<String, Box<RawValue>> { serde_json::from_str(text).unwrap() };
        assert_eq!(fields(text).len(), fields(&reordered(text)).len());
    }
}
