//! What the proxy tells about itself: access log and counters. Knows what a finished exchange was,
//! not how it was carried out.

pub mod access_log;
pub mod counters;
