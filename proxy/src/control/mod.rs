//! control

pub mod enrol;
