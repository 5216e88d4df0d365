//! Blobs like Microsoft's in files, with the listings that name them. They are created once and kept for later runs.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, ToSpan};
use simulator::{CONTENT_TYPES, NewBlob, Simulator, TenantSettings};

/// A set of blobs to collect.
#[derive(Clone, Copy, Debug)]
pub struct Corpus {
    /// The name on the command line.
    pub name: &'static str,
    pub blobs: usize,
    pub records_of_a_blob: usize,
}

/// All corpora. Their records are like real ones, with 1 to 3 KB each.
pub const ALL: [Corpus; 4] = [
    Corpus { name: "S", blobs: 200, records_of_a_blob: 100 },
    Corpus { name: "M", blobs: 2_000, records_of_a_blob: 100 },
    Corpus { name: "L", blobs: 20_000, records_of_a_blob: 20 },
    Corpus { name: "H", blobs: 4, records_of_a_blob: 55_000 }, // about 100 MB a blob
];

/// The tenant of all blobs.
pub const TENANT_ID: &str = "11111111-1111-4111-8111-111111111111";

impl Corpus {
    pub fn records(self) -> usize {
        self.blobs * self.records_of_a_blob
    }

    /// Returns the folder of its files below a root folder.
    pub fn folder(self, root: &Path) -> PathBuf {
        root.join(self.name)
    }

    /// Creates the blobs unless an earlier run has created them.
    pub fn make(self, root: &Path) -> io::Result<()> {
        let folder = self.folder(root);
        let marker = folder.join("whole");
        let parameters = format!("{} x {}\n", self.blobs, self.records_of_a_blob);
        if fs::read_to_string(&marker).is_ok_and(|made| made == parameters) {
            return Ok(());
        }
        let blobs = folder.join("blobs");
        fs::create_dir_all(&blobs)?;
        // Plain records, because jq does not accept everything that real records contain.
        let simulator = Simulator::start();
        let tenant = simulator.tenant(TenantSettings::new(TENANT_ID));
        for number in 0..self.blobs {
            let content_type = CONTENT_TYPES[number % CONTENT_TYPES.len()];
            let blob = tenant.add_blob(content_type, NewBlob::records(self.records_of_a_blob).plain());
            fs::write(blobs.join(number.to_string()), blob.body())?;
        }
        fs::write(marker, parameters)
    }

    /// Returns the size of all blobs in bytes.
    pub fn bytes(self, root: &Path) -> io::Result<u64> {
        let mut bytes = 0;
        for blob in fs::read_dir(self.folder(root).join("blobs"))? {
            bytes += blob?.metadata()?.len();
        }
        Ok(bytes)
    }

    /// Writes a listing for each content type. It is served with this scheme, and its blobs are below this URL.
    pub fn list(self, root: &Path, scheme: &str, url: &str) -> io::Result<()> {
        let listings = self.folder(root).join(format!("listings-{scheme}"));
        fs::create_dir_all(&listings)?;
        let created = Timestamp::now() - 2.hours();
        let expiration = created + (7 * 24).hours();
        for (first, content_type) in CONTENT_TYPES.into_iter().enumerate() {
            let mut list = String::from("[");
            for blob in (first..self.blobs).step_by(CONTENT_TYPES.len()) {
                let comma = if blob == first { "" } else { "," };
                let _ = write!(
                    list,
                    "{comma}{{\"contentType\":\"{content_type}\",\"contentId\":\"{blob:023}${blob:023}$audit_general$Audit_General${name}\",\
                     \"contentUri\":\"{url}/blobs/{blob}\",\"contentCreated\":\"{created:.3}\",\
                     \"contentExpiration\":\"{expiration:.3}\"}}",
                    name = self.name,
                );
            }
            list.push(']');
            fs::write(listings.join(format!("{content_type}.json")), list)?;
        }
        Ok(())
    }

    /// Returns a configuration of curl that downloads every blob from this URL, each to a file in this folder or else to
    /// `/dev/null`.
    pub fn curl_config(self, url: &str, folder: Option<&Path>) -> String {
        let mut config = String::new();
        for blob in 0..self.blobs {
            let to = folder
                .map_or_else(|| "/dev/null".to_owned(), |folder| format!("{}/{blob}", folder.display()));
            let _ = writeln!(config, "url = \"{url}/blobs/{blob}\"\noutput = \"{to}\"");
        }
        config
    }
}
