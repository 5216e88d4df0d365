//! The cost of a command and its children, measured with GNU time.

use std::{
    ffi::OsStr,
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

/// The cost of one run.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub wall_s: f64,
    /// The user and system time.
    pub cpu_s: f64,
    /// The peak memory of the largest process.
    pub peak_mb: f64,
}

impl Cost {
    /// Returns the cost of two commands, one after the other.
    pub fn followed_by(self, other: Self) -> Self {
        Self {
            wall_s: self.wall_s + other.wall_s,
            cpu_s: self.cpu_s + other.cpu_s,
            peak_mb: self.peak_mb.max(other.peak_mb),
        }
    }
}

/// Runs a command to its end and discards its output. The file system is synced before, so that the command does not pay for
/// the writes and deletions of earlier ones.
pub fn run(command: impl IntoIterator<Item = impl AsRef<OsStr>>, folder: &Path) -> io::Result<Cost> {
    Command::new("sync").arg("-f").arg(folder).status()?;
    let report = folder.join("time");
    let status = Command::new("/usr/bin/time")
        .args(["--quiet", "--format", "%e %U %S %M", "--output"])
        .arg(&report)
        .args(command)
        .env_remove("HTTPS_PROXY")
        .env_remove("https_proxy")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.join("errors"))?)
        .status()?;
    if !status.success() {
        let errors = fs::read_to_string(folder.join("errors")).unwrap_or_default();
        return Err(io::Error::other(format!("{status}: {errors}")));
    }
    let text = fs::read_to_string(report)?;
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [wall_s, user_s, system_s, peak_kb] = numbers[..] else {
        return Err(io::Error::other(format!("GNU time printed {text:?}")));
    };
    Ok(Cost { wall_s, cpu_s: user_s + system_s, peak_mb: peak_kb * 1024.0 / 1e6 })
}

/// Returns the median of each figure of several runs.
pub fn medians(costs: &[Cost]) -> Cost {
    let median = |figure: fn(&Cost) -> f64| {
        let mut figures: Vec<f64> = costs.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        if figures.len().is_multiple_of(2) {
            f64::midpoint(figures[middle - 1], figures[middle])
        } else {
            figures[middle]
        }
    };
    Cost {
        wall_s: median(|cost| cost.wall_s),
        cpu_s: median(|cost| cost.cpu_s),
        peak_mb: median(|cost| cost.peak_mb),
    }
}
