//! What identifies a record: in all of a pass by its tenant and its `Id`, and in the files of an output by its line.

use std::borrow::Cow;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::json;

/// The identity of a record in 128 bits: its tenant and its `Id`. A cross-tenant event can have the same `Id` in both
/// tenants, and is a record of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordId {
    /// A GUID, or the hash of another text, combined with the key of the tenant.
    pub(super) key: u128,
    pub(super) is_guid: bool,
}

impl RecordId {
    /// Returns the 128 bits; they are never zero.
    pub fn key(self) -> u128 {
        self.key
    }

    /// Returns whether the `Id` is a GUID.
    pub fn is_guid(self) -> bool {
        self.is_guid
    }

    /// Returns the identity of the record with this `Id` in a tenant. [`super::Origin::guid_of`] reverses this for a GUID.
    pub(super) fn in_tenant(self, tenant_key: u128) -> Self {
        Self { key: (self.key ^ tenant_key).max(1), ..self }
    }

    /// Returns the identity, in no tenant, that a text represents. `None` for a blank text and the nil GUID.
    fn of_text(text: &str) -> Option<Self> {
        match guid(text.as_bytes()) {
            Some(0) => None,
            Some(key) => Some(Self { key, is_guid: true }),
            None if text.trim().is_empty() => None,
            None => Some(Self { key: xxh3_128(text.as_bytes()).max(1), is_guid: false }),
        }
    }

    /// Returns the identity, in no tenant, that a JSON value represents: a string, or a number other than zero.
    pub(super) fn of_value(value: &[u8]) -> Option<Self> {
        if let [b'"', inner @ .., b'"'] = value
            && let Some(key) = guid(inner)
        {
            return (key != 0).then_some(Self { key, is_guid: true });
        }
        let text = std::str::from_utf8(value).ok()?;
        match value.first()? {
            b'"' => Self::of_text(&json::text_of(text)),
            b'-' | b'0'..=b'9' if text.parse() != Ok(0.0) => Self::of_text(text),
            _ => None,
        }
    }
}

#[cfg(test)]
impl RecordId {
    /// Returns an identity for a test.
    pub fn for_test(key: u128) -> Self {
        Self { key, is_guid: true }
    }
}

/// The identity of a record in a file of an output, computed from its fields: its `Id` and those that name its tenant.
#[derive(Clone, Debug, Default)]
pub struct LineIdentity {
    id: Option<RecordId>,
    organization: String,
    tenant_name: String,
}

impl LineIdentity {
    /// The names of the fields that the identity is computed from.
    pub const FIELDS: [&str; 3] = ["Id", "OrganizationId", "TenantName"];

    /// Adds a field with its decoded text.
    pub fn add(&mut self, name: &str, text: &str) {
        match name {
            "Id" => self.id = RecordId::of_text(text),
            "OrganizationId" => text.clone_into(&mut self.organization),
            "TenantName" => text.clone_into(&mut self.tenant_name),
            _ => {}
        }
    }

    /// Returns what the record is recognized by also if its tenant has got another name since; `None` for a record without an
    /// `Id`.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        let id = self.id?;
        let tenant_name = Fingerprint::of_tenant_name(&self.tenant_name);
        let key = xxh3_128(format!("{:032x}\n{}", id.key, self.organization).as_bytes());
        Some(Fingerprint { key: key | Fingerprint::HAS_ID, tenant_name })
    }

    /// Returns the identity; `None` for a record without an `Id`.
    pub fn key(&self) -> Option<u128> {
        let text = |id: RecordId| format!("{:032x}\n{}\n{}", id.key, self.organization, self.tenant_name);
        self.id.map(|id| xxh3_128(text(id).as_bytes()))
    }
}

/// What a record in a file of an output is recognized by, whatever the order of its fields, and also if its tenant has got
/// another name since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint {
    /// A hash of its `Id` and its organization, or of all of its fields if it has no `Id`.
    pub key: u128,
    /// A hash of the name of its tenant; zero without a name. An event can have the same `Id` and the same organization in
    /// two tenants.
    pub tenant_name: u64,
}

impl Fingerprint {
    /// The bit of a key that is set if the record has an `Id`.
    const HAS_ID: u128 = 1;

    /// Returns the fingerprint of a record without an `Id`, from a hash of its fields.
    pub fn of_fields(hash: u128) -> Self {
        Self { key: hash & !Self::HAS_ID, tenant_name: 0 }
    }

    /// Returns the hash of the name of a tenant.
    pub fn of_tenant_name(name: &str) -> u64 {
        if name.is_empty() { 0 } else { xxh3_64(name.as_bytes()) | 1 }
    }

    /// Returns whether a record has an `Id`, from the key of its fingerprint.
    pub fn has_id(key: u128) -> bool {
        key & Self::HAS_ID != 0
    }
}

/// Returns the identity of the record in a line without its line break: its `Id` and its tenant, or else the whole line.
/// Copies of a record can differ in the order of their fields.
pub fn key_of_line(line: &str) -> u128 {
    let mut identity = LineIdentity::default();
    json::each_field(line, |name, value| {
        identity.add(&name, &if value == "null" { Cow::Borrowed("") } else { json::text_of(value) });
    });
    identity.key().unwrap_or_else(|| xxh3_128(line.as_bytes()))
}

/// Returns whether a line of an output, given without its line break, is a whole record. After a power loss a line can
/// consist of zero bytes, or of parts of two lines.
pub fn is_whole_line(line: &[u8]) -> bool {
    line.starts_with(b"{") && serde_json::from_slice::<&serde_json::value::RawValue>(line).is_ok()
}

/// Returns the text of a GUID, in lower case.
pub fn text_of_guid(guid: u128) -> String {
    let digits = format!("{guid:032x}");
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &digits[group]);
    groups.join("-")
}

/// Returns the 128 bits of a GUID. `None` for any other text.
pub fn guid(text: &[u8]) -> Option<u128> {
    let mut id = 0;
    let mut rest = text;
    for (group, digits) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if group > 0 {
            rest = rest.strip_prefix(b"-")?;
        }
        let (written, after) = rest.split_at_checked(digits)?;
        let mut number = 0;
        for &digit in written {
            number = number << 4 | u64::from(char::from(digit).to_digit(16)?);
        }
        id = id << (4 * digits) | u128::from(number);
        rest = after;
    }
    rest.is_empty().then_some(id)
}
