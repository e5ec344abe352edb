//! Shared with the kernel.
#![cfg_attr(not(feature = "user"), no_std)]
