//! Audit records as Microsoft writes them: repeatable from a seed, each with an `Id` of its own.
//!
//! `records/*.json` holds a record of each kind with slots such as `{user}` in its strings; `"{#number}"` becomes a
//! bare number. One record in sixteen carries an oddity that was seen in the wild: a number that no `f64` holds, a
//! lone surrogate, a key that occurs twice, …

use std::{fmt::Write, sync::LazyLock};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::value::RawValue;

use crate::time;

/// Which records a blob holds: the same ones whenever they are written.
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
    /// The record's `Id`, without writing the record.
    pub(crate) fn id(&self, index: usize) -> String {
        let mut id = String::with_capacity(36);
        push_guid(&mut id, &mut self.dice(index));
        id
    }

    /// Appends the record's text.
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
            text.push_str(ODDITIES[dice.usize(..ODDITIES.len())]);
            text.push('}');
        }
    }

    fn dice(&self, index: usize) -> Rng {
        Rng::with_seed(self.seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// A record's text. Tenant, content type and seed decide on its `Id`; the rest is the same for the same four.
///
/// For a content type that the API does not know the record is one of `Audit.General`.
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

/// The same record with its first field moved to the end, as copies of a record can differ.
///
/// # Panics
///
/// If it is not a JSON object of two fields or more.
pub fn reordered(record: &str) -> String {
    let fields = record.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).expect("a JSON object");
    let (first, rest) = fields.split_at(end_of_first_field(fields).expect("two fields or more"));
    format!("{{{},{first}}}", &rest[1..])
}

/// Where the first comma outside of strings, objects and arrays stands.
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

/// The `Id` of a record's text, if it has one.
pub fn id_of(record: &str) -> Option<String> {
    let fields: std::collections::BTreeMap<String, &RawValue> = serde_json::from_str(record).ok()?;
    serde_json::from_str(fields.get("Id")?.get()).ok()
}

/// What belongs to one record as a whole.
struct Event<'a> {
    id: &'a str,
    tenant: &'a str,
    time: Timestamp,
}

/// A kind of record: literal text and what stands between.
struct Kind {
    pieces: Vec<Piece>,
}

enum Piece {
    Text(String),
    Slot(Slot),
}

#[derive(Clone, Copy)]
enum Slot {
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

impl Slot {
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
        written.expect("memory takes everything");
    }
}

impl Kind {
    fn new(template: &str) -> Self {
        let minified = without_blanks(template);
        let mut pieces = Vec::new();
        let (mut literal, mut rest) = (String::new(), minified.as_str());
        while let Some(first) = rest.chars().next() {
            let bare = rest.strip_prefix('"').filter(|rest| rest.starts_with("{#"));
            if let Some((name, slot)) = slot_at(bare.unwrap_or(rest)) {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
                pieces.push(Piece::Slot(slot));
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
                Piece::Slot(slot) => slot.fill(event, dice, text),
            }
        }
    }
}

fn slot_at(text: &str) -> Option<(&'static str, Slot)> {
    Slot::NAMES.into_iter().find(|(name, _)| text.starts_with(name))
}

/// JSON without the blanks between its tokens.
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

/// FNV-1a: the same for ever, unlike the standard library's.
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
    .expect("memory takes everything");
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
/// Fields, each with a comma before it.
const ODDITIES: &[&str] = &[
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
                assert!(!text.contains("{#") && slot_left_in(&text).is_none(), "{text}");
                ids.insert(id_of(&text).expect("an Id"));
            }
        }
        assert_eq!(ids.len(), 5 * 500);
    }

    fn slot_left_in(text: &str) -> Option<&'static str> {
        Slot::NAMES.iter().map(|(name, _)| *name).find(|name| text.contains(name))
    }

    #[test]
    fn an_id_is_known_without_its_record_and_the_same_each_time() {
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
    fn a_reordered_record_says_the_same() {
        let text = r#"{"CreationTime":"a, \"b\"","Id":"x","List":[1,2]}"#;
        assert_eq!(reordered(text), r#"{"Id":"x","List":[1,2],"CreationTime":"a, \"b\""}"#);
        let fields = |text: &str| -> HashMap<String, Box<RawValue>> { serde_json::from_str(text).unwrap() };
        assert_eq!(fields(text).len(), fields(&reordered(text)).len());
    }
}
