//! Advice about configuration that is valid and yet not what its author is likely to mean: the
//! mistakes that guides and copied examples contain.
//!
//! Pure functions over one object; what needs the others too is in `compile`. The codes in
//! parentheses are those of `istioctl analyze`.

mod destinations;
mod order;
mod rules;

pub use destinations::destination_rule;
pub use rules::virtual_service;

#[cfg(test)]
mod tests;
