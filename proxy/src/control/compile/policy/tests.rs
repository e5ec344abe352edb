//! Precedence of rule, port and subset, and the defaults.
