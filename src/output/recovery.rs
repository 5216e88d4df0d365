//! Records that an interrupted pass left in its output files.
//!
//! - Whole records after the committed length of a file stay, because another program may have read them already. They
//!   are **orphans**: their blobs are not known and will be collected again, and the output does not write these records
//!   a second time.
//! - The first line that is not a whole record is cut off, with all that follows. It is a line that the pass could not
//!   finish; or, after a power loss, a line whose pages reached the disk in part, as zero bytes. A follower can then read
//!   some records twice.
//! - The orphans may exist only in memory: after an fsync that failed, the system considers its pages written, and no
//!   later fsync writes them. So they are written again, in place, before anything relies on them.
//! - A row of a CSV file is identified by its Id, or else by its fields ([`csv`]). The header is not an orphan.
//! - A file that was renamed meanwhile is found in its folder by its inode. For a file that has shrunk or is gone, because
//!   it was rotated, it is unknown what was in it. The records of that last batch may be delivered twice, which is logged.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom},
};

use crate::{
    csv::{self, Columns},
    disk::{self, Position},
    records,
};

/// Finds the whole records after a committed position of an output file, and cuts off what follows them. Returns what
/// identifies each of them, as [`super::Output::key_in_files`] does. They are durable when this returns.
///
/// # Errors
///
/// The file cannot be read or written.
pub fn recover(position: &Position) -> io::Result<Vec<u128>> {
    let Some(mut file) = find_file(position)? else {
        log::warn!(
            "{} was rotated and cannot be found; the records of an interrupted pass may be delivered twice",
            position.path.display()
        );
        return Ok(Vec::new());
    };
    let length = file.metadata()?.len();
    if length < position.length {
        log::warn!(
            "{} was truncated by a rotation; the records of an interrupted pass may be delivered twice",
            position.path.display()
        );
        return Ok(Vec::new());
    }
    let is_csv = csv::is_csv(&position.path);
    // A header is not a row. It comes first, so that without a header there are no rows.
    let columns = if is_csv { Columns::read(&mut file)? } else { None };
    let mut end = columns.as_ref().map_or(0, |(_, header)| *header).max(position.length);
    file.seek(SeekFrom::Start(end))?;
    let mut reader = BufReader::new(&file);
    let (mut keys, mut line, mut is_damaged) = (Vec::new(), Vec::new(), false);
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        let Some(whole) = line.strip_suffix(b"\n") else { break };
        let key = std::str::from_utf8(whole).ok().and_then(|line| match &columns {
            Some((columns, _)) => columns.is_whole_row(line).then(|| columns.key_of_row(line)),
            None if is_csv => None,
            None => records::is_whole_line(whole).then(|| records::key_of_line(line)),
        });
        let Some(key) = key else {
            is_damaged = true;
            break;
        };
        keys.push(key);
        end += line.len() as u64;
    }
    if end < length {
        if is_damaged {
            log::warn!(
                "{} ends in {} bytes that are not whole records, as a power loss leaves them; they are removed, and \
                 their records are collected again",
                position.path.display(),
                length - end
            );
        }
        disk::truncate(&file, end)?;
    }
    disk::rewrite_range(&file, position.length..end)?;
    disk::sync(&file)?;
    Ok(keys)
}

/// Opens the file under its name or under another one in the same folder.
fn find_file(position: &Position) -> io::Result<Option<File>> {
    let siblings = fs::read_dir(disk::folder_of(&position.path)).into_iter().flatten();
    let siblings = siblings.filter_map(|entry| Some(entry.ok()?.path()));
    for path in std::iter::once(position.path.clone()).chain(siblings) {
        if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file() && position.is_of(&metadata)) {
            return OpenOptions::new().read(true).write(true).open(path).map(Some);
        }
    }
    Ok(None)
}
