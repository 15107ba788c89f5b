use std::io::Read;
fn main() -> anyhow::Result<()> {
    let elf = std::fs::read(std::env::args().nth(1).unwrap())?;
    let table = defmt_decoder::Table::parse(&elf)?.unwrap();
    let mut d = table.new_stream_decoder();
    let mut v = vec![];
    std::io::stdin().read_to_end(&mut v)?;
    d.received(&v);
    while let Ok(f) = d.decode() {
        println!("{}", f.display_message());
    }
    Ok(())
}
