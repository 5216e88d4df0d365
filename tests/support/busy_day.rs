//! A state with the history of a busy day, for pictures.

use std::{fmt::Write, fs};

use jiff::Timestamp;
use simulator::NewBlob;

use super::{CONTOSO, FABRIKAM, Installation, hours_ago};

/// The number of the current hour.
pub fn hour() -> i64 {
    Timestamp::now().as_second().div_euclid(3600)
}

/// How busy each hour is, the last one first.
const WEIGHTS: [i64; 24] =
    [31, 33, 30, 27, 31, 33, 29, 22, 14, 8, 5, 3, 2, 2, 3, 3, 4, 6, 9, 12, 15, 19, 24, 28];

/// Writes a history of the last day, always the same in relation to the current hour.
fn write_history(installation: &Installation) {
    let hour = hour() * 3600;
    let mut history = String::new();
    for back in (0..288_i64).rev() {
        let start = Timestamp::from_second(hour - back * 300).expect("a time");
        let weight = WEIGHTS[usize::try_from(back / 12).expect("an hour of the day")];
        let failures = if (60..66).contains(&back) { ",\"failures\":2" } else { "" };
        if (130..150).contains(&back) {
            continue; // the machine was off
        }
        let lag = 7 + back % 5;
        let _ = writeln!(
            history,
            "{{\"version\":1,\"start\":\"{start}\",\"seconds\":2.4,\"exit\":0,\"quiet\":5,\"lag\":{lag},\"tenants\":{{\
             \"{CONTOSO}\":{{\"Audit.Exchange\":{{\"blobs\":3,\"records\":{},\"lag\":{lag}}},\
             \"Audit.SharePoint\":{{\"blobs\":2,\"records\":{},\"lag\":{lag}}},\
             \"Audit.General\":{{\"blobs\":1,\"records\":{},\"lag\":{lag}}}}},\
             \"{FABRIKAM}\":{{\"Audit.Exchange\":{{\"blobs\":1,\"records\":{}{failures},\"lag\":{lag}}},\
             \"Audit.AzureActiveDirectory\":{{\"blobs\":1,\"records\":{},\"lag\":{lag}}}}}}}}}",
            weight * 97,
            weight * 31,
            weight * 11,
            weight * 23,
            weight * 5,
        );
    }
    fs::create_dir_all(installation.path("state")).expect("a folder");
    fs::write(installation.path("state/history"), history).expect("a file");
}

/// Two tenants at the end of a busy day: the machine was off for some hours, and a blob of fabrikam cannot be read.
pub fn installation() -> Installation {
    let (installation, fabrikam) = Installation::with_fabrikam();
    write_history(&installation);
    installation.run(&[]).assert_code(0);
    fabrikam.add_blob("Audit.Exchange", NewBlob::body("[").created(hours_ago(2)));
    installation.run(&[]).assert_code(1);
    installation
}
