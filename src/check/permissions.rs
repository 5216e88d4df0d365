//! The permissions of a login's token, by its claims. The claims are not verified: only the API decides whether the token
//! is valid.
//!
//! Source: "Get started with Office 365 Management APIs", section "Specify the permissions your app
//! requires to access the Office 365 Management APIs".

use super::lines::Lines;
use crate::{
    api::Claims,
    config::{Credential, Tenant},
    exit::Exit,
    feed::ContentType,
    redact::one_line,
};

/// The role that every feed needs, …
const READ: &str = "ActivityFeed.Read";
/// … and the role that `DLP.All` needs in addition.
const READ_DLP: &str = "ActivityFeed.ReadDlp";

/// The id of the Office 365 Management APIs. The audience of a token is this id or the API's URL.
///
/// Source: observed, as `resourceAppId` in the manifests of apps that ask for these permissions.
const API_ID: &str = "c5393580-f805-4401-95e8-94b7a6ef2fc2";

/// Compares a token's claims with what the tenant's subscriptions need.
pub fn check(tenant: &Tenant, claims: Option<&Claims>, lines: &mut Lines) {
    let label = tenant.label();
    let Some(claims) = claims else {
        lines.skipped(format_args!("{label}: permissions: not checked, because the token is not a JWT"));
        return;
    };
    let problems = problems(tenant, claims);
    if problems.is_empty() {
        lines.good(format_args!("{label}: the token permits {}", needed(tenant).join(" and ")));
    }
    for problem in problems {
        lines.bad(Exit::TryAgain, format_args!("{label}: {problem}"));
    }
    if let Some(audience) = foreign_audience(tenant, claims) {
        lines.warn(format_args!(
            "{label}: the token is for {audience} instead of {}; check api_type and login_url",
            tenant.cloud.api_url()
        ));
    }
}

/// Returns the roles that the tenant's feeds need.
fn needed(tenant: &Tenant) -> Vec<&'static str> {
    let wants_dlp = tenant.subscriptions.contains(&ContentType::DlpAll);
    if wants_dlp { vec![READ, READ_DLP] } else { vec![READ] }
}

/// Returns why the API would reject the token, and the fix.
fn problems(tenant: &Tenant, claims: &Claims) -> Vec<String> {
    let is_identity = matches!(tenant.credential, Credential::ManagedIdentity(_));
    let has = |role: &&str| claims.roles.iter().any(|granted| granted == role);
    let missing = needed(tenant).into_iter().filter(|role| !has(role));
    let mut problems: Vec<_> = missing
        .map(|role| {
            let instead = if role == READ_DLP { ", or remove DLP.All from subscriptions" } else { "" };
            let grant = if is_identity {
                "assign this app role of Office 365 Management APIs to the managed identity with PowerShell or az, as \
                 docs/CREDENTIALS-CHECKLIST.md shows; Azure returns the old token for up to 24 hours"
            } else {
                "grant it as an application permission (not a delegated one) of Office 365 Management APIs under API \
                 permissions, then Grant admin consent"
            };
            format!("the token lacks {role}; {grant}{instead}")
        })
        .collect();
    if let Some(other) = claims.tenant_id.as_deref().filter(|id| !id.eq_ignore_ascii_case(&tenant.tenant_id))
    {
        let other = one_line(other);
        let fix = if is_identity {
            "a managed identity belongs to the tenant of its Azure subscription: check tenant_id, or configure another \
             credential"
        } else {
            "check tenant_id and login_url"
        };
        problems.push(format!("the token is of the tenant {other}; {fix}"));
    }
    problems
}

/// Returns the audience of the token if that is not the API.
fn foreign_audience(tenant: &Tenant, claims: &Claims) -> Option<String> {
    let audience = claims.audience.as_deref()?;
    let is_api = audience.eq_ignore_ascii_case(API_ID)
        || audience.trim_end_matches('/').eq_ignore_ascii_case(tenant.cloud.api_url());
    (!is_api).then(|| one_line(audience))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cloud, Secret};

    const CONTOSO: &str = "11111111-1111-4111-8111-111111111111";

    fn tenant(subscriptions: &[ContentType]) -> Tenant {
        Tenant {
            tenant_id: CONTOSO.into(),
            client_id: "22222222-2222-4222-8222-222222222222".into(),
            credential: Credential::Secret(Secret::new("s")),
            name: None,
            publisher_id: CONTOSO.into(),
            cloud: Cloud::GccHigh,
            login_url: Cloud::GccHigh.login_url().into(),
            api_url: Cloud::GccHigh.api_url().into(),
            subscriptions: subscriptions.into(),
        }
    }

    fn claims(roles: &[&str], audience: &str, tenant_id: &str) -> Claims {
        Claims {
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
            audience: Some(audience.to_owned()),
            tenant_id: Some(tenant_id.to_owned()),
        }
    }

    #[test]
    fn only_dlp_needs_the_second_permission() {
        let read = claims(&[READ, "ServiceHealth.Read"], API_ID, CONTOSO);
        assert_eq!(problems(&tenant(&[ContentType::AuditGeneral]), &read), [""; 0]);
        let problems = problems(&tenant(&ContentType::ALL), &read);
        assert!(matches!(&problems[..], [problem] if problem.contains(READ_DLP)), "{problems:?}");
    }

    #[test]
    fn reports_a_token_of_another_tenant() {
        let other = claims(&[READ, READ_DLP], API_ID, "33333333-3333-4333-8333-333333333333");
        let problems = problems(&tenant(&ContentType::ALL), &other);
        assert!(matches!(&problems[..], [problem] if problem.contains("33333333-")), "{problems:?}");
    }

    #[test]
    fn accepts_the_api_url_or_id_as_audience() {
        for (audience, is_foreign) in [
            ("https://manage.office365.us", false),
            ("https://manage.office365.us/", false),
            (API_ID, false),
            ("https://manage.office.com", true),
            ("00000003-0000-0000-c000-000000000000", true),
        ] {
            let claims = claims(&[], audience, CONTOSO);
            assert_eq!(foreign_audience(&tenant(&[]), &claims).is_some(), is_foreign, "{audience}");
        }
    }
}
