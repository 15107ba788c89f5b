//! `memory-budgets.toml` and the README's table are exact: every number is recomputed from the models.
//!
//! When a change moves a number on purpose, the failure prints the row to write.

use serde::Deserialize;
use varmint::{ModelFile, Plan};

#[derive(Deserialize)]
struct Budgets {
    board: std::collections::BTreeMap<String, Board>,
    fit: Vec<Fit>,
}

#[derive(Deserialize)]
struct Board {
    /// Bytes that an arena may have.
    ram: usize,
    /// Bytes that a model may have.
    flash: usize,
}

#[derive(Deserialize, Clone, PartialEq, Debug)]
struct Fit {
    model: String,
    tier: String,
    board: String,
    arena: usize,
    floor: usize,
    weights: usize,
    max_step_macs: u64,
    total_macs: u64,
}

fn computed(fit: &Fit) -> Fit {
    let file = ModelFile::open(&fit.model).unwrap_or_else(|e| panic!("{}: {e}", fit.model));
    let model = file.model().unwrap_or_else(|e| panic!("{}: {e}", fit.model));
    let plan = Plan::new(&model.shape, &model.tier(&fit.tier).unwrap()).unwrap();
    plan.verify().unwrap();
    Fit {
        arena: plan.bytes(),
        floor: plan.floor(),
        weights: model.file_bytes(),
        max_step_macs: plan.max_step_macs(),
        total_macs: plan.total_macs(),
        ..fit.clone()
    }
}

fn row(f: &Fit) -> String {
    format!(
        "| `{}` | `{}` | {} | {} | {} |",
        f.model.trim_start_matches("fixtures/"),
        f.tier,
        f.weights,
        f.arena,
        f.total_macs / 1_000_000,
    )
}

#[test]
fn budgets_are_exact_and_fit_their_boards() {
    let text = std::fs::read_to_string("memory-budgets.toml").unwrap();
    let budgets: Budgets = toml::from_str(&text).unwrap();
    let readme = std::fs::read_to_string("README.md").unwrap();
    let mut wrong = Vec::new();
    for fit in &budgets.fit {
        let real = computed(fit);
        if real != *fit {
            wrong.push(format!("memory-budgets.toml, expected {real:#?}"));
        }
        let board = &budgets.board[&fit.board];
        if real.arena > board.ram || real.weights > board.flash {
            wrong.push(format!("{} {} does not fit {}", fit.model, fit.tier, fit.board));
        }
        if !readme.contains(&row(&real)) {
            wrong.push(format!("README.md has no row\n{}", row(&real)));
        }
    }
    assert!(!budgets.fit.is_empty() && wrong.is_empty(), "{}", wrong.join("\n"));
}
