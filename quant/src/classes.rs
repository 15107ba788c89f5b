//! Which rows of the first condition table a file has.

use std::collections::HashSet;

use crate::error::Error;

/// The rows of a table of `rows` that stay, the last one ("not given") always: those of `wanted`, in its order, or all
/// where nothing is said. An item is a number, a range (`0-9`) or one of `labels`.
///
/// # Errors
/// [`Error::Option`] for what is no row, and for a row that comes twice.
pub(crate) fn rows(wanted: &[String], rows: usize, labels: &[String]) -> Result<Vec<usize>, Error> {
    let named = rows.saturating_sub(1);
    if wanted.is_empty() {
        return Ok((0..rows).collect());
    }
    let mut found = Vec::new();
    for item in wanted {
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|&n| n < named);
        let range = item.split_once('-').and_then(|(a, b)| Some(number(a)?..=number(b)?));
        let label = labels.iter().position(|l| l.eq_ignore_ascii_case(item.trim()));
        match (number(item).or(label), range) {
            (Some(row), _) => found.push(row),
            (None, Some(range)) if !range.is_empty() => found.extend(range),
            _ => {
                let names = if labels.is_empty() { "" } else { ", or a name" };
                return Err(Error::Option(format!(
                    "--classes: `{item}` is no class; there are 0 to {}: write 7 or 0-9{names}",
                    named.saturating_sub(1)
                )));
            }
        }
    }
    let mut seen = HashSet::new();
    if let Some(row) = found.iter().find(|row| !seen.insert(**row)) {
        return Err(Error::Option(format!("--classes: class {row} comes twice")));
    }
    found.push(named);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::rows;

    fn of(wanted: &[&str]) -> Result<Vec<usize>, String> {
        let wanted: Vec<String> = wanted.iter().map(|&w| w.to_owned()).collect();
        rows(&wanted, 6, &["ant", "bee", "cat", "t-rex", "eel"].map(str::to_owned))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn numbers_ranges_and_names() {
        assert_eq!(of(&[]).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(of(&["4", "1-2", "T-Rex"]).unwrap(), [4, 1, 2, 3, 5]);
        for (wrong, said) in [("5", "`5`"), ("dog", "0 to 4"), ("2-1", "`2-1`"), ("1-9", "`1-9`")] {
            assert!(of(&[wrong]).unwrap_err().contains(said), "{wrong}");
        }
        assert!(of(&["0-3", "bee"]).unwrap_err().contains("class 1 comes twice"));
    }
}
