//! mana-sync
