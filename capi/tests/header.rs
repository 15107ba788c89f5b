//! `include/varmint.h` is what cbindgen makes of the sources. To write it after a change on purpose:
//! `VARMINT_BLESS=1 cargo test -p varmint-capi --test header`.

#[test]
fn the_header_is_that_of_the_sources() {
    let root = env!("CARGO_MANIFEST_DIR");
    let config = cbindgen::Config::from_file(format!("{root}/cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    cbindgen::generate_with_config(root, config).unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = format!("{root}/include/varmint.h");
    if std::env::var_os("VARMINT_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(made == kept, "include/varmint.h is out of date: VARMINT_BLESS=1 writes it");
}
