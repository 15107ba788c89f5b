//! What the published models take of a GPU's memory, from their shapes alone: no GPU, no weights.
//!
//! cargo run --release -p varmint-cuda --example memory

use varmint_quant::numbers::Numbers;
use varmint_quant::published::{BOUNDARY, PUBLISHED};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "| model | numbers | weights, MB | arena, MB: all blocks | half of them from scale {BOUNDARY} |"
    );
    println!("|---|---|---|---|---|");
    for model in PUBLISHED {
        for (numbers, name) in [(Numbers::Int8, "int8"), (Numbers::Int4, "int4")] {
            let depth = model.shape().depth;
            // As `varmint_cuda::tier`: whole scales, both rows together, strips of many rows.
            let device = "tile=1024,strip=256,rows=together,scratch=0";
            let tiers = [
                format!("full:{device}"),
                format!("balanced:blocks={}@{BOUNDARY},{device}", depth / 2),
            ];
            let needs = model.needs(numbers, &tiers)?;
            let mb = |bytes: f64| format!("{:.0}", bytes / 1e6);
            let arenas: Vec<String> = needs.plans.iter().map(|p| mb(p.bytes() as f64)).collect();
            // The first plan is the file's own full tier, for a CPU.
            let arenas = &arenas[arenas.len() - 2..];
            println!(
                "| {} | {name} | {} | {} | {} |",
                model.name,
                mb(needs.file_bytes as f64),
                arenas[0],
                arenas[1]
            );
        }
    }
    Ok(())
}
