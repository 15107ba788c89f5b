//! Rows of condition tables by name or number.

use varmint_core::Model;

/// What is wrong with a label, and what there is instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelError(String);

impl std::fmt::Display for LabelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LabelError {}

/// The row of table `table` that a name or a number means.
///
/// # Errors
/// [`LabelError`]: what there is instead; for a name, the five that look most like it.
pub fn find_label(model: &Model<'_>, table: usize, text: &str) -> Result<u32, LabelError> {
    let c = &model.shape.config;
    if table >= c.n_tables() {
        let has: Vec<&str> = (0..c.n_tables()).map(|t| model.table_name(t)).collect();
        let m = format!("`{text}`: this model has no such table, only {}", has.join(", "));
        return Err(LabelError(m));
    }
    let (rows, what) = (c.table(table).rows - 1, model.table_name(table));
    if let Ok(number) = text.parse::<u32>() {
        if number < rows {
            return Ok(number);
        }
        let m = format!("{what} {number} does not exist: the model has {what} 0 to {}", rows - 1);
        return Err(LabelError(m));
    }
    let wanted = text.to_lowercase();
    let names = (0..rows).filter_map(|r| Some((r, model.label(table, r as usize)?)));
    let mut near = Vec::new();
    for (row, name) in names {
        let lower = name.to_lowercase();
        if lower == wanted {
            return Ok(row);
        }
        // A whole word of the name counts for more than any likeness of letters.
        let word = if lower.split([' ', '-', ':']).any(|w| w == wanted) { 1.0 } else { 0.0 };
        near.push((strsim::jaro_winkler(&lower, &wanted) + word, name));
    }
    if near.is_empty() {
        let m = format!("this model has no names; give a {what} from 0 to {}", rows - 1);
        return Err(LabelError(m));
    }
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<&str> = near.iter().take(5).map(|(_, name)| *name).collect();
    let m = format!("no {what} is called `{text}`; did you mean: {}?", near.join(", "));
    Err(LabelError(m))
}
