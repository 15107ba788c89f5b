//! varmint.
