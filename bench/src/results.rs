//! `RESULTS.md`: tables that a run replaces, and prose that it leaves alone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Why a table could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} has no place for {section:?}: write the lines {begin:?} and {end:?}")]
    NoPlace {
        path: PathBuf,
        section: String,
        begin: String,
        end: String,
    },
}

/// Puts what was measured between the section's two marks.
pub fn write(path: &Path, section: &str, measured: &str) -> Result<(), ResultsError> {
    let file = |source| ResultsError::File {
        path: path.to_owned(),
        source,
    };
    let old = std::fs::read_to_string(path).map_err(file)?;
    let new = replace(&old, section, measured).ok_or_else(|| {
        let (begin, end) = marks(section);
        ResultsError::NoPlace {
            path: path.to_owned(),
            section: section.to_owned(),
            begin,
            end,
        }
    })?;
    std::fs::write(path, new).map_err(file)
}

fn marks(section: &str) -> (String, String) {
    (
        format!("<!-- begin {section} -->"),
        format!("<!-- end {section} -->"),
    )
}

fn replace(text: &str, section: &str, measured: &str) -> Option<String> {
    let (begin, end) = marks(section);
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!(
        "{before}{begin}\n{}\n{end}{after}",
        measured.trim_end()
    ))
}

/// A table of Markdown.
pub fn table<const COLUMNS: usize>(header: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), "---|".repeat(COLUMNS));
    for row in rows {
        // Writing into a String does not fail.
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_and_prose_stays() {
        let old =
            "# R\n<!-- begin a -->\nold\n<!-- end a -->\nwhy\n<!-- begin b -->\n<!-- end b -->\n";
        let new = replace(old, "a", "new\n\n").unwrap();
        assert_eq!(
            new,
            "# R\n<!-- begin a -->\nnew\n<!-- end a -->\nwhy\n<!-- begin b -->\n<!-- end b -->\n"
        );
        assert_eq!(replace(old, "c", "new"), None);
    }

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let rows = [["1".to_owned(), "2".to_owned()]];
        assert_eq!(
            table(["x", "y"], &rows),
            "| x | y |\n|---|---|\n| 1 | 2 |\n"
        );
    }
}
