use varmint_core::Ops; pub fn everything(_: impl Ops) {}
